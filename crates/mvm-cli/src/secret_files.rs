//! Secrets from the files that hold them.

use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, SecretSource, Secrets};
use std::fs::File;
use std::io::{self, Read};

/// Reads the secrets that are given. A file may be a pipe: a signal ends the wait for it.
pub(crate) async fn read(sources: Vec<SecretSource>, interrupts: &mut Interrupts) -> Result<Secrets, Fault> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut secrets = Secrets::default();
        for SecretSource { name, file } in sources {
            let mut content = Vec::new();
            // A byte more than there may be, so that one that is too large is told from one that fits.
            let read = File::open(&file).and_then(|open| open.take(Secrets::EACH as u64 + 1).read_to_end(&mut content));
            read.map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                    io::ErrorKind::IsADirectory => ErrorKind::Usage,
                    _ => ErrorKind::Unexpected,
                };
                Fault::new(kind, format!("cannot read the secret {name:?} from {file:?}: {error}"))
            })?;
            secrets.add(&name, content)?;
        }
        Ok(secrets)
    });
    tokio::select! {
        read = reading => read.map_err(|e| Fault::unexpected("cannot read the secrets", &e))?,
        fault = interrupts.fault() => Err(fault),
    }
}
