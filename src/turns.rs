//! Whose turn comes first while there is not time for everybody.
//!
//! A runtime's queue knows no priority: behind a thousand tasks of strangers, the one of a call waits
//! for all of them. So there are two sets of threads. The first serve the rooms, and the connections
//! of sessions within the line ([`crate::pressure`]). The others serve whoever has not said who he is
//! yet, with what his handshakes take, and whoever says more than that. The system runs
//! those with what the first leave, and lets the first begin as soon as they have something to do (on
//! Linux; elsewhere it treats both alike).
//!
//! All tasks of one connection have one [`Rank`]. When that changes, each goes over to the other
//! threads by itself, at its next turn.

#[cfg(target_os = "linux")]
mod slice;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use handover_protocol::time::Time;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::clock::Clock;

/// How much less the system favours the other threads: while both have work, these get a quarter, and less
/// where they give the rest of their slices away ([`give_way`]).
const NICE: i32 = 5;
/// The shortest slice there is: what comes first takes little time, and is not to wait for the end of
/// somebody's slice.
const SLICE_FIRST: Duration = Duration::from_micros(100);
/// Longer, so that the first go on at once, and no longer than what may be given away again and again.
const SLICE_OTHER: Duration = Duration::from_micros(300);

/// How long a thread goes on before it has the system look whether another one waits that comes first. One
/// that wakes goes on at once unless it has just had more than its part: then when the system looks again by
/// itself, which is at the next tick, 4 ms later on many. That holds for the first among themselves, too.
const LOOK_EVERY: Duration = Duration::from_micros(100);

tokio::task_local! {
    static RANK: Rank;
}

thread_local! {
    /// When this thread has last had the system look.
    static LOOKED: Cell<Option<Time>> = const { Cell::new(None) };
}

/// Which threads serve a connection. Clones agree.
#[derive(Clone, Debug, Default)]
pub struct Rank(Arc<AtomicBool>);

impl Rank {
    /// That of the connection whose task asks.
    pub fn current() -> Option<Rank> {
        RANK.try_with(Rank::clone).ok()
    }

    /// Whether the first threads are to serve it from now on; what it was before. To begin with, they
    /// do not.
    pub fn set_first(&self, first: bool) -> bool {
        self.0.swap(first, Ordering::Relaxed)
    }

    /// Does something for a connection: tasks that it starts are of this rank.
    pub fn on_behalf<T>(&self, act: impl FnOnce() -> T) -> T {
        RANK.sync_scope(self.clone(), act)
    }

    fn is_first(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A runtime whose threads are the first, to be built.
pub fn first() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().on_thread_start(come_first);
    builder
}

/// Has the system wake the calling thread as it does the first.
pub fn come_first() {
    ask(0, SLICE_FIRST);
}

/// Both sets of threads, to start tasks on.
#[derive(Clone, Debug)]
pub struct Turns {
    first: Handle,
    other: Handle,
    clock: Clock,
}

impl Turns {
    /// The first threads are those of the runtime it is called on ([`first`]). The others end when the
    /// second of what is returned is dropped.
    pub fn start() -> io::Result<(Turns, OtherThreads)> {
        let first = Handle::current();
        let other = Builder::new_multi_thread()
            .worker_threads(first.metrics().num_workers())
            .thread_name("handover-other")
            .enable_time()
            .on_thread_start(|| ask(NICE, SLICE_OTHER))
            .build()?;
        let turns = Turns { first, other: other.handle().clone(), clock: Clock::start() };
        Ok((turns, OtherThreads(Some(other))))
    }

    /// The same threads for all.
    #[cfg(test)]
    pub(crate) fn undivided() -> Turns {
        Turns { first: Handle::current(), other: Handle::current(), clock: Clock::start() }
    }

    /// The threads of rooms, timers and sockets.
    pub fn first(&self) -> &Handle {
        &self.first
    }

    /// The others.
    pub fn other(&self) -> &Handle {
        &self.other
    }

