//! `mvmctl template build`.

use super::BuildFacts;
use crate::Context;
use crate::interrupt::Interrupts;
use crate::template_build;
use mvm_core::{Fault, TemplateName};

/// Build a template's image anew
///
/// VMs that are there go on with the image that they were made of. Where the build fails the image of the last one stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl template build site")]
pub(super) struct BuildArgs {
    /// The template
    name: TemplateName,
    /// Evaluate the flake even if nothing has changed
    #[arg(long)]
    refresh: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BuildArgs, ctx: &Context) -> Result<u8, Fault> {
    let templates = ctx.templates();
    let stored = templates.get(&args.name)?;
    let mut interrupts = Interrupts::hear()?;
    let build = template_build::build(ctx, &stored, args.refresh, &mut interrupts).await?;
    if args.json {
        let stored = templates.get(&args.name)?;
        ctx.ui.json(&BuildFacts::of(&stored, &build))?;
    } else {
        ctx.ui.data(&build.image.to_string_lossy());
    }
    Ok(0)
}
