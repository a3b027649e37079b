//! The bytes of a running command: its output to the host, the host's input to it, until it exits.
//!
//! Three loops in one task. Output stops being read while the host does not read, so the command blocks as it would
//! on a pipe. Input has its window ([`STDIN_WINDOW`]), so signals pass by a command that does not read.

use super::stream::Stream;
use super::sys;
use mvm_protocol::{ChannelError, Control, ExitStatus, FrameType, HEADER_LEN, Reader, STDIN_WINDOW, Writer};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::time::Instant;

/// As much as a pipe holds.
const BUFFER: usize = 64 * 1024;
/// Credit is returned in portions, not for every write.
const CREDIT_STEP: u32 = STDIN_WINDOW / 4;
/// How long the host may take to close after the last frame.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// One end of a pipe or terminal, not blocking.
pub(super) struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    pub(super) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Rc<Self>> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Rc::new(Self(sys::watch(fd, interest)?)))
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> impl AsFd {
        self.0.get_ref()
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Ok(n)) => bytes = &bytes[n..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// A command that runs.
pub(super) struct Running<'c> {
    /// Takes the host's input.
    pub(super) stdin: Option<Rc<Pipe>>,
    /// Give output, each as frames of its type.
    pub(super) outputs: [Option<(FrameType, Rc<Pipe>)>; 2],
    /// Whether the end of input is told by the terminal's end-of-file character.
    pub(super) terminal: bool,
    /// Its exit, when it comes.
    pub(super) exit: &'c mut oneshot::Receiver<ExitStatus>,
    /// What the host's controls do to it.
    pub(super) control: &'c dyn Fn(Control),
    /// How long there may be no byte in either direction.
    pub(super) idle: Option<Duration>,
}

/// Why the bytes stopped.
pub(super) enum End {
    /// The command exited, and the host was told.
    Exited,
    /// The host is gone, or broke the rules.
    Lost(ChannelError),
    /// Nothing passed for as long as is allowed.
    Idle,
}

/// The state that the loops share.
pub(super) struct Pump {
    writer: Mutex<Writer<Stream>>,
    /// Whether every frame that was begun has been sent to its end.
    whole: Cell<bool>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued: Notify,
    /// Bytes of input that the host has sent and has no credit for.
    outstanding: Cell<u32>,
    last_byte: Cell<Instant>,
}

impl Pump {
    pub(super) fn new(writer: Writer<Stream>) -> Self {
        Self {
            writer: Mutex::new(writer),
            whole: Cell::new(true),
            queue: RefCell::default(),
            queued: Notify::new(),
            outstanding: Cell::new(0),
            last_byte: Cell::new(Instant::now()),
        }
    }

    /// Pumps until the command exits or the host is lost.
    pub(super) async fn run(&self, reader: &mut Reader<Stream>, running: Running<'_>) -> End {
        let Running { stdin, outputs, terminal, exit, control, idle } = running;
        let accepts_input = stdin.is_some();
        tokio::select! {
            done = self.output(&outputs, exit) => match done {
                Ok(()) => End::Exited,
                Err(error) => End::Lost(error),
            },
            error = self.input(reader, accepts_input, control) => End::Lost(error),
            error = self.feed(stdin, terminal) => End::Lost(error),
            () = self.idle(idle) => End::Idle,
        }
    }

    /// Says something on the session's own account, unless a frame was cut off or the host does not read.
    pub(super) async fn tell(&self, kind: FrameType, payload: &[u8]) {
        if self.whole.get() {
            let _ = tokio::time::timeout(CLOSE_DEADLINE, self.send(kind, payload)).await;
        }
    }

    /// Says how the command exited.
    pub(super) async fn tell_exit(&self, status: ExitStatus) {
        if let Ok(json) = serde_json::to_vec(&status) {
            self.tell(FrameType::Exit, &json).await;
        }
    }

    /// Ends the sending direction and waits for the host to close: what is under way is not cut off by a close.
    pub(super) async fn close(self, reader: Reader<Stream>) {
        if self.writer.into_inner().shutdown().await.is_ok() {
            let (mut rest, mut sink) = (reader.into_inner(), tokio::io::sink());
            let _ = tokio::time::timeout(CLOSE_DEADLINE, tokio::io::copy(&mut rest, &mut sink)).await;
        }
    }

    async fn send(&self, kind: FrameType, payload: &[u8]) -> Result<(), ChannelError> {
        let mut writer = self.writer.lock().await;
        self.whole.set(false);
        writer.send(kind, payload).await?;
        self.whole.set(true);
        Ok(())
    }

    async fn send_in_place(&self, kind: FrameType, frame: &mut [u8]) -> Result<(), ChannelError> {
        self.last_byte.set(Instant::now());
        let mut writer = self.writer.lock().await;
        self.whole.set(false);
        writer.send_in_place(kind, frame).await?;
        self.whole.set(true);
        Ok(())
    }

