//! Tokens: which are taken, and what they allow.

mod claims;
pub mod forge;
mod keys;
mod minting;
mod refused;
