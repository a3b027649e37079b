//! TCP ports as byte streams.

use crate::exec::join_all;
use crate::harness::{Agent, within};
use mvm_protocol::{ChannelError, ErrorCode, Request, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

async fn forward(agent: &Agent, port: u16) -> UnixStream {
    let channel = agent.request(&Request::Forward { port }).await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(relay(channel, theirs, 16 * 1024));
    ours
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_alone() {
    let agent = Agent::start();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            // The whole question first: only its end makes the answer.
            let mut question = Vec::new();
            tcp.read_to_end(&mut question).await.unwrap();
            tcp.write_all(&question.repeat(3)).await.unwrap();
        };
        let ask = async {
            let mut stream = forward(&agent, port).await;
            stream.write_all(&vec![b'q'; 1_000_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, vec![b'q'; 3_000_000]);
        };
        within(async { tokio::join!(serve, ask) }).await;
    }
}

#[tokio::test]
async fn the_guest_may_end_first() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = forward(&agent, listener.local_addr().unwrap().port()).await;
    let (mut tcp, _) = within(listener.accept()).await.unwrap();
    tcp.write_all(b"greeting").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut greeting = Vec::new();
    within(stream.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"greeting");
    stream.write_all(b"thanks").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut thanks = Vec::new();
    within(tcp.read_to_end(&mut thanks)).await.unwrap();
    assert_eq!(thanks, b"thanks");
}

#[tokio::test]
async fn a_host_that_goes_away_closes_the_connection() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let channel = agent.request(&Request::Forward { port }).await.unwrap();
    let (mut tcp, _) = within(listener.accept()).await.unwrap();
    drop(channel);
    assert_eq!(within(tcp.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_service_that_breaks_off_is_told_from_one_that_ends() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let channel = agent.request(&Request::Forward { port }).await.unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let relayed = tokio::spawn(relay(channel, theirs, 1024));
    let (mut tcp, _) = within(listener.accept()).await.unwrap();
    tcp.write_all(b"half a senten").await.unwrap();
    let mut heard = [0; 13];
    within(ours.read_exact(&mut heard)).await.unwrap();
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    assert!(matches!(within(relayed).await.unwrap(), Err(ChannelError::Refused(_))));
}

#[tokio::test]
async fn a_port_without_a_listener_is_named() {
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = agent.refused(&Request::Forward { port }).await;
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.message.contains(&format!("port {port}")), "{error}");
}

#[tokio::test]
async fn five_hundred_at_once() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let agent = Agent::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
        }
    });
    let before = agent.resident();
    let mut streams = Vec::new();
    for _ in 0..500 {
        streams.push(within(forward(&agent, port)).await);
    }
    let talks = streams.iter_mut().enumerate().map(|(i, stream)| {
        Box::pin(async move {
            let words = format!("number {i} ").repeat(100);
            stream.write_all(words.as_bytes()).await.unwrap();
            let mut echo = vec![0; words.len()];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, words.as_bytes());
        })
    });
    within(join_all(talks.collect())).await;
    let each = agent.resident().saturating_sub(before) / 500;
    assert!(each < 40, "{each} KiB a connection");
    server.abort();
}
