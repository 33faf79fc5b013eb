//! Identity files: read with a check of who else may, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustls::crypto::CryptoProvider;

use super::error::{IdentityError, Part};
use super::identity::{Pair, PairError};
use crate::clock::UnixTime;

/// Nobody but the owner.
pub(super) const OTHERS_AND_GROUP: u32 = 0o077;
/// An operator may let a group read a key, such as one for certificates.
const OTHERS: u32 = 0o007;

/// Reads a file that holds a key, if only those outside `forbidden` may.
pub(super) fn read_secret(
    path: &Path,
    part: Part,
    forbidden: u32,
) -> Result<Vec<u8>, IdentityError> {
    let unreadable = |source| IdentityError::Unreadable { part, path: path.to_owned(), source };
    // One open file for the check and the bytes, so that they are of the same file.
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(IdentityError::Exposed { part, path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// An operator's two files as they stand.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Provided {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Provided {
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let certificate = fs::read(cert).map_err(|source| IdentityError::Unreadable {
            part: Part::Certificate,
            path: cert.to_owned(),
            source,
        })?;
        Ok(Provided { cert: certificate, key: read_secret(key, Part::Key, OTHERS)? })
    }

    /// The pair they hold, if clients would accept it at `now`.
    pub(super) fn pair(
        &self,
        (cert, key): (&Path, &Path),
        now: UnixTime,
        provider: &CryptoProvider,
    ) -> Result<Pair, IdentityError> {
        let malformed = |part, path: &Path, detail| IdentityError::Malformed {
            part,
            path: path.to_owned(),
            detail,
        };
        let pair =
            Pair::from_pem(&self.cert, &self.key, provider).map_err(|error| match error {
                PairError::Certificate(detail) => malformed(Part::Certificate, cert, detail),
                PairError::Key(detail) => malformed(Part::Key, key, detail),
                PairError::Mismatch => {
                    IdentityError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
                }
            })?;
        if pair.ends <= now {
            let path = cert.to_owned();
            return Err(IdentityError::Expired { path, expired: pair.ends, now });
        }
        Ok(pair)
    }
}

/// Puts `contents` at `path` with at most the permissions `mode`, from its first byte on.
/// Whoever reads the path finds the old file or the new one, never a part of either.
pub(super) fn write_whole(path: &Path, contents: &[u8], mode: u32) -> Result<(), IdentityError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(IdentityError::Randomness)?;
    let temporary = path.with_extension(format!("{:016x}.new", u64::from_ne_bytes(random)));
    let written = write_new(&temporary, contents, mode).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // It may hold a key. If it was never made there is nothing to remove.
        let _ = fs::remove_file(&temporary);
        IdentityError::Unwritable { path: path.to_owned(), source }
    })
}

fn write_new(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}
