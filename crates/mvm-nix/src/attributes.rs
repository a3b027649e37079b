//! "The flake has no such attribute; it has these": looking for what the user may have meant.

use crate::cli::Nix;
use crate::flake_ref::FlakeRef;
use std::ffi::OsString;
use std::time::Duration;

/// A flake that could just be evaluated is evaluated again in far less.
const LIMIT: Duration = Duration::from_secs(15);
/// Names told.
const MAX_NAMES: usize = 12;

impl Nix {
    /// The names of the packages that a flake has for a system.
    pub async fn packages(
        &self,
        flake: &FlakeRef,
        system: &str,
        extra_args: &[OsString],
    ) -> Result<Vec<String>, crate::NixError> {
        let packages = flake.with_attribute(&format!("packages.{system}"))?;
        self.eval_json(&packages, Some("builtins.attrNames"), extra_args, LIMIT).await
    }

    /// The names of the NixOS configurations of a flake.
    async fn configurations(&self, flake: &FlakeRef, extra_args: &[OsString]) -> Result<Vec<String>, crate::NixError> {
        let all = flake.with_attribute("nixosConfigurations")?;
        self.eval_json(&all, Some("builtins.attrNames"), extra_args, LIMIT).await
    }

    /// Advice for a ref whose attribute does not exist: what the flake has instead. `None` where it cannot say.
    pub(crate) async fn advise_attribute(
        &self,
        flake: &FlakeRef,
        system: &str,
        extra_args: &[OsString],
    ) -> Option<String> {
        let base = flake.base();
        let configurations = self.configurations(flake, extra_args).await.unwrap_or_default();
        if let Some(name) = configurations.iter().find(|name| flake.names_configuration(name)) {
            return Some(format!(
                "the NixOS configuration {name} has no image: add mvm's nixosModules.microvm to its modules"
            ));
        }
        let also = listed(&configurations).map_or(String::new(), |names| format!("; NixOS configurations: {names}"));
        if let Ok(names) = self.packages(flake, system, extra_args).await {
            return Some(match listed(&names) {
                Some(names) => format!("{base} has these packages for {system}: {names}{also}"),
                None => format!("{base} has no packages for {system}{also}"),
            });
        }
        let all = flake.with_attribute("packages").ok()?;
        let systems = self.eval_json(&all, Some("builtins.attrNames"), extra_args, LIMIT).await;
        let systems: Vec<String> = systems.unwrap_or_default();
        match listed(&systems) {
            Some(systems) => Some(format!("{base} has no packages for {system}; it has some for {systems}{also}")),
            None => (!also.is_empty()).then(|| format!("{base} has no packages{also}")),
        }
    }
}

pub(crate) fn listed(names: &[String]) -> Option<String> {
    let shown: Vec<_> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    match names.len() {
        0 => None,
        n if n > MAX_NAMES => Some(format!("{} and {} more", shown.join(", "), n - MAX_NAMES)),
        _ => Some(shown.join(", ")),
    }
}

/// This machine's system in Nix's words.
pub fn this_system() -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    format!("{}-{os}", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bounded() {
        let names: Vec<_> = (0..40).map(|n| n.to_string()).collect();
        assert!(listed(&names).unwrap().ends_with("11 and 28 more"));
        assert_eq!(listed(&names[..2]).unwrap(), "0, 1");
        assert_eq!(listed(&[]), None);
    }
}
