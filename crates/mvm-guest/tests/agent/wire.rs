//! Who is let in, what is read before that, and what the policy says.

use crate::harness::{Agent, argv, within};
use mvm_protocol::{
    ChannelError, ChannelKeys, ConsoleRequest, ErrorCode, ExecRequest, FrameHeader, FrameType, GuestStatus, HEADER_LEN,
    HandshakeError, HostHandshake, HostKeys, MAX_PAYLOAD, MAX_UNAUTHENTICATED, PullRequest, PushRequest, Refusal,
    Request, connect, encode,
};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

async fn read_frame(stream: &mut UnixStream) -> Option<(FrameType, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    within(stream.read_exact(&mut header)).await.ok()?;
    let header = FrameHeader::parse(header, MAX_PAYLOAD).unwrap();
    let mut payload = vec![0; header.length];
    within(stream.read_exact(&mut payload)).await.ok()?;
    Some((header.kind, payload))
}

async fn write_frame(stream: &mut UnixStream, kind: FrameType, payload: &[u8]) {
    let mut frame = Vec::new();
    encode(kind, payload, &mut frame).unwrap();
    stream.write_all(&frame).await.unwrap();
}

/// Whether the agent closes without another byte.
async fn closes(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    rest.is_empty()
}

/// Keys of which one side is the agent's own and the other is not.
fn strangers(agent: &Agent) -> (HostKeys, HostKeys) {
    let keys = |host: &str, guest: &str| {
        let keys: ChannelKeys =
            serde_json::from_value(json!({"hostSecretKey": host, "guestSecretKey": guest})).unwrap();
        keys.host().unwrap()
    };
    let other = "77".repeat(32);
    (keys(&other, &agent.guest_secret), keys(&other, &other))
}

#[tokio::test]
async fn a_wrong_key_is_refused_on_either_side() {
    let agent = Agent::start();
    let (wrong_host, wrong_guest) = strangers(&agent);
    let mut channel = connect(agent.raw().await, &wrong_host).await.unwrap();
    let refused = channel.request(&Request::Ping).await;
    assert!(
        matches!(refused, Err(ChannelError::Handshake(HandshakeError::Refused(Some(Refusal::Key))))),
        "{refused:?}"
    );
    let refused = connect(agent.raw().await, &wrong_guest).await;
    assert!(matches!(refused, Err(ChannelError::Handshake(HandshakeError::GuestKey))));
    agent.request(&Request::Ping).await.unwrap();
}

#[tokio::test]
async fn a_replayed_conversation_is_refused() {
    let agent = Agent::start();
    let marker = agent.dir.path().join("marker");
    let request = Request::Exec(ExecRequest {
        argv: argv(&["sh", "-c", "echo x >> $0", marker.to_str().unwrap()]),
        ..Default::default()
    });
    let request = serde_json::to_vec(&request).unwrap();

    // A good conversation, every byte of the host's side kept.
    let mut stream = agent.raw().await;
    let (host, hello) = HostHandshake::new(&agent.keys, [7; 32]);
    write_frame(&mut stream, FrameType::ClientHello, &hello).await;
    let (_, reply) = read_frame(&mut stream).await.unwrap();
    let (auth, _) = host.on_server_hello(&reply).unwrap();
    write_frame(&mut stream, FrameType::ClientAuth, &auth).await;
    write_frame(&mut stream, FrameType::Request, &request).await;
    while let Some((kind, _)) = read_frame(&mut stream).await {
        if kind == FrameType::Exit {
            break;
        }
    }
    drop(stream);
    assert_eq!(std::fs::read(&marker).unwrap(), b"x\n");

    // The same bytes again.
    let mut stream = agent.raw().await;
    write_frame(&mut stream, FrameType::ClientHello, &hello).await;
    write_frame(&mut stream, FrameType::ClientAuth, &auth).await;
    write_frame(&mut stream, FrameType::Request, &request).await;
    assert_eq!(read_frame(&mut stream).await.unwrap().0, FrameType::ServerHello);
    assert_eq!(read_frame(&mut stream).await.unwrap(), (FrameType::Refused, vec![Refusal::Key as u8]));
    assert!(closes(&mut stream).await);
    assert_eq!(std::fs::read(&marker).unwrap(), b"x\n");
}

