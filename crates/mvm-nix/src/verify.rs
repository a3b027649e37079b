//! `nix store verify`: whether store paths still have the content that was put there.

use crate::cli::{Nix, describe};
use crate::error::NixError;
use crate::event::{BuildEvent, parse_bounded};
use crate::failure::FailureLog;
use crate::process::NixProcess;
use nix_derivation::StorePath;

impl Nix {
    /// Reads a store path, and all that it needs, and compares it with what Nix has noted of it. Gives the paths whose
    /// content is another; none where all is well. Takes as long as it takes to read them.
    ///
    /// # Errors
    /// A path that Nix does not know, or that cannot be read.
    ///
    /// # Cancellation
    /// As that of [`Nix::build`].
    pub async fn verify(&self, path: &StorePath) -> Result<Vec<String>, NixError> {
        let installable = path.to_absolute_path();
        let mut command = self.command(&["store", "verify", "--recursive", "--no-trust"]);
        command.arg("--").arg(&installable);
        let running = NixProcess::start(command, self.program()).await?;
        let (mut log, mut corrupted) = (FailureLog::default(), Vec::new());
        let ended = running
            .run(|line| match parse_bounded(&line) {
                BuildEvent::Corrupted { path } => corrupted.push(path),
                event => log.apply(&event),
            })
            .await?;
        // The exit code alone would not tell a path that was changed from one that Nix does not know.
        if ended.status.success() || !corrupted.is_empty() {
            return Ok(corrupted);
        }
        Err(Box::new(log.finish(installable, &describe(ended.status))).into())
    }
}
