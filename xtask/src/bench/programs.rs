//! The programs that are measured, built as they are shipped or nearly so.

use super::Failure;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they lie.
#[derive(Debug)]
pub(super) struct Programs {
    /// mvmctl, release build.
    pub mvmctl: PathBuf,
    /// mvm-guest, static.
    pub guest: PathBuf,
    /// What it is measured against, static and built in the same way.
    pub hello: PathBuf,
}

impl Programs {
    /// Builds what is not built yet.
    pub(super) fn build() -> Result<Self, Failure> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask lies in no workspace")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // This very program lies where cargo puts release builds.
        let release = std::env::current_exe()?.parent().map(Path::to_path_buf).ok_or("no folder of release builds")?;
        let target = release.parent().ok_or("no target folder")?;
        let run = |command: &mut Command| -> Result<(), Failure> {
            let status = command.current_dir(repo).env("CARGO_TARGET_DIR", target).status()?;
            if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
        };
        run(Command::new(&cargo).args(["build", "--quiet", "--release", "-p", "mvmctl"]))?;
        run(&mut Command::new(repo.join("scripts/build-guest.sh")))?;
        // The same way as scripts/build-guest.sh: the flags go to this one target by name.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
        run(Command::new(&cargo)
            .args(["build", "--quiet", "-p", "mvm-bench-hello", "--profile", "guest", "--target", &triple])
            .env(flags, "-C target-feature=+crt-static"))?;
        let file = |path: PathBuf| {
            if path.is_file() { Ok(path) } else { Err(format!("{} was not built", path.display())) }
        };
        Ok(Self {
            mvmctl: file(release.join("mvmctl"))?,
            guest: file(target.join("libexec/mvm/mvm-guest"))?,
            hello: file(target.join(triple).join("guest/mvm-bench-hello"))?,
        })
    }
}

/// A kernel named by a variable, else found in the cache of whoever runs this.
pub(super) fn kernel(variable: &str, prefix: &str) -> Result<PathBuf, Failure> {
    if let Some(given) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Ok(given.into());
    }
    let kernels = mvm_core::Dirs::from_env()?.kernels();
    let starts = |name: &OsStr| name.to_str().is_some_and(|n| n.starts_with(prefix));
    std::fs::read_dir(&kernels)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(starts))
        .ok_or_else(|| format!("no kernel {prefix}* in {}; set {variable}", kernels.display()).into())
}
