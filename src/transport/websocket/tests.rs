//! The transport against tungstenite's client, on loopback.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use handover_protocol::wire::{CloseCode, Codec, Lane};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::super::testkit::{SETTINGS, frame, message, recv, soon};
use super::super::{Inbound, Intake, Settings, Transport, TransportEnd};
use super::WebSocket;
use crate::clock::Clock;

type Client = WebSocketStream<TcpStream>;
const LONG: Duration = Duration::from_secs(3_600);

async fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, dialed) = tokio::join!(listener.accept(), dial);
    (accepted.unwrap().0, dialed.unwrap())
}

async fn serve(io: TcpStream, codec: Codec, settings: Settings) -> WebSocket<TcpStream> {
    let remote = io.peer_addr().unwrap();
    WebSocket::new(io, Bytes::new(), codec, remote, settings, Clock::start()).await
}

async fn meet_with(codec: Codec, settings: Settings) -> (WebSocket<TcpStream>, Client) {
    let (accepted, dialed) = streams().await;
    let client = WebSocketStream::from_raw_socket(dialed, Role::Client, None).await;
    (serve(accepted, codec, settings).await, client)
}

async fn meet(codec: Codec) -> (WebSocket<TcpStream>, Client) {
    meet_with(codec, SETTINGS).await
}

async fn send(transport: &mut WebSocket<TcpStream>, payload: &[u8]) {
    soon(poll_fn(|cx| transport.poll_ready(cx, Lane::Signal))).await.unwrap();
    transport.start_send(Lane::Signal, frame(payload)).unwrap();
    soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
}

async fn next(client: &mut Client) -> Message {
    soon(client.next()).await.unwrap().unwrap()
}

/// The code and reason of the close frame, behind whatever else comes.
async fn closed(client: &mut Client) -> (u16, String) {
    loop {
        if let Message::Close(close) = next(client).await {
            let close = close.unwrap();
            return (close.code.into(), close.reason.to_string());
        }
    }
}

fn code_of(end: TransportEnd) -> CloseCode {
    match end {
        TransportEnd::Violation { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_message_is_one_message() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    assert!(transport.is_complete());
    client.send(Message::text("{}")).await.unwrap();
    let arrived = recv(&mut transport).await.unwrap();
    assert!(matches!(arrived, Inbound::Frame { lane: Lane::Signal, payload } if payload == "{}"));
    send(&mut transport, b"[1]").await;
    assert_eq!(next(&mut client).await, Message::text("[1]"));

    let (mut transport, mut client) = meet(Codec::Bincode).await;
    client.send(Message::binary(vec![0, 255])).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), &[0, 255][..]);
    send(&mut transport, &[255, 0]).await;
    assert_eq!(next(&mut client).await, Message::binary(vec![255, 0]));
}

#[tokio::test]
async fn what_http_has_read_too_far_is_not_lost() {
    let (accepted, mut dialed) = streams().await;
    let remote = accepted.peer_addr().unwrap();
    // A masked text frame (RFC 6455, section 5.7), cut in the middle.
    let wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let ahead = Bytes::copy_from_slice(&wire[..5]);
    let clock = Clock::start();
    let mut transport = WebSocket::new(accepted, ahead, Codec::Json, remote, SETTINGS, clock).await;
    dialed.write_all(&wire[5..]).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), "Hello");
}

