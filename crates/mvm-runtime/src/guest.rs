//! The host's side of operations in a guest: exec, console.

use crate::channel::{GuestChannel, GuestStream, open_channel};
use crate::{files, registry::Registry};
use mvm_core::{ErrorKind, Fault, Feature, Hypervisor, VmName, VmRecord, VmState};
use mvm_protocol::{Channel, ChannelError, ChannelKeys, Control, ExitStatus, FrameType, STDIN_WINDOW};
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

/// Opens a channel to a VM that runs, for one request.
pub async fn channel(registry: &Registry, name: &VmName) -> Result<Channel<GuestStream>, Fault> {
    let crate::Snapshot { spec, record } = registry.get(name)?;
    if let Some(hypervisor) = spec.hypervisor.or(record.hypervisor) {
        hypervisor.require(Feature::Agent, "exec, console and cp")?;
    }
    let state = record.state;
    match state {
        VmState::Ready | VmState::Degraded | VmState::Running | VmState::Booted => {}
        VmState::Paused => {
            let fault = Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} is paused"));
            return Err(fault.with_hint(format!("`mvmctl resume {name}`")));
        }
        VmState::Starting => {
            let fault = Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} is still booting"));
            return Err(fault.with_hint(format!("`mvmctl wait {name}` returns when it is ready")));
        }
        VmState::Stopping | VmState::Created | VmState::Stopped | VmState::Failed => {
            let fault = Fault::new(ErrorKind::GuestUnreachable, format!("the VM {name} is {state}, not running"));
            return Err(fault.with_hint(format!("start it with `mvmctl start {name}`")));
        }
    }
    let vm = registry.vm(name);
    let keys: ChannelKeys =
        files::read_json(&vm.keys()).map_err(|e| Fault::unexpected("cannot read the VM's keys", &e))?;
    let keys = keys.host().map_err(|e| Fault::unexpected("cannot read the VM's keys", &e))?;
    Ok(open_channel(&locate(vm.vsock_socket(), &record), &keys).await?)
}

/// Which transport the supervisor set up.
fn locate(socket: PathBuf, record: &VmRecord) -> GuestChannel {
    match (record.vsock_cid, record.hypervisor) {
        #[cfg(target_os = "linux")]
        (Some(cid), _) => GuestChannel::Vsock(cid),
        (_, Some(Hypervisor::Docker)) => GuestChannel::Direct(socket),
        _ => GuestChannel::Hybrid(socket),
    }
}

/// What goes into a running command beside its standard input.
pub type Controls = mpsc::Receiver<Control>;

/// Carries the streams of a command until it ends, on a channel whose request the guest has accepted. `stdin` is given
/// only where the request says so. Dropping the future ends the command.
pub async fn run(
    channel: Channel<GuestStream>,
    stdin: Option<impl AsyncRead + Unpin>,
    stdout: &mut (impl AsyncWrite + Unpin),
    stderr: &mut (impl AsyncWrite + Unpin),
    mut controls: Controls,
) -> Result<ExitStatus, Fault> {
    let (mut reader, mut writer) = channel.split();
    let window = Semaphore::new(STDIN_WINDOW as usize);
    let output = async {
        loop {
            let Some(frame) = reader.receive().await? else { return Err(ChannelError::Closed.into()) };
            match frame.kind {
                FrameType::Stdout => write(stdout, &frame.payload).await?,
                FrameType::Stderr => write(stderr, &frame.payload).await?,
                FrameType::Credit => {
                    let bytes: [u8; 4] = frame.payload.as_slice().try_into().unwrap_or_default();
                    // More than the window can never be owed: a guest that says so gains nothing by it.
                    let room = (STDIN_WINDOW as usize).saturating_sub(window.available_permits());
                    window.add_permits((u32::from_be_bytes(bytes) as usize).min(room));
                }
                FrameType::Exit => return Ok::<ExitStatus, Fault>(frame.json(FrameType::Exit)?),
                other => return Err(ChannelError::Unexpected(other).into()),
            }
        }
    };
    let input = async {
        let (tell, mut chunks) = mpsc::channel::<Vec<u8>>(1);
        let read = async move {
            let Some(mut stdin) = stdin else { return };
            let mut buffer = vec![0; 64 * 1024];
            // An input that cannot be read ends, as for any program.
            while let Ok(n) = stdin.read(&mut buffer).await {
                if tell.send(buffer[..n].to_vec()).await.is_err() || n == 0 {
                    return;
                }
            }
            let _ = tell.send(Vec::new()).await;
        };
        let send = async {
            let mut pending: Option<Vec<u8>> = None;
            loop {
                tokio::select! {
                    biased;
                    Some(control) = controls.recv() => writer.send_json(FrameType::Control, &control).await?,
                    Some(chunk) = chunks.recv(), if pending.is_none() => pending = Some(chunk),
                    permit = async { window.acquire_many(pending.as_ref().map_or(0, Vec::len) as u32).await }, if pending.is_some() => {
                        if let (Ok(permit), Some(chunk)) = (permit, pending.take()) {
                            permit.forget();
                            writer.send(FrameType::Stdin, &chunk).await?;
                        }
                    }
                    else => return Ok::<(), ChannelError>(()),
                }
            }
        };
        let ((), sent) = tokio::join!(read, send);
        // A guest that takes no more input may still have output for us.
        if sent.is_err() {
            tracing::debug!("the guest takes no more input");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        status = output => status,
        () = input => Err(ChannelError::Closed.into()),
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Fault> {
    let done = async {
        out.write_all(bytes).await?;
        out.flush().await
    };
    done.await.map_err(|e| Fault::output("cannot write the command's output", &e))
}
