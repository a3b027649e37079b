//! Requests, responses and the small messages of running operations, all as JSON.
//!
//! Fields may be added with a default; a request that an older guest does not know is answered with
//! [`ErrorCode::Unsupported`], never by a broken connection.

use mvm_core::BootPhase;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of standard input that a host may send before the first `Credit`.
/// Input has a window of its own so that a process that does not read cannot hold up its signals.
pub const STDIN_WINDOW: u32 = 256 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Request {
    /// Answers and ends.
    Ping,
    /// Follows the guest's status: one `Status` frame now and one at every change, until either side closes.
    Watch,
    /// Runs a command with pipes. Policy `exec`.
    Exec(ExecRequest),
    /// Runs a command on a terminal; one session at a time. Policy `console`.
    Console(ConsoleRequest),
    /// Receives an archive (host → guest). Policy `files`.
    Push(PushRequest),
    /// Sends an archive (guest → host). Policy `files`.
    Pull(PullRequest),
    /// Becomes a connection to a TCP port of the guest's loopback ([`crate::relay`]). Policy `forward`.
    Forward {
        /// The guest's port.
        port: u16,
    },
    /// Powers off in order. Answered before it begins.
    Shutdown,
}

/// A command to run with pipes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecRequest {
    /// Program and arguments, found on the guest's `PATH`.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home where absent.
    pub cwd: Option<String>,
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; root where absent.
    pub user: Option<String>,
    /// Whether standard input follows; `/dev/null` otherwise.
    pub stdin: bool,
}

/// A command to run on a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsoleRequest {
    /// Program and arguments; the image's shell where empty.
    pub argv: Vec<String>,
    /// Working directory; the user's home where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Added to the guest's environment.
    pub env: BTreeMap<String, String>,
    /// The terminal's type.
    pub term: String,
    /// The terminal's size.
    pub size: TerminalSize,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// Where an archive goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushRequest {
    /// An absolute path in the guest: a folder to put it into, or the new name.
    pub path: String,
}

/// What an archive is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// An absolute path in the guest.
    pub path: String,
}

/// How a request was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The operation begins.
    Ok,
    /// It does not.
    Error(RequestError),
}

/// Why an operation was refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// What happened, for a person.
    pub message: String,
}

impl RequestError {
    /// An error with its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What a shell would give as the code of a command that was not run for this reason.
    pub fn shell_code(&self) -> Option<u8> {
        match self.code {
            ErrorCode::NotExecutable => Some(126),
            ErrorCode::NotFound => Some(127),
            _ => None,
        }
    }
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The image's policy says no.
    Denied,
    /// Another session holds it, or too many at once.
    Busy,
    /// The file, user or program does not exist.
    NotFound,
    /// The program is there but cannot be executed.
    NotExecutable,
    /// The request makes no sense.
    Invalid,
    /// This guest does not know the request.
    Unsupported,
    /// It was tried and failed.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

/// What a host tells a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Control {
    /// Sends a signal, by its Linux number, to the command's process group.
    Signal {
        /// 1 to 31; any other is passed over.
        signal: i32,
    },
    /// The terminal has a new size.
    Resize(TerminalSize),
}

/// How a command ended. Exactly one of the two is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitStatus {
    /// The exit code.
    #[serde(default)]
    pub code: Option<i32>,
    /// The signal that killed it.
    #[serde(default)]
    pub signal: Option<i32>,
}

impl ExitStatus {
    /// The exit code as a shell gives it: 128 + n for a signal.
    pub fn shell_code(self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => (code & 0xff) as u8,
            (None, Some(signal)) => 128u8.saturating_add(signal.clamp(0, 127) as u8),
            (None, None) => 1,
        }
    }
}

/// How much an archive held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransferSummary {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file contents.
    pub bytes: u64,
    /// Devices, sockets and pipes that were left out.
    pub skipped: u64,
    /// The first of them.
    pub skipped_names: Vec<String>,
}

/// What the guest is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestStatus {
    /// Version of `mvm-guest`.
    pub agent_version: String,
    /// Whether every service has become ready, or has been given up or waited for long enough.
    pub ready: bool,
    /// Whether the guest is powering off.
    pub stopping: bool,
    /// Steps of the boot.
    pub phases: Vec<BootPhase>,
    /// Services by name.
    pub services: BTreeMap<String, ServiceStatus>,
    /// Health checks by name.
    pub health: BTreeMap<String, HealthStatus>,
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its state.
    pub state: ServiceState,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How it last ended.
    #[serde(default)]
    pub last_exit: Option<ExitStatus>,
}

/// States of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It runs, and is not ready yet.
    Starting,
    /// It runs, and is ready.
    Running,
    /// It ended and will be started again.
    BackOff,
    /// It ended and stays so, as its restart policy says.
    Exited,
    /// It cannot be started.
    Failed,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

/// What a health check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// Absent until the first run has ended.
    #[serde(default)]
    pub healthy: Option<bool>,
    /// The last line that the check printed, or why it could not run.
    #[serde(default)]
    pub detail: String,
}

impl GuestStatus {
    /// Whether a service or a health check fails now.
    pub fn degraded(&self) -> bool {
        let fails = |state| matches!(state, ServiceState::Starting | ServiceState::BackOff | ServiceState::Failed);
        self.services.values().any(|service| fails(service.state))
            || self.health.values().any(|h| h.healthy == Some(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        let status = |code, signal| ExitStatus { code, signal }.shell_code();
        assert_eq!(status(Some(0), None), 0);
        assert_eq!(status(Some(127), None), 127);
        assert_eq!(status(None, Some(9)), 137);
        assert_eq!(status(None, Some(i32::MAX)), 255);
        assert_eq!(status(None, None), 1);
    }

    #[test]
    fn a_request_of_a_later_host_is_told_apart_from_garbage() {
        assert!(serde_json::from_str::<Request>(r#"{"op":"teleport","to":"mars"}"#).is_err());
        let exec: Request = serde_json::from_str(r#"{"op":"exec","argv":["true"],"later":1}"#).unwrap();
        assert!(matches!(exec, Request::Exec(e) if e.argv == ["true"] && !e.stdin));
    }

    #[test]
    fn what_a_later_guest_says_is_read() {
        let error: Response = serde_json::from_str(r#"{"error":{"code":"melted","message":"m"}}"#).unwrap();
        assert!(matches!(error, Response::Error(e) if e.code == ErrorCode::Unknown));
        let status: GuestStatus =
            serde_json::from_str(r#"{"ready":true,"services":{"a":{"state":"dreaming"}}}"#).unwrap();
        assert!(status.ready && !status.degraded());
    }
}
