//! Init: PID 1, from the kernel's hand to the end of the VM.
//!
//! ```text
//! stage 1 ── mounts ── documents ── identity ── volumes, secrets ── agent ── network ── services, health ── ready
//!                                                                                          │ asked to power off
//! reset ── file systems closed ── connections closed ── processes ended ── services left ──┘
//! ```
//! Where the manifest names another init, that is executed instead ([`handover`]), and the agent is its to start.

mod container;
mod handover;
pub mod health;
mod identity;
mod mounts;
mod network;
mod read_only;
mod readiness;
mod secrets;
mod services;
mod shutdown;
mod volumes;

use crate::context::Guest;
use crate::{agent, documents, stage1};
use agent::{Announce, Listener};
use mvm_core::{BootPhase, GUEST_MANIFEST_PATH, GuestConfig, GuestManifest};
use mvm_protocol::GuestKeys;
use rustix::system::RebootCommand;
use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

/// How long threads that copy files may take to notice that their connections are gone.
pub const COPY_GRACE: Duration = Duration::from_secs(1);

/// Runs the guest until it is asked to power off; comes back only by ending the VM, or the container.
pub fn main() -> ! {
    if std::env::args_os().nth(1).is_some_and(|word| word == mvm_core::container::ARGUMENT) {
        container::main()
    }
    let stage1_us = crate::context::boot_us();
    match stage1::run() {
        Ok(layer) => {
            if let Err(error) = run(stage1_us, layer.as_ref()) {
                say(&format!("cannot go on: {error}"));
            }
        }
        Err(error) => say(&format!("cannot start: {error}")),
    }
    reboot()
}

/// Ends the VM. An arm64 guest switches itself off by PSCI, and a reset would start it afresh in Virtualization.framework;
/// an x86 one may have no power switch, and every VMM of its kind takes a reset as the end.
fn reboot() -> ! {
    const END: RebootCommand =
        if cfg!(target_arch = "aarch64") { RebootCommand::PowerOff } else { RebootCommand::Restart };
    rustix::fs::sync();
    let _ = rustix::system::reboot(END);
    // Not reached: PID 1 may reboot. Without the right, all that is left is to wait.
    loop {
        std::thread::park();
    }
}

/// A line on the console.
fn say(line: &str) {
    // Nowhere else to say that the console is gone.
    let _ = fs::write("/dev/console", format!("mvm: {line}\n"));
}

fn run(stage1_us: u64, layer: Option<&stage1::WritableLayer>) -> io::Result<()> {
    let init_us = crate::context::boot_us();
    log_to_console();
    mounts::mount_common()?;
    if layer.is_none() {
        read_only::cover()?;
    }
    let manifest = manifest();
    let lived = if manifest.init.is_empty() {
        begin(manifest, stage1_us, init_us)
    } else {
        handover::hand_over(&manifest).map(|never| match never {})
    };
    if mounts::close(layer) && lived.is_ok() {
        say("powered off cleanly");
    }
    lived
}

/// What the guest's parts have to say goes to standard output, which is the console.
fn log_to_console() {
    tracing_subscriber::fmt().without_time().with_ansi(false).with_max_level(tracing::Level::WARN).init();
}

/// What the image decided.
fn manifest() -> GuestManifest {
    documents::manifest(GUEST_MANIFEST_PATH.as_ref()).unwrap_or_else(|error| {
        say(&format!("{error}; without a manifest everything stays closed ({GUEST_MANIFEST_PATH})"));
        GuestManifest::default()
    })
}

/// The guest with the keys of its configuration.
fn guest(manifest: GuestManifest, config: GuestConfig) -> io::Result<Guest> {
    let keys = GuestKeys::from_hex(&config.guest_secret_key, &config.host_public_key).map_err(io::Error::other)?;
    Ok(Guest::new(manifest, config, keys))
}

/// From the mounts to the last process. However it ends, the file systems are closed after it.
fn begin(manifest: GuestManifest, stage1_us: u64, init_us: u64) -> io::Result<()> {
    mounts::mount_own()?;
    // Ctrl-Alt-Del is a request that comes as SIGINT, not a reset.
    let _ = rustix::system::reboot(RebootCommand::CadOff);
    let config = documents::config_from_drive()?;
    assume(&config, &manifest)?;
    let guest = Rc::new(guest(manifest, config)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, at_us) in [("stage1", stage1_us), ("init", init_us)] {
        guest.status.send_modify(|status| status.phases.push(BootPhase { name: name.into(), at_us }));
    }
    let lived = LocalSet::new().block_on(&runtime, async {
        let interface = guest.config.interface.clone();
        let network = async move { network::configure(interface.as_ref()).await };
        live(guest, Listener::vsock()?, Announce::Vsock, network).await
    });
    // With its tasks every connection ends, and with the connections whatever still writes to a file.
    runtime.shutdown_timeout(COPY_GRACE);
    lived
}

/// Makes this machine the one that the configuration says, with what it has been given.
fn assume(config: &GuestConfig, manifest: &GuestManifest) -> io::Result<()> {
    identity::assume(config, manifest)?;
    volumes::mount_all(&config.volumes)?;
    if config.secrets {
        secrets::place(&documents::secrets_from_drive()?, &manifest.secrets)?;
    }
    if manifest.read_only_root {
        read_only::lock()?;
    }
    Ok(())
}

/// From the agent's first word until every process has ended.
async fn live(
    guest: Rc<Guest>,
    listener: Listener,
    announce: Announce,
    network: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut sigint = signal(SignalKind::interrupt())?;
    let mut sigterm = signal(SignalKind::terminate())?;
    spawn_local(guest.reaper.clone().run());
    guest.phase("agent");
    // The host has its part of the handshake to do, while the guest goes on.
    spawn_local(agent::serve(guest.clone(), listener, Some(announce)));
    if let Err(error) = network.await {
        // A guest can be reached without a network; what needs one will fail and say so.
        say(&format!("network: {error}"));
    }
    let services = services::start(&guest);
    health::start(&guest);
    tokio::select! {
        () = guest.shutdown_requested() => {}
        _ = sigint.recv() => {}
        _ = sigterm.recv() => {}
    }
    guest.status.send_modify(|status| status.stopping = true);
    services.leave();
    shutdown::end_processes(&guest.reaper).await;
    Ok(())
}
