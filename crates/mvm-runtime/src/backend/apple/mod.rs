//! Apple's Virtualization.framework, in the supervisor's own process: the framework runs each VM in a service of its own,
//! which ends with the process that asked for it.
//!
//! What a VM is made of (`configuration`) and how other processes reach its guest (`hybrid`) is portable, and tested
//! everywhere; only `machine` and `vz` know the framework.

#[cfg(any(target_os = "macos", test))]
mod configuration;
#[cfg(any(target_os = "macos", test))]
mod hybrid;
#[cfg(target_os = "macos")]
mod machine;
#[cfg(target_os = "macos")]
mod vz;

#[cfg(not(target_os = "macos"))]
pub use super::absent::{Absent as Apple, Absent as Vmm};
#[cfg(target_os = "macos")]
pub use machine::{Apple, Vmm};
#[cfg(target_os = "macos")]
pub use vz::mac_host;
