//! Ends, from either side.

use super::*;

#[tokio::test]
async fn the_end_of_either_stream_or_of_the_session_is_the_end() {
    let gateway = Gateway::new();
    for case in 0..4 {
        let (mut transport, client, mut signal, mut bulk) = gateway.greet().await;
        match case {
            0 => signal.0.finish().unwrap(),
            1 => bulk.0.reset(7).unwrap(),
            2 => client.session.close(0, b""),
            _ => client.endpoint.close(VarInt::from_u32(0), b""),
        }
        assert_eq!(message(&mut transport).await.unwrap_err(), TransportEnd::Closed, "{case}");
    }
    // An end is noticed by one who may not read, too.
    let (mut transport, client, _signal, _bulk) = gateway.greet().await;
    client.session.close(1, b"bye");
    let none = Intake { signal: false, bulk: false };
    let end = soon(poll_fn(|cx| transport.poll_recv(cx, none))).await;
    assert_eq!(end.unwrap_err(), TransportEnd::Closed);
}

/// The other client takes the end of a connection for its own doing; this one tells the code.
async fn greet_by_wtransport(gateway: &Gateway) -> (WebTransport, wtransport::Connection, Streams) {
    let crypto = QuicClientConfig::try_from(gateway.identity.client(b"h3")).unwrap();
    let config = wtransport::ClientConfig::builder()
        .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .build_with_quic_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let endpoint = wtransport::Endpoint::client(config).unwrap();
    let url = format!("https://localhost:{}/v1/wt", gateway.endpoint.local_addr().unwrap().port());
    let dial = async { endpoint.connect(url).await.unwrap() };
    let (accepted, session) = soon(async { tokio::join!(gateway.accept(), dial) }).await;
    let mut stream = session.open_bi().await.unwrap().await.unwrap();
    stream.0.write_all(&frame(HELLO).prefixed()).await.unwrap();
    let mut transport = accepted.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    (transport, session, stream)
}

type Streams = (wtransport::SendStream, wtransport::RecvStream);

async fn assert_closed(session: &wtransport::Connection, code: CloseCode) {
    match soon(session.closed()).await {
        wtransport::error::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.code().into_inner(), u64::from(code.number()));
            assert_eq!(close.reason(), code.name().as_bytes());
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_close_code_arrives_behind_the_last_message() {
    let gateway = Gateway::new();
    let (mut transport, session, mut signal) = greet_by_wtransport(&gateway).await;
    send(&mut transport, Lane::Signal, &[b's'; 30_000]).await;
    let grace = Duration::from_secs(3_600);
    let close = transport.close(Some(frame(b"last")), CloseCode::Replaced, grace);
    let client = async {
        let sent = [frame(&[b's'; 30_000]).prefixed(), frame(b"last").prefixed()].concat();
        let mut got = vec![0; sent.len()];
        signal.1.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        // What a client does that has read it.
        signal.0.finish().await.unwrap();
        assert_closed(&session, CloseCode::Replaced).await;
    };
    soon(async { tokio::join!(close, client) }).await;
}

#[tokio::test]
async fn a_peer_that_does_not_react_is_closed_when_the_grace_is_over() {
    let gateway = Gateway::new();
    let (transport, session, _signal) = greet_by_wtransport(&gateway).await;
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::Draining, Duration::from_millis(20))).await;
    assert_closed(&session, CloseCode::Draining).await;
}

#[tokio::test]
async fn a_peer_that_stops_listening_is_not_waited_for() {
    let gateway = Gateway::new();
    let (transport, session, signal) = greet_by_wtransport(&gateway).await;
    signal.1.stop(wtransport::VarInt::from_u32(0));
    // Heard before the end: after it, the stream would be done with as delivered.
    soon(async {
        while transport.quic().stats().frame_rx.stop_sending == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::Kicked, Duration::from_secs(3_600))).await;
    assert_closed(&session, CloseCode::Kicked).await;
}

#[tokio::test]
async fn without_a_signal_stream_there_is_nothing_to_wait_for() {
    let gateway = Gateway::new();
    let (transport, client) = gateway.meet("/v1/wt").await;
    let last = Some(frame(b"last"));
    soon(transport.close(last, CloseCode::HelloTimeout, Duration::from_secs(3_600))).await;
    soon(client.session.closed()).await;
}

/// A client whose process is gone says nothing any more, not even goodbye.
#[test]
fn a_silent_peer_is_noticed() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let settings = Settings { heartbeat: Duration::from_millis(100), ..SETTINGS };
    let gateway = {
        let _entered = ours.enter();
        Gateway::with(Gate::new(GateLimits::of(10, 10), Time::ZERO, |_| true), settings)
    };
    let (mut transport, client) = std::thread::scope(|scope| {
        let dial = gateway.dial(gateway.request("/v1/wt"), 1 << 20);
        let client = scope.spawn(|| theirs.block_on(soon(dial)));
        let transport = ours.block_on(soon(gateway.accept())).unwrap();
        (transport, client.join().unwrap())
    });
    // What would have sent anything ends with its runtime.
    drop(theirs);
    let end = ours.block_on(soon(poll_fn(|cx| transport.poll_recv(cx, ALL)))).unwrap_err();
    assert_eq!(end, TransportEnd::Idle);
    drop(client);
}
