//! Development tasks.
// A task speaks to the developer who started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
enum Task {
    /// Measure the promised numbers and write them down
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let Task::Bench(args) = Task::parse();
    match bench::run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        // What could not be measured has been said.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
