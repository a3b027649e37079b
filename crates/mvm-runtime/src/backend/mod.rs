//! Backends: what runs an image. Each is a module with a type that finds it on this machine and starts machines, and
//! a `Vmm`, a machine that it started.
//!
//! | what differs | how it is told apart |
//! |---|---|
//! | kernels, vCPUs, pauses | [`Capabilities`], data of `mvm-core`, checked here before a backend is asked |
//! | the kernel command line | [`AnyBackend::command_line`]; none where a guest runs on the host's kernel |
//! | drives | each backend takes from [`LaunchSpec::drives`] what it can attach; a container gets a root only, imported |
//! | the end | a VMM is a child that dies with its supervisor; a container has a lifeline |
//! | the way to the agent | [`GuestChannel`], and [`Announce`] for the way back |
//! | the console | a stream of bytes, whatever it comes from |

mod absent;
mod apple;
#[cfg(target_os = "linux")]
mod command_line;
#[cfg(target_os = "linux")]
pub mod docker;
#[cfg(target_os = "linux")]
pub mod firecracker;
#[cfg(not(target_os = "linux"))]
mod firecracker {
    pub use super::absent::{Absent as Firecracker, Absent as Vmm};
}
mod microvm_nix;
#[cfg(target_os = "linux")]
mod qemu;
#[cfg(not(target_os = "linux"))]
mod qemu {
    pub use super::absent::{Absent as Qemu, Absent as Vmm};
}

#[cfg(target_os = "macos")]
pub use apple::mac_host;
pub(crate) use microvm_nix::Runner;
pub use microvm_nix::{RunnerError, check_runner};
use mvm_core::{
    Capabilities, Diagnostic, Dirs, ErrorKind, Hypervisor, KernelFormat, Lack, LaunchSpec, Verdict, VmName,
};

use rustix::process::Signal;
use std::io;
use std::path::PathBuf;
use tokio::io::AsyncRead;
use tokio::net::UnixListener;

use crate::channel::{GuestChannel, GuestStream};
use crate::program::{NotThere, Program};

/// A backend, chosen.
#[derive(Debug)]
pub enum AnyBackend {
    /// Firecracker.
    Firecracker(firecracker::Firecracker),
    /// QEMU's microvm machine.
    Qemu(qemu::Qemu),
    /// Docker.
    #[cfg(target_os = "linux")]
    Docker(docker::Docker),
    /// Virtualization.framework.
    Apple(apple::Apple),
}

/// Why a backend could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A program that it needs is not there.
    #[error("{hypervisor} needs the program {program:?}, which is not on PATH")]
    Program {
        /// Whose.
        hypervisor: Hypervisor,
        /// Which.
        program: &'static str,
        /// How to get it.
        hint: &'static str,
    },
    /// A variable names a program that is not there.
    #[error("{variable} is {path:?}, which is not a file")]
    Chosen {
        /// The variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// The program that it stands for.
        program: &'static str,
    },
    /// This machine does not let it.
    #[error("{hypervisor} cannot run here: {}", .lack.why)]
    Unusable {
        /// Which backend.
        hypervisor: Hypervisor,
        /// Why.
        lack: Lack,
    },
    /// It belongs to another operating system.
    #[error("{0} does not run on {system}", system = std::env::consts::OS)]
    Elsewhere(Hypervisor),
    /// It runs something else than images.
    #[error("{0} runs no images of mvm")]
    NoImage(Hypervisor),
    /// A kernel of a format that it does not load.
    #[error("{hypervisor} on this machine cannot boot a kernel of the format {}", .format.as_str())]
    Kernel {
        /// Which backend.
        hypervisor: Hypervisor,
        /// The format.
        format: KernelFormat,
    },
    /// More vCPUs than it can give.
    #[error("{hypervisor} gives a VM at most {max} vCPUs, not {asked}")]
    Vcpus {
        /// Which backend.
        hypervisor: Hypervisor,
        /// Its limit.
        max: u32,
        /// What was asked.
        asked: u32,
    },
    /// More drives than it has interrupts for.
    #[error("{hypervisor} gives a VM at most {max} drives, not {asked}")]
    Drives {
        /// Which backend.
        hypervisor: Hypervisor,
        /// Its limit.
        max: usize,
        /// What the VM needs: its own, and one for each volume.
        asked: usize,
    },
    /// A process or socket of it failed at the start.
    #[error("cannot start {program}: {detail}")]
    Start {
        /// The program.
        program: String,
        /// What it said, or the system.
        detail: String,
    },
    /// Docker could not do it.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Docker(#[from] docker::DockerError),
    /// It does not answer as it should while it runs.
    #[error("{program} failed: {detail}")]
    Control {
        /// The program.
        program: String,
        /// What happened.
        detail: String,
    },
}

