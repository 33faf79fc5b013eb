//! What operators see: metrics, described once, and logs.

mod guard;
pub mod logs;
mod metrics;

pub use guard::{guarded, restarted};
pub use metrics::{CONTENT_TYPE, Metrics};
