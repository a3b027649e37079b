//! What the user has settled once for all commands: `config.toml`.

use crate::{Diagnostic, Dirs, ErrorKind};
use serde::Deserialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes that the file may have.
const LIMIT: u64 = 1 << 20;
/// Most characters of a line that an error shows.
const SHOWN: usize = 100;
/// The flake that this mvmctl was built from, where whoever installed it has said so (the Nix package does).
const FLAKE_VARIABLE: &str = "MVM_FLAKE";

/// The file `config.toml` of [`Dirs::config_file`]. Everything in it is optional, and what is not known is an error: a
/// setting that is misspelt would else be one that has no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the images come from that have a name only.
    pub catalog: CatalogConfig,
}

/// The table `[catalog]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogConfig {
    /// The flake ref of mvm itself, or of a fork of it, as in `github:me/mvm`.
    pub url: Option<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Larger than any configuration.
    #[error("{} has more than {} KiB", .0.display(), LIMIT >> 10)]
    TooLong(PathBuf),
    /// Not TOML, or a key or value that has no place in it.
    #[error("{}:{line}: {reason}, in {text:?}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands there; it has the key in it.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody has said which flake mvm is.
    #[error("this mvmctl does not know which flake it came from")]
    NoFlake {
        /// The file that could say so.
        path: PathBuf,
    },
    /// The variable holds what no flake ref can be.
    #[error("{FLAKE_VARIABLE} is {0:?}, which is not UTF-8")]
    Variable(OsString),
}

impl Diagnostic for ConfigError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Usage,
        }
    }
    fn hint(&self) -> Option<String> {
        const EXAMPLE: &str = "a table `[catalog]` with the line `url = \"github:OWNER/mvm\"`";
        Some(match self {
            Self::Io { .. } | Self::TooLong(_) => {
                "it has to be a file that you may read; without it all is as built".into()
            }
            Self::Content { .. } => format!("all that it may have is {EXAMPLE}"),
            Self::NoFlake { path } => format!("put into {} {EXAMPLE}", path.display()),
            Self::Variable(_) => "set it to a flake ref, as in github:OWNER/mvm".into(),
        })
    }
}

impl Config {
    /// Reads the user's file; where there is none, nothing is settled.
    pub fn read(dirs: &Dirs) -> Result<Self, ConfigError> {
        let path = dirs.config_file();
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Io { path, source }),
            Ok(_) if bytes.len() as u64 > LIMIT => Err(ConfigError::TooLong(path)),
            Ok(_) => Self::parse(&path, &bytes),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let content = |at: usize, reason: &str| {
            let (line, text) = line_at(bytes, at);
            ConfigError::Content { path: path.into(), line, text, reason: reason.trim().replace('\n', ", ") }
        };
        let text = std::str::from_utf8(bytes).map_err(|e| content(e.valid_up_to(), "this is not UTF-8"))?;
        toml::from_str(text).map_err(|e| content(e.span().map_or(0, |span| span.start), e.message()))
    }
}

/// The number of the line that this byte is in, and what it says.
pub(crate) fn line_at(bytes: &[u8], at: usize) -> (usize, String) {
    let (before, after) = bytes.split_at(at.min(bytes.len()));
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begin = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let end = after.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(&[begin, end].concat()).trim().chars().take(SHOWN).collect();
    (line, text)
}

/// The flake ref of mvm itself, which has the catalog, the templates and the modules that belong to this mvmctl: what
/// `catalog.url` says, else what whoever installed this mvmctl has put into `MVM_FLAKE`.
pub fn mvm_flake(dirs: &Dirs) -> Result<String, ConfigError> {
    choose_flake(dirs, Config::read(dirs)?, std::env::var_os(FLAKE_VARIABLE))
}

fn choose_flake(dirs: &Dirs, config: Config, variable: Option<OsString>) -> Result<String, ConfigError> {
    match (config.catalog.url, variable.filter(|value| !value.is_empty())) {
        (Some(url), _) => Ok(url),
        (None, Some(variable)) => variable.into_string().map_err(ConfigError::Variable),
        (None, None) => Err(ConfigError::NoFlake { path: dirs.config_file() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/c/config.toml"), text.as_ref())
    }

    #[test]
    fn what_is_not_said_is_not_settled() {
        for text in ["", "# nothing\n", "[catalog]\n"] {
            assert_eq!(parse(text).unwrap(), Config::default());
        }
        let config = parse("[catalog]\nurl = \"github:me/mvm\"\n").unwrap();
        assert_eq!(config.catalog.url.as_deref(), Some("github:me/mvm"));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, words) in [
            (&b"[catalog]\nurl = 3\n"[..], &["/c/config.toml:2:", "url = 3", "string"][..]),
            (b"\n\n[catalog]\nurll = \"x\"\n", &["/c/config.toml:4:", "urll", "`url`"]),
            (b"[catalogue]\n", &["/c/config.toml:1:", "catalogue", "`catalog`"]),
            (b"catalog = \"x\"\n", &["/c/config.toml:1:", "catalog", "x"]),
            (b"[catalog]\nurl = \n", &["/c/config.toml:2:", "url ="]),
            (b"[catalog]\nurl = \"a\"\nurl = \"b\"\n", &["/c/config.toml:3:", "url", "duplicate"]),
            (b"[catalog]\nurl = \"\xff\"\n", &["/c/config.toml:2:", "url", "not UTF-8"]),
        ] {
            let error = parse(text).unwrap_err();
            let said = error.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
            assert!(!said.contains('\n'), "{said}");
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.hint().unwrap().contains("[catalog]"));
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let error = parse(format!("[catalog]\nurl = {}", "1".repeat(100_000))).unwrap_err();
        assert!(error.to_string().len() < 1000, "{error}");
    }

    fn dirs(home: &Path) -> Dirs {
        Dirs::from_vars(|name| (name == "HOME").then(|| home.into())).unwrap()
    }

    #[test]
    fn the_users_flake_comes_before_the_installers() {
        let choose = |url: Option<&str>, variable: Option<&str>| {
            let config = Config { catalog: CatalogConfig { url: url.map(Into::into) } };
            choose_flake(&dirs(Path::new("/h")), config, variable.map(Into::into))
        };
        assert_eq!(choose(Some("github:me/mvm"), Some("path:/x")).unwrap(), "github:me/mvm");
        assert_eq!(choose(None, Some("path:/x")).unwrap(), "path:/x");
        for variable in [None, Some("")] {
            let error = choose(None, variable).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            let hint = error.hint().unwrap();
            assert!(hint.contains("/h/.config/mvm/config.toml") && hint.contains("url ="), "{hint}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_no_error_and_one_that_is_no_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = dirs(folder.path());
        assert_eq!(Config::read(&dirs).unwrap(), Config::default());
        std::fs::create_dir_all(dirs.config_file()).unwrap();
        let error = Config::read(&dirs).unwrap_err();
        assert!(error.to_string().contains("config.toml"), "{error}");
        std::fs::remove_dir(dirs.config_file()).unwrap();
        std::fs::write(dirs.config_file(), vec![b'#'; LIMIT as usize + 1]).unwrap();
        assert!(matches!(Config::read(&dirs), Err(ConfigError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, at: usize) {
            let _ = parse(&bytes);
            let _ = line_at(&bytes, at);
        }
    }
}
