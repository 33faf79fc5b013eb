//! What streams and datagrams carry, and which of them.

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn streams_are_known_by_their_first_frame_in_either_order() {
    let gateway = Gateway::new();
    for bulk_first in [true, false] {
        let (mut transport, client) = gateway.meet("/v1/wt").await;
        assert!(!transport.is_complete());
        let (mut signal, mut bulk) = if bulk_first {
            let bulk = client.open(BULK).await;
            (client.open(HELLO).await, bulk)
        } else {
            let signal = client.open(HELLO).await;
            (signal, client.open(BULK).await)
        };
        assert_eq!(message(&mut transport).await.unwrap(), HELLO);
        complete(&mut transport).await;
        transport.greeted();

        write(&mut signal.0, PING).await;
        let arrived = recv(&mut transport).await.unwrap();
        assert!(
            matches!(arrived, Inbound::Frame { lane: Lane::Signal, payload } if payload == PING)
        );
        write(&mut bulk.0, &[b'b'; 65_536]).await;
        let arrived = recv(&mut transport).await.unwrap();
        assert!(
            matches!(arrived, Inbound::Frame { lane: Lane::Bulk, payload } if payload.len() == 65_536)
        );

        send(&mut transport, Lane::Signal, b"to signal").await;
        send(&mut transport, Lane::Bulk, b"to bulk").await;
        soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
        assert_eq!(read(&mut signal.1, 9).await, "to signal");
        assert_eq!(read(&mut bulk.1, 7).await, "to bulk");

        let path = transport.path();
        assert!(path.rtt.is_some() && path.packets_sent > 0);
        assert_eq!(path.remote, client.endpoint.local_addr().unwrap());
    }
}

#[tokio::test]
async fn any_other_first_frame_is_a_protocol_error() {
    let gateway = Gateway::new();
    for first in [PING, b"nonsense", b"", br#"{"type":"lane","lane":"signal"}"#] {
        let (mut transport, client) = gateway.meet("/v1/wt").await;
        let _stream = client.open(first).await;
        assert_eq!(violation(&mut transport).await, CloseCode::ProtocolError, "{first:?}");
    }
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let _first = client.open(HELLO).await;
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    let _second = client.open(HELLO).await;
    assert_eq!(violation(&mut transport).await, CloseCode::ProtocolError);
}

#[tokio::test]
async fn a_greeting_with_a_fault_is_for_the_session() {
    let gateway = Gateway::new();
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let faulty = br#"{"type":"hello","version":"one"}"#;
    let _stream = client.open(faulty).await;
    let arrived = recv(&mut transport).await.unwrap();
    assert!(
        matches!(arrived, Inbound::Frame { lane: Lane::Signal, payload } if payload == faulty[..])
    );
}

#[tokio::test]
async fn other_streams_are_refused_and_change_nothing() {
    let gateway = Gateway::new();
    let (mut transport, client, mut signal, _bulk) = gateway.greet().await;
    // More of them than there is credit for at once: every refusal gives some back.
    let others = async {
        for _ in 0..8 {
            let mut stream = client.session.open_bi().await.unwrap();
            let _ = stream.0.write_all(&frame(HELLO).prefixed()).await;
            let mut rest = [0; 1];
            assert!(stream.1.read(&mut rest).await.is_err(), "reset");
            let mut uni = client.session.open_uni().await.unwrap();
            while uni.write_all(&[0; 1_000]).await.is_ok() {}
        }
        write(&mut signal.0, PING).await;
    };
    let (arrived, ()) = soon(async { tokio::join!(message(&mut transport), others) }).await;
    assert_eq!(arrived.unwrap(), PING);
    send(&mut transport, Lane::Signal, b"on").await;
    soon(poll_fn(|cx| transport.poll_flush(cx))).await.unwrap();
    assert_eq!(read(&mut signal.1, 2).await, "on");
}