#[tokio::test]
async fn a_request_without_a_handshake_is_refused() {
    let agent = Agent::start();
    let mut stream = agent.raw().await;
    write_frame(&mut stream, FrameType::Request, br#"{"op":"ping"}"#).await;
    assert_eq!(read_frame(&mut stream).await.unwrap(), (FrameType::Refused, vec![Refusal::Malformed as u8]));
    assert!(closes(&mut stream).await);
}

#[tokio::test]
async fn oversized_frames_are_refused_by_their_header() {
    let agent = Agent::start();
    let header = |kind: FrameType, length: usize| FrameHeader { kind, length }.to_bytes();
    let mut stream = agent.raw().await;
    stream.write_all(&header(FrameType::ClientHello, MAX_UNAUTHENTICATED + 1)).await.unwrap();
    assert!(closes(&mut stream).await);
    let mut stream = agent.channel().await.into_stream();
    stream.write_all(&header(FrameType::Request, MAX_PAYLOAD + 1)).await.unwrap();
    assert!(closes(&mut stream).await);
    agent.request(&Request::Ping).await.unwrap();
}

#[tokio::test]
async fn truncated_frames_end_their_connection_only() {
    let agent = Agent::start();
    for cut in [1, HEADER_LEN, 20] {
        let mut frame = Vec::new();
        encode(FrameType::ClientHello, &[0; 40], &mut frame).unwrap();
        let mut stream = agent.raw().await;
        stream.write_all(&frame[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(closes(&mut stream).await);
        let mut stream = agent.channel().await.into_stream();
        frame.clear();
        encode(FrameType::Request, br#"{"op":"ping"}          "#, &mut frame).unwrap();
        stream.write_all(&frame[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(closes(&mut stream).await);
    }
    agent.request(&Request::Ping).await.unwrap();
}

#[tokio::test]
async fn idle_strangers_do_not_keep_the_host_out() {
    let agent = Agent::start();
    let mut strangers = Vec::new();
    for _ in 0..16 {
        let mut stream = agent.raw().await;
        stream.write_all(&[0, 0]).await.unwrap();
        strangers.push(stream);
    }
    let start = Instant::now();
    agent.request(&Request::Ping).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The oldest was told to give way; the others are still there.
    let mut oldest = strangers.remove(0);
    assert_eq!(read_frame(&mut oldest).await.unwrap(), (FrameType::Refused, vec![Refusal::Busy as u8]));
    assert!(closes(&mut oldest).await);
    for _ in 0..64 {
        strangers.push(agent.raw().await);
    }
    agent.request(&Request::Ping).await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let agent = Agent::start();
    let start = Instant::now();
    let before = async {
        let mut stream = agent.raw().await;
        stream.write_all(&[0, 0, 0]).await.unwrap();
        assert!(closes(&mut stream).await);
    };
    let after = async {
        let mut stream = agent.channel().await.into_stream();
        assert!(closes(&mut stream).await);
    };
    // One byte now and then is as good as nothing.
    let dripping = async {
        let mut stream = agent.channel().await.into_stream();
        let (mut read, mut write) = stream.split();
        let drip = async {
            let mut tick = tokio::time::interval(Duration::from_secs(2));
            loop {
                tick.tick().await;
                if write.write_all(&[0]).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut byte = [0];
        tokio::select! {
            read = within(read.read(&mut byte)) => assert!(matches!(read, Ok(0) | Err(_))),
            () = drip => {}
        }
    };
    tokio::join!(before, after, dripping);
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test]
async fn requests_that_are_none_are_answered() {
    let agent = Agent::start();
    for (text, code) in [
        (&br#"{"op":"teleport"}"#[..], "unsupported"),
        (br#"{"op":"forward","port":70000}"#, "invalid"),
        (b"\xff\xfe", "invalid"),
        (b"", "invalid"),
    ] {
        let mut channel = agent.channel().await;
        channel.send(FrameType::Request, text).await.unwrap();
        let answer = channel.receive().await.unwrap().unwrap();
        let answer: serde_json::Value = answer.json(FrameType::Response).unwrap();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    let mut channel = agent.channel().await;
    channel.send(FrameType::Stdin, b"x").await.unwrap();
    assert!(closes(&mut channel.into_stream()).await);
}

/// One request for each word of the policy.
fn guarded() -> Vec<(&'static str, Request)> {
    vec![
        ("exec", Request::Exec(ExecRequest { argv: argv(&["true"]), ..Default::default() })),
        ("console", Request::Console(ConsoleRequest::default())),
        ("files", Request::Push(PushRequest { path: "/tmp".into() })),
        ("files", Request::Pull(PullRequest { path: "/etc/passwd".into() })),
        ("forward", Request::Forward { port: 1 }),
    ]
}

#[tokio::test]
async fn a_closed_policy_denies_each_request() {
    for manifest in [json!({"schema": 1}), json!({"schema": 1, "policy": {}})] {
        let agent = Agent::with(manifest);
        for (word, request) in guarded() {
            let error = agent.refused(&request).await;
            assert_eq!(error.code, ErrorCode::Denied, "{request:?}");
            assert!(error.message.contains(word), "{error}");
        }
        agent.request(&Request::Ping).await.unwrap();
    }
}

#[tokio::test]
async fn each_word_of_the_policy_opens_its_own_request() {
    for open in ["exec", "console", "files", "forward"] {
        let agent = Agent::with(json!({"schema": 1, "policy": {open: true}}));
        for (word, request) in guarded() {
            let denied = match agent.request(&request).await {
                Err(ChannelError::Refused(error)) => error.code == ErrorCode::Denied,
                Err(error) => panic!("{error}"),
                Ok(_) => false,
            };
            assert_eq!(denied, word != open, "{open}: {request:?}");
        }
    }
}

#[tokio::test]
async fn the_status_is_there_at_once_and_stays() {
    let agent = Agent::start();
    let mut channel = agent.request(&Request::Watch).await.unwrap();
    let frame = within(channel.receive()).await.unwrap().unwrap();
    let status: GuestStatus = frame.json(FrameType::Status).unwrap();
    assert_eq!(status.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(!status.stopping);
}

/// Asks for the status, ends the agent, and reads on to the end: what has been said.
async fn last_words(agent: Agent, end: impl AsyncFnOnce(&Agent)) -> Vec<GuestStatus> {
    let mut channel = agent.request(&Request::Watch).await.unwrap();
    let mut said = Vec::new();
    let first = within(channel.receive()).await.unwrap().unwrap();
    said.push(first.json(FrameType::Status).unwrap());
    end(&agent).await;
    while let Ok(Some(frame)) = within(channel.receive()).await {
        said.push(frame.json(FrameType::Status).unwrap());
    }
    said
}

#[tokio::test]
async fn who_watches_hears_of_the_end() {
    let terminated = last_words(Agent::start(), async |agent| {
        let pid = rustix::process::Pid::from_child(&agent.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    });
    let asked = last_words(Agent::start(), async |agent| {
        agent.request(&Request::Shutdown).await.unwrap();
    });
    for said in [terminated.await, asked.await] {
        assert!(said.first().is_some_and(|status| status.ready && !status.stopping), "{said:?}");
        assert!(said.last().is_some_and(|status| status.stopping), "{said:?}");
    }
}

#[tokio::test]
async fn health_is_told_beside_another_init_too() {
    let check = |command: &[&str]| json!({"command": command, "startupGraceSeconds": 0});
    let checks = json!({"good": check(&["true"]), "bad": check(&["sh", "-c", "echo no; false"])});
    let agent = Agent::with(json!({"schema": 1, "healthChecks": checks}));
    let mut channel = agent.request(&Request::Watch).await.unwrap();
    loop {
        let status: GuestStatus = within(channel.receive()).await.unwrap().unwrap().json(FrameType::Status).unwrap();
        let health = |name: &str| status.health.get(name).and_then(|health| health.healthy);
        if (health("good"), health("bad")) == (Some(true), Some(false)) {
            assert_eq!(status.health["bad"].detail, "no");
            return;
        }
    }
}

#[tokio::test]
async fn shutdown_is_answered_before_it_begins() {
    let mut agent = Agent::start();
    agent.request(&Request::Shutdown).await.unwrap();
    let exited = tokio::task::spawn_blocking(move || agent.process.wait().map(|status| (status, agent)));
    assert!(within(exited).await.unwrap().unwrap().0.success());
}
