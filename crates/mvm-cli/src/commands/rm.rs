//! `mvmctl rm`.

use super::down::{Stopped, every, stop};
use crate::Context;
use mvm_core::{Fault, VmName};
use mvm_runtime::RegistryError;

/// Remove VMs with everything they own
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The VMs
    #[arg(required = true)]
    names: Vec<VmName>,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(args: RmArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut done = Vec::new();
    for name in &args.names {
        done.push(remove(ctx, name, args.force).await);
    }
    every(ctx, done)
}

async fn remove(ctx: &Context, name: &VmName, force: bool) -> Result<(), Fault> {
    let killed = force && stop(ctx, name, 0).await? != Stopped::Before;
    match ctx.registry.remove(name) {
        Err(RegistryError::NotFound(_)) if killed => Ok(()),
        done => Ok(done?),
    }
}
