//! `mvm-guest`: stage 1, init and agent of an mvm guest, in one static binary.
//!
//! | started as | it is |
//! |---|---|
//! | PID 1 | stage 1 (finds the drives, builds the root), then init and agent, or the init that the image names |
//! | PID 1, `mvm-guest container` | init and agent of a container |
//! | `mvm-guest agent --listen vsock` | the agent alone, beside such an init |

#[cfg(target_os = "linux")]
mod agent;
#[cfg(target_os = "linux")]
mod context;
#[cfg(target_os = "linux")]
mod documents;
#[cfg(target_os = "linux")]
mod drives;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod stage1;
#[cfg(target_os = "linux")]
mod standalone;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if rustix::process::getpid().is_init() {
        init::main()
    }
    standalone::main()
}

/// Elsewhere than on Linux there are no guests to be init of.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
