//! From stage 1 to an init that is the image's own.
//!
//! It begins where an initrd ends: the root, `/proc`, `/sys`, `/dev` and `/run` are mounted, and what this start decided
//! (names, machine-id, clock, addresses) is in place, since the secret beside it is nobody's business but the agent's.
//! Nothing of this process stays open. The overlay holds the VM's writable layer by itself: an init that ends as usual,
//! with `/` read-only or unmounted, has synced it, and its journal does the rest at the next start.

use super::{network, say};
use crate::documents;
use mvm_core::{GuestConfig, GuestManifest};
use rustix::fs::OFlags;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the kernel gives to an init, without what somebody has put on its command line.
const ENVIRONMENT: [(&str, &str); 2] = [("HOME", "/"), ("TERM", "linux")];

/// Executes the init of the manifest. Comes back only where that fails.
pub(super) fn hand_over(manifest: &GuestManifest) -> io::Result<Infallible> {
    if !manifest.services.is_empty() {
        say("the manifest has an init and services: to start them is the init's business");
    }
    let config = documents::config_from_drive()?;
    super::assume(&config, manifest)?;
    configure_network(&config)?;
    Err(execute(&manifest.init))
}

/// Without addresses the network is the init's alone, its loopback too.
fn configure_network(config: &GuestConfig) -> io::Result<()> {
    if config.interface.is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let configured = tokio::task::LocalSet::new().block_on(&runtime, network::configure(config.interface.as_ref()));
        if let Err(error) = configured {
            say(&format!("network: {error}"));
        }
    }
    Ok(())
}

fn execute(init: &[String]) -> io::Error {
    let Some((program, arguments)) = init.split_first() else { return io::ErrorKind::InvalidInput.into() };
    let mut command = Command::new(program);
    command.current_dir("/").args(arguments).env_clear().envs(ENVIRONMENT);
    // The standard streams of this process may be nothing at all: the kernel opened them where there was no /dev yet.
    if let Ok([stdin, stdout, stderr]) = console() {
        command.stdin(stdin).stdout(stdout).stderr(stderr);
    }
    let error = if program.starts_with('/') { command.exec() } else { io::Error::other("it is no absolute path") };
    io::Error::other(format!("the image's init {program:?} cannot be executed: {error}"))
}

/// The console, for three standard streams.
fn console() -> io::Result<[File; 3]> {
    let no_terminal_of_ours = OFlags::NOCTTY.bits().cast_signed();
    let console = File::options().read(true).write(true).custom_flags(no_terminal_of_ours).open("/dev/console")?;
    Ok([console.try_clone()?, console.try_clone()?, console])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_that_cannot_be_executed_is_named() {
        for (init, why) in [("/no/such/init", "No such file"), ("init", "no absolute path"), ("/etc", "denied")] {
            let error = execute(&[init.into(), "--quiet".into()]).to_string();
            assert!(error.contains(&format!("init {init:?} cannot be executed")) && error.contains(why), "{error}");
        }
    }
}
