//! The house rules of `docs/architecture.md` and `CONTRIBUTING.md`, held by a test.
//!
//! Each rule is a function from a file to what is wrong with it, so that it can be shown to
//! catch what it is there for: the tests at the end plant an offence for every rule.

mod source;

use source::Source;

/// What one rule has against one file.
type Verdict = Vec<String>;

/// Lines a source file may have.
const LINES_MAX: usize = 600;
const CODE: [&str; 8] = ["rs", "js", "mjs", "cjs", "ts", "py", "sh", "lua"];

/// The names a module of `src/` may use from the rest of the crate. Those not listed are free:
/// `gateway` puts everything together, and the leaves are nobody's concern.
const LAYERS: [(&str, &[&str]); 7] = [
    ("auth", &["auth", "clock", "config", "telemetry"]),
    ("pressure", &["pressure", "clock", "telemetry"]),
    ("turns", &["turns", "clock"]),
    ("transport", &["transport", "clock", "pressure", "turns"]),
    ("broker", &["broker", "clock"]),
    ("router", &["router", "broker", "clock", "telemetry"]),
    (
        "connection",
        &[
            "connection",
            "transport",
            "router",
            "auth",
            "quality",
            "pressure",
            "turns",
            "clock",
            "telemetry",
        ],
    ),
];

/// What decides alone must not reach: tasks, sockets, clocks, chance, the system.
const OUTSIDE: [&str; 19] = [
    "tokio",
    "quinn",
    "wtransport",
    "redis",
    "rand",
    "getrandom",
    "rustls",
    "hyper",
    "tungstenite",
    "tokio_tungstenite",
    "async_std",
    "mio",
    "socket2",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "handover",
];
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// Who may name what is concrete; everybody else uses the traits.
const CONCRETE: [(&str, &str); 4] = [
    ("crate::transport::webtransport", "src/transport"),
    ("crate::transport::websocket", "src/transport"),
    ("crate::broker::memory", "src/broker"),
    ("crate::broker::redis", "src/broker"),
];

/// Libraries that stay behind one door.
const CONTAINED: [(&str, &[&str]); 5] = [
    ("bincode", &["protocol/src/wire/codec/"]),
    ("wtransport", &["src/transport/webtransport", "benches/"]),
    ("redis", &["src/broker/redis", "src/broker/conformance/", "tests/", "benches/"]),
    ("jsonwebtoken", &["src/auth", "tests/"]),
    ("libc", &["src/turns/slice.rs"]),
];

fn starts_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layers(file: &Source) -> Verdict {
    let Some(inside) = file.path.strip_prefix("src/") else { return Vec::new() };
    let own = inside.split(['/', '.']).next().unwrap_or_default();
    let Some((_, may)) = LAYERS.iter().find(|(layer, _)| *layer == own) else { return Vec::new() };
    let used = file.paths().into_iter().filter(|path| starts_with(path, "crate"));
    let foreign =
        used.filter(|path| path.split("::").nth(1).is_some_and(|module| !may.contains(&module)));
    foreign.map(|path| format!("`{own}` names `{path}`")).collect()
}

fn core(file: &Source) -> Verdict {
    if !file.under("protocol/src") {
        return Vec::new();
    }
    let forbidden = |path: &String| {
        let outside = OUTSIDE.iter().any(|name| starts_with(path, name));
        let clock = path.starts_with("std::time") && path.split("::").any(|s| CLOCKS.contains(&s));
        outside || clock
    };
    file.paths().into_iter().filter(forbidden).map(|path| format!("names `{path}`")).collect()
}

fn concrete(file: &Source) -> Verdict {
    if !file.under("src") || file.path == "src/gateway.rs" {
        return Vec::new();
    }
    let mut verdict = Vec::new();
    for path in file.paths() {
        for (what, home) in CONCRETE {
            if starts_with(&path, what) && !file.under(home) {
                verdict.push(format!("names `{path}`; only src/gateway.rs may"));
            }
        }
    }
    verdict
}

/// A transport knows nothing of the other one.
fn separate(file: &Source) -> Verdict {
    let pair =
        [("src/transport/webtransport", "websocket"), ("src/transport/websocket", "webtransport")];
    let mut verdict = Vec::new();
    for (home, other) in pair {
        let other = format!("crate::transport::{other}");
        if file.path.starts_with(home) {
            verdict.extend(file.paths().into_iter().filter(|path| starts_with(path, &other)));
        }
    }
    verdict.iter().map(|path| format!("names `{path}`")).collect()
}

fn contained(file: &Source) -> Verdict {
    let mut verdict = Vec::new();
    for (library, homes) in CONTAINED {
        if homes.iter().any(|home| file.path.starts_with(home)) {
            continue;
        }
        let named = file.paths().into_iter().filter(|path| starts_with(path, library));
        verdict.extend(named.map(|path| format!("names `{path}`, which belongs in {}", homes[0])));
    }
    verdict
}

