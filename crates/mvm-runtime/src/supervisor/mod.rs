//! The supervisor: one process per VM that owns the VMM and everything beside it.
//!
//! It holds the VM's lock for as long as it lives, is the only writer of `state.json`, and speaks to the `up` that
//! started it over its standard streams: events as JSON lines on stdout; on stdin come the secrets of the guest, and then
//! the word `detach` lets go of it,
//! while an end without that word means that `up` is gone, and the VM with it.

mod console_log;
mod forwards;
mod launch;
mod prepare;
mod serve;
mod watcher;

pub use launch::{Launch, LaunchEvent};

use crate::backend::{AnyBackend, Launched, Machine, MachineEnd, Runner, check_runner};
use crate::channel::GuestChannel;
use crate::control::ControlAnswer;
use crate::lifecycle::{Demand, Lifecycle};
use crate::registry::Registry;
use crate::{clock, files};
use console_log::ConsoleLog;
use forwards::Forwards;
use launch::Parent;
use mvm_core::VmName;
use mvm_core::{Dirs, ErrorKind, ExitReason, Fault, Feature, Hypervisor, PortForward, Secrets, Unsupported, VmDirs};
use mvm_core::{VmRecord, VmSpec, VmState};
use mvm_protocol::{ChannelKeys, GuestStatus, HostKeys, Request, ServiceState};
use serve::{Command, Reply};
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use watcher::GuestEvent;

/// How long a guest may take to power off in order where nobody says otherwise.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How a supervisor is started.
#[derive(Debug, Clone)]
pub struct SuperviseOptions {
    /// Whose.
    pub name: VmName,
    /// How long the guest may take to become ready.
    pub boot_deadline: Duration,
}

/// Runs a VM to its end. Call it on a current-thread runtime inside a `LocalSet`, in a session of its own.
/// Whatever happens has been told on stdout when this returns; the value says whether the VM ended without fault.
pub async fn supervise(dirs: Dirs, options: SuperviseOptions) -> bool {
    let registry = Registry::new(dirs);
    let vm = registry.vm(&options.name);
    let lock = match registry.lock(&options.name) {
        Ok(lock) => lock,
        Err(error) => {
            launch::tell(&LaunchEvent::Failed { fault: error.into() });
            return false;
        }
    };
    let mut record = VmRecord::new(VmState::Starting);
    record.started_ms = Some(clock::now_ms());
    record.since_ms = clock::now_ms();
    record.supervisor_pid = Some(std::process::id());
    // What it ran on before has its layer: a VM does not move because Docker was started or KVM came back.
    record.hypervisor = registry.last_hypervisor(&options.name);
    let assembled = async {
        let (secrets, mut parent) =
            launch::parent().await.map_err(|e| Fault::unexpected("cannot hear who starts the VM", &e))?;
        let assembled = Supervisor::assemble(&registry, &vm, &mut record, secrets, &mut parent).await?;
        Ok((assembled, parent))
    };
    let (record, fault, waiting) = match assembled.await {
        Ok((assembled, parent)) => {
            Supervisor::new(vm.clone(), record, assembled).run(options.boot_deadline, parent).await
        }
        Err(fault) => {
            record.state = VmState::Failed;
            record.exit = Some(ExitReason::BootFailed);
            (record, Some(fault), Vec::new())
        }
    };
    if files::read_json::<VmSpec>(&vm.spec()).is_ok_and(|spec| spec.ephemeral)
        && let Err(error) = registry.forget_locked(&options.name).await
    {
        tracing::warn!(%error, "what the backend keeps of the VM cannot be removed");
    }
    finish(&registry, &vm, &options.name, record, fault, waiting, lock)
}

