//! How each layer is read: the file, the environment, the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::layer::Origin;
use super::settings::{KEYS, Layer, unknown_variable, variable};
use super::value::Raw;

/// Names the configuration file; a flag of its own and no setting.
pub const CONFIG_VARIABLE: &str = "HANDOVER_CONFIG";
const PREFIX: &str = "HANDOVER_";

/// A setting given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// With its dashes, for messages.
    pub flag: &'static str,
    /// The setting it sets.
    pub key: String,
    /// Its value as text.
    pub text: String,
}

impl FlagValue {
    /// A flag that stands for one setting.
    pub fn new(flag: &'static str, key: &str, text: String) -> Self {
        FlagValue { flag, key: key.to_owned(), text }
    }

    /// The `KEY=VALUE` of `--set`.
    pub fn assignment(text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            Some((key, value)) => Ok(FlagValue::new("--set", key.trim(), value.trim().to_owned())),
            None => Err(ConfigError::Assignment { text: text.to_owned() }),
        }
    }
}

/// The variables of ours among those of a process.
pub fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut ours = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let value =
            value.into_string().map_err(|_| ConfigError::NotText { name: name.to_owned() })?;
        ours.insert(name.to_owned(), value);
    }
    Ok(ours)
}

/// The layer of a TOML file.
pub(super) fn file_layer(path: &str, text: &str) -> Result<Layer, ConfigError> {
    let document = File { path, text };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: document.place(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut layer = Layer::default();
    document.read("", table.get_ref(), &mut layer)?;
    Ok(layer)
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, at: usize) -> Origin {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }

    /// Reads a section and those inside it. `prefix` ends in a dot, or is empty.
    fn read(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        layer: &mut Layer,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let place = self.place(name.span().start);
            match value.get_ref() {
                // Into unknown sections too: the suggestion is better for a whole key.
                DeValue::Table(inner)
                    if !is_key(&key) && (is_section(&key) || !inner.is_empty()) =>
                {
                    self.read(&format!("{key}."), inner, layer)?;
                }
                raw => {
                    let shown = self.text.get(value.span()).unwrap_or_default();
                    layer.set(&key, Raw::Toml(raw), shown, place)?;
                }
            }
        }
        Ok(())
    }
}

fn is_key(name: &str) -> bool {
    KEYS.contains(&name)
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The layer of the environment. An empty variable counts as absent.
pub(super) fn environment_layer(
    variables: &BTreeMap<String, String>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (name, text) in variables {
        if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| variable(key) == *name) else {
            return Err(unknown_variable(name));
        };
        if !text.is_empty() {
            layer.set(key, Raw::Text(text), text, Origin::Environment { name: name.clone() })?;
        }
    }
    Ok(layer)
}

/// The layer of the command line; of two flags for one setting the later holds.
pub(super) fn flags_layer(flags: &[FlagValue]) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for FlagValue { flag, key, text } in flags {
        let origin = Origin::Flag { name: flag };
        layer.set(key, Raw::Text(text), text, origin)?;
    }
    Ok(layer)
}
