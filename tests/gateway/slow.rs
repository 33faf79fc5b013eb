//! Those who take their time: each is cut, wherever it stands.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::raw::{HELLO, frame, hears, tcp, text, upgrade};
use super::setup::{any_certificate, dial_webtransport, over_tls, over_tls_from, soon};
use super::siege::Besieged;

/// Says the bytes one by one, and then nothing, until it is cut; what it was told meanwhile.
async fn drip(
    mut recv: impl AsyncRead + Unpin,
    mut send: impl AsyncWrite + Unpin,
    bytes: &[u8],
) -> String {
    let mut bytes = bytes.iter();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut said = Vec::new();
    soon(async {
        let mut chunk = [0; 4_096];
        loop {
            tokio::select! {
                // A reset is an end too.
                read = recv.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(size) => said.extend_from_slice(&chunk[..size]),
                },
                _ = pace.tick(), if bytes.len() > 0 => {
                    let byte = bytes.next().unwrap();
                    if send.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    let _ = send.flush().await;
                }
            }
        }
    })
    .await;
    String::from_utf8_lossy(&said).into_owned()
}

async fn served() -> Besieged {
    Besieged::start(&["hello_timeout_ms=2000"]).await
}

#[tokio::test]
async fn a_handshake_of_tls() {
    let served = served().await;
    // A record of 16,000 bytes, of which the first few come.
    let mut hello = vec![0x16, 3, 1, 0x3e, 0x80, 1, 0, 0x3e, 0x7c, 3, 3];
    hello.resize(2_000, 7);
    let cases = [&hello[..], &hello[..3], &[]];
    let drips = cases.map(|bytes| async {
        let (recv, send) = tcp(served.secure()).await.into_split();
        drip(recv, send, bytes).await
    });
    let [all, some, none] = drips;
    let said = tokio::join!(all, some, none);
    assert_eq!(said, Default::default(), "something was said before the handshake");
    served.is_well().await;
}

#[tokio::test]
async fn a_request() {
    let served = served().await;
    let mut endless = b"GET /healthz HTTP/1.1\r\n".to_vec();
    endless.extend(b"x: y\r\n".repeat(1_000));
    let whole = upgrade(served.plain());
    let almost = &whole[..whole.len() - 2];
    let cases = [&b"GET /very-slowly"[..], &endless, &b""[..], almost];
    for encrypted in [false, true] {
        let drips = cases.map(|bytes| {
            let served = &served;
            async move {
                if encrypted {
                    let (recv, send) = tokio::io::split(over_tls(served.secure()).await);
                    drip(recv, send, bytes).await
                } else {
                    let (recv, send) = tcp(served.plain()).await.into_split();
                    drip(recv, send, bytes).await
                }
            }
        });
        let [first, second, third, fourth] = drips;
        let said = <[String; 4]>::from(tokio::join!(first, second, third, fourth));
        for said in said {
            assert!(!said.contains("200 OK") && !said.contains("101"), "{said}");
        }
    }
    served.is_well().await;
}

#[tokio::test]
async fn a_greeting() {
    let served = served().await;
    let mut endless = text(HELLO);
    endless.splice(0..2, [0x81, 0xfe, 0x40, 0x00]);
    endless.resize(2_000, b' ');
    for encrypted in [false, true] {
        let to = if encrypted { served.secure() } else { served.plain() };
        let said = if encrypted {
            let mut io = over_tls(to).await;
            io.write_all(&upgrade(to)).await.unwrap();
            hears(&mut io, "101").await;
            let (recv, send) = tokio::io::split(io);
            drip(recv, send, &endless).await
        } else {
            let mut io = tcp(to).await;
            io.write_all(&upgrade(to)).await.unwrap();
            hears(&mut io, "101").await;
            let (recv, send) = io.into_split();
            drip(recv, send, &endless).await
        };
        assert!(said.contains("4503"), "{said}");
    }
    // On a stream nobody is told before there is a session; on none at all there is nothing to say.
    let mut endless = frame(HELLO);
    endless.splice(0..1, [0x80, 0, 0x40, 0]);
    endless.resize(2_000, b' ');
    let (_endpoint, session) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
    let (_second, silent) = dial_webtransport(Ipv4Addr::LOCALHOST, served.secure()).await;
    let (send, recv) = soon(session.open_bi()).await.unwrap();
    assert_eq!(drip(recv, send, &endless).await, "");
    for session in [session, silent] {
        soon(session.closed()).await;
    }
    served.is_well().await;
}

#[tokio::test]
async fn more_handshakes_than_allowed_prove_their_address_and_are_turned_away_or_wait() {
    let served = Besieged::start(&["limits.handshakes_per_s=2"]).await;
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut refused = 0;
    for _ in 0..40 {
        let dial = endpoint.connect_with(any_certificate(), served.secure(), "localhost").unwrap();
        match soon(dial).await {
            Ok(connection) => connection.close(0_u32.into(), b""),
            Err(error) => {
                assert!(format!("{error:?}").contains("CONNECTION_REFUSED"), "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "40 handshakes in less than 19 seconds");
    // Those by TLS wait for their turn, and each gets it. QUIC has used up none of theirs.
    let [first, second, third, fourth] =
        [1, 2, 3, 4].map(|last| over_tls_from(Ipv4Addr::new(127, 0, 2, last), served.secure()));
    tokio::join!(first, second, third, fourth);
    // Who behaves waits for a turn as well.
    served.serves().await;
    served.has_given_back().await;
}