fn names(file: &Source) -> Verdict {
    const VAGUE: [&str; 10] = [
        "util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "shared",
        "types",
    ];
    let vague = |part: &&str| VAGUE.contains(&part.split('.').next().unwrap_or_default());
    // `types/` is where declarations of the npm package are packed.
    let parts = file.path.split('/').filter(vague).filter(|part| *part != "types");
    parts.map(|part| format!("`{part}` says nothing about what is in it")).collect()
}

fn length(file: &Source) -> Verdict {
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        vec![format!("{lines} lines, more than {LINES_MAX}")]
    } else {
        Vec::new()
    }
}

/// Lines that contain one of `marks`.
fn lines_with(file: &Source, marks: &[&str], why: &str) -> Verdict {
    let mut verdict = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
            verdict.push(format!("line {}: `{mark}` {why}", at + 1));
        }
    }
    verdict
}

fn finished(file: &Source) -> Verdict {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    lines_with(file, &marks, "leaves something undone")
}

fn hidden(file: &Source) -> Verdict {
    let marks = [
        concat!("#[ig", "nore"),
        concat!("allow(dead", "_code"),
        concat!("allow(un", "used"),
        concat!("test.s", "kip"),
        concat!("it.s", "kip"),
        concat!("describe.s", "kip"),
        concat!("test.to", "do"),
        concat!("mark.s", "kip"),
        concat!("unittest.s", "kip"),
        concat!("self.skip", "Test"),
    ];
    lines_with(file, &marks, "can hide a failure")
}

/// The compiler refuses unsafe code wherever it is not allowed by name.
fn safe(file: &Source) -> Verdict {
    if file.path == "src/turns/slice.rs" {
        return Vec::new();
    }
    let marks = [concat!("allow(unsafe", "_code"), concat!("expect(unsafe", "_code")];
    lines_with(file, &marks, "belongs in src/turns/slice.rs alone")
}

/// A test that sleeps for a while is slow on a fast machine and wrong on a slow one.
fn waits(file: &Source) -> Verdict {
    let test = ["tests", "protocol/tests", "clients/rust/tests", "clients/web/test"];
    if !test.iter().any(|folder| file.under(folder)) {
        return Vec::new();
    }
    let mut verdict = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let slept = line.split("sleep(").skip(1);
        let fixed = |rest: &str| {
            rest.starts_with("Duration::from_") || rest.starts_with(|c: char| c.is_ascii_digit())
        };
        if slept.into_iter().any(fixed) {
            verdict.push(format!("line {}: a fixed sleep; wait for the event", at + 1));
        }
    }
    verdict
}

fn places(file: &Source) -> Verdict {
    let machines =
        [concat!("/wo", "rk/"), concat!("/tm", "p/"), concat!("/ro", "ot/"), concat!("/fa", "rm/")];
    let mut verdict = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        for machine in machines {
            let whole = line.match_indices(machine).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_ascii_lowercase() || c == '.' || c == '}')
            });
            if whole {
                verdict.push(format!("line {}: `{machine}` exists on one machine only", at + 1));
            }
        }
    }
    verdict
}

/// Where a package comes from is the affair of whoever installs it.
fn registries(file: &Source) -> Verdict {
    if !file.path.ends_with("package-lock.json") {
        return Vec::new();
    }
    lines_with(file, &["\"resolved\": \"http"], "names a registry")
}

/// Has `rule` look at every one of `files`.
fn hold<'a>(files: impl IntoIterator<Item = &'a Source>, rule: impl Fn(&Source) -> Verdict) {
    let mut offences = Vec::new();
    let mut looked = 0;
    for file in files {
        looked += 1;
        offences.extend(rule(file).into_iter().map(|what| format!("{}: {what}", file.path)));
    }
    assert!(looked > 0, "the rule looked at no file");
    assert!(offences.is_empty(), "\n  {}\n", offences.join("\n  "));
}

/// The Rust files of the project without those that hold tests alone.
fn rust(files: &[Source]) -> Vec<Source> {
    let rust: Vec<&Source> = files.iter().filter(|file| file.is(&["rs"])).collect();
    let tests: Vec<String> = rust.iter().flat_map(|file| file.test_modules()).collect();
    let of_tests = |file: &Source| {
        tests.iter().any(|test| {
            file.path == format!("{test}.rs") || file.path.starts_with(&format!("{test}/"))
        })
    };
    rust.into_iter().filter(|file| !of_tests(file)).cloned().collect()
}

#[test]
fn each_layer_names_only_the_layers_below() {
    hold(&rust(&Source::all()), layers);
}

