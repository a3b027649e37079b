//! `bench`: the promised numbers, each measured against something on the same machine in the same minutes.

mod baseline;
mod boot;
mod build;
mod catalog;
mod channel;
mod commands;
mod copy;
mod exec;
mod footprint;
mod initrd;
mod machine;
mod page;
mod programs;
mod row;
mod sample;
mod user;

use channel::Bare;
use programs::Programs;
use row::{Missing, Row};
use std::path::PathBuf;
use user::User;

/// Whatever went wrong: it is shown, never handled.
type Failure = Box<dyn std::error::Error>;

/// `bench`.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// Measure only the groups whose names contain this; the page says that the others were left out
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "docs/performance.md")]
    out: PathBuf,
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Samples of each side of a boot.
    boots: usize,
    /// Samples of each side of a command.
    commands: usize,
    /// Samples of each side of a copy.
    copies: usize,
}

/// Measures everything and writes the page; whether everything could be measured.
pub(crate) fn run(args: &BenchArgs) -> Result<bool, Failure> {
    let effort = if args.quick {
        Effort { boots: 5, commands: 11, copies: 3 }
    } else {
        Effort { boots: 11, commands: 25, copies: 7 }
    };
    let programs = Programs::build()?;
    let mut report = Report { only: args.only.clone(), rows: Vec::new(), missing: Vec::new() };
    report.section("commands that start no VM", || commands::measure(&programs, effort));
    report.section("builds", || build::measure(&User::new(&programs)?, effort));
    report.section("catalog", || catalog::measure(&programs, effort));
    for (variable, prefix, words) in
        [("MVM_TEST_KERNEL_STOCK", "debian-", "stock kernel"), ("MVM_TEST_KERNEL_OWN", "mvm-", "own kernel")]
    {
        report.section(&format!("boot, {words}"), || {
            boot::measure(&User::with_kernel(&programs, variable, prefix)?, words, effort)
        });
    }
    let user = User::with_kernel(&programs, "MVM_TEST_KERNEL_OWN", "mvm-")?;
    // The VM of all that follows: with room for the copies in its memory.
    user.mvmctl(&["up", "-d", "--name", "bench", "--memory", "2G"])?;
    report.section("sizes", || footprint::measure(&user, "bench"));
    let bare = Bare::serve(&user, "bench")?;
    report.section("exec", || exec::measure(&user, "bench", &bare, effort));
    report.section("cp", || copy::measure(&user, "bench", &bare, effort));
    let accelerator = user.snapshot("bench")?.record.accelerator;
    drop((bare, user));
    let page = page::page(&report.rows, &report.missing, &machine::facts(accelerator)?, args.quick);
    std::fs::write(&args.out, page)?;
    println!("wrote {}", args.out.display());
    Ok(report.missing.is_empty())
}

/// What has been found so far.
struct Report {
    only: Option<String>,
    rows: Vec<Row>,
    missing: Vec<Missing>,
}

impl Report {
    /// One group of numbers; those that cannot be measured do not keep the others from it.
    fn section(&mut self, what: &str, measure: impl FnOnce() -> Result<Vec<Row>, Failure>) {
        let measured = match &self.only {
            Some(only) if !what.contains(only) => Err("left out by --only".into()),
            _ => measure(),
        };
        match measured {
            Ok(measured) => self.rows.extend(measured.into_iter().inspect(|row| println!("{row}"))),
            Err(error) => {
                println!("not measured: {what}: {error}");
                self.missing.push(Missing { what: what.into(), why: error.to_string() });
            }
        }
    }
}
