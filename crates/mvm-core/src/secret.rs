//! Secrets: what a VM is given at each start and nobody writes down.

use crate::{Diagnostic, ErrorKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

/// Secrets by name, within their bounds. Their content is written as hexadecimal digits, and never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

/// Why a secret was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not `NAME=FILE`.
    #[error("secret {0:?}: no `=` between name and file")]
    Syntax(String),
    /// A name that cannot be a file's in the guest.
    #[error("secret {0:?}: a name has 1 to 64 letters, digits, `_`, `.` and `-`, and begins with a letter or digit")]
    Name(String),
    /// The same name again.
    #[error("secret {0:?} is given twice")]
    Twice(String),
    /// Beyond what a guest is given.
    #[error("secret {0:?} is too large: one may have {each} KiB, all together {all} KiB, and there may be {most}",
        each = Secrets::EACH >> 10, all = Secrets::ALL >> 10, most = Secrets::MOST)]
    TooLarge(String),
    /// Ones that the VM needs and nobody gave.
    #[error("the VM needs secrets that were not given: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// One that the VM was made without.
    #[error("the VM was made without the secret {0:?}")]
    Unexpected(String),
    /// Not hexadecimal digits.
    #[error("a secret was garbled")]
    Garbled,
}

impl Diagnostic for SecretError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax(_) | Self::Name(_) => Some("write it as NAME=FILE, as in db-password=./password".into()),
            Self::Missing(names) => {
                let given: Vec<_> = names.iter().map(|name| format!("--secret {name}=FILE")).collect();
                Some(format!("secrets are kept nowhere, so they are given at each start: {}", given.join(" ")))
            }
            Self::TooLarge(_) => Some("encrypt it, copy it in with `cp`, and give its key as the secret".into()),
            Self::Unexpected(_) => {
                Some("which secrets a VM has is decided when it is made; `mvmctl inspect` shows them".into())
            }
            Self::Twice(_) | Self::Garbled => None,
        }
    }
}

impl Secrets {
    /// Most bytes of one secret.
    pub const EACH: usize = 64 << 10;
    /// Most bytes of all.
    pub const ALL: usize = 96 << 10;
    /// Most secrets of a VM.
    pub const MOST: usize = 64;

    /// Adds one.
    pub fn add(&mut self, name: &str, content: Vec<u8>) -> Result<(), SecretError> {
        check_name(name)?;
        let all: usize = self.0.values().map(Vec::len).sum();
        if content.len() > Self::EACH || all + content.len() > Self::ALL || self.0.len() >= Self::MOST {
            return Err(SecretError::TooLarge(name.into()));
        }
        match self.0.insert(name.into(), content) {
            None => Ok(()),
            Some(_) => Err(SecretError::Twice(name.into())),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and contents, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    /// Whether these are the secrets that a VM was made with.
    pub fn check(&self, needed: &[String]) -> Result<(), SecretError> {
        let missing: Vec<_> = needed.iter().filter(|name| !self.0.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(SecretError::Missing(missing));
        }
        match self.0.keys().find(|name| !needed.contains(name)) {
            Some(name) => Err(SecretError::Unexpected(name.clone())),
            None => Ok(()),
        }
    }
}

/// Checks the names of the secrets that an image needs.
pub(crate) fn check_names(names: &[String]) -> Result<(), SecretError> {
    for (n, name) in names.iter().enumerate() {
        check_name(name)?;
        if n >= Secrets::MOST {
            return Err(SecretError::TooLarge(name.clone()));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), SecretError> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let begins = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if begins && name.len() <= 64 && name.bytes().all(fits) { Ok(()) } else { Err(SecretError::Name(name.into())) }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<Secrets> for BTreeMap<String, String> {
    fn from(secrets: Secrets) -> Self {
        let hex = |content: Vec<u8>| {
            content.iter().fold(String::with_capacity(2 * content.len()), |mut text, byte| {
                let _infallible = write!(text, "{byte:02x}");
                text
            })
        };
        secrets.0.into_iter().map(|(name, content)| (name, hex(content))).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for Secrets {
    type Error = SecretError;
    fn try_from(texts: BTreeMap<String, String>) -> Result<Self, SecretError> {
        let digit = |c: u8| char::from(c).to_digit(16);
        let mut secrets = Self::default();
        for (name, text) in texts {
            let pairs = text.as_bytes().chunks(2);
            let byte = |pair: &[u8]| match pair {
                [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
                _ => None,
            };
            secrets.add(&name, pairs.map(byte).collect::<Option<_>>().ok_or(SecretError::Garbled)?)?;
        }
        Ok(secrets)
    }
}

/// Where a secret comes from: `NAME=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// Its name.
    pub name: String,
    /// The file with its content.
    pub file: PathBuf,
}

impl FromStr for SecretSource {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let (name, file) = text.split_once('=').ok_or_else(|| SecretError::Syntax(text.into()))?;
        check_name(name)?;
        if file.is_empty() {
            return Err(SecretError::Syntax(text.into()));
        }
        Ok(Self { name: name.into(), file: file.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(names: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        names.iter().for_each(|name| secrets.add(name, vec![0, 0xff, 0x1a]).unwrap());
        secrets
    }

    #[test]
    fn contents_are_carried_and_not_shown() {
        let one = secrets(&["a"]);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"{"a":"00ff1a"}"#);
        assert_eq!(serde_json::from_str::<Secrets>(&text).unwrap(), one);
        assert_eq!(format!("{one:?}"), r#"{"a"}"#);
        for garbled in [r#"{"a":"0"}"#, r#"{"a":"0g"}"#, r#"{"a":"é"}"#, r#"{"../a":"00"}"#] {
            assert!(serde_json::from_str::<Secrets>(garbled).is_err(), "{garbled}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        let mut some = secrets(&["a"]);
        assert_eq!(some.add("a", vec![]), Err(SecretError::Twice("a".into())));
        assert!(matches!(some.add("b", vec![0; Secrets::EACH + 1]), Err(SecretError::TooLarge(_))));
        some.add("b", vec![0; Secrets::EACH]).unwrap();
        assert!(matches!(some.add("c", vec![0; Secrets::EACH]), Err(SecretError::TooLarge(_))));
        for name in ["", ".a", "a/b", "-a", "a b", &"x".repeat(65)] {
            assert!(matches!(some.add(name, vec![]), Err(SecretError::Name(_))), "{name}");
        }
    }

    #[test]
    fn the_missing_and_the_unexpected_are_named() {
        let needed = ["a".to_string(), "b".into()];
        assert_eq!(secrets(&["a", "b"]).check(&needed), Ok(()));
        assert_eq!(secrets(&["b"]).check(&needed), Err(SecretError::Missing(vec!["a".into()])));
        assert_eq!(secrets(&["a", "b", "c"]).check(&needed), Err(SecretError::Unexpected("c".into())));
    }

    #[test]
    fn sources_as_people_write_them() {
        let source = "db.key=/run/a=b".parse::<SecretSource>().unwrap();
        assert_eq!((source.name.as_str(), source.file.to_str()), ("db.key", Some("/run/a=b")));
        assert!(matches!("key".parse::<SecretSource>(), Err(SecretError::Syntax(_))));
        assert!(matches!("key=".parse::<SecretSource>(), Err(SecretError::Syntax(_))));
        assert!(matches!("../key=x".parse::<SecretSource>(), Err(SecretError::Name(_))));
    }
}
