//! `mvmctl image info`.

use super::known::{self, Known, Local};
use crate::Context;
use mvm_core::{AccessPolicy, Fault, ImageManifest};
use mvm_image::{CatalogEntry, local_images, no_image};
use serde::Serialize;

/// Show all that is known of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl image info postgres")]
pub(crate) struct InfoArgs {
    /// The image
    name: String,
    /// As JSON: its entry in the catalog, where it lies, and its image.json
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Info<'k> {
    #[serde(flatten)]
    known: &'k Known,
    manifest: Option<&'k ImageManifest>,
}

pub(super) fn run(args: InfoArgs, ctx: &Context) -> Result<u8, Fault> {
    let mut found: Vec<Known> = known::all(ctx)?.into_iter().filter(|known| known.name == args.name).collect();
    // What lies here comes before what only could.
    found.sort_by_key(|known| known.local.is_none());
    let Some(known) = found.first() else {
        return Err(no_image(&args.name, &local_images(ctx.dirs())?).into());
    };
    if args.json {
        ctx.ui.json(&Info { known, manifest: known.manifest() })?;
        return Ok(0);
    }
    let mut facts = vec![("name", known.name.clone())];
    facts.extend(known.catalog.into_iter().flat_map(of_entry));
    match &known.local {
        None => facts.push(("status", format!("not fetched; `mvmctl image fetch {}`", known.name))),
        Some(local) => facts.extend(of_local(known, local)),
    }
    facts.extend(known.manifest().into_iter().flat_map(of_manifest));
    ctx.ui.facts(&facts);
    Ok(0)
}

type Facts = Vec<(&'static str, String)>;

fn of_entry(entry: &CatalogEntry) -> Facts {
    let mut facts = vec![
        ("description", entry.description.clone()),
        ("category", entry.category.clone()),
        ("tags", entry.tags.join(", ")),
    ];
    facts.extend(known::numbers(&entry.ports).map(|ports| ("listens at", ports)));
    facts
}

fn of_local(known: &Known, local: &Local) -> Facts {
    let mut facts = vec![("status", known.status().to_owned()), ("folder", local.path.display().to_string())];
    facts.extend(local.fault.clone().map(|fault| ("fault", fault)));
    facts.extend(local.origin.as_ref().map(|origin| ("fetched from", origin.flake().to_owned())));
    facts.extend(known.size().map(|size| ("size", size)));
    for (what, path) in local.image.iter().flat_map(|image| {
        [("kernel", Some(image.kernel())), ("initrd", image.initrd()), ("root", Some(image.rootfs()))]
    }) {
        let size = path.and_then(|path| path.metadata().ok()).map(|meta| indicatif::HumanBytes(meta.len()).to_string());
        facts.extend(size.map(|size| (what, size)));
    }
    facts
}

fn of_manifest(manifest: &ImageManifest) -> Facts {
    let defaults = &manifest.defaults;
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut facts = vec![
        ("system", manifest.system.clone()),
        ("agent", format!("{}, protocol {}", manifest.agent.version, manifest.agent.protocol)),
        ("access", list(&opened(&manifest.policy))),
        ("vCPUs", defaults.vcpus.to_string()),
        ("memory", defaults.memory.to_string()),
    ];
    facts.extend(defaults.ports.iter().map(|port| ("port", port.to_string())));
    facts.push(("services", list(&manifest.services)));
    facts.push(("health checks", list(&manifest.health)));
    facts
}

/// What the guest lets its host do.
fn opened(policy: &AccessPolicy) -> Vec<String> {
    let AccessPolicy { console, exec, files, forward } = *policy;
    [(console, "console"), (exec, "exec"), (files, "files"), (forward, "forward")]
        .into_iter()
        .filter(|(open, _)| *open)
        .map(|(_, what)| what.to_owned())
        .collect()
}
