//! One Firecracker process: started, configured over its API, watched to its end.

use super::super::{self as backend, Announce, BackendError, Launched, Machine, MachineEnd};
use super::api::{Action, ApiError, BootSource, CacheType, Client, Drive, Entropy, MachineConfig, VmState, Vsock};
use super::{FIRECRACKER, Firecracker};
use crate::arrivals::Arrivals;
use crate::channel::GuestChannel;
use crate::{child, files};
use command_fds::{CommandFdExt, FdMapping};
use mvm_core::{KernelFormat, LaunchSpec};
use mvm_protocol::{ANNOUNCE_PORT, OWN_DEVICE_CID};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How long Firecracker may take from its start to its API; it takes some ten milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long the last lines of its log may take.
const LOG_DEADLINE: Duration = Duration::from_secs(2);
/// Most bytes of its log that are kept: a guest can make it warn.
pub(super) const LOG_LIMIT: u64 = 8 << 20;
/// The descriptor that it inherits for its log.
const LOG_FD: i32 = 3;
/// The API's socket, in the VM's runtime folder.
pub(super) const API_SOCKET: &str = "firecracker.sock";
/// The vsock device's, there as well.
pub(super) const VSOCK_SOCKET: &str = "v.sock";
/// A kernel that was unpacked for this start.
const UNPACKED_KERNEL: &str = "vmlinux";

/// Firecracker.
#[derive(Debug)]
pub(in super::super) struct Vmm {
    child: Child,
    pub(super) api: Client,
    /// Keeps its log, until it was killed.
    log: Option<JoinHandle<()>>,
}

pub(super) async fn launch(firecracker: &Firecracker, spec: &LaunchSpec, log: &File) -> Result<Launched, BackendError> {
    let io_failed = |e: io::Error| failed(e.to_string());
    let dir = &spec.runtime_dir;
    // A socket that a crashed run left would keep it from its own.
    for stale in [API_SOCKET, VSOCK_SOCKET] {
        files::remove_file(&dir.join(stale)).map_err(io_failed)?;
    }
    let path = dir.join(format!("{VSOCK_SOCKET}_{ANNOUNCE_PORT}"));
    let announce = Announce::Hybrid(crate::unix::listen(&path).map_err(io_failed)?, path);
    let kernel = kernel(spec).await?;
    let mut arrivals = Arrivals::watch(dir).map_err(io_failed)?;
    let (child, console, log) = spawn(firecracker, spec, log).map_err(io_failed)?;
    let mut vmm = Vmm { child, api: Client::new(dir.join(API_SOCKET)), log: Some(log) };
    let ready = async {
        arrivals.connect(API_SOCKET).await.map_err(|e| e.to_string())?;
        configure(&vmm.api, spec, kernel, firecracker.command_line(spec)).await.map_err(|e| e.to_string())
    };
    let done = tokio::select! {
        done = tokio::time::timeout(START_DEADLINE, ready) => done.unwrap_or_else(|_| Err("it does not answer".into())),
        status = vmm.child.wait() => Err(status.map_or_else(|e| e.to_string(), |s| format!("it ended at once ({s})"))),
    };
    if let Err(detail) = done {
        vmm.kill().await;
        return Err(failed(detail));
    }
    let machine =
        Machine { channel: Some(GuestChannel::Hybrid(dir.join(VSOCK_SOCKET))), vmm: backend::Vmm::Firecracker(vmm) };
    Ok(Launched { machine, announce: Some(announce), console: Box::new(console) })
}

fn failed(detail: impl ToString) -> BackendError {
    BackendError::Start { program: FIRECRACKER.name.into(), detail: detail.to_string() }
}

/// The kernel in a format that it loads.
async fn kernel(spec: &LaunchSpec) -> Result<PathBuf, BackendError> {
    if spec.kernel_format != KernelFormat::BzImage {
        return Ok(spec.kernel.clone());
    }
    let (packed, unpacked) = (spec.kernel.clone(), spec.runtime_dir.join(UNPACKED_KERNEL));
    let unpack = move || -> Result<PathBuf, String> {
        let kernel = std::fs::read(packed).map_err(|e| e.to_string())?;
        let kernel = mvm_image::vmlinux_from_bzimage(&kernel).map_err(|e| e.to_string())?;
        std::fs::write(&unpacked, kernel).map_err(|e| e.to_string())?;
        Ok(unpacked)
    };
    let done = tokio::task::spawn_blocking(unpack).await.map_err(failed)?;
    done.map_err(|e| failed(format!("the kernel cannot be unpacked: {e}")))
}

