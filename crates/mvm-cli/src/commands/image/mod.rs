//! `mvmctl image`: one file a command, as above.

mod fetch;
mod info;
mod known;
mod list;
mod rm;
mod search;
mod verify;

use crate::Context;
use mvm_core::Fault;

/// Images: those of the catalog, and those on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

const EXAMPLES: &str = "\
Examples:
  mvmctl image search database   what there is
  mvmctl image fetch postgres    build it with Nix, or fetch it from a binary cache
  mvmctl up db --image postgres  run it";

#[derive(Debug, clap::Subcommand)]
enum ImageCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Search(search::SearchArgs),
    Info(info::InfoArgs),
    Fetch(fetch::FetchArgs),
    Rm(rm::RmArgs),
    Verify(verify::VerifyArgs),
}

pub(crate) async fn run(args: ImageArgs, ctx: &Context) -> Result<u8, Fault> {
    match args.command {
        ImageCommand::List(args) => list::run(args, ctx),
        ImageCommand::Search(args) => search::run(args, ctx),
        ImageCommand::Info(args) => info::run(args, ctx),
        ImageCommand::Fetch(args) => fetch::run(args, ctx).await,
        ImageCommand::Rm(args) => rm::run(args, ctx).await,
        ImageCommand::Verify(args) => verify::run(args, ctx).await,
    }
}
