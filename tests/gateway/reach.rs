//! From where a gateway can be reached, by default and when somebody says so outright.

use std::process::Command;

use super::entering::secret_file;
use crate::process::{Process, handover, within_deadline};
use crate::tokens::forge::SECRET;

fn refusal(flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command: Command = handover(dir.path(), &["serve"]);
    command.args(flags);
    let output = within_deadline(move || command.output().unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "it listened");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn by_default_only_this_machine_reaches_it_and_its_log_says_so() {
    let gateway = Process::start();
    gateway.logged("nobody is asked for a token; only this machine can reach the gateway", 1);
    // The defaults themselves, without starting: their ports may be taken.
    let dir = tempfile::tempdir().unwrap();
    let mut print = handover(dir.path(), &["config", "print"]);
    let printed = within_deadline(move || print.output().unwrap()).stdout;
    let printed = String::from_utf8(printed).unwrap();
    for line in [
        "listen = [\"127.0.0.1:4433\", \"[::1]:4433\"] # default",
        "http = [\"127.0.0.1:8080\", \"[::1]:8080\"] # default",
        "allow_anonymous = false # default",
        "allow_remote_http = false # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in:\n{printed}");
    }
}

#[test]
fn anything_wider_needs_keys_or_an_outright_flag() {
    let http = ["--http", "127.0.0.1:0"];
    for wide in ["0.0.0.0:0", "[::]:0", ":0"] {
        let sentence = refusal(&[&["--listen", wide][..], &http].concat());
        assert!(
            sentence.contains("--allow-anonymous") && sentence.lines().count() == 1,
            "{sentence}"
        );
    }

    let dir = tempfile::tempdir().unwrap();
    let flags = ["--listen", "0.0.0.0:0", "--allow-anonymous", "--log-format", "human"];
    let gateway = Process::with(dir, &flags);
    let said = gateway.logged("anybody who can reach the gateway may use it", 1);
    assert!(said[0].contains("WARN"), "{said:?}");

    let dir = tempfile::tempdir().unwrap();
    secret_file(&dir, "secret", SECRET);
    let gateway = Process::with(dir, &["--listen", "0.0.0.0:0", "--auth-secret-file", "secret"]);
    gateway.logged("everybody needs a token", 1);
}

#[test]
fn plain_http_stays_on_this_machine_unless_that_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret_file(&dir, "secret", SECRET);
    let keys = ["--auth-secret-file", secret.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    for trusted in [&keys[..], &["--allow-anonymous", "--listen", "127.0.0.1:0"]] {
        let sentence = refusal(&[trusted, &["--http", "0.0.0.0:0"]].concat());
        assert!(sentence.contains("say --allow-remote-http"), "{sentence}");
    }
    // The flag is for what is not encrypted, and lets nobody in without a token.
    let anonymous = ["--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--allow-remote-http"];
    let sentence = refusal(&anonymous);
    assert!(sentence.contains("--allow-anonymous"), "{sentence}");
    let meant = [&keys[..], &["--http", "0.0.0.0:0", "--allow-remote-http"]].concat();
    Process::with(dir, &meant).logged("everybody needs a token", 1);
}
