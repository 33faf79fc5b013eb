//! How a thread has Linux take it into account: the only unsafe code of this crate.
//!
//! `sched_setattr(2)` is the one way to ask for a slice, and neither the standard library nor a safe
//! binding has it. Since Linux 6.12 (EEVDF) a thread that asks for a short one goes on at once when it
//! wakes while one with a longer one runs, instead of at the next tick, and has no more of the
//! processor for it. Older systems take what is asked and do as before.

#![expect(unsafe_code, reason = "two system calls that nothing safe offers")]

use std::io;
use std::mem;
use std::time::Duration;

/// The system knows no less favour than this.
const NICEST: i32 = 19;

/// What the calling thread has asked for.
fn present() -> io::Result<libc::sched_attr> {
    // SAFETY: it consists of integers alone.
    let mut attr: libc::sched_attr = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&attr);
    // SAFETY: 0 is the calling thread; the system writes no more than `size` bytes, which are there.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if done == 0 { Ok(attr) } else { Err(io::Error::last_os_error()) }
}

/// Steps back by so much, from where the calling thread is, and asks for slices of that length (the
/// system grants 0.1 to 100 ms). A thread that somebody has put into a class of its own (real time,
/// idle) is left there.
///
/// # Errors
/// What the system says, where it does not let threads ask.
pub(super) fn ask(nicer: i32, slice: Duration) -> io::Result<()> {
    let mut attr = present()?;
    if attr.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attr.sched_nice = (attr.sched_nice + nicer).min(NICEST);
    attr.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: 0 is the calling thread; the system only reads `attr`, whose size is in it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How nice the calling thread is and how long its slices are, as the system says: nothing of the
/// latter before Linux 6.12.
#[cfg(test)]
pub(super) fn of_this_thread() -> io::Result<(i32, Duration)> {
    present().map(|attr| (attr.sched_nice, Duration::from_nanos(attr.sched_runtime)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_granted_and_nobody_is_nicer_than_the_nicest() {
        let (nice, _) = of_this_thread().unwrap();
        for more in [0, 3, 40] {
            std::thread::spawn(move || {
                ask(more, Duration::from_millis(1)).unwrap();
                let (now, slice) = of_this_thread().unwrap();
                assert_eq!(now, (nice + more).min(NICEST));
                assert!(slice.is_zero() || slice == Duration::from_millis(1), "{slice:?}");
            })
            .join()
            .unwrap();
        }
        assert_eq!(of_this_thread().unwrap().0, nice, "one thread's wish is its own");
    }
}
