//! The agent alone, as an ordinary process: for tests on the host, and for guests with an init of their own.

use crate::agent;
use crate::context::Guest;
use mvm_core::{GuestConfig, GuestManifest};
use mvm_protocol::GuestKeys;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the agent until it is told to stop.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt().without_time().with_writer(io::stderr).with_max_level(tracing::Level::WARN).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let usage = || io::Error::other("usage: mvm-guest agent --config FILE --manifest FILE --listen unix:PATH");
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some("agent".as_ref()) {
        return Err(usage());
    }
    let (mut config, mut manifest, mut listen) = (None, None, None);
    while let (Some(flag), value) = (args.next(), args.next()) {
        let slot = match flag.to_str() {
            Some("--config") => &mut config,
            Some("--manifest") => &mut manifest,
            Some("--listen") => &mut listen,
            _ => return Err(usage()),
        };
        *slot = Some(PathBuf::from(value.ok_or_else(usage)?));
    }
    let (Some(config), Some(manifest), Some(listen)) = (config, manifest, listen) else { return Err(usage()) };
    let path = listen.to_str().and_then(|l| l.strip_prefix("unix:")).ok_or_else(usage)?;
    let config: GuestConfig = serde_json::from_slice(&std::fs::read(config)?)?;
    let manifest: GuestManifest = serde_json::from_slice(&std::fs::read(manifest)?)?;
    let keys = GuestKeys::from_hex(&config.guest_secret_key, &config.host_public_key).map_err(io::Error::other)?;
    // Orphans of commands come to us, as they come to an init.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let guest = Rc::new(Guest::new(manifest, config, keys));
        tokio::task::spawn_local(guest.reaper.clone().run());
        guest.phase("agent");
        guest.status.send_modify(|s| s.ready = true);
        let listener = agent::Listener::unix(path.as_ref())?;
        tokio::task::spawn_local(agent::serve(guest.clone(), listener, false));
        let mut sigterm = signal(SignalKind::terminate())?;
        tokio::select! {
            () = guest.shutdown_requested() => {}
            _ = sigterm.recv() => {}
        }
        guest.status.send_modify(|s| s.stopping = true);
        Ok(())
    })
}
