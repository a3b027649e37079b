//! What can go wrong between mvm and `nix`.

use crate::advice::Trouble;
use crate::flake_ref::{FlakeRef, FlakeRefError};
use crate::untracked;
use crate::version::NixVersion;
use mvm_core::{Diagnostic, ErrorKind};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// There is no `nix`.
    #[error("Nix is not installed: no `nix` on PATH")]
    NotInstalled,
    /// `MVM_NIX` names something else.
    #[error("MVM_NIX is {}, which is not an executable file", .0.display())]
    NotExecutable(PathBuf),
    /// It cannot be started.
    #[error("cannot start {}: {source}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Its output cannot be read.
    #[error("cannot read the output of {}: {source}", .program.display())]
    Pipe {
        /// The program.
        program: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// `nix --version` says something else.
    #[error("{} does not look like Nix: `--version` prints {text:?}", .program.display())]
    NotNix {
        /// The program.
        program: PathBuf,
        /// What it printed.
        text: String,
    },
    /// A Nix without flakes.
    #[error("{0} has no flakes")]
    TooOld(NixVersion),
    /// No answer in time.
    #[error("nix did not answer within {} s: {what}", .limit.as_secs())]
    TimedOut {
        /// What it was asked.
        what: String,
        /// How long it had.
        limit: Duration,
    },
    /// The flake ref is wrong.
    #[error(transparent)]
    FlakeRef(#[from] FlakeRefError),
    /// Nix failed.
    #[error(transparent)]
    Failed(#[from] Box<NixFailure>),
    /// Nix says that all went well and prints something unreadable.
    #[error("cannot read what nix printed ({reason}): {text:?}")]
    Output {
        /// What is wrong with it.
        reason: String,
        /// Its beginning.
        text: String,
    },
    /// Nothing came out of the build.
    #[error("the build has no output to use: {0}")]
    NoOutput(String),
    /// A flake without files of its own on this machine.
    #[error("{0} cannot be watched: its files do not lie in a folder of this machine")]
    NotLocal(String),
    /// Its files cannot be watched.
    #[error("cannot watch {}: {source}", .path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A GC root cannot be made or removed.
    #[error("cannot {what} the GC root {}: {source}", .path.display())]
    GcRoot {
        /// What was tried.
        what: &'static str,
        /// The link.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

impl Diagnostic for NixError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::FlakeRef(error) => error.kind(),
            Self::Failed(failure) => failure.kind(),
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::NotLocal(_) => ErrorKind::Usage,
            Self::Watch { .. } | Self::GcRoot { .. } => ErrorKind::Unexpected,
            _ => ErrorKind::BuildFailed,
        }
    }

    fn hint(&self) -> Option<String> {
        const INSTALL: &str = "install Nix: https://nixos.org/download, or `apt install nix-bin` on Debian; \
            images that are built already need none (`mvmctl up --image FOLDER`)";
        Some(match self {
            Self::NotInstalled => INSTALL.into(),
            Self::NotExecutable(_) => "point MVM_NIX at the nix program, or unset it to use the one on PATH".into(),
            Self::Start { .. } | Self::NotNix { .. } => {
                "try `nix --version`; MVM_NIX chooses another nix program".into()
            }
            Self::TooOld(_) => "install Nix 2.8 or later: https://nixos.org/download".into(),
            Self::FlakeRef(error) => return error.hint(),
            Self::Failed(failure) => return failure.hint(),
            Self::NoOutput(_) => "build a package of the flake: `REF#packages.SYSTEM.NAME`".into(),
            Self::GcRoot { .. } => "check that the folder exists and can be written".into(),
            Self::NotLocal(_) => "watch a folder, or a Git work tree without submodules".into(),
            Self::Watch { .. } => {
                "where there are too many folders, raise the limit: `sysctl fs.inotify.max_user_watches`".into()
            }
            Self::TimedOut { .. } => "another Nix command may hold a lock; try the same with `nix` itself".into(),
            Self::Pipe { .. } | Self::Output { .. } => return None,
        })
    }
}

impl NixError {
    /// Whether Nix says that a flake has no such attribute.
    pub(crate) fn lacks_attribute(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.trouble == Some(Trouble::NoAttribute))
    }
}

/// Nix's own account of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixFailure {
    /// What was asked for.
    pub installable: String,
    /// The store path of the derivation that failed, where one was being built.
    pub derivation: Option<String>,
    /// The last lines of its builder: at most 20, without ANSI sequences.
    pub last_lines: Vec<String>,
    /// Nix's error messages, without ANSI sequences; bounded.
    pub message: String,
    /// What mvm makes of it.
    pub trouble: Option<Trouble>,
    /// More precise advice than `trouble` has.
    pub advice: Option<String>,
}

impl NixFailure {
    /// With what can be told only where one knows the flake that was located.
    pub(crate) fn about(mut self, flake: &FlakeRef) -> Box<Self> {
        if let Some(advice) = untracked::advice(&self.message, flake) {
            (self.trouble, self.advice) = (Some(Trouble::Untracked), Some(advice));
        }
        Box::new(self)
    }
}

impl fmt::Display for NixFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nix failed on {}: {}", self.installable, self.message)?;
        if !self.last_lines.is_empty() {
            let name = self.derivation.as_deref().map_or("the builder", crate::progress::derivation_name);
            write!(f, "\nlast lines of {name}:")?;
            for line in &self.last_lines {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for NixFailure {}

impl Diagnostic for NixFailure {
    fn kind(&self) -> ErrorKind {
        self.trouble.map_or(ErrorKind::BuildFailed, Trouble::kind)
    }
    fn hint(&self) -> Option<String> {
        self.advice.clone().or_else(|| match (self.trouble, &self.derivation) {
            (Some(trouble), _) => Some(trouble.advice().to_owned()),
            (None, Some(derivation)) => Some(format!("the whole log: `nix log {derivation}`")),
            (None, None) => None,
        })
    }
}