#[tokio::test]
async fn the_other_kind_of_message_is_a_protocol_error() {
    for (codec, wrong) in
        [(Codec::Json, Message::binary(b"{}".to_vec())), (Codec::Bincode, Message::text("x"))]
    {
        let (mut transport, mut client) = meet(codec).await;
        client.send(wrong).await.unwrap();
        let end = message(&mut transport).await.unwrap_err();
        assert_eq!(code_of(end), CloseCode::ProtocolError);
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_and_frames_without_a_mask_are_protocol_errors() {
    let invalid = [0x81, 0x81, 0, 0, 0, 0, 0xff];
    let unmasked = [0x81, 0x02, b'{', b'}'];
    for wire in [&invalid[..], &unmasked] {
        let (accepted, mut dialed) = streams().await;
        let mut transport = serve(accepted, Codec::Json, SETTINGS).await;
        dialed.write_all(wire).await.unwrap();
        let end = message(&mut transport).await.unwrap_err();
        assert_eq!(code_of(end), CloseCode::ProtocolError);
    }
}

#[tokio::test]
async fn a_peer_that_sends_too_much_is_told_while_it_still_sends() {
    for (greeted, limit) in [(false, 40_960), (true, SETTINGS.message_bytes)] {
        tells_while_more_comes(greeted, limit).await;
    }
}

async fn tells_while_more_comes(greeted: bool, limit: usize) {
    let (mut transport, mut client) = meet(Codec::Json).await;
    if greeted {
        transport.greeted();
    }
    // More than once: what was whole does not count.
    for _ in 0..3 {
        client.send(Message::text("x".repeat(limit))).await.unwrap();
        assert_eq!(message(&mut transport).await.unwrap().len(), limit);
    }

    let (mut sink, mut stream) = client.split();
    let sending = tokio::spawn(async move { sink.send(Message::text("x".repeat(8 << 20))).await });
    let end = message(&mut transport).await.unwrap_err();
    assert_eq!(code_of(end), CloseCode::MessageTooLarge);
    let close = transport.close(Some(frame(b"last")), CloseCode::MessageTooLarge, LONG);
    let client = async {
        assert_eq!(stream.next().await.unwrap().unwrap(), Message::text("last"));
        let Message::Close(Some(close)) = stream.next().await.unwrap().unwrap() else { panic!() };
        assert_eq!(u16::from(close.code), CloseCode::MessageTooLarge.number());
        let _ = sending.await.unwrap();
        drop(stream);
    };
    soon(async { tokio::join!(close, client) }).await;
}

/// Whatever is announced, and whatever else comes in between.
#[tokio::test]
async fn who_is_not_greeted_may_not_say_much() {
    let settings = Settings { message_bytes: 1 << 20, ..SETTINGS };
    let (mut transport, mut client) = meet_with(Codec::Json, settings).await;
    client.send(Message::text("x".repeat(40_961))).await.unwrap();
    assert_eq!(code_of(message(&mut transport).await.unwrap_err()), CloseCode::MessageTooLarge);

    // Half of what it announces, which is more than may be kept of it.
    let (accepted, mut dialed) = streams().await;
    let mut transport = serve(accepted, Codec::Json, settings).await;
    let mut half = vec![0x81, 0xff, 0, 0, 0, 0, 0, 0x0c, 0, 0, 1, 2, 3, 4];
    half.resize(400_000, b'x');
    let (_, end) = soon(async {
        tokio::join!(dialed.write_all(&half), async {
            let end = message(&mut transport).await.unwrap_err();
            (end, drop(transport)).0
        })
    })
    .await;
    assert_eq!(code_of(end), CloseCode::MessageTooLarge);

    let (mut transport, mut client) = meet_with(Codec::Json, settings).await;
    let sender = async {
        for nth in 0..100 {
            let data = if nth == 0 { Data::Text } else { Data::Continue };
            let fragment = Frame::message(vec![b'x'; 1_000], OpCode::Data(data), false);
            if client.send(Message::Frame(fragment)).await.is_err()
                || client.send(Message::Ping(Bytes::from_static(&[0; 125]))).await.is_err()
            {
                break;
            }
        }
    };
    let receiver = async {
        loop {
            match recv(&mut transport).await {
                Ok(Inbound::Alive) => {}
                other => break other.map(|_| ()),
            }
        }
    };
    let ((), end) = soon(async { tokio::join!(sender, receiver) }).await;
    assert_eq!(code_of(end.unwrap_err()), CloseCode::MessageTooLarge);

    // Pings alone are none of that: they are whole.
    let (mut transport, mut client) = meet_with(Codec::Json, settings).await;
    for _ in 0..1_000 {
        client.send(Message::Ping(Bytes::from_static(&[0; 125]))).await.unwrap();
        assert!(matches!(recv(&mut transport).await.unwrap(), Inbound::Alive));
        // The answers have to go somewhere.
        soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
        assert!(matches!(next(&mut client).await, Message::Pong(_)));
    }
    client.send(Message::text("x".repeat(40_960))).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap().len(), 40_960);
}

#[tokio::test]
async fn fragments_count_together() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    transport.greeted();
    let half = vec![b'x'; SETTINGS.message_bytes / 2 + 1];
    for data in [Data::Text, Data::Continue] {
        let fragment = Frame::message(half.clone(), OpCode::Data(data), false);
        client.send(Message::Frame(fragment)).await.unwrap();
    }
    let end = message(&mut transport).await.unwrap_err();
    assert_eq!(code_of(end), CloseCode::MessageTooLarge);
}