impl BackendError {
    /// A program that has to be there.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS's own backend needs no program"))]
    pub(crate) fn find(hypervisor: Hypervisor, program: &Program) -> Result<PathBuf, Self> {
        let Program { name, hint, .. } = *program;
        match program.find() {
            Ok(Some(path)) => Ok(path),
            Ok(None) => Err(Self::Program { hypervisor, program: name, hint }),
            Err(NotThere { variable, path }) => Err(Self::Chosen { variable, path, program: name }),
        }
    }

    pub(crate) fn control(program: &str, detail: impl ToString) -> Self {
        Self::Control { program: program.into(), detail: detail.to_string() }
    }
}

impl Diagnostic for BackendError {
    fn kind(&self) -> ErrorKind {
        match self {
            #[cfg(target_os = "linux")]
            Self::Docker(error) => error.kind(),
            Self::Program { .. }
            | Self::Chosen { .. }
            | Self::Unusable { .. }
            | Self::Elsewhere(_)
            | Self::Start { .. } => ErrorKind::BackendUnavailable,
            Self::Kernel { .. } => ErrorKind::ImageInvalid,
            Self::Vcpus { .. } | Self::Drives { .. } | Self::NoImage(_) => ErrorKind::Usage,
            Self::Control { .. } => ErrorKind::Unexpected,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Docker(error) => error.hint(),
            Self::Program { hint, .. } => Some((*hint).into()),
            Self::Unusable { lack, .. } => Some(
                lack.hint.clone().unwrap_or_else(|| "`mvmctl doctor` tells what this machine can run VMs with".into()),
            ),
            Self::Drives { .. } => Some("make the VM with fewer volumes, or with `--hypervisor qemu`".into()),
            Self::Vcpus { max, .. } => {
                let more = Hypervisor::ALL.into_iter().filter(|h| h.capabilities().image);
                let more = more.map(|h| (h, h.capabilities().max_vcpus)).find(|(_, most)| most > max);
                more.map(|(hypervisor, most)| format!("`--hypervisor {hypervisor}` gives a VM up to {most}"))
            }
            Self::Chosen { variable, program, .. } => {
                Some(format!("point {variable} at {program}, or unset it to use the one on PATH"))
            }
            Self::Start { .. } => Some("`mvmctl logs NAME --hypervisor` shows all that the hypervisor said".into()),
            _ => None,
        }
    }
}

impl AnyBackend {
    /// The backend that was forced, or the one that this machine offers.
    pub async fn choose(forced: Option<Hypervisor>, dirs: &Dirs) -> Result<Self, BackendError> {
        let facts = crate::facts::gather(dirs).await;
        // The last resort tells what it lacks.
        let last = if cfg!(target_os = "macos") { Hypervisor::Apple } else { Hypervisor::Qemu };
        let hypervisor = forced.or(facts.choose().hypervisor).unwrap_or(last);
        if matches!(hypervisor, Hypervisor::Firecracker | Hypervisor::Apple)
            && let Verdict { usable: false, lack: Some(lack), .. } = facts.verdict(hypervisor)
        {
            return Err(BackendError::Unusable { hypervisor, lack });
        }
        match hypervisor {
            other @ Hypervisor::MicrovmNix => Err(BackendError::NoImage(other)),
            #[cfg(target_os = "linux")]
            Hypervisor::Firecracker => firecracker::Firecracker::find().map(Self::Firecracker),
            #[cfg(target_os = "linux")]
            Hypervisor::Qemu => qemu::Qemu::find(&facts.kvm, dirs).await.map(Self::Qemu),
            #[cfg(target_os = "linux")]
            Hypervisor::Docker => Ok(Self::Docker(docker::Docker::find(dirs).await?)),
            #[cfg(target_os = "macos")]
            Hypervisor::Apple => Ok(Self::Apple(apple::Apple::new())),
            other => Err(BackendError::Elsewhere(other)),
        }
    }

    /// Which one it is.
    pub fn hypervisor(&self) -> Hypervisor {
        match self {
            Self::Firecracker(_) => Hypervisor::Firecracker,
            Self::Qemu(_) => Hypervisor::Qemu,
            #[cfg(target_os = "linux")]
            Self::Docker(_) => Hypervisor::Docker,
            Self::Apple(_) => Hypervisor::Apple,
        }
    }

