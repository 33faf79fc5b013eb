//! Sessions: resumed by their own, under one generation at a time, until they end.

use handover_protocol::session::grant::{Lapse, OTHER_USER};
use handover_protocol::wire::{ErrorCode, UserId};

use super::*;
use crate::broker::{ResumeError, Retired};

pub(super) async fn resume(node: &Node, name: &str) -> Result<SessionRecord, ResumeError> {
    node.broker.resume(author(name).session, secret(name), anonymous(), 0).await
}

/// What everybody is let in as where nobody is asked for a token.
fn anonymous() -> Option<Admission> {
    Some(Admission::anonymous())
}

/// Resumed: who speaks for it from now on.
pub(super) async fn resumed(node: &Node, name: &str) -> Author {
    let generation = resume(node, name).await.unwrap().generation;
    Author { generation, ..author(name) }
}

pub(super) async fn a_session_is_resumed_by_its_secret_alone<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    let wrong = there.broker.resume(ann.session, secret("bob"), anonymous(), 0).await;
    assert!(matches!(wrong, Err(ResumeError::Unknown)), "{wrong:?}");
    assert!(matches!(resume(&there, "bob").await, Err(ResumeError::Unknown)));
    // Who does not know the secret has fenced nobody out.
    here.join(ann).await.unwrap();
    let record = resume(&there, "ann").await.unwrap();
    assert_eq!((record.session, record.peer), (ann.session, ann.peer));
    assert!(record.generation > ann.generation);
    assert!(record.secret_hash.fits(&secret("ann")));
    assert!(resumed(&here, "ann").await.generation > record.generation);
}

pub(super) async fn each_resume_fences_the_one_before<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let ann = author("ann");
    here.append(ann, LogLane::Bulk, 1).await;
    let newer = resumed(&there, "ann").await;
    for change in [
        here.message(LogLane::Bulk, 2, "1"),
        Change::Update(json("{}")),
        Change::Leave(LeaveReason::Left),
        Change::MarkAway(true),
        Change::Pass { to: None, body: json("1") },
        Change::Snapshot,
    ] {
        assert!(is_fenced(here.ask(ann, change.clone()).await), "{change:?}");
    }
    let state = there.load("late").await;
    assert_eq!((state.positions.signal, state.positions.bulk), (2, 1));
    assert_eq!(there.append(newer, LogLane::Bulk, 2).await.offset, 2);
    assert_eq!(here.append(author("bob"), LogLane::Bulk, 1).await.offset, 3);
}

pub(super) async fn a_fenced_join_leaves_nothing_behind<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    resume(&there, "ann").await.unwrap();
    let join = joining();
    assert!(is_fenced(here.ask(ann, join).await));
    assert!(resume(&there, "ann").await.unwrap().rooms.is_empty());
    assert_eq!(there.load("late").await.positions.signal, 0);
}

pub(super) async fn the_rooms_are_recorded_with_the_session<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann"]).await;
    let other = RoomName::parse("other").unwrap();
    let elsewhere = Node { room: other.clone(), ..here.clone() };
    elsewhere.load("o").await;
    let ann = author("ann");
    here.join(ann).await.unwrap();
    elsewhere.join(ann).await.unwrap();
    let SessionRecord { mut rooms, generation, .. } = resume(&there, "ann").await.unwrap();
    rooms.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    assert_eq!(rooms, [other, room()]);
    elsewhere.leave(Author { generation, ..ann }).await.unwrap();
    let SessionRecord { rooms, generation, .. } = resume(&there, "ann").await.unwrap();
    assert_eq!(rooms, [room()]);
    let third = Author { generation, ..ann };
    assert_eq!(names(&there.snapshot(third).await.unwrap()), ["ann"]);
}

