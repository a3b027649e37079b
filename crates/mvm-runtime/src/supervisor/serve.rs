//! The control socket's server side.

use crate::control::{ControlAnswer, ControlRequest, read_line, write_line};
use crate::unix;
use mvm_core::{ErrorKind, Fault, PortForward, VmDirs, VmRecord};
use std::io;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<ControlAnswer>;
/// A request that the supervisor's loop has to answer.
pub(super) type Command = (Request, Reply);

/// What only the supervisor's loop can do.
pub(super) enum Request {
    Stop { grace: Duration },
    Pause,
    Resume,
    Forward(PortForward),
    Unforward(PortForward),
}

/// Serves the socket until the task is aborted.
pub(super) fn listen(
    vm: &VmDirs,
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<VmRecord>,
) -> io::Result<JoinHandle<()>> {
    let listener = unix::listen(&vm.control_socket())?;
    Ok(tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (commands, changes) = (commands.clone(), changes.clone());
            tokio::task::spawn_local(async move {
                // A client that goes away in the middle is its own affair.
                let _ = converse(stream, &commands, changes).await;
            });
        }
    }))
}

async fn converse(
    stream: UnixStream,
    commands: &mpsc::Sender<Command>,
    mut changes: watch::Receiver<VmRecord>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_line::<ControlRequest>(&mut stream).await? {
        let request = match request {
            ControlRequest::Follow => return follow(stream.get_mut(), &mut changes).await,
            ControlRequest::Stop { grace_ms } => Request::Stop { grace: Duration::from_millis(grace_ms) },
            ControlRequest::Pause => Request::Pause,
            ControlRequest::Resume => Request::Resume,
            ControlRequest::Forward { forward } => Request::Forward(forward),
            ControlRequest::Unforward { forward } => Request::Unforward(forward),
        };
        let (reply, answer) = oneshot::channel();
        let ending = || {
            let fault = Fault::new(ErrorKind::Busy, "the VM is ending");
            ControlAnswer::Refused { fault }
        };
        let answer = match commands.send((request, reply)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| ending()),
            Err(_) => ending(),
        };
        write_line(stream.get_mut(), &answer).await?;
    }
    Ok(())
}

async fn follow(stream: &mut UnixStream, changes: &mut watch::Receiver<VmRecord>) -> io::Result<()> {
    loop {
        let record = Box::new(changes.borrow_and_update().clone());
        write_line(stream, &ControlAnswer::Record { record }).await?;
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}
