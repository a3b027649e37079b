//! The wire of version 1, as recorded when it was released: both sides must speak exactly it for ever.
//!
//! The files hold one frame a line, `> hex` from the host and `< hex` from the guest, made with fixed keys and nonces.
//! A test that fails here has found a change that old guests or old hosts would trip over. The files are never made
//! anew; a new version of the protocol gets files of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use mvm_protocol::transfer::{SpecialBits, receive, send};
use mvm_protocol::{
    ChannelKeys, ConsoleRequest, Control, ErrorCode, ExecRequest, ExitStatus, Frame, FrameHeader, FrameType,
    GuestHandshake, GuestKeys, GuestStatus, HEADER_LEN, HealthStatus, HostHandshake, MAX_PAYLOAD, PullRequest,
    PushRequest, Request, RequestError, Response, ServiceState, ServiceStatus, TerminalSize, TransferSummary, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A recorded frame and whether the host sent it.
struct Recorded {
    from_host: bool,
    bytes: Vec<u8>,
}

fn recorded(text: &str) -> Vec<Recorded> {
    let hex = |digits: &str| {
        digits.as_bytes().chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (side, digits) = line.split_once(' ').unwrap();
            Recorded { from_host: side == ">", bytes: hex(digits) }
        })
        .collect()
}

fn frame(bytes: &[u8]) -> Frame {
    let header = FrameHeader::parse(bytes[..HEADER_LEN].try_into().unwrap(), MAX_PAYLOAD).unwrap();
    assert_eq!(header.length, bytes.len() - HEADER_LEN);
    Frame { kind: header.kind, payload: bytes[HEADER_LEN..].to_vec() }
}

fn encoded(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(kind, payload, &mut out).unwrap();
    out
}

#[test]
fn the_handshake() {
    let lines = recorded(include_str!("data/v1-handshake.hex"));
    let keys: ChannelKeys = serde_json::from_str(&format!(
        r#"{{"hostSecretKey":"{}","guestSecretKey":"{}"}}"#,
        "11".repeat(32),
        "22".repeat(32)
    ))
    .unwrap();
    let host_keys = keys.host().unwrap();
    let guest_keys = GuestKeys::from_hex(keys.guest_secret_hex(), &keys.host_public_hex().unwrap()).unwrap();

    // Today's host against the recorded guest, and the reverse.
    let (host, hello) = HostHandshake::new(&host_keys, [0xaa; 32]);
    assert_eq!(encoded(FrameType::ClientHello, &hello), lines[0].bytes);
    let (auth, session) = host.on_server_hello(&frame(&lines[1].bytes).payload).unwrap();
    assert_eq!(encoded(FrameType::ClientAuth, &auth), lines[2].bytes);
    let guest = GuestHandshake::new(&guest_keys, [0xbb; 32]);
    let (guest, reply) = guest.on_client_hello(&frame(&lines[0].bytes).payload).unwrap();
    assert_eq!(encoded(FrameType::ServerHello, &reply), lines[1].bytes);
    assert_eq!(guest.on_client_auth(&frame(&lines[2].bytes).payload).unwrap(), session);
    assert_eq!(session.version, 1);
    assert!(lines[0].from_host && !lines[1].from_host && lines[2].from_host);
}

/// The recorded bytes mean this value, and this value still makes them.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &Recorded, host: bool, kind: FrameType, value: &T) {
    assert_eq!(line.from_host, host);
    let recorded = frame(&line.bytes);
    assert_eq!(&recorded.json::<T>(kind).unwrap(), value);
    let now: serde_json::Value = serde_json::to_value(value).unwrap();
    let then: serde_json::Value = serde_json::from_slice(&recorded.payload).unwrap();
    // A field that was added since is not there for an old peer; every field of then is there as it was.
    assert!(includes(&now, &then), "{now} does not hold {then}");
}

fn includes(now: &serde_json::Value, then: &serde_json::Value) -> bool {
    match (now, then) {
        (serde_json::Value::Object(now), serde_json::Value::Object(then)) => {
            then.iter().all(|(key, value)| now.get(key).is_some_and(|n| includes(n, value)))
        }
        (now, then) => now == then,
    }
}

