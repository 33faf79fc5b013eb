//! Lines in the log that peers cause: only so many of them, and only so much of a peer's own words.

use std::sync::{Mutex, PoisonError};

use handover_protocol::pace::{Bucket, Rate};
use handover_protocol::time::Time;

/// What a line has of somebody's own words, in characters.
const SHOWN_MAX: usize = 160;

/// Bounds lines that anybody may cause. The metrics count what has no line.
#[derive(Debug)]
pub struct Lines(Mutex<Bucket>);

impl Lines {
    /// So many, none of which have been written.
    pub fn new(rate: Rate, now: Time) -> Self {
        Lines(Mutex::new(Bucket::new(rate, now)))
    }

    /// Whether there may be one more now.
    pub fn may_write(&self, now: Time) -> bool {
        // A bucket is whole after every call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now, 1).is_ok()
    }
}

/// The beginning of what may be in a peer's words. It is to be logged as a text (`field = shown(..)`),
/// so that its quotes and line ends are escaped in whatever form there is; `%` would not do that.
pub fn shown(text: &str) -> &str {
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_text_is_shown() {
        let long = "ü".repeat(1_000);
        assert_eq!(shown(&long), "ü".repeat(SHOWN_MAX));
        for text in ["", "lost", &"ü".repeat(SHOWN_MAX)] {
            assert_eq!(shown(text), text);
        }
    }
}
