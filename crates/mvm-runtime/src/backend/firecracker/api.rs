//! Firecracker's API, typed: the requests that mvm sends over its Unix socket.
//!
//! Field names are the API's own (`src/firecracker/swagger/firecracker.yaml` in Firecracker); what it deprecates is not
//! here. Sizes are MiB, paths are the VMM's: relative ones begin in its working directory.

use crate::http;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long Firecracker may take to answer: most requests take less than a millisecond.
const DEADLINE: Duration = Duration::from_secs(10);
/// A snapshot writes all of the guest's memory.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);

/// A request: its body is what implements this.
pub trait Call: Serialize {
    /// PUT or PATCH.
    const METHOD: Method;
    /// How long the answer may take.
    const DEADLINE: Duration = DEADLINE;
    /// Where it goes.
    fn path(&self) -> Cow<'static, str>;
}

macro_rules! calls {
    ($($request:ty: $method:ident $path:literal),* $(,)?) => {$(
        impl Call for $request {
            const METHOD: Method = Method::$method;
            fn path(&self) -> Cow<'static, str> {
                $path.into()
            }
        }
    )*};
}

calls! {
    MachineConfig: PUT "/machine-config",
    BootSource: PUT "/boot-source",
    Vsock: PUT "/vsock",
    Entropy: PUT "/entropy",
    Balloon: PUT "/balloon",
    BalloonUpdate: PATCH "/balloon",
    Logger: PUT "/logger",
    Metrics: PUT "/metrics",
    Action: PUT "/actions",
    VmState: PATCH "/vm",
}

/// vCPUs and memory.
#[derive(Debug, Clone, Serialize)]
pub struct MachineConfig {
    /// 1 to 32.
    pub vcpu_count: u32,
    /// Memory in MiB.
    pub mem_size_mib: u64,
    /// Keeps track of what the guest writes, for snapshots that hold only the difference.
    pub track_dirty_pages: bool,
}

/// The kernel.
#[derive(Debug, Clone, Serialize)]
pub struct BootSource {
    /// An ELF `vmlinux`, or arm64's `Image`.
    pub kernel_image_path: PathBuf,
    /// Stage 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    /// The kernel command line; Firecracker adds where its devices are.
    pub boot_args: String,
}

/// A disk. The guest sees disks in the order in which they were put.
#[derive(Debug, Clone, Serialize)]
pub struct Drive {
    /// Its name.
    pub drive_id: String,
    /// A raw file.
    pub path_on_host: PathBuf,
    /// Whether the guest may write.
    pub is_read_only: bool,
    /// Has Firecracker put `root=` on the command line.
    pub is_root_device: bool,
    /// Whether the guest's flushes reach the host's disk.
    pub cache_type: CacheType,
}

/// What becomes of a guest's flushes.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum CacheType {
    /// Nothing.
    Unsafe,
    /// They are obeyed.
    Writeback,
}

impl Call for Drive {
    const METHOD: Method = Method::PUT;
    fn path(&self) -> Cow<'static, str> {
        format!("/drives/{}", self.drive_id).into()
    }
}

/// The vsock device, whose host side is a Unix socket that takes `CONNECT port`.
#[derive(Debug, Clone, Serialize)]
pub struct Vsock {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// The socket; a port that the guest connects to is a socket beside it, with `_PORT` after its name.
    pub uds_path: PathBuf,
}

/// A network card.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkInterface {
    /// Its name.
    pub iface_id: String,
    /// The TAP, which is opened at once: in the network namespace of the VMM.
    pub host_dev_name: String,
    /// Its MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
}

impl Call for NetworkInterface {
    const METHOD: Method = Method::PUT;
    fn path(&self) -> Cow<'static, str> {
        format!("/network-interfaces/{}", self.iface_id).into()
    }
}

/// A source of randomness.
#[derive(Debug, Clone, Serialize)]
pub struct Entropy {}

/// A balloon, which gives memory of the guest back to the host.
#[derive(Debug, Clone, Serialize)]
pub struct Balloon {
    /// Its size in MiB.
    pub amount_mib: u64,
    /// Shrinks where the guest has no memory left.
    pub deflate_on_oom: bool,
    /// The guest tells of pages that it does not use.
    pub free_page_reporting: bool,
}

/// Another size for the balloon; refused until the guest's driver is up.
#[derive(Debug, Clone, Serialize)]
pub struct BalloonUpdate {
    /// Its size in MiB.
    pub amount_mib: u64,
}

