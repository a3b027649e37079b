//! What came of every case on every backend, and the page that shows it.

use mvm_core::Hypervisor;
use std::fmt;
use std::path::Path;

/// What came of one case on one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// Refused by name, as the table of capabilities has it.
    Refused,
    NotRun,
    Failed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Refused => "refused by name",
            Self::NotRun => "not run",
            Self::Failed => "FAILED",
        }
    }
}

/// A row a case, a column a backend; or why the backend was not run.
pub struct Matrix {
    pub cases: Vec<&'static str>,
    pub columns: Vec<(Hypervisor, Result<Vec<Outcome>, String>)>,
}

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backends.md");
const BEGIN: &str = "<!-- Written by the conformance suite, with MVM_WRITE_MATRIX=1; do not edit. -->\n";
const END: &str = "<!-- The end of what it writes. -->\n";

impl Matrix {
    pub fn has_failures(&self) -> bool {
        self.columns.iter().flat_map(|(_, column)| column.iter().flatten()).any(|outcome| *outcome == Outcome::Failed)
    }

    /// Writes the page's section where that is asked for, else asserts that it says the same of all that was run here.
    pub fn compare_or_write(&self) {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (head, rest) = page.split_once(BEGIN).unwrap();
        let (section, tail) = rest.split_once(END).unwrap();
        if std::env::var_os("MVM_WRITE_MATRIX").is_some() {
            let text = format!("{head}{BEGIN}\n{self}\n{END}{tail}");
            let mut file = tempfile::NamedTempFile::new_in(Path::new(PAGE).parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            std::fs::set_permissions(file.path(), std::fs::metadata(PAGE).unwrap().permissions()).unwrap();
            file.persist(PAGE).unwrap();
            return;
        }
        // What another machine could not run it has not claimed either, and what this one cannot run it cannot judge.
        let claims = cells(section);
        let ours = cells(&self.to_string());
        assert_eq!(claims.len(), ours.len(), "{PAGE} has other cases");
        for (claim, ours) in claims.iter().zip(&ours) {
            let same = claim.iter().zip(ours).all(|(a, b)| a == b || a == "not run" || b == "not run");
            assert!(same && claim.len() == ours.len(), "{PAGE} says {claim:?}, and here it is {ours:?}");
        }
    }
}

/// The cells of a table, row by row.
fn cells(text: &str) -> Vec<Vec<String>> {
    let row = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(|line| line.starts_with('|')).map(row).collect()
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| case |")?;
        self.columns.iter().try_for_each(|(hypervisor, _)| write!(f, " `{hypervisor}` |"))?;
        writeln!(f, "\n|---|{}", "---|".repeat(self.columns.len()))?;
        for (row, case) in self.cases.iter().enumerate() {
            write!(f, "| {case} |")?;
            for (_, column) in &self.columns {
                let outcome = column.as_ref().map_or(Outcome::NotRun, |outcomes| outcomes[row]);
                write!(f, " {} |", outcome.as_str())?;
            }
            writeln!(f)?;
        }
        for (hypervisor, column) in &self.columns {
            if let Err(why) = column {
                writeln!(f, "\n`{hypervisor}` was not run: {why}.")?;
            }
        }
        Ok(())
    }
}
