//! "The flake has no such attribute; it has these": looking for what the user may have meant.

use crate::cli::Nix;
use crate::flake_ref::FlakeRef;
use std::ffi::OsString;
use std::time::Duration;

/// A flake that could just be evaluated is evaluated again in far less.
const LIMIT: Duration = Duration::from_secs(15);
/// Names told.
const MAX_NAMES: usize = 12;

/// An output of flakes that has one set of images a system.
struct Output {
    name: &'static str,
    /// What is in it.
    things: &'static str,
}

const PACKAGES: Output = Output { name: "packages", things: "packages" };
const CATALOG: Output = Output { name: "catalog", things: "images in its catalog" };

impl Nix {
    /// The names of the packages that a flake has for a system.
    pub async fn packages(
        &self,
        flake: &FlakeRef,
        system: &str,
        extra_args: &[OsString],
    ) -> Result<Vec<String>, crate::NixError> {
        self.names(flake, &format!("{}.{system}", PACKAGES.name), extra_args).await
    }

    async fn names(
        &self,
        flake: &FlakeRef,
        attribute: &str,
        extra_args: &[OsString],
    ) -> Result<Vec<String>, crate::NixError> {
        let set = flake.with_attribute(attribute)?;
        self.eval_json(&set, Some("builtins.attrNames"), extra_args, LIMIT).await
    }

    /// Advice for a ref whose attribute does not exist: what the flake has instead. `None` where it cannot say.
    pub(crate) async fn advise_attribute(
        &self,
        flake: &FlakeRef,
        system: &str,
        extra_args: &[OsString],
    ) -> Option<String> {
        let base = flake.base();
        if flake.attribute().is_some_and(|attribute| attribute.starts_with("catalog.")) {
            if let Some(advice) = self.what_it_has(flake, &CATALOG, system, extra_args).await {
                return Some(format!("{base} {advice}"));
            }
            // It may have images all the same, and then they are packages.
            let packages = self.packages(flake, system, extra_args).await.unwrap_or_default();
            return Some(match listed(&packages) {
                Some(names) => {
                    format!("{base} has no output `catalog`; `mvmctl up --flake` runs its packages: {names}")
                }
                None => format!("{base} has no output `catalog`; `nix flake show {base}` lists what it has"),
            });
        }
        let configurations = self.names(flake, "nixosConfigurations", extra_args).await.unwrap_or_default();
        if let Some(name) = configurations.iter().find(|name| flake.names_configuration(name)) {
            return Some(format!(
                "the NixOS configuration {name} has no image: add mvm's nixosModules.microvm to its modules"
            ));
        }
        let packages = self.what_it_has(flake, &PACKAGES, system, extra_args).await;
        let also = listed(&configurations).map(|names| format!("NixOS configurations: {names}"));
        match (packages, also) {
            (Some(packages), Some(also)) => Some(format!("{base} {packages}; {also}")),
            (Some(packages), None) => Some(format!("{base} {packages}")),
            (None, Some(also)) => Some(format!("{base} has no packages; {also}")),
            (None, None) => {
                let outputs = self.names(flake, PACKAGES.name, extra_args).await;
                let has_none = matches!(&outputs, Err(error) if error.lacks_attribute());
                has_none.then(|| {
                    format!("{base} has neither packages nor NixOS configurations; `nix flake show {base}` lists what it has")
                })
            }
        }
    }

    /// What a flake has in an output, in words; `None` where it has no such output.
    async fn what_it_has(
        &self,
        flake: &FlakeRef,
        Output { name, things }: &Output,
        system: &str,
        extra_args: &[OsString],
    ) -> Option<String> {
        if let Ok(names) = self.names(flake, &format!("{name}.{system}"), extra_args).await {
            return Some(match listed(&names) {
                Some(names) => format!("has these {things} for {system}: {names}"),
                None => format!("has no {things} for {system}"),
            });
        }
        let systems = listed(&self.names(flake, name, extra_args).await.ok()?)?;
        Some(format!("has no {things} for {system}; it has some for {systems}"))
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
