//! Where the image of a VM comes from: found by name, built by Nix, or assembled on the spot.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::nix_build::{self, Wanted};
use crate::template_build;
use mvm_core::{Fault, ImageDefaults, ImageManifest, MemorySize, VmSource};
use mvm_image::{FetchedImages, GuestKernel, Image, LocalKind};
use mvm_nix::{GcRoot, Nix};
use mvm_runtime::StoredTemplate;
use std::path::{Path, PathBuf};

/// An image, found or built.
pub(crate) struct Sourced {
    pub folder: PathBuf,
    pub source: VmSource,
    pub defaults: ImageDefaults,
    /// What the image says of itself; a runner of microvm.nix is none.
    pub image: Option<ImageManifest>,
    pub kept: Option<Kept>,
}

/// What keeps an image of Nix's until a VM does.
pub(crate) struct Kept {
    /// The root of a build that was made for this VM; it goes when the VM has its own.
    pub build: Option<GcRoot>,
    /// Says that what keeps it is in use.
    pub _held: std::fs::File,
}

impl Kept {
    /// Lets go of it, where a VM keeps the image or none is to be.
    pub fn release(self) -> Result<(), Fault> {
        Ok(self.build.map_or(Ok(()), GcRoot::release)?)
    }
}

/// The image that is assembled on this machine.
pub(crate) async fn built_in(ctx: &Context, interrupts: &mut Interrupts) -> Result<Sourced, Fault> {
    let cannot = |e: &(dyn std::error::Error + 'static)| Fault::unexpected("cannot assemble the built-in image", e);
    let (stopper, stop) = mvm_image::stoppable().map_err(|e| cannot(&e))?;
    let dirs = ctx.dirs().clone();
    let mut assembling = tokio::task::spawn_blocking(move || -> Result<PathBuf, Fault> {
        let guest = mvm_image::find_guest_binary()?;
        let kernel = GuestKernel::find(&dirs)?;
        Ok(mvm_image::ensure_builtin(&dirs, &guest, &kernel, &stop)?)
    });
    let folder = tokio::select! {
        done = &mut assembling => done.map_err(|e| cannot(&e))??,
        fault = interrupts.fault() => {
            drop(stopper);
            // It tidies up what it had begun.
            let _ = assembling.await;
            return Err(fault);
        }
    };
    sourced(folder, VmSource::BuiltIn, None)
}

/// An image by its path or name.
pub(crate) async fn image(
    ctx: &Context,
    given: &std::ffi::OsStr,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let found = mvm_image::resolve_image(ctx.dirs(), given)?;
    if !matches!(found.kind, LocalKind::Fetched(_)) {
        return sourced(found.folder, VmSource::Folder, None);
    }
    let fetched = FetchedImages::new(ctx.dirs());
    let held = interrupts.blocking(move || fetched.hold()).await?;
    // What was found may have gone while nobody held it.
    let found = mvm_image::local_image(ctx.dirs(), &found.name)?;
    sourced(found.folder, VmSource::Image { image: found.name }, Some(Kept { build: None, _held: held }))
}

/// An image that Nix builds; `link`, in the folder of GC roots, keeps it.
pub(crate) async fn flake(
    ctx: &Context,
    wanted: Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let building = ctx.registry.building()?;
    let (flake, output) = nix_build::build(ctx, wanted, link, interrupts).await?;
    let folder = output.path.to_absolute_path().into();
    let kept = Kept { build: Some(output.root.clone()), _held: building };
    let source = VmSource::Flake { flake: flake.to_string(), template: None };
    let done = sourced(folder, source, Some(kept));
    if done.is_err() {
        output.root.release()?;
    }
    done
}

/// The runner of a NixOS configuration that uses microvm.nix; `link` as for [`flake`].
pub(crate) async fn runner(
    ctx: &Context,
    wanted: Wanted,
    link: &Path,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let options = wanted.flake.microvm_options()?;
    let nix = Nix::find()?;
    let resources = tokio::select! {
        read = nix.microvm_resources(&options) => read?,
        fault = interrupts.fault() => return Err(fault),
    };
    let building = ctx.registry.building()?;
    let runner = Wanted { flake: nix_build::flake_ref(&format!("{options}.declaredRunner"))?, ..wanted };
    let (flake, output) = nix_build::build(ctx, runner, link, interrupts).await?;
    let kept = Kept { build: Some(output.root.clone()), _held: building };
    let done = || -> Result<Sourced, Fault> {
        let folder = PathBuf::from(output.path.to_absolute_path());
        mvm_runtime::check_runner(&folder)?;
        let (vcpus, memory) = (resources.vcpu, MemorySize::from_mib(resources.mem)?);
        let defaults = ImageDefaults { vcpus, memory, ports: Vec::new() };
        let source = VmSource::Flake { flake: flake.to_string(), template: None };
        Ok(Sourced { folder, source, defaults, image: None, kept: Some(kept) })
    };
    let done = done();
    if done.is_err() {
        output.root.release()?;
    }
    done
}

/// The image of a template, built where that has not been done for what it says now.
pub(crate) async fn template(
    ctx: &Context,
    template: &StoredTemplate,
    interrupts: &mut Interrupts,
) -> Result<Sourced, Fault> {
    let held = ctx.templates().hold(&template.name)?;
    let flake = template_build::flake_of(ctx, template)?.to_string();
    let build = match template.build_of(&flake) {
        Some(build) => build.clone(),
        None => template_build::build(ctx, template, false, interrupts).await?,
    };
    let source = VmSource::Flake { flake, template: Some(template.name.clone()) };
    sourced(build.image, source, Some(Kept { build: None, _held: held }))
}

fn sourced(folder: PathBuf, source: VmSource, kept: Option<Kept>) -> Result<Sourced, Fault> {
    let image = Image::open(&folder)?.manifest().clone();
    Ok(Sourced { folder, source, defaults: image.defaults.clone(), image: Some(image), kept })
}
