//! Rooms: what is appended, once, in order, for as long as it is kept.

use handover_protocol::limits::ROOM_LINGER;
use handover_protocol::room::Applied;
use handover_protocol::wire::message::Positions;
use handover_protocol::wire::{ErrorCode, UserId};

use super::*;

pub(super) async fn offsets_count_up_on_each_lane_and_are_read_back<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    let sent = [
        here.append(ann, LogLane::Bulk, 1).await,
        there.append(ann, LogLane::Signal, 1).await,
        here.append(bob, LogLane::Bulk, 1).await,
        here.append(ann, LogLane::Bulk, 2).await,
    ];
    let placed = sent.each_ref().map(|entry| (entry.lane, entry.offset, entry.peer.as_str()));
    let (signal, bulk) = (LogLane::Signal, LogLane::Bulk);
    let expected = [(bulk, 1, "ann"), (signal, 3, "ann"), (bulk, 2, "bob"), (bulk, 3, "ann")];
    assert_eq!(placed, expected);
    let state = there.load("late").await;
    assert_eq!(state.positions.epoch, epoch("first"));
    assert_eq!((state.positions.signal, state.positions.bulk), (3, 3));
    assert_eq!(offsets(&state, signal), [1, 2, 3]);
    assert_eq!(offsets(&state, bulk), [1, 2, 3]);
    for entry in sent {
        let read = &state.entries[entry.lane][entry.offset as usize - 1];
        assert_eq!((&read.event, read.peer, read.epoch), (&entry.event, entry.peer, entry.epoch));
        assert_eq!(read.room, entry.room);
    }
}

pub(super) async fn a_send_is_applied_once<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    for lane in LogLane::ALL {
        let first = here.append(ann, lane, 1).await;
        let second = here.append(ann, lane, 2).await;
        assert_eq!(second.offset, first.offset + 1);
        let applied = Applied { seq: 2, epoch: epoch("first"), offset: second.offset };
        for seq in [1, 2, 1] {
            match there.send(ann, lane, seq).await {
                Ok(Sent::Duplicate(answered)) => assert_eq!(answered, applied),
                other => panic!("{other:?}"),
            }
        }
        let state = there.load("late").await;
        assert_eq!(state.positions.on(lane).offset, second.offset);
    }
}

pub(super) async fn a_seq_is_never_skipped<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    let refused = here.send(ann, LogLane::Bulk, 2).await.unwrap_err();
    assert_eq!((refused.code, refused.expected), (ErrorCode::SeqGap, Some(1)));
    here.append(ann, LogLane::Bulk, 1).await;
    let refused = there.send(ann, LogLane::Bulk, 3).await.unwrap_err();
    assert_eq!((refused.code, refused.expected), (ErrorCode::SeqGap, Some(2)));
    // A refused one is not used up, and the lanes count apart.
    assert_eq!(there.append(ann, LogLane::Bulk, 2).await.offset, 2);
    here.append(ann, LogLane::Signal, 1).await;
}

