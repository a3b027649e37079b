//! The supervisor's control socket: one JSON line a request, one JSON line an answer, or a stream of records.

use crate::unix;
use mvm_core::{Diagnostic, ErrorKind, Fault, PortForward, VmDirs, VmRecord};
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Most bytes in a line.
pub(crate) const MAX_LINE: u64 = 256 * 1024;

/// What a client asks of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum ControlRequest {
    /// Power off, and answer when the VM has ended.
    Stop {
        /// Milliseconds that the guest gets before it is killed; 0 kills at once.
        grace_ms: u64,
    },
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Publish a port.
    Forward {
        /// Which.
        forward: PortForward,
    },
    /// Withdraw a published port.
    Unforward {
        /// As it is in the record.
        forward: PortForward,
    },
    /// The record now and after each change, until the VM ends.
    Follow,
}

/// What a supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum ControlAnswer {
    /// Done; the record as it is now.
    Record {
        /// The record.
        record: Box<VmRecord>,
    },
    /// Not done.
    Refused {
        /// Why.
        fault: Fault,
    },
}

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("the VM's supervisor does not answer: {0}")]
    Io(#[from] io::Error),
    /// It answered with something else.
    #[error("the VM's supervisor answered with something that is no answer: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It refused.
    #[error("{}", .0.message)]
    Refused(Fault),
}

impl Diagnostic for ControlError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(fault) => fault.kind,
            _ => ErrorKind::Unexpected,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(fault) => fault.hint.clone(),
            _ => Some("`mvmctl ls -a` shows whether the VM still runs".into()),
        }
    }
}

/// A client of one supervisor.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects.
    pub fn connect(vm: &VmDirs) -> Result<Self, ControlError> {
        Ok(Self { stream: BufReader::new(unix::connect(&vm.control_socket())?) })
    }

    /// Stops the VM, and returns when its supervisor is gone as well: nothing of it is left then.
    pub async fn stop(mut self, grace_ms: u64) -> Result<(), ControlError> {
        #[cfg(target_os = "linux")]
        let process = supervisor(self.stream.get_ref());
        match self.ask(&ControlRequest::Stop { grace_ms }).await {
            Ok(_) => {}
            // It ended before its answer was on the way.
            Err(ControlError::Io(e))
                if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {}
            Err(error) => return Err(error),
        }
        #[cfg(target_os = "linux")]
        if let Ok(process) = process {
            // Readable once the process has ended (pidfd_open(2)).
            let ended = move || {
                let mut fds = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
            };
            tokio::task::spawn_blocking(ended).await.map_err(io::Error::other)?.map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Asks once and waits for the answer.
    pub async fn ask(&mut self, request: &ControlRequest) -> Result<VmRecord, ControlError> {
        write_line(self.stream.get_mut(), request).await?;
        self.next().await?.ok_or_else(|| ControlError::Io(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The next record of a [`ControlRequest::Follow`]; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<VmRecord>, ControlError> {
        match read_line::<ControlAnswer>(&mut self.stream).await? {
            None => Ok(None),
            Some(ControlAnswer::Record { record }) => Ok(Some(*record)),
            Some(ControlAnswer::Refused { fault }) => Err(ControlError::Refused(fault)),
        }
    }
}

/// The process at the other end, held so that no later one can be taken for it.
#[cfg(target_os = "linux")]
fn supervisor(stream: &UnixStream) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::net::sockopt::socket_peercred(stream)?.pid;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Writes one message as a line.
pub(crate) async fn write_line(stream: &mut (impl AsyncWriteExt + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line as a message; `None` at the end of the stream.
pub(crate) async fn read_line<T: for<'a> Deserialize<'a>>(
    stream: &mut (impl AsyncBufReadExt + Unpin),
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if stream.take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
