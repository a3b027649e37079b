//! Firecracker: a VMM for KVM that does as little as a microVM needs, told what to do over its API.

pub mod api;
#[cfg(test)]
mod tests;
mod vmm;

pub(super) use vmm::Vmm;

use super::command_line::kernel_command_line;
use super::{BackendError, Launched};
use crate::program::FIRECRACKER;
use mvm_core::{Hypervisor, LaunchSpec};
use std::path::PathBuf;

/// What a guest's kernel has to know of it.
const WORDS: &[&str] = &[
    // A reset by the keyboard controller is the one way that a guest has to end it.
    "reboot=k",
    "i8042.nopnp",
];

/// Most drives. A machine has 19 interrupts for devices; the vsock device, the source of randomness and two devices of
/// Firecracker's own (generation id and clock) take one each.
const MOST_DRIVES: usize = 15;

/// Firecracker as found on this machine.
#[derive(Debug)]
pub struct Firecracker {
    program: PathBuf,
}

impl Firecracker {
    /// Finds the program. Whether KVM runs guests is decided before.
    pub(super) fn find() -> Result<Self, BackendError> {
        BackendError::find(Hypervisor::Firecracker, &FIRECRACKER).map(|program| Self { program })
    }

    pub(super) fn command_line(&self, spec: &LaunchSpec) -> String {
        kernel_command_line(spec, WORDS, spec.cmdline.split_whitespace())
    }

    pub(super) async fn start(&self, spec: &LaunchSpec, log: &std::fs::File) -> Result<Launched, BackendError> {
        let (asked, max) = (spec.drives.len(), MOST_DRIVES);
        if asked > max {
            return Err(BackendError::Drives { hypervisor: Hypervisor::Firecracker, max, asked });
        }
        vmm::launch(self, spec, log).await
    }
}
