//! What QUIC connection ids tell a load balancer.

use super::error::ConfigError;
use super::layer::Origin;
use super::settings::Settings;
use super::value::{Expected, Raw, Value, quoted, text};

/// What they are if nobody says anything.
pub(super) const CONFIG_ROTATION: u64 = 0;
pub(super) const NONCE_BYTES: u64 = 8;
/// 7 marks ids that lead nowhere in particular.
pub(super) const CONFIG_ROTATION_MAX: u64 = 6;
/// With fewer an address could be proven by guessing.
pub(super) const NONCE_BYTES_MIN: u64 = 8;
/// What a server id of one byte leaves.
pub(super) const NONCE_BYTES_MAX: u64 = 18;
/// What the shortest nonce leaves.
const SERVER_ID_BYTES_MAX: usize = 11;
/// Server id and nonce; QUIC allows 20, and the first octet is QUIC-LB's.
const BYTES_MAX: usize = 19;

/// Which node this is, to a load balancer that routes by connection id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId {
    /// What connection ids name.
    pub bytes: Vec<u8>,
    /// Which of the balancer's configurations they follow.
    pub config_rotation: u8,
    /// How many random bytes they have.
    pub nonce_bytes: usize,
}

/// Bytes written as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HexBytes(Vec<u8>);

impl Value for Option<HexBytes> {
    fn read(raw: Raw<'_>) -> Result<Self, Expected> {
        let expected = "1 to 11 bytes as hexadecimal digits, two each, such as 0a or \
                        0x00000000000000a1";
        let bytes = text(raw).and_then(|text| parse(text.strip_prefix("0x").unwrap_or(text)));
        bytes.map(|bytes| Some(HexBytes(bytes))).ok_or_else(|| expected.into())
    }

    fn to_toml(&self) -> Option<String> {
        let digits = |bytes: &HexBytes| bytes.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.as_ref().map(digits).map(|digits: String| quoted(&digits))
    }
}

fn parse(digits: &str) -> Option<Vec<u8>> {
    let values = digits.chars().map(|digit| digit.to_digit(16).and_then(|d| u8::try_from(d).ok()));
    let values: Vec<u8> = values.collect::<Option<_>>()?;
    let (pairs, rest) = values.as_chunks::<2>();
    let fits = (1..=SERVER_ID_BYTES_MAX).contains(&pairs.len()) && rest.is_empty();
    fits.then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// What the settings say of it, if anything.
pub(super) fn server_id(settings: &Settings) -> Option<ServerId> {
    let HexBytes(bytes) = settings.quic_server_id.value.clone()?;
    Some(ServerId {
        bytes,
        config_rotation: u8::try_from(settings.quic_config_rotation.value.0).unwrap_or_default(),
        nonce_bytes: settings.quic_nonce_bytes.value.size(),
    })
}

/// Whether ids like that can be, and what is said of them has an effect.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    let (rotation, nonce) = (&settings.quic_config_rotation, &settings.quic_nonce_bytes);
    let Some(ServerId { bytes, nonce_bytes, .. }) = server_id(settings) else {
        // A printed configuration has the defaults, which do no harm.
        let (of_rotation, of_nonce) = (rotation.value.0, nonce.value.0);
        let idle = if of_rotation != CONFIG_ROTATION {
            ("quic.config_rotation", &rotation.origin)
        } else if of_nonce != NONCE_BYTES {
            ("quic.nonce_bytes", &nonce.origin)
        } else {
            return Ok(());
        };
        return Err(ConfigError::NoServerId { place: idle.1.clone(), key: idle.0 });
    };
    if bytes.len().saturating_add(nonce_bytes) <= BYTES_MAX {
        return Ok(());
    }
    let set = [&nonce.origin, &settings.quic_server_id.origin];
    let place = set.into_iter().find(|origin| **origin != Origin::Default);
    let place = place.cloned().unwrap_or_default();
    Err(ConfigError::ConnectionId { place, server_id: bytes.len(), nonce: nonce_bytes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::{Config, ConfigFile, load};
    use super::*;
    use crate::transport::webtransport::ServerIds;

    fn read(file: &str) -> Result<Config, String> {
        let file = ConfigFile { path: Path::new("h.toml"), text: file };
        let loaded = load(Some(file), &BTreeMap::new(), &[]);
        loaded.map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_id_arrives() {
        assert_eq!(Config::default().server_id, None);
        let one = ServerId { bytes: vec![0x0a], config_rotation: 0, nonce_bytes: 8 };
        assert_eq!(read("quic.server_id = '0A'").unwrap().server_id, Some(one));
        let cloud =
            "[quic]\nserver_id = '0x00000000000000a1'\nconfig_rotation = 6\nnonce_bytes = 11";
        let bytes = vec![0, 0, 0, 0, 0, 0, 0, 0xa1];
        let expected = ServerId { bytes, config_rotation: 6, nonce_bytes: 11 };
        assert_eq!(read(cloud).unwrap().server_id, Some(expected));
    }

    #[test]
    fn what_is_printed_is_taken_back() {
        let value = Some(HexBytes(vec![0, 0x0f, 0xf0]));
        let digits = value.to_toml().unwrap();
        assert_eq!(digits, "\"000ff0\"");
        let back = Option::<HexBytes>::read(Raw::Text(digits.trim_matches('"')));
        assert_eq!(back.ok(), Some(value));
    }

    #[test]
    fn what_is_no_server_id_is_refused() {
        let long = "11".repeat(12);
        for bad in ["", "0x", "a", "0a0", "zz", "0x0x11", "+1", "é1", &long] {
            let sentence = read(&format!("quic.server_id = '{bad}'")).unwrap_err();
            assert!(
                sentence.contains("expected 1 to 11 bytes as hexadecimal"),
                "{bad}: {sentence}"
            );
        }
        // A number would lose its zeros.
        assert!(read("quic.server_id = 10").is_err());
    }

    #[test]
    fn the_bounds_are_those_of_the_ids() {
        for (server_id, nonce) in [(1, 18), (8, 11), (8, 8), (11, 8), (2, 18), (10, 10), (11, 18)] {
            let hex = "a1".repeat(server_id);
            let file = format!("[quic]\nserver_id = '{hex}'\nnonce_bytes = {nonce}");
            let possible = ServerIds::new(0, &vec![1; server_id], nonce).is_ok();
            assert_eq!(read(&file).is_ok(), possible, "{file}");
        }
        let file = "quic.server_id = 'a1a1a1a1a1a1a1a1a1a1'\nquic.nonce_bytes = 10";
        let sentence = read(file).unwrap_err();
        let start = "h.toml line 2: `quic.server_id` has 10 bytes and `quic.nonce_bytes` is 10; ";
        assert!(sentence.starts_with(start), "{sentence}");
        for out in ["nonce_bytes = 7", "nonce_bytes = 19", "config_rotation = 7"] {
            assert!(read(&format!("[quic]\nserver_id = '01'\n{out}")).is_err(), "{out}");
        }
    }

    #[test]
    fn settings_of_ids_that_tell_nothing_are_refused() {
        for (key, value) in [("config_rotation", 5), ("nonce_bytes", 9)] {
            let sentence = read(&format!("quic.{key} = {value}")).unwrap_err();
            let start =
                format!("h.toml line 1: `quic.{key}` has no effect without `quic.server_id`");
            assert!(sentence.starts_with(&start), "{sentence}");
        }
    }
}
