//! Who may enter: from a token to what its bearer may do.
//!
//! `keys` holds what tokens are checked with, `claims` turns the claims of a token that was
//! checked into an admission, [`Authority`] does the one after the other and keeps the keys
//! fresh. `mint` makes tokens, for development and scripts.

mod claims;
mod error;
mod fetch;
mod keys;
pub mod mint;
mod signature;
mod source;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use handover_protocol::pace::Rate;
use handover_protocol::session::grant::Admission;
use handover_protocol::time::Time;
use handover_protocol::wire::Secret;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use claims::{Claims, Expectations, admit};
pub use error::{KeyError, TOKEN_BYTES_MAX, TokenError};
pub use keys::{Jwks, Key, KeySet};

use crate::clock::{Clock, UnixTime};
use crate::config::{Auth, JwksPlace};
use crate::telemetry::{Lines, Metrics};
use fetch::{FETCH_TIMEOUT, Fetcher};

/// Lines in the log for refused tokens; the metrics count all of them.
const LINES: Rate = Rate { per_s: 1, burst: 20 };
/// How often key files are looked at.
const FILES_READ_EVERY: Duration = Duration::from_secs(60);

/// Checks tokens.
pub struct Authority {
    auth: Auth,
    expected: Expectations,
    clock: Clock,
    metrics: Arc<Metrics>,
    fetcher: Option<Fetcher>,
    /// Held to copy a pointer, never longer.
    keys: RwLock<Arc<KeySet>>,
    /// What they are made of. Kept here, for what looks after them may begin again.
    parts: Mutex<Parts>,
    /// Somebody holds a token whose key is not known.
    wanted: Notify,
    /// Somebody asked to read the files now.
    asked: Notify,
    /// When the last fetch ended.
    fetched: watch::Sender<Option<Time>>,
    /// The log says that there are no keys.
    lack_was_told: AtomicBool,
    /// What the log says of refused tokens.
    lines: Lines,
}

/// The keys of one place after the other.
#[derive(Default)]
struct Parts {
    files: Vec<Key>,
    fetched: Vec<Key>,
}

