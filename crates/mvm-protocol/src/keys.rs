//! The keys of one VM's guest channel: an Ed25519 pair for each side, made when the VM is made.

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Both pairs, as the host keeps them (`keys.json`, 0600). 32-byte keys as 64 hex digits.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelKeys {
    host_secret_key: String,
    guest_secret_key: String,
}

/// What the host needs to open channels.
#[derive(Clone)]
pub struct HostKeys {
    pub(crate) secret: SigningKey,
    pub(crate) guest: VerifyingKey,
}

/// What the guest needs to accept channels.
#[derive(Clone)]
pub struct GuestKeys {
    pub(crate) secret: SigningKey,
    pub(crate) host: VerifyingKey,
}

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 64 hex digits, or not a point of the curve.
    #[error("the {0} key is not an Ed25519 key of 64 hex digits")]
    Malformed(&'static str),
    /// The operating system gave no random bytes.
    #[error("no random bytes for a key: {0}")]
    Random(String),
}

impl ChannelKeys {
    /// Two fresh pairs.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = || {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|e| KeyError::Random(e.to_string()))?;
            Ok(to_hex(&bytes))
        };
        Ok(Self { host_secret_key: pair()?, guest_secret_key: pair()? })
    }

    /// The host's part.
    pub fn host(&self) -> Result<HostKeys, KeyError> {
        Ok(HostKeys {
            secret: secret(&self.host_secret_key, "host's secret")?,
            guest: secret(&self.guest_secret_key, "guest's secret")?.verifying_key(),
        })
    }

    /// The host's public key, 64 hex digits, for the config drive.
    pub fn host_public_hex(&self) -> Result<String, KeyError> {
        Ok(to_hex(secret(&self.host_secret_key, "host's secret")?.verifying_key().as_bytes()))
    }

    /// The guest's secret key, 64 hex digits, for the config drive.
    pub fn guest_secret_hex(&self) -> &str {
        &self.guest_secret_key
    }
}

impl GuestKeys {
    /// Reads the two keys of the config drive.
    pub fn from_hex(guest_secret: &str, host_public: &str) -> Result<Self, KeyError> {
        let host = from_hex(host_public).ok_or(KeyError::Malformed("host's public"))?;
        Ok(Self {
            secret: secret(guest_secret, "guest's secret")?,
            host: VerifyingKey::from_bytes(&host).map_err(|_| KeyError::Malformed("host's public"))?,
        })
    }
}

fn secret(hex: &str, what: &'static str) -> Result<SigningKey, KeyError> {
    Ok(SigningKey::from_bytes(&from_hex(hex).ok_or(KeyError::Malformed(what))?))
}

fn to_hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_config_drive() {
        let keys = ChannelKeys::generate().unwrap();
        let guest = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();
        let host = keys.host().unwrap();
        assert_eq!(guest.host, host.secret.verifying_key());
        assert_eq!(guest.secret.verifying_key(), host.guest);
    }

    #[test]
    fn malformed_keys_are_named() {
        let good = "11".repeat(32);
        for bad in ["", "zz", &"1".repeat(63), &"g".repeat(64), &format!("+{}", "1".repeat(63))] {
            assert!(GuestKeys::from_hex(bad, &good).is_err(), "{bad:?}");
            assert!(GuestKeys::from_hex(&good, bad).is_err(), "{bad:?}");
        }
    }
}
