//! `mvmctl template info`.

use super::{BuildFacts, vms_of};
use crate::Context;
use crate::template_build::flake_of;
use indicatif::HumanBytes;
use mvm_core::{Fault, Hypervisor, ImageManifest, MemorySize, PortForward, TemplateName};
use mvm_image::Image;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Show all that is known of a template
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl template info site --json")]
pub(super) struct InfoArgs {
    /// The template
    name: TemplateName,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. What the template does not say is absent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: TemplateName,
    file: PathBuf,
    /// As the template has it.
    flake: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    /// What is built: the flake with its output.
    output: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u32>,
    #[serde(rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    memory: Option<MemorySize>,
    ports: Vec<PortForward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor: Option<Hypervisor>,
    env: BTreeMap<String, String>,
    /// Of the last build, while it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<BuildFacts>,
    /// The manifest of what was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageManifest>,
    /// Names of the VMs that were made of it.
    vms: Vec<String>,
}

pub(super) fn run(args: InfoArgs, ctx: &Context) -> Result<u8, Fault> {
    let info = gather(ctx, args.name)?;
    if args.json {
        ctx.ui.json(&info)?;
    } else {
        ctx.ui.facts(&facts(&info));
    }
    Ok(0)
}

fn gather(ctx: &Context, name: TemplateName) -> Result<Info, Fault> {
    let templates = ctx.templates();
    let stored = templates.get(&name)?;
    let output = flake_of(ctx, &stored)?.to_string();
    let build = stored.build.as_ref().map(|build| BuildFacts::of(&stored, build));
    let image = stored.build.as_ref().map(|build| Image::open(&build.image)).transpose()?;
    let template = stored.template;
    Ok(Info {
        file: templates.files(&name).file(),
        vms: vms_of(ctx, &name)?,
        name,
        flake: template.flake,
        profile: template.profile,
        output,
        vcpus: template.vcpus,
        memory: template.memory,
        ports: template.ports,
        hypervisor: template.hypervisor,
        env: template.env,
        build,
        image: image.map(|image| image.manifest().clone()),
    })
}

fn facts(info: &Info) -> Vec<(&'static str, String)> {
    let of_image = |what: Option<String>| what.unwrap_or_else(|| "as the image proposes".into());
    let mut facts = vec![
        ("name", info.name.to_string()),
        ("file", info.file.display().to_string()),
        ("flake", info.output.clone()),
        ("vCPUs", of_image(info.vcpus.map(|n| n.to_string()))),
        ("memory", of_image(info.memory.map(|m| m.to_string()))),
    ];
    facts.extend(info.ports.iter().map(|port| ("port", port.to_string())));
    facts.extend(info.hypervisor.map(|hypervisor| ("hypervisor", hypervisor.to_string())));
    facts.extend(info.env.iter().map(|(name, value)| ("environment", format!("{name}={value}"))));
    match &info.build {
        None => facts.push(("built", "not yet".into())),
        Some(build) => {
            facts.push(("built", build.when()));
            facts.push(("image", build.image.display().to_string()));
            facts.extend(build.size_bytes.map(|size| ("size", HumanBytes(size).to_string())));
        }
    }
    if let Some(image) = &info.image {
        let policy = image.policy;
        let open =
            [(policy.console, "console"), (policy.exec, "exec"), (policy.files, "files"), (policy.forward, "forward")];
        let open: Vec<_> = open.into_iter().filter_map(|(open, what)| open.then_some(what)).collect();
        facts.push(("the guest allows", if open.is_empty() { "nothing".into() } else { open.join(", ") }));
        facts.push(("proposes", format!("{} vCPUs, {}", image.defaults.vcpus, image.defaults.memory)));
        facts.extend(image.defaults.ports.iter().map(|port| ("proposes", port.to_string())));
        facts.extend(image.services.iter().map(|service| ("service", service.clone())));
    }
    facts.extend(info.vms.iter().map(|vm| ("VM", vm.clone())));
    facts
}
