//! The host-guest wire before and after authentication.

use mvm_core::{GuestConfig, GuestManifest};
use mvm_protocol::{
    ChannelError, ChannelKeys, Control, ExitStatus, FrameHeader, GuestHandshake, GuestKeys, GuestStatus, HEADER_LEN,
    HostHandshake, HostKeys, MAX_PAYLOAD, MAX_UNAUTHENTICATED, Request, RequestError, Response, TransferSummary,
    accept, connect,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};

static KEYS: LazyLock<(HostKeys, GuestKeys)> = LazyLock::new(|| {
    let keys = ChannelKeys::generate().expect("random bytes");
    let public = keys.host_public_hex().expect("a key just made");
    let guest = GuestKeys::from_hex(keys.guest_secret_hex(), &public).expect("a key just made");
    (keys.host().expect("a key just made"), guest)
});

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

/// A peer that knows no key sends these bytes: nobody is let in, nothing over the limit is read.
pub fn frame(data: &[u8]) {
    for limit in [0, MAX_UNAUTHENTICATED, MAX_PAYLOAD] {
        if let Some(header) = data.first_chunk::<HEADER_LEN>()
            && let Ok(parsed) = FrameHeader::parse(*header, limit)
        {
            assert!(parsed.length <= limit);
            assert_eq!(&parsed.to_bytes(), header);
        }
    }
    let (host, guest) = &*KEYS;
    assert!(HostHandshake::new(host, [0; 32]).0.on_server_hello(data).is_err());
    if let Ok((awaits, _)) = GuestHandshake::new(guest, [0; 32]).on_client_hello(data) {
        assert!(awaits.on_client_auth(data.get(..64).unwrap_or_default()).is_err());
    }
    let mut rest = data;
    let accepted = RUNTIME.block_on(accept(tokio::io::join(&mut rest, tokio::io::sink()), guest));
    assert!(accepted.is_err(), "let in");
    // At most two frames are read, neither over the limit.
    assert!(data.len() - rest.len() <= 2 * (HEADER_LEN + MAX_UNAUTHENTICATED));
    let connected = RUNTIME.block_on(connect(tokio::io::join(data, tokio::io::sink()), host));
    assert!(!matches!(connected, Err(ChannelError::Deadline)) && connected.is_err());
}

/// Messages as JSON: what is read is written as something that reads as the same.
pub fn message(data: &[u8]) {
    again::<Request>(data);
    again::<Response>(data);
    again::<Control>(data);
    again::<ExitStatus>(data);
    again::<RequestError>(data);
    again::<TransferSummary>(data);
    again::<GuestStatus>(data);
    again::<GuestConfig>(data);
    again::<GuestManifest>(data);
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let written = serde_json::to_vec(&value).expect("plain data");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("what was just written"), value);
    }
}