pub(super) async fn what_was_sent_outlives_membership_and_room<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    here.append(ann, LogLane::Bulk, 1).await;
    here.leave(ann).await;
    assert_eq!(here.join(ann).await.unwrap().snapshot.seq, PerLane { signal: 0, bulk: 1 });
    here.leave(ann).await;
    let linger = ROOM_LINGER.as_secs() + 1;
    assert!(there.later(linger).remove().await);
    let state = there.later(linger).load("next").await;
    assert_eq!(state.positions.epoch, epoch("next"));
    assert_eq!((state.positions.signal, state.positions.bulk), (0, 0));
    assert_eq!(there.join(ann).await.unwrap().snapshot.seq.bulk, 1);
    match there.send(ann, LogLane::Bulk, 1).await {
        Ok(Sent::Duplicate(applied)) => {
            assert_eq!((applied.seq, applied.epoch), (1, epoch("first")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(there.append(ann, LogLane::Bulk, 2).await.offset, 1);
}

pub(super) async fn members_come_change_and_go<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    let shown = Some(json("{ \"name\": \"Ann\" }"));
    let user = Some(handover_protocol::wire::UserId::new("ann@example"));
    let join = Change::Join { user: user.clone(), metadata: shown.clone() };
    let Ok(Done::Joined(joining)) = here.ask(ann, join.clone()).await else { panic!("refused") };
    let entry = joining.entry.unwrap();
    assert_eq!((entry.offset, entry.peer), (1, ann.peer));
    assert_eq!(joining.snapshot.members[0].since, 1);
    assert_eq!(joining.snapshot.positions.signal, 1);
    assert_eq!(joining.snapshot.members[0].user, user);
    assert_eq!(joining.snapshot.members[0].metadata.as_str(), "{ \"name\": \"Ann\" }");
    assert_eq!(names(&there.join(bob).await.unwrap().snapshot), ["ann", "bob"]);
    // Who is in stays as it was.
    let again = there.join(ann).await.unwrap();
    assert!(again.entry.is_none());
    assert_eq!(again.snapshot.members[0].user, user);
    let updated = there.ask(ann, Change::Update(json("{\"name\":2}"))).await;
    let Ok(Done::Updated(updated)) = updated else { panic!("refused") };
    assert_eq!(
        (updated.offset, &updated.event),
        (3, &Event::Updated { metadata: json("{\"name\":2}") })
    );
    let seen = here.snapshot(bob).await.unwrap();
    assert_eq!(seen.members[0].metadata.as_str(), "{\"name\":2}");
    assert_eq!((seen.members[0].since, seen.members[0].user.clone()), (1, user));
    let left = there.ask(ann, Change::Leave(LeaveReason::Bye)).await;
    let Ok(Done::Left(Some(entry), positions)) = left else { panic!("{left:?}") };
    assert_eq!((entry.offset, positions.signal), (4, 4));
    assert_eq!(entry.event, Event::Left { reason: LeaveReason::Bye });
    let left = here.ask(ann, Change::Leave(LeaveReason::Left)).await;
    assert!(matches!(left, Ok(Done::Left(None, at)) if at.signal == 4), "a double leave");
    assert_eq!(names(&there.snapshot(bob).await.unwrap()), ["bob"]);
    assert_eq!(code(here.snapshot(ann).await), Some(ErrorCode::NotAMember));
    let late = here.ask(ann, Change::Update(json("{}"))).await;
    assert_eq!(code(late), Some(ErrorCode::NotAMember));
    assert_eq!(code(here.send(ann, LogLane::Bulk, 1).await), Some(ErrorCode::NotAMember));
    assert_eq!(here.load("late").await.positions.signal, 4);
}

pub(super) async fn a_full_room_takes_nobody_but_its_members<K: Kind>() {
    let everybody = ["ann", "bob", "cid", "dan"];
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &everybody).await;
    for name in ["ann", "bob", "cid"] {
        here.join(author(name)).await.unwrap();
    }
    assert_eq!(code(there.join(author("dan")).await), Some(ErrorCode::RoomFull));
    there.join(author("bob")).await.unwrap();
    here.leave(author("ann")).await;
    there.join(author("dan")).await.unwrap();
    // Who had its place in a life that was lost has it in the next.
    let rejoin = Change::Rejoin { user: None, metadata: None, seq: PerLane::default() };
    assert_eq!(code(here.ask(author("ann"), rejoin).await), None);
    assert_eq!(here.snapshot(author("ann")).await.unwrap().members.len(), 4);
}

pub(super) async fn what_members_show_together_is_bounded<K: Kind>() {
    let everybody = ["ann", "bob", "cid"];
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &everybody).await;
    let [ann, bob, cid] = everybody.map(author);
    let join = |bytes| Change::Join { user: None, metadata: Some(shown(bytes)) };
    let update = |bytes| Change::Update(shown(bytes));
    let too_much = Some(ErrorCode::TooLarge);
    // Of 1,000 bytes for three a third is nobody refused.
    assert_eq!(code(here.ask(ann, join(900)).await), None);
    assert_eq!(code(there.ask(bob, join(334)).await), too_much);
    assert_eq!(code(there.snapshot(bob).await), Some(ErrorCode::NotAMember));
    assert_eq!(code(there.ask(bob, join(333)).await), None);
    assert_eq!(code(here.join(cid).await), None);
    assert_eq!(code(here.ask(cid, update(334)).await), too_much);
    assert_eq!(code(there.ask(ann, update(901)).await), too_much);
    assert_eq!(here.snapshot(ann).await.unwrap().members[0].metadata.len(), 900);
    assert_eq!(code(there.ask(ann, update(899)).await), None, "less is never too much");
    assert_eq!(code(here.ask(ann, update(665)).await), None);
    assert_eq!(code(there.ask(ann, update(666)).await), too_much, "1,000 are used up");
    // Who has to show something, or has shown it before, does.
    assert_eq!(code(here.ask(cid, Change::Fix(shown(900))).await), None);
    here.leave(bob).await;
    let seq = PerLane::default();
    let rejoin = Change::Rejoin { user: None, metadata: Some(shown(900)), seq };
    assert_eq!(code(there.ask(bob, rejoin).await), None);
    assert_eq!(code(here.ask(ann, update(666)).await), too_much);
    // What is gone counts no more.
    here.leave(cid).await;
    there.leave(bob).await;
    assert_eq!(code(there.ask(ann, update(1_000)).await), None);
    here.leave(ann).await;
    assert_eq!(code(here.ask(bob, join(1_000)).await), None);
}

