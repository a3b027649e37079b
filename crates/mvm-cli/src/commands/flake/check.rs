//! `mvmctl flake check`.

use crate::Context;
use crate::interrupt::Interrupts;
use crate::nix_build;
use crate::progress::BuildProgress;
use mvm_core::{ErrorKind, Fault, ImageManifest};
use mvm_nix::{EvaluatedImage, FlakeRef, ImageOutput, Nix, NixError};
use serde::Serialize;

/// Check a flake: `nix flake check`, and whether its images can be what they claim
///
/// Images are evaluated, not built: those among the packages for this machine, and those of NixOS configurations.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl flake check ./site")]
pub(crate) struct CheckArgs {
    /// The flake ref; the flake of this folder where it is missing
    #[arg(value_name = "REF", default_value = ".")]
    flake: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    flake: String,
    system: String,
    /// What `nix flake check` found wrong.
    error: Option<Fault>,
    images: Vec<Checked>,
}

/// One image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    attribute: String,
    /// As in image.json; absent where it does not evaluate.
    name: Option<String>,
    system: Option<String>,
    derivation: Option<String>,
    /// What is wrong with it.
    error: Option<Fault>,
}

pub(crate) async fn run(args: CheckArgs, ctx: &Context) -> Result<u8, Fault> {
    let flake = nix_build::flake_ref(&args.flake)?;
    if flake.attribute().is_some() {
        let message = format!("{flake} is an output: a flake is checked as a whole");
        return Err(Fault::new(ErrorKind::Usage, message).with_hint("leave out what stands after `#`"));
    }
    let mut interrupts = Interrupts::hear()?;
    let report = tokio::select! {
        report = check(ctx, &flake) => report?,
        fault = interrupts.fault() => return Err(fault),
    };
    if args.json {
        ctx.ui.json(&report)?;
    } else {
        ctx.ui
            .table(["IMAGE", "NAME", "SYSTEM", "RESULT"], &report.images.iter().map(Checked::row).collect::<Vec<_>>());
    }
    report.verdict().map(|()| 0)
}

async fn check(ctx: &Context, flake: &FlakeRef) -> Result<Report, Fault> {
    let nix = Nix::find()?;
    let checked = {
        let mut progress = BuildProgress::new(&ctx.ui);
        nix.check(flake, |event| progress.show(event)).await
    };
    // Where there is no flake, there is nothing more to say.
    let error = match checked {
        Err(NixError::Failed(failure)) => Some(Fault::from(*failure)),
        other => other.map(|()| None)?,
    };
    let system = mvm_nix::this_system();
    let images = match nix.images(flake, &system).await {
        Ok(images) => images.into_iter().map(Checked::of).collect(),
        // It has been told what is wrong with the flake itself.
        Err(_) if error.is_some() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(Report { flake: flake.to_string(), system, error, images })
}

impl Checked {
    fn of(output: ImageOutput) -> Self {
        let attribute = output.attribute;
        match output.found {
            Ok(image) => Self::of_image(attribute, image),
            Err(error) => Self { attribute, name: None, system: None, derivation: None, error: Some(error.into()) },
        }
    }

    /// Its manifest can be checked before there is an image.
    fn of_image(attribute: String, image: EvaluatedImage) -> Self {
        let EvaluatedImage { derivation, mut manifest } = image;
        let word = |name: &str| manifest.get(name).and_then(|v| v.as_str()).map(str::to_owned);
        let (name, system) = (word("name"), word("system"));
        if let Some(rootfs) = manifest.get_mut("rootfs").and_then(|r| r.as_object_mut())
            && rootfs.get("sizeBytes") == Some(&0.into())
        {
            rootfs.remove("sizeBytes");
        }
        let ours = format!("{}-linux", std::env::consts::ARCH);
        let error = match ImageManifest::parse(manifest.to_string().as_bytes()) {
            Err(error) => Some(error.into()),
            Ok(manifest) if manifest.system != ours => {
                let message =
                    format!("the image is for {}, and the guests of this machine are {ours}", manifest.system);
                let fault = Fault::new(ErrorKind::ImageInvalid, message);
                Some(fault.with_hint(format!("build the image for {ours}")))
            }
            Ok(_) => None,
        };
        Self { attribute, name, system, derivation: Some(derivation), error }
    }

    fn row(&self) -> [String; 4] {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let result = match &self.error {
            Some(error) => error.message.lines().next().unwrap_or_default().to_owned(),
            None => "ok".into(),
        };
        [self.attribute.clone(), or_dash(&self.name), or_dash(&self.system), result]
    }
}

impl Report {
    /// The error that ends the command, where anything is wrong: Nix's own, with what is wrong with images before it.
    fn verdict(&self) -> Result<(), Fault> {
        let broken: Vec<_> = self.images.iter().filter_map(|i| Some((&i.attribute, i.error.as_ref()?))).collect();
        let images = match broken.len() {
            0 => None,
            n => Some(format!("{n} of {} images cannot be used", self.images.len())),
        };
        let mut messages: Vec<_> = images.into_iter().collect();
        messages.extend(broken.iter().map(|(attribute, error)| format!("{attribute}: {}", error.message)));
        messages.extend(self.error.iter().map(|error| error.message.clone()));
        if messages.is_empty() {
            return Ok(());
        }
        let hint = self.error.iter().chain(broken.iter().map(|(_, error)| *error)).find_map(|e| e.hint.clone());
        let fault = Fault::new(ErrorKind::BuildFailed, messages.join("\n"));
        Err(Fault { hint, ..fault })
    }
}
