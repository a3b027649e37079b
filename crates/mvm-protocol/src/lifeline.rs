//! What a guest that is a container gets from its host: one connection, held for as long as both live.
//!
//! ```text
//! host                                              guest (PID 1)
//!  │ ←─  connects                                    │
//!  │ length (u32, big-endian), and with it, as       │
//!  │ SCM_RIGHTS, the socket that the agent serves ─→ │
//!  │ config.json                                  ─→ │
//!  │ nothing more; its end is the guest's end        │
//! ```
//!
//! A VM is a child of its supervisor and dies with it; a container is the child of somebody else, so this connection
//! stands for that. And since the host makes the agent's socket, the guest can write to no folder of the host, and the
//! host connects to nothing that a guest has put there.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most bytes of a configuration.
pub const MOST: usize = 1 << 20;

/// Gives a guest its configuration and the listening socket of its agent.
pub fn send(mut stream: &UnixStream, config: &[u8], agent: BorrowedFd<'_>) -> io::Result<()> {
    let length = u32::try_from(config.len()).ok().filter(|n| *n as usize <= MOST).ok_or(io::ErrorKind::FileTooLarge)?;
    let agent = [agent];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&agent));
    let length = length.to_be_bytes();
    match sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)? {
        sent if sent == length.len() => stream.write_all(config),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Takes a configuration and the listening socket of the agent.
pub fn receive(mut stream: &UnixStream) -> io::Result<(Vec<u8>, OwnedFd)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let agent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    stream.read_exact(&mut length[got.bytes..])?;
    let length = u32::from_be_bytes(length) as usize;
    let (Some(agent), ..=MOST) = (agent, length) else { return Err(io::ErrorKind::InvalidData.into()) };
    let mut config = vec![0; length];
    stream.read_exact(&mut config)?;
    Ok((config, agent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_configuration_and_a_socket_cross() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        // More than a socket holds at once.
        let config = vec![7; MOST];
        let (host, guest) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| send(&host, &config, listener.as_fd()));
            let (got, agent) = receive(&guest).unwrap();
            assert!(got == config);
            sent.join().unwrap().unwrap();
            let _client = UnixStream::connect(&path).unwrap();
            UnixListener::from(agent).accept().unwrap();
        });
        assert_eq!(send(&host, &vec![0; MOST + 1], listener.as_fd()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for said in [&b""[..], b"\0\0", b"\0\0\0\x01x", b"\xff\xff\xff\xff"] {
            let (mut host, guest) = UnixStream::pair().unwrap();
            host.write_all(said).unwrap();
            drop(host);
            assert!(receive(&guest).is_err(), "{said:?}");
        }
    }
}