#[test]
fn what_decides_knows_no_socket_clock_or_task() {
    hold(&rust(&Source::all()), core);
}

#[test]
fn only_the_gateway_names_what_is_concrete() {
    hold(&rust(&Source::all()), concrete);
}

#[test]
fn the_transports_do_not_know_each_other() {
    hold(&rust(&Source::all()), separate);
}

#[test]
fn contained_libraries_stay_behind_their_door() {
    hold(&rust(&Source::all()), contained);
}

#[test]
fn a_file_is_named_after_what_is_in_it() {
    hold(Source::all().iter().filter(|file| file.is(&CODE)), names);
}

#[test]
fn no_source_file_is_too_long_to_read() {
    hold(Source::all().iter().filter(|file| file.is(&CODE)), length);
}

#[test]
fn nothing_is_left_undone() {
    hold(Source::all().iter().filter(|file| file.is(&CODE)), finished);
}

#[test]
fn nothing_hides_a_failure() {
    hold(Source::all().iter().filter(|file| file.is(&CODE)), hidden);
}

#[test]
fn unsafe_code_is_in_one_place() {
    hold(Source::all().iter().filter(|file| file.is(&["rs"])), safe);
}

#[test]
fn tests_wait_for_events() {
    hold(Source::all().iter().filter(|file| file.is(&CODE)), waits);
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    hold(&Source::all(), places);
}

#[test]
fn lock_files_name_no_registry() {
    hold(&Source::all(), registries);
}

#[test]
fn every_rule_sees_its_offence() {
    type Rule = fn(&Source) -> Verdict;
    let long = "\n".repeat(LINES_MAX + 1);
    let offences: [(Rule, &str, &str); 23] = [
        (layers, "src/transport/mod.rs", "use super::router::Router;"),
        (layers, "src/transport/accept/tcp.rs", "fn f() { crate::auth::check() }"),
        (layers, "src/broker/memory.rs", "use crate::{clock::Clock, transport::Kind};"),
        (layers, "src/router/mod.rs", "use crate::transport::Kind;"),
        (core, "protocol/src/room/mod.rs", "use tokio::sync::mpsc;"),
        (core, "protocol/src/room/mod.rs", "use std::{collections::BTreeMap, time::Instant};"),
        (core, "protocol/src/sim.rs", "fn f() -> u64 { rand::random() }"),
        (core, "protocol/src/time.rs", "fn now() { std::time::SystemTime::now() }"),
        (concrete, "src/connection.rs", "use crate::transport::websocket::WebSocket;"),
        (concrete, "src/router/mod.rs", "use crate::broker::memory::MemoryBroker;"),
        (separate, "src/transport/websocket/mod.rs", "use super::webtransport::Lane;"),
        (contained, "src/connection.rs", "use bincode::config;"),
        (contained, "src/http/mod.rs", "fn f(s: wtransport::Connection) {}"),
        (names, "src/router/utils.rs", ""),
        (length, "src/connection.rs", &long),
        (finished, "src/connection.rs", concat!("// TO", "DO: the rest")),
        (hidden, "tests/gateway/order.rs", concat!("#[ig", "nore]")),
        (contained, "src/turns.rs", "fn f() { libc::abort() }"),
        (safe, "src/turns.rs", concat!("#![allow(unsafe", "_code)]")),
        (waits, "tests/gateway/order.rs", concat!("sleep", "(Duration::from_millis(5)).await;")),
        (places, "docs/operations.md", concat!("cd /wo", "rk/main")),
        (places, "tests/run", concat!("exec /tm", "p/x")),
        (
            registries,
            "clients/web/package-lock.json",
            "\"resolved\": \"https://registry.example/\"",
        ),
    ];
    for (rule, path, text) in offences {
        assert!(!rule(&Source::new(path, text)).is_empty(), "{path} went by: {text}");
    }
    let fine: [(Rule, &str, &str); 7] = [
        (layers, "src/transport/mod.rs", "use crate::clock::Clock; // not crate::router::Router"),
        (core, "protocol/src/room/mod.rs", "use std::time::Duration; use crate::time::Time;"),
        (core, "protocol/src/lib.rs", "#[cfg(test)] mod tests { use std::fs::read; }"),
        (concrete, "src/gateway.rs", "use crate::broker::memory::MemoryBroker;"),
        (contained, "protocol/src/wire/codec/bincode/mod.rs", "use ::bincode::config;"),
        (names, "clients/web/types/index.d.ts", ""),
        (waits, "tests/gateway/order.rs", "tokio::time::sleep(step).await;"),
    ];
    for (rule, path, text) in fine {
        assert_eq!(rule(&Source::new(path, text)), Verdict::new(), "{path}: {text}");
    }
}
