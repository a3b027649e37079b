//! One container: started, watched to its end, and ended with its supervisor.

use super::super::{Announce, Console, Launched, Machine, MachineEnd, Vmm as AnyVmm};
use super::container::{self, Owner};
use super::error::{DockerError, said};
use crate::channel::GuestChannel;
use crate::{files, unix};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerState;
use bollard::query_parameters::{AttachContainerOptionsBuilder, InspectContainerOptions, WaitContainerOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt};
use mvm_core::{LaunchSpec, MemorySize, container as guest};
use mvm_protocol::lifeline;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

/// The agent's socket in the VM's folder, where every command of the host's finds it.
const AGENT_SOCKET: &str = "v.sock";
/// The folder in it that the guest sees.
const FOLDER: &str = "container";
/// How long a guest may take to read its configuration.
const LIFELINE_DEADLINE: Duration = Duration::from_secs(10);
/// How long Docker may take to end a container that was killed.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// A container that was started.
pub(crate) struct Vmm {
    client: Docker,
    id: String,
    pid: Option<u32>,
    memory: MemorySize,
    wait: Pin<Box<dyn Future<Output = Ending>>>,
    /// How it ended, once it has.
    ending: Option<Ending>,
    /// Its end is the guest's end, also where Docker cannot be asked any more.
    lifeline: Option<AbortOnDropHandle<io::Result<UnixStream>>>,
}

/// What Docker says of the end.
#[derive(Debug, Clone)]
enum Ending {
    /// The code of PID 1, or 128 and the signal's number.
    Code(i64),
    /// Docker does not say: it was stopped, or died.
    Lost(String),
}

impl fmt::Debug for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmm").field("id", &self.id).field("ending", &self.ending).finish_non_exhaustive()
    }
}

pub(super) async fn launch(
    client: &Docker,
    owner: &Owner,
    spec: &LaunchSpec,
    image: &str,
) -> Result<Launched, DockerError> {
    let io = DockerError::io("make the sockets of the container");
    let folder = spec.runtime_dir.join(FOLDER);
    files::private_dir(&folder).map_err(&io)?;
    let agent_path = spec.runtime_dir.join(AGENT_SOCKET);
    let announce_path = folder.join(guest::ANNOUNCE);
    let agent = OwnedFd::from(unix::listen(&agent_path).and_then(UnixListener::into_std).map_err(&io)?);
    let announce = Announce::Hybrid(unix::listen(&announce_path).map_err(&io)?, announce_path);
    let lifeline = unix::listen(&folder.join(guest::LIFELINE)).map_err(&io)?;
    let config = serde_json::to_vec(&spec.config).map_err(|e| io(e.into()))?;
    if config.len() > lifeline::MOST {
        return Err(DockerError::Config { bytes: config.len(), most: lifeline::MOST });
    }
    let lifeline = AbortOnDropHandle::new(tokio::task::spawn_local(serve_lifeline(lifeline, config, agent)));

    let (id, new) = container::prepare(client, owner, spec, image, &folder).await?;
    let begun = begin(client, &id).await;
    let (console, pid) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // A layer that was there before is the user's; one that was never run is nobody's.
            let tidied =
                if new { container::remove_by_id(client, &id).await } else { container::kill(client, &id).await };
            if let Err(error) = tidied {
                tracing::warn!(%error, "what is left of a container that did not start");
            }
            return Err(error);
        }
    };
    let wait = Box::pin({
        let (client, id) = (client.clone(), id.clone());
        async move { wait(&client, &id).await }
    });
    let (client, lifeline) = (client.clone(), Some(lifeline));
    let vmm = Vmm { client, id, pid, memory: spec.memory, wait, ending: None, lifeline };
    let machine = Machine { channel: Some(GuestChannel::Direct(agent_path)), vmm: AnyVmm::Docker(vmm) };
    Ok(Launched { machine, announce: Some(announce), console })
}

