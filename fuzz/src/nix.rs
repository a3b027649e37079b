//! Nix's event stream.

use mvm_nix::{ProgressState, parse_line};

/// No line of the stream panics, alone or after others.
pub fn nix_events(data: &[u8]) {
    let mut progress = ProgressState::default();
    for line in data.split(|byte| *byte == b'\n') {
        progress.apply(&parse_line(line));
    }
    let _ = progress.snapshot();
}
