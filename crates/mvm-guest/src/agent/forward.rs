//! Connections of the host to a TCP port of the guest's loopback.

use super::refuse;
use super::stream::Stream;
use mvm_protocol::{Channel, ChannelError, ErrorCode, FrameType, RequestError, Response, relay};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Bytes of buffer. There may be hundreds of these.
const BUFFER: usize = 16 * 1024;
/// How long the host may take to close after both directions have ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Connects and passes bytes on until both directions have ended. The end of one is passed on by itself.
pub(super) async fn forward(mut channel: Channel<Stream>, port: u16) -> Result<(), ChannelError> {
    let tcp = match connect(port).await {
        Ok(tcp) => tcp,
        Err(error) => return refuse(&mut channel, error).await,
    };
    // Whoever forwards has batched already; an interactive protocol should not wait.
    let _ = tcp.set_nodelay(true);
    channel.send_json(FrameType::Response, &Response::Ok).await?;
    // The host closes first: what is under way to it is not cut off by our close.
    let mut rest = relay(channel, tcp, BUFFER).await?.into_inner();
    let _ = tokio::time::timeout(CLOSE_DEADLINE, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

async fn connect(port: u16) -> Result<TcpStream, RequestError> {
    let mut refused = None;
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()] {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            // The first is why; a guest without IPv6 says something else to the second.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let error = refused.unwrap_or_else(|| io::ErrorKind::NotConnected.into());
    Err(match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            RequestError::new(ErrorCode::NotFound, format!("nothing listens on port {port} of the guest"))
        }
        _ => RequestError::new(ErrorCode::Failed, format!("cannot connect to port {port} of the guest: {error}")),
    })
}
