//! One QEMU process: started, spoken to over QMP, watched to its end.

use super::super::{self as backend, BackendError, Launched, Machine, MachineEnd};
use super::Qemu;
use super::arguments::{arguments, fds};
use super::vsock::Attachment;
use crate::child;
use command_fds::{CommandFdExt, FdMapping};
use mvm_core::LaunchSpec;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp;
use rustix::process::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How long QEMU may take from its start to its QMP greeting.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take to answer a command.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// QEMU and the vsock device beside it.
pub(crate) struct Vmm {
    qemu: Child,
    vsock: Attachment,
    qmp: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmm").field("qemu", &self.qemu).field("vsock", &self.vsock).finish_non_exhaustive()
    }
}

pub(super) async fn launch(qemu: &Qemu, spec: &LaunchSpec, log: &std::fs::File) -> Result<Launched, BackendError> {
    let program = qemu.program.display().to_string();
    let failed = |detail: String| BackendError::Start { program: program.clone(), detail };
    let (vsock, channel, announce, vsock_fd) = qemu.vsock.attach(spec, log).await?;
    let prepare = || -> io::Result<_> {
        let (qmp, qmp_fd) = StdStream::pair()?;
        let (console, console_fd) = StdStream::pair()?;
        for ours in [&qmp, &console] {
            ours.set_nonblocking(true)?;
        }
        let mut mappings = vec![
            FdMapping { parent_fd: OwnedFd::from(qmp_fd), child_fd: fds::QMP },
            FdMapping { parent_fd: OwnedFd::from(console_fd), child_fd: fds::CONSOLE },
        ];
        mappings.extend(vsock_fd.map(|parent_fd| FdMapping { parent_fd, child_fd: fds::VSOCK }));
        Ok((UnixStream::from_std(qmp)?, UnixStream::from_std(console)?, mappings))
    };
    let (qmp, console, mappings) = prepare().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(&qemu.program);
    command.args(arguments(qemu, spec, &vsock).map_err(failed)?).current_dir(&spec.runtime_dir).stdin(Stdio::null());
    for (set, what) in
        [(Command::stdout as fn(&mut Command, Stdio) -> &mut Command, "stdout"), (Command::stderr, "stderr")]
    {
        let log = log.try_clone().map_err(|e| failed(format!("{what}: {e}")))?;
        set(&mut command, log.into());
    }
    child::die_with_parent(&mut command);
    command.fd_mappings(mappings).map_err(|e| failed(e.to_string()))?;
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    // The command holds QEMU's ends of the socket pairs: they must go, or QEMU's death would not be seen on ours.
    drop(command);
    let greeting = async {
        let stream = QmpStreamTokio::open(qmp).await?.negotiate().await?;
        Ok::<_, io::Error>(stream.spawn_tokio())
    };
    let (qmp, reader) = tokio::select! {
        greeted = tokio::time::timeout(START_DEADLINE, greeting) => match greeted {
            Ok(Ok(parts)) => parts,
            Ok(Err(e)) => return Err(failed(match child.wait().await {
                Ok(status) => format!("it ended at once ({status})"),
                Err(_) => e.to_string(),
            })),
            Err(_) => return Err(failed("it does not answer".into())),
        },
        status = child.wait() => {
            return Err(failed(status.map_or_else(|e| e.to_string(), |s| format!("it ended at once ({s})"))));
        }
    };
    let vmm = backend::Vmm::Qemu(Vmm { qemu: child, vsock, qmp, reader });
    Ok(Launched {
        machine: Machine { channel: Some(channel), vmm },
        announce: Some(announce),
        console: Box::new(console),
    })
}

impl Vmm {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.qemu.id()
    }

    /// QEMU exits with 0 when the guest resets or powers off (`-no-reboot`). If the vsock device dies, the guest is
    /// out of reach for good, and the VM counts as dead.
    pub(crate) async fn ended(&mut self) -> MachineEnd {
        let device = async {
            match &mut self.vsock {
                Attachment::VhostUser { child } => child.wait().await,
                Attachment::Kernel { .. } => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            status = self.qemu.wait() => match status {
                Ok(status) if status.success() => MachineEnd::GuestPoweredOff,
                Ok(status) => MachineEnd::Died(format!("qemu ended with {status}")),
                Err(error) => MachineEnd::Died(format!("qemu cannot be waited for: {error}")),
            },
            status = device => {
                // When QEMU goes, the device may notice before we do.
                if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), self.qemu.wait()).await
                    && status.success()
                {
                    return MachineEnd::GuestPoweredOff;
                }
                MachineEnd::Died(status.map_or_else(|e| e.to_string(), |s| format!("vhost-device-vsock ended with {s}")))
            }
        }
    }

    /// QMP's `stop` also stops the rings of a vhost-user device, and `vhost-device-vsock` 0.3 does not always find them
    /// again: connections are reset or never answered. There QEMU is frozen as a whole, and its device keeps all it has.
    pub(crate) async fn pause(&self) -> Result<(), BackendError> {
        match &self.vsock {
            Attachment::VhostUser { .. } => self.signal(Signal::STOP),
            Attachment::Kernel { .. } => self.execute(qmp::stop {}).await,
        }
    }

    /// The way back.
    pub(crate) async fn resume(&self) -> Result<(), BackendError> {
        match &self.vsock {
            Attachment::VhostUser { .. } => self.signal(Signal::CONT),
            Attachment::Kernel { .. } => self.execute(qmp::cont {}).await,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        child::signal(&self.qemu, signal).map_err(|e| BackendError::control("qemu", e))
    }

    pub(crate) async fn kill(&mut self) {
        // An error says that the process is gone already.
        let _ = self.qemu.kill().await;
        if let Attachment::VhostUser { child } = &mut self.vsock {
            let _ = child.kill().await;
        }
        self.reader.abort();
    }

    async fn execute<C: qmp::QmpCommand>(&self, command: C) -> Result<(), BackendError> {
        let failed = |detail: String| BackendError::control("qemu", detail);
        match tokio::time::timeout(COMMAND_DEADLINE, self.qmp.execute(command)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Err(_) => Err(failed("it does not answer".into())),
        }
    }
}