/// Starts a container with its console in our hands from the first byte. Its console and the process that is its PID 1.
async fn begin(client: &Docker, id: &str) -> Result<(Console, Option<u32>), DockerError> {
    let options = AttachContainerOptionsBuilder::default().stream(true).stdout(true).stderr(true).build();
    let attached = client.attach_container(id, Some(options)).await;
    let output = attached.map_err(DockerError::refused("attach to the container"))?.output;
    let console = StreamReader::new(output.map_ok(|said| said.into_bytes()).map_err(io::Error::other));
    client.start_container(id, None).await.map_err(DockerError::refused("start the container"))?;
    let pid = state(client, id).await.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
    Ok((Box::new(console), pid.filter(|pid| *pid > 0)))
}

/// Tells the first that connects who it is, and gives it the agent's socket: PID 1, before it starts anything else.
/// The connection lives as long as its handle.
async fn serve_lifeline(listener: UnixListener, config: Vec<u8>, agent: OwnedFd) -> io::Result<UnixStream> {
    let (stream, _) = listener.accept().await?;
    drop(listener);
    let stream = stream.into_std()?;
    let give = move || {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(LIFELINE_DEADLINE))?;
        lifeline::send(&stream, &config, agent.as_fd())?;
        Ok(stream)
    };
    tokio::task::spawn_blocking(give).await?
}

/// Waits for a container's end. One that has ended already is one that has ended.
async fn wait(client: &Docker, id: &str) -> Ending {
    let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
    match client.wait_container(id, Some(options)).next().await {
        Some(Ok(end)) => Ending::Code(end.status_code),
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Ending::Code(code),
        Some(Err(error)) => Ending::Lost(said(&error)),
        None => Ending::Lost("it hung up".into()),
    }
}

/// Waits until a container that was killed is gone, or Docker with it.
pub(super) async fn wait_for_end(client: &Docker, id: &str) {
    if tokio::time::timeout(KILL_DEADLINE, wait(client, id)).await.is_err() {
        tracing::warn!(id, "the container does not end");
    }
}

async fn state(client: &Docker, id: &str) -> Option<ContainerState> {
    client.inspect_container(id, None::<InspectContainerOptions>).await.ok()?.state
}

impl Vmm {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Cancel-safe: what was begun is gone on with.
    pub(crate) async fn ended(&mut self) -> MachineEnd {
        let ending = match &self.ending {
            Some(ending) => ending.clone(),
            None => self.ending.insert((&mut self.wait).await).clone(),
        };
        match ending {
            Ending::Code(0) => MachineEnd::GuestPoweredOff,
            Ending::Code(code) => MachineEnd::Died(self.why(code).await),
            Ending::Lost(detail) => MachineEnd::Died(format!("Docker was stopped or died: {detail}")),
        }
    }

    async fn why(&self, code: i64) -> String {
        if state(&self.client, &self.id).await.and_then(|state| state.oom_killed) == Some(true) {
            return format!("the container needed more than its {} of memory", self.memory);
        }
        match code {
            129.. => format!("the container's PID 1 was killed by signal {}", code - 128),
            _ => format!("the container's PID 1 ended with code {code}"),
        }
    }

    pub(crate) async fn pause(&self) -> Result<(), DockerError> {
        self.client.pause_container(&self.id).await.map_err(DockerError::refused("pause the container"))
    }

    pub(crate) async fn resume(&self) -> Result<(), DockerError> {
        self.client.unpause_container(&self.id).await.map_err(DockerError::refused("resume the container"))
    }

    /// Ends the container, and waits until it has. The broken lifeline ends it where Docker is gone or hangs; Docker ends
    /// what is frozen or does not look.
    pub(crate) async fn kill(&mut self) {
        self.lifeline = None;
        if self.ending.is_some() {
            return;
        }
        let killed = async {
            if let Err(error) = container::kill(&self.client, &self.id).await {
                tracing::warn!(%error, "the container has to end by its broken lifeline");
            }
            (&mut self.wait).await
        };
        match tokio::time::timeout(KILL_DEADLINE, killed).await {
            Ok(ending) => self.ending = Some(ending),
            Err(_) => tracing::warn!(id = self.id, "Docker does not say that the container has ended"),
        }
    }
}
