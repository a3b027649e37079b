//! The signals by which a person or a service manager ends a command. Who hears them must go on hearing: once they are
//! heard they no longer end the process by themselves.

use mvm_core::Fault;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    /// From now on, for the whole command: what comes while nobody asks is kept for the next one who does.
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

    /// Does what may block on a thread of its own, which is left behind where a signal comes first.
    pub(crate) async fn blocking<T, E>(
        &mut self,
        what: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        E: Into<Fault> + Send + 'static,
    {
        tokio::select! {
            done = tokio::task::spawn_blocking(what) => match done {
                Ok(done) => done.map_err(Into::into),
                Err(e) => Err(Fault::unexpected("a thread died", &e)),
            },
            fault = self.fault() => Err(fault),
        }
    }

    /// The end of the command that the next one asks for. Cancel-safe.
    pub(crate) async fn fault(&mut self) -> Fault {
        Fault::interrupted(u8::try_from(self.next().await).unwrap_or_default())
    }
}