    /// How its vCPUs run: `kvm`, `tcg` or `vz`; `container` where they are the host's, under the host's kernel.
    pub fn accelerator(&self) -> &'static str {
        match self {
            Self::Firecracker(_) => "kvm",
            Self::Qemu(q) => q.accelerator(),
            #[cfg(target_os = "linux")]
            Self::Docker(_) => "container",
            Self::Apple(a) => a.accelerator(),
        }
    }

    /// The kernel command line with which it boots a guest; none where a guest runs on the host's kernel.
    pub fn command_line(&self, spec: &LaunchSpec) -> Option<String> {
        match self {
            Self::Firecracker(f) => Some(f.command_line(spec)),
            Self::Qemu(q) => Some(q.command_line(spec)),
            #[cfg(target_os = "linux")]
            Self::Docker(_) => None,
            Self::Apple(a) => Some(a.command_line(spec)),
        }
    }

    /// Brings the image to where the backend wants it, if that is not where it lies: minutes for a large one. Dropping
    /// it ends it. `begins` is called where there is something to do.
    pub async fn import(&self, spec: &LaunchSpec, begins: &dyn Fn()) -> Result<(), BackendError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Docker(docker) => Ok(docker.import(spec, begins).await?),
            Self::Firecracker(_) | Self::Qemu(_) | Self::Apple(_) => {
                let _it_lies_where_it_is_wanted = (spec, begins);
                Ok(())
            }
        }
    }

    /// Starts a machine. `log` takes what the VMM and its helpers say.
    pub async fn start(&self, spec: &LaunchSpec, log: &std::fs::File) -> Result<Launched, BackendError> {
        let hypervisor = self.hypervisor();
        let Capabilities { max_vcpus, .. } = hypervisor.capabilities();
        if !hypervisor.capabilities().boots(spec.kernel_format) {
            return Err(BackendError::Kernel { hypervisor, format: spec.kernel_format });
        }
        if spec.vcpus > max_vcpus {
            return Err(BackendError::Vcpus { hypervisor, max: max_vcpus, asked: spec.vcpus });
        }
        match self {
            Self::Firecracker(f) => f.start(spec, log).await,
            Self::Qemu(q) => q.start(spec, log).await,
            #[cfg(target_os = "linux")]
            Self::Docker(docker) => Ok(docker.start(spec).await?),
            Self::Apple(a) => a.start(spec, log).await,
        }
    }
}

/// Removes what a backend keeps of a VM beside the VM's own folders. The caller holds the VM's lock.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "only Docker keeps anything"))]
pub(crate) async fn forget(dirs: &Dirs, name: &VmName, hypervisor: Option<Hypervisor>) -> Result<(), BackendError> {
    match hypervisor {
        #[cfg(target_os = "linux")]
        Some(Hypervisor::Docker) => Ok(docker::Docker::find(dirs).await?.forget(name).await?),
        _ => Ok(()),
    }
}

/// Ends what a supervisor that died may have left running: what is no child of its own and could not notice. The caller
/// sees to it that no other supervisor begins.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "only Docker keeps anything"))]
pub(crate) async fn settle(dirs: &Dirs, name: &VmName, hypervisor: Option<Hypervisor>) -> Result<(), BackendError> {
    match hypervisor {
        #[cfg(target_os = "linux")]
        Some(Hypervisor::Docker) => Ok(docker::Docker::find(dirs).await?.settle(name).await?),
        _ => Ok(()),
    }
}

/// What a guest says on its console.
pub type Console = Box<dyn AsyncRead + Unpin>;

/// A machine that was just started, and its two ends that others serve.
pub struct Launched {
    /// The machine.
    pub machine: Machine,
    /// Where the guest announces itself; none where it has no agent.
    pub announce: Option<Announce>,
    /// The guest's console, to its end.
    pub console: Console,
}

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    /// Where the guest's agent will listen; none where it has no agent.
    pub channel: Option<GuestChannel>,
    vmm: Vmm,
}