#[tokio::test]
async fn the_close_frame_comes_behind_the_last_message() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    send(&mut transport, b"before").await;
    let close = transport.close(Some(frame(b"last")), CloseCode::Kicked, LONG);
    let client = async {
        assert_eq!(next(&mut client).await, Message::text("before"));
        assert_eq!(next(&mut client).await, Message::text("last"));
        assert_eq!(closed(&mut client).await, (4505, "kicked".to_owned()));
        assert!(client.next().await.is_none(), "the gateway closes the stream");
        drop(client);
    };
    soon(async { tokio::join!(close, client) }).await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_cut_when_the_grace_is_over() {
    let (transport, mut client) = meet(Codec::Json).await;
    soon(transport.close(None, CloseCode::Draining, Duration::from_millis(20))).await;
    assert_eq!(closed(&mut client).await, (4000, "draining".to_owned()));
}

#[tokio::test]
async fn an_orderly_end_is_told_from_a_loss() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    client.close(None).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap_err(), TransportEnd::Closed);
    assert!(matches!(next(&mut client).await, Message::Close(_)), "answered");

    let (mut transport, client) = meet(Codec::Json).await;
    drop(client);
    assert!(matches!(message(&mut transport).await.unwrap_err(), TransportEnd::Lost(_)));
}

#[tokio::test]
async fn a_ping_measures_the_path() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    assert_eq!(transport.path().rtt, None);
    transport.keep_alive();
    soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
    assert!(matches!(next(&mut client).await, Message::Ping(_)));
    client.flush().await.unwrap();
    assert!(matches!(recv(&mut transport).await.unwrap(), Inbound::Alive));
    let rtt = transport.path().rtt;
    assert!(rtt.is_some());

    // Only what was asked for counts.
    client.send(Message::Pong(Bytes::from_static(b"12345678"))).await.unwrap();
    assert!(matches!(recv(&mut transport).await.unwrap(), Inbound::Alive));
    assert_eq!(transport.path().rtt, rtt);
}

#[tokio::test]
async fn a_ping_of_the_peers_is_answered() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    client.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert!(matches!(recv(&mut transport).await.unwrap(), Inbound::Alive));
    soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
    assert_eq!(next(&mut client).await, Message::Pong(Bytes::from_static(b"there?")));
}

#[tokio::test]
async fn silence_ends_it() {
    let settings = Settings { heartbeat: Duration::from_millis(20), ..SETTINGS };
    let (mut transport, mut client) = meet_with(Codec::Json, settings).await;
    client.send(Message::text("once")).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), "once");
    assert_eq!(message(&mut transport).await.unwrap_err(), TransportEnd::Idle);
}

#[tokio::test]
async fn it_is_read_only_if_both_lanes_may_be() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    client.send(Message::text("first")).await.unwrap();
    client.send(Message::text("second")).await.unwrap();
    assert_eq!(message(&mut transport).await.unwrap(), "first");
    for intake in [Intake { signal: true, bulk: false }, Intake { signal: false, bulk: true }] {
        let polled = poll_fn(|cx| Poll::Ready(transport.poll_recv(cx, intake))).await;
        assert!(polled.is_pending());
    }
    assert_eq!(message(&mut transport).await.unwrap(), "second");
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_written_for() {
    let (mut transport, mut client) = meet(Codec::Json).await;
    let payload = vec![b'x'; 60_000];
    let mut sent = 0;
    while poll_fn(|cx| Poll::Ready(transport.poll_ready(cx, Lane::Bulk))).await.is_ready() {
        transport.start_send(Lane::Bulk, frame(&payload)).unwrap();
        sent += 1;
        // As much as the system takes: what it holds back is what must stop us.
        tokio::task::yield_now().await;
    }
    transport.keep_alive();
    let flush = poll_fn(|cx| transport.poll_flush(cx));
    let reader = async {
        for _ in 0..sent {
            assert_eq!(next(&mut client).await.len(), payload.len());
        }
        assert!(matches!(next(&mut client).await, Message::Ping(_)));
    };
    let (flushed, ()) = soon(async { tokio::join!(flush, reader) }).await;
    flushed.unwrap();
}
