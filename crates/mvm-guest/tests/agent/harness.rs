//! An agent in a folder of its own, and the least host that can talk to it.

use mvm_protocol::{
    Channel, ChannelError, ChannelKeys, Control, ExecRequest, ExitStatus, FrameType, HostKeys, Reader, Request,
    RequestError, STDIN_WINDOW, Writer, connect,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// No event of a test may take longer.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running agent. Stopped, with the commands that it runs, and its folder removed, when it is dropped.
pub struct Agent {
    pub dir: TempDir,
    pub keys: HostKeys,
    pub guest_secret: String,
    pub process: Child,
}

impl Agent {
    /// With everything allowed.
    pub fn start() -> Self {
        Self::with(json!({"schema": 1, "policy": {"console": true, "exec": true, "files": true, "forward": true}}))
    }

    pub fn with(manifest: serde_json::Value) -> Self {
        Self::with_env(manifest, json!({}))
    }

    pub fn with_env(manifest: serde_json::Value, env: serde_json::Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("guest.json"), manifest.to_string()).unwrap();
        let keys = ChannelKeys::generate().unwrap();
        let config = json!({
            "schema": 1, "name": "test", "machineId": "0".repeat(32), "env": env,
            "hostPublicKey": keys.host_public_hex().unwrap(), "guestSecretKey": keys.guest_secret_hex(),
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();

        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, dir.path(), inotify::WatchFlags::MOVED_TO).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_mvm-guest"))
            .arg("agent")
            .arg("--config")
            .arg(dir.path().join("config.json"))
            .arg("--manifest")
            .arg(dir.path().join("guest.json"))
            .arg("--listen")
            .arg(format!("unix:{}", dir.path().join("agent.sock").display()))
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { keys: keys.host().unwrap(), guest_secret: keys.guest_secret_hex().to_owned(), dir, process };
        wait(&watch, "the agent's socket");
        assert!(agent.socket().exists());
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// A connection on which nothing has been said.
    pub async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    pub async fn channel(&self) -> Channel<UnixStream> {
        connect(self.raw().await, &self.keys).await.unwrap()
    }

    pub async fn request(&self, request: &Request) -> Result<Channel<UnixStream>, ChannelError> {
        let mut channel = connect(self.raw().await, &self.keys).await?;
        channel.request(request).await?;
        Ok(channel)
    }

    /// The answer of a request that must be refused.
    pub async fn refused(&self, request: &Request) -> RequestError {
        match self.request(request).await {
            Err(ChannelError::Refused(error)) => error,
            Err(error) => panic!("{request:?}: {error}"),
            Ok(_) => panic!("{request:?} was accepted"),
        }
    }

    pub async fn exec(&self, request: ExecRequest) -> Result<Session, ChannelError> {
        let (reader, writer) = self.request(&Request::Exec(request)).await?.split();
        Ok(Session { reader, writer })
    }

    /// Runs a shell script to its end.
    pub async fn sh(&self, script: &str) -> Output {
        let request = ExecRequest { argv: argv(&["sh", "-c", script]), ..Default::default() };
        self.exec(request).await.unwrap().output().await
    }

    /// Resident memory of the agent in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if let Ok(ended) = pidfd_open(pid, PidfdFlags::empty()) {
            let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&deadline));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A running exec, from the host's side.
pub struct Session {
    pub reader: Reader<UnixStream>,
    pub writer: Writer<UnixStream>,
}

/// What a command has given.
#[derive(Debug, PartialEq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: ExitStatus,
}

impl Output {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl Session {
    pub async fn output(self) -> Output {
        self.with_input(std::iter::empty()).await
    }

    /// Sends input within its window, and its end, while reading output.
    pub async fn with_input(mut self, input: impl Iterator<Item = Vec<u8>>) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (credits, mut credit) = tokio::sync::mpsc::unbounded_channel();
        let mut input = input.peekable();
        let feed = async {
            if input.peek().is_some() {
                let mut window = STDIN_WINDOW;
                for bytes in input {
                    while window < bytes.len() as u32 {
                        let Some(more) = credit.recv().await else { return };
                        window += more;
                    }
                    window -= bytes.len() as u32;
                    if self.writer.send(FrameType::Stdin, &bytes).await.is_err() {
                        return;
                    }
                }
                let _ = self.writer.send(FrameType::Stdin, &[]).await;
            }
            std::future::pending().await
        };
        let read = async {
            loop {
                let frame = self.reader.receive().await.unwrap().expect("closed before Exit");
                match frame.kind {
                    FrameType::Stdout => stdout.extend_from_slice(&frame.payload),
                    FrameType::Stderr => stderr.extend_from_slice(&frame.payload),
                    FrameType::Credit => {
                        let _ = credits.send(u32::from_be_bytes(frame.payload[..].try_into().unwrap()));
                    }
                    FrameType::Exit => return frame.json(FrameType::Exit).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        };
        let status = within(async {
            tokio::select! {
                status = read => status,
                () = feed => unreachable!(),
            }
        })
        .await;
        Output { stdout, stderr, status }
    }

    /// Reads output until it holds these bytes.
    pub async fn until(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        within(async {
            while !seen.windows(bytes.len()).any(|window| window == bytes) {
                let frame = self.reader.receive().await.unwrap();
                let frame = frame.unwrap_or_else(|| panic!("closed after {:?}", String::from_utf8_lossy(&seen)));
                match frame.kind {
                    FrameType::Stdout | FrameType::Stderr => seen.extend_from_slice(&frame.payload),
                    FrameType::Credit => {}
                    other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&seen)),
                }
            }
            seen
        })
        .await
    }

    pub async fn type_in(&mut self, text: &str) {
        self.writer.send(FrameType::Stdin, text.as_bytes()).await.unwrap();
    }

    pub async fn control(&mut self, control: Control) {
        self.writer.send_json(FrameType::Control, &control).await.unwrap();
    }
}

pub fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The future's value, unless it takes longer than any test should.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the deadline of the test has passed")
}

/// A process that is expected to die.
pub struct Watched(Pid, OwnedFd);

impl Watched {
    pub fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self(pid, pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    /// Waits for its death.
    pub async fn dies(self) {
        let Self(pid, fd) = self;
        tokio::task::spawn_blocking(move || wait(&fd, &format!("the death of {pid:?}"))).await.unwrap();
    }
}

/// Waits for something to be readable.
fn wait(fd: &OwnedFd, what: &str) {
    let deadline = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&deadline)).unwrap();
    assert_eq!(ready, 1, "{what} did not come");
}