pub(super) async fn addressees_are_members_and_others<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    let message = |to, seq| {
        let (room, lane, body) = (here.room.clone(), LogLane::Signal, json("1"));
        Change::Send(SendMessage { room, lane, seq, to, body })
    };
    let stranger = PeerId::parse("nobody").unwrap();
    for (to, refused) in [
        (Some(stranger), Some(ErrorCode::NoSuchPeer)),
        (Some(ann.peer), Some(ErrorCode::BadRequest)),
        (Some(bob.peer), None),
        (None, None),
    ] {
        assert_eq!(code(there.ask(ann, Change::Pass { to, body: json("1") }).await), refused);
    }
    assert_eq!(code(here.ask(ann, message(Some(stranger), 1)).await), Some(ErrorCode::NoSuchPeer));
    assert_eq!(code(here.ask(ann, message(Some(ann.peer), 1)).await), Some(ErrorCode::BadRequest));
    let sent = here.ask(ann, message(Some(bob.peer), 1)).await;
    let Ok(Done::Sent(Sent::Appended(entry))) = sent else { panic!("{sent:?}") };
    assert!(matches!(entry.event, Event::Message { to: Some(to), .. } if to == bob.peer));
    here.leave(bob).await;
    // A repeated one is answered although its addressee has left.
    let again = there.ask(ann, message(Some(bob.peer), 1)).await;
    assert!(matches!(again, Ok(Done::Sent(Sent::Duplicate(_)))), "{again:?}");
    let check = there.ask(bob, Change::Pass { to: None, body: json("1") }).await;
    assert_eq!(code(check), Some(ErrorCode::NotAMember));
}

pub(super) async fn away_and_back_alternate<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let ann = author("ann");
    let mut told = Vec::new();
    for (node, away) in [
        (&here, false),
        (&here, true),
        (&there, true),
        (&there, false),
        (&here, false),
        (&there, true),
    ] {
        let Ok(Done::Marked(entry)) = node.ask(ann, Change::MarkAway(away)).await else {
            panic!("refused")
        };
        told.push(entry.map(|entry| (entry.offset, entry.event.clone())));
    }
    let expected =
        [None, Some((3, Event::Away)), None, Some((4, Event::Back)), None, Some((5, Event::Away))];
    assert_eq!(told, expected);
    assert!(here.snapshot(author("bob")).await.unwrap().members[0].away);
    here.leave(ann).await;
    let gone = there.ask(ann, Change::MarkAway(false)).await;
    assert!(matches!(gone, Ok(Done::Marked(None))), "{gone:?}");
}

pub(super) async fn bodies_come_back_as_they_were_written<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let bodies = [
        "null",
        "\"\\u00e9 é \\\\ \\\" \\n | : } \\u0000\"",
        "{\"b\": 1.0,\"a\" :\t[1e400, -0, 12345678901234567890123]}",
        "[]",
        "{}",
        "\"\"",
        "0",
    ];
    for (seq, text) in (1..).zip(bodies) {
        let sent = here.ask(author("ann"), here.message(LogLane::Bulk, seq, text)).await;
        let Ok(Done::Sent(Sent::Appended(entry))) = sent else { panic!("{sent:?}") };
        assert_eq!(body(&entry), text);
    }
    let state = there.load("late").await;
    let read: Vec<&str> = state.entries.bulk.iter().map(|entry| body(entry)).collect();
    assert_eq!(read, bodies);
}