/// Nobody is told of what belongs to another session, which does not exist.
#[tokio::test]
async fn what_gets_nowhere_is_noticed_by_what_is_missing() {
    let gateway = Gateway::new();
    let (mut transport, client, mut signal, _bulk) = gateway.greet().await;
    let honest = async {
        for _ in 0..2_000 {
            write(&mut signal.0, PING).await;
        }
    };
    let hears = async {
        for _ in 0..2_000 {
            message(&mut transport).await.unwrap();
        }
    };
    tokio::join!(honest, hears);
    transport.look_back();
    assert!(transport.is_orderly());
    let quic: &quinn::Connection = &client.session;
    // A quarter of the session's id comes first.
    let strange = Bytes::from_static(b"\x3fof another session");
    soon(async {
        while transport.is_orderly() {
            let sending = async {
                for _ in 0..2_000 {
                    quic.send_datagram_wait(strange.clone()).await.unwrap();
                }
            };
            tokio::select! {
                () = sending => {}
                arrived = recv(&mut transport) => panic!("{arrived:?}"),
            }
            transport.look_back();
        }
    })
    .await;
    // It is served all the same.
    write(&mut signal.0, PING).await;
    assert_eq!(message(&mut transport).await.unwrap(), PING);
}

#[tokio::test]
async fn a_client_has_so_many_streams_open() {
    for streams in [4, 6] {
        let gate = Gate::new(GateLimits::of(10, 10), Time::ZERO, |_| true);
        let gateway = Gateway::with(gate, Settings { streams, ..SETTINGS });
        // Nobody looks at it, so none is refused and none comes back.
        let (_transport, client) = gateway.meet("/v1/wt").await;
        let mut open = Vec::new();
        for _ in 1..streams {
            open.push(soon(client.session.open_bi()).await.unwrap());
        }
        assert!(client.session.open_bi().now_or_never().is_none(), "beside CONNECT");
    }
}

#[tokio::test]
async fn streams_that_stay_silent_or_end_early_are_let_be() {
    let gateway = Gateway::new();
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut silent = client.session.open_bi().await.unwrap();
    let mut ended = client.session.open_bi().await.unwrap();
    ended.0.finish().unwrap();
    let _signal = client.open(HELLO).await;
    assert_eq!(message(&mut transport).await.unwrap(), HELLO);
    let opening = client.open(BULK);
    let (_bulk, ()) = soon(async { tokio::join!(opening, complete(&mut transport)) }).await;
    assert!(soon(silent.1.read(&mut [0; 1])).await.is_err(), "refused in the end");
}

#[tokio::test]
async fn a_frame_too_long_is_refused_by_its_prefix() {
    let gateway = Gateway::new();
    let (mut transport, _client, mut signal, _bulk) = gateway.greet().await;
    let prefix = [0x80, 0x01, 0x00, 0x01];
    signal.0.write_all(&prefix).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);

    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut first = client.session.open_bi().await.unwrap();
    first.0.write_all(&prefix).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
}

