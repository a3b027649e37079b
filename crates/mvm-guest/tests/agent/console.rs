//! Sessions on a terminal.

use crate::harness::{Agent, Session, Watched, argv, within};
use mvm_protocol::{ChannelError, ConsoleRequest, Control, ErrorCode, ExitStatus, FrameType, Request, TerminalSize};
use serde_json::json;
use std::time::{Duration, Instant};

async fn open(agent: &Agent, words: &[&str]) -> Result<Session, ChannelError> {
    let request = ConsoleRequest {
        argv: argv(words),
        term: "vt100".into(),
        size: TerminalSize { rows: 50, cols: 132 },
        ..Default::default()
    };
    let (reader, writer) = agent.request(&Request::Console(request)).await?.split();
    Ok(Session { reader, writer })
}

/// An interactive shell that prints nothing of its own but its prompt.
async fn shell(agent: &Agent) -> Session {
    let mut session = open(agent, &["sh", "-i"]).await.unwrap();
    session.type_in("PS1='pro''mpt> '\n").await;
    session.until(b"prompt> ").await;
    session
}

async fn pid(session: &mut Session, command: &str) -> Watched {
    session.type_in(&format!("{command}\n")).await;
    let seen = String::from_utf8_lossy(&session.until(b">>").await).into_owned();
    Watched::new(seen.rsplit_once("<<").unwrap().1.split_once(">>").unwrap().0)
}

fn policy() -> serde_json::Value {
    json!({"console": true, "exec": true})
}

#[tokio::test]
async fn it_is_a_terminal_of_the_given_size_and_type() {
    let agent = Agent::start();
    let script = "tty; stty size; echo $TERM; ps -o sid= -p $$ | tr -d ' '; echo $$; exit 7";
    let output = open(&agent, &["sh", "-c", script]).await.unwrap().output().await;
    let lines: Vec<_> = output.text().lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..3], ["50 132", "vt100"]);
    assert_eq!(lines[3], lines[4], "the leader of its own session");
    assert_eq!(output.status, ExitStatus { code: Some(7), signal: None });
}

