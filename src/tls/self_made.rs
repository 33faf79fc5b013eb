//! An identity for development, made by the gateway itself.
//!
//! Browsers take it by its hash (`serverCertificateHashes`), and only if it is an ECDSA
//! certificate that is valid for less than two weeks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::crypto::CryptoProvider;
use time::OffsetDateTime;

use super::error::{IdentityError, Part};
use super::files::{OTHERS_AND_GROUP, read_secret, write_whole};
use super::identity::{Pair, PairError};
use crate::clock::UnixTime;

/// Chain and key in one file, so that no crash can leave one without the other.
pub(super) const IDENTITY_FILE: &str = "identity.pem";
/// The certificate once more, for clients that want to trust it. The gateway never reads it.
pub(super) const CERTIFICATE_FILE: &str = "certificate.pem";

const DAY: Duration = Duration::from_secs(86_400);
/// Browsers refuse more than 14 days.
const VALIDITY: Duration = DAY.saturating_mul(13);
/// For clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(3_600);
/// A new one is made this long before the old one ends.
const RENEWED_BEFORE: Duration = DAY.saturating_mul(3);

const NAME: &str = "localhost";

/// When an identity that ends at `expires` is to be replaced.
pub(super) fn renewal(expires: UnixTime) -> UnixTime {
    expires.minus(RENEWED_BEFORE)
}

/// The addresses it is for, beside the name `localhost`.
pub(super) fn addresses(listening: impl IntoIterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    listening.into_iter().filter(|address| !address.is_unspecified()).chain(loopback).collect()
}

/// The identity kept in `dir` if it will do, a new one otherwise. `true` if it is new.
pub(super) fn open(
    dir: &Path,
    addresses: &BTreeSet<IpAddr>,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(Pair, bool), IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let kept = match read_secret(&path, Part::Identity, OTHERS_AND_GROUP) {
        Ok(pem) => Some(parse(&path, &pem, provider)?),
        Err(IdentityError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    match kept {
        Some(pair) if is_good(&pair, addresses, now) => Ok((pair, false)),
        _ => {
            let pem = mint(addresses, now)?;
            keep(dir, &pem)?;
            Ok((parse(&path, pem.identity().as_bytes(), provider)?, true))
        }
    }
}

fn parse(path: &Path, pem: &[u8], provider: &CryptoProvider) -> Result<Pair, IdentityError> {
    Pair::from_pem(pem, pem, provider).map_err(|error| IdentityError::Malformed {
        part: Part::Identity,
        path: path.to_owned(),
        detail: match error {
            PairError::Certificate(detail) | PairError::Key(detail) => detail,
            PairError::Mismatch => "its key belongs to another certificate".to_owned(),
        },
    })
}

fn is_good(pair: &Pair, addresses: &BTreeSet<IpAddr>, now: UnixTime) -> bool {
    pair.begins <= now
        && now < renewal(pair.ends)
        && pair.ends.since(pair.begins) <= VALIDITY
        && pair.covers([NAME].into_iter(), addresses.iter().copied())
}

struct Minted {
    cert: String,
    key: String,
}

impl Minted {
    fn identity(&self) -> String {
        format!("{}{}", self.cert, self.key)
    }
}

fn mint(addresses: &BTreeSet<IpAddr>, now: UnixTime) -> Result<Minted, IdentityError> {
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Handover, self-made");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let begins = now.minus(BACKDATED);
    params.not_before = date(begins);
    params.not_after = date(begins.plus(VALIDITY));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.self_signed(&key)?;
    Ok(Minted { cert: cert.pem(), key: key.serialize_pem() })
}

fn date(time: UnixTime) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn keep(dir: &Path, minted: &Minted) -> Result<(), IdentityError> {
    if !dir.exists() {
        let unwritable = |source| IdentityError::Unwritable { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable)?;
        // A directory we made holds nothing but what must not be committed.
        write_whole(&dir.join(".gitignore"), b"*\n", 0o644)?;
    }
    write_whole(&dir.join(IDENTITY_FILE), minted.identity().as_bytes(), 0o600)?;
    write_whole(&dir.join(CERTIFICATE_FILE), minted.cert.as_bytes(), 0o644)
}
