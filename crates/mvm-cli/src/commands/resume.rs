//! `mvmctl resume`.

use super::ask;
use crate::Context;
use mvm_core::{Fault, VmName};
use mvm_runtime::control::ControlRequest;

/// Let a paused VM go on
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The VM
    name: VmName,
}

pub(crate) async fn run(args: ResumeArgs, ctx: &Context) -> Result<u8, Fault> {
    let record = ask(&ctx.registry, &args.name, &ControlRequest::Resume).await?;
    ctx.ui.status(&format!("{} is {}", args.name, record.state));
    Ok(0)
}
