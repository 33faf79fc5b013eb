//! Sessions: each has its record in one slot, and the rooms that remember it in others.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use handover_protocol::session::grant::Admission;
use handover_protocol::wire::{PeerId, RoomName, SessionId};
use redis::{FromRedisValue, Value};

use super::board::Held;
use super::keys::{RoomKeys, session_keys};
use super::stored::garbled;
use super::{KEEP_MARGIN, PAST_KEPT, RedisBroker, millis};
use crate::broker::{Author, ResumeError, Retired, SecretHash, SessionRecord, Unavailable};

/// Slots asked at once for one purpose.
pub(super) const AT_ONCE: usize = 256;

/// A session's record, and whether its end has begun.
struct Kept {
    record: SessionRecord,
    retired: bool,
}

fn admission_text(admission: &Admission) -> Result<String, Unavailable> {
    serde_json::to_string(admission).map_err(|error| Unavailable(error.to_string()))
}

impl RedisBroker {
    pub(super) async fn change_session(
        &self,
        what: &str,
        session: SessionId,
        generation: u64,
        about: &[&str],
    ) -> Result<u64, Unavailable> {
        let asked = self.ask_session(what, session, generation, about).await?;
        u64::from_redis_value(asked).map_err(|_| garbled("an answer"))
    }

    async fn ask_session(
        &self,
        what: &str,
        session: SessionId,
        generation: u64,
        about: &[&str],
    ) -> Result<Value, Unavailable> {
        let mut args =
            vec![what.to_owned(), generation.to_string(), millis(self.session_kept).to_string()];
        args.extend(about.iter().map(|&text| text.to_owned()));
        let (keys, slot) = session_keys(session);
        self.board.script(slot, Held::ByReplicas, &self.scripts.session, &keys, &args).await
    }

    pub(super) async fn retire_session(&self, author: Author) -> Result<Retired, Unavailable> {
        let Author { session, generation, .. } = author;
        Ok(match self.ask_session("retire", session, generation, &[]).await? {
            Value::Int(0) => Retired::Not,
            Value::Int(_) => Retired::Lost,
            rooms => Retired::From(room_names(rooms)?),
        })
    }

    /// Writes a session down: as one that begins, or as one that was lost.
    pub(super) async fn record_session(
        &self,
        what: &str,
        record: SessionRecord,
    ) -> Result<bool, Unavailable> {
        let admission = admission_text(&record.admission)?;
        let secret = record.secret_hash.to_text();
        let mut about = vec![admission.as_str(), record.peer.as_str(), &secret];
        about.extend(record.rooms.iter().map(RoomName::as_str));
        let (session, generation) = (record.session, record.generation);
        Ok(self.change_session(what, session, generation, &about).await? == 1)
    }

    pub(super) async fn readmit_session(
        &self,
        author: Author,
        admission: Admission,
    ) -> Result<bool, Unavailable> {
        let (text, Author { session, generation, .. }) = (admission_text(&admission)?, author);
        Ok(self.change_session("readmit", session, generation, &[&text]).await? == 1)
    }

    pub(super) async fn resume_session(
        &self,
        session: SessionId,
        secret_hash: SecretHash,
        presented: Option<Admission>,
        unix_now: u64,
    ) -> Result<SessionRecord, ResumeError> {
        loop {
            let Some(Kept { mut record, retired }) = self.record(session).await? else {
                self.is_told_all(session).await?;
                return Err(ResumeError::Unknown);
            };
            if retired || !record.secret_hash.fits(&secret_hash) {
                return Err(ResumeError::Unknown);
            }
            let succeeded = record.admission.succeed(presented.clone(), unix_now);
            record.admission = succeeded.map_err(ResumeError::Refused)?;
            let text = admission_text(&record.admission)?;
            let about = [text.as_str()];
            let raised = self.change_session("resume", session, record.generation, &about).await?;
            if raised == 0 {
                // Another resume was faster, or the session's end has begun: look again.
                continue;
            }
            record.generation = raised;
            // From here on no older connection adds a room: those there are, are all.
            let Some(Kept { record: newest, .. }) = self.record(session).await? else {
                // Ended, or lost, in this moment: look again.
                continue;
            };
            record.rooms = newest.rooms;
            let fences = record.rooms.iter().map(|room| self.fence(room, &record));
            futures_util::future::try_join_all(fences).await?;
            return Ok(record);
        }
    }

