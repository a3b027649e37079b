//! `mvmctl rm`.

use super::down::{Stopped, every, remove_stopped, stop};
use crate::Context;
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