pub(super) async fn a_log_is_bounded_by_entries_past_the_window<K: Kind>() {
    let few = Retention { entries: 3, ..GENEROUS };
    let (here, there) = Nodes::joined::<K>(limits(few), &["ann"]).await;
    let asked = (1..=5).map(|seq| (author("ann"), here.message(LogLane::Bulk, seq, "1")));
    let sent = here.ask_all(asked.collect()).await;
    assert_eq!(sent.len(), 5);
    // A session may still come back for them, however many they are.
    here.later(59).append(author("ann"), LogLane::Bulk, 6).await;
    assert_eq!(offsets(&there.load("late").await, LogLane::Bulk), [1, 2, 3, 4, 5, 6]);
    there.broker.trim(there.later(61).now, &there.room, None).await.unwrap();
    let state = there.load("late").await;
    assert_eq!(offsets(&state, LogLane::Bulk), [4, 5, 6]);
    // The other lane keeps what is its own.
    assert_eq!(offsets(&state, LogLane::Signal), [1]);
    assert_eq!(here.later(61).append(author("ann"), LogLane::Bulk, 7).await.offset, 7);
    assert_eq!(offsets(&there.load("late").await, LogLane::Bulk), [5, 6, 7]);
}

pub(super) async fn a_log_is_bounded_by_bytes<K: Kind>() {
    let small = Retention { bytes: 3_600, ..GENEROUS };
    let (here, there) = Nodes::joined::<K>(limits(small), &["ann"]).await;
    let text = format!("\"{}\"", "é".repeat(250));
    for seq in 1..=9 {
        here.ask(author("ann"), here.message(LogLane::Bulk, seq, &text)).await.unwrap();
    }
    let state = there.load("late").await;
    let one = state.entries.bulk[0].bytes();
    assert!(3 * one <= 3_600 && 3_600 < 4 * one);
    assert_eq!(offsets(&state, LogLane::Bulk), [7, 8, 9]);
    // What is let go of counts no more: small ones fit in again.
    for seq in 10..=12 {
        here.append(author("ann"), LogLane::Bulk, seq).await;
    }
    let state = there.load("late").await;
    let held: usize = state.entries.bulk.iter().map(|entry| entry.bytes()).sum();
    assert_eq!(offsets(&state, LogLane::Bulk), [8, 9, 10, 11, 12]);
    assert!(held <= 3_600 && held + one > 3_600);
}

pub(super) async fn a_log_is_bounded_by_age<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    here.append(ann, LogLane::Bulk, 1).await;
    here.later(100).append(ann, LogLane::Bulk, 2).await;
    // Clocks of nodes differ by what it takes to ask for the time.
    let almost = there.now + GENEROUS.age - Duration::from_secs(1);
    there.broker.trim(almost, &there.room, None).await.unwrap();
    assert_eq!(offsets(&there.load("late").await, LogLane::Bulk), [1, 2]);
    there.broker.trim(there.later(1).now + GENEROUS.age, &there.room, None).await.unwrap();
    let state = there.load("late").await;
    assert_eq!(offsets(&state, LogLane::Bulk), [2]);
    assert_eq!((offsets(&state, LogLane::Signal), state.positions.signal), (vec![], 1));
    // An append lets go of what is too old as well.
    here.later(251).append(ann, LogLane::Bulk, 3).await;
    let state = there.load("late").await;
    assert_eq!((offsets(&state, LogLane::Bulk), state.positions.bulk), (vec![3], 3));
}

pub(super) async fn sends_from_two_nodes_are_one_order<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let sends = |node: &Node, name| -> Vec<_> {
        (1..=50).map(|seq| (author(name), node.message(LogLane::Bulk, seq, "1"))).collect()
    };
    let (from_ann, from_bob) = (sends(&here, "ann"), sends(&there, "bob"));
    let (ann, bob) = tokio::join!(here.ask_all(from_ann), there.ask_all(from_bob));
    let offset = |result: Result<Done, Refusal>| match result {
        Ok(Done::Sent(Sent::Appended(entry))) => entry.offset,
        other => panic!("{other:?}"),
    };
    let ann: Vec<u64> = ann.into_iter().map(offset).collect();
    let bob: Vec<u64> = bob.into_iter().map(offset).collect();
    assert!(ann.is_sorted() && bob.is_sorted());
    let mut all = [ann, bob].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=100).collect::<Vec<u64>>());
    assert_eq!(offsets(&here.load("late").await, LogLane::Bulk), all);
}

