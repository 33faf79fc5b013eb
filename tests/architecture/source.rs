//! Reads the tree: which files there are, and which paths a Rust file names.
//!
//! Not a parser: comments, literals and test modules are blanked out, `use` trees are spread
//! out into whole paths, and `self` and `super` are resolved. That is enough to see who
//! imports whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One text file of the project.
#[derive(Clone, Debug)]
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    pub text: String,
}

/// What is made, fetched or minted here and not the project's own.
const FOREIGN: [&str; 7] =
    ["target", "node_modules", ".git", "out", "__pycache__", "certs", "corpus"];

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// Every text file of the project.
    pub fn all() -> Vec<Source> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = entry.file_type().unwrap();
                if FOREIGN.contains(&name.as_str()) {
                    continue;
                }
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    // A picture or an archive is no text, and no rule is about it.
                    let Ok(text) = fs::read_to_string(entry.path()) else { continue };
                    let path = entry.path();
                    let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                    found.push(Source { path, text });
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    pub fn is(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, end)| extensions.contains(&end))
    }

    pub fn under(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The paths that a Rust file names outside its tests.
    pub fn paths(&self) -> BTreeSet<String> {
        paths(&tokens(&without_tests(&blanked(&self.text)).0), &module(&self.path))
    }

    /// The files that hold test modules of this one.
    pub fn test_modules(&self) -> Vec<String> {
        let folder = match self.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let names = without_tests(&blanked(&self.text)).1;
        names.iter().map(|name| format!("{folder}/{name}")).collect()
    }
}

/// `src/transport/accept/tcp.rs` is `crate::transport::accept::tcp`.
fn module(path: &str) -> Vec<String> {
    let inside = path.rsplit_once("src/").map_or(path, |(_, inside)| inside);
    let mut module = vec!["crate".to_owned()];
    module.extend(inside.trim_end_matches(".rs").split('/').map(str::to_owned));
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// The text with comments and the insides of literals turned into spaces.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let starts = |at: usize, what: &str| {
        what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let blank = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    };
    while at < chars.len() {
        let from = at;
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < chars.len() && !starts(at, "*/") {
                at += 1;
            }
            at = (at + 2).min(chars.len());
        } else if let Some(hashes) = raw_string(&chars, at) {
            let end: String =
                std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at += hashes + 2;
            while at < chars.len() && !starts(at, &end) {
                at += 1;
            }
            at = (at + end.len()).min(chars.len());
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at = (at + 1).min(chars.len());
        } else if chars[at] == '\'' && is_char_literal(&chars, at) {
            at += 1;
            while at < chars.len() && chars[at] != '\'' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at = (at + 1).min(chars.len());
        } else {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        blank(&mut out, from, at);
    }
    out
}

/// The number of hashes if a raw string begins here.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let in_word = in_word && chars[at - 1] != 'b';
    if chars[at] != 'r' || in_word {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Otherwise it is a lifetime.
fn is_char_literal(chars: &[char], at: usize) -> bool {
    chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')
}

/// Blanked text without the items behind `#[cfg(test)]`, and the names of the modules among
/// them that are files.
fn without_tests(text: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut names) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let mut depth = 0_usize;
        let end = item.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, ';' | '}')).then_some(at + 1)
        });
        let end = end.unwrap_or(item.len());
        let words: Vec<&str> = item[..end].split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "mod")
            && let Some(name) = words.get(at + 1).and_then(|word| word.strip_suffix(';'))
        {
            names.push(name.to_owned());
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, names)
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut colon = false;
    for c in text.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            colon = false;
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if c == ':' && colon {
            tokens.pop();
            tokens.push("::".to_owned());
            colon = false;
        } else if !c.is_whitespace() {
            tokens.push(c.to_string());
            colon = c == ':';
        }
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Whole paths of two or more segments, from the crate's root or from an outer crate's name.
fn paths(tokens: &[String], module: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at = use_tree(tokens, at + 1, &[], module, &mut found);
        } else if is_word(&tokens[at]) && tokens.get(at + 1).is_some_and(|next| next == "::") {
            let mut path = vec![tokens[at].clone()];
            while tokens.get(at + 1).is_some_and(|token| token == "::")
                && tokens.get(at + 2).is_some_and(|token| is_word(token))
            {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            if path.len() > 1 {
                found.insert(resolved(&path, module));
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one tree from `at`; returns where it ends.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    module: &[String],
    found: &mut BTreeSet<String>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                // A `;` in there is no `use` tree but a macro's pattern.
                while tokens.get(at).is_some_and(|token| token != "}" && token != ";") {
                    at = use_tree(tokens, at, &path, module, found);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "as" => at += 2,
            "::" => at += 1,
            _ => {
                path.push(token.clone());
                at += 1;
            }
        }
    }
    if !path.is_empty() {
        found.insert(resolved(&path, module));
    }
    at
}

fn resolved(path: &[String], module: &[String]) -> String {
    let mut whole: Vec<&str> = Vec::new();
    for (at, segment) in path.iter().enumerate() {
        match segment.as_str() {
            "self" if at == 0 => whole.extend(module.iter().map(String::as_str)),
            "self" => {}
            "super" => {
                if at == 0 {
                    whole.extend(module.iter().map(String::as_str));
                }
                whole.pop();
            }
            other => whole.push(other),
        }
    }
    whole.join("::")
}

#[test]
fn paths_are_seen_through_every_spelling() {
    let source = Source::new(
        "src/transport/accept/tcp.rs",
        r##"
        //! use crate::comment::Only;
        use super::super::websocket::WebSocket;
        use crate::{router::{self, Router as Other}, clock::*};
        use ::bincode::config;
        /* use crate::broker::X; */
        const A: &str = "crate::text::Only"; const B: &str = r#"tokio::raw"#;
        fn f<'a>(x: &'a str) -> char { std::time::Instant::now(); '"' }
        #[cfg(test)]
        mod tests { use crate::broker::memory::MemoryBroker; fn f() {} }
        #[cfg(test)]
        mod cases;
        use self::inner::Last;
        "##,
    );
    let expected = [
        "bincode::config",
        "crate::clock::*",
        "crate::router",
        "crate::router::Router",
        "crate::transport::accept::tcp::inner::Last",
        "crate::transport::websocket::WebSocket",
        "std::time::Instant::now",
    ];
    assert_eq!(source.paths().iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(source.test_modules(), ["src/transport/accept/tcp/cases"]);
}
