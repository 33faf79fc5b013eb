//! The structured fields (RFC 8941) in which WebTransport agrees on a sub-protocol.

use handover_protocol::wire::Codec;

/// What the client offers.
pub(super) const AVAILABLE: &str = "wt-available-protocols";
/// What we chose.
pub(super) const CHOSEN: &str = "wt-protocol";

/// What a client's offer of sub-protocols comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Nothing offered, or nothing that can be read: a field that is no list of strings counts
    /// as absent.
    None,
    /// The first one known, in the client's order.
    Known(Codec),
    /// Some offered, none known.
    Unknown,
}

/// Reads `wt-available-protocols`.
pub(super) fn offer(field: Option<&str>) -> Offer {
    let Some(names) = field.and_then(strings) else { return Offer::None };
    if names.is_empty() {
        return Offer::None;
    }
    match names.iter().find_map(|name| Codec::from_subprotocol(name)) {
        Some(codec) => Offer::Known(codec),
        None => Offer::Unknown,
    }
}

/// The value of `wt-protocol`.
pub(super) fn answer(codec: Codec) -> String {
    format!("\"{}\"", codec.subprotocol())
}

/// A list whose members are all strings; their parameters are passed over.
fn strings(field: &str) -> Option<Vec<String>> {
    let mut rest = field.trim_matches(' ');
    let mut names = Vec::new();
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let (name, behind) = string(rest)?;
        names.push(name);
        rest = parameters(behind)?.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
    }
}

/// One string, and what comes behind it.
fn string(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                escaped @ ('"' | '\\') => value.push(escaped),
                _ => return None,
            },
            ' '..='~' => value.push(c),
            _ => return None,
        }
    }
    None
}

/// What comes behind the parameters of a member.
fn parameters(mut text: &str) -> Option<&str> {
    while let Some(parameter) = text.strip_prefix(';') {
        let parameter = parameter.trim_start_matches(' ');
        let key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c);
        let behind = parameter.trim_start_matches(key);
        if behind.len() == parameter.len() {
            return None;
        }
        text = match behind.strip_prefix('=') {
            None => behind,
            Some(value) if value.starts_with('"') => string(value)?.1,
            Some(value) => {
                value.trim_start_matches(|c: char| c.is_ascii_graphic() && c != ',' && c != ';')
            }
        };
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_name_decides() {
        for (field, expected) in [
            ("\"handover.v1.json\"", Offer::Known(Codec::Json)),
            ("\"handover.v1.bincode\" , \"handover.v1.json\"", Offer::Known(Codec::Bincode)),
            ("\"x\",\t\"handover.v1.json\"", Offer::Known(Codec::Json)),
            ("\"x\";q=0.5;a, \"handover.v1.json\";b=\",\"", Offer::Known(Codec::Json)),
            ("\"handover\\\"\"", Offer::Unknown),
            ("\"handover.v2.json\"", Offer::Unknown),
        ] {
            assert_eq!(offer(Some(field)), expected, "{field}");
        }
    }

    #[test]
    fn what_is_no_list_of_strings_counts_as_absent() {
        for field in [
            "",
            "handover.v1.json",
            "\"handover.v1.json",
            "\"handover.v1.json\",",
            "\"handover.v1.json\" \"x\"",
            "\"handover.v1.json\", token",
            "(\"handover.v1.json\")",
            "\"a\\b\"",
            "\"handover.v1.json\";",
            "\"é\"",
        ] {
            assert_eq!(offer(Some(field)), Offer::None, "{field}");
        }
        assert_eq!(offer(None), Offer::None);
    }
}