/// Leaves the VM as the next command should find it, and only then tells of its end.
fn finish(
    registry: &Registry,
    vm: &VmDirs,
    name: &VmName,
    mut record: VmRecord,
    fault: Option<Fault>,
    waiting: Vec<Reply>,
    lock: File,
) -> bool {
    record.since_ms = clock::now_ms();
    (record.supervisor_pid, record.vmm_pid, record.vsock_cid) = (None, None, None);
    record.ports.clear();
    record.fault = fault.clone();
    let warn = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(%error, "{what}");
        }
    };
    warn("the sockets cannot be removed", files::remove_runtime(vm));
    warn("the runner's sockets cannot be removed", files::remove_sockets(&vm.runner()));
    warn("the config drive cannot be removed", files::remove_file(&vm.config_drive()));
    warn("the last state cannot be written", files::write_json(&vm.state(), &record));
    if let Ok(spec) = files::read_json::<VmSpec>(&vm.spec())
        && spec.ephemeral
    {
        let volumes = if spec.discard_volumes { registry.remove_volumes(name) } else { Ok(()) };
        if let Err(error) = volumes.and_then(|()| registry.remove_locked(name)) {
            tracing::warn!(%error, "the VM cannot be removed");
        }
    }
    drop(lock);
    for reply in waiting {
        // Who asked may have gone.
        let _ = reply.send(ControlAnswer::Record { record: Box::new(record.clone()) });
    }
    let fine = fault.is_none();
    launch::tell(&match fault {
        Some(fault) => LaunchEvent::Failed { fault },
        None => LaunchEvent::Ended { record: Box::new(record) },
    });
    fine
}

/// What a start has put together.
struct Assembled {
    keys: Rc<HostKeys>,
    launched: Launched,
    forwards: Forwards,
    console_log: ConsoleLog,
}

struct Supervisor {
    vm: VmDirs,
    keys: Rc<HostKeys>,
    machine: Machine,
    lifecycle: Lifecycle,
    changes: watch::Sender<VmRecord>,
    forwards: Forwards,
    console: JoinHandle<()>,
    guest: mpsc::Receiver<GuestEvent>,
    started: Instant,
    /// Who waits for the end.
    waiting: Vec<Reply>,
    /// Why it will have ended, where that is known already.
    reason: Option<(ExitReason, Option<Fault>)>,
    /// When the patience with the present state ends.
    deadline: Option<Instant>,
    /// What keeps the guest from being ready, for the message of a boot that takes too long.
    obstacle: Option<String>,
}

/// What the supervisor's loop woke up for.
enum Wake {
    Ended(MachineEnd),
    Guest(GuestEvent),
    Command(Command),
    Parent(Parent),
    Deadline,
    Signal,
}

impl Supervisor {
    async fn assemble(
        registry: &Registry,
        vm: &VmDirs,
        record: &mut VmRecord,
        secrets: Secrets,
        parent: &mut mpsc::Receiver<Parent>,
    ) -> Result<Assembled, Fault> {
        fn cannot(what: &'static str) -> impl Fn(io::Error) -> Fault {
            move |e| match e.kind() {
                io::ErrorKind::StorageFull => {
                    Fault::unexpected(what, &e).with_hint("the disk is full: free some space and try again")
                }
                _ => Fault::unexpected(what, &e),
            }
        }
        for dir in [vm.cache(), vm.logs()] {
            files::private_dir(dir).map_err(cannot("cannot make the VM's folders"))?;
        }
        // What a crashed run left goes first: the lock says that it is nobody's.
        files::remove_runtime(vm)
            .and_then(|()| files::private_dir(vm.runtime()))
            .map_err(cannot("cannot make the folder for sockets"))?;
        files::keep_only(&vm.state()).map_err(cannot("cannot tidy up the VM's folder"))?;
        files::write_json(&vm.state(), record).map_err(cannot("cannot write the VM's state"))?;
        let spec: VmSpec = files::read_json(&vm.spec()).map_err(cannot("cannot read the VM's spec"))?;
        // An image may propose more than this machine has.
        crate::memory::check_memory(spec.memory)?;
        let keys: ChannelKeys = files::read_json(&vm.keys()).map_err(cannot("cannot read the VM's keys"))?;
        let forwards = Forwards::bind(&spec.ports)?;
        record.ports = forwards.published();
        let log = File::options().create(true).append(true).open(vm.hypervisor_log());
        let log = log.map_err(cannot("cannot open the hypervisor's log"))?;
        let console_log = ConsoleLog::open(vm.console_log()).map_err(cannot("cannot open the console's log"))?;
        let launched = match spec.hypervisor {
            Some(Hypervisor::MicrovmNix) => {
                record.hypervisor = spec.hypervisor;
                check_runner(&spec.image)?;
                files::private_dir(&vm.runner()).map_err(cannot("cannot make the runner's folder"))?;
                Runner { folder: &spec.image, work: &vm.runner() }.start(&log)?
            }
            forced => {
                let backend = AnyBackend::choose(forced.or(record.hypervisor), registry.dirs()).await?;
                let hypervisor = backend.hypervisor();
                record.hypervisor = Some(hypervisor);
                let launch =
                    prepare::launch_spec_for(parent, registry.dirs(), vm, &spec, &keys, hypervisor, secrets).await?;
                prepare::while_wanted(parent, backend.import(&launch, &|| launch::tell(&LaunchEvent::Importing)))
                    .await?;
                record.accelerator = Some(backend.accelerator().into());
                record.cmdline = backend.command_line(&launch);
                backend.start(&launch, &log).await?
            }
        };
        record.vmm_pid = launched.machine.pid();
        record.vsock_cid = launched.machine.channel.as_ref().and_then(GuestChannel::cid);
        let keys = keys.host().map_err(|e| Fault::unexpected("cannot read the VM's keys", &e))?;
        Ok(Assembled { keys: Rc::new(keys), launched, forwards, console_log })
    }