    /// Whether a session without a record is unknown to everybody, too: not where Redis was emptied, or
    /// went on with less, until whoever has sessions has told it again.
    async fn is_told_all(&self, session: SessionId) -> Result<(), Unavailable> {
        let (_, slot) = session_keys(session);
        let shard = self.board.shard(slot)?;
        let is_there = match shard.beat() {
            Some((beat, slot)) if !shard.has_forgotten(self.clock.now()) => {
                // It may have been emptied since the last one.
                let asked = self.board.ask(slot, Held::ByOne, |calls, _| {
                    calls.get(&beat);
                });
                asked.await? == [Value::BulkString(b"1".to_vec())]
            }
            _ => false,
        };
        let lost = || Unavailable("redis has lost something, which is told again".to_owned());
        is_there.then_some(()).ok_or_else(lost)
    }

    async fn fence(&self, room: &RoomName, record: &SessionRecord) -> Result<(), Unavailable> {
        let RoomKeys { keys: [meta, .., past], channel, slot } = self.room_keys(room);
        let generation = record.generation.to_string();
        let (publish, kept) = (self.publish.to_owned(), millis(PAST_KEPT).to_string());
        let late = self.clock.now() + self.session_kept.saturating_sub(KEEP_MARGIN);
        let late = self.board.shard(slot)?.shift().to_there(late).to_string();
        let args = [record.peer.to_string(), generation, channel, publish, kept, late];
        let (keys, fence) = ([past, meta], &self.scripts.fence);
        self.board.script(slot, Held::ByReplicas, fence, &keys, &args).await.map(drop)
    }

    async fn record(&self, session: SessionId) -> Result<Option<Kept>, Unavailable> {
        let ([record, rooms, _], slot) = session_keys(session);
        let both = self.board.ask(slot, Held::ByOne, |calls, _| {
            calls.hgetall(&record).smembers(&rooms);
        });
        let Ok([fields, rooms]) = <[Value; 2]>::try_from(both.await?) else {
            return Err(garbled("a session"));
        };
        let read = || HashMap::<String, String>::from_redis_value(fields);
        let fields = read().map_err(|_| garbled("a session"))?;
        if fields.is_empty() || fields.contains_key("ended") {
            return Ok(None);
        }
        let rooms = room_names(rooms)?;
        let read = || {
            let record = SessionRecord {
                session,
                peer: PeerId::parse(fields.get("peer")?).ok()?,
                admission: serde_json::from_str(fields.get("admission")?).ok()?,
                secret_hash: SecretHash::from_text(fields.get("secret")?)?,
                generation: fields.get("generation")?.parse().ok()?,
                rooms,
            };
            Some(Kept { record, retired: fields.contains_key("retired") })
        };
        read().map(Some).ok_or_else(|| garbled("a session"))
    }

    pub(super) async fn end_session(&self, author: Author) -> Result<(), Unavailable> {
        let Author { session, generation, peer } = author;
        let (keys, slot) = session_keys(session);
        let both = self.board.ask(slot, Held::ByOne, |calls, _| {
            calls.hget(&keys[0], "generation").smembers(&keys[2]);
        });
        let Ok([recorded, rooms]) = <[Value; 2]>::try_from(both.await?) else {
            return Err(garbled("a session"));
        };
        let recorded = Option::<u64>::from_redis_value(recorded);
        let rooms = match recorded.map_err(|_| garbled("a session"))? {
            // It was lost, and recorded again by who speaks for it now.
            Some(newer) if newer > generation => return Ok(()),
            Some(_) => room_names(rooms)?,
            None => Vec::new(),
        };
        let forget = rooms.into_iter().map(async |room: RoomName| {
            let RoomKeys { keys: [.., past], slot, .. } = self.room_keys(&room);
            let fields = ["g", "s", "b", "h", "x"].map(|kind| format!("{kind}:{peer}"));
            let forget = self.board.ask(slot, Held::ByOne, |calls, _| {
                calls.hdel(&past, &fields);
            });
            forget.await.map(drop)
        });
        stream::iter(forget).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // The record last: an end that is cut short can be asked for again.
        self.change_session("end", session, generation, &[]).await.map(drop)
    }
}

fn room_names(told: Value) -> Result<Vec<RoomName>, Unavailable> {
    let names = Vec::<String>::from_redis_value(told).map_err(|_| garbled("a session"))?;
    let names = names.iter().map(|name| RoomName::parse(name).ok());
    names.collect::<Option<_>>().ok_or_else(|| garbled("a room's name"))
}
