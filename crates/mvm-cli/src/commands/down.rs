//! `mvmctl down`.

use crate::Context;
use futures_util::future::join_all;
use mvm_core::{Fault, VmName};
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
}

pub(crate) async fn run(args: DownArgs, ctx: &Context) -> Result<u8, Fault> {
    let names = if args.all {
        ctx.registry.list()?.into_iter().filter(|vm| vm.record.state.is_live()).map(|vm| vm.spec.name).collect()
    } else {
        args.names
    };
    let grace_ms = if args.force { 0 } else { args.timeout * 1000 };
    let done = join_all(names.iter().map(|name| down(ctx, name, grace_ms, args.rm))).await;
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

async fn down(ctx: &Context, name: &VmName, grace_ms: u64, remove: bool) -> Result<(), Fault> {
    ctx.registry.get(name)?;
    if stop(ctx, name, grace_ms).await? {
        ctx.ui.status(&format!("{name} is stopped"));
    } else {
        ctx.ui.status(&format!("{name} does not run"));
    }
    match remove.then(|| ctx.registry.remove(name)) {
        // One that removes itself has done so.
        None | Some(Ok(()) | Err(RegistryError::NotFound(_))) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Stops a VM and waits for its end; tells whether it ran.
pub(super) async fn stop(ctx: &Context, name: &VmName, grace_ms: u64) -> Result<bool, Fault> {
    if !ctx.registry.is_running(name)? {
        return Ok(false);
    }
    let asked = async { ControlClient::connect(&ctx.registry.vm(name))?.stop(grace_ms).await };
    match asked.await {
        Ok(()) => Ok(true),
        // It may have ended while it was asked.
        Err(_) if !ctx.registry.is_running(name)? => Ok(true),
        Err(error) => Err(error.into()),
    }
}