#[tokio::test]
async fn the_shell_is_the_images_or_sh() {
    let agent = Agent::with(json!({"schema": 1, "policy": policy(), "shell": ["echo", "my shell"]}));
    assert_eq!(open(&agent, &[]).await.unwrap().output().await.text(), "my shell\r\n");
    let agent = Agent::start();
    let mut session = open(&agent, &[]).await.unwrap();
    session.type_in("echo $0 $((40+2)); exit\n").await;
    session.until(b" 42").await;
    let error = agent.refused(&Request::Console(ConsoleRequest { argv: argv(&["nope"]), ..Default::default() })).await;
    assert_eq!(error.code, ErrorCode::Busy);
    session.output().await;
    let error = agent.refused(&Request::Console(ConsoleRequest { argv: argv(&["nope"]), ..Default::default() })).await;
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn control_c_interrupts_what_runs_and_not_the_shell() {
    let agent = Agent::start();
    let mut session = shell(&agent).await;
    session.type_in("cat\n").await;
    session.type_in("hel''lo\n").await;
    // The terminal's echo, then cat's own: so cat is what runs.
    session.until(b"hel''lo\r\nhel''lo\r\n").await;
    session.type_in("\x03").await;
    session.until(b"prompt> ").await;
    session.type_in("echo alive=$((40+2))\n").await;
    session.until(b"alive=42").await;
    session.type_in("exit 3\n").await;
    assert_eq!(session.output().await.status, ExitStatus { code: Some(3), signal: None });
}

#[tokio::test]
async fn jobs_are_stopped_and_go_on() {
    let agent = Agent::start();
    let mut session = shell(&agent).await;
    session.type_in("cat\none\n").await;
    session.until(b"one\r\none\r\n").await;
    session.type_in("\x1a").await;
    session.until(b"prompt> ").await;
    session.type_in("jobs\n").await;
    session.until(b"Stopped").await;
    session.type_in("fg\n").await;
    session.until(b"cat\r\n").await;
    session.type_in("two\n").await;
    session.until(b"two\r\ntwo\r\n").await;
    session.type_in("\x04").await;
    session.until(b"prompt> ").await;
    session.type_in("\x04").await;
    assert_eq!(session.output().await.status.code, Some(0));
}

#[tokio::test]
async fn a_new_size_is_told_to_what_runs() {
    let agent = Agent::start();
    let script = "sleep 1000 & trap 'stty size; kill $!; exit 4' WINCH; echo ready; wait";
    let mut session = open(&agent, &["sh", "-c", script]).await.unwrap();
    session.until(b"ready\r\n").await;
    session.control(Control::Resize(TerminalSize { rows: 11, cols: 22 })).await;
    let output = session.output().await;
    assert_eq!((output.text(), output.status.code), ("11 22\r\n", Some(4)));
}

#[tokio::test]
async fn the_end_of_input_is_a_terminals() {
    let agent = Agent::start();
    let mut session = open(&agent, &["sh", "-c", "cat; echo after"]).await.unwrap();
    session.type_in("x\n").await;
    session.until(b"x\r\nx\r\n").await;
    session.type_in("").await;
    let output = session.output().await;
    assert!(output.text().ends_with("after\r\n"), "{output:?}");
}

#[tokio::test]
async fn the_second_session_is_told_of_the_first() {
    let agent = Agent::start();
    let mut first = open(&agent, &["sh", "-c", "echo in; read x"]).await.unwrap();
    first.until(b"in").await;
    let error = agent.refused(&Request::Console(ConsoleRequest::default())).await;
    assert_eq!(error.code, ErrorCode::Busy);
    assert!(error.message.contains("sh -c echo in; read x") && error.message.contains(" s;"), "{error}");
    // exec is not held up.
    assert_eq!(agent.sh("echo x").await.text(), "x\n");
    first.type_in("\n").await;
    first.output().await;
    open(&agent, &["true"]).await.unwrap().output().await;
}

#[tokio::test]
async fn a_silent_session_is_closed_and_says_so() {
    let agent = Agent::with(json!({"schema": 1, "policy": policy(), "consoleIdleSeconds": 1}));
    let start = Instant::now();
    let mut session = open(&agent, &["sh", "-c", "trap '' HUP TERM; echo \"<<$$>>\"; sleep 1000"]).await.unwrap();
    let seen = String::from_utf8(session.until(b">>").await).unwrap();
    let process = Watched::new(seen.trim().trim_matches(['<', '>']));
    let output = session.output().await;
    assert!(output.text().contains("nothing was typed or printed for 1 s"), "{output:?}");
    assert_eq!(output.status.signal, Some(9));
    assert!(start.elapsed() >= Duration::from_secs(1));
    process.dies().await;
    open(&agent, &["true"]).await.unwrap().output().await;
}

#[tokio::test]
async fn output_alone_keeps_a_session_open() {
    let agent = Agent::with(json!({"schema": 1, "policy": policy(), "consoleIdleSeconds": 1}));
    let script = "for i in 1 2 3 4 5 6; do sleep 0.4; echo $i; done";
    let output = open(&agent, &["sh", "-c", script]).await.unwrap().output().await;
    assert_eq!(output.text().split_whitespace().collect::<String>(), "123456");
}

#[tokio::test]
async fn input_alone_keeps_a_session_open() {
    let agent = Agent::with(json!({"schema": 1, "policy": policy(), "consoleIdleSeconds": 1}));
    let mut session = open(&agent, &["sh", "-c", "stty -echo; echo ready; read x; echo got $x"]).await.unwrap();
    session.until(b"ready").await;
    let mut tick = tokio::time::interval(Duration::from_millis(400));
    for _ in 0..6 {
        tick.tick().await;
        session.type_in("a").await;
    }
    session.type_in("\n").await;
    assert!(session.output().await.text().contains("got aaaaaa"));
}

#[tokio::test]
async fn nothing_outlives_a_session_whose_host_is_gone() {
    let agent = Agent::start();
    let mut session = shell(&agent).await;
    let processes = [
        pid(&mut session, "echo \"<\"\"<$$>\"\">\"").await,
        pid(&mut session, "sleep 1000 & echo \"<\"\"<$!>\"\">\"").await,
        // One that ignores the hangup, in a group of its own, and one that is stopped.
        pid(&mut session, "(trap '' HUP TERM; sleep 1000) & echo \"<\"\"<$!>\"\">\"").await,
        pid(&mut session, "(kill -STOP $(exec sh -c 'echo $PPID'); sleep 1000) & echo \"<\"\"<$!>\"\">\"").await,
    ];
    drop(session);
    for process in processes {
        process.dies().await;
    }
    // The next session is not kept waiting.
    within(async {
        loop {
            match open(&agent, &["true"]).await {
                Ok(session) => break session.output().await,
                Err(ChannelError::Refused(error)) => assert_eq!(error.code, ErrorCode::Busy),
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let agent = Agent::start();
    let output = open(&agent, &["sh", "-c", "stty -opost; head -c 3000000 /dev/zero"]).await.unwrap().output().await;
    assert_eq!(output.stdout.len(), 3_000_000);
    // The last words before the exit are not lost.
    for _ in 0..50 {
        let output = open(&agent, &["echo", "last words"]).await.unwrap().output().await;
        assert_eq!(output.text(), "last words\r\n");
    }
}

#[tokio::test]
async fn a_frame_that_has_no_place_ends_the_session() {
    let agent = Agent::start();
    let mut session = open(&agent, &["sh", "-c", "echo \"<<$$>>\"; sleep 1000"]).await.unwrap();
    let seen = String::from_utf8(session.until(b">>").await).unwrap();
    let process = Watched::new(seen.trim().trim_matches(['<', '>']));
    session.writer.send(FrameType::Data, b"x").await.unwrap();
    process.dies().await;
}