impl Authority {
    /// Reads the keys. A file that cannot be used is an error; an address that does not answer
    /// is asked again later, and until then nobody new is let in.
    pub fn open(
        auth: Auth,
        metadata_bytes: u64,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KeyError> {
        signature::install();
        let files = source::keys_in_files(&auth)?;
        let fetcher = match &auth.jwks {
            Some(JwksPlace::Url(url)) => Some(Fetcher::new(url, auth.jwks_ca.as_deref())?),
            Some(JwksPlace::File(_)) | None => None,
        };
        let expected = Expectations {
            issuers: auth.issuers.clone(),
            audiences: auth.audiences.clone(),
            leeway: auth.leeway,
            metadata_bytes,
        };
        Ok(Authority {
            auth,
            expected,
            clock,
            metrics,
            fetcher,
            keys: RwLock::new(Arc::new(KeySet::of(files.iter().cloned()))),
            parts: Mutex::new(Parts { files, fetched: Vec::new() }),
            wanted: Notify::new(),
            asked: Notify::new(),
            fetched: watch::Sender::new(None),
            lack_was_told: AtomicBool::new(false),
            lines: Lines::new(LINES, clock.now()),
        })
    }

    /// What the bearer of `token` may do. Where its key is not known, the JWKS is fetched first,
    /// unless that was done just now.
    pub async fn admit(&self, token: Option<&Secret>) -> Result<Admission, TokenError> {
        let token = token.ok_or(TokenError::Missing);
        let checked = match token {
            Ok(token) => match self.check(token) {
                Err(TokenError::UnknownKey { .. } | TokenError::NoKeys)
                    if self.fetch_again().await =>
                {
                    self.check(token)
                }
                checked => checked,
            },
            Err(missing) => Err(missing),
        };
        if let Err(error) = &checked {
            self.metrics.token_refused(error.name());
            if self.is_news(error) {
                tracing::info!(reason = error.name(), "token refused: {error}");
            } else {
                tracing::debug!(reason = error.name(), "token refused: {error}");
            }
        }
        checked
    }

    /// Whether a refusal is worth a line of its own. That there are no keys is said once, until
    /// there have been some: clients ask again and again meanwhile. Of others there are so many lines
    /// and no more, for anybody may cause them.
    fn is_news(&self, error: &TokenError) -> bool {
        if matches!(error, TokenError::NoKeys) {
            return !self.lack_was_told.swap(true, Ordering::Relaxed);
        }
        self.lines.may_write(self.clock.now())
    }

    fn check(&self, token: &Secret) -> Result<Admission, TokenError> {
        let keys = self.keys();
        check(token.expose(), &keys, &self.expected, self.clock.unix_now())
    }

    fn keys(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a fetch of the JWKS, unless there is none or it was fetched just now. Says
    /// whether there may be new keys.
    async fn fetch_again(&self) -> bool {
        if self.fetcher.is_none() {
            return false;
        }
        let mut fetched = self.fetched.subscribe();
        let last = *fetched.borrow_and_update();
        if last.is_some_and(|last| self.clock.now() < last + self.auth.jwks_pause) {
            return false;
        }
        self.wanted.notify_one();
        // One that never ends has an end of its own.
        let ended = tokio::time::timeout(FETCH_TIMEOUT * 2, fetched.changed()).await;
        matches!(ended, Ok(Ok(())))
    }

    /// Has the files read now rather than when they next would be.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// Looks after the keys until `stop`: files that change are read again, the JWKS is fetched
    /// now, from time to time, and when a token names a key that is not known. Keys that cannot
    /// be had again stay in use.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut files_due = self.clock.now() + FILES_READ_EVERY;
        let mut fetch_due = self.clock.now();
        let (mut file_error, mut fetch_error) = (None, None);
        loop {
            let now = self.clock.now();
            if now >= files_due {
                files_due = now + FILES_READ_EVERY;
                let reader = self.clone();
                let read = tokio::task::spawn_blocking(move || source::keys_in_files(&reader.auth));
                match read.await {
                    Ok(Ok(files)) => {
                        file_error = None;
                        self.replace(|parts| parts.files = files);
                    }
                    Ok(Err(error)) => note(&mut file_error, error.to_string()),
                    Err(panicked) => note(&mut file_error, panicked.to_string()),
                }
            }
            if let Some(fetcher) = self.fetcher.as_ref().filter(|_| now >= fetch_due) {
                let outcome = tokio::select! {
                    outcome = fetcher.fetch() => outcome,
                    () = stop.cancelled() => return,
                };
                let next = match outcome {
                    Ok(keys) => {
                        tracing::debug!(keys = keys.len(), "JWKS fetched");
                        fetch_error = None;
                        self.replace(|parts| parts.fetched = keys);
                        self.auth.jwks_refresh
                    }
                    Err(error) => {
                        note(&mut fetch_error, error.to_string());
                        self.auth.jwks_refresh.min(RETRY_AFTER)
                    }
                };
                self.metrics.jwks_fetched(fetch_error.is_none());
                let now = self.clock.now();
                fetch_due = now + next;
                // Whoever asked meanwhile has waited for this one.
                let _ = self.wanted.notified().now_or_never();
                self.fetched.send_replace(Some(now));
            }
            let due = if self.fetcher.is_some() { fetch_due.min(files_due) } else { files_due };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(due.since(self.clock.now())) => {}
                () = self.asked.notified() => files_due = self.clock.now(),
                () = self.wanted.notified() => {
                    let now = self.clock.now();
                    let rested = (*self.fetched.borrow()).map(|last| last + self.auth.jwks_pause);
                    if rested.is_none_or(|rested| now >= rested) {
                        fetch_due = now;
                    }
                }
            }
        }
    }

