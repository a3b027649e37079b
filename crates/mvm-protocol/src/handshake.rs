//! The handshake as two state machines without I/O: bytes in, bytes out.
//!
//! | message | layout |
//! |---|---|
//! | ClientHello | `mvm\0` · lowest version u16 · highest version u16 · nonce 32 |
//! | ServerHello | version u16 · nonce 32 · signature 64 |
//! | ClientAuth | signature 64 |
//!
//! Integers are big-endian. The guest signs `mvm guest v1\0` · ClientHello · version · nonce; the host signs
//! `mvm host v1\0` · ClientHello · ServerHello. The two labels differ so that neither side's signature can be
//! played back as the other's.

use crate::keys::{GuestKeys, HostKeys};
use ed25519_dalek::{Signature, Signer};

/// The protocol version of this build, and the only one so far.
pub const PROTOCOL_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"mvm\0";
const GUEST_LABEL: &[u8] = b"mvm guest v1\0";
const HOST_LABEL: &[u8] = b"mvm host v1\0";
const CLIENT_HELLO_LEN: usize = 40;
const SERVER_HELLO_LEN: usize = 98;
const SIGNATURE_LEN: usize = 64;

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The protocol version in force.
    pub version: u16,
}

/// Why a guest ends a handshake, as one byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// No version that both sides speak.
    Version = 1,
    /// The host's signature does not verify.
    Key = 2,
    /// Too many handshakes at once.
    Busy = 3,
    /// Not this protocol.
    Malformed = 4,
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Bytes that are no message of this protocol.
    #[error("the peer does not speak mvm's protocol")]
    Malformed,
    /// No version that both sides speak.
    #[error("no common protocol version: the peer offers {low} to {high}, this build speaks {PROTOCOL_VERSION}")]
    Version {
        /// The peer's lowest.
        low: u16,
        /// The peer's highest.
        high: u16,
    },
    /// The guest's signature does not verify: not the VM that the host made.
    #[error("the guest does not hold this VM's key")]
    GuestKey,
    /// The host's signature does not verify.
    #[error("the host does not hold this VM's key")]
    HostKey,
    /// The guest said no.
    #[error("the guest refused: {}", match .0 {
        Some(Refusal::Version) => "no common protocol version",
        Some(Refusal::Key) => "the host's key is not the one it trusts",
        Some(Refusal::Busy) => "too many unfinished handshakes",
        Some(Refusal::Malformed) => "malformed handshake",
        None => "for a reason that this build does not know",
    })]
    Refused(Option<Refusal>),
}

impl HandshakeError {
    /// What a guest tells its peer about this error.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Version { .. } => Refusal::Version,
            Self::HostKey | Self::GuestKey => Refusal::Key,
            Self::Refused(Some(r)) => *r,
            Self::Malformed | Self::Refused(None) => Refusal::Malformed,
        }
    }

    /// Reads the payload of a `Refused` frame.
    pub fn from_refused(payload: &[u8]) -> Self {
        Self::Refused(match payload {
            [1] => Some(Refusal::Version),
            [2] => Some(Refusal::Key),
            [3] => Some(Refusal::Busy),
            [4] => Some(Refusal::Malformed),
            _ => None,
        })
    }
}

/// The host's side.
pub struct HostHandshake<'k> {
    keys: &'k HostKeys,
    hello: [u8; CLIENT_HELLO_LEN],
}

impl<'k> HostHandshake<'k> {
    /// Begins with a fresh nonce; the second value is the ClientHello to send.
    pub fn new(keys: &'k HostKeys, nonce: [u8; 32]) -> (Self, [u8; CLIENT_HELLO_LEN]) {
        let mut hello = [0; CLIENT_HELLO_LEN];
        hello[..4].copy_from_slice(&MAGIC);
        hello[4..6].copy_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        hello[6..8].copy_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        hello[8..].copy_from_slice(&nonce);
        (Self { keys, hello }, hello)
    }

