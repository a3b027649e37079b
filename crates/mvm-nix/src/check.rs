//! `nix flake check`, and the outputs of a flake that claim to be images of mvm.

use crate::advice::Trouble;
use crate::cli::{Nix, describe};
use crate::error::NixError;
use crate::event::{BuildEvent, parse_bounded};
use crate::failure::FailureLog;
use crate::flake_ref::FlakeRef;
use crate::process::NixProcess;
use serde::{Deserialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long evaluating all images may take; whole NixOS systems can be among them.
const LIMIT: Duration = Duration::from_secs(3600);
/// The mark is nix/image.nix's. The manifest is what image.json will say.
const CLAIM: &str = "image: if image.isMvmImage or false then \
    { derivation = builtins.unsafeDiscardStringContext image.drvPath; inherit (image) manifest; } else null";

/// An output that claims to be an image, or that cannot even be asked.
#[derive(Debug)]
pub struct ImageOutput {
    /// Its place in the flake, as it is written after `#`.
    pub attribute: String,
    /// What it evaluates to.
    pub found: Result<EvaluatedImage, NixError>,
}

/// An image before it is built.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EvaluatedImage {
    /// The store path of its derivation.
    pub derivation: String,
    /// What its `image.json` will say; a size of 0 stands for one that the build will tell.
    pub manifest: serde_json::Value,
}

impl Nix {
    /// Runs `nix flake check`. `events` sees everything that Nix says.
    ///
    /// # Errors
    /// The flake is not there, or what Nix found first.
    pub async fn check(&self, flake: &FlakeRef, mut events: impl FnMut(&BuildEvent)) -> Result<(), NixError> {
        let flake = flake.clone().locate()?;
        let base = flake.base();
        let mut command = self.command(&["flake", "check"]);
        command.arg("--").arg(&base);
        events(&BuildEvent::Evaluating);
        let mut log = FailureLog::default();
        let running = NixProcess::start(command, self.program()).await?;
        let ended = running
            .run(|line| {
                let event = parse_bounded(&line);
                log.apply(&event);
                events(&event);
            })
            .await?;
        match ended.status.success() {
            true => Ok(()),
            false => Err(log.finish(base, &describe(ended.status)).about(&flake).into()),
        }
    }

    /// The images among a flake's packages for a system, and those of its NixOS configurations.
    ///
    /// # Errors
    /// The flake as such cannot be evaluated. What is wrong with one output is told with that.
    pub async fn images(&self, flake: &FlakeRef, system: &str) -> Result<Vec<ImageOutput>, NixError> {
        let mut all = self.images_in(flake, &format!("packages.{system}"), CLAIM, false).await?;
        let of_configuration = format!("system: ({CLAIM}) (system.config.system.build.mvmImage or {{ }})");
        all.extend(self.images_in(flake, "nixosConfigurations", &of_configuration, true).await?);
        Ok(all)
    }

    /// The images in one set of outputs. All are asked at once; only where one fails, each by itself.
    async fn images_in(
        &self,
        flake: &FlakeRef,
        set: &str,
        claim: &str,
        are_configurations: bool,
    ) -> Result<Vec<ImageOutput>, NixError> {
        let place = flake.with_attribute(set)?;
        // As `nix build` and `mvmctl build` find it.
        let attribute = |name: &str| match are_configurations {
            true => format!("{set}.{}", quoted(name)),
            false => quoted(name),
        };
        type Together = BTreeMap<String, Option<EvaluatedImage>>;
        match self.ask::<Together>(&place, &format!("builtins.mapAttrs (_: {claim})")).await {
            Ok(together) => {
                let images = together.into_iter().filter_map(|(name, image)| Some((attribute(&name), Ok(image?))));
                return Ok(images.map(|(attribute, found)| ImageOutput { attribute, found }).collect());
            }
            Err(NixError::Failed(failure)) if failure.trouble == Some(Trouble::NoAttribute) => return Ok(Vec::new()),
            Err(error) => tracing::debug!(%error, set, "not all outputs evaluate"),
        }
        let names: Vec<String> = self.ask(&place, "builtins.attrNames").await?;
        let mut found = Vec::new();
        for name in names {
            let one = flake.with_attribute(&format!("{set}.{}", quoted(&name)))?;
            let image = self.ask::<Option<EvaluatedImage>>(&one, claim).await.transpose();
            found.extend(image.map(|found| ImageOutput { attribute: attribute(&name), found }));
        }
        Ok(found)
    }

    async fn ask<T: DeserializeOwned>(&self, place: &FlakeRef, question: &str) -> Result<T, NixError> {
        self.eval_json(place, Some(question), &[], LIMIT).await
    }
}

/// A name in an attribute path; nothing else is taken where it has odd characters.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-'".contains(c);
    match !name.is_empty() && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    }
}
