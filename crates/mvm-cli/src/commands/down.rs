//! `mvmctl down`.

use crate::{Context, creation};
use futures_util::future::join_all;
use mvm_core::{ExitReason, Fault, VmName};
use mvm_runtime::{ControlClient, RegistryError};

/// Stop VMs in order
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {
    /// The VMs
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<VmName>,
    /// Every VM that runs
    #[arg(long)]
    all: bool,
    /// Seconds that a guest gets to power off before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86400))]
    timeout: u64,
    /// Kill at once
    #[arg(long, conflicts_with = "timeout")]
    force: bool,
    /// Remove them afterwards
    #[arg(long)]
    rm: bool,
    /// Remove their volumes too
    #[arg(short, long, requires = "rm")]
    volumes: bool,
}

pub(crate) async fn run(args: DownArgs, ctx: &Context) -> Result<u8, Fault> {
    let names = if args.all {
        ctx.registry.list()?.into_iter().filter(|vm| vm.record.state.is_live()).map(|vm| vm.spec.name).collect()
    } else {
        args.names
    };
    let grace_ms = if args.force { 0 } else { args.timeout * 1000 };
    let done = join_all(names.iter().map(|name| down(ctx, name, grace_ms, args.rm, args.volumes))).await;
    every(ctx, done)
}

/// Tells of every failure and ends with the first.
pub(super) fn every(ctx: &Context, done: Vec<Result<(), Fault>>) -> Result<u8, Fault> {
    let mut faults = done.into_iter().filter_map(Result::err);
    let Some(first) = faults.next() else { return Ok(0) };
    for fault in faults {
        ctx.ui.fault(&fault);
    }
    Err(first)
}

/// Removes a VM that does not run, and tells which volumes are left of it.
pub(super) async fn remove_stopped(ctx: &Context, name: &VmName, volumes: bool) -> Result<(), RegistryError> {
    creation::remove(ctx, name, volumes).await?;
    let kept = ctx.registry.volumes(name)?;
    if !kept.is_empty() {
        let folder = ctx.registry.vm(name).volumes().display().to_string();
        ctx.ui.status(&format!(
            "volumes of {name} are kept in {folder}: {}; `mvmctl rm --volumes {name}` removes them",
            kept.join(", ")
        ));
    }
    Ok(())
}

async fn down(ctx: &Context, name: &VmName, grace_ms: u64, remove: bool, volumes: bool) -> Result<(), Fault> {
    ctx.registry.get(name)?;
    match stop(ctx, name, grace_ms).await? {
        Stopped::Before => ctx.ui.status(&format!("{name} does not run")),
        Stopped::Killed if grace_ms > 0 => {
            ctx.ui.warning(&format!("{name} did not power off in order and was killed"));
        }
        Stopped::Now | Stopped::Killed => ctx.ui.status(&format!("{name} is stopped")),
    }
    if !remove {
        return Ok(());
    }
    match remove_stopped(ctx, name, volumes).await {
        // One that removes itself has done so.
        Err(RegistryError::NotFound(_)) => Ok(()),
        done => Ok(done?),
    }
}

/// What became of a VM that was to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It did not run.
    Before,
    /// It has ended.
    Now,
    /// It has been killed.
    Killed,
}

/// Stops a VM and waits for its end.
pub(super) async fn stop(ctx: &Context, name: &VmName, grace_ms: u64) -> Result<Stopped, Fault> {
    if !ctx.registry.is_running(name)? {
        return Ok(Stopped::Before);
    }
    let asked = async { ControlClient::connect(&ctx.registry.vm(name))?.stop(grace_ms).await };
    match asked.await {
        Ok(()) => match ctx.registry.get(name) {
            Ok(vm) if vm.record.exit == Some(ExitReason::Killed) => Ok(Stopped::Killed),
            // One that removes itself tells no more.
            _ => Ok(Stopped::Now),
        },
        // It may have ended while it was asked.
        Err(_) if !ctx.registry.is_running(name)? => Ok(Stopped::Now),
        Err(error) => Err(error.into()),
    }
}
