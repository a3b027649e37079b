//! What a backend is given and what it can do, as data.

use crate::{AgentInfo, Diagnostic, ErrorKind, GuestConfig, KernelFormat, MemorySize, VmName, Volume};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::{fmt, str::FromStr};

/// A hypervisor by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// Firecracker, with KVM.
    Firecracker,
    /// QEMU's microvm machine, with KVM or in software.
    Qemu,
    /// Whatever a NixOS configuration's own runner starts (microvm.nix's `declaredRunner`). Chosen by name only.
    MicrovmNix,
    /// Docker: a container on the host's kernel.
    Docker,
    /// Apple's Virtualization.framework.
    Apple,
}

impl Hypervisor {
    /// Every hypervisor that this build has, the better ones first.
    pub const ALL: [Self; 5] = [Self::Firecracker, Self::Qemu, Self::Docker, Self::MicrovmNix, Self::Apple];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
            Self::MicrovmNix => "microvm-nix",
            Self::Docker => "docker",
            Self::Apple => "apple",
        }
    }

    /// What it can honour on this machine's CPU architecture.
    pub const fn capabilities(self) -> Capabilities {
        match self {
            Self::Firecracker => Capabilities {
                image: true,
                agent: true,
                pause: true,
                drives: true,
                kernels: FIRECRACKER_KERNELS,
                max_vcpus: 32,
            },
            Self::Qemu => Capabilities {
                image: true,
                agent: true,
                pause: true,
                drives: true,
                kernels: QEMU_KERNELS,
                max_vcpus: 64,
            },
            Self::Docker => {
                Capabilities { image: true, agent: true, pause: true, drives: false, kernels: &[], max_vcpus: 256 }
            }
            // Its kernel and vCPUs are the configuration's affair.
            Self::MicrovmNix => Capabilities {
                image: false,
                agent: false,
                pause: true,
                drives: false,
                kernels: &[],
                max_vcpus: u32::MAX,
            },
            // How many vCPUs a Mac gives depends on its own.
            Self::Apple => Capabilities {
                image: true,
                agent: true,
                pause: true,
                drives: true,
                kernels: &[KernelFormat::Image],
                max_vcpus: u32::MAX,
            },
        }
    }
}

/// What a user may ask for and not every backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Runs an image of mvm, with the resources that the user chooses.
    Image,
    /// mvm's agent in the guest.
    Agent,
    /// Stops and continues the vCPUs.
    Pause,
    /// Gives the guest drives of its own.
    Drives,
}

/// Something that a backend cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unsupported {
    /// Which backend.
    pub hypervisor: Hypervisor,
    /// What it lacks.
    pub feature: Feature,
    /// The option or command that needs it, as typed.
    pub what: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hypervisor, feature, what } = self;
        match feature {
            _ if self.is_configurations() => {
                write!(f, "{hypervisor} cannot honour {what}: it runs a NixOS configuration, which decides for itself")
            }
            Feature::Image => write!(f, "{hypervisor} cannot honour {what}: it runs no images"),
            Feature::Agent => {
                write!(f, "{hypervisor} cannot honour {what}: no agent of mvm is known to run in its guests")
            }
            Feature::Pause => write!(f, "{hypervisor} cannot honour {what}: it cannot stop the vCPUs"),
            Feature::Drives => write!(f, "{hypervisor} cannot honour {what}: it gives its guests no drives"),
        }
    }
}

impl Unsupported {
    /// Whether a NixOS configuration decides what was asked for.
    fn is_configurations(&self) -> bool {
        self.hypervisor == Hypervisor::MicrovmNix && matches!(self.feature, Feature::Image | Feature::Drives)
    }
}

