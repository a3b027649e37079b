//! `mvmctl image rm`.

use crate::Context;
use crate::commands::down::every;
use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, ImageName, VmSource};
use mvm_image::{FetchedImages, ImageError, local_image};

/// Forget images that were fetched
///
/// Nix frees their room at its next garbage collection. VMs that were made of them keep them for as long as they exist.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl image rm postgres redis")]
pub(crate) struct RmArgs {
    /// The images
    #[arg(required = true)]
    names: Vec<ImageName>,
}

pub(super) async fn run(args: RmArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut interrupts = Interrupts::hear()?;
    let mut done = Vec::new();
    for name in &args.names {
        done.push(remove(ctx, name, &mut interrupts).await);
    }
    every(ctx, done)
}

async fn remove(ctx: &Context, name: &ImageName, interrupts: &mut Interrupts) -> Result<(), Fault> {
    let images = FetchedImages::new(ctx.dirs());
    let Some(image) = images.get(name) else { return Err(not_fetched(ctx, name)) };
    let lock = interrupts.blocking(move || images.lock()).await?;
    lock.remove(name)?;
    let is_of = |source: &VmSource| matches!(source, VmSource::Image { .. });
    let vms = ctx.registry.list()?.into_iter().filter(|vm| is_of(&vm.spec.source) && vm.spec.image == image.folder);
    let vms: Vec<String> = vms.map(|vm| vm.spec.name.to_string()).collect();
    match vms.as_slice() {
        [] => ctx.ui.status(&format!("{name} is forgotten: Nix frees its room at the next garbage collection")),
        vms => ctx.ui.status(&format!("{name} is forgotten; {} still keeps the image", vms.join(", "))),
    }
    Ok(())
}

/// Why an image that is not among those that were fetched is not removed.
fn not_fetched(ctx: &Context, name: &ImageName) -> Fault {
    match local_image(ctx.dirs(), name.as_str()) {
        Ok(other) => {
            let message = format!("the image {:?} was not fetched, and so is not removed", name.as_str());
            Fault::new(ErrorKind::Usage, message).with_hint(format!("it is the folder {}", other.folder.display()))
        }
        Err(error @ ImageError::NotFetched { .. }) => {
            Fault::from(error).with_hint("`mvmctl image list --here` shows those that have been")
        }
        Err(error) => error.into(),
    }
}
