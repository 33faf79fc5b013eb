//! What operators see: metrics, described once, and logs.

mod guard;
mod lines;
pub mod logs;
mod metrics;

pub use guard::{guarded, restarted};
pub use lines::{Lines, shown};
pub use metrics::{CONTENT_TYPE, Metrics};
