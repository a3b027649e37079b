//! `nix build`, with events while it runs and a GC root when it is done.

use crate::attributes::this_system;
use crate::cli::{Nix, describe};
use crate::error::NixError;
use crate::evaluation::{Before, Evaluation, Recalled};
use crate::event::{BuildEvent, parse_bounded};
use crate::failure::FailureLog;
use crate::flake_ref::{FlakeRef, Place};
use crate::gc_root::GcRoot;
use crate::output::{self, Realised};
use crate::process::NixProcess;
use nix_derivation::StorePath;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The flake and its attribute.
    pub flake: FlakeRef,
    /// Where the GC root goes: an absolute path that does not exist or is an earlier build's link.
    pub out_link: PathBuf,
    /// The system to build for, as in `aarch64-linux`; the machine's own where absent.
    pub system: Option<String>,
    /// Evaluate even where the answer is remembered, and look again for newer versions of unlocked inputs.
    pub refresh: bool,
    /// Use no network: what is not in the store or its caches of fetched sources is an error.
    pub offline: bool,
    /// Further arguments for `nix build`, as in `--override-input NAME REF`.
    pub extra_args: Vec<OsString>,
    /// The folder in which evaluations are remembered; with it Nix is not started for a flake that has not changed.
    /// Requests with further arguments are always evaluated.
    pub evaluations: Option<PathBuf>,
}

impl BuildRequest {
    /// A build for this machine.
    pub fn new(flake: FlakeRef, out_link: impl Into<PathBuf>) -> Self {
        Self {
            flake,
            out_link: out_link.into(),
            system: None,
            refresh: false,
            offline: false,
            extra_args: Vec::new(),
            evaluations: None,
        }
    }

    /// The flake as it is asked of Nix.
    fn located(&self) -> Result<FlakeRef, NixError> {
        let flake = self.flake.clone().locate()?;
        let flake = match &self.system {
            Some(system) => flake.for_system(system)?,
            None => flake,
        };
        Ok(flake.image_of_configuration())
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
    /// Whether the answer was remembered, and nothing evaluated.
    pub remembered: bool,
}

impl Nix {
    /// Builds. `events` sees everything that Nix says, while it says it.
    ///
    /// Where the request names a folder for evaluations and nothing has changed since one was remembered, nothing is
    /// evaluated; and where the link keeps its output already, Nix is not started. Else a `nix build` of the store path
    /// makes the link, since only Nix can register it.
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
        let flake = request.located()?;
        make_room(&request.out_link)?;
        let refresh = request.refresh;
        let recalled = match Evaluation::of(self, request, &flake) {
            Some(evaluation) => off_thread(evaluation, move |e| e.recall(refresh)).await,
            None => None,
        };
        let before = match recalled {
            Some(Recalled::Answer(answer)) => match self.kept(request, answer, &mut events).await? {
                Some(output) => return Ok(output),
                None => None,
            },
            Some(Recalled::Nothing(before)) => before,
            None => None,
        };
        if !matches!(flake.place(), Place::Store(_)) {
            events(&BuildEvent::Evaluating);
        }
        let answer = match before {
            Some(before) => self.build_and_remember(request, &flake, *before, &mut events).await?,
            None => self.run_build_of_either(request, &flake, false, &mut events).await?.0,
        };
        BuildOutput::new(answer, request, false)
    }

    /// Builds, and remembers the answer with what there was `before`.
    async fn build_and_remember(
        &self,
        request: &BuildRequest,
        flake: &FlakeRef,
        before: Before,
        events: &mut impl FnMut(&BuildEvent),
    ) -> Result<Realised, NixError> {
        let read = tokio::task::spawn_blocking(|| before.read());
        let (answer, complains) = self.run_build_of_either(request, flake, true, events).await?;
        if let Ok(Ok(before)) = read.await {
            let (nix, answer) = (self.clone(), answer.clone());
            off_thread(before, move |before| before.remember(&nix, &answer, complains)).await;
        }
        Ok(answer)
    }

    /// Builds what has the name; where it is no package, which is all that Nix looks for, then the NixOS configuration
    /// that has it.
    async fn run_build_of_either(
        &self,
        request: &BuildRequest,
        flake: &FlakeRef,
        strict: bool,
        events: &mut impl FnMut(&BuildEvent),
    ) -> Result<(Realised, bool), NixError> {
        let missing = match self.run_build(request, flake, strict, events).await {
            Err(error) if error.lacks_attribute() => error,
            done => return done,
        };
        if let Some(configuration) = flake.as_configuration() {
            match self.run_build(request, &configuration, strict, events).await {
                Err(error) if error.lacks_attribute() => {}
                done => return done,
            }
        }
        Err(self.advised(missing, request, flake).await)
    }

