//! QEMU's microvm machine, with KVM where a vCPU really runs, otherwise in software (TCG).

mod arguments;
mod command_line;
mod vmm;
mod vsock;

pub(super) use vmm::Vmm;

use super::program::find_program;
use super::{BackendError, Launched};
use mvm_core::{Dirs, Hypervisor, LaunchSpec};
use std::path::PathBuf;

/// The emulator of this machine's own CPU: guests are of the host's architecture.
const SYSTEM_EMULATOR: &str = if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };

/// How vCPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// In hardware.
    Kvm,
    /// In software.
    Tcg {
        /// The rate of the counter that an x86 guest reads.
        tsc_khz: Option<u64>,
    },
}

/// QEMU as found on this machine.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    accelerator: Accelerator,
    vsock: vsock::Device,
}

impl Qemu {
    /// Finds QEMU and what it needs, and finds out how vCPUs run here.
    pub(super) async fn find(dirs: &Dirs) -> Result<Self, BackendError> {
        let program = find_program("MVM_QEMU", SYSTEM_EMULATOR)?.ok_or(BackendError::Program {
            hypervisor: Hypervisor::Qemu,
            program: SYSTEM_EMULATOR,
            hint: "install it: `apt-get install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-system-x86-core` \
                   (Fedora), `pacman -S qemu-system-x86` (Arch)",
        })?;
        let vsock = vsock::Device::find()?;
        let accelerator = accelerator(dirs).await;
        Ok(Self { program, accelerator, vsock })
    }

    pub(super) fn accelerator(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg { .. } => "tcg",
        }
    }

    pub(super) fn command_line(&self, spec: &LaunchSpec) -> String {
        command_line::kernel_command_line(self.accelerator, spec)
    }

    pub(super) async fn start(&self, spec: &LaunchSpec, log: &std::fs::File) -> Result<Launched, BackendError> {
        vmm::launch(self, spec, log).await
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
async fn accelerator(dirs: &Dirs) -> Accelerator {
    if crate::kvm::runs(dirs).await {
        return Accelerator::Kvm;
    }
    Accelerator::Tcg { tsc_khz: Some(crate::tsc::khz(dirs).await) }
}

/// Elsewhere QEMU is the last resort and runs in software.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
async fn accelerator(_dirs: &Dirs) -> Accelerator {
    Accelerator::Tcg { tsc_khz: None }
}