    /// Starts a task of the connection that has this rank.
    pub fn begin(&self, rank: Rank, task: impl Future<Output = ()> + Send + 'static) {
        let task = Box::pin(RANK.scope(rank.clone(), task));
        Ranked { task: Some(task), rank, is_first: false, turns: self.clone() }.place();
    }

    /// Starts another task of the connection that the caller belongs to. One that belongs to none is
    /// served by the first threads.
    pub fn go_on(&self, task: impl Future<Output = ()> + Send + 'static) {
        match Rank::current() {
            Some(rank) => self.begin(rank, task),
            None => drop(self.first.spawn(task)),
        }
    }
}

/// To be called between two things that are done for somebody: every 0.1 ms whoever waits and comes before
/// this thread goes on.
pub fn give_way(clock: &Clock) {
    let now = clock.now();
    if LOOKED.get().is_none_or(|looked| now.since(looked) >= LOOK_EVERY) {
        std::thread::yield_now();
        LOOKED.set(Some(clock.now()));
    }
}

/// The others' threads.
#[derive(Debug)]
pub struct OtherThreads(Option<Runtime>);

/// How long the end of the others is waited for: nothing on them takes that long in one turn.
const END_WITHIN: Duration = Duration::from_secs(1);

impl Drop for OtherThreads {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        // Before this returns they have ended: timers of what they serve belong to the first threads,
        // and are nothing to ask once those are gone. A runtime does not let itself be waited for on
        // one's own thread, which may be a runtime's.
        let ended = std::thread::Builder::new().spawn(move || runtime.shutdown_timeout(END_WITHIN));
        let _ = ended.map(std::thread::JoinHandle::join);
    }
}

/// A task that changes threads with its rank.
struct Ranked {
    /// Absent once it has gone over.
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    rank: Rank,
    is_first: bool,
    turns: Turns,
}

impl Ranked {
    fn place(mut self) {
        self.is_first = self.rank.is_first();
        let threads = if self.is_first { &self.turns.first } else { &self.turns.other };
        threads.clone().spawn(self);
    }

    /// Whether it has gone over to where it belongs.
    fn goes_over(&mut self) -> bool {
        if self.is_first == self.rank.is_first() {
            return false;
        }
        let (rank, turns) = (self.rank.clone(), self.turns.clone());
        Ranked { task: self.task.take(), rank, is_first: false, turns }.place();
        true
    }
}

