//! The one owner of stdout and stderr: data goes to stdout, all else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mvm_core::Fault;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tokio::io::{AsyncBufReadExt, BufReader};

/// What a command speaks through.
#[derive(Debug)]
pub(crate) struct Ui {
    quiet: bool,
    noted_accelerator: Cell<bool>,
    /// What stdout did not take.
    lost: RefCell<Option<Fault>>,
}

/// Sends the libraries' diagnostics to stderr; `MVM_LOG` chooses which.
pub(crate) fn log_to_stderr(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MVM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
}

impl Ui {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, noted_accelerator: Cell::new(false), lost: RefCell::new(None) }
    }

    /// A line of data. A reader that has gone away is no error; what else prevents it, [`Self::lost`] tells.
    pub(crate) fn data(&self, line: &str) {
        match writeln!(io::stdout().lock(), "{line}") {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                self.lost.replace(Some(Fault::output("cannot write to stdout", &e)));
            }
            _ => {}
        }
    }

    /// Why data was lost, as on a disk that is full: a command that has lost some has not done its work.
    pub(crate) fn lost(&self) -> Option<Fault> {
        self.lost.take()
    }

    /// Bytes of data as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Fault::output("cannot write to stdout", &e))
    }

    /// A value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Fault> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Fault::unexpected("cannot write JSON", &e))?;
        self.data(&text);
        Ok(())
    }

    /// A value as JSON on a line of its own, at once.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Fault> {
        let mut text = serde_json::to_vec(value).map_err(|e| Fault::unexpected("cannot write JSON", &e))?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// Rows under a heading, in columns.
    pub(crate) fn table<const N: usize>(&self, heading: [&str; N], rows: &[[String; N]]) {
        for line in columns(heading, rows) {
            self.data(&line);
        }
    }

    /// Facts by name, one a line; a name that repeats is written once.
    pub(crate) fn facts(&self, facts: &[(&str, String)]) {
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut before = "";
        for (name, fact) in facts {
            let shown = if *name == before { "" } else { name };
            self.data(format!("{shown:width$}  {fact}").trim_end());
            before = name;
        }
    }

    /// What happens, for a person.
    pub(crate) fn status(&self, line: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Something to know, once, about what the CPUs of a VM are.
    pub(crate) fn note_accelerator(&self, accelerator: Option<&str>) {
        let note = match accelerator {
            Some("tcg") => "note: KVM cannot be used here, so the VM runs in software: it works, but slowly",
            Some("container") => {
                "note: this is a container on the kernel of this machine: a weaker wall than that of a VM"
            }
            _ => return,
        };
        if !self.noted_accelerator.replace(true) {
            self.status(note);
        }
    }

    /// Something that did not work but does not end the command.
    pub(crate) fn warning(&self, text: &str) {
        self.status(&format!("warning: {text}"));
    }

    /// An error without advice.
    pub(crate) fn error(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "error: {text}");
    }

    /// An error with its advice; gives its exit code.
    pub(crate) fn fault(&self, fault: &Fault) -> ExitCode {
        if !fault.is_silent() {
            self.error(&fault.message);
        }
        if let Some(hint) = &fault.hint {
            let _ = writeln!(io::stderr().lock(), "hint: {hint}");
        }
        ExitCode::from(fault.exit_code())
    }

    /// Whether a line that changes would be seen.
    pub(crate) fn is_live(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether somebody is there who can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks a question; no answer at all is a no. Cancel-safe.
    pub(crate) async fn confirm(&self, question: &str) -> bool {
        let _ = write!(io::stderr().lock(), "{question} [Y/n] ");
        let answer = BufReader::new(tokio::io::stdin()).lines().next_line().await;
        matches!(answer, Ok(Some(line)) if !line.trim_start().to_lowercase().starts_with('n'))
    }

    /// A line that changes while something goes on; seen on a terminal only.
    pub(crate) fn spinner(&self) -> ProgressBar {
        let target = if self.is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        ProgressBar::with_draw_target(None, target).with_style(ProgressStyle::default_spinner())
    }
}

fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = heading.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    std::iter::once(line(heading))
        .chain(rows.iter().map(|row| line(std::array::from_fn(|i| row[i].as_str()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), "ready".into()], ["longer".into(), "x".into()]];
        assert_eq!(columns(["NAME", "STATE"], &rows), ["NAME    STATE", "a       ready", "longer  x"]);
    }
}
