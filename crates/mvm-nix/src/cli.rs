//! Finding the `nix` program and asking it small questions.

use crate::error::NixError;
use crate::event::parse_bounded;
use crate::failure::FailureLog;
use crate::flake_ref::FlakeRef;
use crate::process::NixProcess;
use crate::version::NixVersion;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Command;

/// `nix --version` reads no store and no network.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A `nix` program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nix {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Nix {
    /// The program that `MVM_NIX` names, else `nix` on `PATH`.
    pub fn find() -> Result<Self, NixError> {
        Self::find_in(std::env::var_os("MVM_NIX"), std::env::var_os("PATH"))
    }

    /// As [`Nix::find`], with the two variables given.
    pub fn find_in(chosen: Option<OsString>, path: Option<OsString>) -> Result<Self, NixError> {
        if let Some(chosen) = chosen.filter(|c| !c.is_empty()) {
            let program = PathBuf::from(chosen);
            return match is_executable(&program) {
                true => Ok(Self::at(program)),
                false => Err(NixError::NotExecutable(program)),
            };
        }
        std::env::split_paths(&path.unwrap_or_default())
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("nix"))
            .find(|program| is_executable(program))
            .map(Self::at)
            .ok_or(NixError::NotInstalled)
    }

    /// This very program.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), environment: Vec::new() }
    }

    /// The same with another program.
    #[must_use]
    pub fn with_program(self, program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..self }
    }

    /// Sets a variable of the environment that the program gets.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A variable as the program sees it.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        let own = self.environment.iter().rev().find(|(known, _)| known == name);
        own.map(|(_, value)| value.clone()).or_else(|| std::env::var_os(name))
    }

    /// The environment that the program gets.
    pub(crate) fn environment(&self) -> BTreeMap<OsString, OsString> {
        std::env::vars_os().chain(self.environment.iter().cloned()).collect()
    }

    /// The folder in which Nix keeps its GC roots, among others.
    pub(crate) fn state_folder(&self) -> PathBuf {
        self.variable("NIX_STATE_DIR").map_or_else(|| "/nix/var/nix".into(), PathBuf::from)
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks for the version. An answer that is not Nix's is an error, as is a Nix without flakes.
    pub async fn version(&self) -> Result<NixVersion, NixError> {
        let mut command = self.bare_command();
        command.arg("--version");
        let running = NixProcess::start(command, &self.program).await?;
        let ended = within(VERSION_LIMIT, "--version", running.run(|_| ())).await?;
        let text = String::from_utf8_lossy(ended.stdout.get(..200).unwrap_or(&ended.stdout)).into_owned();
        match NixVersion::parse(&text) {
            Some(version) if version.has_flakes() => Ok(version),
            Some(version) => Err(NixError::TooOld(version)),
            None => Err(NixError::NotNix { program: self.program.clone(), text }),
        }
    }

    /// Evaluates an attribute, or a function applied to it, to JSON. The answer has to come within `limit`.
    pub async fn eval_json<T: DeserializeOwned>(
        &self,
        flake: &FlakeRef,
        apply: Option<&str>,
        extra_args: &[OsString],
        limit: Duration,
    ) -> Result<T, NixError> {
        let mut command = self.command(&["eval", "--json"]);
        command.args(extra_args);
        if let Some(apply) = apply {
            command.args(["--apply", apply]);
        }
        let flake = flake.clone().locate()?;
        let installable = flake.installable();
        command.arg("--").arg(&installable);
        let running = NixProcess::start(command, &self.program).await?;
        let mut log = FailureLog::default();
        let ended = within(limit, &installable, running.run(|line| log.apply(&parse_bounded(&line)))).await?;
        if !ended.status.success() {
            return Err(log.finish(installable, &describe(ended.status)).about(&flake).into());
        }
        serde_json::from_slice(&ended.stdout).map_err(|error| NixError::Output {
            reason: error.to_string(),
            text: String::from_utf8_lossy(ended.stdout.get(..200).unwrap_or(&ended.stdout)).into_owned(),
        })
    }

    /// `nix WORDS…`, with flakes switched on and events on stderr.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.bare_command();
        command.args(["--extra-experimental-features", "nix-command flakes"]);
        command.args(words).args(["--log-format", "internal-json"]);
        command
    }

    fn bare_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().map(|(k, v)| (k.as_os_str(), v.as_os_str())));
        // Messages are recognised in English.
        command.env("LC_ALL", OsStr::new("C.UTF-8"));
        command
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    answer: impl Future<Output = Result<T, NixError>>,
) -> Result<T, NixError> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(NixError::TimedOut { what: what.to_owned(), limit }))
}

/// Words for an end without words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("nix was ended by signal {signal}"),
        None => format!("nix ended with exit code {}", status.code().unwrap_or(-1)),
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::Diagnostic;

    #[test]
    fn no_nix_is_a_clear_error() {
        let empty = tempfile::tempdir().unwrap();
        let path = Some(empty.path().as_os_str().to_owned());
        let error = Nix::find_in(None, path.clone()).unwrap_err();
        assert!(matches!(error, NixError::NotInstalled));
        assert!(error.hint().unwrap().contains("https://nixos.org/download"));
        std::fs::write(empty.path().join("nix"), "not executable").unwrap();
        assert!(matches!(Nix::find_in(None, path.clone()), Err(NixError::NotInstalled)));
        let chosen = empty.path().join("nix").into_os_string();
        assert!(matches!(Nix::find_in(Some(chosen), path), Err(NixError::NotExecutable(_))));
        assert!(matches!(Nix::find_in(None, None), Err(NixError::NotInstalled)));
    }

    #[test]
    fn the_chosen_program_wins() {
        let found = Nix::find_in(Some("/bin/sh".into()), None).unwrap();
        assert_eq!(found.program(), Path::new("/bin/sh"));
    }

    #[tokio::test]
    async fn another_program_is_not_nix() {
        assert!(matches!(Nix::at("/bin/echo").version().await, Err(NixError::NotNix { .. })));
        assert!(matches!(Nix::at("/no/such/nix").version().await, Err(NixError::Start { .. })));
    }
}
