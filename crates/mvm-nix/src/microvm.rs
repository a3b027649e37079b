//! NixOS configurations that use microvm.nix: where a flake has their runner, and what it gives the VM.
//!
//! The runner is the package `config.microvm.declaredRunner`; its `bin/microvm-run` starts the hypervisor that the
//! configuration chose, with the resources that the configuration chose.

use crate::advice::Trouble;
use crate::attributes::listed;
use crate::cli::Nix;
use crate::error::NixError;
use crate::flake_ref::{FlakeRef, FlakeRefError};
use serde::Deserialize;
use std::time::Duration;

/// A NixOS configuration is large.
const LIMIT: Duration = Duration::from_secs(600);
/// And the names of those that a flake has come with the flake alone.
const NAMES_LIMIT: Duration = Duration::from_secs(60);
const CONFIGURATIONS: &str = "nixosConfigurations";

/// What a configuration gives its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct MicrovmResources {
    /// Number of virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub mem: u64,
}

impl FlakeRef {
    /// The options `config.microvm` of the NixOS configuration that is meant: `.#NAME` and
    /// `.#nixosConfigurations.NAME` are the same.
    pub fn microvm_options(&self) -> Result<Self, FlakeRefError> {
        let unnamed = || FlakeRefError::NoConfiguration(self.written().to_owned());
        let attribute = self.attribute().ok_or_else(unnamed)?;
        let name = attribute.strip_prefix(CONFIGURATIONS).and_then(|rest| rest.strip_prefix('.')).unwrap_or(attribute);
        self.with_attribute(&format!("{CONFIGURATIONS}.{name}.config.microvm"))
    }
}

impl Nix {
    /// Reads the resources of a configuration; `options` comes from [`FlakeRef::microvm_options`]. An error names the
    /// configurations that the flake has.
    pub async fn microvm_resources(&self, options: &FlakeRef) -> Result<MicrovmResources, NixError> {
        let pick = "m: { inherit (m) vcpu mem; }";
        match self.eval_json(options, Some(pick), &[], LIMIT).await {
            Err(NixError::Failed(mut failure)) if failure.trouble == Some(Trouble::NoAttribute) => {
                failure.advice = self.advise_configuration(options).await;
                Err(failure.into())
            }
            done => done,
        }
    }

    async fn advise_configuration(&self, options: &FlakeRef) -> Option<String> {
        let all = options.with_attribute(CONFIGURATIONS).ok()?;
        let names: Vec<String> = self.eval_json(&all, Some("builtins.attrNames"), &[], NAMES_LIMIT).await.ok()?;
        let base = options.base();
        Some(match listed(&names) {
            Some(names) => format!(
                "{base} has these NixOS configurations: {names}; one that runs in a VM imports the module of microvm.nix"
            ),
            None => format!("{base} has no NixOS configurations"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn options(text: &str) -> Result<String, FlakeRefError> {
        let flake = FlakeRef::parse(text, Path::new("/here"), None)?;
        Ok(flake.microvm_options()?.installable())
    }

    #[test]
    fn a_name_is_a_configurations() {
        let box_ = "/here#nixosConfigurations.box.config.microvm";
        assert_eq!(options(".#box").unwrap(), box_);
        assert_eq!(options(".#nixosConfigurations.box").unwrap(), box_);
        let quoted = "github:me/x#nixosConfigurations.\"a.b\".config.microvm";
        assert_eq!(options("github:me/x#\"a.b\"").unwrap(), quoted);
    }

    #[test]
    fn without_a_name_it_says_what_is_missing() {
        let error = options(".").unwrap_err();
        assert!(matches!(error, FlakeRefError::NoConfiguration(_)), "{error}");
        assert!(options(&format!("/nix/store/{}-x", "0".repeat(32))).is_err());
    }
}
