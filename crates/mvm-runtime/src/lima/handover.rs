//! A command handed over whole: its terminal, its streams, its signals and its exit code are the caller's.
//!
//! `limactl shell` is ssh, which passes no signals but those of a terminal. So the mvmctl inside is started with a mark of
//! this one hand-over, a signal goes to it by a second way in that finds the mark, and when the first way breaks, whatever
//! broke it, the mvmctl inside takes that as a hang-up.

use super::{Lima, LimaError, shell_code};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpid, getuid, kill_process};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The option that carries the mark; it stands first.
const MARK: &str = "--handed-over";
/// The hidden subcommand that signals the command with a mark.
const SIGNAL: &str = "__signal";
/// What the mvmctl inside is to know of this environment: nothing but how people want to read.
const PASSED: [&str; 3] = ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"];

impl Lima {
    /// Hands a command line over and waits for its end. `next_signal` is asked for signals that are meant for it; the
    /// third one ends it here, whatever it does there.
    pub async fn hand_over(
        &self,
        arguments: &[OsString],
        mut next_signal: impl AsyncFnMut() -> i32,
    ) -> Result<u8, LimaError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
        let mark: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut inside: Vec<OsString> = vec!["env".into()];
        inside.extend(PASSED.iter().filter_map(|name| {
            let mut word = OsString::from(format!("{name}="));
            word.push(std::env::var_os(name)?);
            Some(word)
        }));
        inside.extend(["mvmctl", MARK, &mark].map(OsString::from));
        inside.extend(arguments.iter().cloned());
        let words = self.shell(&folder(), &inside);
        let mut command = self.command(&words.iter().map(OsString::as_os_str).collect::<Vec<_>>());
        command.stdin(std::process::Stdio::inherit());
        // A terminal's signals reach it as bytes; without one ours alone is to hear of them, and passes them on. What reads
        // a terminal has to stay in its foreground.
        if !io::stdin().is_terminal() {
            command.process_group(0);
        }
        let mut child = command.spawn()?;
        for _ in 0..2 {
            let signal = tokio::select! {
                status = child.wait() => return Ok(shell_code(status?)),
                signal = next_signal() => signal,
            };
            let words = self.shell(Path::new("/"), ["mvmctl", SIGNAL, &mark, &signal.to_string()]);
            let words: Vec<_> = words.iter().map(OsString::as_os_str).collect();
            let passed = self.answer(&words);
            tokio::select! {
                status = child.wait() => return Ok(shell_code(status?)),
                passed = passed => if let Err(error) = passed {
                    tracing::debug!(%error, "the signal is not passed on");
                },
            }
        }
        let last = tokio::select! {
            status = child.wait() => return Ok(shell_code(status?)),
            signal = next_signal() => signal,
        };
        child.kill().await?;
        Ok(u8::try_from(128 + last).unwrap_or(u8::MAX))
    }
}

/// The folder inside that stands for ours: the same where it is in the home folder, which the instance shares.
pub(super) fn folder() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let here = std::env::current_dir().ok();
    match (here, home) {
        (Some(here), Some(home)) if here.starts_with(&home) => here,
        _ => Path::new("/").into(),
    }
}

/// In the instance: from now on the break of the way in counts as a hang-up.
pub fn handed_over() {
    let watch = || {
        let (out, err) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        // What is broken from the start, as a closed descriptor, says nothing.
        let mut ways: Vec<PollFd<'_>> = [out, err].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty())).into();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut ways, Some(&now)).is_ok() {
            ways.retain(|way| way.revents().is_empty());
        }
        if ways.is_empty() || rustix::io::retry_on_intr(|| poll(&mut ways, None)).is_err() {
            return;
        }
        let _ = kill_process(getpid(), Signal::HUP);
    };
    // It lives as long as the process. Without it all is as before but for a way that breaks.
    let _ = std::thread::Builder::new().name("hang-up".into()).spawn(watch);
}

/// In the instance: signals the command of ours that was handed over with this mark. That there is none is no error: it
/// has ended.
pub fn pass_signal(mark: &OsStr, signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let ours = || entry.metadata().is_ok_and(|m| m.uid() == getuid().as_raw());
        if let Some(pid) = pid
            && ours()
            && fs::read(entry.path().join("cmdline")).is_ok_and(|line| carries(&line, mark))
        {
            // It may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
    }
    Ok(())
}

/// Whether `/proc/PID/cmdline` begins as a hand-over with this mark.
fn carries(line: &[u8], mark: &OsStr) -> bool {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(MARK.as_bytes()) && words.next() == Some(mark.as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marked_command_is_signalled() {
        let mark = OsStr::new("0123");
        assert!(carries(b"mvmctl\0--handed-over\x000123\0up\0", mark));
        for other in
            [&b"mvmctl\0--handed-over\x000124\0up\0"[..], b"mvmctl\0exec\0--handed-over\x000123\0", b"", b"x\0"]
        {
            assert!(!carries(other, mark));
        }
    }
}
