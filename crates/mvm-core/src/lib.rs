//! The words that every part of mvm shares: names, sizes, images, specs, states, paths and errors.
//!
//! Nothing here opens a socket, starts a process or prints; it is data and the rules that data must keep.

mod access;
mod backend;
mod config;
pub mod container;
mod detect;
mod dirs;
mod error;
mod guest;
mod image;
mod mac;
mod name;
mod secret;
mod size;
mod spec;
mod state;
mod template;
mod volume;

pub use access::AccessPolicy;
pub use backend::{Capabilities, Drive, DriveRole, Feature, Hypervisor, LaunchSpec, UnknownHypervisor, Unsupported};
pub use config::{CatalogConfig, Config, ConfigError, mvm_flake};
pub use detect::{Choice, HostFacts, Kvm, Lack, Part, Verdict};
pub use dirs::{Dirs, DirsError, FetchedDirs, TemplateDirs, VmDirs};
pub use error::{Diagnostic, ErrorKind, Fault};
pub use guest::{
    GUEST_MANIFEST_PATH, GUEST_SCHEMA, GuestConfig, GuestManifest, GuestVolume, HealthCheck, Interface, Readiness,
    ReadinessCheck, Restart, SecretFile, Service,
};
pub use image::{
    AgentInfo, IMAGE_SCHEMA, ImageDefaults, ImageManifest, InitrdFile, KernelFile, KernelFormat, ManifestError,
    RootfsFile, RootfsFs, features,
};
pub use mac::{MacHost, MacWay};
pub use name::{ImageName, NameError, TemplateName, VmName};
pub use secret::{SecretError, SecretSource, Secrets};
pub use size::{MemorySize, SizeError};
pub use spec::{PortForward, PortForwardError, VmSource, VmSpec};
pub use state::{BootPhase, ExitReason, VmRecord, VmState};
pub use template::{Template, TemplateChange, TemplateTextError};
pub use volume::{Volume, VolumeError};

/// File-system labels by which a guest finds its drives: never by device letter.
pub mod labels {
    /// The read-only root file system, shared by all VMs of an image.
    pub const ROOT: &str = "mvm-root";
    /// The per-VM writable layer.
    pub const WRITABLE: &str = "mvm-rw";
    /// The read-only configuration, written afresh at each start.
    pub const CONFIG: &str = "mvm-config";
    /// The secrets of this start, gone from the host as soon as the guest has them.
    pub const SECRETS: &str = "mvm-secrets";
    /// How the labels of volumes begin. The host tells the guest which is which.
    pub const DATA_PREFIX: &str = "mvm-data-";
}
