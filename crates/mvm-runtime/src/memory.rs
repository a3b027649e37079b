//! How much memory a VM may have here.

use mvm_core::{Diagnostic, ErrorKind, MemorySize};

/// More memory than this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the VM is to have {asked} of memory; this machine has {host_mib} MiB in all")]
pub struct MemoryError {
    asked: MemorySize,
    host_mib: u64,
}

impl Diagnostic for MemoryError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("make the VM with less, as in --memory 512M".into())
    }
}

/// Refuses a VM that could not even have this machine to itself. What is free now does not count: guests take memory as
/// they use it, and the host may swap.
pub fn check_memory(asked: MemorySize) -> Result<(), MemoryError> {
    host_mib().map_or(Ok(()), |host_mib| judge(asked, host_mib))
}

#[cfg(target_os = "linux")]
fn host_mib() -> Option<u64> {
    let host = rustix::system::sysinfo();
    // Both are as wide as a C long, but not the same type everywhere.
    let bytes = u128::from(host.totalram) * u128::from(host.mem_unit);
    Some((bytes >> 20) as u64)
}

/// Elsewhere the hypervisor has to tell.
#[cfg(not(target_os = "linux"))]
fn host_mib() -> Option<u64> {
    None
}

fn judge(asked: MemorySize, host_mib: u64) -> Result<(), MemoryError> {
    if asked.mib() > host_mib { Err(MemoryError { asked, host_mib }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_machine_is_allowed_and_no_more() {
        let asked = MemorySize::from_mib(1024).unwrap();
        assert_eq!(judge(asked, 1024), Ok(()));
        let error = judge(asked, 1023).unwrap_err();
        assert_eq!(error.to_string(), "the VM is to have 1G of memory; this machine has 1023 MiB in all");
        check_memory(MemorySize::MIN).unwrap();
        assert_eq!(check_memory(MemorySize::MAX).is_err(), host_mib().is_some());
    }
}
