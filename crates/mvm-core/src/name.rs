//! Names of VMs, of templates and of images.

use crate::{Diagnostic, ErrorKind};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A VM's name: also its host name and a folder's name, so a DNS label (RFC 1123):
/// 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// A template's name: a folder's name, by the same rule as a VM's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

/// The name of an image that was fetched: a folder's name, by the same rule as a VM's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than a DNS label may be.
    #[error("the name has {0} characters; 1 to 63 are allowed")]
    Length(usize),
    /// A character that host names and folders do not share.
    #[error("the name {name:?} has the character {character:?}")]
    Character {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// A hyphen at one of the ends.
    #[error("the name {0:?} begins or ends with a hyphen")]
    Hyphen(String),
}

impl Diagnostic for NameError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("use lower-case letters, digits and inner hyphens, at most 63, as in `web-1`".into())
    }
}

/// Checks a name.
fn checked(name: String) -> Result<String, NameError> {
    if name.is_empty() || name.chars().count() > 63 {
        return Err(NameError::Length(name.chars().count()));
    }
    if let Some(character) = name.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(NameError::Character { name, character });
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen(name));
    }
    Ok(name)
}

impl VmName {
    /// A name that a person can say, from `seed`: `calm-otter-3f`.
    pub fn generate(seed: u64) -> Self {
        const HOW: [&str; 16] = [
            "brave", "brisk", "calm", "clear", "deep", "eager", "fair", "fleet", "glad", "keen", "light", "merry",
            "neat", "quick", "spry", "warm",
        ];
        const WHO: [&str; 16] = [
            "badger", "crane", "finch", "fox", "hare", "heron", "ibex", "lark", "lynx", "mole", "newt", "otter",
            "raven", "seal", "stoat", "wren",
        ];
        let how = HOW[(seed & 15) as usize];
        let who = WHO[(seed >> 4 & 15) as usize];
        Self(format!("{how}-{who}-{:04x}", seed >> 8 & 0xffff))
    }
}

/// What every kind of name can do.
macro_rules! name {
    ($name:ident) => {
        impl $name {
            /// Checks a name.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                checked(name.into()).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name!(VmName);
name!(TemplateName);
name!(ImageName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_names_are_refused() {
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "a b", "ä", "a\0", &"a".repeat(64)] {
            assert!(VmName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "7", "web-1", &"a".repeat(63)] {
            assert!(VmName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    proptest! {
        #[test]
        fn generated_names_are_valid(seed: u64) {
            let name = VmName::generate(seed);
            prop_assert_eq!(VmName::new(name.as_str()), Ok(name));
        }

        #[test]
        fn accepted_names_are_one_path_component(s in ".{0,80}") {
            if let Ok(name) = VmName::new(s) {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(path.file_name().is_some());
            }
        }
    }
}