pub(super) async fn an_empty_room_lingers_and_goes<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let linger = ROOM_LINGER.as_secs() + 1;
    assert!(!here.later(2 * linger).remove().await, "somebody is in it");
    here.leave(author("ann")).await;
    assert!(!there.later(linger - 2).remove().await);
    assert_eq!(here.later(linger - 2).load("next").await.positions.epoch, epoch("first"));
    assert!(there.later(linger).remove().await);
    assert!(here.later(linger).remove().await, "gone already");
    let state = here.load("next").await;
    assert_eq!(state.positions.epoch, epoch("next"));
    assert_eq!((state.positions.signal, offsets(&state, LogLane::Signal)), (0, vec![]));
    let joining = there.join(author("ann")).await.unwrap();
    assert_eq!((joining.snapshot.positions.signal, joining.snapshot.members.len()), (1, 1));
}

pub(super) async fn a_room_that_is_not_there_has_no_members<K: Kind>() {
    let (here, _there) = Nodes::with::<K>(limits(GENEROUS), &["ann"]).await;
    let elsewhere = Node { room: RoomName::parse("elsewhere").unwrap(), ..here };
    for change in
        [Change::Snapshot, Change::Update(json("{}")), Change::Pass { to: None, body: json("1") }]
    {
        let refused = elsewhere.ask(author("ann"), change).await;
        assert_eq!(code(refused), Some(ErrorCode::NotAMember));
    }
    assert!(elsewhere.remove().await);
}

pub(super) async fn a_life_that_is_over_is_changed_no_more<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let known = here.load("late").await.positions;
    let ops = |node: &Node, seq| {
        let change = node.message(LogLane::Bulk, seq, "1");
        vec![RoomOp { author: author("ann"), change }]
    };
    let applied = here.broker.apply(here.now, &here.room, Some(known), ops(&here, 1)).await;
    assert_eq!(applied.unwrap().unwrap().len(), 1);
    let trimmed = there.broker.trim(there.now, &there.room, Some(known)).await.unwrap().unwrap();
    assert_eq!((trimmed.signal, trimmed.bulk), (1, 1));
    there.leave(author("ann")).await;
    let later = there.later(ROOM_LINGER.as_secs() + 1);
    assert!(later.remove().await);
    for begun in [false, true] {
        if begun {
            later.load("next").await;
        }
        let node = &here;
        let applied = node.broker.apply(later.now, &node.room, Some(known), ops(node, 2)).await;
        assert!(applied.unwrap().is_none());
        let trimmed = node.broker.trim(later.now, &node.room, Some(known)).await.unwrap();
        assert!(trimmed.is_none());
    }
    assert_eq!(later.load("none").await.positions.bulk, 0);
}

pub(super) async fn what_is_known_to_have_been_is_not_used_again<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    here.append(author("ann"), LogLane::Bulk, 1).await;
    let mut known = here.load("late").await.positions;
    known.bulk += 1;
    let trimmed = there.broker.trim(there.now, &there.room, Some(known)).await.unwrap();
    assert!(trimmed.is_none(), "it has lost an entry");
    let state = here.load("none").await;
    assert_ne!(state.positions.epoch, known.epoch);
    assert_eq!((state.positions.signal, state.positions.bulk), (2, 0));
    // Who was in it is in it, came in the same order, and goes on from what it was told was
    // applied.
    let members = here.snapshot(author("bob")).await.unwrap().members;
    let came: Vec<_> = members.iter().map(|member| (member.peer, member.since)).collect();
    assert_eq!(came, [(author("ann").peer, 1), (author("bob").peer, 2)]);
    let seq = PerLane { signal: 0, bulk: 2 };
    let join = Change::Rejoin { user: None, metadata: None, seq };
    let rejoined = here.ask(author("ann"), join).await;
    let Ok(Done::Rejoined(place, None)) = rejoined else { panic!("{rejoined:?}") };
    assert_eq!(place.seq, seq);
    assert_eq!(there.append(author("ann"), LogLane::Bulk, 3).await.offset, 1);
}

