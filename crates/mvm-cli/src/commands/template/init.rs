//! `mvmctl template init`.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::own_flake::{flake_alone, own_flake};
use crate::preset::{self, Preset};
use mvm_core::{ErrorKind, Fault};
use mvm_nix::{FlakeRef, Place};
use std::path::{Path, PathBuf};

/// Write a flake of one's own to start from, into a new folder
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl template init site --preset http\n  mvmctl template init box --mvm github:me/mvm"
)]
pub(super) struct InitArgs {
    /// The folder: a new one, or one that is empty
    #[arg(value_name = "NAME")]
    folder: PathBuf,
    /// What to start from
    #[arg(long, value_name = "PRESET", default_value = "minimal", value_parser = preset::parser())]
    preset: String,
    /// The flake ref of mvm that it uses; the one that this mvmctl came from where absent
    #[arg(long, value_name = "REF")]
    mvm: Option<String>,
}

pub(super) async fn run(args: InitArgs, ctx: &Context) -> Result<u8, Fault> {
    let unknown = || Fault::new(ErrorKind::Usage, format!("there is no preset {:?}", args.preset));
    let preset = Preset::find(&args.preset).ok_or_else(unknown)?;
    let folder =
        std::path::absolute(&args.folder).map_err(|e| Fault::unexpected("cannot find the folder's place", &e))?;
    // A flake whose folder no ref can name would be of no use.
    FlakeRef::parse(".", &folder, None)?;
    let mvm = mvm(args.mvm.as_deref(), ctx)?;
    // Heard, so that a signal does not come between: it is a matter of milliseconds.
    let _interrupts = Interrupts::hear()?;
    let files = preset.files(&mvm);
    mvm_runtime::write_project(&folder, &files)?;
    for (path, _) in &files {
        ctx.ui.status(&format!("wrote {}", args.folder.join(path).display()));
    }
    if is_local(&mvm) {
        ctx.ui.status(&format!("note: it takes mvm from {mvm}, which others may not have; --mvm gives another ref"));
    }
    for step in next_steps(&folder, &args.folder) {
        ctx.ui.status(&step);
    }
    ctx.ui.data(&folder.to_string_lossy());
    Ok(0)
}

/// The flake of mvm: the one that is given, or the one that this mvmctl came from.
fn mvm(given: Option<&str>, ctx: &Context) -> Result<FlakeRef, Fault> {
    let flake = match given {
        Some(text) => flake_alone(text.parse()?)?,
        None => own_flake(ctx).map_err(|fault| {
            let hint = fault.hint.map_or(String::new(), |hint| format!("; or {hint}"));
            Fault { hint: Some(format!("say it with --mvm REF, as in `--mvm github:OWNER/mvm`{hint}")), ..fault }
        })?,
    };
    flake.clone().locate()?;
    Ok(flake)
}

fn is_local(flake: &FlakeRef) -> bool {
    !matches!(flake.place(), Place::Url { folder: None, .. } | Place::Registry(_))
}

/// What to do with the folder, as it was written on the command line.
fn next_steps(folder: &Path, given: &Path) -> Vec<String> {
    let shown = shell_words::quote(&given.to_string_lossy()).into_owned();
    let in_git = folder.ancestors().any(|above| above.join(".git").exists());
    let add = in_git.then(|| format!("next: `git add {shown}`: Nix sees only the files that Git knows"));
    // A path that begins with neither would be a name of Nix's registry.
    let flake = if shown.starts_with(['/', '.']) { shown } else { format!("./{shown}") };
    add.into_iter().chain([format!("next: `mvmctl up -d --flake {flake}`; README.md says more")]).collect()
}
