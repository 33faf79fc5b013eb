//! The effective configuration as a file that could be loaded again.

use std::fmt::Write;

use super::settings::Row;

/// TOML with each value's place as a comment.
pub(super) fn print(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut section = "";
    for row in rows {
        let (of, name) = row.key.rsplit_once('.').unwrap_or(("", row.key));
        if of != section {
            section = of;
            line(&mut out, format_args!("\n[{section}]"));
        }
        match &row.value {
            Some(value) => line(&mut out, format_args!("{name} = {value} # {}", row.origin)),
            None => line(&mut out, format_args!("# {name} is not set")),
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}
