//! `mvmctl template list`.

use super::BuildFacts;
use crate::Context;
use crate::template_build::{flake_of, output_of};
use indicatif::HumanBytes;
use mvm_core::{Fault, Template, TemplateName};
use serde::Serialize;

/// List the templates
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mvmctl template list --json")]
pub(super) struct ListArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of each.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: TemplateName,
    /// With its output; absent where the template is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    flake: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<BuildFacts>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

pub(super) fn run(args: ListArgs, ctx: &Context) -> Result<u8, Fault> {
    let templates = ctx.templates().list()?;
    let listed: Vec<Listed> = templates
        .into_iter()
        .map(|(name, stored)| match stored {
            Ok(stored) => Listed {
                flake: Some(shown(&stored.template)),
                build: stored.build.as_ref().map(|build| BuildFacts::of(&stored, build)),
                fault: flake_of(ctx, &stored).err(),
                name,
            },
            Err(error) => Listed { name, flake: None, build: None, fault: Some(error.into()) },
        })
        .collect();
    if args.json {
        ctx.ui.json(&listed)?;
        return Ok(0);
    }
    let rows: Vec<[String; 4]> = listed.iter().map(row).collect();
    ctx.ui.table(["NAME", "FLAKE", "BUILT", "SIZE"], &rows);
    for fault in listed.iter().filter_map(|listed| listed.fault.as_ref()) {
        ctx.ui.warning(&fault.message);
    }
    Ok(0)
}

/// The flake with its output, as far as it can be told.
fn shown(template: &Template) -> String {
    output_of(template).map_or_else(|_| template.flake.clone(), |flake| flake.to_string())
}

fn row(listed: &Listed) -> [String; 4] {
    let dash = || "-".to_owned();
    [
        listed.name.to_string(),
        listed.flake.clone().unwrap_or_else(|| "damaged".into()),
        listed.build.as_ref().map_or_else(dash, BuildFacts::when),
        listed.build.as_ref().and_then(|b| b.size_bytes).map_or_else(dash, |size| HumanBytes(size).to_string()),
    ]
}
