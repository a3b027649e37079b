//! The host-guest wire: frames, the Ed25519 handshake, messages, and the archive stream of `cp`.
//!
//! One connection is one operation. Whoever opened it, **the host speaks first**:
//!
//! ```text
//! host                                          guest
//!  │ ClientHello  magic, versions, nonce     ─→  │
//!  │ ←─  ServerHello  version, nonce, signature  │   proves which VM it is
//!  │ ClientAuth   signature                  ─→  │   proves that it is its host
//!  │ Request      JSON                       ─→  │   nothing is read before the line above holds
//!  │ ←─  Response     JSON                       │
//!  │ ⇄   the operation, in frames                │
//! ```
//!
//! Both signatures cover the whole transcript so far, with fresh nonces of both sides in it, so that a recorded
//! conversation is worth nothing. The stream is not encrypted: it never leaves the machine, and the transports
//! (vsock, a 0600 Unix socket) are readable by nobody else. Before the handshake ends at most
//! [`MAX_UNAUTHENTICATED`] bytes a frame are read, under one deadline.

mod channel;
mod frame;
mod handshake;
mod keys;
#[cfg(target_os = "linux")]
pub mod lifeline;
mod message;
mod relay;
pub mod transfer;

pub use channel::{Channel, ChannelError, HANDSHAKE_DEADLINE, Reader, Writer, accept, connect};
pub use frame::{
    CHUNK, Frame, FrameError, FrameHeader, FrameType, HEADER_LEN, MAX_PAYLOAD, MAX_UNAUTHENTICATED, encode,
};
pub use handshake::{GuestHandshake, HandshakeError, HostHandshake, PROTOCOL_VERSION, Refusal, Session};
pub use keys::{ChannelKeys, GuestKeys, HostKeys, KeyError};
pub use message::{
    ConsoleRequest, Control, ErrorCode, ExecRequest, ExitStatus, GuestStatus, HealthStatus, PullRequest, PushRequest,
    Request, RequestError, Response, STDIN_WINDOW, ServiceState, ServiceStatus, TerminalSize, TransferSummary,
};
pub use relay::relay;

/// The vsock port on which the guest's agent listens.
pub const AGENT_PORT: u32 = 17_177;

/// The vsock port of the host (CID 2) to which the guest opens one channel when its agent listens.
/// The host uses it for [`Request::Watch`], so readiness arrives without anybody polling.
/// Where the device is one VM's own (vhost-user, Firecracker), the guest has CID 3 and this is the port.
pub const ANNOUNCE_PORT: u32 = 17_178;

/// The guest's CID where the vsock device is its VM's own.
pub const OWN_DEVICE_CID: u32 = 3;

/// The host's port for the announcement of the guest with this CID. The kernel's device has one set of ports for all
/// VMs: there each VM announces itself at the port that has its CID's number.
pub const fn announce_port(cid: u32) -> u32 {
    if cid == OWN_DEVICE_CID { ANNOUNCE_PORT } else { cid }
}
