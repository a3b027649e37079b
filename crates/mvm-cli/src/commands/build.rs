//! `mvmctl build`.

use crate::Context;
use crate::boot;
use crate::interrupt::Interrupts;
use mvm_core::{Fault, ImageManifest};
use serde::Serialize;
use std::path::PathBuf;

/// Build an image with Nix and print where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl build .#image -o result")]
pub(crate) struct BuildArgs {
    /// The flake ref
    #[arg(value_name = "REF", required_unless_present = "named", conflicts_with = "named")]
    flake: Option<String>,
    /// The same, as an option
    #[arg(long = "flake", id = "named", value_name = "REF")]
    named: Option<String>,
    /// The link that keeps it from Nix's garbage collector; one in mvm's folder, which the next build takes over,
    /// where absent
    #[arg(short, long, value_name = "PATH")]
    out_link: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built<'b> {
    path: String,
    out_link: PathBuf,
    image: &'b ImageManifest,
}

pub(crate) async fn run(args: BuildArgs, ctx: &Context) -> Result<u8, Fault> {
    let (link, _building) = match args.out_link {
        Some(link) => {
            let link = std::path::absolute(link).map_err(|e| Fault::unexpected("cannot find the link's place", &e))?;
            (link, None)
        }
        None => (ctx.registry.last_build(), Some(ctx.registry.building()?)),
    };
    let flake = args.flake.or(args.named).unwrap_or_default();
    let mut interrupts = Interrupts::hear()?;
    let (_, output) = boot::nix_build(ctx, &flake, &link, &mut interrupts).await?;
    let path = output.path.to_absolute_path();
    let image = match mvm_image::Image::open(path.as_ref()) {
        Ok(image) => image,
        // What is no image is not worth keeping.
        Err(error) => {
            output.root.release()?;
            return Err(error.into());
        }
    };
    if args.json {
        ctx.ui.json(&Built { path, out_link: link, image: image.manifest() })?;
    } else {
        ctx.ui.data(&path);
    }
    Ok(0)
}