    /// Takes the ServerHello; gives the ClientAuth to send.
    pub fn on_server_hello(self, payload: &[u8]) -> Result<([u8; SIGNATURE_LEN], Session), HandshakeError> {
        let reply: &[u8; SERVER_HELLO_LEN] = payload.try_into().map_err(|_| HandshakeError::Malformed)?;
        let (body, signature) = reply.split_at(SERVER_HELLO_LEN - SIGNATURE_LEN);
        let signature = Signature::from_slice(signature).map_err(|_| HandshakeError::Malformed)?;
        self.keys
            .guest
            .verify_strict(&[GUEST_LABEL, &self.hello, body].concat(), &signature)
            .map_err(|_| HandshakeError::GuestKey)?;
        let version = u16::from_be_bytes([reply[0], reply[1]]);
        if version != PROTOCOL_VERSION {
            return Err(HandshakeError::Version { low: version, high: version });
        }
        let auth = self.keys.secret.sign(&[HOST_LABEL, &self.hello, reply].concat());
        Ok((auth.to_bytes(), Session { version }))
    }
}

/// The guest's side, before the ClientHello.
pub struct GuestHandshake<'k> {
    keys: &'k GuestKeys,
    nonce: [u8; 32],
}

/// The guest's side, waiting for the ClientAuth.
pub struct GuestAwaitsAuth<'k> {
    keys: &'k GuestKeys,
    signed: Vec<u8>,
    session: Session,
}

impl<'k> GuestHandshake<'k> {
    /// Begins with a fresh nonce.
    pub fn new(keys: &'k GuestKeys, nonce: [u8; 32]) -> Self {
        Self { keys, nonce }
    }

    /// Takes the ClientHello; gives the ServerHello to send.
    pub fn on_client_hello(
        self,
        payload: &[u8],
    ) -> Result<(GuestAwaitsAuth<'k>, [u8; SERVER_HELLO_LEN]), HandshakeError> {
        let hello: &[u8; CLIENT_HELLO_LEN] = payload.try_into().map_err(|_| HandshakeError::Malformed)?;
        if hello[..4] != MAGIC {
            return Err(HandshakeError::Malformed);
        }
        let low = u16::from_be_bytes([hello[4], hello[5]]);
        let high = u16::from_be_bytes([hello[6], hello[7]]);
        if low > high {
            return Err(HandshakeError::Malformed);
        }
        if !(low..=high).contains(&PROTOCOL_VERSION) {
            return Err(HandshakeError::Version { low, high });
        }
        let mut reply = [0; SERVER_HELLO_LEN];
        reply[..2].copy_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        reply[2..34].copy_from_slice(&self.nonce);
        let signature = self.keys.secret.sign(&[GUEST_LABEL, hello, &reply[..34]].concat());
        reply[34..].copy_from_slice(&signature.to_bytes());
        let signed = [HOST_LABEL, hello, &reply].concat();
        Ok((GuestAwaitsAuth { keys: self.keys, signed, session: Session { version: PROTOCOL_VERSION } }, reply))
    }
}

