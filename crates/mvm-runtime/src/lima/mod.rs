//! The Linux host inside a Mac: one Lima instance, made once, in which the Linux `mvmctl` does what the Mac cannot.
//!
//! Commands are handed over whole, as an argument vector: `limactl shell` quotes it for the shell that it has to go
//! through. An instance reaches the user's home folder at the same path, so paths in it mean the same on both sides.

mod handover;
mod template;

pub use handover::{handed_over, pass_signal};
pub use template::Sizes;

use crate::program::{LIMACTL, NotThere};
use mvm_core::{Diagnostic, ErrorKind, MacHost, MacWay};
use rustix::process::Signal;
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Names the instance to which commands are handed, on any machine that has Lima.
const VARIABLE: &str = "MVM_LIMA";
/// The instance of a Mac on which nobody names one.
const INSTANCE: &str = "mvm";
/// The link that holds mvmctl inside, which the provisioning puts on PATH.
const INSTALLED: &str = "/var/lib/mvm/mvmctl";
/// Where a flake of the Mac's own disk is put for the time of the installation.
const FLAKE_COPY: &str = "/var/tmp/mvm-flake";
/// Most bytes of an answer that is read.
const ANSWER: u64 = 1 << 20;

/// Why Lima could not do it.
#[derive(Debug, thiserror::Error)]
pub enum LimaError {
    /// `limactl` is not there.
    #[error("limactl is not on PATH")]
    Missing,
    /// The variable names nothing.
    #[error("{variable} is {path:?}, which is not a file")]
    Chosen {
        /// The variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A name that no instance can have.
    #[error("{VARIABLE} is {0:?}, which is no name of a Lima instance")]
    Name(OsString),
    /// It cannot be started or heard.
    #[error("cannot run limactl: {0}")]
    Io(#[from] io::Error),
    /// It failed.
    #[error("`{command}` ended with {status}")]
    Failed {
        /// What was run, for people.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its answer is none.
    #[error("limactl's list of instances cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// There is no instance.
    #[error("the Lima instance {0} is not there")]
    NoInstance(String),
    /// It does not run.
    #[error("the Lima instance {name} is {status}, not running")]
    NotRunning {
        /// Which.
        name: String,
        /// Lima's word.
        status: String,
    },
    /// A variable that Lima needs.
    #[error("HOME is not set")]
    NoHome,
}

impl Diagnostic for LimaError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::NoHome => ErrorKind::Usage,
            _ => ErrorKind::BackendUnavailable,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing => Some(LIMACTL.hint.into()),
            Self::Chosen { .. } => Some("unset it to use the limactl on PATH".into()),
            Self::Name(_) => Some("letters, digits, `.`, `_` and inner `-`".into()),
            Self::NoInstance(_) | Self::NotRunning { .. } => Some("`mvmctl dev up` makes and starts it".into()),
            Self::Failed { .. } => Some("what it said stands above; `limactl list` shows its instances".into()),
            _ => None,
        }
    }
}

/// The instance to which this machine's commands are handed; none where they are done here. `named` is what
/// `MVM_LIMA` says, and counts on any machine.
pub fn instance(named: Option<&OsStr>, mac: Option<MacHost>) -> Result<Option<String>, LimaError> {
    match named.filter(|name| !name.is_empty()) {
        Some(name) => {
            let valid = name.to_str().filter(|name| is_name(name));
            valid.map(|name| Some(name.to_owned())).ok_or_else(|| LimaError::Name(name.into()))
        }
        None => Ok(mac.filter(|mac| mac.way() == MacWay::Lima).map(|_| INSTANCE.into())),
    }
}

/// What Lima takes for a name; none that could be an option.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() < 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inner)
}

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// There is none.
    Absent,
    /// It runs.
    Running,
    /// Lima's word for anything else.
    Other(String),
}

/// One instance, and the program that reaches it.
#[derive(Debug)]
pub struct Lima {
    program: PathBuf,
    instance: String,
}

