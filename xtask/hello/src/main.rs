//! The least that a guest can be: what mvm's own guest is measured against.
//!
//! | started as | it does |
//! |---|---|
//! | PID 1 | loads the modules of its initrd, sends one byte to the host, waits for its end |
//! | `serve PORT` | on each connection what [`linux::serve`] says, without frames, keys or checks |
//! | `nothing` | nothing: the process that `serve` starts |

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

/// Elsewhere than on Linux there are no guests.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
