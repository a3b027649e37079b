//! The vsock device: the kernel's where `/dev/vhost-vsock` can be opened, else `vhost-device-vsock` as a child.

use super::super::{Announce, BackendError};
use crate::arrivals::Arrivals;
use crate::channel::GuestChannel;
use crate::child;
use crate::program::VHOST_DEVICE_VSOCK;
use mvm_core::{Hypervisor, LaunchSpec};
use mvm_protocol::{ANNOUNCE_PORT, OWN_DEVICE_CID, announce_port};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long the device may take to listen; it takes a few milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// The device's vhost-user socket, in the VM's runtime folder.
const VHOST_SOCKET: &str = "vhost.sock";
/// The hybrid socket, in the VM's runtime folder.
const HYBRID_SOCKET: &str = "v.sock";

/// What this machine offers.
#[derive(Debug)]
pub(super) enum Device {
    /// `/dev/vhost-vsock`.
    Kernel,
    /// The program.
    VhostUser(PathBuf),
}

/// A device attached to one VM.
#[derive(Debug)]
pub(super) enum Attachment {
    /// The kernel's device, with the guest's context id.
    Kernel {
        /// Unique on this host.
        cid: u32,
    },
    /// A supervised child and the connection that QEMU inherits.
    VhostUser {
        /// The device's process.
        child: Child,
    },
}

impl Device {
    pub(super) fn find() -> Result<Self, BackendError> {
        if crate::facts::kernel_vsock() {
            return Ok(Self::Kernel);
        }
        BackendError::find(Hypervisor::Qemu, &VHOST_DEVICE_VSOCK).map(Self::VhostUser)
    }

    /// Attaches a device to a VM; the descriptor is for QEMU to inherit.
    pub(super) async fn attach(
        &self,
        spec: &LaunchSpec,
        log: &std::fs::File,
    ) -> Result<(Attachment, GuestChannel, Announce, Option<OwnedFd>), BackendError> {
        match self {
            Self::Kernel => {
                let (listener, cid) = kernel_listener().map_err(|e| failed("the kernel's vsock device", e))?;
                Ok((Attachment::Kernel { cid }, GuestChannel::Vsock(cid), Announce::Vsock(listener, cid), None))
            }
            Self::VhostUser(program) => {
                let dir = &spec.runtime_dir;
                let path = dir.join(format!("{HYBRID_SOCKET}_{ANNOUNCE_PORT}"));
                let listener = crate::unix::listen(&path).map_err(|e| failed("the announcement socket", e))?;
                let (child, fd) = spawn(program, dir, log).await.map_err(|e| failed("vhost-device-vsock", e))?;
                let channel = GuestChannel::Hybrid(dir.join(HYBRID_SOCKET));
                Ok((Attachment::VhostUser { child }, channel, Announce::Hybrid(listener, path), Some(fd)))
            }
        }
    }
}

fn failed(program: &str, error: io::Error) -> BackendError {
    BackendError::Start { program: program.into(), detail: error.to_string() }
}

/// A context id that no other VM is likely to have, and the listener for its announcements: the kernel refuses a second
/// listener or VM with the same one, which is then reported as any start failure.
fn kernel_listener() -> io::Result<(tokio_vsock::VsockListener, u32)> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    // Above the well-known ports, and clear of the reserved values at the upper end.
    let cid = (1 << 16) + u32::from_ne_bytes(bytes) % (1 << 30);
    let address = tokio_vsock::VsockAddr::new(tokio_vsock::VMADDR_CID_ANY, announce_port(cid));
    Ok((tokio_vsock::VsockListener::bind(address)?, cid))
}

/// Starts the device and connects to it. Names are relative to the VM's folder, which is the child's working
/// directory, so that no path is too long for a socket address.
async fn spawn(program: &Path, dir: &Path, log: &std::fs::File) -> io::Result<(Child, OwnedFd)> {
    for stale in [VHOST_SOCKET, HYBRID_SOCKET] {
        crate::files::remove_file(&dir.join(stale))?;
    }
    let mut arrivals = Arrivals::watch(dir)?;
    let mut command = Command::new(program);
    command
        .args(["--guest-cid", &OWN_DEVICE_CID.to_string(), "--socket", VHOST_SOCKET, "--uds-path", HYBRID_SOCKET])
        .current_dir(dir)
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    child::die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let connected = async {
        let stream = arrivals.connect(VHOST_SOCKET).await?.into_std()?;
        // The hybrid socket is the last that it makes.
        arrivals.present(HYBRID_SOCKET).await?;
        stream.set_nonblocking(false)?;
        Ok(OwnedFd::from(stream))
    };
    let connected = async {
        tokio::select! {
            connected = connected => connected,
            status = child.wait() => Err(io::Error::other(format!("ended at once: {}", status?))),
        }
    };
    let fd = tokio::time::timeout(START_DEADLINE, connected)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not listen")))?;
    // It makes its sockets with the umask; only their owner may connect. The other one it removes by itself, now that
    // its only connection is made.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.join(HYBRID_SOCKET), std::fs::Permissions::from_mode(0o600))?;
    Ok((child, fd))
}
