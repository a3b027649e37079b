//! Error kinds, their exit codes, and the shape in which an error crosses a process boundary.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of failure an error is. The discriminant is the exit code of `mvmctl` (see `docs/exit-codes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ErrorKind {
    /// A fault that no other kind names.
    Unexpected = 1,
    /// The command line or a value in it is wrong.
    Usage = 2,
    /// The VM, image, file or flake does not exist.
    NotFound = 3,
    /// It exists already, is running, or another command holds it.
    Busy = 4,
    /// No hypervisor, or the chosen one cannot run here.
    BackendUnavailable = 5,
    /// Nix, or the assembly of an image, failed.
    BuildFailed = 6,
    /// A deadline passed.
    TimedOut = 7,
    /// The guest's policy or the operating system refused.
    Denied = 8,
    /// The image folder breaks its contract.
    ImageInvalid = 9,
    /// The guest's agent cannot be reached or does not prove who it is.
    GuestUnreachable = 10,
}

impl ErrorKind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Self; 10] = [
        Self::Unexpected,
        Self::Usage,
        Self::NotFound,
        Self::Busy,
        Self::BackendUnavailable,
        Self::BuildFailed,
        Self::TimedOut,
        Self::Denied,
        Self::ImageInvalid,
        Self::GuestUnreachable,
    ];

    /// The process exit code.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// An error that knows its kind and what the reader can do about it.
pub trait Diagnostic: std::error::Error {
    /// The kind, and so the exit code.
    fn kind(&self) -> ErrorKind;
    /// One sentence of advice, where there is any.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The number of SIGPIPE (signal(7)), the same on every system.
const SIGPIPE: u8 = 13;

/// An error flattened for its way to the user, across a process boundary if need be
/// (a supervisor reports to `up` in this form).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind, and so the exit code.
    pub kind: ErrorKind,
    /// What failed and why: the error and its sources, joined by `: `.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The signal that ended the command before it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
}

impl Fault {
    /// A fault made on the spot.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, signal: None }
    }

    /// A signal came before the command was done.
    pub fn interrupted(signal: u8) -> Self {
        Self { signal: Some(signal), ..Self::new(ErrorKind::Unexpected, "interrupted") }
    }

    /// Output that could not be written. Where nobody reads it any more, that is what SIGPIPE means to other programs: an
    /// end without a word.
    pub fn output(context: &str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::interrupted(SIGPIPE),
            _ => Self::unexpected(context, error),
        }
    }

    /// Whether the user is to be told.
    pub fn is_silent(&self) -> bool {
        self.signal == Some(SIGPIPE)
    }

    /// The process exit code: the kind's, or 128 + n after signal n, as a shell shows it.
    pub fn exit_code(&self) -> u8 {
        self.signal.map_or(self.kind.exit_code(), |signal| 128_u8.saturating_add(signal))
    }

    /// Adds advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An unexpected error with its chain of sources.
    pub fn unexpected(context: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(ErrorKind::Unexpected, format!("{context}: {}", chain(error)))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// Deliberately no `std::error::Error`: so that every `Diagnostic` converts by `?` without overlap.
impl<E: Diagnostic + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), message: chain(&error), hint: error.hint(), signal: None }
    }
}

/// An error's text followed by those of its sources that say something new.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_published_ones() {
        for (kind, code) in ErrorKind::ALL.into_iter().zip(1u8..) {
            assert_eq!(kind.exit_code(), code);
        }
    }

    #[test]
    fn after_a_signal_the_code_is_a_shells() {
        assert_eq!(Fault::interrupted(15).exit_code(), 143);
        let unread = Fault::output("cannot write", &std::io::ErrorKind::BrokenPipe.into());
        assert_eq!((unread.exit_code(), unread.is_silent()), (141, true));
        let full = Fault::output("cannot write", &std::io::ErrorKind::StorageFull.into());
        assert_eq!((full.exit_code(), full.is_silent()), (1, false));
        assert_eq!(Fault::new(ErrorKind::Busy, "m").exit_code(), 4);
    }

    #[test]
    fn a_fault_without_hint_is_read() {
        let fault: Fault = serde_json::from_str(r#"{"kind":"timed-out","message":"m"}"#).unwrap();
        assert_eq!((fault.kind, fault.hint), (ErrorKind::TimedOut, None));
    }

    #[test]
    fn sources_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x")]
        struct Outer(#[source] std::io::Error);
        impl Diagnostic for Outer {
            fn kind(&self) -> ErrorKind {
                ErrorKind::NotFound
            }
        }
        let fault = Fault::from(Outer(std::io::Error::other("gone")));
        assert_eq!(fault.message, "cannot read x: gone");
    }
}
