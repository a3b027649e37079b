//! One running `nix`: started in its own process group, never left behind.

use crate::error::NixError;
use crate::lines::{Line, Lines};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Nix answers SIGINT within hundredths of a second; after this long it is killed.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);
/// Nix 2.34 can miss a SIGINT that comes while it handles a line of its builder's log: it is told again.
const REMIND: Duration = Duration::from_millis(150);
/// Nix has ended but something it started (git, ssh) still holds its pipes: read no longer than this.
const DRAIN: Duration = Duration::from_secs(2);
/// More than this on stdout is not an answer.
const MAX_STDOUT: usize = 16 * 1024 * 1024;

/// A running `nix` that is interrupted, waited for and if need be killed when dropped.
pub(crate) struct NixProcess {
    child: Child,
    group: Option<Pid>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    ended: bool,
    program: PathBuf,
    /// Keeps the thread that started the child; see `start`.
    _starter: oneshot::Sender<()>,
}

/// How it ended, and what it wrote on stdout.
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
}

impl NixProcess {
    /// Starts `nix`. Ctrl-C in a terminal does not reach it: whoever awaits it decides.
    pub async fn start(mut command: Command, program: &Path) -> Result<Self, NixError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        // SIGKILL, for there is nobody left to remind it: Nix can miss a SIGINT that comes while it handles a line of its
        // builder's log, or just before it waits for one. Its builders have a parent-death signal of their own, but for
        // those that Nix 2.8 has put into a sandbox.
        mvm_process::signal_with_parent(command.as_std_mut(), Signal::KILL);
        let failed = |source| NixError::Start { program: program.to_owned(), source };
        // The parent-death signal follows the *thread* that forked, and a runtime may retire its threads at any
        // time: a thread of its own lives exactly as long as Nix may.
        let (started, is_started) = oneshot::channel();
        let (starter, may_end) = oneshot::channel::<()>();
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("nix".into())
            .spawn(move || {
                let spawned = {
                    let _runtime = runtime.enter();
                    command.spawn()
                };
                // If nobody awaits it any more the child comes back in the error and is killed by its drop.
                if started.send(spawned).is_ok() {
                    let _ = may_end.blocking_recv();
                }
            })
            .map_err(failed)?;
        let mut child =
            is_started.await.map_err(|_| failed(std::io::Error::other("its thread died")))?.map_err(failed)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        tracing::debug!(pid = child.id(), program = %program.display(), "nix started");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Self { child, group, stdout, stderr, ended: false, program: program.to_owned(), _starter: starter })
    }

    /// Reads everything that Nix writes until it ends.
    pub async fn run(mut self, mut line: impl FnMut(Line<'_>)) -> Result<Ended, NixError> {
        let failed = |source| NixError::Pipe { program: self.program.clone(), source };
        let mut stdout = Vec::new();
        let status = {
            let out = read_bounded(self.stdout.as_mut(), &mut stdout);
            let err = read_lines(self.stderr.as_mut(), &mut line);
            let both = async { tokio::try_join!(out, err).map(|_| ()) };
            tokio::pin!(both);
            tokio::select! {
                read = &mut both => {
                    read.map_err(failed)?;
                    self.child.wait().await
                }
                status = self.child.wait() => {
                    // What is left in the pipes is read; a grandchild that holds them open is not waited for.
                    if let Ok(read) = tokio::time::timeout(DRAIN, both).await {
                        read.map_err(failed)?;
                    }
                    status
                }
            }
        };
        let status = status.map_err(failed)?;
        self.ended = true;
        tracing::debug!(%status, "nix ended");
        Ok(Ended { status, stdout })
    }

    /// Each builder leads a session of its own, so that killing Nix's group does not reach it.
    fn kill_builders(&self) {
        #[cfg(target_os = "linux")]
        if let Some(group) = self.group
            && let Ok(threads) = std::fs::read_dir(format!("/proc/{group}/task"))
        {
            let children = threads
                .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("children")).ok())
                .flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>());
            for child in children.filter_map(Pid::from_raw) {
                // A child that leads no group has ours, and that is killed anyway.
                let _ = kill_process_group(child, Signal::KILL);
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "cannot signal nix");
        }
    }
}

impl Drop for NixProcess {
    /// Blocks until Nix has killed its builders and ended: some hundredths of a second, at most five seconds.
    fn drop(&mut self) {
        if self.ended || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let deadline = Instant::now() + INTERRUPT_GRACE;
        let mut ended = false;
        while !ended && Instant::now() < deadline {
            self.signal(Signal::INT);
            let remind = (Instant::now() + REMIND).min(deadline);
            // Nix ends when both its pipes do. They are emptied meanwhile, or it could block on a full one.
            ended = drain(self.stdout.as_ref(), remind) && drain(self.stderr.as_ref(), remind);
        }
        if !ended || !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Either it hangs, or it is between closing its pipes and ending: then this strikes nobody.
            if !ended {
                tracing::warn!("nix did not end when interrupted and is killed");
                self.kill_builders();
            }
            self.signal(Signal::KILL);
        }
    }
}

/// Empties a pipe until its end. Tells whether the end came before the deadline.
fn drain<F: AsFd>(pipe: Option<&F>, deadline: Instant) -> bool {
    let Some(pipe) = pipe else { return true };
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let Ok(timeout) = Timespec::try_from(left) else { return false };
                match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
                    Ok(0) => return false,
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

async fn read_bounded(pipe: Option<&mut (impl AsyncRead + Unpin)>, into: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    pipe.take(MAX_STDOUT as u64 + 1).read_to_end(into).await?;
    if into.len() > MAX_STDOUT {
        return Err(std::io::Error::other(format!("more than {MAX_STDOUT} bytes on stdout")));
    }
    Ok(())
}

async fn read_lines(
    pipe: Option<&mut (impl AsyncRead + Unpin)>,
    line: &mut impl FnMut(Line<'_>),
) -> std::io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let (mut lines, mut buffer) = (Lines::default(), vec![0u8; 32 * 1024]);
    loop {
        let count = pipe.read(&mut buffer).await?;
        if count == 0 {
            lines.finish(&mut *line);
            return Ok(());
        }
        lines.push(buffer.get(..count).unwrap_or_default(), &mut *line);
    }
}
