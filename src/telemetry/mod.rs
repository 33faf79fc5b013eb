//! What operators see: metrics, described once, and logs.

pub mod logs;
mod metrics;

pub use metrics::{CONTENT_TYPE, Metrics};
