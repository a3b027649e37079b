//! A build as it goes on: one line that changes on a terminal, plain lines elsewhere.

use crate::ui::Ui;
use indicatif::{HumanBytes, ProgressBar};
use mvm_nix::{Activity, BuildEvent, Progress, ProgressState};

/// Shows the events of one build.
pub(crate) struct BuildProgress<'u> {
    ui: &'u Ui,
    line: Option<ProgressBar>,
    state: ProgressState,
}

impl<'u> BuildProgress<'u> {
    pub(crate) fn new(ui: &'u Ui) -> Self {
        Self { ui, line: ui.is_live().then(|| ui.spinner()), state: ProgressState::default() }
    }

    /// Takes one event.
    pub(crate) fn show(&mut self, event: &BuildEvent) {
        let changed = self.state.apply(event);
        match &self.line {
            Some(line) if changed => {
                line.set_message(picture(&self.state.snapshot()));
                line.tick();
            }
            Some(_) => {}
            None => {
                if let Some(text) = plain(event, &self.state) {
                    self.ui.status(&text);
                }
            }
        }
    }
}

impl Drop for BuildProgress<'_> {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

/// All that a terminal's line has room for.
fn picture(now: &Progress) -> String {
    let mut parts = Vec::new();
    if now.builds.expected > 0 {
        parts.push(format!("built {}/{}", now.builds.done, now.builds.expected));
    }
    if now.copies.expected > 0 {
        parts.push(format!("copied {}/{} paths", now.copies.done, now.copies.expected));
    }
    if now.downloaded.expected > 0 {
        parts.push(format!("{} of {}", HumanBytes(now.downloaded.done), HumanBytes(now.downloaded.expected)));
    }
    let doing = match (&now.derivation, &now.phase) {
        (Some(name), Some(phase)) => Some(format!("{name} ({phase})")),
        (Some(name), None) => Some(name.clone()),
        (None, _) => now.activity.clone(),
    };
    parts.extend(doing);
    parts.join(" · ")
}

/// What is worth a line of its own where lines stay: each derivation that is built and each path that is fetched.
fn plain(event: &BuildEvent, state: &ProgressState) -> Option<String> {
    match event {
        BuildEvent::Start { activity: Activity::Build { .. }, .. } => {
            let name = state.snapshot().derivation?;
            Some(format!("building {name}"))
        }
        BuildEvent::Start { activity: Activity::CopyPath { .. }, text, .. } if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_nix::{Bytes, Counts};

    #[test]
    fn a_picture_has_what_is_known() {
        let mut now = Progress { activity: Some("evaluating".into()), ..Progress::default() };
        assert_eq!(picture(&now), "evaluating");
        now.builds = Counts { done: 1, expected: 3, ..Counts::default() };
        now.downloaded = Bytes { done: 1024, expected: 4096 };
        (now.derivation, now.phase) = (Some("hello-2.12".into()), Some("buildPhase".into()));
        assert_eq!(picture(&now), "built 1/3 · 1.00 KiB of 4.00 KiB · hello-2.12 (buildPhase)");
    }

    #[test]
    fn a_derivation_gets_a_line() {
        let mut state = ProgressState::default();
        let event = mvm_nix::parse_line(
            br#"@nix {"action":"start","id":7,"level":3,"parent":0,"text":"building '/nix/store/abc-hello-2.12.drv'","type":105,"fields":["/nix/store/00000000000000000000000000000000-hello-2.12.drv","",1,1]}"#,
        );
        state.apply(&event);
        assert_eq!(plain(&event, &state).as_deref(), Some("building hello-2.12"));
    }
}
