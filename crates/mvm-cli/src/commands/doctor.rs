//! `mvmctl doctor`.

use crate::Context;
use mvm_core::{ErrorKind, Fault, Lack};
use mvm_runtime::{Dependency, Report};

/// Tell what this machine can run VMs with, and what it lacks
///
/// Fails only where nothing can run a VM.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: DoctorArgs, ctx: &Context) -> Result<u8, Fault> {
    let report = mvm_runtime::examine(ctx.dirs()).await;
    if args.json {
        ctx.ui.json(&report)?;
    } else {
        show(ctx, &report);
    }
    if report.can_run() {
        return Ok(0);
    }
    let fault = Fault::new(ErrorKind::BackendUnavailable, "nothing on this machine can run a VM");
    Err(match report.backends.into_iter().find_map(|verdict| verdict.lack?.hint) {
        Some(hint) => fault.with_hint(hint),
        None => fault,
    })
}

fn show(ctx: &Context, report: &Report) {
    let rows: Vec<[String; 4]> = report
        .backends
        .iter()
        .map(|verdict| {
            let usable = if verdict.usable { "yes" } else { "no" };
            let accelerator = verdict.accelerator.unwrap_or("-");
            [verdict.hypervisor.to_string(), usable.into(), accelerator.into(), why(verdict.lack.as_ref())]
        })
        .collect();
    ctx.ui.table(["BACKEND", "USABLE", "CPUS", "WHY NOT, OR NOT BETTER"], &rows);
    ctx.ui.data("");
    let rows: Vec<[String; 4]> = report.dependencies.iter().map(dependency).collect();
    ctx.ui.table(["NEEDED", "VERSION", "FOR", "PATH, OR WHAT IS WRONG"], &rows);
    ctx.ui.data("");
    let chosen = report.chosen.hypervisor.map_or("nothing".into(), |hypervisor| hypervisor.to_string());
    let mut facts = vec![("chosen", format!("{chosen}: {}", report.chosen.why))];
    facts.extend(hints(report).into_iter().map(|hint| ("hint", hint)));
    ctx.ui.facts(&facts);
}

fn why(lack: Option<&Lack>) -> String {
    lack.map_or(String::new(), |lack| lack.why.clone())
}

fn dependency(d: &Dependency) -> [String; 4] {
    let path = d.path.as_ref().map_or(String::new(), |path| path.display().to_string());
    let last = d.lack.as_ref().map_or(path, |lack| lack.why.clone());
    [d.name.into(), d.version.clone().unwrap_or_else(|| "-".into()), d.needed_for.into(), last]
}

/// What can be done, each once.
fn hints(report: &Report) -> Vec<String> {
    let backends = report.backends.iter().map(|v| (v.hypervisor.as_str(), v.lack.as_ref()));
    let dependencies = report.dependencies.iter().map(|d| (d.name, d.lack.as_ref()));
    let mut hints: Vec<(&str, &str)> = Vec::new();
    for (name, lack) in backends.chain(dependencies) {
        if let Some(hint) = lack.and_then(|lack| lack.hint.as_deref())
            && !hints.iter().any(|(_, told)| *told == hint)
        {
            hints.push((name, hint));
        }
    }
    hints.into_iter().map(|(name, hint)| format!("{name}: {hint}")).collect()
}
