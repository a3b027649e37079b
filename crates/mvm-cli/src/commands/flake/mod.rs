//! `mvmctl flake`: what concerns a flake as a whole.

mod check;

use crate::Context;
use mvm_core::Fault;

/// Look after a flake
#[derive(Debug, clap::Args)]
pub(crate) struct FlakeArgs {
    #[command(subcommand)]
    command: FlakeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FlakeCommand {
    Check(check::CheckArgs),
}

pub(crate) async fn run(args: FlakeArgs, ctx: &Context) -> Result<u8, Fault> {
    match args.command {
        FlakeCommand::Check(args) => check::run(args, ctx).await,
    }
}
