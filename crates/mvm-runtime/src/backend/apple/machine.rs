//! One machine of Virtualization.framework: started, asked, watched to its end.

use super::configuration::{Configuration, cannot, command_line};
use super::hybrid::{self, Device};
use super::vz::{self, Order, Vm};
use crate::backend::{self as backend, Announce, BackendError, Launched, Machine, MachineEnd};
use crate::channel::GuestChannel;
use mvm_core::LaunchSpec;
use mvm_protocol::ANNOUNCE_PORT;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long the framework may take to start a machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take over an order.
const ORDER_DEADLINE: Duration = Duration::from_secs(10);
/// Announcements that may wait to be taken; a guest that opens more is refused.
const ANNOUNCEMENTS: usize = 8;
/// The hybrid socket, in the VM's runtime folder.
const HYBRID_SOCKET: &str = "v.sock";

/// The framework, found usable on this Mac.
#[derive(Debug)]
pub struct Apple(());

impl Apple {
    /// For a Mac whose facts say that it is usable.
    pub(in crate::backend) fn new() -> Self {
        Self(())
    }

    pub(in crate::backend) fn accelerator(&self) -> &'static str {
        "vz"
    }

    pub(in crate::backend) fn command_line(&self, spec: &LaunchSpec) -> String {
        command_line(spec)
    }

    pub(in crate::backend) async fn start(
        &self,
        spec: &LaunchSpec,
        _log: &std::fs::File,
    ) -> Result<Launched, BackendError> {
        let failed = |e: io::Error| cannot(e.to_string());
        let configuration = Configuration::of(spec, &vz::limits())?;
        let (console, console_end) = StdStream::pair().map_err(failed)?;
        let console = stream(console.into()).map_err(failed)?;
        let hybrid = spec.runtime_dir.join(HYBRID_SOCKET);
        let announce = spec.runtime_dir.join(format!("{HYBRID_SOCKET}_{ANNOUNCE_PORT}"));
        let (listener, awaiting) = crate::unix::listen(&hybrid)
            .and_then(|listener| Ok((listener, crate::unix::listen(&announce)?)))
            .map_err(failed)?;
        let (tell_end, ends) = mpsc::unbounded_channel();
        let (tell_opened, mut opened) = mpsc::channel(ANNOUNCEMENTS);
        let events = vz::Events { ends: tell_end.clone(), opened: tell_opened, port: ANNOUNCE_PORT };
        let making = Vm::make(configuration, console_end.into(), events);
        let vm = Rc::new(within(START_DEADLINE, making).await.map_err(cannot)?);
        within(START_DEADLINE, vm.order(Order::Start)).await.map_err(cannot)?;

        let (tell_stream, streams) = mpsc::channel(ANNOUNCEMENTS);
        let to = announce.clone();
        let tasks = vec![
            tokio::task::spawn_local(hybrid::serve(listener, vm.clone())),
            tokio::task::spawn_local(async move { hybrid::hand_on(streams, &to).await }),
            tokio::task::spawn_local(async move {
                while let Some(Ok(stream)) = opened.recv().await.map(stream) {
                    if tell_stream.send(stream).await.is_err() {
                        return;
                    }
                }
            }),
        ];
        let vmm = backend::Vmm::Apple(Vmm { vm: Some(vm), tell_end, ends, end: None, tasks });
        let machine = Machine { channel: Some(GuestChannel::Hybrid(hybrid)), vmm };
        let announce = Some(Announce::Hybrid(awaiting, announce));
        Ok(Launched { machine, announce, console: Box::new(console) })
    }
}

impl Device for Vm {
    async fn connect(&self, port: u32) -> io::Result<UnixStream> {
        stream(within(ORDER_DEADLINE, Vm::connect(self, port)).await.map_err(io::Error::other)?)
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Vmm {
    /// Until it is killed: its objects hold the other end of the console.
    vm: Option<Rc<Vm>>,
    tell_end: mpsc::UnboundedSender<MachineEnd>,
    ends: mpsc::UnboundedReceiver<MachineEnd>,
    /// How it ended, once that is known.
    end: Option<MachineEnd>,
    tasks: Vec<JoinHandle<()>>,
}

impl Vmm {
    /// The machine's process is the framework's own.
    pub(in crate::backend) fn pid(&self) -> Option<u32> {
        None
    }

    pub(in crate::backend) async fn ended(&mut self) -> MachineEnd {
        if self.end.is_none() {
            // We hold a sender ourselves, so there is always an end to wait for.
            self.end = self.ends.recv().await;
        }
        self.end.clone().unwrap_or_else(|| MachineEnd::Died("it is gone".into()))
    }

    pub(in crate::backend) async fn pause(&self) -> Result<(), BackendError> {
        self.order(Order::Pause).await
    }

    pub(in crate::backend) async fn resume(&self) -> Result<(), BackendError> {
        self.order(Order::Resume).await
    }

    async fn order(&self, order: Order) -> Result<(), BackendError> {
        let done = match &self.vm {
            Some(vm) => within(ORDER_DEADLINE, vm.order(order)).await,
            None => Err("the machine is gone".into()),
        };
        done.map_err(|why| BackendError::control("Virtualization.framework", why))
    }

    /// Stops it where it stands. The framework tells nobody of a stop that was asked for.
    pub(in crate::backend) async fn kill(&mut self) {
        // An error says that it has stopped already; a framework that does not answer ends with our process.
        let _ = self.order(Order::Stop).await;
        let _ = self.tell_end.send(MachineEnd::Died("it was stopped".into()));
        self.tasks.iter().for_each(JoinHandle::abort);
        self.vm = None;
    }
}

async fn within<T>(deadline: Duration, asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

/// A socket's descriptor as a stream.
fn stream(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
