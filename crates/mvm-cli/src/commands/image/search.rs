//! `mvmctl image search`.

use super::known;
use crate::Context;
use mvm_core::Fault;

/// Search images by name, tag, category and description
///
/// Each of the words has to be found; case does not count. Neither Nix nor a network is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl image search database\n  mvmctl image search web server --json")]
pub(crate) struct SearchArgs {
    /// What to look for
    #[arg(required = true)]
    words: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: SearchArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut images = known::all(ctx)?;
    images.retain(|image| image.matches(&args.words));
    if images.is_empty() && !args.json {
        ctx.ui.status(&format!("no image is described by {:?}; `mvmctl image list` shows all", args.words.join(" ")));
        return Ok(0);
    }
    known::show(ctx, &images, args.json)
}
