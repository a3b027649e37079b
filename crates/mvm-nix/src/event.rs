//! The events of `nix --log-format internal-json`: one line of stderr becomes one typed event.
//!
//! The format is Nix's own (`src/libutil/logging.hh`, `JSONLogger`): a line `@nix {…}` with the action
//! `start`, `stop`, `result` or `msg`. Type numbers mean one thing in `start` and another in `result`.

use crate::lines::Line;
use serde::Deserialize;
use serde_json::Value;

/// Texts longer than this many bytes are cut: they are for people.
const MAX_TEXT: usize = 16 * 1024;

/// Nix's number for one activity, unique in one run of Nix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActivityId(pub u64);

/// What Nix is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// A store path on its way between stores. Its progress counts bytes.
    CopyPath {
        /// The store path.
        path: String,
        /// The store it comes from.
        from: String,
        /// The store it goes to.
        to: String,
    },
    /// A download or upload. Its progress counts bytes.
    FileTransfer {
        /// What is transferred.
        url: String,
    },
    /// The whole of what was asked for.
    Realise,
    /// All copies. Its progress counts paths.
    CopyPaths,
    /// All builds. Its progress counts derivations.
    Builds,
    /// One build.
    Build {
        /// The store path of the derivation.
        derivation: String,
        /// The remote builder; empty for this machine.
        machine: String,
    },
    /// A store path fetched instead of built.
    Substitute {
        /// The store path.
        path: String,
        /// The binary cache.
        from: String,
    },
    /// A question to a binary cache.
    QueryPathInfo {
        /// The store path.
        path: String,
        /// The binary cache.
        from: String,
    },
    /// Waiting for a lock or for a free machine.
    BuildWaiting,
    /// A source tree being fetched.
    FetchTree,
    /// Anything else, with Nix's number for it.
    Other(u64),
}

impl Activity {
    /// Nix's number for this kind of activity.
    pub fn code(&self) -> u64 {
        match self {
            Self::CopyPath { .. } => 100,
            Self::FileTransfer { .. } => 101,
            Self::Realise => 102,
            Self::CopyPaths => 103,
            Self::Builds => 104,
            Self::Build { .. } => 105,
            Self::Substitute { .. } => 108,
            Self::QueryPathInfo { .. } => 109,
            Self::BuildWaiting => 111,
            Self::FetchTree => 112,
            Self::Other(code) => *code,
        }
    }
}

/// One event of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Nix is about to be started to evaluate a flake: mvm's own event, which comes before all of Nix's.
    Evaluating,
    /// An activity began.
    Start {
        /// Its number.
        id: ActivityId,
        /// The activity that it is part of; Nix 2.8 does not say.
        parent: Option<ActivityId>,
        /// What it is.
        activity: Activity,
        /// Nix's words for it; may be empty.
        text: String,
    },
    /// An activity ended, well or not.
    Stop {
        /// Its number.
        id: ActivityId,
    },
    /// A builder wrote a line. ANSI sequences are as the builder wrote them.
    Log {
        /// The build.
        id: ActivityId,
        /// The line.
        line: String,
    },
    /// A builder entered a phase.
    Phase {
        /// The build.
        id: ActivityId,
        /// The phase, as in `buildPhase`.
        phase: String,
    },
    /// How far an activity is, in its own unit: see [`Activity`].
    Progress {
        /// The activity.
        id: ActivityId,
        /// Done.
        done: u64,
        /// Done and still to do.
        expected: u64,
        /// Under way.
        running: u64,
        /// Failed.
        failed: u64,
    },
    /// An activity expects this much of the work that activities of one kind do.
    Expected {
        /// The activity that expects it.
        id: ActivityId,
        /// The kind, as [`Activity::code`].
        code: u64,
        /// How much, in that kind's unit.
        expected: u64,
    },
    /// A store path has other content than Nix has noted of it.
    Corrupted {
        /// The store path.
        path: String,
    },
    /// Nix says something.
    Message {
        /// 0 error, 1 warning, 2 notice, 3 and above information.
        level: u64,
        /// The text without ANSI sequences.
        text: String,
    },
    /// An event of no interest, or of a later Nix.
    Other,
    /// A line that is no event: from a plugin, a wrapper, a library, or one that could not be read.
    Plain(String),
}

#[derive(Deserialize)]
struct Raw {
    action: String,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    parent: u64,
    #[serde(default)]
    level: u64,
    #[serde(default, rename = "type")]
    kind: u64,
    #[serde(default)]
    text: String,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    fields: Vec<Value>,
}

impl Raw {
    fn string(&self, index: usize) -> String {
        self.fields.get(index).and_then(Value::as_str).map(cut).unwrap_or_default()
    }
    fn number(&self, index: usize) -> Option<u64> {
        self.fields.get(index).and_then(Value::as_u64)
    }
}

/// Reads one line of Nix's stderr. Whatever the bytes, there is an event.
pub fn parse_line(line: &[u8]) -> BuildEvent {
    let Some(json) = line.strip_prefix(b"@nix ") else {
        return BuildEvent::Plain(plain(line));
    };
    let raw: Raw = match serde_json::from_slice(json) {
        Ok(raw) => raw,
        Err(error) => {
            tracing::debug!(%error, "unreadable event");
            return BuildEvent::Plain(plain(line));
        }
    };
    let id = ActivityId(raw.id);
    match raw.action.as_str() {
        "start" => BuildEvent::Start {
            id,
            parent: (raw.parent != 0).then_some(ActivityId(raw.parent)),
            activity: activity(&raw),
            text: cut(&strip_ansi(&raw.text)),
        },
        "stop" => BuildEvent::Stop { id },
        "msg" => BuildEvent::Message { level: raw.level, text: cut(&strip_ansi(&raw.msg)) },
        "result" => result(id, &raw),
        _ => BuildEvent::Other,
    }
}

