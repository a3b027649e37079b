//! A Docker daemon of a test's own, where there is one and we are root: own socket, own folders, no network set up.

use super::events::{DEADLINE, Process, end_of};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Where sbin is, which is not on everybody's PATH, and what dockerd itself looks for.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The daemon, running until it is dropped or stopped.
pub struct Daemon {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    /// Starts one; where that cannot be, says so in a line.
    pub fn start() -> Option<Self> {
        let there = std::env::split_paths(PROGRAMS).any(|folder| folder.join("dockerd").is_file());
        if !there || !rustix::process::geteuid().is_root() {
            println!("not tested with Docker: that takes root and dockerd (scripts/dev-setup.sh installs it)");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("mvm-dockerd-").tempdir().unwrap();
        std::fs::write(folder.path().join("daemon.json"), "{}").unwrap();
        let mut daemon = Self { folder, process: None };
        daemon.start_again();
        Some(daemon)
    }

    /// Starts it on what the one before has left.
    pub fn start_again(&mut self) {
        let at = |name: &str| self.folder.path().join(name).into_os_string();
        let with = |flag: &str, name: &str| [OsString::from(flag), at(name)];
        // Its containerd dies with it when it is killed, but as a zombie may seem to live.
        let _ = std::fs::remove_file(at("exec/containerd/containerd.pid"));
        let mut command = Command::new("dockerd");
        command
            .args([with("--data-root", "data"), with("--exec-root", "exec"), with("--pidfile", "pid")].concat())
            .args(with("--config-file", "daemon.json"))
            .args(["-H", &self.host()])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"])
            .env("PATH", PROGRAMS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        mvm_process::signal_with_parent(&mut command, rustix::process::Signal::TERM);
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut all = String::new();
        loop {
            let line = said.next().unwrap_or_else(|| panic!("dockerd ended: {all}")).unwrap();
            all += &(line.clone() + "\n");
            if line.contains("API listen on") {
                break;
            }
        }
        self.process = Some(process);
        // It goes on talking, and must not have to wait for a reader.
        std::thread::spawn(move || said.for_each(drop));
    }

    /// What DOCKER_HOST has to be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Ends it in order, and its containers with it.
    pub fn stop(&mut self) {
        self.end(rustix::process::Signal::TERM);
    }

    /// Ends it as a crash would: its containers are left to themselves.
    pub fn kill(&mut self) {
        self.end(rustix::process::Signal::KILL);
    }

    /// Signals it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        Process::open(self.process.as_ref().unwrap().id()).unwrap().signal(signal);
    }

    fn end(&mut self, signal: rustix::process::Signal) {
        let process = self.process.take().unwrap();
        Process::open(process.id()).unwrap().signal(signal);
        end_of(process);
    }

    /// What its API answers.
    pub fn get(&self, path: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    /// The names of all its containers, with their states.
    pub fn containers(&self) -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let all = self.get("/containers/json?all=1");
        let mut all: Vec<_> =
            all.as_array().unwrap().iter().map(|c| (text(&c["Names"][0]), text(&c["State"]))).collect();
        all.sort();
        all
    }

    /// The ids of all its images.
    pub fn images(&self) -> Vec<String> {
        let all = self.get("/images/json");
        all.as_array().unwrap().iter().map(|image| image["Id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only a daemon can tidy up what another has left when it was killed.
        if self.process.is_none() && !std::thread::panicking() {
            self.start_again();
        }
        if self.process.is_some() {
            self.stop();
        }
        // Each daemon mounts its folder on itself, and one that is killed leaves that.
        while rustix::mount::unmount(self.folder.path().join("data"), rustix::mount::UnmountFlags::DETACH).is_ok() {}
    }
}
