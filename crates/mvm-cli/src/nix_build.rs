//! Asking Nix for what a flake has, with its progress on the terminal.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::progress::BuildProgress;
use mvm_core::Fault;
use mvm_nix::{BuildEvent, BuildOutput, BuildRequest, FlakeRef, Nix};
use std::path::Path;

/// What is asked of Nix.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub flake: FlakeRef,
    /// Evaluate it whatever is remembered.
    pub refresh: bool,
}

impl Wanted {
    /// An output of a flake, as typed here; of a ref that is given alone the one that `profile` names.
    pub(crate) fn typed(flake: &str, profile: Option<&str>, refresh: bool) -> Result<Self, Fault> {
        let flake = flake_ref(flake)?;
        let flake = profile.map_or(Ok(flake.clone()), |profile| flake.with_profile(profile))?;
        Ok(Self { flake, refresh })
    }
}

impl From<FlakeRef> for Wanted {
    /// As it was, if nothing has changed.
    fn from(flake: FlakeRef) -> Self {
        Self { flake, refresh: false }
    }
}

/// `nix build`, with its progress on the terminal. Ctrl-C ends it in order.
pub(crate) async fn build(
    ctx: &Context,
    wanted: impl Into<Wanted>,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<(FlakeRef, BuildOutput), Fault> {
    let mut progress = BuildProgress::new(&ctx.ui);
    build_with(ctx, &wanted.into(), link, interrupts, |event| progress.show(event)).await
}

/// The same for somebody who shows the progress himself.
pub(crate) async fn build_with(
    ctx: &Context,
    wanted: &Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
    events: impl FnMut(&BuildEvent),
) -> Result<(FlakeRef, BuildOutput), Fault> {
    let flake = wanted.flake.clone();
    let nix = Nix::find()?;
    let request = BuildRequest {
        refresh: wanted.refresh,
        evaluations: Some(ctx.dirs().evaluations()),
        ..BuildRequest::new(flake.clone(), link)
    };
    let done = tokio::select! {
        done = nix.build(&request, events) => done.map_err(Fault::from),
        fault = interrupts.fault() => Err(fault),
    };
    Ok((flake, done?))
}

/// Keeps what is in Nix's store: `link` becomes a GC root of it.
pub(crate) async fn keep(ctx: &Context, path: &Path, link: &Path, interrupts: &mut Interrupts) -> Result<(), Fault> {
    let path = flake_ref(&path.to_string_lossy())?;
    build(ctx, path, link, interrupts).await.map(drop)
}

/// A flake ref as it was typed here.
pub(crate) fn flake_ref(text: &str) -> Result<FlakeRef, Fault> {
    let cwd = std::env::current_dir().map_err(|e| Fault::unexpected("cannot tell the current folder", &e))?;
    Ok(FlakeRef::parse(text, &cwd, std::env::home_dir().as_deref())?)
}
