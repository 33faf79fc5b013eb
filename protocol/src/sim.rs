//! Everything around the state machines, made up: a seed for chance, a clock that jumps, links
//! that lose and delay, and a gateway without tasks or sockets.
//!
//! A simulation is a function of its seed. Nothing here reads a clock or real randomness, so
//! a failure is run again by its seed alone.

pub mod fault;
pub mod gateway;
pub mod link;

pub use fault::Fault;
pub use gateway::{ConnectionId, Gateway};
pub use link::{Arrival, End, Link, Parcel};

/// Chance, from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The chance that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias is below 2^-32 for the bounds of a simulation.
        self.any().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(choices.len() as u64)).ok()?;
        choices.get(index).copied()
    }
}