impl Diagnostic for Unsupported {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        match self.feature {
            _ if self.is_configurations() => {
                let options = "microvm.vcpu, microvm.mem, microvm.forwardPorts, microvm.volumes";
                Some(format!("set it in the configuration: {options}"))
            }
            Feature::Image => None,
            Feature::Agent => {
                Some("the guest's own services, as ssh, lead in; `mvmctl logs NAME` shows its console".into())
            }
            Feature::Pause => None,
            Feature::Drives => Some("a virtual machine has them: `--hypervisor qemu`".into()),
        }
    }
}

impl Hypervisor {
    /// Refuses, by name, what this hypervisor cannot do.
    pub fn require(self, feature: Feature, what: &str) -> Result<(), Unsupported> {
        let can = self.capabilities();
        let has = match feature {
            Feature::Image => can.image,
            Feature::Agent => can.agent,
            Feature::Pause => can.pause,
            Feature::Drives => can.drives,
        };
        if has { Ok(()) } else { Err(Unsupported { hypervisor: self, feature, what: what.into() }) }
    }
}

/// It loads ELF on x86; a bzImage is unpacked to one before.
const FIRECRACKER_KERNELS: &[KernelFormat] = QEMU_KERNELS;

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
    /// Runs images of mvm, with the vCPUs, memory, environment and drives that it is given.
    pub image: bool,
    /// mvm's agent answers in its guests: readiness, health, exec, console, cp, published ports.
    pub agent: bool,
    /// Stops and continues the vCPUs.
    pub pause: bool,
    /// The formats of kernels that it boots; none where a guest runs on the host's own.
    pub kernels: &'static [KernelFormat],
    /// Whether a guest gets its writable layer and its configuration as drives; else the backend has ways of its own.
    pub drives: bool,
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
    /// Drives, the root first; the root alone where the backend gives a guest no drives.
    pub drives: Vec<Drive>,
    /// What the guest is told of this start.
    pub config: GuestConfig,
    /// The agent in the image.
    pub agent: AgentInfo,
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
    /// The secrets of this start.
    Secrets,
    /// A volume, by its place among the VM's volumes.
    Data(u8),
}

impl DriveRole {
    /// The VMM's name for the drive.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Writable => "rw",
            Self::Config => "config",
            Self::Secrets => "secrets",
            Self::Data(n) => {
                const IDS: [&str; Volume::MOST] = [
                    "data0", "data1", "data2", "data3", "data4", "data5", "data6", "data7", "data8", "data9", "data10",
                    "data11", "data12", "data13", "data14", "data15",
                ];
                IDS[n as usize % IDS.len()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backend_lacks_is_refused_by_name() {
        for hypervisor in Hypervisor::ALL {
            let can = hypervisor.capabilities();
            for (feature, has) in [
                (Feature::Image, can.image),
                (Feature::Agent, can.agent),
                (Feature::Pause, can.pause),
                (Feature::Drives, can.drives),
            ] {
                let refused = hypervisor.require(feature, "--thing").map_err(|e| e.to_string());
                assert_eq!(refused.is_ok(), has);
                if let Err(text) = refused {
                    assert!(text.contains("--thing") && text.contains(hypervisor.as_str()), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_configurations_volumes_are_its_own() {
        let refused = |hypervisor: Hypervisor| hypervisor.require(Feature::Drives, "--volume").unwrap_err();
        assert!(refused(Hypervisor::MicrovmNix).to_string().contains("decides for itself"));
        assert!(refused(Hypervisor::MicrovmNix).hint().unwrap().contains("microvm.volumes"));
        assert!(refused(Hypervisor::Docker).hint().unwrap().contains("--hypervisor qemu"));
    }

    #[test]
    fn an_unknown_hypervisor_is_never_another_one() {
        for known in Hypervisor::ALL {
            assert_eq!(known.as_str().parse(), Ok(known));
            assert_eq!(serde_json::to_value(known).unwrap(), known.as_str());
        }
        for name in ["", "QEMU", "vbox", "qemu "] {
            assert_eq!(name.parse::<Hypervisor>(), Err(UnknownHypervisor(name.into())));
        }
    }
}
