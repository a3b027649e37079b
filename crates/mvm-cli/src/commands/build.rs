//! `mvmctl build`.

use crate::Context;
use crate::build_events::{EventLines, Line};
use crate::interrupt::Interrupts;
use crate::nix_build::{self, Wanted};
use crate::progress::BuildProgress;
use clap::builder::NonEmptyStringValueParser;
use mvm_core::{Fault, ImageManifest};
use mvm_nix::{BuildOutput, GcRoot, SourceWatch, StorePath};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Build an image with Nix and print where it is
///
/// Nix is not started for a flake that has not changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mvmctl build .#image -o result\n  mvmctl build --profile web --watch")]
pub(crate) struct BuildArgs {
    /// The flake ref; the flake of this folder where it is missing
    #[arg(value_name = "REF", conflicts_with = "named")]
    flake: Option<String>,
    /// The same, as an option
    #[arg(long = "flake", id = "named", value_name = "REF")]
    named: Option<String>,
    /// Which image of the flake: `--profile web` is `#web`
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    profile: Option<String>,
    /// Evaluate the flake even if nothing has changed
    #[arg(long)]
    refresh: bool,
    /// Build again whenever the flake's own files change, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// The link that keeps it from Nix's garbage collector; one in mvm's folder, which the next build takes over,
    /// where absent
    #[arg(short, long, value_name = "PATH")]
    out_link: Option<PathBuf>,
    /// As JSON: the result, or with `--json=events` all that happens, one object a line
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "result")]
    json: Option<JsonForm>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum JsonForm {
    Result,
    Events,
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built<'b> {
    path: &'b str,
    out_link: &'b Path,
    image: &'b ImageManifest,
}

/// In which form a build is told.
enum Report<'u> {
    Plain,
    Result,
    Events(EventLines<'u>),
}

pub(crate) async fn run(args: BuildArgs, ctx: &Context) -> Result<u8, Fault> {
    let (link, _building) = match args.out_link {
        Some(link) => {
            let link = std::path::absolute(link).map_err(|e| Fault::unexpected("cannot find the link's place", &e))?;
            (link, None)
        }
        None => (ctx.registry.last_build(), Some(ctx.registry.building()?)),
    };
    let flake = args.flake.or(args.named).unwrap_or_else(|| ".".into());
    let wanted = Wanted::typed(&flake, args.profile.as_deref(), args.refresh)?;
    let mut report = match args.json {
        None => Report::Plain,
        Some(JsonForm::Result) => Report::Result,
        Some(JsonForm::Events) => Report::Events(EventLines::new(&ctx.ui)),
    };
    let mut interrupts = Interrupts::hear()?;
    if args.watch {
        return watch(ctx, wanted, &link, &mut report, &mut interrupts).await;
    }
    let done = build(ctx, &wanted, &link, &mut report, &mut interrupts).await;
    if let (Report::Events(lines), Err(error)) = (&mut report, &done)
        && error.signal.is_none()
    {
        lines.line(&Line::Failed { error })?;
    }
    done.map(|()| 0)
}

/// Builds, and builds again, until somebody has had enough of it. A build that fails is told, and the watch goes on.
async fn watch(
    ctx: &Context,
    mut wanted: Wanted,
    link: &Path,
    report: &mut Report<'_>,
    interrupts: &mut Interrupts,
) -> Result<u8, Fault> {
    // Before the first build: what changes while it runs is built next.
    let mut watch = SourceWatch::new(&wanted.flake).await?;
    loop {
        match build(ctx, &wanted, link, report, interrupts).await {
            Err(fault) if fault.signal.is_some() => return Err(fault),
            Err(error) => {
                let _ = ctx.ui.fault(&error);
                report.line(&Line::Failed { error: &error })?;
            }
            Ok(()) => {}
        }
        wanted.refresh = false;
        report.line(&Line::Watching { folder: watch.root() })?;
        ctx.ui.status(&format!("watching {}; Ctrl-C ends it", watch.root().display()));
        tokio::select! {
            changed = watch.changed() => changed?,
            fault = interrupts.fault() => return Err(fault),
        }
        report.line(&Line::Changed)?;
    }
}

async fn build(
    ctx: &Context,
    wanted: &Wanted,
    link: &Path,
    report: &mut Report<'_>,
    interrupts: &mut Interrupts,
) -> Result<(), Fault> {
    let mut progress = BuildProgress::new(&ctx.ui);
    let events = |event: &_| {
        progress.show(event);
        if let Report::Events(lines) = report {
            lines.show(event);
        }
    };
    let before = GcRoot::at(link).target();
    let (_, output) = nix_build::build_with(ctx, wanted, link, interrupts, events).await?;
    drop(progress);
    let path = output.path.to_absolute_path();
    match mvm_image::Image::open(path.as_ref()) {
        Ok(image) => report.built(ctx, &output, &path, image.manifest()),
        Err(error) => {
            put_back(ctx, output.root, before, interrupts).await?;
            Err(error.into())
        }
    }
}

/// What is no image is not worth keeping, and must not take the place of what an earlier build has left.
async fn put_back(
    ctx: &Context,
    root: GcRoot,
    before: Option<StorePath>,
    interrupts: &mut Interrupts,
) -> Result<(), Fault> {
    if let Some(before) = before {
        let path = before.to_absolute_path();
        match nix_build::keep(ctx, path.as_ref(), root.link(), interrupts).await {
            // It may have been collected long ago.
            Err(fault) if fault.signal.is_none() => {}
            done => return done,
        }
    }
    Ok(root.release()?)
}

impl Report<'_> {
    fn line(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        match self {
            Self::Events(lines) => lines.line(line),
            Self::Plain | Self::Result => Ok(()),
        }
    }

    fn built(&mut self, ctx: &Context, output: &BuildOutput, path: &str, image: &ImageManifest) -> Result<(), Fault> {
        let out_link = output.root.link();
        match self {
            Self::Plain => ctx.ui.raw(format!("{path}\n").as_bytes()),
            Self::Result => ctx.ui.json(&Built { path, out_link, image }),
            Self::Events(lines) => lines.line(&Line::Built { path, out_link, remembered: output.remembered, image }),
        }
    }
}
