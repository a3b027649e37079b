//! A command on a terminal, one session at a time.

use super::command::{Wanted, command, spawn_error};
use super::exec::Group;
use super::pump::{End, Pipe, Pump, Running};
use super::stream::Stream;
use super::{Agent, refuse, session, sys};
use crate::process::Child;
use mvm_protocol::{
    Channel, ChannelError, ConsoleRequest, Control, ErrorCode, ExitStatus, FrameType, RequestError, Response,
    TerminalSize,
};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::Interest;

/// How long a session may be silent where the image does not say.
const DEFAULT_IDLE: Duration = Duration::from_secs(900);
/// What a terminal is taken for where the host does not say.
const DEFAULT_TERM: &str = "xterm";

/// The one session, if there is one: what it runs and since when.
#[derive(Default)]
pub(super) struct Slot(RefCell<Option<(String, Instant)>>);

/// The right to be the session. Dropped at its end.
struct Held<'s>(&'s Slot);

impl Slot {
    fn take(&self, what: &str) -> Result<Held<'_>, RequestError> {
        let mut slot = self.0.borrow_mut();
        if let Some((command, since)) = &*slot {
            let text = format!(
                "another console session is open: {command:?}, for {}; one at a time, close it first",
                duration(since.elapsed())
            );
            return Err(RequestError::new(ErrorCode::Busy, text));
        }
        *slot = Some((what.to_owned(), Instant::now()));
        Ok(Held(self))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.take();
    }
}

/// Runs the command of a request on a terminal until it exits, the host is gone or nothing passes any more.
pub(super) async fn console(
    agent: &Agent,
    mut channel: Channel<Stream>,
    request: ConsoleRequest,
) -> Result<(), ChannelError> {
    let manifest = &agent.guest.manifest;
    let default_shell = ["/bin/sh".to_owned(), "-l".to_owned()];
    let argv: &[String] = match (&*request.argv, &*manifest.shell) {
        ([], []) => &default_shell,
        ([], shell) => shell,
        (argv, _) => argv,
    };
    let _held = match agent.console.take(&argv.join(" ")) {
        Ok(held) => held,
        Err(error) => return refuse(&mut channel, error).await,
    };
    let (mut child, terminal) = match start(agent, &request, argv) {
        Ok(started) => started,
        Err(error) => return refuse(&mut channel, error).await,
    };
    let idle = match manifest.console_idle_seconds {
        0 => DEFAULT_IDLE,
        seconds => Duration::from_secs(seconds.into()),
    };
    let leader = child.pid;
    let group = Group::new(leader);
    let accepted = channel.send_json(FrameType::Response, &Response::Ok).await;
    let (mut reader, writer) = channel.split();
    let pump = Pump::new(writer);
    let ended = match accepted {
        Ok(()) => {
            let running = Running {
                stdin: Some(Rc::clone(&terminal)),
                outputs: [Some((FrameType::Stdout, Rc::clone(&terminal))), None],
                terminal: true,
                exit: &mut child.exit,
                control: &|control| match control {
                    Control::Signal { signal } => group.signal(signal),
                    Control::Resize(size) => drop(resize(terminal.fd(), size)),
                },
                idle: Some(idle),
            };
            pump.run(&mut reader, running).await
        }
        Err(error) => End::Lost(error),
    };
    // Whatever comes now, the session's processes are ended by name, not with the group.
    group.has_exited();
    match ended {
        End::Exited => {
            pump.close(reader).await;
            Ok(())
        }
        End::Idle => {
            let text =
                format!("\r\nmvm: nothing was typed or printed for {}: this session is closed\r\n", duration(idle));
            pump.tell(FrameType::Stdout, text.as_bytes()).await;
            let status = session::end(leader, &mut child.exit).await;
            pump.tell_exit(status.unwrap_or(ExitStatus { code: None, signal: None })).await;
            pump.close(reader).await;
            Ok(())
        }
        End::Lost(error) => {
            session::end(leader, &mut child.exit).await;
            Err(error)
        }
    }
}

fn start(agent: &Agent, request: &ConsoleRequest, argv: &[String]) -> Result<(Child, Rc<Pipe>), RequestError> {
    let mut env = request.env.clone();
    let term = if request.term.is_empty() { DEFAULT_TERM } else { &request.term };
    env.entry("TERM".into()).or_insert_with(|| term.to_owned());
    let mut command = command(&agent.guest, &Wanted { argv, env: &env, cwd: request.cwd.as_deref(), user: None })?;
    let failed = |error: io::Error| RequestError::new(ErrorCode::Failed, format!("cannot open a terminal: {error}"));
    let (ours, theirs) = terminal(request.size).map_err(failed)?;
    command.stdin(theirs.try_clone().map_err(failed)?).stdout(theirs.try_clone().map_err(failed)?).stderr(theirs);
    sys::own_terminal(&mut command);
    let program = argv.first().map_or("", String::as_str);
    let child = agent.guest.reaper.spawn(command).map_err(|error| spawn_error(program, &error))?;
    Ok((child, ours))
}

/// A new pseudo-terminal: our side and the command's.
fn terminal(size: TerminalSize) -> io::Result<(Rc<Pipe>, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(&ours, size)?;
    // Erasing takes whole characters away, not bytes.
    let mut settings = tcgetattr(&theirs)?;
    settings.input_modes |= InputModes::IUTF8;
    tcsetattr(&theirs, OptionalActions::Now, &settings)?;
    Ok((Pipe::new(ours, Interest::READABLE | Interest::WRITABLE)?, theirs))
}

fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
