//! `mvmctl rm`.

use super::down::{Stopped, every, stop};
use crate::{Context, creation};
use mvm_core::{Fault, VmName};
use mvm_runtime::RegistryError;

/// Remove VMs with everything they own but their volumes
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The VMs
    #[arg(required = true)]
    names: Vec<VmName>,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Remove their volumes too, also those of VMs that were removed before
    #[arg(short, long)]
    volumes: bool,
}

pub(crate) async fn run(args: RmArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut done = Vec::new();
    for name in &args.names {
        done.push(remove(ctx, name, &args).await);
    }
    every(ctx, done)
}

async fn remove(ctx: &Context, name: &VmName, args: &RmArgs) -> Result<(), Fault> {
    let killed = args.force && stop(ctx, name, 0).await? != Stopped::Before;
    match remove_stopped(ctx, name, args.volumes).await {
        Err(RegistryError::NotFound(_)) if killed => Ok(()),
        done => Ok(done?),
    }
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
