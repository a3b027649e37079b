//! `mvmctl template create`.

use super::{Values, check};
use crate::Context;
use mvm_core::{Fault, TemplateName};

/// Keep a flake under a name, with what a VM of it gets
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl template create site --flake .\n  mvmctl template create db --flake github:me/images --profile postgres --memory 1G -p 5432:5432"
)]
pub(super) struct CreateArgs {
    /// The template's name
    name: TemplateName,
    /// The flake ref
    #[arg(long, value_name = "REF")]
    flake: String,
    #[command(flatten)]
    values: Values,
}

pub(super) fn run(args: CreateArgs, ctx: &Context) -> Result<u8, Fault> {
    let text = args.values.change(Some(&args.flake))?.create()?;
    check(text.as_bytes())?;
    ctx.templates().create(&args.name, &text)?;
    ctx.ui.status(&format!("`mvmctl up --template {}` makes a VM of it", args.name));
    Ok(0)
}