    /// The command's output until it exits, what is left of it then, and `Exit`.
    async fn output(
        &self,
        outputs: &[Option<(FrameType, Rc<Pipe>)>; 2],
        exit: &mut oneshot::Receiver<ExitStatus>,
    ) -> Result<(), ChannelError> {
        let mut frame = vec![0; HEADER_LEN + BUFFER].into_boxed_slice();
        let mut open = [outputs[0].is_some(), outputs[1].is_some()];
        let status = loop {
            let (which, ready) = tokio::select! {
                status = &mut *exit => break status,
                ready = readable(&outputs[0]), if open[0] => (0, ready),
                ready = readable(&outputs[1]), if open[1] => (1, ready),
            };
            let Some((kind, _)) = &outputs[which] else { continue };
            let read = ready.map(|mut ready| ready.try_io(|fd| Ok(rustix::io::read(fd, &mut frame[HEADER_LEN..])?)));
            match read {
                // Woken for nothing.
                Ok(Err(_would_block)) => {}
                Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal that nobody has open any more answers with an error.
                Ok(Ok(Ok(0) | Err(_))) | Err(_) => open[which] = false,
                Ok(Ok(Ok(n))) => self.send_in_place(*kind, &mut frame[..HEADER_LEN + n]).await?,
            }
        };
        // A process that was left in the background may hold the pipes open and go on writing: what the command
        // itself has written is at most what a pipe holds.
        for (_, output) in open.iter().zip(outputs).filter(|(open, _)| **open) {
            let Some((kind, pipe)) = output else { continue };
            let mut left = rustix::pipe::fcntl_getpipe_size(pipe.fd()).unwrap_or(BUFFER);
            while left > 0 {
                let room = left.min(BUFFER);
                match rustix::io::read(pipe.fd(), &mut frame[HEADER_LEN..HEADER_LEN + room]) {
                    Err(Errno::INTR) => {}
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        self.send_in_place(*kind, &mut frame[..HEADER_LEN + n]).await?;
                        left -= n;
                    }
                }
            }
        }
        // The reaper ends before its children only where the whole guest does.
        let status = status.unwrap_or(ExitStatus { code: None, signal: None });
        let json =
            serde_json::to_vec(&status).map_err(|source| ChannelError::Json { kind: FrameType::Exit, source })?;
        self.send(FrameType::Exit, &json).await
    }

    /// What the host sends. Ends with why there is no more.
    async fn input(&self, reader: &mut Reader<Stream>, accepts: bool, control: &dyn Fn(Control)) -> ChannelError {
        loop {
            let frame = match reader.receive().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return ChannelError::Closed,
                Err(error) => return error,
            };
            match frame.kind {
                FrameType::Stdin if accepts => {
                    self.last_byte.set(Instant::now());
                    let outstanding = self.outstanding.get().saturating_add(frame.payload.len() as u32);
                    if outstanding > STDIN_WINDOW {
                        return ChannelError::Unexpected(FrameType::Stdin);
                    }
                    self.outstanding.set(outstanding);
                    self.queue.borrow_mut().push_back(frame.payload);
                    self.queued.notify_one();
                }
                FrameType::Control => match frame.json(FrameType::Control) {
                    Ok(message) => control(message),
                    Err(error) => return error,
                },
                other => return ChannelError::Unexpected(other),
            }
        }
    }

    /// The host's input into the command. Ends only where credit cannot be sent.
    async fn feed(&self, mut stdin: Option<Rc<Pipe>>, terminal: bool) -> ChannelError {
        let mut credit = 0;
        loop {
            let next = self.queue.borrow_mut().pop_front();
            let Some(bytes) = next else {
                if let Err(error) = self.send_credit(&mut credit).await {
                    return error;
                }
                self.queued.notified().await;
                continue;
            };
            if let Some(pipe) = &stdin {
                let written = match bytes.as_slice() {
                    [] if terminal => pipe.write_all(&[end_of_file(pipe)]).await,
                    [] => Err(io::ErrorKind::BrokenPipe.into()),
                    bytes => pipe.write_all(bytes).await,
                };
                // A command that reads no more is no error; what else comes for it is dropped.
                if written.is_err() {
                    stdin = None;
                }
            }
            credit += bytes.len() as u32;
            if credit >= CREDIT_STEP
                && let Err(error) = self.send_credit(&mut credit).await
            {
                return error;
            }
        }
    }

    async fn send_credit(&self, credit: &mut u32) -> Result<(), ChannelError> {
        if *credit > 0 {
            self.outstanding.set(self.outstanding.get().saturating_sub(*credit));
            self.send(FrameType::Credit, &credit.to_be_bytes()).await?;
            *credit = 0;
        }
        Ok(())
    }

    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let end = self.last_byte.get() + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

async fn readable(output: &Option<(FrameType, Rc<Pipe>)>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match output {
        Some((_, pipe)) => pipe.0.readable().await,
        None => std::future::pending().await,
    }
}

/// The character that means the end of input on this terminal.
fn end_of_file(terminal: &Pipe) -> u8 {
    const CTRL_D: u8 = 4;
    rustix::termios::tcgetattr(terminal.fd())
        .map_or(CTRL_D, |settings| settings.special_codes[rustix::termios::SpecialCodeIndex::VEOF])
}
