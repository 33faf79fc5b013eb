//! The command as an operator meets it: what it prints, how it refuses, how it ends.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::process::{PORTS_OF_THE_SYSTEM, Process, handover, within_deadline};

/// Runs a command that is to fail, and returns the one sentence it says.
fn refusal(mut command: Command) -> String {
    let Output { status, stdout, stderr } = within_deadline(move || command.output().unwrap());
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stdout.is_empty());
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn it_says_what_it_listens_on_and_ends_in_order() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Process::start();
        let quic = gateway.announced("QUIC and TLS").to_owned();
        assert!(quic.starts_with("127.0.0.1:") && !quic.ends_with(":0"), "{quic}");
        let port = gateway.announced("plain HTTP").rsplit(':').next().unwrap().to_owned();
        assert_eq!(gateway.announced("call page"), format!("http://localhost:{port}/"));
        assert!(gateway.dir().join("certs/identity.pem").exists());

        let identity = gateway.get("/v1/identity");
        let printed = gateway.announced("certificate").to_owned();
        let hash = printed.strip_prefix("sha-256 ").unwrap().strip_suffix(" (self-made)").unwrap();
        assert!(identity.contains(&format!("\"value\":\"{hash}\"")), "{identity}");

        let (status, logged) = gateway.end(signal);
        assert_eq!(status.code(), Some(0), "{logged}");
        for line in logged.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["level"], "INFO", "{logged}");
        }
        assert!(logged.contains("everybody had left"), "{logged}");
    }
}

#[test]
fn a_taken_port_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (flag, other, kind) in [("--listen", "--http", "TCP"), ("--http", "--listen", "plain HTTP")]
    {
        let mut command = handover(dir.path(), &["serve", other, "127.0.0.1:0"]);
        command.args([flag, &address.to_string()]);
        assert_eq!(
            refusal(command),
            format!(
                "handover: cannot listen on {address} ({kind}): something listens there already; \
                 stop it, or choose another port with {flag}"
            )
        );
    }
}

#[test]
fn an_unreadable_key_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["gw.example.org".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), certified.cert.pem()).unwrap();
    for subcommand in [vec!["serve"], vec!["config", "check"]] {
        let mut command = handover(dir.path(), &subcommand);
        command.args(PORTS_OF_THE_SYSTEM).args(["--cert", "cert.pem", "--key", "none.pem"]);
        let sentence = refusal(command);
        assert!(sentence.starts_with("handover: cannot read the key none.pem: "), "{sentence}");
    }
}

#[test]
fn an_unknown_setting_is_one_sentence_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("h.toml"), "[limits]\nroms = 1\n").unwrap();
    assert_eq!(
        refusal(handover(dir.path(), &["serve", "--config", "h.toml"])),
        "handover: h.toml line 2: unknown setting `limits.roms`; did you mean `limits.rooms`?"
    );
    let mut command = handover(dir.path(), &["config", "check"]);
    command.env("HANDOVER_HTPP", "off");
    assert_eq!(
        refusal(command),
        "handover: environment variable HANDOVER_HTPP: unknown setting `HANDOVER_HTPP`; did you \
         mean `HANDOVER_HTTP`?"
    );
}

#[test]
fn the_configuration_is_shown_as_it_would_be_used() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("h.toml"), "http = 'off'\n").unwrap();
    let mut command = handover(dir.path(), &["config", "print", "--log", "debug"]);
    command.env("HANDOVER_CONFIG", "h.toml").env("HANDOVER_LIMITS_ROOMS", "3");
    let output = within_deadline(move || command.output().unwrap());
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "http = \"off\" # h.toml line 1",
        "rooms = 3 # environment variable HANDOVER_LIMITS_ROOMS",
        "log = \"debug\" # flag --log",
        "heartbeat_ms = 15000 # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in:\n{printed}");
    }
    assert!(!dir.path().join("certs").exists(), "looking changes nothing");
}
