//! The agent alone, as an ordinary process: beside an init of the guest's own, and for tests on the host.

use crate::context::Guest;
use crate::init::{COPY_GRACE, health};
use crate::{agent, documents};
use mvm_core::GUEST_MANIFEST_PATH;
use mvm_protocol::GuestKeys;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: mvm-guest agent [--config FILE] [--manifest FILE] --listen vsock|unix:PATH";

/// How long those who watch may take to hear that the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the command line says.
#[derive(Debug, PartialEq)]
struct Options {
    /// The configuration; that of the config drive where absent.
    config: Option<PathBuf>,
    /// The manifest of the image.
    manifest: PathBuf,
    listen: Listen,
}

#[derive(Debug, PartialEq)]
enum Listen {
    /// In a VM, whose host is told.
    Vsock,
    Unix(PathBuf),
}

/// Runs the agent until it is told to stop. It ends with success then: whoever started it ends the guest.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt().without_time().with_writer(io::stderr).with_max_level(tracing::Level::WARN).init();
    let run = || run(Options::parse(std::env::args_os().skip(1)).ok_or_else(|| io::Error::other(USAGE))?);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        if args.next()? != "agent" {
            return None;
        }
        let (mut config, mut manifest, mut listen) = (None, None, None);
        while let Some(flag) = args.next() {
            let slot = match flag.to_str()? {
                "--config" => &mut config,
                "--manifest" => &mut manifest,
                "--listen" => &mut listen,
                _ => return None,
            };
            *slot = Some(PathBuf::from(args.next()?));
        }
        let listen = match listen?.to_str()? {
            "vsock" => Listen::Vsock,
            other => Listen::Unix(other.strip_prefix("unix:")?.into()),
        };
        Some(Self { config, manifest: manifest.unwrap_or_else(|| GUEST_MANIFEST_PATH.into()), listen })
    }
}

fn run(options: Options) -> io::Result<()> {
    let config = match &options.config {
        Some(path) => documents::config(path)?,
        None => documents::config_from_drive()?,
    };
    let manifest = documents::manifest(&options.manifest)?;
    let keys = GuestKeys::from_hex(&config.guest_secret_key, &config.host_public_key).map_err(io::Error::other)?;
    // Orphans of commands come to us, as they come to an init.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = tokio::task::LocalSet::new()
        .block_on(&runtime, serve(Rc::new(Guest::new(manifest, config, keys)), &options.listen));
    // With its tasks every connection has ended, and every command that belonged to one.
    runtime.shutdown_timeout(COPY_GRACE);
    served
}

async fn serve(guest: Rc<Guest>, listen: &Listen) -> io::Result<()> {
    // Before anybody can ask: a signal that comes early must not end the agent without a word.
    let mut sigterm = signal(SignalKind::terminate())?;
    tokio::task::spawn_local(guest.reaper.clone().run());
    let listener = match listen {
        Listen::Vsock => agent::Listener::vsock()?,
        Listen::Unix(path) => agent::Listener::unix(path)?,
    };
    guest.phase("agent");
    // What else has to run is the business of whoever started us, and health checks tell whether it does.
    guest.status.send_modify(|s| s.ready = true);
    health::start(&guest);
    let announce = (*listen == Listen::Vsock).then_some(agent::Announce::Vsock);
    tokio::task::spawn_local(agent::serve(guest.clone(), listener, announce));
    tokio::select! {
        () = guest.shutdown_requested() => {}
        _ = sigterm.recv() => {}
    }
    guest.status.send_modify(|s| s.stopping = true);
    // A host that does not hear it takes the end of the guest for a crash. One that does not read must not hold it up.
    let _ = tokio::time::timeout(FAREWELL, guest.status.closed()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Options> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_guest_knows_where_its_documents_are() {
        let options = Options { config: None, manifest: GUEST_MANIFEST_PATH.into(), listen: Listen::Vsock };
        assert_eq!(parse("agent --listen vsock"), Some(options));
        let options =
            Options { config: Some("/c".into()), manifest: "/m".into(), listen: Listen::Unix("/tmp/a.sock".into()) };
        assert_eq!(parse("agent --config /c --manifest /m --listen unix:/tmp/a.sock"), Some(options));
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for line in ["", "--listen vsock", "agent", "agent --listen", "agent --listen tcp", "agent --listen vsock x"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
