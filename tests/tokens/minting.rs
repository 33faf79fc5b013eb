//! `handover token`: what it makes is what the gateway takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use handover::auth::{KeySet, check};
use handover::clock::Clock;
use handover_protocol::session::grant::{Admission, Right};
use handover_protocol::wire::RoomName;

use super::forge::{P384, SECRET, Signer};
use super::keys::{expectations, known};

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
    command.current_dir(dir).arg("token").args(arguments).env_clear();
    command.output().unwrap()
}

fn minted(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

fn write(dir: &Path, name: &str, contents: &[u8], mode: u32) {
    fs::write(dir.join(name), contents).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn admitted(token: &str, signer: &Signer) -> Admission {
    let keys = KeySet::of(known(signer));
    check(token, &keys, &expectations(), Clock::start().unix_now()).unwrap()
}

fn can(admission: &Admission, room: &str) -> Vec<Right> {
    let room = RoomName::parse(room).unwrap();
    Right::ALL.into_iter().filter(|right| admission.grant.allows(&room, *right)).collect()
}

#[test]
fn a_secret_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "secret", SECRET, 0o600);
    let token = minted(dir.path(), &["--secret-file", "secret", "--user", "ann"]);
    let admission = admitted(&token, &Signer::secret());
    assert_eq!(admission.user.as_ref().map(|user| user.as_str()), Some("ann"));
    assert_eq!(can(&admission, "any"), &Right::ALL[..4]);
    assert_eq!(admission.lapse.unwrap().life, 3_600);
}

#[test]
fn every_kind_of_private_key_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (ecdsa, ed25519) = (Signer::ecdsa(), Signer::ed25519());
    let sec1 = ecdsa.private_sec1_pem();
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"));
    let keys = [&Signer::Rsa, &ecdsa, &ed25519].map(|key| (key, key.private_pem()));
    for (signer, pem) in keys.into_iter().chain([(&ecdsa, sec1)]) {
        write(dir.path(), "key.pem", pem.as_bytes(), 0o600);
        let arguments = [
            "--private-key=key.pem",
            "--kid=k1",
            "--user=ann",
            "--room=team/*",
            "--room=hall",
            "--can=join,publish",
            "--ttl=5m",
            "--metadata={\"role\": \"guest\"}",
        ];
        let admission = admitted(&minted(dir.path(), &arguments), signer);
        for room in ["team/a", "hall"] {
            assert_eq!(can(&admission, room), [Right::Join, Right::Publish]);
            let fixed = admission.grant.metadata(&RoomName::parse(room).unwrap()).unwrap();
            assert_eq!(fixed.as_str(), "{\"role\": \"guest\"}");
        }
        assert_eq!(can(&admission, "elsewhere"), []);
        assert_eq!(admission.lapse.unwrap().life, 300);
    }
}

#[test]
fn the_gateways_configuration_says_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "secret", SECRET, 0o640);
    let file = "[auth]\nsecret_file = 'secret'\nissuer = 'us'\naudience = ['calls', 'more']\n";
    write(dir.path(), "h.toml", file.as_bytes(), 0o644);
    let token = minted(dir.path(), &["--config", "h.toml", "--user", "ann"]);
    let keys = KeySet::of(known(&Signer::secret()));
    let mut expected = expectations();
    expected.issuers = vec!["us".into()];
    for audience in ["calls", "more"] {
        expected.audiences = vec![audience.into()];
        check(&token, &keys, &expected, Clock::start().unix_now()).unwrap();
    }
}

#[test]
fn what_it_cannot_make_it_says_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "open", SECRET, 0o644);
    write(dir.path(), "short", b"short", 0o600);
    let no_key = refused(dir.path(), &["--user", "ann"]);
    assert!(no_key.starts_with("handover: there is nothing to sign with"), "{no_key}");
    let open = refused(dir.path(), &["--user", "ann", "--secret-file", "open"]);
    assert!(open.starts_with("handover: the secret open may be read by every user"), "{open}");
    let short = refused(dir.path(), &["--user", "ann", "--secret-file", "short"]);
    assert!(short.starts_with("handover: the secret short: holds 5 bytes"), "{short}");
    assert!(!short.contains("holds 5 bytes: short"), "{short}");
    write(dir.path(), "other.pem", Signer::ecdsa().sec1_pem(P384).as_bytes(), 0o600);
    let other = refused(dir.path(), &["--user", "ann", "--private-key", "other.pem"]);
    assert!(other.contains("neither RSA, nor EC P-256, nor Ed25519"), "{other}");
    let right = refused(dir.path(), &["--user", "ann", "--can", "fly"]);
    assert!(right.contains("expected join, signal, publish, ephemeral or admin"), "{right}");
}
