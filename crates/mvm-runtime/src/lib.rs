//! What makes a spec a running VM: backends, the supervisor, the registry, and the host's side of guest operations.

#[cfg(target_os = "linux")]
mod arrivals;
mod backend;
mod channel;
mod child;
mod clock;
pub mod control;
mod doctor;
mod facts;
mod files;
mod folders;
pub mod guest;
#[cfg(target_os = "linux")]
mod http;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
mod lifecycle;
pub mod lima;
mod memory;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod probes;
mod program;
mod project;
mod registry;
mod supervisor;
mod templates;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tsc;
mod unix;

#[cfg(target_os = "linux")]
pub use backend::docker;
#[cfg(target_os = "linux")]
pub use backend::firecracker::api as firecracker_api;
pub use backend::{AnyBackend, BackendError, RunnerError, check_runner};
pub use channel::{GuestChannel, GuestStream, open_channel};
pub use control::{ControlClient, ControlError};
pub use doctor::{Dependency, Report, examine};
pub use facts::mac_host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use kvm::run_probe as run_kvm_probe;
pub use lifecycle::{Demand, Lifecycle, Refused};
pub use memory::{MemoryError, check_memory};
pub use project::{ProjectError, write_project};
pub use registry::{Registry, RegistryError, Snapshot};
pub use supervisor::{Launch, LaunchEvent, SuperviseOptions, supervise};
pub use templates::{ListedTemplate, StoredTemplate, TemplateBuild, TemplateDraft, TemplateError, Templates};
