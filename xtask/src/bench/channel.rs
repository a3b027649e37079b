//! The guest channel bare: a program of our own in the guest, behind the same vsock device, without mvm's protocol.

use super::Failure;
use super::user::User;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The port that the program listens at; mvm uses none near it.
const PORT: u32 = 27_000;
/// Bytes that are written and read at once: as many as `cp` puts into a frame.
const CHUNK: usize = 128 * 1024;
/// How long a byte may take to come.
const DEADLINE: Duration = Duration::from_secs(120);

/// The program, while it serves.
pub(super) struct Bare {
    exec: Child,
    socket: PathBuf,
}

impl Bare {
    /// Starts it in a VM.
    pub(super) fn serve(user: &User, vm: &str) -> Result<Self, Failure> {
        let socket = user.vm(vm)?.vsock_socket();
        if !socket.exists() {
            return Err("the bare channel is measured through a hybrid vsock socket, which this VM has not".into());
        }
        let hello = user.programs.hello.to_str().ok_or("the target folder's path is not UTF-8")?;
        user.mvmctl(&["cp", hello, &format!("{vm}:/tmp/hello")])?;
        let args = ["exec", vm, "--", "/tmp/hello", "serve", &PORT.to_string()];
        let exec = user.command(&args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut bare = Self { exec, socket };
        let mut line = String::new();
        BufReader::new(bare.exec.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        if line == "listening\n" { Ok(bare) } else { Err("the bare channel's program did not start".into()) }
    }

    /// A connection, and its first byte.
    fn ask(&self, wanted: u8) -> Result<UnixStream, Failure> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
        // `OK PORT`, and nothing after it until we have asked.
        let mut answer = [0; 32];
        let n = stream.read(&mut answer)?;
        if !answer[..n].starts_with(b"OK ") || !answer[..n].ends_with(b"\n") {
            return Err("the guest's port does not answer".into());
        }
        stream.write_all(&[wanted])?;
        Ok(stream)
    }

    /// A process is started and waited for in the guest.
    pub(super) fn spawn(&self) -> Result<(), Failure> {
        Ok(self.ask(b'e')?.read_exact(&mut [0])?)
    }

    /// So many bytes go to the guest, where they are forgotten or put into a file.
    pub(super) fn send(&self, from: &mut impl Read, bytes: u64, into_file: bool) -> Result<(), Failure> {
        let mut stream = self.ask(if into_file { b'D' } else { b'd' })?;
        stream.write_all(&bytes.to_be_bytes())?;
        pass(from, &mut stream, bytes)?;
        Ok(stream.read_exact(&mut [0])?)
    }

    /// So many bytes come from the guest, out of its memory or the file that was sent last.
    pub(super) fn receive(&self, to: &mut impl Write, bytes: u64, from_file: bool) -> Result<(), Failure> {
        let mut stream = self.ask(if from_file { b'S' } else { b's' })?;
        stream.write_all(&bytes.to_be_bytes())?;
        pass(&mut stream, to, bytes)
    }
}

/// So many bytes, through user space as `cp` passes them.
fn pass(from: &mut impl Read, to: &mut impl Write, bytes: u64) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let most = chunk.len().min(usize::try_from(left)?);
        match from.read(&mut chunk[..most])? {
            0 => return Err("there are fewer bytes than there should be".into()),
            n => {
                to.write_all(&chunk[..n])?;
                left -= n as u64;
            }
        }
    }
    Ok(())
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The agent ends what its caller no longer waits for.
        let _ = self.exec.kill();
        let _ = self.exec.wait();
    }
}
