//! Waiting for what happens to processes and files, with a deadline and never by a clock; and programs that hold still at
//! a place where something is to be done to them.

use super::User;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, inotify};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Longest wait for anything: a machine under load is slow, not broken.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until a descriptor can be read.
pub fn wait_for(fd: &OwnedFd, until: Instant, what: &str) {
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => panic!("{what} did not happen in time"),
            Ok(_) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// A process, held so that no other can be taken for it.
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// One that is there, dead or alive.
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).unwrap())?;
        Some(Self { pid, fd: pidfd_open(raw, PidfdFlags::empty()).ok()? })
    }

    /// Whether it runs still: a process that has ended can be polled.
    pub fn is_alive(&self) -> bool {
        poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 0
    }

    /// Signals it; it has to be alive.
    pub fn signal(&self, signal: Signal) {
        assert!(self.is_alive(), "{} has ended before {signal:?}", self.pid);
        // It may end in this very instant, which a test that must not miss sees by what comes of it.
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    /// Waits for its end; it need not be our child.
    pub fn gone(&self) {
        wait_for(&self.fd, Instant::now() + DEADLINE, &format!("the end of {}", self.pid));
    }

    /// The process that started it.
    pub fn parent(&self) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Self::open(parent.trim().parse().unwrap()).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// Waits for a child's end, at most as long as a person would.
pub fn end_of(mut child: Child) -> ExitStatus {
    Process::open(child.id()).unwrap().gone();
    child.wait().unwrap()
}

/// Waits until nothing runs any more that belongs to the user.
pub fn all_gone(user: &User) {
    for process in user.processes() {
        if let Some(process) = Process::open(process.split(':').next().unwrap().parse().unwrap()) {
            process.gone();
        }
    }
}

/// What happens in one folder.
pub struct Watch {
    fd: OwnedFd,
    until: Instant,
}

impl Watch {
    pub fn new(folder: &Path, flags: inotify::WatchFlags) -> Self {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, folder, flags).unwrap();
        Self { fd, until: Instant::now() + DEADLINE }
    }

    /// Returns the moment something happened whose file has a name that is looked for.
    pub fn next(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        loop {
            wait_for(&self.fd, self.until, what);
            let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(&self.fd, &mut buffer);
            let mut found = false;
            while let Ok(event) = events.next() {
                found |= wanted(event.file_name().and_then(|name| name.to_str().ok()).unwrap_or_default());
                if events.is_buffer_empty() {
                    break;
                }
            }
            if found {
                return;
            }
        }
    }
}

/// A place where somebody tells that he is there, and then waits for ever: two named pipes.
pub struct Held {
    folder: PathBuf,
    told: OwnedFd,
}

impl Held {
    pub fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["told", "gate"] {
            rustix::fs::mknodat(CWD, folder.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        // Open for both, so that whoever tells need not wait for us, nor we for him.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let told = rustix::fs::open(folder.join("told"), flags, Mode::empty()).unwrap();
        Self { folder, told }
    }

    /// Waits for the next who tells: his process.
    pub fn next(&self, what: &str) -> Process {
        wait_for(&self.told, Instant::now() + DEADLINE, what);
        let mut line = [0; 32];
        let length = rustix::io::read(&self.told, &mut line).unwrap();
        let pid = std::str::from_utf8(&line[..length]).unwrap().trim().parse().unwrap();
        Process::open(pid).unwrap()
    }

    /// Puts a program in the place of another: where its arguments have these words in them it tells of itself, and
    /// `holds` there. Else it is the other.
    pub fn stand_in(&self, program: &str, words: &str, holds: bool) -> OsString {
        let name = Path::new(program).file_name().unwrap().display();
        let path = self.folder.join(format!("{name}-{}", words.replace('/', "-")));
        let folder = self.folder.display();
        let hold = if holds { format!("read -r _ <{folder}/gate") } else { ":".into() };
        let script = format!(
            "#!/bin/sh\nPATH=$PATH:/usr/sbin:/sbin\n\
             case \"$*\" in *'{words}'*) echo $$ >{folder}/told; {hold};; esac\nexec {program} \"$@\"\n"
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.into()
    }
}