#[tokio::test]
async fn who_is_not_greeted_may_not_say_much() {
    let gateway = Gateway::new();
    let begun = |bytes: usize| frame(&vec![b'x'; 40_000]).prefixed().slice(..bytes);
    // As long as a `hello` may be, on whichever streams.
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut streams = Vec::new();
    for bytes in [20_000, 20_900, 60] {
        let mut stream = client.session.open_bi().await.unwrap();
        stream.0.write_all(&begun(bytes)).await.unwrap();
        streams.push(stream);
    }
    let mut all = [0; 3];
    soon(poll_fn(|cx| {
        assert!(transport.poll_recv(cx, ALL).is_pending());
        let held = transport.unclassified.iter().map(|(_, receiver)| receiver.held());
        all.iter_mut().zip(held).for_each(|(all, held)| *all = held);
        if all.iter().sum::<usize>() == 40_960 { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    streams[2].0.write_all(b"x").await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
    // Also where a stream is known to be the one for bulk.
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut bulk = client.open(BULK).await;
    soon(poll_fn(|cx| transport.poll_recv(cx, ALL))).await.unwrap();
    let mut other = client.session.open_bi().await.unwrap();
    bulk.0.write_all(&begun(20_000)).await.unwrap();
    other.0.write_all(&begun(20_961)).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
    // One that is longer, by its prefix.
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let mut stream = client.session.open_bi().await.unwrap();
    stream.0.write_all(&frame(&[b'x'; 40_961]).prefixed()[..8]).await.unwrap();
    assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
    // On the two streams that holds until there is a session, whatever was said on them.
    for on_bulk in [false, true] {
        for greeted in [false, true] {
            let (mut transport, client) = gateway.meet("/v1/wt").await;
            let (mut signal, mut bulk) = (client.open(HELLO).await, client.open(BULK).await);
            assert_eq!(message(&mut transport).await.unwrap(), HELLO);
            complete(&mut transport).await;
            let stream = if on_bulk { &mut bulk.0 } else { &mut signal.0 };
            if !greeted {
                stream.write_all(&frame(&[b'x'; 40_961]).prefixed()[..8]).await.unwrap();
                assert_eq!(violation(&mut transport).await, CloseCode::MessageTooLarge);
                continue;
            }
            transport.greeted();
            let whole = frame(&[b'x'; 40_961]).prefixed();
            let writing = soon(stream.write_all(&whole));
            let (written, heard) = tokio::join!(writing, message(&mut transport));
            written.unwrap();
            assert_eq!(heard.unwrap().len(), 40_961);
        }
    }
}

/// QUIC itself takes no more than a little of who is not greeted, read or not.
#[tokio::test]
async fn what_nobody_reads_is_held_by_the_sender() {
    let gateway = Gateway::new();
    let (mut transport, client) = gateway.meet("/v1/wt").await;
    let [mut one, mut other] =
        [client.session.open_bi().await.unwrap(), client.session.open_bi().await.unwrap()];
    // Nobody polls the transport: what is taken is what QUIC has room for.
    let mut taken = 0;
    for stream in [&mut one.0, &mut other.0] {
        while let Some(more) = stream.write(&[b'x'; 1_000]).now_or_never() {
            taken += more.unwrap();
        }
    }
    assert!((40_000..=64 * 1_024).contains(&taken), "{taken}");
    transport.greeted();
    soon(one.0.write_all(&[b'x'; 30_000])).await.unwrap();
    soon(other.0.write_all(&[b'x'; 100_000])).await.unwrap();
}

#[tokio::test]
async fn a_blocked_bulk_lane_does_not_stop_signal() {
    let gateway = Gateway::new();
    const WINDOW: usize = 40_000;
    let (mut transport, _client, mut signal, _bulk) = gateway.greet_with(WINDOW as u32).await;
    // The client never reads these, so the last one does not fit any more, for ever.
    for _ in 0..WINDOW / 10_000 {
        send(&mut transport, Lane::Bulk, &[b'b'; 10_000]).await;
    }
    send(&mut transport, Lane::Signal, b"urgent").await;
    assert_eq!(
        soon(async { tokio::join!(read(&mut signal.1, 6), pump(&mut transport, Lane::Signal)) })
            .await
            .0,
        "urgent"
    );
    let bulk = poll_fn(|cx| Poll::Ready(transport.poll_ready(cx, Lane::Bulk))).await;
    assert!(bulk.is_pending());
}

async fn pump(transport: &mut WebTransport, lane: Lane) {
    poll_fn(|cx| transport.poll_ready(cx, lane)).await.unwrap();
}

/// Nothing is acknowledged within one poll, so bulk takes all the send window there is.
#[tokio::test]
async fn bulk_that_fills_the_send_window_leaves_room_for_signal() {
    let gateway = Gateway::new();
    let (mut transport, _client, mut signal, _bulk) = gateway.greet().await;
    poll_fn(|cx| {
        let mut taken = 0;
        while transport.poll_ready(cx, Lane::Bulk).is_ready() {
            transport.start_send(Lane::Bulk, frame(&[b'b'; 10_000])).unwrap();
            taken += 10_000;
        }
        assert!(taken > 200_000, "{taken}");
        assert!(transport.poll_ready(cx, Lane::Signal).is_ready());
        transport.start_send(Lane::Signal, frame(&[b's'; 60_000])).unwrap();
        assert!(transport.poll_ready(cx, Lane::Signal).is_ready(), "taken at once");
        assert!(transport.poll_ready(cx, Lane::Bulk).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(read(&mut signal.1, 60_000).await.len(), 60_000);
}

#[tokio::test]
async fn datagrams_go_both_ways_and_what_does_not_fit_is_counted() {
    let gateway = Gateway::new();
    let (mut transport, client, _signal, _bulk) = gateway.greet().await;
    client.session.send_datagram(Bytes::from_static(b"up")).unwrap();
    let arrived = recv(&mut transport).await.unwrap();
    assert!(
        matches!(arrived, Inbound::Frame { lane: Lane::Ephemeral, payload } if payload == "up")
    );

    send(&mut transport, Lane::Ephemeral, &[b'x'; 60_000]).await;
    assert_eq!(transport.datagrams_dropped(), 1);
    send(&mut transport, Lane::Ephemeral, b"down").await;
    assert_eq!(soon(client.session.read_datagram()).await.unwrap(), "down");
    assert_eq!(transport.datagrams_dropped(), 1);
}
