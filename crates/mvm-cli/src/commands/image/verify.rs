//! `mvmctl image verify`.

use crate::Context;
use crate::interrupt::Interrupts;
use mvm_core::{ErrorKind, Fault, ImageName};
use mvm_image::{FetchedImages, Image, LocalImage, LocalKind, local_image};
use mvm_nix::{Nix, StorePath};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;

/// Check images against what was built
///
/// Each file of an image that was fetched is read and compared with what Nix noted when it was put into the store. Of
/// others nothing is noted: those are checked in their form only. Exit code 9 where an image is not as it should be.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl image verify\n  mvmctl image verify postgres --json")]
pub(crate) struct VerifyArgs {
    /// The images; all that were fetched where absent
    names: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What was found of one image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    name: String,
    /// Whether its content was compared, or its form only.
    content: bool,
    /// What is wrong with it; nothing where all is well.
    faults: Vec<String>,
    #[serde(skip)]
    repair: Option<String>,
}

pub(super) async fn run(args: VerifyArgs, ctx: &Context) -> Result<u8, Fault> {
    let images = chosen(&args, ctx)?;
    if images.is_empty() && !args.json {
        ctx.ui.status("no image has been fetched");
        return Ok(0);
    }
    let mut interrupts = Interrupts::hear()?;
    let mut verdicts = Vec::new();
    for image in images {
        verdicts.push(verify(image, &mut interrupts).await?);
    }
    if args.json {
        ctx.ui.json(&verdicts)?;
    } else {
        let rows: Vec<[String; 2]> = verdicts.iter().map(|v| [v.name.clone(), v.result()]).collect();
        ctx.ui.table(["NAME", "RESULT"], &rows);
    }
    let damaged: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.faults.is_empty()).collect();
    let Some(first) = damaged.first() else { return Ok(0) };
    let names: Vec<&str> = damaged.iter().map(|verdict| verdict.name.as_str()).collect();
    let fault = Fault::new(ErrorKind::ImageInvalid, format!("not as they were built: {}", names.join(", ")));
    Err(match &first.repair {
        Some(repair) => fault.with_hint(format!("`{repair}`")),
        None => fault.with_hint("build it again"),
    })
}

/// The images to look at. One that is gone from the store is among them.
fn chosen(args: &VerifyArgs, ctx: &Context) -> Result<Vec<LocalImage>, Fault> {
    let fetched = FetchedImages::new(ctx.dirs());
    if args.names.is_empty() {
        return Ok(fetched.list()?.into_iter().map(LocalImage::from).collect());
    }
    args.names
        .iter()
        .map(|name| match ImageName::new(name.as_str()).ok().and_then(|name| fetched.get(&name)) {
            Some(image) => Ok(image.into()),
            None => Ok(local_image(ctx.dirs(), name)?),
        })
        .collect()
}

async fn verify(image: LocalImage, interrupts: &mut Interrupts) -> Result<Verdict, Fault> {
    let form = Image::open(&image.folder).err().map(|error| Fault::from(error).message);
    let LocalKind::Fetched(origin) = &image.kind else {
        return Ok(Verdict { name: image.name, content: false, faults: form.into_iter().collect(), repair: None });
    };
    let flake = origin.as_ref().map(|origin| origin.flake().to_owned());
    if !image.folder.exists() {
        let faults = vec![format!("{} is gone from the store", image.folder.display())];
        return Ok(Verdict { repair: Some(image.fetch_again()), name: image.name, content: true, faults });
    }
    let Ok(path) = StorePath::from_absolute_path(image.folder.as_os_str().as_bytes()) else {
        let faults = vec![format!("{} is not a path of Nix's store", image.folder.display())];
        return Ok(Verdict { repair: Some(image.fetch_again()), name: image.name, content: true, faults });
    };
    let nix = Nix::find()?;
    let changed = tokio::select! {
        changed = nix.verify(&path) => changed?,
        fault = interrupts.fault() => return Err(fault),
    };
    let changed = changed.into_iter().map(|path| format!("{path} has other content than Nix built"));
    let repair = flake.map(|flake| format!("nix build --repair --no-link '{flake}'"));
    Ok(Verdict { name: image.name, content: true, faults: form.into_iter().chain(changed).collect(), repair })
}

impl Verdict {
    fn result(&self) -> String {
        match (self.faults.as_slice(), self.content) {
            ([], true) => "as it was built".into(),
            ([], false) => "of the right form; its content is noted nowhere".into(),
            (faults, _) => faults.join("; "),
        }
    }
}