impl Future for Ranked {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.goes_over() {
            return Poll::Ready(());
        }
        give_way(&self.turns.clock);
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        if task.as_mut().poll(cx).is_ready() || self.goes_over() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Tells the system about this thread. Nobody is refused to step back; where it cannot be done all the
/// same, all are treated alike.
fn ask(nicer: i32, slice: Duration) {
    #[cfg(target_os = "linux")]
    let _ = slice::ask(nicer, slice);
    #[cfg(not(target_os = "linux"))]
    let _ = (nicer, slice);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::sync::mpsc;

    use super::*;

    /// Whether the asking task is on the other threads.
    fn is_other() -> bool {
        std::thread::current().name() == Some("handover-other")
    }

    async fn next(told: &mut mpsc::UnboundedReceiver<bool>) -> bool {
        let told = tokio::time::timeout(Duration::from_secs(10), told.recv());
        told.await.expect("it goes on").unwrap()
    }

    #[tokio::test]
    async fn a_task_goes_where_its_rank_says() {
        let (turns, _threads) = Turns::start().unwrap();
        let (ask, mut asked) = mpsc::unbounded_channel::<bool>();
        let (tell, mut told) = mpsc::unbounded_channel();
        turns.begin(Rank::default(), async move {
            let rank = Rank::current().unwrap();
            tell.send(is_other()).unwrap();
            while let Some(first) = asked.recv().await {
                rank.set_first(first);
                tokio::task::yield_now().await;
                tell.send(is_other()).unwrap();
            }
        });
        assert!(next(&mut told).await, "strangers are served by the others");
        for first in [true, true, false, false, true] {
            ask.send(first).unwrap();
            assert_eq!(next(&mut told).await, !first);
        }
    }

    #[tokio::test]
    async fn the_tasks_of_a_connection_stay_together() {
        let (turns, _threads) = Turns::start().unwrap();
        let (wake, mut woken) = mpsc::unbounded_channel::<()>();
        let (tell, mut told) = mpsc::unbounded_channel();
        let (say, mut said) = mpsc::unbounded_channel();
        let again = turns.clone();
        turns.begin(Rank::default(), async move {
            again.go_on(async move {
                tell.send(is_other()).unwrap();
                while woken.recv().await.is_some() {
                    tell.send(is_other()).unwrap();
                }
            });
            Rank::current().unwrap().set_first(true);
            tokio::task::yield_now().await;
            say.send(is_other()).unwrap();
        });
        assert!(!next(&mut said).await);
        next(&mut told).await;
        wake.send(()).unwrap();
        assert!(!next(&mut told).await, "the second goes over, too");
    }

    #[test]
    fn way_is_given_now_and_then() {
        let clock = Clock::start();
        let looked = || {
            let before = LOOKED.get();
            while LOOKED.get() == before {
                give_way(&clock);
            }
            LOOKED.get().unwrap()
        };
        let mut before = looked();
        for _ in 0..20 {
            let next = looked();
            assert!(next.since(before) >= LOOK_EVERY, "a call to the system at every turn");
            before = next;
        }
    }

    #[tokio::test]
    async fn the_first_give_way_to_each_other() {
        let (turns, _threads) = Turns::start().unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let rank = Rank::default();
        rank.set_first(true);
        turns.begin(rank, async move {
            tell.send(!is_other() && LOOKED.get().is_some()).unwrap();
        });
        assert!(next(&mut told).await);
    }

    #[tokio::test]
    async fn what_belongs_to_no_connection_is_served_first() {
        let (turns, _threads) = Turns::start().unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        turns.go_on(async move { tell.send(is_other()).unwrap() });
        assert!(!next(&mut told).await);
    }

    #[test]
    fn the_others_have_ended_before_the_first_do() {
        for _ in 0..50 {
            let first = first().worker_threads(2).build().unwrap();
            let busy = first.block_on(async {
                let (turns, threads) = Turns::start().unwrap();
                let count = Arc::new(AtomicU64::new(0));
                for _ in 0..20 {
                    let (of_first, count) = (turns.first().clone(), count.clone());
                    turns.begin(Rank::default(), async move {
                        loop {
                            let asleep = {
                                let _first = of_first.enter();
                                tokio::time::sleep(Duration::from_micros(50))
                            };
                            asleep.await;
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                while count.load(Ordering::Relaxed) < 100 {
                    tokio::task::yield_now().await;
                }
                drop(threads);
                count
            });
            let at_the_end = busy.load(Ordering::Relaxed);
            drop(first);
            assert_eq!(busy.load(Ordering::Relaxed), at_the_end, "nobody is served any more");
            assert_eq!(Arc::strong_count(&busy), 1, "and nothing is left");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_others_step_back_and_the_first_begin_at_once() {
        let here = || slice::of_this_thread().unwrap();
        let (nice, _) = here();
        let (first, other) = first().build().unwrap().block_on(async {
            let (turns, _threads) = Turns::start().unwrap();
            let of = |threads: &Handle| threads.spawn(async move { here() });
            (of(turns.first()).await.unwrap(), of(turns.other()).await.unwrap())
        });
        assert_eq!((first.0, other.0), (nice, (nice + NICE).min(19)));
        // Zero is what a system says that knows nothing of slices.
        if !first.1.is_zero() {
            assert_eq!((first.1, other.1), (SLICE_FIRST, SLICE_OTHER));
        }
        assert_eq!(here().0, nice, "and nobody else");
    }
}
