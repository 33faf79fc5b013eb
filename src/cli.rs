//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, CONFIG_VARIABLE, ConfigError, ConfigFile, FlagValue, Loaded};

/// A signaling gateway for real-time apps.
#[derive(Debug, Parser)]
#[command(name = "handover", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway.
    Serve(SettingArgs),
    /// Be a member of a room, in this terminal.
    Join(crate::join::JoinArgs),
    /// Put many sessions on a gateway, break their connections if asked to, and say what became
    /// of their messages.
    Load(crate::load::LoadArgs),
    /// Make a token, for development and scripts.
    Token(Box<crate::token::TokenArgs>),
    /// Look at the configuration without running anything.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration as TOML, with the origin of every value.
    Print(SettingArgs),
    /// Say whether the gateway would take it.
    Check(SettingArgs),
}

/// Settings on the command line; they outrank the environment and the file.
#[derive(Debug, Default, Args)]
pub struct SettingArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for QUIC (UDP) and TLS (TCP); may be given more than once. Port 0 picks one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// Address for plain HTTP, or `off`; may be given more than once.
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub http: Vec<String>,
    /// Let plain HTTP be reached from other machines.
    #[arg(long)]
    pub allow_remote_http: bool,
    /// Certificate chain (PEM).
    #[arg(long, value_name = "FILE")]
    pub cert: Option<String>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE")]
    pub key: Option<String>,
    /// Where a self-made certificate is kept.
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<String>,
    /// Where rooms and sessions are kept: `memory`, or a Redis that other gateways share.
    #[arg(long, value_name = "memory|URL")]
    pub broker: Option<String>,
    /// Count as ready even while that Redis does not answer.
    #[arg(long)]
    pub broker_optional: bool,
    /// How many replicas of that Redis have to have what is answered as done.
    #[arg(long, value_name = "N")]
    pub broker_replicas: Option<String>,
    /// What is logged, such as `info` or `handover=debug`.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How: `auto`, `human` or `json`.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Let anybody in from beyond this machine, without a token.
    #[arg(long)]
    pub allow_anonymous: bool,
    /// Which node this is to a load balancer that routes by connection id (hexadecimal).
    #[arg(long, value_name = "HEX")]
    pub quic_server_id: Option<String>,
    /// File with the secret that tokens are signed with (HS256); everybody needs a token then.
    #[arg(long, value_name = "FILE")]
    pub auth_secret_file: Option<String>,
    /// PEM file with the public keys of those who sign tokens; everybody needs a token then.
    #[arg(long, value_name = "FILE")]
    pub auth_key_file: Option<String>,
    /// File or https address of such keys as JWKS; everybody needs a token then.
    #[arg(long, value_name = "FILE|URL")]
    pub auth_jwks: Option<String>,
    /// What tokens must have as issuer; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub auth_issuer: Vec<String>,
    /// What tokens must have in their audience; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub auth_audience: Vec<String>,
    /// Any setting by its key; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl SettingArgs {
    /// The configuration of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that hands the variables over")]
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        self.load_with(&config::environment(std::env::vars_os())?)
    }

    fn load_with(&self, variables: &BTreeMap<String, String>) -> Result<Loaded, ConfigError> {
        let named = variables.get(CONFIG_VARIABLE).filter(|path| !path.is_empty());
        let path = self.config.clone().or_else(|| named.map(PathBuf::from));
        let text = match &path {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?,
            ),
            None => None,
        };
        let file = path.as_deref().zip(text.as_deref());
        let file = file.map(|(path, text)| ConfigFile { path, text });
        config::load(file, variables, &self.flags()?)
    }

    fn flags(&self) -> Result<Vec<FlagValue>, ConfigError> {
        let mut flags = Vec::new();
        for assignment in &self.set {
            flags.push(FlagValue::assignment(assignment)?);
        }
        let lists = [
            ("--listen", "listen", &self.listen),
            ("--http", "http", &self.http),
            ("--auth-issuer", "auth.issuer", &self.auth_issuer),
            ("--auth-audience", "auth.audience", &self.auth_audience),
        ];
        for (flag, key, values) in lists {
            if !values.is_empty() {
                flags.push(FlagValue::new(flag, key, values.join(",")));
            }
        }
        let singles = [
            ("--cert", "cert", &self.cert),
            ("--key", "key", &self.key),
            ("--certs-dir", "certs_dir", &self.certs_dir),
            ("--quic-server-id", "quic.server_id", &self.quic_server_id),
            ("--auth-secret-file", "auth.secret_file", &self.auth_secret_file),
            ("--auth-key-file", "auth.key_file", &self.auth_key_file),
            ("--auth-jwks", "auth.jwks", &self.auth_jwks),
            ("--broker", "broker", &self.broker),
            ("--broker-replicas", "broker_replicas", &self.broker_replicas),
            ("--log", "log", &self.log),
            ("--log-format", "log_format", &self.log_format),
        ];
        for (flag, key, value) in singles {
            flags.extend(value.iter().map(|value| FlagValue::new(flag, key, value.clone())));
        }
        let allowances = [
            ("--broker-optional", "broker_optional", self.broker_optional),
            ("--allow-anonymous", "allow_anonymous", self.allow_anonymous),
            ("--allow-remote-http", "allow_remote_http", self.allow_remote_http),
        ];
        for (flag, key, _) in allowances.into_iter().filter(|(.., given)| *given) {
            flags.push(FlagValue::new(flag, key, "true".to_owned()));
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Addresses, IdentitySource, JwksPlace, LogFormat};

    fn serve(flags: &[&str]) -> SettingArgs {
        let line = ["handover", "serve"].iter().chain(flags);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Serve(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        serve(flags).load_with(&variables.iter().map(own).collect())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let flags = [
            "--listen=0.0.0.0:1",
            "--listen=[::]:1",
            "--http=:2",
            "--allow-remote-http",
            "--allow-anonymous",
            "--cert=c.pem",
            "--key=k.pem",
            "--log=debug",
            "--log-format=json",
            "--quic-server-id=0a",
            "--set=limits.rooms=5",
        ];
        let config = load(&flags, &[]).unwrap().config;
        let both = ["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        assert_eq!(config.listen, Addresses::of(both));
        assert_eq!(config.http, Addresses::of(["[::]:2".parse().unwrap()]));
        assert!(config.allow_anonymous);
        let files = IdentitySource::Files { cert: "c.pem".into(), key: "k.pem".into() };
        assert_eq!(config.identity, files);
        assert_eq!((config.log.filter.as_str(), config.log.format), ("debug", LogFormat::Json));
        assert_eq!(config.limits.rooms, 5);
        assert_eq!(config.server_id.unwrap().bytes, [0x0a]);

        let flags = [
            "--auth-secret-file=s",
            "--auth-key-file=k.pem",
            "--auth-jwks=j.json",
            "--auth-issuer=i",
            "--auth-issuer=j",
            "--auth-audience=a",
        ];
        let auth = load(&flags, &[]).unwrap().config.auth.unwrap();
        assert_eq!(auth.secret_file, Some("s".into()));
        assert_eq!(auth.key_file, Some("k.pem".into()));
        assert_eq!(auth.jwks, Some(JwksPlace::File("j.json".into())));
        assert_eq!(
            (auth.issuers, auth.audiences),
            (vec!["i".into(), "j".into()], vec!["a".into()])
        );

        let config = load(&["--certs-dir", "elsewhere"], &[]).unwrap().config;
        assert_eq!(config.identity, IdentitySource::SelfMade { dir: "elsewhere".into() });
    }

    #[test]
    fn the_file_is_named_by_flag_or_variable() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (one, other) =
            (file("one.toml", "heartbeat_ms = 1000"), file("two.toml", "heartbeat_ms = 2000"));
        let heartbeat = |flags: &[&str], variables: &[(&str, &str)]| {
            load(flags, variables).unwrap().config.heartbeat
        };
        let variable = [(CONFIG_VARIABLE, other.as_str())];
        assert_eq!(heartbeat(&["--config", &one], &[]), Duration::from_secs(1));
        assert_eq!(heartbeat(&[], &variable), Duration::from_secs(2));
        assert_eq!(heartbeat(&["--config", &one], &variable), Duration::from_secs(1));
        assert_eq!(heartbeat(&[], &[(CONFIG_VARIABLE, "")]), Duration::from_secs(15));

        let absent = dir.path().join("absent.toml");
        let sentence = load(&["--config", absent.to_str().unwrap()], &[]).unwrap_err().to_string();
        let start = format!("cannot read the configuration file {}: ", absent.display());
        assert!(sentence.starts_with(&start), "{sentence}");
    }

    #[test]
    fn a_flag_outranks_an_assignment() {
        let config = load(&["--log=warn", "--set", "log=debug"], &[]).unwrap().config;
        assert_eq!(config.log.filter.as_str(), "warn");
    }
}
