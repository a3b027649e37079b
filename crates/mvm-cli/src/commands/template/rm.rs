//! `mvmctl template rm`.

use crate::Context;
use crate::commands::down::every;
use mvm_core::{Fault, TemplateName};

/// Remove templates
///
/// VMs that were made of one keep their image.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl template rm site db")]
pub(super) struct RmArgs {
    /// The templates
    #[arg(required = true)]
    names: Vec<TemplateName>,
}

pub(super) fn run(args: RmArgs, ctx: &Context) -> Result<u8, Fault> {
    let templates = ctx.templates();
    every(ctx, args.names.iter().map(|name| Ok(templates.remove(name)?)).collect())
}
