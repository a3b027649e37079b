//! `nix build`, with events while it runs and a GC root when it is done.

use crate::advice::Trouble;
use crate::attributes::this_system;
use crate::cli::{Nix, describe};
use crate::error::NixError;
use crate::event::{BuildEvent, parse_bounded};
use crate::failure::FailureLog;
use crate::flake_ref::FlakeRef;
use crate::gc_root::GcRoot;
use crate::output;
use crate::process::NixProcess;
use nix_derivation::StorePath;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The flake and its attribute.
    pub flake: FlakeRef,
    /// Where the GC root goes: an absolute path that does not exist or is an earlier build's link.
    pub out_link: PathBuf,
    /// The system to build for, as in `aarch64-linux`; the machine's own where absent.
    pub system: Option<String>,
    /// Look again for newer versions of unlocked inputs.
    pub refresh: bool,
    /// Use no network: what is not in the store or its caches of fetched sources is an error.
    pub offline: bool,
    /// Further arguments for `nix build`, as in `--override-input NAME REF`.
    pub extra_args: Vec<OsString>,
}

impl BuildRequest {
    /// A build for this machine.
    pub fn new(flake: FlakeRef, out_link: impl Into<PathBuf>) -> Self {
        let out_link = out_link.into();
        Self { flake, out_link, system: None, refresh: false, offline: false, extra_args: Vec::new() }
    }
}

/// What came out of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOutput {
    /// The derivation; none where a store path was asked for.
    pub derivation: Option<StorePath>,
    /// All outputs that were asked for, by name.
    pub outputs: BTreeMap<String, StorePath>,
    /// The output to use: `out`, or else the only or first one.
    pub path: StorePath,
    /// Keeps the outputs until it is released.
    pub root: GcRoot,
}

impl Nix {
    /// Builds. `events` sees everything that Nix says, while it says it.
    ///
    /// # Errors
    /// A ref that is wrong or leads nowhere, before Nix is started; whatever Nix says, with the last lines of
    /// the builder that failed.
    ///
    /// # Cancellation
    /// Dropping the future interrupts Nix and blocks until it has ended (some hundredths of a second, at most
    /// five seconds): no builder is left. The GC root is not made then.
    pub async fn build(
        &self,
        request: &BuildRequest,
        mut events: impl FnMut(&BuildEvent),
    ) -> Result<BuildOutput, NixError> {
        let mut flake = request.flake.clone().locate()?;
        if let Some(system) = &request.system {
            flake = flake.for_system(system)?;
        }
        let link = &request.out_link;
        let failed = |what, source| NixError::GcRoot { what, path: link.clone(), source };
        let folder = link.parent().filter(|_| link.is_absolute());
        let folder = folder.ok_or_else(|| failed("make", std::io::ErrorKind::InvalidInput.into()))?;
        std::fs::create_dir_all(folder).map_err(|e| failed("make", e))?;

        let installable = flake.installable();
        let mut command = self.command(&["build", "--json"]);
        command.arg("--out-link").arg(link);
        if request.refresh {
            command.arg("--refresh");
        }
        if request.offline {
            command.arg("--offline");
        }
        // After `--` nothing is read as an option, whatever the user wrote.
        command.args(&request.extra_args).arg("--").arg(&installable);
        let running = NixProcess::start(command, self.program()).await?;
        let mut log = FailureLog::default();
        let ended = running
            .run(|line| {
                let event = parse_bounded(&line);
                log.apply(&event);
                events(&event);
            })
            .await?;
        if !ended.status.success() {
            let mut failure = log.finish(installable, &describe(ended.status));
            if failure.trouble == Some(Trouble::NoAttribute) {
                let system = request.system.clone().unwrap_or_else(this_system);
                failure.advice = self.advise_attribute(&flake, &system, &request.extra_args).await;
            }
            return Err(Box::new(failure).into());
        }
        let built = output::parse(&ended.stdout)?;
        let [built] = <[_; 1]>::try_from(built)
            .map_err(|all| NixError::NoOutput(format!("{installable} gave {} results", all.len())))?;
        let path = built.outputs.get("out").or_else(|| built.outputs.values().next()).cloned();
        let path = path.ok_or_else(|| NixError::NoOutput(format!("{installable} has no outputs")))?;
        Ok(BuildOutput { derivation: built.derivation, outputs: built.outputs, path, root: GcRoot::at(link) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    /// What one real Nix printed; see `tests/record-samples.sh`.
    pub(crate) struct Sample {
        /// Version and file, for messages.
        pub name: String,
        /// The file's name without its extension.
        pub file: String,
        pub bytes: Vec<u8>,
    }

    pub(crate) fn samples(extension: &str) -> impl Iterator<Item = Sample> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let files = ["2.8", "2.26", "2.34"].map(|version| data.join(version).read_dir().unwrap());
        files.into_iter().flatten().map(|e| e.unwrap().path()).filter(move |p| p.extension().unwrap() == extension).map(
            |path| Sample {
                name: path.strip_prefix(data_root()).unwrap().display().to_string(),
                file: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                bytes: std::fs::read(path).unwrap(),
            },
        )
    }

    fn data_root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"))
    }
}
