//! The command line.

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
    /// Certificate chain (PEM).
    #[arg(long, value_name = "FILE")]
    pub cert: Option<String>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE")]
    pub key: Option<String>,
    /// What is logged, such as `info` or `handover=debug`.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How: `auto`, `human` or `json`.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Let anybody in from beyond this machine, without a token.
    #[arg(long)]
    pub allow_anonymous: bool,
    /// Any setting by its key; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl SettingArgs {
    /// The configuration of this process.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let variables = config::environment(std::env::vars_os())?;
        let path = self.config.clone().or_else(|| variables.get(CONFIG_VARIABLE).map(PathBuf::from));
        let text = match &path {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|source| {
                LoadError::File { path: path.clone(), source }
            })?),
            None => None,
        };
        let file = path.as_deref().zip(text.as_deref());
        let file = file.map(|(path, text)| ConfigFile { path, text });
        Ok(config::load(file, &variables, &self.flags()?)?)
    }

    fn flags(&self) -> Result<Vec<FlagValue>, ConfigError> {
        let mut flags = Vec::new();
        for assignment in &self.set {
            flags.push(FlagValue::assignment(assignment)?);
        }
        let lists = [("--listen", "listen", &self.listen), ("--http", "http", &self.http)];
        for (flag, key, values) in lists {
            if !values.is_empty() {
                flags.push(FlagValue::new(flag, key, values.join(",")));
            }
        }
        let singles = [
            ("--cert", "cert", &self.cert),
            ("--key", "key", &self.key),
            ("--log", "log", &self.log),
            ("--log-format", "log_format", &self.log_format),
        ];
        for (flag, key, value) in singles {
            flags.extend(value.iter().map(|value| FlagValue::new(flag, key, value.clone())));
        }
        if self.allow_anonymous {
            flags.push(FlagValue::new("--allow-anonymous", "allow_anonymous", "true".to_owned()));
        }
        Ok(flags)
    }
}
