//! From events to a picture of the build: a pure reducer that a display asks for snapshots.
//!
//! The sums follow Nix's own progress bar: per kind of activity, what ended activities have done, plus what
//! live ones report; expected is the larger of that and what `Expected` announced.

use crate::event::{Activity, ActivityId, BuildEvent};
use std::collections::{BTreeMap, HashMap};

/// More live activities than this are not followed. Nix runs tens at once.
const MAX_ACTIVITIES: usize = 4096;
/// Announcements kept per activity.
const MAX_ANNOUNCED: usize = 16;

/// Things done, expected, under way and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Done.
    pub done: u64,
    /// Done and still to do.
    pub expected: u64,
    /// Under way.
    pub running: u64,
    /// Failed.
    pub failed: u64,
}

/// Bytes done and expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Done.
    pub done: u64,
    /// Done and still to come; 0 where nobody knows.
    pub expected: u64,
}

/// A snapshot of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Derivations.
    pub builds: Counts,
    /// Store paths copied, substitutes among them.
    pub copies: Counts,
    /// Bytes downloaded.
    pub downloaded: Bytes,
    /// Bytes unpacked into the store.
    pub unpacked: Bytes,
    /// The name of the derivation that last gave a sign of life, as in `hello-2.12`.
    pub derivation: Option<String>,
    /// Its phase, as in `buildPhase`.
    pub phase: Option<String>,
    /// Its last line of log.
    pub line: Option<String>,
    /// What Nix does where nothing is being built, in its own words.
    pub activity: Option<String>,
}

#[derive(Debug, Default)]
struct Live {
    order: u64,
    code: u64,
    name: Option<String>,
    text: String,
    phase: Option<String>,
    line: Option<String>,
    counts: Counts,
    announced: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Total {
    done: u64,
    failed: u64,
    announced: u64,
}

/// Reduces events to [`Progress`].
#[derive(Debug, Default)]
pub struct ProgressState {
    live: HashMap<ActivityId, Live>,
    totals: HashMap<u64, Total>,
    current: Option<ActivityId>,
    started: u64,
}

const COPY_PATH: u64 = 100;
const FILE_TRANSFER: u64 = 101;
const COPY_PATHS: u64 = 103;
const BUILDS: u64 = 104;
const BUILD: u64 = 105;

impl ProgressState {
    /// Takes one event. Tells whether the picture may have changed.
    pub fn apply(&mut self, event: &BuildEvent) -> bool {
        match event {
            BuildEvent::Start { id, activity, text, .. } => self.start(*id, activity, text),
            BuildEvent::Stop { id } => self.stop(*id),
            BuildEvent::Log { id, line } => self.touch(*id, |l| l.line = Some(line.clone())),
            BuildEvent::Phase { id, phase } => self.touch(*id, |l| l.phase = Some(phase.clone())),
            BuildEvent::Progress { id, done, expected, running, failed } => {
                let counts = Counts { done: *done, expected: *expected, running: *running, failed: *failed };
                self.live.get_mut(id).is_some_and(|live| std::mem::replace(&mut live.counts, counts) != counts)
            }
            BuildEvent::Expected { id, code, expected } => self.announce(*id, *code, *expected),
            BuildEvent::Evaluating
            | BuildEvent::Corrupted { .. }
            | BuildEvent::Message { .. }
            | BuildEvent::Other
            | BuildEvent::Plain(_) => false,
        }
    }

    /// The picture now.
    pub fn snapshot(&self) -> Progress {
        let current = self
            .current
            .and_then(|id| self.live.get(&id))
            .or_else(|| self.live.values().filter(|l| l.code == BUILD).max_by_key(|l| l.order));
        let bytes = |code| {
            let counts = self.counts(code);
            Bytes { done: counts.done, expected: counts.expected }
        };
        Progress {
            builds: self.counts(BUILDS),
            copies: self.counts(COPY_PATHS),
            downloaded: bytes(FILE_TRANSFER),
            unpacked: bytes(COPY_PATH),
            derivation: current.and_then(|c| c.name.clone()),
            phase: current.and_then(|c| c.phase.clone()),
            line: current.and_then(|c| c.line.clone()),
            activity: self
                .live
                .values()
                .filter(|l| l.code != BUILD && !l.text.is_empty())
                .max_by_key(|l| l.order)
                .map(|l| l.text.clone()),
        }
    }

    fn start(&mut self, id: ActivityId, activity: &Activity, text: &str) -> bool {
        if self.live.len() >= MAX_ACTIVITIES {
            return false;
        }
        self.started += 1;
        let name = match activity {
            Activity::Build { derivation, .. } => {
                self.current = Some(id);
                Some(derivation_name(derivation).to_owned())
            }
            _ => None,
        };
        let live = Live { order: self.started, code: activity.code(), name, text: text.to_owned(), ..Live::default() };
        self.live.insert(id, live);
        true
    }

    fn stop(&mut self, id: ActivityId) -> bool {
        let Some(live) = self.live.remove(&id) else { return false };
        // Only kinds that a snapshot shows: a stream cannot fill the map with numbers.
        if [COPY_PATH, FILE_TRANSFER, COPY_PATHS, BUILDS].contains(&live.code) {
            let total = self.totals.entry(live.code).or_default();
            total.done = total.done.saturating_add(live.counts.done);
            total.failed = total.failed.saturating_add(live.counts.failed);
        }
        for (code, expected) in live.announced {
            if let Some(total) = self.totals.get_mut(&code) {
                total.announced = total.announced.saturating_sub(expected);
            }
        }
        if self.current == Some(id) {
            self.current = None;
        }
        true
    }