/// The machine of one backend or another.
#[derive(Debug)]
#[allow(dead_code, clippy::large_enum_variant, reason = "one of another system's backend is never made")]
enum Vmm {
    Firecracker(firecracker::Vmm),
    Qemu(qemu::Vmm),
    MicrovmNix(microvm_nix::Vmm),
    #[cfg(target_os = "linux")]
    Docker(docker::Vmm),
    Apple(apple::Vmm),
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEnd {
    /// The guest powered off or reset; the VMM ended in order.
    GuestPoweredOff,
    /// The VMM died.
    Died(String),
}

impl Machine {
    /// The VMM's process.
    pub fn pid(&self) -> Option<u32> {
        match &self.vmm {
            Vmm::Firecracker(vmm) => vmm.pid(),
            Vmm::Qemu(vmm) => vmm.pid(),
            Vmm::Apple(vmm) => vmm.pid(),
            Vmm::MicrovmNix(vmm) => vmm.pid(),
            #[cfg(target_os = "linux")]
            Vmm::Docker(vmm) => vmm.pid(),
        }
    }

    /// Waits for the VMM's end. Cancel-safe.
    pub async fn ended(&mut self) -> MachineEnd {
        match &mut self.vmm {
            Vmm::Firecracker(vmm) => vmm.ended().await,
            Vmm::Qemu(vmm) => vmm.ended().await,
            Vmm::Apple(vmm) => vmm.ended().await,
            Vmm::MicrovmNix(vmm) => vmm.ended().await,
            #[cfg(target_os = "linux")]
            Vmm::Docker(vmm) => vmm.ended().await,
        }
    }

    /// Stops the vCPUs.
    pub async fn pause(&self) -> Result<(), BackendError> {
        match &self.vmm {
            Vmm::Firecracker(vmm) => vmm.pause().await,
            Vmm::Qemu(vmm) => vmm.pause().await,
            Vmm::Apple(vmm) => vmm.pause().await,
            Vmm::MicrovmNix(vmm) => vmm.signal(Signal::STOP),
            #[cfg(target_os = "linux")]
            Vmm::Docker(vmm) => Ok(vmm.pause().await?),
        }
    }

    /// Lets the vCPUs go on.
    pub async fn resume(&self) -> Result<(), BackendError> {
        match &self.vmm {
            Vmm::Firecracker(vmm) => vmm.resume().await,
            Vmm::Qemu(vmm) => vmm.resume().await,
            Vmm::Apple(vmm) => vmm.resume().await,
            Vmm::MicrovmNix(vmm) => vmm.signal(Signal::CONT),
            #[cfg(target_os = "linux")]
            Vmm::Docker(vmm) => Ok(vmm.resume().await?),
        }
    }

    /// Asks a guest without agent to power off. `false` where there is no way to ask.
    pub fn ask_to_power_off(&mut self) -> Result<bool, BackendError> {
        match &mut self.vmm {
            // Their guests are asked through their agent.
            Vmm::Firecracker(_) | Vmm::Qemu(_) | Vmm::Apple(_) => Ok(false),
            #[cfg(target_os = "linux")]
            Vmm::Docker(_) => Ok(false),
            Vmm::MicrovmNix(vmm) => vmm.ask_to_power_off(),
        }
    }

    /// Kills the VMM and its helpers and waits until they are gone.
    pub async fn kill(&mut self) {
        match &mut self.vmm {
            Vmm::Firecracker(vmm) => vmm.kill().await,
            Vmm::Qemu(vmm) => vmm.kill().await,
            Vmm::Apple(vmm) => vmm.kill().await,
            Vmm::MicrovmNix(vmm) => vmm.kill().await,
            #[cfg(target_os = "linux")]
            Vmm::Docker(vmm) => vmm.kill().await,
        }
    }
}

/// Where a guest announces itself: it opens a stream to the host when its agent listens.
#[derive(Debug)]
pub enum Announce {
    /// The device connects the guest's stream to this socket.
    Hybrid(UnixListener, PathBuf),
    /// AF_VSOCK, from the guest with this context id.
    #[cfg(target_os = "linux")]
    Vsock(tokio_vsock::VsockListener, u32),
}

impl Announce {
    /// Waits for the guest. Cancel-safe.
    pub async fn accept(&self) -> io::Result<GuestStream> {
        match self {
            Self::Hybrid(listener, _) => Ok(GuestStream::Unix(listener.accept().await?.0)),
            #[cfg(target_os = "linux")]
            Self::Vsock(listener, cid) => loop {
                let (stream, peer) = listener.accept().await?;
                if peer.cid() == *cid {
                    return Ok(GuestStream::Vsock(stream));
                }
            },
        }
    }
}

impl Drop for Announce {
    fn drop(&mut self) {
        match self {
            Self::Hybrid(_, path) => {
                // Best effort: the folder goes as a whole when the VM does.
                let _ = std::fs::remove_file(path);
            }
            #[cfg(target_os = "linux")]
            Self::Vsock(..) => {}
        }
    }
}
