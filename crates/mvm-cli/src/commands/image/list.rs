//! `mvmctl image list`.

use super::known;
use crate::Context;
use mvm_core::Fault;

/// List the images of the catalog and those on this machine
///
/// The catalog is the one that this mvmctl was built with: neither Nix nor a network is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl image list\n  mvmctl image list --here --json")]
pub(crate) struct ListArgs {
    /// Only those on this machine
    #[arg(long)]
    here: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: ListArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut images = known::all(ctx)?;
    images.retain(|image| !args.here || image.local.is_some());
    known::show(ctx, &images, args.json)
}
