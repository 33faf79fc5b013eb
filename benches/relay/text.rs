//! What talkers say: the same JSON to the gateway and to the floor, with a body of 300 bytes
//! that tells its number and when it was sent.

use std::io::Write;
use std::time::Duration;

use crate::rig::line::Wire;

/// Bytes of a body.
pub const BODY: usize = 300;

const NUMBER_DIGITS: usize = 10;
const TIME_DIGITS: usize = 16;
const NUMBER_AT: usize = r#"{"n":""#.len();
const TIME_AT: usize = NUMBER_AT + NUMBER_DIGITS + r#"","t":""#.len();

/// One talker's lines.
pub struct Script {
    /// Up to the `seq`, if the lane has one.
    before_seq: String,
    has_seq: bool,
    /// From behind the `seq` to the body.
    behind_seq: String,
    padding: String,
    line: Vec<u8>,
}

impl Script {
    /// Lines for everybody else in `room`, or for one.
    pub fn new(wire: Wire, room: &str, to: Option<&str>) -> Script {
        let to = to.filter(|to| !to.is_empty());
        let to = to.map_or(String::new(), |to| format!(r#","to":"{to}""#));
        let has_seq = wire.is_reliable();
        let (before_seq, behind_seq) = if has_seq {
            let before = format!(r#"{{"type":"send","room":"{room}","lane":"signal","seq":"#);
            (before, format!(r#"{to},"body":"#))
        } else {
            (format!(r#"{{"type":"ephemeral","room":"{room}"{to},"body":"#), String::new())
        };
        let around = TIME_AT + TIME_DIGITS + r#"","pad":""}"#.len();
        let padding = "handover ".chars().cycle().take(BODY - around).collect();
        Script { before_seq, has_seq, behind_seq, padding, line: Vec::with_capacity(512) }
    }

    /// The line with this number, sent now.
    pub fn line(&mut self, number: u64, now: Duration) -> &str {
        let Script { before_seq, has_seq, behind_seq, padding, line } = self;
        line.clear();
        line.extend_from_slice(before_seq.as_bytes());
        if *has_seq {
            // Writing to memory does not fail.
            let _ = write!(line, "{number}");
        }
        line.extend_from_slice(behind_seq.as_bytes());
        let _ = write!(
            line,
            r#"{{"n":"{number:0NUMBER_DIGITS$}","t":"{:0TIME_DIGITS$}","pad":"{padding}"}}}}"#,
            now.as_nanos()
        );
        std::str::from_utf8(line).unwrap_or_default()
    }
}

/// A message's number and when it was sent. Both servers leave the body last, before one brace.
pub fn stamp(message: &[u8]) -> Option<(u64, Duration)> {
    let body = message.get(message.len().checked_sub(BODY + 1)?..)?;
    let number = digits(body.get(NUMBER_AT..NUMBER_AT + NUMBER_DIGITS)?)?;
    let sent = digits(body.get(TIME_AT..TIME_AT + TIME_DIGITS)?)?;
    Some((number, Duration::from_nanos(sent)))
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |number, &digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}
