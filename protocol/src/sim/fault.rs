//! Bugs on purpose, to show that a simulation finds them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Rng;
use crate::room::entry::{Entry, Event};
use crate::room::log::Read;

/// A bug that a gateway can be made to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A reader of a log is not given an entry.
    Lost,
    /// A reader of a log is given an entry twice.
    Repeated,
    /// A reader of a log is given two entries in the wrong order.
    Swapped,
    /// A directed entry goes to everybody.
    Leaked,
    /// A send that was applied is applied again when it is repeated.
    AppliedTwice,
    /// A send is answered as accepted and not applied.
    AcceptedUnapplied,
}

/// Decides when the fault strikes.
#[derive(Clone, Debug, Default)]
pub(super) struct Saboteur(Option<Rc<(Fault, RefCell<Rng>)>>);

impl Saboteur {
    pub(super) fn new(fault: Fault, seed: u64) -> Self {
        Saboteur(Some(Rc::new((fault, RefCell::new(Rng::new(seed))))))
    }

    /// Whether `fault` strikes now.
    pub(super) fn strikes(&self, fault: Fault) -> bool {
        const RARITY: u64 = 10;
        self.0
            .as_deref()
            .is_some_and(|(armed, rng)| *armed == fault && rng.borrow_mut().one_in(RARITY))
    }
}

/// What the faults have done to one reader of one lane's log.
#[derive(Debug, Default)]
pub(super) struct Tampering {
    /// Entries are read from so many places further back than asked for, and renumbered.
    behind: Cell<u64>,
    /// The offset of the later of two entries in the wrong order.
    swapped: Cell<Option<u64>>,
}

impl Tampering {
    /// Reads what follows `after`, or something else.
    pub(super) fn read(&self, by: &Saboteur, after: u64, log: impl Fn(u64) -> Read) -> Read {
        let source = after.saturating_sub(self.behind.get());
        let honest = log(source);
        let Read::Entry(entry) = &honest else { return honest };
        if self.swapped.get() == Some(after + 1)
            && let Read::Entry(earlier) = log(source - 1)
        {
            self.swapped.set(None);
            return renumbered(&earlier, after + 1);
        }
        if let Read::Entry(later) = log(source + 1) {
            if by.strikes(Fault::Lost) {
                return renumbered(&later, later.offset + self.behind.get());
            }
            if by.strikes(Fault::Swapped) {
                self.swapped.set(Some(after + 2));
                return renumbered(&later, after + 1);
            }
        }
        if source > 0 && by.strikes(Fault::Repeated) {
            self.behind.set(self.behind.get() + 1);
            return self.read(&Saboteur::default(), after, log);
        }
        if let Event::Message { seq, to: Some(_), body } = &entry.event
            && by.strikes(Fault::Leaked)
        {
            let event = Event::Message { seq: *seq, to: None, body: body.clone() };
            return Read::Entry(Arc::new(copy(entry, after + 1, event)));
        }
        match self.behind.get() {
            0 => honest,
            _ => renumbered(entry, after + 1),
        }
    }
}

fn renumbered(entry: &Entry, offset: u64) -> Read {
    Read::Entry(Arc::new(copy(entry, offset, entry.event.clone())))
}

fn copy(entry: &Entry, offset: u64, event: Event) -> Entry {
    Entry::new(entry.room.clone(), entry.lane, entry.epoch, offset, entry.at, entry.peer, event)
}
