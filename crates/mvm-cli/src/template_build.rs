//! From a template to its image: what `template build` and `up --template` share.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::nix_build::{self, Wanted};
use mvm_core::{Fault, Template};
use mvm_image::Image;
use mvm_nix::{FlakeRef, FlakeRefError};
use mvm_runtime::{StoredTemplate, TemplateBuild};
use std::path::PathBuf;
use std::time::SystemTime;

/// The output of a flake that a template stands for.
pub(crate) fn flake_of(ctx: &Context, stored: &StoredTemplate) -> Result<FlakeRef, Fault> {
    output_of(&stored.template).map_err(|error| {
        let mut fault = Fault::from(error);
        fault.message = format!("{}: {}", ctx.templates().files(&stored.name).file().display(), fault.message);
        fault
    })
}

/// As [`flake_of`], of a template that is nowhere yet.
pub(crate) fn output_of(template: &Template) -> Result<FlakeRef, FlakeRefError> {
    let flake = FlakeRef::parse_absolute(&template.flake, std::env::home_dir().as_deref())?;
    match &template.profile {
        Some(profile) => flake.with_profile(profile),
        None => Ok(flake),
    }
}

/// Builds the image of a template. The one that was built before stays until this one is whole, and where it never is.
pub(crate) async fn build(
    ctx: &Context,
    stored: &StoredTemplate,
    refresh: bool,
    interrupts: &mut Interrupts,
) -> Result<TemplateBuild, Fault> {
    let templates = ctx.templates();
    let _held = templates.hold(&stored.name)?;
    let _building = ctx.registry.building()?;
    let flake = flake_of(ctx, stored)?;
    // Aside at first: what is no image must not take the place of one.
    let aside = ctx.dirs().building_template(&stored.name);
    let wanted = Wanted { flake: flake.clone(), refresh };
    let (_, output) = nix_build::build(ctx, wanted, &aside, interrupts).await?;
    let image = PathBuf::from(output.path.to_absolute_path());
    let kept = match Image::open(&image) {
        // Nix renames a new link over the old one.
        Ok(_) => nix_build::keep(ctx, &image, &templates.files(&stored.name).gc_root(), interrupts).await,
        Err(error) => Err(error.into()),
    };
    let released = output.root.release();
    kept?;
    released?;
    let at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    let build = TemplateBuild { flake: flake.to_string(), image, at };
    templates.note_build(&stored.name, &build)?;
    Ok(build)
}