    /// Keeps what is remembered from Nix's garbage collector. `None` where that fails: it may be gone by now.
    async fn kept(
        &self,
        request: &BuildRequest,
        answer: Realised,
        events: &mut impl FnMut(&BuildEvent),
    ) -> Result<Option<BuildOutput>, NixError> {
        let output = BuildOutput::new(answer, request, true)?;
        if output.root.keeps(&output.path, &self.state_folder()) {
            return Ok(Some(output));
        }
        let store = FlakeRef::of_store_path(output.path.clone());
        let plain = BuildRequest { system: None, refresh: false, ..request.clone() };
        Ok(self.run_build(&plain, &store, false, events).await.is_ok().then_some(output))
    }

    /// One `nix build`; with `strict` it also tells whether Nix complained about a lock file.
    async fn run_build(
        &self,
        request: &BuildRequest,
        flake: &FlakeRef,
        strict: bool,
        events: &mut impl FnMut(&BuildEvent),
    ) -> Result<(Realised, bool), NixError> {
        let installable = flake.installable();
        let mut command = self.command(&["build", "--json"]);
        command.arg("--out-link").arg(&request.out_link);
        if request.refresh {
            command.arg("--refresh");
        }
        if request.offline {
            command.arg("--offline");
        }
        if strict {
            // Without it Nix says nothing of inputs that it cannot lock.
            command.args(["--option", "warn-dirty", "true"]);
        }
        // After `--` nothing is read as an option, whatever the user wrote.
        command.args(&request.extra_args).arg("--").arg(&installable);
        let running = NixProcess::start(command, self.program()).await?;
        let (mut log, mut complains) = (FailureLog::default(), false);
        let ended = running
            .run(|line| {
                let event = parse_bounded(&line);
                complains |= matches!(&event, BuildEvent::Message { level: ..=1, text } if is_about_a_lock(text));
                log.apply(&event);
                events(&event);
            })
            .await?;
        if !ended.status.success() {
            return Err(log.finish(installable, &describe(ended.status)).about(flake).into());
        }
        let built = output::parse(&ended.stdout)?;
        let [built] = <[_; 1]>::try_from(built)
            .map_err(|all| NixError::NoOutput(format!("{installable} gave {} results", all.len())))?;
        Ok((built, complains))
    }

    /// The error with the names that the flake has.
    async fn advised(&self, error: NixError, request: &BuildRequest, flake: &FlakeRef) -> NixError {
        let NixError::Failed(mut failure) = error else { return error };
        let system = request.system.clone().unwrap_or_else(this_system);
        failure.advice = self.advise_attribute(flake, &system, &request.extra_args).await;
        NixError::Failed(failure)
    }
}

impl BuildOutput {
    fn new(answer: Realised, request: &BuildRequest, remembered: bool) -> Result<Self, NixError> {
        let Realised { derivation, outputs } = answer;
        let path = outputs.get("out").or_else(|| outputs.values().next()).cloned();
        let path = path.ok_or_else(|| NixError::NoOutput(format!("{} has no outputs", request.flake)))?;
        Ok(Self { derivation, outputs, path, root: GcRoot::at(&request.out_link), remembered })
    }
}

/// Whether Nix complains about a lock file, as all versions call it. (`lock` alone is a part of many folders' names, and
/// a work tree that is dirty is named in a warning.)
fn is_about_a_lock(text: &str) -> bool {
    text.to_lowercase().contains("lock file")
}

/// Makes the folder of a link, where it is missing.
fn make_room(link: &Path) -> Result<(), NixError> {
    let failed = |source| NixError::GcRoot { what: "make", path: link.to_owned(), source };
    let folder = link.parent().filter(|_| link.is_absolute());
    let folder = folder.ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
    std::fs::create_dir_all(folder).map_err(failed)
}

/// Does on a thread of its own what waits for disks. `None` where it panicked: then it is not known.
async fn off_thread<A: Send + 'static, T: Send + 'static>(
    given: A,
    work: impl FnOnce(A) -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(move || work(given)).await.ok()
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
