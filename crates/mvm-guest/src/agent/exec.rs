//! Commands with pipes.

use super::command::{Wanted, command, spawn_error};
use super::pump::{End, Pipe, Pump, Running};
use super::stream::Stream;
use super::{Agent, refuse};
use crate::process::Child;
use mvm_protocol::{Channel, ChannelError, Control, ErrorCode, ExecRequest, FrameType, RequestError, Response};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::rc::Rc;
use tokio::io::Interest;

/// Runs the command of a request until it exits or the host is gone, in which case it is killed.
pub(super) async fn exec(
    agent: &Agent,
    mut channel: Channel<Stream>,
    request: ExecRequest,
) -> Result<(), ChannelError> {
    let Started { mut child, stdin, outputs } = match start(agent, &request) {
        Ok(started) => started,
        Err(error) => return refuse(&mut channel, error).await,
    };
    let group = Group::new(child.pid);
    channel.send_json(FrameType::Response, &Response::Ok).await?;
    let (mut reader, writer) = channel.split();
    let pump = Pump::new(writer);
    let running = Running {
        stdin,
        outputs,
        terminal: false,
        exit: &mut child.exit,
        control: &|control| match control {
            Control::Signal { signal } => group.signal(signal),
            // There is no terminal.
            Control::Resize(_) => {}
        },
        idle: None,
    };
    match pump.run(&mut reader, running).await {
        End::Exited | End::Idle => {
            group.has_exited();
            pump.close(reader).await;
            Ok(())
        }
        End::Lost(error) => {
            // It may have exited in this very moment, and its number may be another's by now.
            if child.exit.try_recv().is_ok() {
                group.has_exited();
            }
            Err(error)
        }
    }
}

struct Started {
    child: Child,
    stdin: Option<Rc<Pipe>>,
    outputs: [Option<(FrameType, Rc<Pipe>)>; 2],
}

fn start(agent: &Agent, request: &ExecRequest) -> Result<Started, RequestError> {
    let wanted =
        Wanted { argv: &request.argv, env: &request.env, cwd: request.cwd.as_deref(), user: request.user.as_deref() };
    let mut command = command(&agent.guest, &wanted)?;
    let failed = |error: io::Error| RequestError::new(ErrorCode::Failed, format!("cannot make a pipe: {error}"));
    let mut stdin = None;
    if request.stdin {
        let (ours, theirs) = pipe(true).map_err(failed)?;
        stdin = Some(ours);
        command.stdin(theirs);
    } else {
        command.stdin(Stdio::null());
    }
    let (stdout, theirs) = pipe(false).map_err(failed)?;
    command.stdout(theirs);
    let (stderr, theirs) = pipe(false).map_err(failed)?;
    command.stderr(theirs);
    // A group of its own, so that a signal reaches what the command has started; not a session, which would cost the
    // fast spawn.
    command.process_group(0);
    let program = request.argv.first().map_or("", String::as_str);
    let child = agent.guest.reaper.spawn(command).map_err(|error| spawn_error(program, &error))?;
    let outputs = [Some((FrameType::Stdout, stdout)), Some((FrameType::Stderr, stderr))];
    Ok(Started { child, stdin, outputs })
}

/// A pipe: our end, which does not block, and the child's, which does.
fn pipe(we_write: bool) -> io::Result<(Rc<Pipe>, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ours, theirs, interest) =
        if we_write { (write, read, Interest::WRITABLE) } else { (read, write, Interest::READABLE) };
    Ok((Pipe::new(ours, interest)?, theirs))
}

/// A process group, killed with the last reference to it unless its leader has exited.
pub(super) struct Group {
    leader: Pid,
    running: Cell<bool>,
}

impl Group {
    pub(super) fn new(leader: Pid) -> Self {
        Self { leader, running: Cell::new(true) }
    }

    /// Sends a signal by its Linux number, 1 to 31. Anything else is passed over.
    pub(super) fn signal(&self, number: i32) {
        if self.running.get()
            && let Some(signal) = Signal::from_named_raw(number)
        {
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// From now on its number may be another's.
    pub(super) fn has_exited(&self) {
        self.running.set(false);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.running.get() {
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
    }
}
