//! What a VM is doing: the words of the state machine and the record that its supervisor keeps.
//!
//! ```text
//! Created ─→ Starting ─→ Booted ─→ Ready ⇄ Degraded
//!               │           │        │ ⇅ Paused
//!               ├─→ Running (a guest without mvm's agent, ⇅ Paused)
//!               └───────────┴────────┴──→ Stopping ─→ Stopped | Failed
//! ```

use crate::{Fault, Hypervisor, PortForward};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Written down, never started.
    Created,
    /// Its supervisor prepares drives and starts the VMM.
    Starting,
    /// The guest's agent listens.
    Booted,
    /// The agent proved who it is and the guest's services are up.
    Ready,
    /// Ready before, but a service or health check fails now.
    Degraded,
    /// Its VMM runs; how the guest is, nobody tells, for it has no agent of mvm.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// Asked to power off.
    Stopping,
    /// Ended as asked, or powered off by itself.
    Stopped,
    /// Ended in a way nobody asked for.
    Failed,
}

impl VmState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Starting,
        Self::Booted,
        Self::Ready,
        Self::Degraded,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    /// Whether a supervisor owns a VM in this state.
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Created | Self::Stopped | Self::Failed)
    }

    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Booted => "booted",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ExitReason {
    /// Someone asked for it and the guest powered off in order.
    Requested,
    /// Someone asked for it, and the VMM was ended without the guest's consent.
    Killed,
    /// The guest powered off by itself.
    GuestPoweredOff,
    /// The kernel of the guest panicked or the VMM ended by itself.
    Crashed {
        /// What was seen.
        detail: String,
    },
    /// It never became ready.
    BootFailed,
    /// Its supervisor died; found by the next command.
    SupervisorDied,
}

/// A step of a boot, in the guest's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPhase {
    /// `init`, `agent`, …
    pub name: String,
    /// Microseconds since the guest's kernel started its clock.
    pub at_us: u64,
}

/// `state.json`: what the supervisor last wrote. Whether it still lives is told by its lock, never by this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRecord {
    /// The state.
    pub state: VmState,
    /// Milliseconds since the epoch when the state was entered.
    #[serde(default)]
    pub since_ms: u64,
    /// The supervisor's process.
    #[serde(default)]
    pub supervisor_pid: Option<u32>,
    /// The VMM's process.
    #[serde(default)]
    pub vmm_pid: Option<u32>,
    /// The hypervisor in use.
    #[serde(default)]
    pub hypervisor: Option<Hypervisor>,
    /// The guest's context id, where its vsock device is the kernel's.
    #[serde(default)]
    pub vsock_cid: Option<u32>,
    /// How its vCPUs run: `kvm` or `tcg`; `container` where they are the host's, under the host's kernel.
    #[serde(default)]
    pub accelerator: Option<String>,
    /// The kernel command line it was started with.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// Milliseconds since the epoch when this start began.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// Milliseconds from the start of the VMM to readiness.
    #[serde(default)]
    pub boot_ms: Option<u64>,
    /// Steps of the boot as the guest measured them.
    #[serde(default)]
    pub phases: Vec<BootPhase>,
    /// Ports in force, with the host ports that were really bound.
    #[serde(default)]
    pub ports: Vec<PortForward>,
    /// Why it ended.
    #[serde(default)]
    pub exit: Option<ExitReason>,
    /// What went wrong.
    #[serde(default)]
    pub fault: Option<Fault>,
}

impl VmRecord {
    /// A record with nothing known but the state.
    pub fn new(state: VmState) -> Self {
        Self {
            state,
            since_ms: 0,
            supervisor_pid: None,
            vmm_pid: None,
            hypervisor: None,
            vsock_cid: None,
            accelerator: None,
            cmdline: None,
            started_ms: None,
            boot_ms: None,
            phases: Vec::new(),
            ports: Vec::new(),
            exit: None,
            fault: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let record: VmRecord = serde_json::from_str(r#"{"state":"ready"}"#).unwrap();
        assert_eq!(record, VmRecord::new(VmState::Ready));
    }

    #[test]
    fn words_are_the_serialized_ones() {
        for state in VmState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }
}