    fn touch(&mut self, id: ActivityId, change: impl FnOnce(&mut Live)) -> bool {
        let Some(live) = self.live.get_mut(&id) else { return false };
        change(live);
        if live.code == BUILD {
            self.current = Some(id);
        }
        true
    }

    fn announce(&mut self, id: ActivityId, code: u64, expected: u64) -> bool {
        let Some(live) = self.live.get_mut(&id) else { return false };
        if live.announced.len() >= MAX_ANNOUNCED && !live.announced.contains_key(&code) {
            return false;
        }
        if ![COPY_PATH, FILE_TRANSFER, COPY_PATHS, BUILDS].contains(&code) {
            return false;
        }
        let before = live.announced.insert(code, expected).unwrap_or(0);
        let total = self.totals.entry(code).or_default();
        total.announced = total.announced.saturating_sub(before).saturating_add(expected);
        before != expected
    }

    fn counts(&self, code: u64) -> Counts {
        let total = self.totals.get(&code);
        let ended = total.map_or(0, |t| t.done);
        let mut sum = Counts { done: ended, expected: ended, running: 0, failed: total.map_or(0, |t| t.failed) };
        for live in self.live.values().filter(|l| l.code == code) {
            sum.done = sum.done.saturating_add(live.counts.done);
            sum.expected = sum.expected.saturating_add(live.counts.expected);
            sum.running = sum.running.saturating_add(live.counts.running);
            sum.failed = sum.failed.saturating_add(live.counts.failed);
        }
        sum.expected = sum.expected.max(total.map_or(0, |t| t.announced)).max(sum.done);
        sum
    }
}

/// The name in a derivation's store path: `/nix/store/…-hello-2.12.drv` is `hello-2.12`.
pub(crate) fn derivation_name(path: &str) -> &str {
    let base = path.rsplit('/').next().unwrap_or(path);
    let name = base.split_once('-').map_or(base, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse_line;
    use proptest::prelude::*;

    /// Every snapshot of a recorded stream.
    fn replay(bytes: &[u8]) -> Vec<Progress> {
        let mut state = ProgressState::default();
        let events = bytes.split(|b| *b == b'\n').map(parse_line);
        events.filter_map(|e| state.apply(&e).then(|| state.snapshot())).collect()
    }

    #[test]
    fn a_recorded_build_is_followed() {
        for sample in crate::build::tests::samples("events").filter(|s| s.file == "ok") {
            let seen = replay(&sample.bytes);
            let last = seen.last().unwrap();
            assert_eq!((last.builds.done, last.builds.failed, last.builds.running), (2, 0, 0), "{}", sample.name);
            assert!(seen.iter().any(|p| p.builds.running == 1 && p.builds.expected == 2), "{}", sample.name);
            for derivation in ["mvm-sample-dep", "mvm-sample-ok"] {
                assert!(seen.iter().any(|p| p.derivation.as_deref() == Some(derivation)), "{}", sample.name);
            }
            let phase = |phase: &str| seen.iter().position(|p| p.phase.as_deref() == Some(phase)).unwrap();
            assert!(phase("unpackPhase") < phase("buildPhase"), "{}", sample.name);
            assert!(seen.iter().any(|p| p.line.as_deref() == Some("first line")), "{}", sample.name);
            assert!(
                seen.iter().any(|p| p.activity.as_deref().is_some_and(|a| a.contains("copying"))),
                "{}",
                sample.name
            );
            assert_eq!(last.derivation, None, "{}", sample.name);
        }
    }

    #[test]
    fn a_recorded_failure_is_counted() {
        for sample in crate::build::tests::samples("events").filter(|s| s.file == "fails") {
            let last = replay(&sample.bytes).pop().unwrap();
            assert_eq!((last.builds.done, last.builds.failed), (0, 1), "{}", sample.name);
        }
    }

    #[test]
    fn recorded_downloads_have_bytes() {
        for sample in crate::build::tests::samples("events").filter(|s| s.file == "substitute") {
            let seen = replay(&sample.bytes);
            let last = seen.last().unwrap();
            assert_eq!((last.copies.done, last.builds.done), (1, 0), "{}", sample.name);
            // 2.8 does not say how far it has unpacked.
            assert!(last.unpacked.done >= 60_000 || sample.name.starts_with("2.8"), "{}: {last:?}", sample.name);
            assert!(seen.iter().any(|p| p.downloaded.expected >= 70_000), "{}", sample.name);
            for pair in seen.windows(2) {
                assert!(pair[0].downloaded.done <= pair[1].downloaded.done, "{}", sample.name);
            }
        }
    }

    #[test]
    fn live_activities_are_bounded() {
        let mut state = ProgressState::default();
        for n in 0..2 * MAX_ACTIVITIES as u64 {
            let activity = Activity::Build { derivation: "x".into(), machine: String::new() };
            state.apply(&BuildEvent::Start { id: ActivityId(n), parent: None, activity, text: String::new() });
        }
        assert_eq!(state.live.len(), MAX_ACTIVITIES);
    }

    proptest! {
        #[test]
        fn no_stream_panics_and_nothing_is_done_beyond_expected(
            events in proptest::collection::vec((0u8..4, 0u64..4, 99u64..106, any::<[u64; 4]>()), 0..60)
        ) {
            let mut state = ProgressState::default();
            for (action, id, code, [a, b, c, d]) in events {
                let action = ["start", "stop", "result", "msg"][action as usize];
                let line = format!(r#"@nix {{"action":"{action}","id":{id},"type":{code},"fields":[{a},{b},{c},{d}]}}"#);
                state.apply(&parse_line(line.as_bytes()));
                let p = state.snapshot();
                for counts in [p.builds, p.copies] { prop_assert!(counts.done <= counts.expected); }
            }
        }
    }
}
