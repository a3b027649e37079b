//! `mvmctl inspect`.

use crate::Context;
use mvm_core::{Fault, VmName};

/// Show all that is known of a VM, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The VM
    name: VmName,
}

pub(crate) async fn run(args: InspectArgs, ctx: &Context) -> Result<u8, Fault> {
    ctx.ui.json(&ctx.registry.get(&args.name)?)?;
    Ok(0)
}
