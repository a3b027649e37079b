//! Starting a supervisor, from both ends of its standard streams.

use crate::control::{read_line, write_line};
use mvm_core::{Fault, Secrets, VmName, VmRecord};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

/// The hidden subcommand of `mvmctl` that is a supervisor.
const SUBCOMMAND: &str = "__supervise";
/// The word that lets go of a supervisor.
const DETACH: &[u8] = b"detach\n";

/// What a supervisor tells the `up` that started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum LaunchEvent {
    /// The image is brought to where the backend wants it, which may take long and is done once.
    Importing,
    /// The VMM runs.
    Started {
        /// The record.
        record: Box<VmRecord>,
    },
    /// The guest is ready.
    Ready {
        /// The record.
        record: Box<VmRecord>,
    },
    /// The VM ended as somebody asked, or by itself in order.
    Ended {
        /// The record.
        record: Box<VmRecord>,
    },
    /// The VM could not be started, or ended with a fault.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// A supervisor that was just started. Dropping it without [`Launch::detach`] takes the VM down.
#[derive(Debug)]
pub struct Launch {
    child: Child,
    word: ChildStdin,
    events: BufReader<ChildStdout>,
}

impl Launch {
    /// Starts the supervisor of a VM, in a session of its own: a Ctrl-C at the terminal is for `up` alone. It is given the
    /// secrets through a pipe, for arguments and variables can be seen.
    pub async fn start(
        name: &VmName,
        boot_deadline: Duration,
        secrets: &Secrets,
        log: std::fs::File,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([SUBCOMMAND, name.as_str(), "--boot-timeout", &boot_deadline.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let mut word = child.stdin.take().ok_or_else(missing)?;
        let events = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        match write_line(&mut word, secrets).await {
            // It has ended already, and told why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        Ok(Self { child, word, events })
    }

    /// The next event; `None` where the supervisor is gone. Not cancel-safe between events' lines: the line that a
    /// cancelled call had begun to read is lost, which no caller outlives.
    pub async fn event(&mut self) -> io::Result<Option<LaunchEvent>> {
        read_line(&mut self.events).await
    }

    /// Lets the VM live on without us.
    pub async fn detach(mut self) -> io::Result<()> {
        tokio::io::AsyncWriteExt::write_all(&mut self.word, DETACH).await
    }

    /// Lets the supervisor know that nobody wants the VM any more, and waits until it has tidied up.
    pub async fn abandon(self) -> io::Result<()> {
        let Self { mut child, word, mut events } = self;
        drop(word);
        // Not by lines: one that was read in part when a signal came has lost its beginning.
        tokio::io::copy(&mut events, &mut tokio::io::sink()).await?;
        child.wait().await.map(|_| ())
    }
}

/// What becomes of the `up` that started this supervisor.
pub(super) enum Parent {
    /// It let go.
    Detached,
    /// It is gone.
    Gone,
}

/// Tells `up`. It may be gone, or have let go: then nobody is told.
pub(super) fn tell(event: &LaunchEvent) {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// Takes the secrets from stdin, and then watches it for what becomes of `up`: one message, then none.
pub(super) async fn parent() -> io::Result<(Secrets, mpsc::Receiver<Parent>)> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut stdin = BufReader::new(tokio::net::unix::pipe::Receiver::from_file(stdin.into())?);
    // Where `up` is gone before it has said anything, the end of stdin tells so below.
    let secrets = read_line(&mut stdin).await?.unwrap_or_default();
    let (tell, hear) = mpsc::channel(1);
    tokio::task::spawn_local(async move {
        let mut word = Vec::new();
        let read = stdin.take(DETACH.len() as u64).read_to_end(&mut word).await;
        let detached = read.is_ok() && word == DETACH;
        let _ = tell.send(if detached { Parent::Detached } else { Parent::Gone }).await;
    });
    Ok((secrets, hear))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_cross_a_pipe() {
        let event = LaunchEvent::Failed { fault: Fault::new(mvm_core::ErrorKind::Busy, "m") };
        let mut bytes = Vec::new();
        crate::control::write_line(&mut bytes, &event).await.unwrap();
        assert_eq!(read_line(&mut bytes.as_slice()).await.unwrap(), Some(event));
    }
}
