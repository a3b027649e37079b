//! Known Nix failures, recognised by Nix's words and turned into advice. The words are kept beside it.
//!
//! Nix's wording changes between versions; `tests/data` has what three of them say, and a wording that
//! nobody knows costs only the advice.

use mvm_core::ErrorKind;

/// A failure that mvm knows something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The flake has no such attribute.
    NoAttribute,
    /// The folder has no `flake.nix`, or does not exist.
    NoFlake,
    /// Git does not know `flake.nix`, so Nix does not see it.
    Untracked,
    /// No registry has the name.
    NoRegistryEntry,
    /// A Nix expression is not well-formed.
    Syntax,
    /// The disk is full.
    NoSpace,
    /// Flakes are switched off by something that mvm cannot override.
    NoFeatures,
    /// The derivation is for another system, and no builder for it is known.
    OtherSystem,
    /// The derivation is for Linux, this is a Mac, and no Linux builder is known.
    NoLinuxBuilder,
    /// Something could not be downloaded.
    Offline,
    /// A binary cache's signature is not trusted.
    Untrusted,
    /// The daemon ignores a binary cache that this user named.
    UntrustedSubstituter,
    /// The daemon ignores settings of this user.
    UntrustedUser,
    /// This Nix cannot express the ref.
    Url,
    /// The store cannot be written.
    StorePermission,
    /// The folder in which Nix keeps what it has fetched cannot be written.
    ReadOnlyCache,
    /// A download has another hash than the flake says.
    HashMismatch,
    /// The out-link's place is taken by something else.
    LinkTaken,
}

/// Words, all of which must be in the message, in lower case.
const SIGNS: &[(Trouble, &[&str])] = &[
    (Trouble::Untracked, &["not tracked by git"]),
    (Trouble::NoAttribute, &["does not provide attribute"]),
    (Trouble::NoRegistryEntry, &["cannot find flake", "registries"]),
    // 2.8 without a registry file.
    (Trouble::NoRegistryEntry, &["unable to download ''"]),
    (Trouble::NoSpace, &["no space left on device"]),
    (Trouble::NoSpace, &["disk quota exceeded"]),
    (Trouble::NoSpace, &["disk is full"]),
    (Trouble::NoFeatures, &["experimental nix feature", "is disabled"]),
    (Trouble::NoLinuxBuilder, &["-linux' with features", "is required to build", "but i am a 'aarch64-darwin'"]),
    (Trouble::NoLinuxBuilder, &["-linux' with features", "is required to build", "but i am a 'x86_64-darwin'"]),
    (Trouble::NoLinuxBuilder, &["-linux'", "required system:", "current system: 'aarch64-darwin'"]),
    (Trouble::NoLinuxBuilder, &["-linux'", "required system:", "current system: 'x86_64-darwin'"]),
    (Trouble::OtherSystem, &["is required to build", "but i am a"]),
    (Trouble::OtherSystem, &["required system:", "current system:"]),
    (Trouble::Untrusted, &["not signed by any of the keys"]),
    (Trouble::Untrusted, &["lacks a signature by a trusted key"]),
    (Trouble::Untrusted, &["lacks a valid signature"]),
    (Trouble::UntrustedSubstituter, &["ignoring untrusted substituter"]),
    // The user's in 2.8, the client's in later ones.
    (Trouble::UntrustedUser, &["ignoring the ", "-specified setting", "restricted setting"]),
    (Trouble::Offline, &["unable to download", "resolve host"]),
    (Trouble::Offline, &["unable to download", "connect to server"]),
    (Trouble::Offline, &["unable to download", "timeout was reached"]),
    (Trouble::Offline, &["could not resolve host"]),
    (Trouble::HashMismatch, &["hash mismatch in fixed-output derivation"]),
    (Trouble::Syntax, &["syntax error, unexpected"]),
    (Trouble::LinkTaken, &["cannot create symlink", "already exists"]),
    (Trouble::NoFlake, &["could not find a flake.nix"]),
    (Trouble::NoFlake, &["/flake.nix'", "does not exist"]),
    (Trouble::NoFlake, &["/flake.nix'", "no such file or directory"]),
    (Trouble::NoFlake, &["fetching the input 'path:", "does not exist"]),
    (Trouble::Url, &["is not a valid url"]),
    (Trouble::ReadOnlyCache, &["creating directory", "read-only file system"]),
    (Trouble::ReadOnlyCache, &[".cache/nix", "permission denied"]),
    (Trouble::ReadOnlyCache, &[".cache/nix", "read-only"]),
    (Trouble::StorePermission, &["/nix/", "permission denied"]),
];

impl Trouble {
    /// Recognises a failure by Nix's text, which has no ANSI sequences.
    pub(crate) fn recognise(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        SIGNS.iter().find(|(_, words)| words.iter().all(|w| text.contains(w))).map(|(trouble, _)| *trouble)
    }