    fn new(vm: VmDirs, record: VmRecord, assembled: Assembled) -> Self {
        let Assembled { keys, launched: Launched { machine, announce, console }, mut forwards, console_log } =
            assembled;
        if let Some(channel) = machine.channel.clone() {
            forwards.serve(channel, keys.clone());
        }
        let (tell, guest) = mpsc::channel(16);
        if let Some(announce) = announce {
            tokio::task::spawn_local(watcher::watch(announce, keys.clone(), tell));
        }
        Self {
            vm,
            keys,
            machine,
            lifecycle: Lifecycle::starting(),
            changes: watch::channel(record).0,
            forwards,
            console: tokio::task::spawn_local(console_log.follow(console)),
            guest,
            started: Instant::now(),
            waiting: Vec::new(),
            reason: None,
            deadline: None,
            obstacle: None,
        }
    }

    async fn run(
        mut self,
        boot_deadline: Duration,
        mut parent: mpsc::Receiver<Parent>,
    ) -> (VmRecord, Option<Fault>, Vec<Reply>) {
        let (commands, mut inbox) = mpsc::channel(32);
        let prepared = serve::listen(&self.vm, commands, self.changes.subscribe())
            .and_then(|task| Ok((task, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)));
        let (serving, mut sigterm, mut sigint) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                self.machine.kill().await;
                let fault = Fault::unexpected("cannot open the control socket", &e);
                return self.end(MachineEnd::Died(fault.message.clone()), Some(fault)).await;
            }
        };
        self.publish();
        launch::tell(&LaunchEvent::Started { record: Box::new(self.changes.borrow().clone()) });
        if self.machine.channel.is_some() {
            self.deadline = Some(Instant::now() + boot_deadline);
        } else if self.lifecycle.runs_without_agent() {
            self.publish();
            launch::tell(&LaunchEvent::Ready { record: Box::new(self.changes.borrow().clone()) });
        }
        let end = loop {
            let wake = tokio::select! {
                biased;
                end = self.machine.ended() => Wake::Ended(end),
                Some(command) = inbox.recv() => Wake::Command(command),
                Some(event) = self.guest.recv() => Wake::Guest(event),
                Some(word) = parent.recv() => Wake::Parent(word),
                () = until(self.deadline) => Wake::Deadline,
                _ = sigterm.recv() => Wake::Signal,
                _ = sigint.recv() => Wake::Signal,
            };
            match wake {
                Wake::Ended(end) => break end,
                Wake::Command(command) => self.on_command(command).await,
                Wake::Guest(event) => self.on_guest(event),
                Wake::Parent(Parent::Detached) => {}
                Wake::Parent(Parent::Gone) | Wake::Signal => self.stop(STOP_GRACE).await,
                Wake::Deadline => self.on_deadline(boot_deadline).await,
            }
        };
        serving.abort();
        self.end(end, None).await
    }

    async fn on_command(&mut self, (request, reply): (serve::Request, Reply)) {
        let done = match request {
            serve::Request::Stop { grace } => {
                self.waiting.push(reply);
                return self.stop(grace).await;
            }
            serve::Request::Pause => self.demand(Demand::Pause).await,
            serve::Request::Resume => self.demand(Demand::Resume).await,
            serve::Request::Forward(forward) => self.forward(forward),
            serve::Request::Unforward(forward) => self.forwards.remove(forward).await.map_err(Fault::from),
        };
        let answer = match done {
            Ok(()) => {
                let ports = self.forwards.published();
                self.changes.send_if_modified(|r| std::mem::replace(&mut r.ports, ports.clone()) != ports);
                self.publish();
                ControlAnswer::Record { record: Box::new(self.changes.borrow().clone()) }
            }
            Err(fault) => ControlAnswer::Refused { fault },
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    /// Refuses, by name, what the hypervisor cannot do.
    fn require(&self, feature: Feature, what: &str) -> Result<(), Unsupported> {
        self.changes.borrow().hypervisor.map_or(Ok(()), |hypervisor| hypervisor.require(feature, what))
    }

    fn forward(&mut self, forward: PortForward) -> Result<(), Fault> {
        self.require(Feature::Agent, "forward")?;
        self.forwards.add(forward)?;
        Ok(())
    }

    async fn demand(&mut self, demand: Demand) -> Result<(), Fault> {
        if demand == Demand::Pause {
            self.require(Feature::Pause, "pause")?;
        }
        let before = self.lifecycle;
        if !self.lifecycle.demand(demand).map_err(|e| Fault::new(ErrorKind::Busy, e.to_string()))? {
            return Ok(());
        }
        let done = match demand {
            Demand::Pause => self.machine.pause().await,
            Demand::Resume => self.machine.resume().await,
            Demand::Stop => Ok(()),
        };
        if done.is_err() {
            self.lifecycle = before;
        }
        Ok(done?)
    }

    /// Asks the guest to power off; kills it where it cannot be asked or takes too long.
    async fn stop(&mut self, grace: Duration) {
        let before = self.lifecycle.state();
        let deadline = Instant::now() + grace;
        // A second request may shorten the patience of the first, never lengthen it.
        let fresh = matches!(self.lifecycle.demand(Demand::Stop), Ok(true));
        self.deadline = Some(self.deadline.filter(|d| !fresh && *d < deadline).unwrap_or(deadline));
        self.publish();
        let listens = !matches!(before, VmState::Starting | VmState::Stopping);
        if !fresh {
            if grace.is_zero() {
                self.kill().await;
            }
            return;
        }
        self.reason = Some((ExitReason::Requested, None));
        if grace.is_zero() || !listens {
            return self.kill().await;
        }
        if before == VmState::Paused && self.machine.resume().await.is_err() {
            return self.kill().await;
        }
        let Some(channel) = self.machine.channel.clone() else {
            return match self.machine.ask_to_power_off() {
                Ok(true) => {}
                Ok(false) => self.kill().await,
                Err(error) => {
                    tracing::warn!(%error, "the guest cannot be asked to power off");
                    self.kill().await;
                }
            };
        };
        self.ask_agent(channel);
    }

    /// Asks the guest's agent to power off. The deadline deals with one that cannot be asked.
    fn ask_agent(&self, channel: GuestChannel) {
        let keys = self.keys.clone();
        tokio::task::spawn_local(async move {
            let asked =
                async { crate::channel::open_channel(&channel, &keys).await?.request(&Request::Shutdown).await };
            if let Err(error) = asked.await {
                tracing::warn!(%error, "the guest cannot be asked to power off");
            }
        });
    }

    async fn kill(&mut self) {
        if !matches!(self.reason, Some((ExitReason::BootFailed, _))) {
            self.reason = Some((ExitReason::Killed, None));
        }
        self.deadline = None;
        self.machine.kill().await;
    }

    fn on_guest(&mut self, event: GuestEvent) {
        let changed = match event {
            GuestEvent::Announced => {
                // Its agent listens after it has placed them.
                if let Err(error) = files::wipe(&self.vm.secrets_drive()) {
                    tracing::warn!(%error, "the drive with the secrets cannot be removed");
                }
                // An agent that another init was starting again when somebody asked has not heard it.
                if matches!(self.reason, Some((ExitReason::Requested, _)))
                    && let Some(channel) = self.machine.channel.clone()
                {
                    self.ask_agent(channel);
                }
                self.lifecycle.announced()
            }
            GuestEvent::Rejected(why) => {
                self.obstacle = Some(why);
                false
            }
            GuestEvent::Lost => false,
            GuestEvent::Status(status) => {
                self.changes
                    .send_if_modified(|r| std::mem::replace(&mut r.phases, status.phases.clone()) != status.phases);
                self.obstacle = unready(&status);
                let leaves = status.stopping && self.lifecycle.powering_off();
                if leaves {
                    self.reason = Some((ExitReason::GuestPoweredOff, None));
                    self.deadline = Some(Instant::now() + STOP_GRACE);
                }
                leaves || self.lifecycle.reported(status.ready, status.degraded())
            }
        };
        if !changed {
            return;
        }
        if matches!(self.lifecycle.state(), VmState::Ready | VmState::Degraded)
            && self.changes.borrow().boot_ms.is_none()
        {
            self.deadline = None;
            let took = self.started.elapsed().as_millis() as u64;
            self.changes.send_modify(|r| r.boot_ms = Some(took));
            self.publish();
            launch::tell(&LaunchEvent::Ready { record: Box::new(self.changes.borrow().clone()) });
        } else {
            self.publish();
        }
    }

    async fn on_deadline(&mut self, boot_deadline: Duration) {
        if self.lifecycle.state() != VmState::Stopping {
            let detail = self.obstacle.take().map_or(String::new(), |why| format!("; {why}"));
            let message = format!("the guest did not become ready within {} s{detail}", boot_deadline.as_secs_f32());
            let hint = "`mvmctl logs NAME` shows its console; --boot-timeout gives it longer";
            let fault = Fault::new(ErrorKind::TimedOut, message).with_hint(hint);
            self.reason = Some((ExitReason::BootFailed, Some(fault)));
        }
        self.kill().await;
    }

    /// Writes the record and tells those who follow.
    fn publish(&mut self) {
        let state = self.lifecycle.state();
        self.changes.send_modify(|record| {
            if record.state != state {
                record.state = state;
                record.since_ms = clock::now_ms();
            }
        });
        if let Err(error) = files::write_json(&self.vm.state(), &*self.changes.borrow()) {
            tracing::warn!(%error, "the state cannot be written");
        }
    }

    async fn end(mut self, end: MachineEnd, fault: Option<Fault>) -> (VmRecord, Option<Fault>, Vec<Reply>) {
        let was = self.lifecycle.state();
        // Kills the device beside a VMM that ended by itself.
        self.machine.kill().await;
        // The console ends with the VMM: its last lines are in the log before anybody hears of the end.
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.console).await;
        let (reason, fault) = match (self.reason.take(), end) {
            (Some((reason, why)), _) => (reason, why.or(fault)),
            // Without an agent that would have told, an end in order is all that is seen of a power-off.
            (None, MachineEnd::GuestPoweredOff) if was == VmState::Running => (ExitReason::GuestPoweredOff, fault),
            (None, end) => {
                let detail = match end {
                    MachineEnd::GuestPoweredOff => "the guest reset or panicked".to_string(),
                    MachineEnd::Died(detail) => detail,
                };
                let when = if matches!(was, VmState::Starting | VmState::Booted) { " before it was ready" } else { "" };
                let message = format!("the VM ended{when}: {detail}");
                let hint = "`mvmctl logs NAME` shows its console, with --hypervisor what the hypervisor said";
                let fault = fault.unwrap_or_else(|| Fault::new(ErrorKind::GuestUnreachable, message).with_hint(hint));
                (ExitReason::Crashed { detail }, Some(fault))
            }
        };
        let mut record = self.changes.borrow().clone();
        record.state = if fault.is_some() { VmState::Failed } else { VmState::Stopped };
        record.exit = Some(reason);
        (record, fault, self.waiting)
    }
}

/// The services for which a guest that is not ready waits.
fn unready(status: &GuestStatus) -> Option<String> {
    let waits = |state| matches!(state, ServiceState::Starting | ServiceState::BackOff);
    let names: Vec<_> = status.services.iter().filter(|(_, s)| waits(s.state)).map(|(name, _)| name.as_str()).collect();
    (!names.is_empty()).then(|| format!("not ready: {}", names.join(", ")))
}

/// Waits for an instant; for ever where there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_keep_a_guest_waiting_are_named() {
        let status = |services| serde_json::from_str::<GuestStatus>(&format!(r#"{{"services":{services}}}"#)).unwrap();
        let services = r#"{"a":{"state":"running"},"b":{"state":"starting"},"c":{"state":"back-off"}}"#;
        assert_eq!(unready(&status(services)).as_deref(), Some("not ready: b, c"));
        assert_eq!(unready(&status(r#"{"a":{"state":"running"}}"#)), None);
    }
}
