//! Sizes of guest memory as people write them: `512M`, `4G`.

use crate::{Diagnostic, ErrorKind};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Guest memory in MiB, between [`MemorySize::MIN`] and [`MemorySize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct MemorySize(u64);

/// Why a size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional unit.
    #[error("memory size {0:?} is not a number with an optional unit")]
    Syntax(String),
    /// Not a whole number of MiB.
    #[error("memory size {0:?} is not a whole number of MiB")]
    Fraction(String),
    /// Outside what a guest can boot with or an address space can hold.
    #[error("memory size {0} is outside {min} to {max}", min = MemorySize::MIN, max = MemorySize::MAX)]
    Range(String),
}

impl Diagnostic for SizeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("write it as 512M or 4G; M and G are powers of 1024, a bare number is MiB".into())
    }
}

impl MemorySize {
    /// The least that a kernel, the agent and a shell get by with.
    pub const MIN: Self = Self(64);
    /// 16 TiB: beyond any host this runs on, and far from overflow.
    pub const MAX: Self = Self(16 * 1024 * 1024);

    /// Checks a number of MiB.
    pub fn from_mib(mib: u64) -> Result<Self, SizeError> {
        let size = Self(mib);
        if (Self::MIN..=Self::MAX).contains(&size) { Ok(size) } else { Err(SizeError::Range(format!("{mib}M"))) }
    }

    /// The size in MiB.
    pub const fn mib(self) -> u64 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl FromStr for MemorySize {
    type Err = SizeError;
    fn from_str(s: &str) -> Result<Self, SizeError> {
        Self::from_mib(mib_of(s)?).map_err(|_| SizeError::Range(s.into()))
    }
}

/// MiB of a size as people write it.
pub(crate) fn mib_of(s: &str) -> Result<u64, SizeError> {
    let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = s.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Syntax(s.into()));
    }
    let number: u128 = number.parse().map_err(|_| SizeError::Range(s.into()))?;
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" if unit.is_empty() => 20,
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(SizeError::Syntax(s.into())),
    };
    let bytes = number.checked_mul(1 << shift).ok_or_else(|| SizeError::Range(s.into()))?;
    if bytes % (1 << 20) != 0 {
        return Err(SizeError::Fraction(s.into()));
    }
    u64::try_from(bytes >> 20).map_err(|_| SizeError::Range(s.into()))
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            m if m % (1 << 20) == 0 => f.pad(&format!("{}T", m >> 20)),
            m if m % (1 << 10) == 0 => f.pad(&format!("{}G", m >> 10)),
            m => f.pad(&format!("{m}M")),
        }
    }
}

impl TryFrom<u64> for MemorySize {
    type Error = SizeError;
    fn try_from(mib: u64) -> Result<Self, SizeError> {
        Self::from_mib(mib)
    }
}

impl From<MemorySize> for u64 {
    fn from(size: MemorySize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, mib) in [("512M", 512), ("4G", 4096), ("256", 256), ("1g", 1024), ("128MiB", 128), ("131072K", 128)]
        {
            assert_eq!(text.parse::<MemorySize>().map(MemorySize::mib), Ok(mib), "{text}");
        }
    }

    #[test]
    fn impossible_sizes_are_named() {
        for text in ["3M", "3P", "0", "99999999999999999999999G"] {
            assert!(matches!(text.parse::<MemorySize>(), Err(SizeError::Range(_))), "{text}");
        }
        for text in ["", "M", "-5M", "1.5G", "5X", "5 M", "ib"] {
            assert!(matches!(text.parse::<MemorySize>(), Err(SizeError::Syntax(_))), "{text}");
        }
        assert!(matches!("1000K".parse::<MemorySize>(), Err(SizeError::Fraction(_))));
    }

    proptest! {
        #[test]
        fn shown_sizes_read_back(mib in 64u64..=16 * 1024 * 1024) {
            let size = MemorySize::from_mib(mib).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_panics(s in ".{0,40}") {
            let _ = s.parse::<MemorySize>();
        }
    }
}
