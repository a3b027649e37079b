//! `mvmctl pause`.

use super::ask;
use crate::Context;
use mvm_core::{Fault, VmName};
use mvm_runtime::control::ControlRequest;

/// Stop a VM's CPUs; its memory stays
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// The VM
    name: VmName,
}

pub(crate) async fn run(args: PauseArgs, ctx: &Context) -> Result<u8, Fault> {
    let record = ask(&ctx.registry, &args.name, &ControlRequest::Pause).await?;
    ctx.ui.status(&format!("{} is {}", args.name, record.state));
    Ok(0)
}
