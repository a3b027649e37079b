//! QEMU as mvm starts it, started by hand, with a guest that says hello and no more.

use super::user::User;
use super::{Failure, initrd};
use command_fds::{CommandFdExt, FdMapping};
use mvm_protocol::ANNOUNCE_PORT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a boot may take; what comes later is a failure, not a sample.
const DEADLINE: Duration = Duration::from_secs(120);
/// The descriptors that QEMU's arguments name.
const INHERITED: [(&str, i32); 3] = [("id=qmp,fd=10", 10), ("id=console,fd=11", 11), ("id=vsock,fd=12", 12)];

/// The machine of a VM, to be started again without mvm.
pub(super) struct Baseline {
    dir: tempfile::TempDir,
    qemu: Vec<OsString>,
    device: Vec<OsString>,
}

impl Baseline {
    /// Takes over what a running VM was started with, with drives of its own.
    pub(super) fn of(user: &User, name: &str) -> Result<Self, Failure> {
        let (vm, snapshot) = (user.vm(name)?, user.snapshot(name)?);
        let pid = snapshot.record.vmm_pid.ok_or("the VM has no VMM")?;
        let supervisor = snapshot.record.supervisor_pid.ok_or("the VM has no supervisor")?;
        let mut qemu = command_line(pid)?;
        let has = |part: &str| qemu.iter().any(|a| a.as_bytes().windows(part.len()).any(|w| w == part.as_bytes()));
        if let Some((words, _)) = INHERITED.iter().find(|(words, _)| !has(words)) {
            // As with the kernel's own vsock device, which mvm prefers where a machine has it.
            return Err(format!("the baseline knows no QEMU without {words}").into());
        }
        let device = children(supervisor)?
            .into_iter()
            .filter_map(|child| command_line(child).ok())
            .find(|line| line.iter().any(|word| word == "--uds-path"))
            .ok_or("the VM has no vhost-device-vsock")?;
        let dir = tempfile::Builder::new().prefix("base-").tempdir_in(user.home())?;
        for drive in [vm.writable_layer(), vm.config_drive()] {
            let own = dir.path().join(drive.file_name().ok_or("a drive without a name")?);
            // As mvm's own copies: without the blocks that hold nothing.
            let copied = Command::new("cp").arg("--sparse=always").args([&drive, &own]).status()?;
            if !copied.success() {
                return Err(format!("cannot copy {}", drive.display()).into());
            }
            for word in &mut qemu {
                *word = replace(word, drive.as_os_str(), own.as_os_str());
            }
        }
        let at = 1 + qemu.iter().position(|word| word == "-initrd").ok_or("the VM has no initrd")?;
        let theirs = std::fs::read(&qemu[at])?;
        let ours = dir.path().join("initrd.cpio");
        initrd::with_init(&theirs, &std::fs::read(&user.programs.hello)?, File::create(&ours)?)?;
        qemu[at] = ours.into();
        Ok(Self { dir, qemu, device })
    }

    /// Boots once: from the start of the first process to the guest's hello.
    pub(super) fn boot(&self) -> Result<Duration, Failure> {
        let at = |name: &str| self.dir.path().join(name);
        let (vhost, hybrid, hello) = (at("vhost.sock"), at("v.sock"), at(&format!("v.sock_{ANNOUNCE_PORT}")));
        for stale in [&vhost, &hybrid, &hello] {
            match std::fs::remove_file(stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let log = File::create(at("log"))?;
        let spawn = |command: &mut Command| -> Result<Running, Failure> {
            let command = command.current_dir(self.dir.path()).stdin(Stdio::null());
            Ok(Running(command.stdout(log.try_clone()?).stderr(log.try_clone()?).spawn()?))
        };
        let started = Instant::now();
        let listener = UnixListener::bind(&hello)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, self.dir.path(), inotify::WatchFlags::CREATE)?;
        let _device = spawn(Command::new(&self.device[0]).args(&self.device[1..]).env("RUST_LOG", "error"))?;
        wait_for(&watch, &vhost, started)?;
        let device = connect(&vhost, started)?;
        wait_for(&watch, &hybrid, started)?;
        let mut kept = Vec::new();
        let mut mappings = Vec::new();
        for (_, child_fd) in &INHERITED[..2] {
            let (ours, theirs) = UnixStream::pair()?;
            kept.push(ours);
            mappings.push(FdMapping { parent_fd: theirs.into(), child_fd: *child_fd });
        }
        mappings.push(FdMapping { parent_fd: device, child_fd: INHERITED[2].1 });
        let mut command = Command::new(&self.qemu[0]);
        let _qemu = spawn(command.args(&self.qemu[1..]).fd_mappings(mappings)?)?;
        drop(command);
        let said = || format!("the baseline: {}", std::fs::read_to_string(at("log")).unwrap_or_default().trim());
        ready(&listener, started).map_err(|error| format!("{error}; {}", said()))?;
        let mut stream = listener.accept()?.0;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read_exact(&mut [0]).map_err(|error| format!("{error}; {}", said()))?;
        Ok(started.elapsed())
    }
}

/// A process that ends with its sample.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command_line(pid: u32) -> Result<Vec<OsString>, Failure> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = bytes.strip_suffix(b"\0").ok_or("a process without arguments")?;
    Ok(words.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// The children of a process (proc_pid_stat(5): the parent is the second field after the name).
fn children(parent: u32) -> Result<Vec<u32>, Failure> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        field.is_some_and(|field| field == parent.to_string())
    };
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_child).collect())
}

fn replace(word: &OsStr, from: &OsStr, to: &OsStr) -> OsString {
    let (bytes, from) = (word.as_bytes(), from.as_bytes());
    match bytes.windows(from.len()).position(|window| window == from) {
        Some(at) => OsString::from_vec([&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()),
        None => word.into(),
    }
}

/// Waits until something can be read.
fn ready(fd: impl AsFd, started: Instant) -> Result<(), Failure> {
    let left = DEADLINE.saturating_sub(started.elapsed());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left))? {
        0 => Err(format!("nothing has come within {} s", DEADLINE.as_secs()).into()),
        _ => Ok(()),
    }
}

/// Waits until a file is there.
fn wait_for(watch: &OwnedFd, path: &Path, started: Instant) -> Result<(), Failure> {
    while !path.exists() {
        ready(watch, started)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        while events.next().is_ok() {}
    }
    Ok(())
}

/// Connects to a socket that is bound and about to listen: between the two calls there is no event to wait for.
fn connect(path: &Path, started: Instant) -> Result<OwnedFd, Failure> {
    loop {
        match UnixStream::connect(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && started.elapsed() < DEADLINE => {
                std::thread::yield_now();
            }
            connected => return Ok(connected?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_inside_a_word_is_replaced() {
        let word = replace(OsStr::new(r#"{"filename":"/a/b"}"#), OsStr::new("/a/b"), OsStr::new("/c"));
        assert_eq!(word, OsStr::new(r#"{"filename":"/c"}"#));
        assert_eq!(replace(OsStr::new("x"), OsStr::new("/a"), OsStr::new("/c")), OsStr::new("x"));
    }
}
