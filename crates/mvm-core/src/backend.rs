//! What a backend is given and what it can do, as data.

use crate::{Diagnostic, ErrorKind, KernelFormat, MemorySize, VmName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::{fmt, str::FromStr};

/// A hypervisor by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// QEMU's microvm machine, with KVM or in software.
    Qemu,
}

impl Hypervisor {
    /// Every hypervisor that this build has.
    pub const ALL: [Self; 1] = [Self::Qemu];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
        }
    }

    /// What it can honour on this machine's CPU architecture.
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Self::Qemu => Capabilities { pause: true, kernels: QEMU_KERNELS, max_vcpus: 64 },
        }
    }
}

/// QEMU enters an ELF kernel by PVH, which only x86 has; arm64's is the flat image.
const QEMU_KERNELS: &[KernelFormat] =
    if cfg!(target_arch = "aarch64") { &[KernelFormat::Image] } else { &[KernelFormat::Elf, KernelFormat::BzImage] };

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is no hypervisor's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown hypervisor {0:?}")]
pub struct UnknownHypervisor(pub String);

impl Diagnostic for UnknownHypervisor {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some(format!("known: {}", Hypervisor::ALL.map(Hypervisor::as_str).join(", ")))
    }
}

impl FromStr for Hypervisor {
    type Err = UnknownHypervisor;
    fn from_str(s: &str) -> Result<Self, UnknownHypervisor> {
        Self::ALL.into_iter().find(|h| h.as_str() == s).ok_or_else(|| UnknownHypervisor(s.into()))
    }
}

/// What a backend can honour. A flag that needs more is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Stops and continues the vCPUs.
    pub pause: bool,
    /// The formats of kernels that it boots; none where a guest runs on the host's own.
    pub kernels: &'static [KernelFormat],
    /// Most vCPUs a VM may have.
    pub max_vcpus: u32,
}

impl Capabilities {
    /// Whether a guest with a kernel of this format can be started: one that boots none does not look at it.
    pub fn boots(&self, format: KernelFormat) -> bool {
        self.kernels.is_empty() || self.kernels.contains(&format)
    }
}

/// A VM, ready to be launched: paths are absolute and have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchSpec {
    /// The VM's name.
    pub name: VmName,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: MemorySize,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its format.
    pub kernel_format: KernelFormat,
    /// Stage 1.
    pub initrd: Option<PathBuf>,
    /// The image's own words for the kernel command line.
    pub cmdline: String,
    /// Drives, the root first.
    pub drives: Vec<Drive>,
    /// A private folder (0700) for sockets; the VMM's working directory.
    pub runtime_dir: PathBuf,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// What it is for.
    pub role: DriveRole,
    /// A raw file.
    pub path: PathBuf,
    /// Whether the guest may write to it.
    pub read_only: bool,
}

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DriveRole {
    /// The shared root file system.
    Root,
    /// The per-VM writable layer.
    Writable,
    /// The configuration.
    Config,
}

impl DriveRole {
    /// The VMM's name for the drive.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Writable => "rw",
            Self::Config => "config",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_hypervisor_is_never_another_one() {
        assert_eq!("qemu".parse(), Ok(Hypervisor::Qemu));
        for name in ["", "QEMU", "vbox", "qemu "] {
            assert_eq!(name.parse::<Hypervisor>(), Err(UnknownHypervisor(name.into())));
        }
    }
}