/// As [`parse_line`], for a line that may have lost its tail: JSON without its tail cannot be read.
pub(crate) fn parse_bounded(line: &Line<'_>) -> BuildEvent {
    if line.lost == 0 {
        return parse_line(line.bytes);
    }
    let text = plain(line.bytes.get(..256).unwrap_or(line.bytes));
    BuildEvent::Plain(format!("{text}… ({} bytes more)", line.bytes.len().saturating_sub(256) + line.lost))
}

fn activity(raw: &Raw) -> Activity {
    match raw.kind {
        100 => Activity::CopyPath { path: raw.string(0), from: raw.string(1), to: raw.string(2) },
        101 => Activity::FileTransfer { url: raw.string(0) },
        102 => Activity::Realise,
        103 => Activity::CopyPaths,
        104 => Activity::Builds,
        105 => Activity::Build { derivation: raw.string(0), machine: raw.string(1) },
        108 => Activity::Substitute { path: raw.string(0), from: raw.string(1) },
        109 => Activity::QueryPathInfo { path: raw.string(0), from: raw.string(1) },
        111 => Activity::BuildWaiting,
        112 => Activity::FetchTree,
        other => Activity::Other(other),
    }
}

fn result(id: ActivityId, raw: &Raw) -> BuildEvent {
    let numbers = [0, 1, 2, 3].map(|n| raw.number(n));
    match (raw.kind, numbers) {
        // 107 is the post-build hook's log.
        (101 | 107, _) => BuildEvent::Log { id, line: raw.string(0) },
        (103, _) => BuildEvent::Corrupted { path: raw.string(0) },
        (104, _) => BuildEvent::Phase { id, phase: raw.string(0) },
        (105, [Some(done), Some(expected), running, failed]) => {
            BuildEvent::Progress { id, done, expected, running: running.unwrap_or(0), failed: failed.unwrap_or(0) }
        }
        (106, [Some(code), Some(expected), ..]) => BuildEvent::Expected { id, code, expected },
        _ => BuildEvent::Other,
    }
}

fn cut(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

fn plain(line: &[u8]) -> String {
    cut(&strip_ansi(&String::from_utf8_lossy(line)))
}

/// Text without escape sequences.
pub(crate) fn strip_ansi(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every line that the three recorded versions print is understood.
    #[test]
    fn all_recorded_lines_are_events() {
        let mut count = 0;
        for sample in crate::build::tests::samples("events") {
            for line in sample.bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let event = parse_line(line);
                let is_event = line.starts_with(b"@nix ");
                assert_eq!(matches!(event, BuildEvent::Plain(_)), !is_event, "{}: {event:?}", sample.name);
                assert_ne!(event, BuildEvent::Other, "{}: {}", sample.name, String::from_utf8_lossy(line));
                count += 1;
            }
        }
        assert!(count > 1000, "{count}");
    }

    #[test]
    fn numbers_mean_other_things_in_other_actions() {
        let start =
            br#"@nix {"action":"start","id":7,"level":3,"text":"","type":105,"fields":["/nix/store/x.drv","",1,1]}"#;
        assert!(matches!(parse_line(start), BuildEvent::Start { activity: Activity::Build { .. }, parent: None, .. }));
        let result = br#"@nix {"action":"result","id":7,"type":105,"fields":[1,2,3,4]}"#;
        let id = ActivityId(7);
        assert_eq!(parse_line(result), BuildEvent::Progress { id, done: 1, expected: 2, running: 3, failed: 4 });
    }

    #[test]
    fn what_cannot_be_read_is_passed_on() {
        for line in [
            "warning: Ignoring setting",
            "@nix",
            "@nix {",
            "@nix []",
            r#"@nix {"action":5}"#,
            r#"@nix {"action":"start","id":-1}"#,
        ] {
            assert_eq!(parse_line(line.as_bytes()), BuildEvent::Plain(line.to_owned()));
        }
        assert_eq!(parse_line(b"\xff\x1b[31mred\x1b[0m"), BuildEvent::Plain("\u{fffd}red".into()));
        assert_eq!(parse_line(br#"@nix {"action":"levitate"}"#), BuildEvent::Other);
        assert_eq!(parse_line(br#"@nix {"action":"result","id":1,"type":105,"fields":["a"]}"#), BuildEvent::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(line: Vec<u8>) {
            let _ = parse_line(&line);
        }

        #[test]
        fn no_event_panics(
            action in "start|stop|result|msg|[a-z]{1,5}", id: u64, kind in 95u64..115,
            fields in proptest::collection::vec("-?[1-9][0-9]{0,19}|\"[^\"\\\\\\p{Cc}]{0,9}\"|null|\\[\\]|1\\.5|\\{\\}", 0..6),
        ) {
            let line = format!(r#"@nix {{"action":"{action}","id":{id},"type":{kind},"fields":[{}]}}"#, fields.join(","));
            prop_assert!(!matches!(parse_line(line.as_bytes()), BuildEvent::Plain(_)), "{}", line);
        }
    }
}
