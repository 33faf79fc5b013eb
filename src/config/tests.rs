use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::settings::{KEYS, Row, variable};
use super::*;

fn load_all(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str, &str)],
) -> Result<Loaded, ConfigError> {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let flags: Vec<FlagValue> = flags
        .iter()
        .map(|(flag, key, text)| FlagValue::new(flag, key, (*text).to_owned()))
        .collect();
    load(Some(ConfigFile { path: Path::new("h.toml"), text: file }), &variables, &flags)
}

fn refused(file: &str, variables: &[(&str, &str)], flags: &[(&'static str, &str, &str)]) -> String {
    load_all(file, variables, flags).map(|_| ()).unwrap_err().to_string()
}

fn row(loaded: &Loaded, key: &str) -> Row {
    loaded.settings.rows().into_iter().find(|row| row.key == key).unwrap()
}

#[test]
fn the_stronger_layer_wins() {
    let file = "heartbeat_ms = 1000\n";
    let variable = [("HANDOVER_HEARTBEAT_MS", "2000")];
    let flag = [("--set", "heartbeat_ms", "3000")];
    type Layers<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'static str, &'a str, &'a str)]);
    let table: [(Layers<'_>, u64, &str); 8] = [
        (("", &[], &[]), 15_000, "default"),
        ((file, &[], &[]), 1_000, "h.toml line 1"),
        (("", &variable, &[]), 2_000, "environment variable HANDOVER_HEARTBEAT_MS"),
        ((file, &variable, &[]), 2_000, "environment variable HANDOVER_HEARTBEAT_MS"),
        (("", &[], &flag), 3_000, "flag --set"),
        ((file, &[], &flag), 3_000, "flag --set"),
        (("", &variable, &flag), 3_000, "flag --set"),
        ((file, &variable, &flag), 3_000, "flag --set"),
    ];
    for ((file, variables, flags), expected, origin) in table {
        let loaded = load_all(file, variables, flags).unwrap();
        assert_eq!(loaded.config.heartbeat, Duration::from_millis(expected));
        assert_eq!(row(&loaded, "heartbeat_ms").origin.to_string(), origin);
    }
}

#[test]
fn every_setting_arrives() {
    let file = r#"
        listen = "0.0.0.0:443"
        http = "off"
        allow_anonymous = true
        origins = ["https://app.example.org"]
        cert = "c.pem"
        key = "k.pem"
        log = "debug"
        log_format = "json"
        heartbeat_ms = 1_000
        resume_window_ms = 60_000
        hello_timeout_ms = 2_000
        blocked_timeout_ms = 4_000
        drain_timeout_ms = 3_000
        [limits]
        message_bytes = 0x2000
        metadata_bytes = 100
        ephemeral_bytes = 200
        rooms = 3
        room_members = 4
        room_metadata_bytes = 400
        connections = 50
        ungreeted = 6
        ungreeted_per_address = 7
        connections_per_address = 8
        outbox_bytes = 20_000
        streams = 5
        handshakes_per_s = 9
        wait_us = 700
        sessions_per_user = 10
        sessions_away = 11
        rooms_total = 0
        log_bytes_total = 12_345
        messages_per_s = 12
        bytes_per_s = 13
        joins_per_s = 0
        burst_s = 2
        [retention.signal]
        entries = 7
        bytes = 8192
        age_ms = 100_000
        [retention.bulk]
        entries = 9
        bytes = 10000
        [ice]
        ttl_s = 11
        [[ice.servers]]
        urls = "stun:stun.example.org"
        [[ice.servers]]
        urls = ["turn:turn.example.org", "turns:turn.example.org"]
        username = "u"
        credential = "c"
    "#;
    let config = load_all(file, &[], &[]).unwrap().config;
    let window = Duration::from_secs(90);
    assert_eq!(config.listen, Addresses::of([SocketAddr::from(([0, 0, 0, 0], 443))]));
    assert_eq!(config.http, Addresses::off());
    assert!(config.allow_anonymous);
    let files = IdentitySource::Files { cert: "c.pem".into(), key: "k.pem".into() };
    assert_eq!(config.identity, files);
    assert_eq!((config.log.filter.as_str(), config.log.format), ("debug", LogFormat::Json));
    let times = [config.heartbeat, config.resume_window, config.hello_timeout];
    assert_eq!(times.map(|time| time.as_secs()), [1, 60, 2]);
    assert_eq!((config.drain_timeout.as_secs(), config.blocked_timeout.as_secs()), (3, 4));
    let Limits { message_bytes, metadata_bytes, ephemeral_bytes, room_bytes, rooms } =
        config.limits;
    let limits = [message_bytes, metadata_bytes, ephemeral_bytes, room_bytes, rooms];
    assert_eq!(limits, [8192, 100, 200, 128, 3]);
    let capacity = Capacity {
        room_members: 4,
        room_metadata_bytes: 400,
        connections: 50,
        ungreeted: 6,
        ungreeted_per_address: 7,
        connections_per_address: 8,
        outbox_bytes: 20_000,
        streams: 5,
        wait: Some(Duration::from_micros(700)),
        handshakes: Some(Rate { per_s: 9, burst: 9 }),
        sessions_per_user: 10,
        sessions_away: 11,
        rooms: usize::MAX,
        log_bytes: 12_345,
    };
    let pace = PaceLimits {
        messages: Some(Rate { per_s: 12, burst: 24 }),
        bytes: Some(Rate { per_s: 13, burst: 26 }),
        joins: None,
    };
    assert_eq!(config.pace, pace);
    assert_eq!(config.capacity, capacity);
    let signal = Retention { entries: 7, bytes: 8192, age: Duration::from_secs(100), window };
    let bulk = Retention { entries: 9, bytes: 10_000, age: window, window };
    assert_eq!(config.retention, PerLane { signal, bulk });
    assert_eq!(config.ice.ttl.as_secs(), 11);
    assert_eq!(config.ice.servers[0].urls, ["stun:stun.example.org"]);
    assert_eq!(config.ice.servers[1].credential.as_ref().unwrap().expose(), "c");
}

#[test]
fn every_setting_of_tokens_arrives() {
    let file = r#"
        [auth]
        secret_file = "secret"
        key_file = "keys.pem"
        jwks = "https://id.example.org/jwks.json"
        jwks_ca = "ca.pem"
        jwks_refresh_s = 60
        jwks_pause_ms = 1500
        issuer = "https://id.example.org"
        audience = ["calls", "games"]
        leeway_s = 7
    "#;
    let auth = Auth {
        secret_file: Some("secret".into()),
        key_file: Some("keys.pem".into()),
        jwks: Some(JwksPlace::Url("https://id.example.org/jwks.json".parse().unwrap())),
        jwks_ca: Some("ca.pem".into()),
        jwks_refresh: Duration::from_secs(60),
        jwks_pause: Duration::from_millis(1_500),
        issuers: vec!["https://id.example.org".into()],
        audiences: vec!["calls".into(), "games".into()],
        leeway: Duration::from_secs(7),
    };
    assert_eq!(load_all(file, &[], &[]).unwrap().config.auth, Some(auth));
    for key in ["secret_file", "key_file", "jwks"] {
        let config = load_all(&format!("auth.{key} = 'x'"), &[], &[]).unwrap().config;
        assert!(config.auth.is_some(), "{key}");
    }
    assert_eq!(Config::default().auth, None);
}

#[test]
fn tokens_are_asked_for_or_not() {
    let keys = ("auth.secret_file = 's'", &[("HANDOVER_LISTEN", ":443")]);
    let config = load_all(keys.0, keys.1, &[]).unwrap().config;
    assert!(config.listen.beyond_loopback().is_some() && config.auth.is_some());
    assert!(
        refused("auth.secret_file = 's'", &[], &[("--allow-anonymous", "allow_anonymous", "true")])
            .starts_with("flag --allow-anonymous: `allow_anonymous` is set although keys are")
    );
    for key in ["issuer", "audience"] {
        let sentence = refused(&format!("auth.{key} = 'x'"), &[], &[]);
        let start = format!("h.toml line 1: `auth.{key}` has no effect without keys");
        assert!(sentence.starts_with(&start), "{sentence}");
    }
}

#[test]
fn the_default_is_the_contract() {
    let config = Config::default();
    assert_eq!(config, load(None, &BTreeMap::new(), &[]).unwrap().config);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.retention.signal, Retention::signal(config.resume_window));
    assert_eq!(config.retention.bulk, Retention::bulk(config.resume_window));
    assert_eq!(config.listen.beyond_loopback(), None);
    assert_eq!(config.http.beyond_loopback(), None);
}

#[test]
fn unknown_names_come_with_the_nearest_known_one() {
    for (file, expected) in [
        (
            "\nheartbeet_ms = 1",
            "h.toml line 2: unknown setting `heartbeet_ms`; did you mean `heartbeat_ms`?",
        ),
        (
            "[limitz]\n\nroom = 1",
            "h.toml line 3: unknown setting `limitz.room`; did you mean `limits.rooms`?",
        ),
        ("rooms = 1", "h.toml line 1: unknown setting `rooms`; did you mean `limits.rooms`?"),
        (
            "[limits]\nheartbeat_ms = 1",
            "h.toml line 2: unknown setting `limits.heartbeat_ms`; did you mean `heartbeat_ms`?",
        ),
        ("[retension]", "h.toml line 1: unknown setting `retension`; did you mean `listen`?"),
    ] {
        assert_eq!(refused(file, &[], &[]), expected);
    }
    assert_eq!(
        refused("", &[("HANDOVER_LISTN", "x")], &[]),
        "environment variable HANDOVER_LISTN: unknown setting `HANDOVER_LISTN`; did you mean \
         `HANDOVER_LISTEN`?"
    );
    assert_eq!(
        refused("", &[("HANDOVER_CONFG", "x")], &[]),
        "environment variable HANDOVER_CONFG: unknown setting `HANDOVER_CONFG`; did you mean \
         `HANDOVER_CONFIG`?"
    );
    assert_eq!(
        refused("", &[], &[("--set", "limits.room", "1")]),
        "flag --set: unknown setting `limits.room`; did you mean `limits.rooms`?"
    );
}

#[test]
fn bad_values_name_key_value_place_and_what_is_expected() {
    for (file, expected) in [
        (
            "limits.rooms = 65",
            "h.toml line 1: `limits.rooms` is `65`; expected a whole number from 1 to 64",
        ),
        (
            "limits.rooms = -1",
            "h.toml line 1: `limits.rooms` is `-1`; expected a whole number from 1 to 64",
        ),
        ("limits = 3", "h.toml line 1: unknown setting `limits`; did you mean `listen`?"),
        (
            "log_format = 'xml'",
            "h.toml line 1: `log_format` is `'xml'`; expected auto, human or json",
        ),
        ("allow_anonymous = 1", "h.toml line 1: `allow_anonymous` is `1`; expected true or false"),
        ("cert = ''", "h.toml line 1: `cert` is `''`; expected a path"),
    ] {
        assert_eq!(refused(file, &[], &[]), expected);
    }
    for (key, value) in [
        ("listen", "nowhere"),
        ("http", "127.0.0.1"),
        ("origins", "app.example.org"),
        ("log", "handover=loud"),
        ("heartbeat_ms", "15s"),
    ] {
        let name = variable(key);
        let message = refused("", &[(&name, value)], &[]);
        let start = format!("environment variable {name}: `{key}` is `{value}`; expected ");
        assert!(message.starts_with(&start), "{message}");
        let message = refused("", &[], &[("--set", key, value)]);
        let start = format!("flag --set: `{key}` is `{value}`; expected ");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
fn spaces_in_front_of_log_directives_mean_nothing() {
    for (text, meant) in [
        (" info, quinn=warn,", "info,quinn=warn"),
        // Over this its reader panics.
        ("\u{b}0\u{a1}=", "0\u{a1}="),
    ] {
        let flag = FlagValue::new("--set", "log", text.into());
        let loaded = load(None, &BTreeMap::new(), &[flag]).unwrap();
        assert_eq!(loaded.config.log.filter.as_str(), meant);
    }
    for text in [" ", ","] {
        let message = refused("", &[], &[("--set", "log", text)]);
        assert!(message.contains("expected a level"), "{message}");
    }
}

#[test]
fn a_wrong_value_is_refused_even_where_it_is_overridden() {
    let message = refused("heartbeat_ms = 0", &[], &[("--set", "heartbeat_ms", "1000")]);
    assert!(message.starts_with("h.toml line 1: `heartbeat_ms` is `0`"), "{message}");
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let message = refused("heartbeat_ms = 1000\nlisten = [", &[], &[]);
    assert!(message.starts_with("h.toml line 2: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn ice_servers_are_checked_and_never_shown() {
    for servers in [
        "[{ urls = 'turn:t.example.org', credential = 'hunter2' }]",
        "[{ urls = 'https://t.example.org', username = 'u', credential = 'hunter2' }]",
        "[{ urls = [], username = 'u', credential = 'hunter2' }]",
        "[{ url = 'stun:t.example.org', credential = 'hunter2' }]",
        "'hunter2'",
    ] {
        let message = refused(&format!("ice.servers = {servers}"), &[], &[]);
        assert!(message.contains("`ice.servers` is not usable; expected"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let json = r#"[{"urls":"turn:t.example.org","username":"u","credential":"hunter2"}]"#;
    let loaded = load_all("", &[("HANDOVER_ICE_SERVERS", json)], &[]).unwrap();
    assert_eq!(loaded.config.ice.servers[0].credential.as_ref().unwrap().expose(), "hunter2");
    for shown in [loaded.print(), format!("{loaded:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("turn:t.example.org"), "{shown}");
    }
}

#[test]
fn what_other_machines_reach_has_to_be_meant() {
    for (file, expected) in [
        ("listen = '0.0.0.0:1'", "h.toml line 1: `listen` opens 0.0.0.0:1 beyond this machine"),
        ("listen = ['127.0.0.1:1', '[::]:1']", "h.toml line 1: `listen` opens [::]:1"),
        (
            "http = '0.0.0.0:1'",
            "h.toml line 1: `http` opens 0.0.0.0:1 beyond this machine, without",
        ),
        ("http = ':1'\nallow_anonymous = true", "h.toml line 1: `http` opens [::]:1"),
        (
            "http = ':1'\nallow_remote_http = true",
            "h.toml line 1: `http` opens [::]:1 beyond this machine, where anybody",
        ),
        (
            "listen = '127.0.0.1:1'\nhttp = '127.0.0.1:1'",
            "h.toml line 2: `http` and `listen` both name 127.0.0.1:1",
        ),
    ] {
        let message = refused(file, &[], &[]);
        assert!(message.starts_with(expected), "{message}");
    }
    for file in [
        "listen = ':1'\nallow_anonymous = true",
        "http = ':1'\nallow_anonymous = true\nallow_remote_http = true",
        "listen = '127.0.0.1:0'\nhttp = '127.0.0.1:0'",
    ] {
        load_all(file, &[], &[]).unwrap();
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (file, expected) in [
        ("cert = 'c'", "h.toml line 1: `cert` is set but `key` is not"),
        ("key = 'k'", "h.toml line 1: `key` is set but `cert` is not"),
        (
            "[limits]\nmessage_bytes = 2048",
            "h.toml line 2: `limits.metadata_bytes` is 4096, more than `limits.message_bytes`, which is 2048",
        ),
        (
            "[retention.bulk]\nbytes = 2048",
            "h.toml line 2: `limits.message_bytes` is 65536, more than `retention.bulk.bytes`, which is 2048",
        ),
    ] {
        let message = refused(file, &[], &[]);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn an_empty_variable_counts_as_absent_and_foreign_ones_do_not_matter() {
    let loaded = load_all("", &[("HANDOVER_CERT", ""), ("HOME", "/x")], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    let named = load_all("", &[(CONFIG_VARIABLE, "handover.toml")], &[]).unwrap();
    assert_eq!(named.config, Config::default());
}

#[test]
fn variables_of_ours_must_be_text() {
    let bad = std::ffi::OsString::from_vec(vec![0xff]);
    let theirs = environment([("PATH".into(), bad.clone())]).unwrap();
    assert!(theirs.is_empty());
    let error = environment([("HANDOVER_LOG".into(), bad)]).unwrap_err();
    assert_eq!(error.to_string(), "the environment variable HANDOVER_LOG is not valid UTF-8");
}

#[test]
fn an_assignment_needs_its_equals_sign() {
    let flag = FlagValue::assignment("origins = https://a.example?x=y").unwrap();
    assert_eq!((flag.key.as_str(), flag.text.as_str()), ("origins", "https://a.example?x=y"));
    let error = FlagValue::assignment("origins").unwrap_err().to_string();
    assert!(error.starts_with("--set `origins`: expected KEY=VALUE"), "{error}");
}

#[test]
fn what_is_printed_can_be_loaded() {
    let file = "http = 'off'\norigins = ['*', 'https://a.example']\nlimits.rooms = 2\n\
                cert = 'a \"b\".pem'\nkey = 'k'\n";
    let loaded = load_all(file, &[("HANDOVER_ICE_TTL_S", "5")], &[]).unwrap();
    let printed = loaded.print();
    assert!(printed.contains("http = \"off\" # h.toml line 1\n"), "{printed}");
    assert!(printed.contains("\n[limits]\n"), "{printed}");
    assert!(printed.contains("rooms = 2 # h.toml line 3\n"), "{printed}");
    assert!(printed.contains("ttl_s = 5 # environment variable HANDOVER_ICE_TTL_S\n"), "{printed}");
    let mut again = load_all(&printed, &[], &[]).unwrap().config;
    // What is written down was asked for.
    again.listen.by_default = true;
    assert_eq!(again, loaded.config);

    let unset = load_all("", &[], &[]).unwrap().print();
    assert!(unset.contains("# cert is not set\n"), "{unset}");
}

#[test]
fn the_operations_page_has_every_setting() {
    let page = include_str!("../../docs/operations.md");
    for row in load_all("", &[], &[]).unwrap().settings.rows() {
        let line = page.lines().find(|line| line.starts_with(&format!("| `{}` |", row.key)));
        let line = line.unwrap_or_else(|| panic!("{} is not in docs/operations.md", row.key));
        let name = format!("`{}`", variable(row.key));
        assert!(line.contains(&name), "{name} is not in: {line}");
        let default = row.value.map_or("not set".to_owned(), |value| format!("`{value}`"));
        assert!(line.contains(&default), "{default} is not in: {line}");
    }
}

/// For every key two values, as text and as TOML.
const SAMPLES: &[(&str, [(&str, &str); 2])] = &[
    ("listen", [("127.0.0.1:1", "'127.0.0.1:1'"), ("localhost:0", "['localhost:0']")]),
    ("http", [("off", "'off'"), ("[::1]:2", "'[::1]:2'")]),
    ("allow_anonymous", [("true", "true"), ("false", "false")]),
    ("origins", [("*", "['*']"), ("http://a,http://b", "['http://a', 'http://b']")]),
    ("certs_dir", [("a", "'a'"), ("b c", "'b c'")]),
    ("log_format", [("json", "'json'"), ("human", "'human'")]),
    ("heartbeat_ms", [("50", "50"), ("70", "70")]),
    ("limits.rooms", [("1", "1"), ("2", "2")]),
    ("retention.signal.entries", [("3", "3"), ("4", "4")]),
    ("ice.ttl_s", [("5", "5"), ("6", "6")]),
];

/// For each sample: which of the three layers set it, and to which of its values.
fn choices() -> impl Strategy<Value = Vec<[Option<usize>; 3]>> {
    let one = proptest::option::of(0..2_usize);
    proptest::collection::vec([one.clone(), one.clone(), one], SAMPLES.len())
}

fn load_chosen(choices: &[[Option<usize>; 3]]) -> Loaded {
    let (mut file, mut variables, mut flags) = (String::new(), BTreeMap::new(), Vec::new());
    for ((key, values), chosen) in SAMPLES.iter().zip(choices) {
        if let Some(choice) = chosen[0] {
            file.push_str(&format!("{key} = {}\n", values[choice].1));
        }
        if let Some(choice) = chosen[1] {
            variables.insert(variable(key), values[choice].0.to_owned());
        }
        if let Some(choice) = chosen[2] {
            flags.push(FlagValue::new("--set", key, values[choice].0.to_owned()));
        }
    }
    let file = ConfigFile { path: Path::new("h.toml"), text: &file };
    load(Some(file), &variables, &flags).unwrap()
}

/// A setting's rank: by which layer it came.
fn rank(origin: &Origin) -> usize {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Environment { .. } => 2,
        Origin::Flag { .. } => 3,
    }
}

proptest! {
    #[test]
    fn each_value_is_that_of_the_strongest_layer_that_sets_it(choices in choices()) {
        let loaded = load_chosen(&choices);
        for ((key, _), chosen) in SAMPLES.iter().zip(&choices) {
            let strongest = chosen.iter().rposition(Option::is_some);
            let row = row(&loaded, key);
            prop_assert_eq!(rank(&row.origin), strongest.map_or(0, |layer| layer + 1));
            // The same as if no other layer had said anything about anything.
            let mut alone = vec![[None; 3]; SAMPLES.len()];
            if let Some(layer) = strongest {
                let at = SAMPLES.iter().position(|(sample, _)| sample == key).unwrap();
                alone[at][layer] = chosen[layer];
            }
            prop_assert_eq!(row.value, self::row(&load_chosen(&alone), key).value);
        }
    }

    #[test]
    fn one_more_value_changes_nothing_else_and_never_weakens(
        choices in choices(),
        at in 0..SAMPLES.len(),
        layer in 0..3_usize,
        value in 0..2_usize,
    ) {
        let mut more = choices.clone();
        more[at][layer] = Some(value);
        let (before, after) = (load_chosen(&choices), load_chosen(&more));
        for (before, after) in before.settings.rows().into_iter().zip(after.settings.rows()) {
            prop_assert!(rank(&after.origin) >= rank(&before.origin));
            if before.key != SAMPLES[at].0 || rank(&before.origin) > layer + 1 {
                prop_assert_eq!(before.value, after.value);
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(key in proptest::sample::select(KEYS), text in ".{0,40}") {
        let variables = BTreeMap::from([(variable(key), text.clone())]);
        let _ = load(None, &variables, &[]);
        let _ = load(None, &BTreeMap::new(), &[FlagValue::new("--set", key, text.clone())]);
        let file = format!("{key} = {text}");
        let _ = load(Some(ConfigFile { path: Path::new("f"), text: &file }), &BTreeMap::new(), &[]);
    }
}