pub(super) async fn a_retired_session_still_finishes_but_is_not_resumed<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    assert_eq!(here.broker.retire(ann).await.unwrap(), Retired::From(vec![room()]));
    assert!(matches!(resume(&there, "ann").await, Err(ResumeError::Unknown)));
    // What came before the end may still wait in its room.
    here.append(ann, LogLane::Bulk, 1).await;
    let again = here.broker.retire(ann).await.unwrap();
    assert_eq!(again, Retired::From(vec![room()]), "asking again is safe");
    assert!(here.leave(ann).await.is_some());
}

pub(super) async fn only_who_speaks_for_a_session_retires_or_readmits_it<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    let newer = resumed(&there, "ann").await;
    assert_eq!(here.broker.retire(ann).await.unwrap(), Retired::Not);
    assert!(!here.broker.readmit(ann, Admission::anonymous()).await.unwrap());
    assert!(there.broker.readmit(newer, Admission::anonymous()).await.unwrap());
    let nobody = here.broker.retire(author("nobody")).await.unwrap();
    assert!(!matches!(nobody, Retired::From(_)));
    assert!(!here.broker.readmit(author("nobody"), Admission::anonymous()).await.unwrap());
    assert!(resumed(&there, "ann").await.generation > newer.generation);
}

pub(super) async fn an_ended_session_does_nothing_more<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann", "bob"]).await;
    let ann = author("ann");
    here.broker.retire(ann).await.unwrap();
    here.leave(ann).await;
    here.broker.end(ann).await.unwrap();
    here.broker.end(ann).await.unwrap();
    assert!(matches!(resume(&there, "ann").await, Err(ResumeError::Unknown)));
    let join = joining();
    assert!(is_fenced(there.ask(ann, join).await));
    assert_eq!(names(&there.snapshot(author("bob")).await.unwrap()), ["bob"]);
    assert_eq!(there.load("late").await.positions.signal, 3);
}

pub(super) async fn an_ended_session_is_forgotten_by_its_rooms<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    here.append(ann, LogLane::Bulk, 1).await;
    here.leave(ann).await;
    here.broker.end(ann).await.unwrap();
    // The same name again is another session: nothing it sends is a repetition.
    there.broker.open(record("ann")).await.unwrap();
    assert_eq!(there.join(ann).await.unwrap().snapshot.seq, PerLane::default());
    assert_eq!(there.append(ann, LogLane::Bulk, 1).await.offset, 2);
}

pub(super) async fn what_a_session_may_do_goes_with_it<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &[]).await;
    let until = |at| Admission {
        user: Some(UserId::new("ann@example")),
        lapse: Some(Lapse { at, life: 100 }),
        ..Admission::anonymous()
    };
    let ann = author("ann");
    let opened = SessionRecord { admission: until(50), ..record("ann") };
    here.broker.open(opened).await.unwrap();
    let resume = |presented, now| {
        let broker = there.broker.clone();
        async move { broker.resume(ann.session, secret("ann"), presented, now).await }
    };
    let first = resume(None, 49).await.unwrap();
    assert_eq!(first.admission, until(50));
    let refused = resume(None, 50).await;
    let unauthorized = ErrorCode::Unauthorized;
    assert!(matches!(&refused, Err(ResumeError::Refused(r)) if r.code == unauthorized));
    let refused = resume(Some(Admission::anonymous()), 40).await;
    assert!(matches!(&refused, Err(ResumeError::Refused(r)) if *r == OTHER_USER));
    // Nothing is changed by what is refused.
    let second = Author { generation: first.generation, ..ann };
    assert!(here.broker.readmit(second, until(80)).await.unwrap());
    assert_eq!(resume(None, 70).await.unwrap().admission, until(80));
    assert_eq!(resume(Some(until(200)), 90).await.unwrap().admission, until(200));
    assert_eq!(resume(None, 150).await.unwrap().admission, until(200));
    // Of before there were tokens: it has no end, and nothing to go on under without one.
    here.broker.open(record("bob")).await.unwrap();
    let refused = there.broker.resume(author("bob").session, secret("bob"), None, 0).await;
    assert!(matches!(&refused, Err(ResumeError::Refused(r)) if r.code == unauthorized));
    assert!(super::sessions::resume(&there, "bob").await.is_ok(), "without keys it goes on");
}

