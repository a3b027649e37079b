//! A NixOS configuration's own runner (microvm.nix): a folder with `bin/microvm-run`, which becomes the hypervisor by
//! exec(2), and `bin/microvm-shutdown`, where the configuration has a way to ask its guest to power off.
//!
//! What the guest is nobody here knows: it has its own kernel, drives and services, and no agent of mvm.

use super::{self as backend, BackendError, Launched, Machine, MachineEnd};
use crate::child;
use mvm_core::{Diagnostic, ErrorKind, Hypervisor};
use rustix::process::Signal;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Starts the hypervisor.
const RUN: &str = "bin/microvm-run";
/// Asks the guest to power off.
const SHUTDOWN: &str = "bin/microvm-shutdown";
/// Folders that virtiofsd would have to share: its daemons are a NixOS host's affair.
const VIRTIOFS: &str = "share/microvm/virtiofs";

/// Why a folder is no runner that can be run here.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It lacks the program.
    #[error("{0:?} is no runner of microvm.nix: it has no {RUN}")]
    NoProgram(PathBuf),
    /// It needs daemons that nobody starts here.
    #[error("the configuration shares folders by virtiofs, whose daemons microvm-nix does not start here")]
    Virtiofs,
}

impl Diagnostic for RunnerError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ImageInvalid
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProgram(_) => "the flake's nixosConfigurations have to import the module of microvm.nix".into(),
            Self::Virtiofs => {
                "set `proto = \"9p\"` in microvm.shares, or microvm.storeOnDisk = true without shares".into()
            }
        })
    }
}

/// Checks that a folder is a runner.
pub fn check_runner(folder: &Path) -> Result<(), RunnerError> {
    let runs = folder.join(RUN).metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    match runs {
        false => Err(RunnerError::NoProgram(folder.into())),
        true if folder.join(VIRTIOFS).is_dir() => Err(RunnerError::Virtiofs),
        true => Ok(()),
    }
}

/// A runner to be started.
pub(crate) struct Runner<'r> {
    /// The folder that Nix built.
    pub(crate) folder: &'r Path,
    /// Where it works: its volumes and sockets have relative paths.
    pub(crate) work: &'r Path,
}

/// The hypervisor that a runner became.
#[derive(Debug)]
pub(super) struct Vmm {
    child: Child,
    /// The script that asks the guest, where there is one.
    shutdown: Option<PathBuf>,
    /// That script, while it waits for the guest.
    asking: Option<Child>,
    work: PathBuf,
    log: File,
}

impl Runner<'_> {
    /// Starts the hypervisor; its standard streams are the guest's console.
    pub(crate) fn start(&self, log: &File) -> Result<Launched, BackendError> {
        let start = || -> io::Result<Launched> {
            let (console, theirs) = StdStream::pair()?;
            console.set_nonblocking(true)?;
            let mut command = self.command(RUN, log)?;
            // Both ways: a hypervisor may take an end of its input for a hang-up of the console.
            command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
            let child = command.spawn()?;
            drop(command);
            let shutdown = Some(self.folder.join(SHUTDOWN)).filter(|script| script.is_file());
            let vmm = Vmm { child, shutdown, asking: None, work: self.work.into(), log: log.try_clone()? };
            let machine = Machine { channel: None, vmm: backend::Vmm::MicrovmNix(vmm) };
            Ok(Launched { machine, announce: None, console: Box::new(UnixStream::from_std(console)?) })
        };
        start().map_err(|e| BackendError::Start { program: RUN.into(), detail: e.to_string() })
    }

    fn command(&self, program: &str, log: &File) -> io::Result<Command> {
        command(&self.folder.join(program), self.work, log)
    }
}

/// A script of the runner, which dies with us.
fn command(program: &Path, work: &Path, log: &File) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(work).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    child::die_with_parent(&mut command);
    Ok(command)
}

impl Vmm {
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn ended(&mut self) -> MachineEnd {
        match self.child.wait().await {
            Ok(status) if status.success() => MachineEnd::GuestPoweredOff,
            Ok(status) => MachineEnd::Died(format!("the configuration's runner ended with {status}")),
            Err(error) => MachineEnd::Died(format!("the configuration's runner cannot be waited for: {error}")),
        }
    }

    /// Every hypervisor stands still as a process, whatever its own way to pause.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        child::signal(&self.child, signal).map_err(|e| BackendError::control(Hypervisor::MicrovmNix.as_str(), e))
    }

    /// Asks the guest to power off. `false` where the configuration has no way to ask.
    pub(super) fn ask_to_power_off(&mut self) -> Result<bool, BackendError> {
        let Some(script) = &self.shutdown else { return Ok(false) };
        let asked = command(script, &self.work, &self.log).and_then(|mut c| c.spawn());
        self.asking = Some(asked.map_err(|e| BackendError::control(SHUTDOWN, e))?);
        Ok(true)
    }

    pub(super) async fn kill(&mut self) {
        // An error says that the process is gone already.
        let _ = self.child.kill().await;
        if let Some(asking) = &mut self.asking {
            let _ = asking.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_runner_is_run() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(check_runner(dir.path()), Err(RunnerError::NoProgram(_))));
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join(RUN), "#!/bin/sh\n").unwrap();
        assert!(check_runner(dir.path()).is_err(), "it is not executable");
        std::fs::set_permissions(dir.path().join(RUN), std::fs::Permissions::from_mode(0o755)).unwrap();
        check_runner(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join(VIRTIOFS)).unwrap();
        assert!(matches!(check_runner(dir.path()), Err(RunnerError::Virtiofs)));
    }
}
