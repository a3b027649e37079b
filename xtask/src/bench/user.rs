//! A user of mvm with a home of his own, who leaves nothing behind.

use super::Failure;
use super::programs::{self, Programs};
use mvm_core::{Dirs, VmDirs, VmName};
use mvm_runtime::{Registry, Snapshot};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A home, a kernel, and the programs.
pub(super) struct User<'a> {
    home: tempfile::TempDir,
    kernel: Option<PathBuf>,
    /// What he runs.
    pub programs: &'a Programs,
    /// The VMs he has.
    pub registry: Registry,
}

impl<'a> User<'a> {
    /// A user who starts no VM.
    pub(super) fn new(programs: &'a Programs) -> Result<Self, Failure> {
        let home = tempfile::Builder::new().prefix("mvm-bench-").tempdir()?;
        let here: OsString = home.path().into();
        let dirs = Dirs::from_vars(|name| (name == "HOME").then(|| here.clone()))?;
        Ok(Self { home, kernel: None, programs, registry: Registry::new(dirs) })
    }

    /// A user whose guests run the kernel that a variable names or the cache holds.
    pub(super) fn with_kernel(programs: &'a Programs, variable: &str, prefix: &str) -> Result<Self, Failure> {
        let mut user = Self::new(programs)?;
        user.kernel = Some(programs::kernel(variable, prefix)?);
        Ok(user)
    }

    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `mvmctl` with these arguments, not started yet; silent.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.mvmctl);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("XDG_") || n.starts_with("MVM_")) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.home()).env("MVM_GUEST", &self.programs.guest);
        if let Some(kernel) = &self.kernel {
            command.env("MVM_KERNEL", kernel);
        }
        command
    }

    /// Runs `mvmctl`, which must succeed.
    pub(super) fn mvmctl(&self, args: &[&str]) -> Result<(), Failure> {
        checked(&mut self.command(args), args).map(|_| ())
    }

    /// Runs `mvmctl`, which must succeed; its stdout.
    pub(super) fn output(&self, args: &[&str]) -> Result<String, Failure> {
        Ok(String::from_utf8(checked(self.command(args).stdout(Stdio::piped()), args)?)?)
    }

    /// A VM as its supervisor last wrote it.
    pub(super) fn snapshot(&self, name: &str) -> Result<Snapshot, Failure> {
        Ok(self.registry.get(&VmName::new(name)?)?)
    }

    /// The folders of a VM.
    pub(super) fn vm(&self, name: &str) -> Result<VmDirs, Failure> {
        Ok(self.registry.vm(&VmName::new(name)?))
    }
}

/// Runs a command that must succeed; what it writes to a stdout that is a pipe.
pub(super) fn checked(command: &mut Command, args: &[&str]) -> Result<Vec<u8>, Failure> {
    let out = command.output()?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    Err(format!(
        "{} {}: {}: {}",
        command.get_program().display(),
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    )
    .into())
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        // Also after a failure no VM may outlive its home.
        let _ = self.command(&["down", "--all", "--force"]).stderr(Stdio::null()).status();
    }
}
