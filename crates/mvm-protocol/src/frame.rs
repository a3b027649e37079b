//! Frames: a big-endian length, a type, a payload.

/// Bytes of a frame's header: 4 of payload length, 1 of type.
pub const HEADER_LEN: usize = 5;
/// Most bytes in a payload after the handshake.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Most bytes in a payload before the handshake has ended.
pub const MAX_UNAUTHENTICATED: usize = 256;
/// Bytes of data that a sender puts into one frame.
pub const CHUNK: usize = 128 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Host → guest: opens the handshake.
    ClientHello = 0x01,
    /// Guest → host: proves which VM it is.
    ServerHello = 0x02,
    /// Host → guest: proves that it is the VM's host.
    ClientAuth = 0x03,
    /// Guest → host, instead of the above: one byte, a [`crate::Refusal`].
    Refused = 0x04,
    /// Host → guest: a [`crate::Request`] as JSON.
    Request = 0x10,
    /// Guest → host: a [`crate::Response`] as JSON.
    Response = 0x11,
    /// Host → guest: bytes of standard input; empty at its end.
    Stdin = 0x20,
    /// Guest → host: bytes of standard output, or of a terminal.
    Stdout = 0x21,
    /// Guest → host: bytes of standard error.
    Stderr = 0x22,
    /// Host → guest: a [`crate::Control`] as JSON.
    Control = 0x23,
    /// Guest → host: this many more bytes of standard input may be sent (4 bytes, big-endian).
    Credit = 0x24,
    /// Guest → host: an [`crate::ExitStatus`] as JSON; nothing follows.
    Exit = 0x25,
    /// Either way: bytes of an archive, or of a forwarded connection (empty at the end of a direction).
    Data = 0x30,
    /// Either way: the archive is complete; a [`crate::TransferSummary`] as JSON.
    End = 0x31,
    /// Either way: the sender could not go on; a [`crate::RequestError`] as JSON.
    Abort = 0x32,
    /// Guest → host: a [`crate::GuestStatus`] as JSON.
    Status = 0x40,
}

impl FrameType {
    const ALL: [Self; 16] = [
        Self::ClientHello,
        Self::ServerHello,
        Self::ClientAuth,
        Self::Refused,
        Self::Request,
        Self::Response,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Control,
        Self::Credit,
        Self::Exit,
        Self::Data,
        Self::End,
        Self::Abort,
        Self::Status,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == byte)
    }
}

/// A frame that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameType,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A type byte that this version does not know.
    #[error("unknown frame type {0:#04x}")]
    Type(u8),
    /// A length over the limit that holds at this point.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What the header says.
        length: usize,
        /// The limit in force.
        limit: usize,
    },
}

/// A frame's header, checked before a byte of payload is read or room for it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameType,
    /// Bytes of payload that follow.
    pub length: usize,
}

impl FrameHeader {
    /// Reads a header under a limit on the payload's length.
    pub fn parse(bytes: [u8; HEADER_LEN], limit: usize) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let kind = FrameType::from_byte(kind).ok_or(FrameError::Type(kind))?;
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        Ok(Self { kind, length })
    }

    /// The header's bytes. `length` has been checked against [`MAX_PAYLOAD`] by whoever made the payload.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = (self.length as u32).to_be_bytes();
        [a, b, c, d, self.kind as u8]
    }
}

/// Appends a frame to `out`, refusing a payload over [`MAX_PAYLOAD`].
pub fn encode(kind: FrameType, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::TooLong { length: payload.len(), limit: MAX_PAYLOAD });
    }
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&FrameHeader { kind, length: payload.len() }.to_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_read_back(kind in 0..FrameType::ALL.len(), length in 0..=MAX_PAYLOAD) {
            let header = FrameHeader { kind: FrameType::ALL[kind], length };
            prop_assert_eq!(FrameHeader::parse(header.to_bytes(), MAX_PAYLOAD), Ok(header));
        }

        #[test]
        fn no_header_panics_or_passes_its_limit(bytes: [u8; HEADER_LEN], limit in 0..=MAX_PAYLOAD) {
            if let Ok(header) = FrameHeader::parse(bytes, limit) {
                prop_assert!(header.length <= limit);
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_never_sent() {
        let mut out = Vec::new();
        assert!(encode(FrameType::Data, &vec![0; MAX_PAYLOAD + 1], &mut out).is_err());
        assert!(out.is_empty());
    }
}
