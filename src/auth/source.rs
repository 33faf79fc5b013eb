//! Where keys are kept: files of the operator's.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::KeyError;
use super::keys::{Jwks, Key};
use crate::config::{Auth, JwksPlace};

/// An operator may let a group read a secret.
const OTHERS: u32 = 0o007;
/// More is no file with keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The keys of all files that `auth` names.
pub(super) fn keys_in_files(auth: &Auth) -> Result<Vec<Key>, KeyError> {
    let mut keys = Vec::new();
    if let Some(path) = &auth.secret_file {
        let what = "the secret";
        let file = KeyFile::read(what, path)?;
        file.must_be_secret(what, path)?;
        keys.push(Key::from_secret(&file.bytes).map_err(unusable(what, path))?);
    }
    if let Some(path) = &auth.key_file {
        let what = "the public keys";
        let file = KeyFile::read(what, path)?;
        keys.extend(Key::from_pem(&file.bytes).map_err(unusable(what, path))?);
    }
    if let Some(JwksPlace::File(path)) = &auth.jwks {
        let what = "the JWKS";
        let file = KeyFile::read(what, path)?;
        let jwks = Jwks::parse(&file.bytes).map_err(unusable(what, path))?;
        if jwks.has_secret {
            file.must_be_secret(what, path)?;
        }
        if jwks.keys.is_empty() {
            let why = jwks.skipped.first().map_or("it is empty", String::as_str);
            return Err(unusable(what, path)(format!("holds no key that can be used: {why}")));
        }
        keys.extend(jwks.keys);
    }
    Ok(keys)
}

fn unusable(what: &'static str, path: &Path) -> impl Fn(String) -> KeyError {
    let path = path.to_owned();
    move |problem| KeyError::Unusable { what, path: path.clone(), problem }
}

/// A file that may hold a secret.
pub(super) struct KeyFile {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

impl KeyFile {
    pub(super) fn read(what: &'static str, path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { what, path: path.to_owned(), source };
        // One open file for the permissions and the bytes, so that they are of the same file.
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(KeyFile { bytes, mode })
    }

    pub(super) fn must_be_secret(&self, what: &'static str, path: &Path) -> Result<(), KeyError> {
        if self.mode & OTHERS == 0 {
            return Ok(());
        }
        Err(KeyError::Exposed { what, path: path.to_owned(), mode: self.mode })
    }
}
