//! Names drawn at random: sessions, peers, secrets, epochs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use handover_protocol::wire::{Epoch, PeerId, Secret, SessionId};
use ring::rand::{SecureRandom, SystemRandom};

/// The system's source of randomness.
#[derive(Debug)]
pub struct Identifiers {
    random: SystemRandom,
}

/// The system gave no randomness, without which no session can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;

impl Default for Identifiers {
    fn default() -> Self {
        Identifiers { random: SystemRandom::new() }
    }
}

impl Identifiers {
    /// A session's name: 96 bits.
    pub fn session(&self) -> Result<SessionId, NoRandomness> {
        SessionId::parse(&self.text::<12>()?).map_err(|_| NoRandomness)
    }

    /// A peer's name: 96 bits, so that nobody guesses who else is there.
    pub fn peer(&self) -> Result<PeerId, NoRandomness> {
        PeerId::parse(&self.text::<12>()?).map_err(|_| NoRandomness)
    }

    /// One life of a room's logs: 60 bits and more.
    pub fn epoch(&self) -> Result<Epoch, NoRandomness> {
        Epoch::parse(&self.text::<8>()?).map_err(|_| NoRandomness)
    }

    /// A session's secret: 256 bits.
    pub fn secret(&self) -> Result<Secret, NoRandomness> {
        self.text::<32>().map(Secret::new)
    }

    /// A number below `bound`, for spreading things out; not quite even.
    pub fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        // Without randomness everybody gets the same delay, which is worse but not wrong.
        let _ = self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }

    fn text<const BYTES: usize>(&self) -> Result<String, NoRandomness> {
        let mut bytes = [0; BYTES];
        self.random.fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }
}
