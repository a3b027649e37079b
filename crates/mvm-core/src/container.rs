//! What host and guest agree on where the guest is a container and not a VM: nothing has labels there.

/// The word after the program's name by which `mvm-guest`, as PID 1, knows where it is.
pub const ARGUMENT: &str = "container";
/// Where the guest finds the host's sockets, in a folder that it can only read.
pub const FOLDER: &str = "/run/mvm";
/// The socket over which the guest is told who it is, and whose end is the guest's end.
pub const LIFELINE: &str = "lifeline.sock";
/// The socket on which the guest announces itself.
pub const ANNOUNCE: &str = "announce.sock";