pub(super) async fn a_lost_session_is_recorded_again_by_who_speaks_for_it<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &["ann"]).await;
    let (ann, bob) = (author("ann"), author("bob"));
    assert_eq!(there.broker.keep(vec![ann]).await.strangers.len(), 0);
    assert_eq!(there.broker.keep(vec![ann, bob]).await.strangers[0].peer, bob.peer);
    assert!(there.broker.revive(record("bob")).await.unwrap());
    assert!(here.join(bob).await.is_ok());
    let newer = resumed(&here, "bob").await;
    assert!(!there.broker.revive(record("bob")).await.unwrap(), "another one speaks for it");
    assert_eq!(there.broker.keep(vec![bob]).await.strangers.len(), 1);
    assert_eq!(there.broker.retire(author("cid")).await.unwrap(), Retired::Lost);
    let generation = newer.generation + 5;
    let newest = SessionRecord { generation, rooms: vec![room()], ..record("bob") };
    assert!(there.broker.revive(newest).await.unwrap(), "it was lost and found by an older one");
    here.leave(Author { generation, ..bob }).await;
    let elsewhere = RoomName::parse("elsewhere").unwrap();
    let newest = SessionRecord { generation, rooms: vec![elsewhere.clone()], ..record("bob") };
    assert!(there.broker.revive(newest).await.unwrap());
    let newest = resume(&here, "bob").await.unwrap();
    assert!(newest.generation > generation);
    assert_eq!(newest.rooms, [elsewhere], "with its rooms");
}

pub(super) async fn who_spoke_for_a_lost_session_before_does_not_end_it<K: Kind>() {
    let (here, there) = Nodes::with::<K>(limits(GENEROUS), &[]).await;
    let speaks = |name: &str| Author { generation: author(name).generation + 5, ..author(name) };
    let known = |name: &str| SessionRecord { generation: speaks(name).generation, ..record(name) };
    for name in ["ann", "bob"] {
        let (before, now) = (author(name), speaks(name));
        // Its record is gone, and its former node takes it for expired.
        assert_eq!(here.broker.retire(before).await.unwrap(), Retired::Lost);
        let is_first = name == "ann";
        if is_first {
            here.broker.end(before).await.unwrap();
            assert!(!here.broker.revive(record(name)).await.unwrap(), "as far as it went");
        }
        assert!(there.broker.revive(known(name)).await.unwrap());
        there.join(now).await.unwrap();
        there.append(now, LogLane::Bulk, 1).await;
        here.broker.end(before).await.unwrap();
        assert!(there.broker.keep(vec![now]).await.strangers.is_empty(), "{name}");
        let again = there.send(now, LogLane::Bulk, 1).await;
        assert!(matches!(again, Ok(Sent::Duplicate(_))), "what it sent is known: {again:?}");
        assert_eq!(resume(&here, name).await.unwrap().rooms, [room()]);
    }
}

pub(super) async fn an_ended_session_is_not_recorded_again<K: Kind>() {
    let (here, there) = Nodes::joined::<K>(limits(GENEROUS), &["ann"]).await;
    let ann = author("ann");
    assert_eq!(there.broker.retire(ann).await.unwrap(), Retired::From(vec![room()]));
    there.leave(ann).await;
    there.broker.end(ann).await.unwrap();
    // A node that has not heard of it.
    assert_eq!(here.broker.keep(vec![ann]).await.strangers.len(), 1);
    let known = SessionRecord { rooms: vec![room()], ..record("ann") };
    assert!(!here.broker.revive(known).await.unwrap());
    assert_eq!(here.broker.retire(ann).await.unwrap(), Retired::Not);
    assert!(matches!(resume(&here, "ann").await, Err(ResumeError::Unknown)));
}
