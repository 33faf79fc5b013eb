//! Requests that wait for their answer: repeated on every new connection until it comes.
//!
//! All of them may be applied twice without harm, which is why nobody has to know whether an
//! answer was lost on its way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::output::RequestId;
use super::sends::RETRY_DEFAULT;
use crate::time::Time;
use crate::wire::message::Error;
use crate::wire::{Json, RoomName, Secret};

/// A request of the user is given up after it has been told "later" so often.
const TRIES_MAX: u32 = 8;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    Join(RoomName),
    Leave(RoomName),
    Update(RoomName, Json),
    Members(RoomName),
    Ice,
    Refresh(Secret),
    Ping,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    User,
    /// The session, for its own upkeep.
    Session,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) asker: Asker,
    tries: u32,
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// It may go out.
    None,
    /// Not before this.
    Until(Time),
    /// Not before [`Requests::release`].
    Withheld,
}

/// Requests by number.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: u64,
    open: BTreeMap<u64, Request>,
    /// Those that have not gone out on the present connection, in order.
    unsent: VecDeque<u64>,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The last one that was made.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Takes out what brings a token and was made up to `last`.
    pub(super) fn remove_refreshes(&mut self, last: u64) -> Vec<(u64, Request)> {
        let brings = |_: &u64, request: &mut Request| matches!(request.ask, Ask::Refresh(_));
        self.open.extract_if(..=last, brings).collect()
    }

    /// Adds a request that may go out at once.
    pub(super) fn push(&mut self, ask: Ask, asker: Asker) -> RequestId {
        let id = self.insert(ask, asker, Hold::None);
        self.unsent.push_back(id.0);
        id
    }

    /// Adds a request that waits for [`Requests::release`].
    pub(super) fn withhold(&mut self, ask: Ask, asker: Asker) -> RequestId {
        self.insert(ask, asker, Hold::Withheld)
    }

    fn insert(&mut self, ask: Ask, asker: Asker, hold: Hold) -> RequestId {
        self.last += 1;
        self.open.insert(self.last, Request { ask, asker, tries: 0, hold });
        RequestId(self.last)
    }

    /// Lets a withheld request go out.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some(request) = self.open.get_mut(&id.0)
            && request.hold == Hold::Withheld
        {
            request.hold = Hold::None;
            self.unsent.push_back(id.0);
        }
    }

    /// The next one to go out.
    pub(super) fn transmit(&mut self) -> Option<(RequestId, &Ask)> {
        while let Some(id) = self.unsent.pop_front() {
            if self.open.contains_key(&id) {
                return self.open.get(&id).map(|request| (RequestId(id), &request.ask));
            }
        }
        None
    }

    /// A new connection: everything unanswered goes out again, in order.
    pub(super) fn repeat(&mut self) {
        self.unsent.clear();
        let free = self.open.iter().filter(|(_, request)| request.hold == Hold::None);
        self.unsent.extend(free.map(|(id, _)| *id));
    }

    /// It is answered.
    pub(super) fn remove(&mut self, id: u64) -> Option<Request> {
        self.open.remove(&id)
    }

    /// Every request that `is` picks, taken out.
    pub(super) fn remove_all(&mut self, is: impl Fn(&Request) -> bool) -> Vec<(u64, Request)> {
        self.open.extract_if(.., |_, request| is(request)).collect()
    }

    /// It was told "later". Returns whether it will be tried again.
    pub(super) fn postpone(&mut self, now: Time, id: u64, error: &Error) -> bool {
        let Some(request) = self.open.get_mut(&id) else { return false };
        request.tries += 1;
        if request.asker == Asker::User && request.tries >= TRIES_MAX {
            return false;
        }
        let wait = error.retry_after.map_or(RETRY_DEFAULT, Duration::from_millis);
        request.hold = Hold::Until(now + wait);
        true
    }

    /// When [`Requests::handle_timeout`] has something to do.
    pub(super) fn due(&self) -> Option<Time> {
        let until = |request: &Request| match request.hold {
            Hold::Until(until) => Some(until),
            Hold::None | Hold::Withheld => None,
        };
        self.open.values().filter_map(until).min()
    }

    /// Lets those go out whose time has come.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        for (id, request) in &mut self.open {
            if matches!(request.hold, Hold::Until(until) if now >= until) {
                request.hold = Hold::None;
                self.unsent.push_back(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ErrorCode;
    use crate::wire::message::Reference;

    fn sent(requests: &mut Requests) -> Vec<u64> {
        std::iter::from_fn(|| requests.transmit().map(|(id, _)| id.0)).collect()
    }

    fn busy() -> Error {
        Error {
            code: ErrorCode::Unavailable,
            message: String::new(),
            reference: Reference::default(),
            retry_after: Some(500),
            expected: None,
        }
    }

    #[test]
    fn unanswered_ones_are_repeated_in_order() {
        let mut requests = Requests::default();
        for _ in 0..3 {
            requests.push(Ask::Ice, Asker::User);
        }
        let withheld = requests.withhold(Ask::Ping, Asker::User);
        assert_eq!(sent(&mut requests), [1, 2, 3]);
        requests.remove(2);
        requests.repeat();
        assert_eq!(sent(&mut requests), [1, 3]);
        requests.release(withheld);
        requests.release(withheld);
        assert_eq!(sent(&mut requests), [4]);
    }

    #[test]
    fn later_is_tried_again_but_not_for_ever() {
        let mut requests = Requests::default();
        requests.push(Ask::Ice, Asker::User);
        let mut now = Time::ZERO;
        let mut tries = 0;
        loop {
            tries += sent(&mut requests).len();
            if !requests.postpone(now, 1, &busy()) {
                break;
            }
            assert!(sent(&mut requests).is_empty());
            assert_eq!(requests.due(), Some(now + Duration::from_millis(500)));
            now = now + Duration::from_millis(500);
            requests.handle_timeout(now);
        }
        assert_eq!(tries, TRIES_MAX as usize);
    }
}