impl Lima {
    /// The instance that this environment asks for; none where commands are done here.
    pub fn of_this_machine() -> Result<Option<Self>, LimaError> {
        let Some(instance) = instance(std::env::var_os(VARIABLE).as_deref(), crate::facts::mac_host())? else {
            return Ok(None);
        };
        let found = LIMACTL.find().map_err(|NotThere { variable, path }| LimaError::Chosen { variable, path })?;
        Ok(Some(Self { program: found.ok_or(LimaError::Missing)?, instance }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.instance
    }

    /// How it is.
    pub async fn status(&self) -> Result<Status, LimaError> {
        /// A line of `limactl list --json`; much more is in it.
        #[derive(Deserialize)]
        struct Line {
            name: String,
            status: String,
        }
        let answer = self.answer(&["list".as_ref(), "--json".as_ref()]).await?;
        for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let line: Line = serde_json::from_slice(line)?;
            if line.name == self.instance {
                return Ok(if line.status == "Running" { Status::Running } else { Status::Other(line.status) });
            }
        }
        Ok(Status::Absent)
    }

    /// The version of the mvmctl inside; none where it is not installed.
    pub async fn version(&self) -> Result<Option<String>, LimaError> {
        let argv =
            self.shell(Path::new("/"), [Path::new(INSTALLED).join("bin/mvmctl").as_os_str(), "--version".as_ref()]);
        match self.answer(&argv.iter().map(OsString::as_os_str).collect::<Vec<_>>()).await {
            Ok(words) => {
                let words = String::from_utf8_lossy(&words);
                Ok(words.split_whitespace().nth(1).map(str::to_owned))
            }
            Err(LimaError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the instance where it is not there, and starts it where it does not run. What Lima says goes to stderr.
    pub async fn start(&self, sizes: &Sizes) -> Result<(), LimaError> {
        let no_questions = "--tty=false";
        match self.status().await? {
            Status::Running => Ok(()),
            Status::Other(_) => self.run(&["start", no_questions, &self.instance].map(OsStr::new)).await,
            Status::Absent => {
                let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(LimaError::NoHome)?;
                let nested = crate::facts::mac_host().is_some_and(|mac| mac.nested_virtualization);
                let mut file = tempfile::Builder::new().prefix("mvm-lima-").suffix(".yaml").tempfile()?;
                serde_json::to_writer_pretty(&mut file, &template::template(sizes, Path::new(&home), nested))?;
                let file = file.into_temp_path();
                let start = ["start", no_questions, "--name", &self.instance].map(OsStr::new);
                self.run(&[&start[..], &[file.as_os_str()]].concat()).await
            }
        }
    }

    /// An error where it does not run.
    pub async fn running(&self) -> Result<(), LimaError> {
        match self.status().await? {
            Status::Running => Ok(()),
            Status::Absent => Err(LimaError::NoInstance(self.instance.clone())),
            Status::Other(status) => {
                Err(LimaError::NotRunning { name: self.instance.clone(), status: status.to_lowercase() })
            }
        }
    }

    /// A shell of the instance's user, in the folder that stands for ours; gives its exit code.
    pub async fn open_shell(&self) -> Result<u8, LimaError> {
        let words = self.shell(&handover::folder(), std::iter::empty::<OsString>());
        let mut command = self.command(&words.iter().map(OsString::as_os_str).collect::<Vec<_>>());
        Ok(shell_code(command.stdin(Stdio::inherit()).status().await?))
    }

    /// Stops the instance.
    pub async fn stop(&self) -> Result<(), LimaError> {
        self.run(&["stop", &self.instance].map(OsStr::new)).await
    }

    /// Installs mvmctl from a flake, in place of the one that is there. A flake on this disk is copied in first.
    pub async fn install(&self, flake: &str) -> Result<(), LimaError> {
        let local = flake.strip_prefix("path:").unwrap_or(flake);
        let from = if local.starts_with('/') {
            self.run_in_vm(["rm", "-rf", FLAKE_COPY]).await?;
            let to = format!("{}:{FLAKE_COPY}", self.instance);
            self.run(&["copy", "--recursive", local, &to].map(OsStr::new)).await?;
            format!("path:{FLAKE_COPY}")
        } else {
            flake.to_owned()
        };
        self.run_in_vm(["nix", "build", "--out-link", INSTALLED, &format!("{from}#mvmctl")]).await
    }

    /// Runs a command in the instance. One that fails is an error.
    pub async fn run_in_vm(&self, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<(), LimaError> {
        let argv = self.shell(Path::new("/"), argv);
        self.run(&argv.iter().map(OsString::as_os_str).collect::<Vec<_>>()).await
    }

    /// Arguments of limactl that run a command in a folder of the instance. Where the command goes through is a shell,
    /// for which limactl quotes each word but one with `=` before the first without: our first word never has one.
    fn shell(&self, folder: &Path, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["shell".into(), "--workdir".into(), folder.into()];
        arguments.push(self.instance.clone().into());
        arguments.extend(argv.into_iter().map(|word| word.as_ref().to_owned()));
        arguments
    }

    fn command(&self, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        mvm_process::signal_with_parent(command.as_std_mut(), Signal::TERM);
        command.kill_on_drop(true);
        command
    }

    /// Runs limactl; all that it says is for people.
    async fn run(&self, arguments: &[&OsStr]) -> Result<(), LimaError> {
        let mut command = self.command(arguments);
        // Our stdout is data.
        command.stdout(rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from)?);
        judge(command.status().await?, arguments)
    }

    /// Runs limactl for its answer.
    async fn answer(&self, arguments: &[&OsStr]) -> Result<Vec<u8>, LimaError> {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(ANSWER).read_to_end(&mut answer).await?;
        }
        judge(child.wait().await?, arguments)?;
        Ok(answer)
    }
}

fn judge(status: ExitStatus, arguments: &[&OsStr]) -> Result<(), LimaError> {
    if status.success() {
        return Ok(());
    }
    let words = arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(LimaError::Failed { command: format!("limactl {words}"), status })
}

/// An end as a shell shows it.
fn shell_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|n| 128 + n));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_decides_unless_it_is_told() {
        let mac =
            |macos| Some(MacHost { macos, apple_silicon: true, nested_virtualization: true, virtualization: true });
        let decided = |named: Option<&str>, mac| instance(named.map(OsStr::new), mac).unwrap();
        assert_eq!(decided(None, None), None, "not on Linux");
        assert_eq!(decided(Some(""), None), None);
        assert_eq!(decided(None, mac(26)), None);
        assert_eq!(decided(None, mac(15)).as_deref(), Some("mvm"));
        assert_eq!(decided(Some("other"), mac(26)).as_deref(), Some("other"));
        assert_eq!(decided(Some("other"), None).as_deref(), Some("other"));
        for name in ["-x", "a b", "--help", "a/b", "ü", &"x".repeat(64)] {
            assert!(matches!(instance(Some(OsStr::new(name)), None), Err(LimaError::Name(_))), "{name}");
        }
    }

    #[test]
    fn commands_are_words_and_never_text() {
        let lima = Lima { program: "limactl".into(), instance: "mvm".into() };
        let words = lima.shell(Path::new("/Users/a b"), ["mvmctl", "exec", "--", "sh", "-c", "echo $HOME; 'x'", ""]);
        let expected =
            ["shell", "--workdir", "/Users/a b", "mvm", "mvmctl", "exec", "--", "sh", "-c", "echo $HOME; 'x'", ""];
        assert_eq!(words, expected);
    }
}