/// Starts the process. Its stdout is the guest's console; paths are relative to the VM's folder, which is its working
/// directory, so that none is too long for a socket address.
pub(super) fn spawn(
    firecracker: &Firecracker,
    spec: &LaunchSpec,
    log: &File,
) -> io::Result<(Child, UnixStream, JoinHandle<()>)> {
    let (console, theirs) = StdStream::pair()?;
    console.set_nonblocking(true)?;
    // It opens its log by path and not to append, so that a file of others cannot be it.
    let (sender, receiver) = pipe::pipe()?;
    let mut command = Command::new(&firecracker.program);
    command
        .args(["--api-sock", API_SOCKET, "--id", spec.name.as_str()])
        .args(["--log-path", &format!("/proc/self/fd/{LOG_FD}"), "--level", "Warning"])
        .current_dir(&spec.runtime_dir)
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(theirs))
        .stderr(log.try_clone()?);
    child::die_with_parent(&mut command);
    let sender = sender.into_blocking_fd()?;
    command.fd_mappings(vec![FdMapping { parent_fd: sender, child_fd: LOG_FD }]).map_err(io::Error::other)?;
    let child = command.spawn()?;
    // The command holds the other ends of the console and the log, which have to end with the process.
    drop(command);
    let log = tokio::fs::File::from_std(log.try_clone()?);
    Ok((child, UnixStream::from_std(console)?, tokio::task::spawn_local(keep_log(receiver, log))))
}

/// Keeps the beginning of what a process logs; what is more is read and forgotten, so that nobody waits for a reader.
pub(super) async fn keep_log(mut receiver: pipe::Receiver, mut log: tokio::fs::File) {
    // A full disk costs lines, never the VM: what cannot be kept is read all the same.
    let _ = tokio::io::copy(&mut (&mut receiver).take(LOG_LIMIT), &mut log).await;
    let _ = log.flush().await;
    let _ = tokio::io::copy(&mut receiver, &mut tokio::io::sink()).await;
}

/// Tells Firecracker what the machine is, and boots it.
pub(super) async fn configure(
    api: &Client,
    spec: &LaunchSpec,
    kernel_image_path: PathBuf,
    boot_args: String,
) -> Result<(), ApiError> {
    let machine = MachineConfig { vcpu_count: spec.vcpus, mem_size_mib: spec.memory.mib(), track_dirty_pages: false };
    api.call(&machine).await?;
    api.call(&BootSource { kernel_image_path, initrd_path: spec.initrd.clone(), boot_args }).await?;
    for drive in &spec.drives {
        let drive = Drive {
            drive_id: drive.role.id().into(),
            path_on_host: drive.path.clone(),
            is_read_only: drive.read_only,
            // The command line has its own `root=`, where the guest needs one.
            is_root_device: false,
            cache_type: if drive.read_only { CacheType::Unsafe } else { CacheType::Writeback },
        };
        api.call(&drive).await?;
    }
    api.call(&Vsock { guest_cid: OWN_DEVICE_CID, uds_path: VSOCK_SOCKET.into() }).await?;
    // It makes its sockets with the umask; only their owner may connect.
    for socket in [API_SOCKET, VSOCK_SOCKET] {
        let private = std::fs::set_permissions(spec.runtime_dir.join(socket), PermissionsExt::from_mode(0o600));
        private.map_err(|source| ApiError::Io { request: format!("chmod {socket}"), source })?;
    }
    api.call(&Entropy {}).await?;
    api.call(&Action::InstanceStart).await
}

impl Vmm {
    pub(in super::super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// It exits with 0 when the guest resets, and also after an error inside KVM: which of the two is in its log.
    pub(in super::super) async fn ended(&mut self) -> MachineEnd {
        match self.child.wait().await {
            Ok(status) if status.success() => MachineEnd::GuestPoweredOff,
            Ok(status) => MachineEnd::Died(format!("firecracker ended with {status}")),
            Err(error) => MachineEnd::Died(format!("firecracker cannot be waited for: {error}")),
        }
    }

    pub(in super::super) async fn pause(&self) -> Result<(), BackendError> {
        self.set(VmState::Paused).await
    }

    pub(in super::super) async fn resume(&self) -> Result<(), BackendError> {
        self.set(VmState::Resumed).await
    }

    async fn set(&self, state: VmState) -> Result<(), BackendError> {
        self.api.call(&state).await.map_err(|e| BackendError::control(FIRECRACKER.name, e))
    }

    pub(in super::super) async fn kill(&mut self) {
        // An error says that the process is gone already.
        let _ = self.child.kill().await;
        if let Some(mut log) = self.log.take()
            && tokio::time::timeout(LOG_DEADLINE, &mut log).await.is_err()
        {
            log.abort();
        }
    }
}
