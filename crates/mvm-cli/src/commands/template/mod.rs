//! `mvmctl template`: images kept under a name, and flakes to start from.

mod build;
mod create;
mod edit;
mod info;
mod init;
mod list;
mod rm;

use crate::Context;
use crate::commands::parse_env;
use crate::template_build::output_of;
use clap::Subcommand;
use indicatif::HumanDuration;
use mvm_core::{Fault, Hypervisor, MemorySize, PortForward, Template, TemplateChange, TemplateName, TemplateTextError};
use mvm_nix::FlakeRef;
use mvm_runtime::{StoredTemplate, TemplateBuild};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Keep images under a name, with what a VM of them gets; or start a flake of one's own
///
/// A template is a flake, one of its outputs, and resources. It is built when it is first used, or built anew by `build`;
/// `mvmctl up --template NAME` makes VMs of it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mvmctl template init site --preset http\n  mvmctl template create site --flake ./site --memory 512M\n  mvmctl up web --template site -d"
)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
enum TemplateCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Create(create::CreateArgs),
    Build(build::BuildArgs),
    Info(info::InfoArgs),
    Edit(edit::EditArgs),
    Rm(rm::RmArgs),
    Init(init::InitArgs),
}

pub(crate) async fn run(args: TemplateArgs, ctx: &Context) -> Result<u8, Fault> {
    match args.command {
        TemplateCommand::List(args) => list::run(args, ctx),
        TemplateCommand::Create(args) => create::run(args, ctx),
        TemplateCommand::Build(args) => build::run(args, ctx).await,
        TemplateCommand::Info(args) => info::run(args, ctx),
        TemplateCommand::Edit(args) => edit::run(args, ctx).await,
        TemplateCommand::Rm(args) => rm::run(args, ctx),
        TemplateCommand::Init(args) => init::run(args, ctx).await,
    }
}

/// What a template may say beside its flake.
#[derive(Debug, clap::Args)]
struct Values {
    /// The output of the flake; its default one where absent
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: Option<u32>,
    /// Memory, as 512M or 4G
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// Set a variable for the guest's processes
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<(String, String)>,
    /// Publish a port of the guest on the host: [ADDR:]HOST:GUEST
    #[arg(short, long = "port", value_name = "HOST:GUEST")]
    ports: Vec<PortForward>,
    /// Force a hypervisor
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<Hypervisor>,
}

impl Values {
    /// With a flake as the user writes it. A local one is made absolute, and has to be there.
    fn change(self, flake: Option<&str>) -> Result<TemplateChange, Fault> {
        let absolute = |text: &str| -> Result<String, Fault> {
            let flake: FlakeRef = text.parse()?;
            flake.clone().locate()?;
            Ok(flake.installable())
        };
        Ok(TemplateChange {
            flake: flake.map(absolute).transpose()?,
            profile: self.profile,
            vcpus: self.cpus,
            memory: self.memory,
            env: self.env.into_iter().collect(),
            ports: self.ports,
            hypervisor: self.hypervisor,
        })
    }
}

/// Checks a text that is to be a template, beyond what its grammar says.
fn check(text: &[u8]) -> Result<Template, Fault> {
    let template = Template::parse(text).map_err(|error: TemplateTextError| {
        let fault = Fault::from(error);
        Fault { message: format!("this is no template: {}", fault.message), ..fault }
    })?;
    output_of(&template)?;
    Ok(template)
}

/// A build, as `--json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildFacts {
    /// The image folder.
    image: PathBuf,
    /// Seconds since the epoch.
    built_at: u64,
    /// Whether it is of what the template says now.
    current: bool,
    /// Size of kernel, initrd and rootfs together; absent where the image cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
}

impl BuildFacts {
    fn of(stored: &StoredTemplate, build: &TemplateBuild) -> Self {
        let flake = output_of(&stored.template).map(|flake| flake.to_string());
        Self {
            image: build.image.clone(),
            built_at: build.at,
            current: flake.is_ok_and(|flake| stored.build_of(&flake).is_some()),
            size_bytes: mvm_image::Image::open(&build.image).ok().map(|image| image.size()),
        }
    }

    /// When, for a person.
    fn when(&self) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        let ago = HumanDuration(Duration::from_secs(now.saturating_sub(self.built_at)));
        let outdated = if self.current { "" } else { ", of what it said before" };
        format!("{ago} ago{outdated}")
    }
}

/// The VMs that were made of a template.
fn vms_of(ctx: &Context, name: &TemplateName) -> Result<Vec<String>, Fault> {
    let is_of = |source: &mvm_core::VmSource| matches!(source, mvm_core::VmSource::Flake { template: Some(template), .. } if template == name);
    let vms = ctx.registry.list()?;
    Ok(vms.into_iter().filter(|vm| is_of(&vm.spec.source)).map(|vm| vm.spec.name.to_string()).collect())
}
