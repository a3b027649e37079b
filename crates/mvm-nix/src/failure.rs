//! Keeps, while a build runs, the little that is needed to tell why it failed.

use crate::advice::Trouble;
use crate::error::NixFailure;
use crate::event::{Activity, ActivityId, BuildEvent, strip_ansi};
use std::collections::{HashMap, VecDeque};

/// Last lines kept of a builder.
const LAST_LINES: usize = 20;
/// Characters kept of one such line.
const MAX_LINE_CHARS: usize = 1000;
/// Builds whose last lines are kept; the oldest go first.
const MAX_BUILDS: usize = 64;
/// Bytes kept of Nix's messages.
const MAX_MESSAGE: usize = 16 * 1024;
/// Lines kept that were no events.
const MAX_PLAIN: usize = 20;
/// Words that Nix adds to errors for its own command line.
const NOISE: [&str; 2] = ["(use '--show-trace'", "Try 'nix --help'"];

#[derive(Debug)]
struct Build {
    id: ActivityId,
    derivation: String,
    lines: VecDeque<String>,
}

/// Collects messages and last lines.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    builds: VecDeque<Build>,
    errors: Vec<String>,
    error_bytes: usize,
    warnings: VecDeque<String>,
    plain: VecDeque<String>,
}

impl FailureLog {
    /// Takes one event.
    pub fn apply(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Start { id, activity: Activity::Build { derivation, .. }, .. } => {
                bound(&mut self.builds, MAX_BUILDS);
                self.builds.push_back(Build { id: *id, derivation: derivation.clone(), lines: VecDeque::new() });
            }
            BuildEvent::Log { id, line } => {
                if let Some(build) = self.builds.iter_mut().rev().find(|b| b.id == *id) {
                    bound(&mut build.lines, LAST_LINES);
                    build.lines.push_back(last_words(line));
                }
            }
            // A daemon's warnings come through as errors.
            BuildEvent::Message { level: 0, text } if text.starts_with("warning:") => self.warn(text),
            BuildEvent::Message { level: 0, text }
                if !NOISE.iter().any(|n| text.starts_with(n)) && self.error_bytes < MAX_MESSAGE =>
            {
                self.error_bytes += text.len();
                self.errors.push(text.trim().to_owned());
            }
            BuildEvent::Message { level: 1, text } => self.warn(text),
            BuildEvent::Plain(text) => {
                bound(&mut self.plain, MAX_PLAIN);
                self.plain.push_back(text.clone());
            }
            _ => {}
        }
    }

    fn warn(&mut self, text: &str) {
        bound(&mut self.warnings, MAX_PLAIN);
        self.warnings.push_back(text.to_owned());
    }

    /// The account of a failure. `otherwise` is said where Nix said nothing.
    pub fn finish(mut self, installable: String, otherwise: &str) -> NixFailure {
        // The build to blame is the first that an error names: HashMap by derivation, since a failed dependency
        // is named before what needs it.
        let known: HashMap<&str, usize> =
            self.builds.iter().enumerate().map(|(at, b)| (b.derivation.as_str(), at)).collect();
        let blamed = self.errors.iter().find_map(|e| derivations(e).find_map(|d| known.get(d).copied()));
        let (derivation, last_lines) = match blamed.and_then(|at| self.builds.remove(at)) {
            Some(build) => (Some(build.derivation), build.lines.into()),
            None => (None, Vec::new()),
        };
        let mut message = self.errors.iter().map(|e| error_text(e)).collect::<Vec<_>>().join("\n");
        if message.is_empty() {
            message = Vec::from(self.plain).join("\n");
        }
        if message.is_empty() {
            message = otherwise.to_owned();
        }
        let mut trouble = Trouble::recognise(&message);
        // A refused signature is only a warning; the error that follows speaks of what could not be built instead.
        if trouble.is_none() && last_lines.is_empty() {
            let warned: Vec<_> = self.warnings.iter().filter_map(|w| Trouble::recognise(w)).collect();
            // What costs a download comes before what may cost nothing.
            let causes = [Trouble::Untrusted, Trouble::UntrustedSubstituter, Trouble::Offline, Trouble::UntrustedUser];
            trouble = causes.into_iter().find(|cause| warned.contains(cause));
        }
        // The builder's own words tell of a full disk.
        if trouble.is_none() && last_lines.iter().any(|l| Trouble::recognise(l) == Some(Trouble::NoSpace)) {
            trouble = Some(Trouble::NoSpace);
        }
        NixFailure { installable, derivation, last_lines, message, trouble, advice: None }
    }

    #[cfg(test)]
    pub fn replay(stream: &[u8]) -> NixFailure {
        let mut log = Self::default();
        for line in stream.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            log.apply(&crate::event::parse_line(line));
        }
        log.finish("x".into(), "nothing was said")
    }
}

/// A builder's line as it is shown: cut before it is cleaned, since it may be very long.
fn last_words(line: &str) -> String {
    let head: String = line.chars().take(2 * MAX_LINE_CHARS).collect();
    strip_ansi(&head).chars().take(MAX_LINE_CHARS).collect()
}

fn bound<T>(queue: &mut VecDeque<T>, limit: usize) {
    while queue.len() >= limit {
        queue.pop_front();
    }
}

fn error_text(text: &str) -> &str {
    text.strip_prefix("error:").unwrap_or(text).trim_start()
}

/// The derivation paths that a message names.
fn derivations(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || "'\"`,;".contains(c))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| word.starts_with('/') && word.ends_with(".drv"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_builder_is_found_in_all_recorded_versions() {
        let mut seen = 0;
        for sample in crate::build::tests::samples("events") {
            if !["fails", "needs-fails"].contains(&sample.file.as_str()) {
                continue;
            }
            let failure = FailureLog::replay(&sample.bytes);
            assert!(failure.derivation.as_deref().unwrap().ends_with("-mvm-sample-fails.drv"), "{}", sample.name);
            let want: Vec<_> =
                (1..=3).map(|n| format!("line {n} of the builder")).chain(["the last words".into()]).collect();
            assert_eq!(failure.last_lines, want, "{}", sample.name);
            assert!(failure.message.contains("exit code 7"), "{}: {}", sample.name, failure.message);
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn a_long_log_is_bounded() {
        let mut log = FailureLog::default();
        let id = ActivityId(1);
        let derivation = "/nix/store/x-y.drv".to_owned();
        let activity = Activity::Build { derivation: derivation.clone(), machine: String::new() };
        log.apply(&BuildEvent::Start { id, parent: None, activity, text: String::new() });
        for n in 0..3000 {
            log.apply(&BuildEvent::Log { id, line: format!("\u{1b}[1m{n}{}", "x".repeat(5000)) });
            log.apply(&BuildEvent::Message { level: 0, text: format!("error: '{derivation}' {n}") });
            log.apply(&BuildEvent::Plain(n.to_string()));
        }
        let failure = log.finish("i".into(), "");
        assert_eq!((failure.last_lines.len(), failure.last_lines[0].len()), (LAST_LINES, MAX_LINE_CHARS));
        assert!(failure.last_lines[19].starts_with("2999x"));
        assert!(failure.message.len() < 2 * MAX_MESSAGE);
    }

    #[test]
    fn silence_is_named() {
        let failure = FailureLog::default().finish("i".into(), "nix ended by signal 9");
        assert_eq!(failure.message, "nix ended by signal 9");
        assert!(FailureLog::replay(b"ld.so: cannot load x\n").message.contains("ld.so"));
    }
}
