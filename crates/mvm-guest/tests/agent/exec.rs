//! Commands with pipes.

use crate::harness::{Agent, Watched, argv, within};
use mvm_protocol::{ChannelError, Control, ErrorCode, ExecRequest, ExitStatus, FrameType, Request, STDIN_WINDOW};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

fn exited(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), signal: None }
}

#[tokio::test]
async fn output_and_exit_status_arrive() {
    let agent = Agent::start();
    let output = agent.sh("echo out; echo err >&2; exit 42").await;
    assert_eq!((&output.stdout[..], &output.stderr[..], output.status), (&b"out\n"[..], &b"err\n"[..], exited(42)));
    let output = agent.sh("kill -KILL $$").await;
    assert_eq!(output.status, ExitStatus { code: None, signal: Some(9) });
    // Standard input is empty, not closed.
    assert_eq!(agent.sh("cat; readlink /proc/self/fd/0").await.text(), "/dev/null\n");
}

#[tokio::test]
async fn the_environment_is_put_together_in_order() {
    let open = json!({"exec": true});
    let agent = Agent::with_env(
        json!({"schema": 1, "policy": open, "env": {"A": "manifest", "B": "manifest", "C": "manifest"}}),
        json!({"B": "config", "C": "config"}),
    );
    let request = ExecRequest {
        argv: argv(&["sh", "-c", "echo $A $B $C $D; env | sort | cut -d= -f1 | tr '\\n' ' '"]),
        env: [("C".to_owned(), "request".to_owned()), ("D".to_owned(), "a b\nc=d ü".to_owned())].into(),
        ..Default::default()
    };
    let output = agent.exec(request).await.unwrap().output().await;
    let (first, names) = output.text().rsplit_once('\n').unwrap();
    assert_eq!(first, "manifest config request a b c=d ü");
    // Nothing of the agent's own.
    assert_eq!(names.replace("c ", ""), "A B C D HOME LOGNAME OLDPWD PATH PWD SHELL USER ".replace("OLDPWD ", ""));
    assert_eq!(agent.sh("echo $PATH").await.text(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
}

#[tokio::test]
async fn programs_are_found_on_the_path_of_the_command() {
    let agent = Agent::start();
    let bin = agent.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("tool"), "#!/bin/sh\necho own tool: $0 $1\n").unwrap();
    std::fs::set_permissions(bin.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let request = ExecRequest {
        argv: argv(&["tool", "x"]),
        env: [("PATH".to_owned(), format!("/nowhere:{}", bin.display()))].into(),
        ..Default::default()
    };
    let output = agent.exec(request).await.unwrap().output().await;
    assert_eq!(output.text(), format!("own tool: {} x\n", bin.join("tool").display()));
}

#[tokio::test]
async fn the_working_directory_is_the_requests_or_home() {
    let agent = Agent::start();
    let pwd = |cwd: Option<&str>| ExecRequest { argv: argv(&["pwd"]), cwd: cwd.map(Into::into), ..Default::default() };
    let output = agent.exec(pwd(Some("/usr/bin"))).await.unwrap().output().await;
    assert_eq!(output.text(), "/usr/bin\n");
    assert_eq!(agent.exec(pwd(None)).await.unwrap().output().await.text(), agent.sh("cd; pwd").await.text());
    assert_eq!(agent.refused(&Request::Exec(pwd(Some("/no/such")))).await.code, ErrorCode::NotFound);
    assert_eq!(agent.refused(&Request::Exec(pwd(Some("tmp")))).await.code, ErrorCode::Invalid);
    let relative = ExecRequest { argv: argv(&["./env", "pwd"]), cwd: Some("/usr/bin".into()), ..Default::default() };
    assert_eq!(agent.exec(relative).await.unwrap().output().await.text(), "/usr/bin\n");
}

#[tokio::test]
async fn another_user_has_nothing_of_roots() {
    assert!(rustix::process::geteuid().is_root(), "only root can become another user");
    let agent = Agent::start();
    let id = |user: &str| ExecRequest {
        argv: argv(&["sh", "-c", "id -u; id -g; id -G; echo $HOME $USER; cat /etc/shadow 2>&1 | wc -l"]),
        user: Some(user.into()),
        cwd: Some("/".into()),
        ..Default::default()
    };
    let run = async |user: &str| agent.exec(id(user)).await.unwrap().output().await.text().to_owned();
    assert_eq!(run("nobody").await, "65534\n65534\n65534\n/nonexistent nobody\n1\n");
    assert_eq!(run("nobody:daemon").await, "65534\n1\n1\n/nonexistent nobody\n1\n");
    assert_eq!(run("4321:7").await, "4321\n7\n7\n/ 4321\n1\n");
    assert!(run("root").await.starts_with("0\n0\n0\n/root root\n"));
    let error = agent.refused(&Request::Exec(id("nemo"))).await;
    assert!(error.code == ErrorCode::NotFound && error.message.contains("nemo"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_run_is_told_apart() {
    let agent = Agent::start();
    let file = |name: &str, text: &str, mode: u32| {
        let path = agent.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let no_format = file("no-format", "echo hi\n", 0o755);
    let no_interpreter = file("no-interpreter", "#!/no/such/shell\n", 0o755);
    let folder = agent.dir.path().to_str().unwrap().to_owned();
    for (program, code) in [
        ("no-such-program", ErrorCode::NotFound),
        ("/no/such/program", ErrorCode::NotFound),
        ("", ErrorCode::NotFound),
        (&no_interpreter, ErrorCode::NotFound),
        (&plain, ErrorCode::NotExecutable),
        (&folder, ErrorCode::NotExecutable),
        (&no_format, ErrorCode::NotExecutable),
        ("a\0b", ErrorCode::Invalid),
    ] {
        let request = Request::Exec(ExecRequest { argv: argv(&[program]), ..Default::default() });
        let error = agent.refused(&request).await;
        assert_eq!(error.code, code, "{program:?}: {error}");
    }
    assert_eq!(agent.refused(&Request::Exec(ExecRequest::default())).await.code, ErrorCode::Invalid);
    let env = [("A=B".to_owned(), String::new())].into();
    let request = Request::Exec(ExecRequest { argv: argv(&["true"]), env, ..Default::default() });
    assert_eq!(agent.refused(&request).await.code, ErrorCode::Invalid);
}

/// Bytes of every value in no short period.
fn noise(length: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let chunk = 100_000;
    (0..length.div_ceil(chunk)).map(move |i| {
        let size = chunk.min(length - i * chunk);
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    })
}

#[tokio::test]
async fn a_hundred_mebibytes_pass_both_ways_unchanged() {
    let agent = Agent::start();
    let size = 100 << 20;
    let before = agent.resident();
    let request = ExecRequest { argv: argv(&["cat"]), stdin: true, ..Default::default() };
    let output = agent.exec(request).await.unwrap().with_input(noise(size)).await;
    assert_eq!((output.status, output.stdout.len()), (exited(0), size));
    let mut at = 0;
    for chunk in noise(size) {
        assert!(output.stdout[at..at + chunk.len()] == chunk, "differs after {at} bytes");
        at += chunk.len();
    }
    let grown = agent.resident().saturating_sub(before);
    assert!(grown < 4096, "the agent has grown by {grown} KiB");
}

#[tokio::test]
async fn the_end_of_input_is_passed_on() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["wc", "-c"]), stdin: true, ..Default::default() };
    let output = agent.exec(request).await.unwrap().with_input([b"12345".to_vec()].into_iter()).await;
    assert_eq!(output.text(), "5\n");
}

#[tokio::test]
async fn input_that_nobody_reads_is_no_error() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["head", "-c", "1"]), stdin: true, ..Default::default() };
    let output = agent.exec(request).await.unwrap().with_input(noise(5 << 20)).await;
    assert_eq!((output.stdout.len(), output.status), (1, exited(0)));
    // It goes on running with its input closed.
    let script = "exec <&-; echo closed >&2; read x < /dev/stdout; exit 3";
    let request = ExecRequest { argv: argv(&["sh", "-c", script]), stdin: true, ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    command.until(b"closed").await;
    for chunk in noise(STDIN_WINDOW as usize) {
        command.writer.send(FrameType::Stdin, &chunk).await.unwrap();
    }
    // All of it is credited although nobody wanted it.
    let mut credit = 0;
    within(async {
        while credit < STDIN_WINDOW {
            let frame = command.reader.receive().await.unwrap().unwrap();
            match frame.kind {
                FrameType::Credit => credit += u32::from_be_bytes(frame.payload[..].try_into().unwrap()),
                FrameType::Exit => break,
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_signal_passes_by_input_that_is_not_read() {
    let agent = Agent::start();
    let script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let request = ExecRequest { argv: argv(&["sh", "-c", script]), stdin: true, ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    command.until(b"ready").await;
    for chunk in noise(STDIN_WINDOW as usize) {
        command.writer.send(FrameType::Stdin, &chunk).await.unwrap();
    }
    command.control(Control::Signal { signal: 15 }).await;
    let output = command.output().await;
    assert_eq!((output.text(), output.status), ("caught\n", exited(5)));
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["sh", "-c", "sleep 1000 & echo $!; wait"]), ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    let child = Watched::new(std::str::from_utf8(&command.until(b"\n").await).unwrap());
    command.control(Control::Signal { signal: 9999 }).await;
    command.control(Control::Signal { signal: 2 }).await;
    command.control(Control::Signal { signal: 9 }).await;
    let status = command.output().await.status;
    assert!(status.signal == Some(2) || status.signal == Some(9), "{status:?}");
    child.dies().await;
}

#[tokio::test]
async fn more_input_than_the_window_ends_the_command() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["sh", "-c", "echo $$; sleep 1000"]), stdin: true, ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    let process = Watched::new(std::str::from_utf8(&command.until(b"\n").await).unwrap());
    for chunk in noise(2 * STDIN_WINDOW as usize) {
        if command.writer.send(FrameType::Stdin, &chunk).await.is_err() {
            break;
        }
    }
    process.dies().await;
}

#[tokio::test]
async fn a_host_that_goes_away_takes_the_command_with_it() {
    let agent = Agent::start();
    let script = "sleep 1000 & trap '' HUP TERM; echo $$ $!; wait; sleep 1000";
    let request = ExecRequest { argv: argv(&["sh", "-c", script]), ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    let pids = String::from_utf8(command.until(b"\n").await).unwrap();
    let processes: Vec<_> = pids.split_whitespace().map(Watched::new).collect();
    assert_eq!(processes.len(), 2);
    drop(command);
    for process in processes {
        process.dies().await;
    }
}

#[tokio::test]
async fn a_background_process_does_not_hold_up_the_exit() {
    let agent = Agent::start();
    // It holds the pipes open, and even goes on writing.
    let output = agent.sh("(trap '' PIPE; while :; do echo noise; done) & echo $! >&2; echo done").await;
    assert!(output.text().contains("done\n"));
    let pid = String::from_utf8(output.stderr).unwrap();
    let process = Watched::new(&pid);
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    process.dies().await;
}

#[tokio::test]
async fn output_that_is_not_read_blocks_the_command_and_not_the_agent() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["sh", "-c", "echo $$; exec cat /dev/zero"]), ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    let line = command.until(b"\n").await;
    let pid = std::str::from_utf8(line.split(|b| *b == b'\n').next().unwrap()).unwrap().to_owned();
    let process = Watched::new(&pid);
    let before = agent.resident();
    // Others are served meanwhile; a hundred commands later the agent has kept nothing of the flood.
    for _ in 0..100 {
        assert_eq!(agent.sh("true").await.status, exited(0));
    }
    assert!(agent.resident() < before + 2048);
    drop(command);
    process.dies().await;
}

#[tokio::test]
async fn a_hundred_commands_at_once() {
    let agent = Agent::start();
    let runs = (0..100).map(|i| {
        let agent = &agent;
        async move { assert_eq!(agent.sh(&format!("sleep 0.2; echo {i}")).await.text(), format!("{i}\n")) }
    });
    let mut set = Vec::new();
    for run in runs {
        set.push(Box::pin(run));
    }
    within(join_all(set)).await;
}

pub async fn join_all<F: Future<Output = ()> + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(move |cx| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_has_no_place_ends_the_command() {
    let agent = Agent::start();
    let request = ExecRequest { argv: argv(&["sh", "-c", "echo $$; sleep 1000"]), ..Default::default() };
    let mut command = agent.exec(request).await.unwrap();
    let process = Watched::new(std::str::from_utf8(&command.until(b"\n").await).unwrap());
    // Input was not asked for.
    command.type_in("x").await;
    process.dies().await;
    assert!(matches!(command.reader.receive().await, Ok(None) | Err(ChannelError::Io(_))));
}
