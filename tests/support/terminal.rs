//! A program on a terminal of its own, as a person sees it.
#![allow(dead_code)]

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything here: a machine under load is slow, not broken.
const DEADLINE: Duration = Duration::from_secs(60);

/// The person's side of the terminal, and the program.
pub struct Terminal {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    unread: Vec<u8>,
}

impl Terminal {
    /// Starts a program whose standard streams are a terminal of this size.
    pub fn spawn(command: &mut Command, rows: u16, cols: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave =
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).map(File::from);
        let slave = slave.unwrap();
        let copy = || slave.try_clone().unwrap();
        let master = File::from(master);
        resize(&master, rows, cols);
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
        // Only the program is to hold its side, or nobody would see its end.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (tell, output) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once the program's side is closed.
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 || tell.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { master, child, output, unread: Vec::new() }
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Makes the terminal another size, and tells the program as the kernel would tell a terminal's owner.
    pub fn resize(&self, rows: u16, cols: u16) {
        resize(&self.master, rows, cols);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What of the terminal a program that makes it raw changes.
    pub fn modes(&self) -> (InputModes, OutputModes, LocalModes) {
        let modes = tcgetattr(&self.master).unwrap();
        (modes.input_modes, modes.output_modes, modes.local_modes)
    }

    /// Reads until the text has come; what came before it.
    pub fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.unread.windows(text.len()).position(|w| w == text.as_bytes()) {
                let rest = self.unread.split_off(at + text.len());
                let seen = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8_lossy(&seen).into_owned();
            }
            let seen = String::from_utf8_lossy(&self.unread).into_owned();
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.unread.extend(bytes),
                Err(RecvTimeoutError::Timeout) => panic!("{text:?} did not come; this did: {seen:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{text:?} did not come before the end: {seen:?}"),
            }
        }
    }

    /// Waits for the program's end; its status and all it said since the last look.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + DEADLINE;
        let mut rest = std::mem::take(&mut self.unread);
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => rest.extend(bytes),
                // The program was the last to hold its side.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the program did not end; it said {:?}", String::from_utf8_lossy(&rest))
                }
            }
        }
        (self.child.wait().unwrap(), String::from_utf8_lossy(&rest).into_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failure it may still run; else there is nobody to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: &File, rows: u16, cols: u16) {
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
