//! Init of a container, which runs on the host's kernel: its root, its mounts and its names have been made when it
//! begins, and its end is the end of this process.
//!
//! ```text
//! lifeline ── config, manifest ── files of identity ── agent listens ── services, health ── ready
//!     │ broken: at once                                                                       │ asked to power off
//!    exit ──────────────────────────────────────────── processes ended ── services left ──────┘
//! ```

use super::{identity, log_to_console, say};
use crate::agent::{Announce, Listener};
use crate::context::boot_us;
use crate::documents;
use mvm_core::container::{ANNOUNCE, FOLDER, LIFELINE};
use mvm_protocol::lifeline;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::LocalSet;

/// How long the host may take to say who this guest is: it has made its sockets before it made us.
const LIFELINE_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the guest until it is asked to power off, or nobody wants it any more.
pub(super) fn main() -> ! {
    // The standard streams are the console of a container; programs look for it where a VM has it.
    let _ = symlink("/proc/1/fd/2", "/dev/console");
    exit(match run() {
        Ok(()) => {
            say("powered off cleanly");
            0
        }
        Err(error) => {
            say(&format!("cannot go on: {error}"));
            1
        }
    })
}

fn run() -> io::Result<()> {
    let began_us = boot_us();
    log_to_console();
    let (lifeline, config, socket) = take_lifeline().map_err(|e| io::Error::other(format!("no lifeline: {e}")))?;
    let config = documents::config_from_lifeline(&config)?;
    let manifest = super::manifest();
    if let Some(init) = manifest.init.first() {
        return Err(io::Error::other(format!("the image's own init, {init}, needs a machine, not a container")));
    }
    identity::assume_in_files(&config)?;
    let mut guest = super::guest(manifest, config)?;
    guest.began_us = began_us;
    let guest = Rc::new(guest);
    guest.phase("init");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        lifeline.set_nonblocking(true)?;
        tokio::task::spawn_local(end_with(tokio::net::UnixStream::from_std(lifeline)?));
        let announce = Announce::Unix(Path::new(FOLDER).join(ANNOUNCE));
        // Whoever made the container made its network.
        super::live(guest, Listener::made(socket)?, announce, std::future::ready(Ok(()))).await
    })
}

/// Who this guest is, and the socket that its agent serves.
fn take_lifeline() -> io::Result<(UnixStream, Vec<u8>, OwnedFd)> {
    let stream = UnixStream::connect(Path::new(FOLDER).join(LIFELINE))?;
    stream.set_read_timeout(Some(LIFELINE_DEADLINE))?;
    let (config, agent) = lifeline::receive(&stream)?;
    Ok((stream, config, agent))
}

/// Ends the guest at once when the lifeline breaks: its supervisor was killed, and whatever is left of a container is
/// killed with PID 1.
async fn end_with(mut lifeline: tokio::net::UnixStream) {
    // The host says nothing more: whatever comes is the end. Nothing is said of it, for who reads the console may be gone.
    let _ = lifeline.read_u8().await;
    exit(1)
}
