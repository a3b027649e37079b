//! The signals by which a person or a service manager ends a command.

use mvm_core::Fault;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn hear() -> Result<Self, Fault> {
        let hear = |kind| signal(kind).map_err(|e| Fault::unexpected("cannot listen for signals", &e));
        Ok(Self {
            int: hear(SignalKind::interrupt())?,
            term: hear(SignalKind::terminate())?,
            hup: hear(SignalKind::hangup())?,
        })
    }

    /// The next one, by its number. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.int.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.term.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hup.recv() => SignalKind::hangup().as_raw_value(),
        }
    }
}
