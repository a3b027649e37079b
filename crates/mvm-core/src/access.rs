//! What a guest lets its host do: the policy that the agent enforces.

use serde::{Deserialize, Serialize};

/// Which operations the guest's agent serves. Closed unless opened: every field defaults to `false`.
///
/// The enforcing copy lies inside the rootfs (`/etc/mvm/guest.json`); the one in `image.json` is for display.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessPolicy {
    /// An interactive session on a PTY.
    pub console: bool,
    /// Running commands.
    pub exec: bool,
    /// Copying files in and out.
    pub files: bool,
    /// Forwarding TCP connections to ports in the guest.
    pub forward: bool,
}

impl AccessPolicy {
    /// Everything open: the built-in image and development images.
    pub const OPEN: Self = Self { console: true, exec: true, files: true, forward: true };
}