impl GuestAwaitsAuth<'_> {
    /// Takes the ClientAuth. Only after this may the guest read a request.
    pub fn on_client_auth(self, payload: &[u8]) -> Result<Session, HandshakeError> {
        let signature = Signature::from_slice(payload).map_err(|_| HandshakeError::Malformed)?;
        self.keys.host.verify_strict(&self.signed, &signature).map_err(|_| HandshakeError::HostKey)?;
        Ok(self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelKeys;
    use proptest::prelude::*;

    fn keys() -> (HostKeys, GuestKeys) {
        let keys = ChannelKeys::generate().unwrap();
        let guest = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();
        (keys.host().unwrap(), guest)
    }

    #[test]
    fn the_right_keys_meet() {
        let (host, guest) = keys();
        let (h, hello) = HostHandshake::new(&host, [1; 32]);
        let (g, reply) = GuestHandshake::new(&guest, [2; 32]).on_client_hello(&hello).unwrap();
        let (auth, session) = h.on_server_hello(&reply).unwrap();
        assert_eq!(g.on_client_auth(&auth), Ok(session));
    }

    #[test]
    fn another_host_is_refused() {
        let (host, guest) = keys();
        let stranger = HostKeys { secret: keys().0.secret, guest: host.guest };
        let (h, hello) = HostHandshake::new(&stranger, [1; 32]);
        let (g, reply) = GuestHandshake::new(&guest, [2; 32]).on_client_hello(&hello).unwrap();
        let (auth, _) = h.on_server_hello(&reply).unwrap();
        assert_eq!(g.on_client_auth(&auth), Err(HandshakeError::HostKey));
    }

    #[test]
    fn another_guest_is_refused() {
        let (host, _) = keys();
        let (_, impostor) = keys();
        let (h, hello) = HostHandshake::new(&host, [1; 32]);
        let (_, reply) = GuestHandshake::new(&impostor, [2; 32]).on_client_hello(&hello).unwrap();
        assert_eq!(h.on_server_hello(&reply).unwrap_err(), HandshakeError::GuestKey);
    }

    #[test]
    fn a_recorded_conversation_is_worth_nothing() {
        let (host, guest) = keys();
        let (h, hello) = HostHandshake::new(&host, [1; 32]);
        let (_, reply) = GuestHandshake::new(&guest, [2; 32]).on_client_hello(&hello).unwrap();
        let (auth, _) = h.on_server_hello(&reply).unwrap();
        // To the guest: the same hello and auth, against a fresh guest nonce.
        let (g, _) = GuestHandshake::new(&guest, [3; 32]).on_client_hello(&hello).unwrap();
        assert_eq!(g.on_client_auth(&auth), Err(HandshakeError::HostKey));
        // To the host: the same reply, against a fresh host nonce.
        let (h, _) = HostHandshake::new(&host, [4; 32]);
        assert_eq!(h.on_server_hello(&reply).unwrap_err(), HandshakeError::GuestKey);
    }

    #[test]
    fn versions_that_do_not_meet_are_named() {
        let (_, guest) = keys();
        let mut hello = [0; CLIENT_HELLO_LEN];
        hello[..8].copy_from_slice(b"mvm\0\0\x02\0\x07");
        let error = GuestHandshake::new(&guest, [0; 32]).on_client_hello(&hello).err();
        assert_eq!(error, Some(HandshakeError::Version { low: 2, high: 7 }));
        // A later host that still speaks version 1 is served.
        hello[..8].copy_from_slice(b"mvm\0\0\x01\0\x07");
        assert!(GuestHandshake::new(&guest, [0; 32]).on_client_hello(&hello).is_ok());
    }

    proptest! {
        #[test]
        fn one_flipped_bit_anywhere_ends_it(bit in 0usize..(CLIENT_HELLO_LEN - 8 + SERVER_HELLO_LEN + SIGNATURE_LEN) * 8) {
            let (host, guest) = keys();
            let (at, mask) = (bit / 8 + 8, 1u8 << (bit % 8));
            let (h, mut hello) = HostHandshake::new(&host, [1; 32]);
            if at < CLIENT_HELLO_LEN { hello[at] ^= mask; }
            let (g, mut reply) = GuestHandshake::new(&guest, [2; 32]).on_client_hello(&hello).unwrap();
            if let Some(b) = at.checked_sub(CLIENT_HELLO_LEN).and_then(|i| reply.get_mut(i)) { *b ^= mask; }
            let Ok((mut auth, _)) = h.on_server_hello(&reply) else { return Ok(()) };
            if let Some(b) = at.checked_sub(CLIENT_HELLO_LEN + SERVER_HELLO_LEN).and_then(|i| auth.get_mut(i)) { *b ^= mask; }
            prop_assert!(g.on_client_auth(&auth).is_err());
        }

        #[test]
        fn no_bytes_panic(hello: Vec<u8>, reply: Vec<u8>, auth: Vec<u8>) {
            let (host, guest) = keys();
            let _ = GuestHandshake::new(&guest, [0; 32]).on_client_hello(&hello);
            let (h, good) = HostHandshake::new(&host, [0; 32]);
            let _ = h.on_server_hello(&reply);
            let (g, _) = GuestHandshake::new(&guest, [0; 32]).on_client_hello(&good).unwrap();
            prop_assert!(g.on_client_auth(&auth).is_err());
        }
    }
}
