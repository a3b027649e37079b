//! What `nix --version` says: `nix (Nix) 2.34.8`, and the words of its relatives.

use std::fmt;

/// Which Nix it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Nix itself.
    Nix,
    /// Lix, a fork with the same command line.
    Lix,
    /// Determinate Nix; the number is that of the Nix it is made from.
    Determinate,
    /// Another relative.
    Other,
}

/// A Nix version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixVersion {
    /// Which Nix.
    pub flavour: Flavour,
    /// Major, minor and patch number.
    pub number: (u32, u32, u32),
    /// What it says of itself.
    pub text: String,
}

impl NixVersion {
    /// The oldest that has flakes, and a JSON log to follow them.
    pub const OLDEST: (u32, u32, u32) = (2, 4, 0);

    /// Reads the first line that `nix --version` prints.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.lines().next()?.trim();
        let (name, number) = match text.strip_prefix("nix (").and_then(|t| t.split_once(')')) {
            Some((name, number)) => (name, number),
            None => ("", text.strip_prefix("nix")?),
        };
        let flavour = match name {
            "Nix" => Flavour::Nix,
            n if n.starts_with("Lix") => Flavour::Lix,
            n if n.starts_with("Determinate") => Flavour::Determinate,
            _ => Flavour::Other,
        };
        let mut numbers = number.trim().split('.').map(leading_number);
        let major = numbers.next()??;
        let minor = numbers.next().flatten()?;
        let patch = numbers.next().flatten().unwrap_or(0);
        Some(Self { flavour, number: (major, minor, patch), text: text.to_owned() })
    }

    /// Whether flakes can be built with it.
    pub fn has_flakes(&self) -> bool {
        self.number >= Self::OLDEST
    }
}

impl fmt::Display for NixVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `19pre20231121_ab` is 19.
fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives_are_told_apart() {
        for (text, flavour, number) in [
            ("nix (Nix) 2.8.0", Flavour::Nix, (2, 8, 0)),
            ("nix (Nix) 2.34.8\n", Flavour::Nix, (2, 34, 8)),
            ("nix (Nix) 2.19pre20231121_dirty", Flavour::Nix, (2, 19, 0)),
            ("nix (Lix, like Nix) 2.91.1\nSystem type: x86_64-linux", Flavour::Lix, (2, 91, 1)),
            ("nix (Determinate Nix 3.6.2) 2.29.0", Flavour::Determinate, (2, 29, 0)),
            ("nix (Tvix) 3.0", Flavour::Other, (3, 0, 0)),
            ("nix 2.3", Flavour::Other, (2, 3, 0)),
        ] {
            let version = NixVersion::parse(text).unwrap();
            assert_eq!((version.flavour, version.number), (flavour, number), "{text}");
        }
        assert!(!NixVersion::parse("nix (Nix) 2.3.16").unwrap().has_flakes());
        for text in ["", "bash 5.2", "nix", "nix (Nix)", "nix (Nix) two", "nix (Nix) 2.x"] {
            assert_eq!(NixVersion::parse(text), None, "{text}");
        }
    }

    #[test]
    fn recorded_versions_are_read() {
        for sample in crate::build::tests::samples("txt") {
            let version = NixVersion::parse(&String::from_utf8(sample.bytes).unwrap()).unwrap();
            assert!(version.has_flakes() && version.flavour == Flavour::Nix, "{}", sample.name);
        }
    }
}
