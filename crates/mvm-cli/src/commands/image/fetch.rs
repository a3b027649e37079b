//! `mvmctl image fetch`.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::nix_build::{self, Wanted};
use crate::own_flake::own_flake;
use mvm_core::{ErrorKind, Fault, ImageManifest, ImageName};
use mvm_image::{FetchedImages, Image, ImageOrigin, find_in_catalog};
use mvm_nix::{FlakeRef, this_system};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Build an image of the catalog, or of another flake's catalog, and keep it under a name
///
/// What a binary cache has is not built. An image that has been fetched is brought up to date. VMs that were made of the
/// one before keep theirs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl image fetch postgres\n  mvmctl image fetch github:me/images#thing --name mine"
)]
pub(crate) struct FetchArgs {
    /// NAME of the catalog, or REF#NAME of the output `catalog` of a flake
    #[arg(value_name = "NAME|REF#NAME")]
    image: String,
    /// The name that it gets here; its own where absent
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// Look for a newer version of the flake, whatever is remembered of it
    #[arg(long)]
    refresh: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fetched<'f> {
    name: &'f ImageName,
    path: &'f Path,
    origin: &'f ImageOrigin,
    image: &'f ImageManifest,
}

/// What to build, and what it is called where it comes from.
struct Source {
    flake: FlakeRef,
    name: String,
    origin: ImageOrigin,
}

pub(super) async fn run(args: FetchArgs, ctx: &Context) -> Result<u8, Fault> {
    let Source { flake, name, origin } = source(ctx, &args.image)?;
    let name = match args.name {
        Some(name) => name,
        None => ImageName::new(name).map_err(|e| Fault::from(e).with_hint("give it another one here with --name"))?,
    };
    // Said before a build that may take long, and once more when it is there.
    FetchedImages::new(ctx.dirs()).may_add(&name, &origin)?;
    let mut interrupts = Interrupts::hear()?;
    let _building = ctx.registry.building()?;
    let wanted = Wanted { flake, refresh: args.refresh };
    let (_, output) = nix_build::build(ctx, wanted, &ctx.dirs().fetching(&name), &mut interrupts).await?;
    let path = PathBuf::from(output.path.to_absolute_path());
    let registered = register(ctx, &name, &origin, &path, &mut interrupts).await;
    output.root.release()?;
    let image = registered?;
    if args.json {
        ctx.ui.json(&Fetched { name: &name, path: &path, origin: &origin, image: image.manifest() })?;
    } else {
        ctx.ui.status(&format!("fetched: `mvmctl up --image {name}` runs it"));
        ctx.ui.data(&path.to_string_lossy());
    }
    Ok(0)
}

/// Gives an image its name and its GC root. It is one from the moment in which Nix makes the link.
async fn register(
    ctx: &Context,
    name: &ImageName,
    origin: &ImageOrigin,
    path: &Path,
    interrupts: &mut Interrupts,
) -> Result<Image, Fault> {
    let image = Image::open(path)?;
    let images = FetchedImages::new(ctx.dirs());
    let lock = interrupts.blocking(move || images.lock()).await?;
    let link = lock.claim(name, origin)?;
    if let Err(fault) = nix_build::keep(ctx, path, &link, interrupts).await {
        lock.sweep()?;
        return Err(fault);
    }
    Ok(image)
}

/// What `NAME` or `REF#NAME` means.
fn source(ctx: &Context, given: &str) -> Result<Source, Fault> {
    let named = given.split_once('#').map(|(_, thing)| thing);
    if named.is_none() && !given.contains(['/', ':']) && !given.starts_with(['.', '~']) {
        return of_catalog(ctx, given);
    }
    if named.is_none_or(|thing| thing.is_empty() || thing.contains('^')) {
        let message = format!("{given:?} names a flake, but no image of its catalog");
        let flake = given.split('#').next().unwrap_or_default();
        return Err(Fault::new(ErrorKind::Usage, message).with_hint(format!("write it as {flake}#NAME")));
    }
    let flake = nix_build::flake_ref(given)?;
    let attribute = flake.attribute().unwrap_or_default();
    let name = attribute.rsplit('.').next().unwrap_or_default().to_owned();
    let attribute = match attribute.starts_with("catalog.") {
        true => attribute.to_owned(),
        false => entry_attribute(attribute),
    };
    let flake = flake.with_attribute(&attribute)?;
    Ok(Source { origin: ImageOrigin::Flake { flake: flake.installable() }, flake, name })
}

fn of_catalog(ctx: &Context, name: &str) -> Result<Source, Fault> {
    find_in_catalog(name)?;
    let flake = own_flake(ctx)?.with_attribute(&entry_attribute(name))?;
    let origin = ImageOrigin::Catalog { entry: name.into(), flake: flake.installable() };
    Ok(Source { origin, flake, name: name.into() })
}

/// Where a flake has an image of its catalog.
fn entry_attribute(name: &str) -> String {
    format!("catalog.{}.{name}", this_system())
}