pub(super) async fn snapshots_of_one_go_differ_by_what_lies_between<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann", "bob", "cid"]).await;
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(author);
    there.join(bob).await.unwrap();
    let shown = Some(json("{\"name\":\"Cid\"}"));
    let user = Some(UserId::new("cid@example"));
    let asked = vec![
        (bob, Change::Snapshot),
        (ann, joining()),
        (cid, Change::Join { user: user.clone(), metadata: shown.clone() }),
        (cid, joining()),
        (ann, Change::Update(json("{\"n\":1}"))),
        (bob, Change::MarkAway(true)),
        (cid, Change::Snapshot),
        (ann, Change::Leave(LeaveReason::Left)),
        (bob, Change::MarkAway(false)),
        (ann, Change::Rejoin { user: None, metadata: None, seq: PerLane::default() }),
        (bob, Change::Snapshot),
    ];
    let done = here.ask_all(asked).await;
    let seen: Vec<_> = done
        .iter()
        .filter_map(|done| match done {
            Ok(Done::Joined(Joining { snapshot, .. }) | Done::Snapshot(snapshot)) => Some(snapshot),
            _ => None,
        })
        .collect();
    let told = seen.iter().map(|snapshot| {
        let since = snapshot.members.iter().map(|m| (m.peer.as_str(), m.since, m.away));
        (snapshot.positions.signal, since.collect::<Vec<_>>())
    });
    let expected = [
        (1, vec![("bob", 1, false)]),
        (2, vec![("bob", 1, false), ("ann", 2, false)]),
        (3, vec![("bob", 1, false), ("ann", 2, false), ("cid", 3, false)]),
        (3, vec![("bob", 1, false), ("ann", 2, false), ("cid", 3, false)]),
        (5, vec![("bob", 1, true), ("ann", 2, false), ("cid", 3, false)]),
        (8, vec![("bob", 1, false), ("cid", 3, false), ("ann", 8, false)]),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(seen[4].members[1].metadata.as_str(), "{\"n\":1}");
    let own = &seen[4].members[2];
    assert_eq!((&own.user, Some(&own.metadata)), (&user, shown.as_ref()));
    assert_eq!(*seen[5], there.snapshot(bob).await.unwrap(), "as if asked alone");
}

pub(super) async fn a_member_finds_its_own_place<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let ann = author("ann");
    assert_eq!(code(here.ask(ann, Change::Place).await), Some(ErrorCode::NotAMember));
    let metadata = json("{\"a\":\t\"\\n\"}");
    let join = Change::Join { user: None, metadata: Some(metadata.clone()) };
    here.ask(ann, join).await.unwrap();
    here.append(ann, LogLane::Bulk, 1).await;
    let place = there.ask(ann, Change::Place).await;
    let Ok(Done::Place(place)) = place else { panic!("{place:?}") };
    assert_eq!((place.positions.signal, place.positions.bulk), (1, 1));
    assert_eq!((place.seq, place.metadata), (PerLane { signal: 0, bulk: 1 }, metadata));
}

pub(super) async fn what_lies_behind_a_position_is_read<K: Kind>() {
    let few = Retention { entries: 3, ..GENEROUS };
    let (here, there) = Nodes::joined::<K>(limits(few), &["ann"]).await;
    for seq in 1..=5 {
        here.append(author("ann"), LogLane::Bulk, seq).await;
    }
    let read = async |signal, bulk| {
        there.broker.read(&there.room, PerLane { signal, bulk }).await.unwrap()
    };
    let held = |state: &RoomState| LogLane::ALL.map(|lane| offsets(state, lane));
    for (signal, bulk, behind) in [
        (0, 0, [vec![1], vec![1, 2, 3, 4, 5]]),
        (0, 3, [vec![1], vec![4, 5]]),
        (1, 4, [vec![], vec![5]]),
        (1, 5, [vec![], vec![]]),
    ] {
        let state = read(signal, bulk).await.unwrap();
        assert_eq!(held(&state), behind, "behind {signal} and {bulk}");
        let Positions { epoch: of, signal, bulk } = state.positions;
        assert_eq!((of, signal, bulk), (epoch("first"), 1, 5), "where it stands does not depend");
    }
    // What is no longer held is missing at the beginning.
    there.broker.trim(there.later(61).now, &there.room, None).await.unwrap();
    for (bulk, behind) in [(0, vec![3, 4, 5]), (2, vec![3, 4, 5]), (3, vec![4, 5])] {
        assert_eq!(held(&read(1, bulk).await.unwrap()), [vec![], behind]);
    }
    here.leave(author("ann")).await;
    assert!(here.later(120).remove().await);
    assert!(read(0, 0).await.is_none(), "it is gone");
    let nowhere = RoomName::parse("nowhere").unwrap();
    assert!(there.broker.read(&nowhere, PerLane::default()).await.unwrap().is_none());
}
