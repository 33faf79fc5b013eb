use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::self_made::{CERTIFICATE_FILE, IDENTITY_FILE};
use super::*;

const DAY: Duration = Duration::from_secs(86_400);
/// Some time in 2026.
const NOW: UnixTime = UnixTime::from_secs(1_780_000_000);

fn scratch() -> (TempDir, IdentitySource) {
    let dir = tempfile::tempdir().unwrap();
    let source = IdentitySource::SelfMade { dir: dir.path().join("certs") };
    (dir, source)
}

fn open_at(source: &IdentitySource, now: UnixTime) -> Result<Tls, IdentityError> {
    Tls::open(source, &["127.0.0.1:0".parse().unwrap()], now)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Certificate and key files as an operator would provide them.
struct Operator {
    dir: TempDir,
}

impl Operator {
    fn new() -> Self {
        Operator { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> IdentitySource {
        IdentitySource::Files { cert: self.path("cert.pem"), key: self.path("key.pem") }
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A pair that ends at `ends`.
    fn provide(&self, ends: UnixTime) {
        let mut params = rcgen::CertificateParams::new(vec!["gw.example.org".to_owned()]).unwrap();
        let seconds = i64::try_from(ends.as_secs()).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        self.write("cert.pem", &params.self_signed(&key).unwrap().pem(), 0o644);
        self.write("key.pem", &key.serialize_pem(), 0o600);
    }

    fn refusal(&self) -> String {
        open_at(&self.source(), NOW).unwrap_err().to_string()
    }
}

#[test]
fn a_minted_identity_is_what_browsers_pin() {
    let (dir, source) = scratch();
    let listen = ["192.168.7.7:4433".parse().unwrap(), "[::]:4433".parse().unwrap()];
    let identity = Tls::open(&source, &listen, NOW).unwrap().identity();
    assert!(identity.self_made);
    assert!(identity.expires.since(NOW) <= 13 * DAY);
    assert!(identity.expires.since(NOW) > 12 * DAY);

    let certs = dir.path().join("certs");
    let pem = fs::read(certs.join(CERTIFICATE_FILE)).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    assert_eq!(identity.hash, digest.as_ref());

    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    let valid = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
    assert!(valid <= 14 * 86_400, "browsers refuse more than 14 days: {valid} s");
    let curve = cert.public_key().algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
    assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7", "P-256");
    let names = cert.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 4, "localhost, both loopbacks and the address: {names:?}");
}

#[test]
fn the_key_is_its_owners_alone_and_the_directory_ignored_by_git() {
    let (dir, source) = scratch();
    open_at(&source, NOW).unwrap();
    let certs = dir.path().join("certs");
    assert_eq!(mode(&certs), 0o700);
    assert_eq!(mode(&certs.join(IDENTITY_FILE)), 0o600);
    assert_eq!(fs::read_to_string(certs.join(".gitignore")).unwrap(), "*\n");
    let certificate = fs::read_to_string(certs.join(CERTIFICATE_FILE)).unwrap();
    assert!(!certificate.contains("PRIVATE KEY"));
    let left: Vec<_> = fs::read_dir(&certs).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no temporary file stays: {left:?}");
}

#[test]
fn a_restart_keeps_the_identity_until_it_is_nearly_over() {
    let (_dir, source) = scratch();
    let first = open_at(&source, NOW).unwrap().identity();
    let day_9 = open_at(&source, NOW.plus(9 * DAY)).unwrap().identity();
    assert_eq!(day_9, first);
    let day_10 = open_at(&source, NOW.plus(10 * DAY)).unwrap().identity();
    assert_ne!(day_10.hash, first.hash);
    assert!(day_10.expires > first.expires);
}

#[test]
fn an_identity_that_does_not_fit_is_made_anew() {
    let (_dir, source) = scratch();
    let first = open_at(&source, NOW).unwrap().identity();
    // From before it begins, as after a clock was set back.
    let earlier = open_at(&source, NOW.minus(DAY)).unwrap().identity();
    assert_ne!(earlier.hash, first.hash);
    // For an address that was not listened on then.
    let other = ["192.168.7.7:1".parse().unwrap()];
    let moved = Tls::open(&source, &other, NOW.minus(DAY)).unwrap().identity();
    assert_ne!(moved.hash, earlier.hash);
    // One for more than is asked will do.
    assert_eq!(open_at(&source, NOW.minus(DAY)).unwrap().identity(), moved);
}

#[test]
fn a_running_gateway_renews_in_time_and_not_before() {
    let (_dir, source) = scratch();
    let tls = open_at(&source, NOW).unwrap();
    let first = tls.identity();
    let renewal = self_made::renewal(first.expires);
    assert_eq!(first.expires.since(renewal), 3 * DAY);
    assert!(tls.refresh(renewal.minus(Duration::from_secs(1))).unwrap().is_none());
    let second = tls.refresh(renewal).unwrap().unwrap();
    assert_ne!(second.hash, first.hash);
    assert_eq!(tls.identity(), second);
    assert!(tls.refresh(renewal).unwrap().is_none(), "once");
    assert_eq!(open_at(&source, renewal).unwrap().identity(), second, "and it was kept");
}

#[test]
fn a_kept_identity_others_can_read_is_refused() {
    let (dir, source) = scratch();
    open_at(&source, NOW).unwrap();
    let path = dir.path().join("certs").join(IDENTITY_FILE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let sentence = open_at(&source, NOW).unwrap_err().to_string();
    let path = path.display();
    assert_eq!(
        sentence,
        format!(
            "the self-made identity {path} can be read by other users (mode 0640); run `chmod 600 \
             {path}`"
        )
    );
}

#[test]
fn a_spoilt_identity_and_a_place_that_cannot_be_written_are_said() {
    let (dir, source) = scratch();
    let certs = dir.path().join("certs");
    fs::write(&certs, "a file where the directory should be").unwrap();
    let sentence = open_at(&source, NOW).unwrap_err().to_string();
    assert!(sentence.contains("certs"), "{sentence}");
    fs::remove_file(&certs).unwrap();

    open_at(&source, NOW).unwrap();
    fs::write(certs.join(IDENTITY_FILE), "nothing of use").unwrap();
    let sentence = open_at(&source, NOW).unwrap_err().to_string();
    assert!(sentence.contains("remove it to have a new one made"), "{sentence}");
}

#[test]
fn an_operators_pair_is_taken_and_followed_when_it_changes() {
    let operator = Operator::new();
    operator.provide(NOW.plus(90 * DAY));
    let tls = open_at(&operator.source(), NOW).unwrap();
    let first = tls.identity();
    assert_eq!((first.self_made, first.expires), (false, NOW.plus(90 * DAY)));
    assert!(tls.refresh(NOW).unwrap().is_none());

    operator.provide(NOW.plus(180 * DAY));
    let second = tls.refresh(NOW).unwrap().unwrap();
    assert_eq!(second.expires, NOW.plus(180 * DAY));
    assert_eq!(tls.identity(), second);

    // Half of the next pair: the one in use stays.
    operator.write("cert.pem", "", 0o644);
    assert!(tls.refresh(NOW).is_err());
    assert_eq!(tls.identity(), second);
}

#[test]
fn an_operator_is_told_what_is_wrong_with_which_file() {
    let operator = Operator::new();
    let (cert, key) = (operator.path("cert.pem"), operator.path("key.pem"));
    let (cert, key) = (cert.display(), key.display());

    let missing = operator.refusal();
    assert!(missing.starts_with(&format!("cannot read the certificate {cert}: ")), "{missing}");

    operator.provide(NOW.plus(DAY));
    fs::remove_file(operator.path("key.pem")).unwrap();
    let missing = operator.refusal();
    assert!(missing.starts_with(&format!("cannot read the key {key}: ")), "{missing}");
    assert!(missing.ends_with("`key` has to name a PEM file this user may read"), "{missing}");

    operator.write("key.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 0o600);
    let unusable = operator.refusal();
    assert!(unusable.contains("it holds no unencrypted PEM private key"), "{unusable}");

    let stranger = rcgen::KeyPair::generate().unwrap();
    operator.write("key.pem", &stranger.serialize_pem(), 0o600);
    assert_eq!(
        operator.refusal(),
        format!(
            "the key {key} does not belong to the certificate {cert}; set `cert` and `key` to a \
             pair"
        )
    );

    operator.write("key.pem", &stranger.serialize_pem(), 0o644);
    let exposed = operator.refusal();
    assert!(exposed.ends_with(&format!("(mode 0644); run `chmod 600 {key}`")), "{exposed}");

    operator.provide(NOW.minus(DAY));
    let expired = operator.refusal();
    assert!(
        expired.starts_with(&format!("the certificate {cert} ended 24 hours ago")),
        "{expired}"
    );

    operator.write("cert.pem", "no certificate", 0o644);
    let unusable = operator.refusal();
    assert!(unusable.contains("it holds no PEM certificate"), "{unusable}");
}

#[test]
fn a_group_may_read_an_operators_key() {
    let operator = Operator::new();
    operator.provide(NOW.plus(DAY));
    let key = fs::read_to_string(operator.path("key.pem")).unwrap();
    operator.write("key.pem", &key, 0o640);
    open_at(&operator.source(), NOW).unwrap();
}

#[test]
fn the_warning_comes_a_week_ahead_and_once_a_day() {
    let expires = NOW.plus(30 * DAY);
    let due = |day: u32, warned: Option<u32>| {
        is_warning_due(expires, warned.map(|day| NOW.plus(day * DAY)), NOW.plus(day * DAY))
    };
    assert!(!due(22, None));
    assert!(due(23, None));
    assert!(!due(23, Some(23)));
    assert!(due(24, Some(23)));
}

type Ends = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

/// A handshake of a client that trusts `trusted` and offers `protocol`.
async fn handshake(tls: &Tls, trusted: &[u8], protocol: &[u8]) -> io::Result<Ends> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(tls.provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let connecting = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), near);
    tokio::try_join!(connecting, TlsAcceptor::from(tls.tcp()).accept(far))
}

#[tokio::test]
async fn new_handshakes_see_the_new_certificate_and_old_connections_go_on() {
    let (dir, source) = scratch();
    let now = Clock::start().unix_now();
    // Old enough to be due for renewal, and still valid to the client's own clock.
    let tls = open_at(&source, now.minus(11 * DAY)).unwrap();
    let trusted = || fs::read(dir.path().join("certs").join(CERTIFICATE_FILE)).unwrap();
    let old_certificate = trusted();
    let (mut old_client, mut old_server) =
        handshake(&tls, &old_certificate, b"http/1.1").await.unwrap();

    tls.refresh(now).unwrap().unwrap();
    assert_ne!(trusted(), old_certificate);
    handshake(&tls, &trusted(), b"http/1.1").await.unwrap();
    assert!(handshake(&tls, &old_certificate, b"http/1.1").await.is_err());

    old_client.write_all(b"still here").await.unwrap();
    old_client.flush().await.unwrap();
    let mut heard = [0; 10];
    old_server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn each_front_end_speaks_its_own_protocol_alone() {
    let (dir, source) = scratch();
    let tls = open_at(&source, Clock::start().unix_now()).unwrap();
    let trusted = fs::read(dir.path().join("certs").join(CERTIFICATE_FILE)).unwrap();
    assert!(handshake(&tls, &trusted, b"h2").await.is_err());
    assert_eq!(tls.quic().alpn_protocols, [b"h3"]);
    assert_eq!(tls.quic().max_early_data_size, 0);
    quinn::crypto::rustls::QuicServerConfig::try_from((*tls.quic()).clone()).unwrap();
}

#[tokio::test]
async fn looking_after_it_ends_when_told() {
    let (_dir, source) = scratch();
    let clock = Clock::start();
    let tls = Arc::new(open_at(&source, clock.unix_now()).unwrap());
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let task = tokio::spawn(tls.clone().keep_fresh(clock, metrics.clone(), stop.clone()));
    stop.cancel();
    task.await.unwrap();
    let expires = tls.identity().expires.as_secs();
    let line = format!("handover_certificate_expires_seconds {expires}\n");
    assert!(metrics.encode().unwrap().contains(&line));
}