fn messages() -> Vec<(bool, FrameType, Message)> {
    use FrameType::{Abort, Control as ControlFrame, End, Exit, Request as Ask, Response as Answer, Status};
    let env = || [("A".to_owned(), "b c".to_owned())].into();
    let exec = ExecRequest {
        argv: vec!["sh".into(), "-c".into(), "é".into()],
        env: env(),
        cwd: Some("/tmp".into()),
        user: Some("1000:100".into()),
        stdin: true,
    };
    let console = ConsoleRequest {
        argv: Vec::new(),
        cwd: None,
        env: env(),
        term: "xterm".into(),
        size: TerminalSize { rows: 50, cols: 132 },
    };
    let status = GuestStatus {
        agent_version: "0.1.0".into(),
        ready: true,
        stopping: false,
        phases: Vec::new(),
        services: [(
            "web".to_owned(),
            ServiceStatus {
                state: ServiceState::BackOff,
                restarts: 3,
                last_exit: Some(ExitStatus { code: None, signal: Some(9) }),
            },
        )]
        .into(),
        health: [("up".to_owned(), HealthStatus { healthy: Some(false), detail: "no".into() })].into(),
    };
    let summary = TransferSummary { entries: 2, bytes: 1 << 40, skipped: 1, skipped_names: vec!["/dev/x".into()] };
    vec![
        (true, Ask, Message::Request(Request::Ping)),
        (true, Ask, Message::Request(Request::Watch)),
        (true, Ask, Message::Request(Request::Exec(exec))),
        (true, Ask, Message::Request(Request::Console(console))),
        (true, Ask, Message::Request(Request::Push(PushRequest { path: "/a".into() }))),
        (true, Ask, Message::Request(Request::Pull(PullRequest { path: "/a".into() }))),
        (true, Ask, Message::Request(Request::Forward { port: 8080 })),
        (true, Ask, Message::Request(Request::Shutdown)),
        (false, Answer, Message::Response(Response::Ok)),
        (false, Answer, Message::Response(Response::Error(RequestError::new(ErrorCode::Denied, "no")))),
        (true, ControlFrame, Message::Control(Control::Signal { signal: 15 })),
        (true, ControlFrame, Message::Control(Control::Resize(TerminalSize { rows: 1, cols: 2 }))),
        (false, Exit, Message::Exit(ExitStatus { code: Some(3), signal: None })),
        (true, End, Message::End(summary)),
        (true, Abort, Message::Abort(RequestError::new(ErrorCode::NotExecutable, "x"))),
        (false, Status, Message::Status(status)),
    ]
}

#[derive(Debug)]
enum Message {
    Request(Request),
    Response(Response),
    Control(Control),
    Exit(ExitStatus),
    End(TransferSummary),
    Abort(RequestError),
    Status(GuestStatus),
}

#[test]
fn the_messages() {
    let lines = recorded(include_str!("data/v1-messages.hex"));
    let messages = messages();
    assert_eq!(lines.len(), messages.len());
    for (line, (host, kind, message)) in lines.iter().zip(&messages) {
        match message {
            Message::Request(m) => check(line, *host, *kind, m),
            Message::Response(m) => check(line, *host, *kind, m),
            Message::Control(m) => check(line, *host, *kind, m),
            Message::Exit(m) => check(line, *host, *kind, m),
            Message::End(m) => check(line, *host, *kind, m),
            Message::Abort(m) => check(line, *host, *kind, m),
            Message::Status(m) => check(line, *host, *kind, m),
        }
    }
}

#[test]
fn the_archive() {
    let lines = recorded(include_str!("data/v1-transfer.hex"));
    let bytes: Vec<u8> = lines.iter().flat_map(|line| line.bytes.clone()).collect();
    let folder = tempfile::tempdir().unwrap();
    let name = "n".repeat(120);
    let file = folder.path().join(&name);
    let summary = receive(&file, &bytes[..], SpecialBits::Drop, &mut |_| {}).unwrap();
    assert_eq!((summary.entries, summary.bytes), (1, 6));
    assert_eq!(std::fs::read(&file).unwrap(), b"hello\n");
    // And today's sender makes the same of the file, but for fields that were added to `End`.
    let mut now = Vec::new();
    send(&file, &mut now, &mut |_| {}).unwrap();
    let data = &lines[0].bytes;
    assert_eq!(&now[..data.len()], &data[..]);
    check(&lines[1], true, FrameType::End, &frame(&now[data.len()..]).json::<TransferSummary>(FrameType::End).unwrap());
}
