//! QEMU's microvm machine, with KVM where a vCPU really runs, otherwise in software (TCG).

mod arguments;
mod command_line;
mod vmm;
mod vsock;

pub(super) use vmm::Vmm;

use super::{BackendError, Launched};
use crate::program::QEMU;
use mvm_core::{Dirs, Hypervisor, Kvm, LaunchSpec};
use std::path::PathBuf;

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
    /// Finds QEMU and what it needs; with KVM where a vCPU runs with it.
    pub(super) async fn find(kvm: &Kvm, dirs: &Dirs) -> Result<Self, BackendError> {
        let program = BackendError::find(Hypervisor::Qemu, &QEMU)?;
        let vsock = vsock::Device::find()?;
        let accelerator = if *kvm == Kvm::Works { Accelerator::Kvm } else { in_software(dirs).await };
        Ok(Self { program, accelerator, vsock })
    }

    pub(super) fn accelerator(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg { .. } => "tcg",
        }
    }

    pub(super) fn command_line(&self, spec: &LaunchSpec) -> String {
        command_line::command_line(self.accelerator, spec)
    }

    pub(super) async fn start(&self, spec: &LaunchSpec, log: &std::fs::File) -> Result<Launched, BackendError> {
        vmm::launch(self, spec, log).await
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
async fn in_software(dirs: &Dirs) -> Accelerator {
    Accelerator::Tcg { tsc_khz: Some(crate::tsc::khz(dirs).await) }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
async fn in_software(_dirs: &Dirs) -> Accelerator {
    Accelerator::Tcg { tsc_khz: None }
}
