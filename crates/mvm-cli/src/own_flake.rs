//! The flake that this mvmctl came from: the catalog and the modules that belong to it are there.

use crate::Context;
use mvm_core::{ErrorKind, Fault, mvm_flake};
use mvm_nix::{FlakeRef, Place};

/// The flake of mvm that the user, or whoever installed this mvmctl, has named. It means the same wherever one stands.
pub(crate) fn own_flake(ctx: &Context) -> Result<FlakeRef, Fault> {
    let url = mvm_flake(ctx.dirs())?;
    let flake = FlakeRef::parse_absolute(&url, std::env::home_dir().as_deref()).map_err(Fault::from);
    flake.and_then(flake_alone).map_err(|fault| {
        let message = format!("the flake of this mvmctl: {}", fault.message);
        let hint = fault.hint.map_or(String::new(), |hint| format!("{hint}; "));
        let hint = format!("{hint}it is what `catalog.url` of config.toml says, or else MVM_FLAKE");
        Fault { message, hint: Some(hint), ..fault }
    })
}

/// The flake that has the modules: one whose outputs are not chosen yet.
pub(crate) fn flake_alone(flake: FlakeRef) -> Result<FlakeRef, Fault> {
    let alone = match flake.place() {
        // Nix takes it for a thing that was built.
        Place::Store(path) => format!("path:{}", path.to_absolute_path()),
        _ if flake.installable() == flake.base() => return Ok(flake),
        _ => flake.base(),
    };
    let message = format!("{flake} is an output of a flake, and mvm has to be the flake itself");
    Err(Fault::new(ErrorKind::Usage, message).with_hint(format!("write it as `{alone}`")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_flake_has_no_output_chosen() {
        let store = format!("/nix/store/{}-source", "0".repeat(32));
        for text in ["github:me/mvm", "/home/me/mvm", &format!("path:{store}")] {
            assert!(flake_alone(text.parse().unwrap()).is_ok(), "{text}");
        }
        for (text, hint) in [
            ("github:me/mvm#x", "`github:me/mvm`"),
            ("github:me/mvm#^out", "`github:me/mvm`"),
            (&store, &format!("`path:{store}`")),
        ] {
            let fault = flake_alone(text.parse().unwrap()).unwrap_err();
            assert!(fault.kind == ErrorKind::Usage && fault.hint.unwrap().contains(hint), "{text}");
        }
    }
}