    fn replace(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let keys = parts.files.iter().chain(&parts.fetched).cloned();
        let keys = KeySet::of(keys);
        if !keys.is_empty() {
            self.lack_was_told.store(false, Ordering::Relaxed);
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

/// After a fetch that failed the next comes this soon.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Says once what is wrong, until something else is.
fn note(last: &mut Option<String>, sentence: String) {
    if last.as_ref() != Some(&sentence) {
        tracing::error!("the keys in use stay: {sentence}");
    }
    *last = Some(sentence);
}

/// Whether the files that `auth` names could be used; nothing is fetched.
pub fn check_files(auth: &Auth) -> Result<(), KeyError> {
    signature::install();
    source::keys_in_files(auth)?;
    if let Some(JwksPlace::Url(url)) = &auth.jwks {
        Fetcher::new(url, auth.jwks_ca.as_deref())?;
    }
    Ok(())
}

/// Without the keys.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("keys", &self.keys().len()).finish_non_exhaustive()
    }
}

/// What the bearer of `token` may do: its signature checked with one of `keys`, by that key's
/// algorithm, then its claims.
pub fn check(
    token: &str,
    keys: &KeySet,
    expected: &Expectations,
    now: UnixTime,
) -> Result<Admission, TokenError> {
    signature::install();
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    if keys.is_empty() {
        return Err(TokenError::NoKeys);
    }
    let malformed = TokenError::Malformed;
    // This also refuses `none`, which is no algorithm the library knows.
    let header = decode_header(token)
        .map_err(|_| malformed("its header is not that of a JWT signed with a known algorithm"))?;
    if header.crit.is_some() {
        return Err(malformed("its header demands extensions that are not understood"));
    }
    let kid = header.kid.as_deref();
    let mut failed =
        TokenError::UnknownKey { kid: header.kid.clone(), algorithm: keys::name(header.alg) };
    for key in keys.fitting(kid, header.alg) {
        // Only the key's own algorithm. Everything about the claims is checked by `admit`.
        let mut validation = Validation::new(key.algorithm());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        match decode::<Claims>(token, key.decoding(), &validation) {
            Ok(decoded) => return admit(decoded.claims, expected, now),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => failed = TokenError::Signature,
                ErrorKind::Base64(_) => return Err(malformed("a part of it is not base64url")),
                ErrorKind::Json(_) => {
                    return Err(TokenError::Claims("a claim is missing or has the wrong type"));
                }
                _ => failed = TokenError::Signature,
            },
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_are_no_keys_is_said_once_until_there_have_been_some() {
        let jwks = JwksPlace::Url("http://127.0.0.1:1/keys".parse().unwrap());
        let auth = Auth { jwks: Some(jwks), ..Auth::default() };
        let authority = Authority::open(auth, 4_096, Clock::start(), Arc::default()).unwrap();
        let is_news = |error| authority.is_news(&error);
        assert!(is_news(TokenError::NoKeys));
        assert!(!is_news(TokenError::NoKeys) && !is_news(TokenError::NoKeys));
        assert!(is_news(TokenError::Signature) && is_news(TokenError::Signature));
        authority.replace(|_| ());
        assert!(!is_news(TokenError::NoKeys), "still none");
        let key = Key::from_secret(&[7; 32]).unwrap();
        authority.replace(|parts| parts.files = vec![key]);
        authority.replace(|parts| parts.files = Vec::new());
        assert!(is_news(TokenError::NoKeys), "there were some");
    }

    #[test]
    fn refused_tokens_have_so_many_lines() {
        let auth = Auth {
            jwks: Some(JwksPlace::Url("http://127.0.0.1:1/".parse().unwrap())),
            ..Auth::default()
        };
        let authority = Authority::open(auth, 4_096, Clock::start(), Arc::default()).unwrap();
        let lines = (0..10_000).filter(|_| authority.is_news(&TokenError::Signature)).count();
        // Another one for each second that this takes.
        assert!((20..1_000).contains(&lines), "{lines}");
    }

    /// A key that its issuer withdraws is gone, however often what fetches them has begun again.
    #[tokio::test]
    async fn fetched_keys_are_never_taken_for_those_in_files() {
        let auth = Auth {
            jwks: Some(JwksPlace::Url("http://127.0.0.1:1/".parse().unwrap())),
            ..Auth::default()
        };
        let authority = Authority::open(auth, 4_096, Clock::start(), Arc::default()).unwrap();
        let authority = Arc::new(authority);
        let key = |byte| Key::from_secret(&[byte; 32]).unwrap();
        authority.replace(|parts| parts.fetched = vec![key(7)]);
        let again = authority.clone().keep_fresh(CancellationToken::new());
        // Until it waits: nothing is to be had at that address.
        assert!(tokio::time::timeout(Duration::from_secs(1), again).await.is_err());
        assert_eq!(authority.keys().len(), 1, "those in use stay");
        authority.replace(|parts| parts.fetched = Vec::new());
        assert!(authority.keys().is_empty());
    }
}
