//! `handover token`: a token for development and scripts, signed with a key at hand.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use handover_protocol::session::grant::{Right, RoomPattern};
use handover_protocol::wire::Json;

use crate::auth::mint::{MintError, SigningFile, Wish, mint};
use crate::cli::SettingArgs;
use crate::clock::UnixTime;
use crate::config::ConfigError;

/// What `handover token` takes.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The gateway's configuration file: its `auth.secret_file`, issuer and audience are used
    /// where nothing else is said, as are the environment's.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File with the secret the gateway has too (HS256).
    #[arg(long, visible_alias = "auth-secret-file", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Private key (PEM) whose public half the gateway has (RS256, ES256 or EdDSA).
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
    pub private_key: Option<PathBuf>,
    /// The key's name, where the gateway knows several.
    #[arg(long, value_name = "NAME")]
    pub kid: Option<String>,
    /// Whose token it is (`sub`).
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// A room, or the beginning of names and a `*`; may be given more than once.
    #[arg(long, value_name = "ROOM", default_value = "*", value_parser = room)]
    pub room: Vec<String>,
    /// What the token allows there: join, signal, publish, ephemeral, admin.
    #[arg(
        long,
        value_name = "RIGHTS",
        value_delimiter = ',',
        default_value = "join,signal,publish,ephemeral",
        value_parser = right
    )]
    pub can: Vec<String>,
    /// Metadata (a JSON object) that the member shows there, whatever it asks for.
    #[arg(long, value_name = "JSON", value_parser = metadata)]
    pub metadata: Option<Json>,
    /// How long it is good: seconds, or a number with s, m, h or d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// Who says so (`iss`); the configuration's first issuer otherwise.
    #[arg(long, visible_alias = "auth-issuer", value_name = "NAME")]
    pub issuer: Option<String>,
    /// For whom (`aud`); the configuration's audience otherwise.
    #[arg(long, visible_alias = "auth-audience", value_name = "NAME")]
    pub audience: Vec<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenCommandError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing says what to sign with.
    #[error(
        "there is nothing to sign with; name --secret-file or --private-key, or a configuration \
         with auth.secret_file"
    )]
    NoKey,
    /// It could not be made.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl TokenArgs {
    /// The token.
    pub fn mint(self, now: UnixTime) -> Result<String, TokenCommandError> {
        let auth =
            SettingArgs { config: self.config, ..SettingArgs::default() }.load()?.config.auth;
        let (secret, issuers, audiences) =
            auth.map(|auth| (auth.secret_file, auth.issuers, auth.audiences)).unwrap_or_default();
        let file = match (self.private_key, self.secret_file.or(secret)) {
            (Some(path), _) => SigningFile::PrivateKey(path),
            (None, Some(path)) => SigningFile::Secret(path),
            (None, None) => return Err(TokenCommandError::NoKey),
        };
        let wish = Wish {
            user: self.user,
            rooms: self.room,
            can: self.can,
            metadata: self.metadata,
            ttl: self.ttl,
            issuer: self.issuer.or_else(|| issuers.into_iter().next()),
            audience: if self.audience.is_empty() { audiences } else { self.audience },
            kid: self.kid,
        };
        Ok(mint(&file, &wish, now)?)
    }
}

fn room(text: &str) -> Result<String, String> {
    RoomPattern::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn right(text: &str) -> Result<String, String> {
    let known = Right::from_name(text.trim()).map(|right| right.name().to_owned());
    known.ok_or_else(|| "expected join, signal, publish, ephemeral or admin".to_owned())
}

fn metadata(text: &str) -> Result<Json, String> {
    let json = Json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    if json.is_object() { Ok(json) } else { Err("must be an object".to_owned()) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number of seconds, or one with s, m, h or d".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|_| number > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_the_usual_ways() {
        for (text, seconds) in [("90", 90), ("5s", 5), ("2m", 120), ("1h", 3_600), ("7d", 604_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0", "h", "1w", "-1", "1.5h", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