    /// What kind of error it is.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::NoAttribute | Self::NoFlake | Self::Untracked | Self::NoRegistryEntry => ErrorKind::NotFound,
            _ => ErrorKind::BuildFailed,
        }
    }

    /// One sentence of what to do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoAttribute => "`nix flake show REF` lists what the flake has; write it after `#`",
            Self::NoFlake => {
                "name the folder that holds flake.nix; in a Git repository it must be added: `git add flake.nix`"
            }
            Self::Untracked => "Nix sees only files that Git knows: `git add flake.nix` (no commit is needed)",
            Self::NoRegistryEntry => {
                "for a folder of this name write `./NAME`; names like nixpkgs come from a registry: `nix registry list`"
            }
            Self::Syntax => "mend the file and line that Nix names",
            Self::NoSpace => {
                "free some space: `nix-collect-garbage` removes what nothing uses any more, `df -h /nix /tmp` shows where"
            }
            Self::NoFeatures => {
                "mvm asks for `nix-command flakes`; remove what forbids them from nix.conf or NIX_CONFIG"
            }
            Self::OtherSystem => {
                "build for this machine's system, or configure a remote builder for the other one: `builders` in nix.conf"
            }
            Self::Offline => "check the network; inputs that are in the store already can be used with `--offline`",
            Self::Untrusted => "add the cache's key to `trusted-public-keys` in nix.conf, or build without the cache",
            Self::NoLinuxBuilder => {
                "a Mac builds for Linux by a Linux builder: mvm's module for nix-darwin sets one up (services.mvm.linuxBuilder), and `nix run nixpkgs#darwin.linux-builder` starts one"
            }
            Self::UntrustedSubstituter => {
                "ask for the cache in `trusted-substituters`, or for your name in `trusted-users`, in the daemon's nix.conf"
            }
            Self::ReadOnlyCache => {
                "Nix keeps what it fetches in ~/.cache/nix: make it writable, or set XDG_CACHE_HOME to a folder that is"
            }
            Self::UntrustedUser => "ask for your name in `trusted-users` in the daemon's nix.conf",
            Self::Url => {
                "older Nix takes no blanks and few special characters in a flake's path: move the flake, or use Nix 2.26 or later"
            }
            Self::StorePermission => "use Nix through its daemon (NIX_REMOTE=daemon), or as the user who owns /nix",
            Self::HashMismatch => "the source has changed: check it, then write the new hash into the flake",
            Self::LinkTaken => "move away what lies in the place of the GC root link",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureLog;

    /// The three recorded versions are all recognised, each in its own words.
    #[test]
    fn recorded_failures_are_recognised() {
        let want = [
            ("no-attr", Some(Trouble::NoAttribute)),
            ("untracked", None),
            ("no-flake-nix", Some(Trouble::NoFlake)),
            ("indirect", Some(Trouble::NoRegistryEntry)),
            ("syntax", Some(Trouble::Syntax)),
            ("alien", Some(Trouble::OtherSystem)),
            ("no-features", Some(Trouble::NoFeatures)),
            ("remote", Some(Trouble::Offline)),
            ("untrusted", Some(Trouble::Untrusted)),
            ("untrusted-substituter", Some(Trouble::UntrustedSubstituter)),
            ("no-space", Some(Trouble::NoSpace)),
            ("read-only-cache", Some(Trouble::ReadOnlyCache)),
            ("fails", None),
            ("throws", None),
        ];
        let mut seen = 0;
        for sample in crate::build::tests::samples("events") {
            let Some((_, trouble)) = want.iter().find(|(file, _)| *file == sample.file) else { continue };
            let failure = FailureLog::replay(&sample.bytes);
            match sample.file.as_str() {
                // Only 2.34 says that Git is the reason; the others say that the file does not exist.
                "untracked" => {
                    assert!(matches!(failure.trouble, Some(Trouble::Untracked | Trouble::NoFlake)), "{}", sample.name);
                }
                _ => assert_eq!(failure.trouble, *trouble, "{}: {}", sample.name, failure.message),
            }
            assert!(!failure.message.is_empty() && !failure.message.contains('\u{1b}'), "{}", sample.name);
            seen += 1;
        }
        assert_eq!(seen, 3 * want.len());
    }

    /// What each version says of another system, on a Mac.
    #[test]
    fn a_mac_needs_a_linux_builder() {
        let mut seen = 0;
        for sample in crate::build::tests::samples("events").filter(|s| s.file == "alien") {
            let text = FailureLog::replay(&sample.bytes).message;
            for mac in ["aarch64-darwin", "x86_64-darwin"] {
                let there = text.replace("x86_64-linux", mac);
                assert_eq!(Trouble::recognise(&there), Some(Trouble::NoLinuxBuilder), "{}: {there}", sample.name);
                // The other way round there is nothing to advise but a remote builder.
                let back = there.replace(mac, "x86_64-linux").replace("aarch64-linux", mac);
                assert_eq!(Trouble::recognise(&back), Some(Trouble::OtherSystem), "{}: {back}", sample.name);
            }
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    #[test]
    fn a_full_disk_is_recognised() {
        let text = "error: writing to file: No space left on device";
        assert_eq!(Trouble::recognise(text), Some(Trouble::NoSpace));
        assert_eq!(Trouble::recognise("builder failed with exit code 1"), None);
    }
}