/// Where Firecracker's own log goes.
#[derive(Debug, Clone, Serialize)]
pub struct Logger {
    /// A file or named pipe.
    pub log_path: PathBuf,
    /// What is worth a line.
    pub level: LogLevel,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may be wrong.
    Warning,
    /// And what happens.
    Info,
}

/// Where counters go, as JSON lines.
#[derive(Debug, Clone, Serialize)]
pub struct Metrics {
    /// A file or named pipe.
    pub metrics_path: PathBuf,
}

/// Something to do at once.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boots the guest; from then on nothing can be configured.
    InstanceStart,
    /// Writes the counters.
    FlushMetrics,
    /// Presses Ctrl-Alt-Del.
    SendCtrlAltDel,
}

/// Stops the vCPUs or lets them go on.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "state")]
pub enum VmState {
    /// Stopped.
    Paused,
    /// Going on.
    Resumed,
}

/// Saves a guest that is paused.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotCreate {
    /// The state of the machine.
    pub snapshot_path: PathBuf,
    /// The guest's memory.
    pub mem_file_path: PathBuf,
    /// All of it, or what was written since the last one.
    pub snapshot_type: SnapshotType,
}

/// How much of the memory is saved.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum SnapshotType {
    /// All.
    Full,
    /// What was written since the last snapshot.
    Diff,
}

impl Call for SnapshotCreate {
    const METHOD: Method = Method::PUT;
    const DEADLINE: Duration = SNAPSHOT_DEADLINE;
    fn path(&self) -> Cow<'static, str> {
        "/snapshot/create".into()
    }
}

/// Makes a VMM that has nothing yet the machine of a snapshot. The files are trusted: whoever loads them has to know
/// that they are his.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLoad {
    /// The state of the machine.
    pub snapshot_path: PathBuf,
    /// The guest's memory, which has to stay where it is.
    pub mem_backend: MemoryBackend,
    /// Goes on at once.
    pub resume_vm: bool,
    /// Another socket than the one that was saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
}

/// Where a guest's memory comes from.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "backend_type")]
pub enum MemoryBackend {
    /// A file, mapped privately.
    File {
        /// Which.
        backend_path: PathBuf,
    },
}

/// Another socket for the vsock device of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct VsockOverride {
    /// The socket.
    pub uds_path: PathBuf,
}

impl Call for SnapshotLoad {
    const METHOD: Method = Method::PUT;
    const DEADLINE: Duration = SNAPSHOT_DEADLINE;
    fn path(&self) -> Cow<'static, str> {
        "/snapshot/load".into()
    }
}

/// What Firecracker tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    /// What the guest does.
    pub state: InstanceState,
    /// Firecracker's version.
    pub vmm_version: String,
}

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum InstanceState {
    /// It waits for its start.
    #[serde(rename = "Not started")]
    NotStarted,
    /// It runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers, or not in HTTP.
    #[error("{request}: {source}")]
    Io {
        /// Method and path.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// Firecracker refused.
    #[error("{request}: {fault} ({status})")]
    Refused {
        /// Method and path.
        request: String,
        /// 400, mostly.
        status: u16,
        /// Its own words.
        fault: String,
    },
}

/// The API of one Firecracker.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The API at a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request and waits until it is done.
    pub async fn call<C: Call>(&self, call: &C) -> Result<(), ApiError> {
        let body = serde_json::to_vec(call).map_err(io::Error::from);
        self.send(C::METHOD, &call.path(), Some(body), C::DEADLINE).await.map(|_| ())
    }

    /// Asks how the instance is.
    pub async fn instance(&self) -> Result<InstanceInfo, ApiError> {
        let body = self.send(Method::GET, "/", None, DEADLINE).await?;
        serde_json::from_slice(&body).map_err(|e| ApiError::Io { request: "GET /".into(), source: e.into() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<io::Result<Vec<u8>>>,
        limit: Duration,
    ) -> Result<hyper::body::Bytes, ApiError> {
        let request = || format!("{method} {path}");
        let failed = |source| ApiError::Io { request: request(), source };
        let body = body.transpose().map_err(failed)?;
        let answer = http::ask(&self.socket, method.clone(), path, body, limit).await.map_err(failed)?;
        match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(answer.body),
            status => {
                Err(ApiError::Refused { request: request(), status: status.as_u16(), fault: fault(&answer.body) })
            }
        }
    }
}

/// The `fault_message` of an answer, or whatever it says instead.
fn fault(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned(),
    }
}
