//! A build as a stream of JSON, one object a line: what docs/build.md promises to programs.

use crate::ui::Ui;
use mvm_core::{Fault, ImageManifest};
use mvm_nix::{Activity, ActivityId, BuildEvent};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

/// Builds that are followed at a time; what others say is left out.
const MAX_BUILDS: usize = 1024;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Line<'l> {
    /// The files of the flake are watched, and nothing is being built.
    Watching { folder: &'l Path },
    /// They have changed.
    Changed,
    /// Nix is started.
    Evaluating,
    /// A derivation is being built.
    Building { derivation: &'l str },
    /// Its builder entered a phase.
    Phase { derivation: &'l str, phase: &'l str },
    /// Its builder wrote a line.
    Log { derivation: &'l str, line: &'l str },
    /// A store path is being fetched.
    Fetching { path: &'l str, from: &'l str },
    /// Nix warns.
    Warning { text: &'l str },
    /// The end of a build that went well.
    Built {
        path: &'l str,
        out_link: &'l Path,
        /// Nothing had changed, and nothing was evaluated.
        remembered: bool,
        image: &'l ImageManifest,
    },
    /// The end of one that did not.
    Failed { error: &'l Fault },
}

/// Writes the stream.
pub(crate) struct EventLines<'u> {
    ui: &'u Ui,
    /// Derivations that are being built.
    builds: HashMap<ActivityId, String>,
    /// Why nothing more can be written.
    broken: Option<Fault>,
}

impl<'u> EventLines<'u> {
    pub(crate) fn new(ui: &'u Ui) -> Self {
        Self { ui, builds: HashMap::new(), broken: None }
    }

    /// Takes one event of a build. Where it cannot be written, [`Self::line`] will tell.
    pub(crate) fn show(&mut self, event: &BuildEvent) {
        if let BuildEvent::Start { id, activity: Activity::Build { derivation, .. }, .. } = event
            && self.builds.len() < MAX_BUILDS
        {
            self.builds.insert(*id, derivation.clone());
        }
        if let Some(line) = told(event, &self.builds)
            && self.broken.is_none()
        {
            self.broken = self.ui.json_line(&line).err();
        }
        if let BuildEvent::Stop { id } = event {
            self.builds.remove(id);
        }
    }

    /// Writes a line of our own.
    pub(crate) fn line(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        match self.broken.take() {
            Some(fault) => Err(fault),
            None => self.ui.json_line(line),
        }
    }
}

/// What is told of an event.
fn told<'e>(event: &'e BuildEvent, builds: &'e HashMap<ActivityId, String>) -> Option<Line<'e>> {
    let derivation = |id| builds.get(id).map(String::as_str);
    Some(match event {
        BuildEvent::Evaluating => Line::Evaluating,
        BuildEvent::Start { activity: Activity::Build { derivation, .. }, .. } => Line::Building { derivation },
        BuildEvent::Start { activity: Activity::CopyPath { path, from, .. }, .. } => Line::Fetching { path, from },
        BuildEvent::Phase { id, phase } => Line::Phase { derivation: derivation(id)?, phase },
        BuildEvent::Log { id, line } => Line::Log { derivation: derivation(id)?, line },
        BuildEvent::Message { level: 1, text } => Line::Warning { text },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_core::ErrorKind;

    /// Programs read these: a change here breaks them.
    #[test]
    fn the_lines_are_as_promised() {
        let line = |line: Line<'_>| serde_json::to_string(&line).unwrap();
        assert_eq!(line(Line::Watching { folder: Path::new("/f") }), r#"{"event":"watching","folder":"/f"}"#);
        assert_eq!(line(Line::Changed), r#"{"event":"changed"}"#);
        let fault = Fault::new(ErrorKind::BuildFailed, "it failed").with_hint("mend it");
        assert_eq!(
            line(Line::Failed { error: &fault }),
            r#"{"event":"failed","error":{"kind":"build-failed","message":"it failed","hint":"mend it"}}"#
        );
        let events = [
            BuildEvent::Evaluating,
            BuildEvent::Start {
                id: ActivityId(7),
                parent: None,
                activity: Activity::Build { derivation: "/nix/store/x-y.drv".into(), machine: String::new() },
                text: "building".into(),
            },
            BuildEvent::Phase { id: ActivityId(7), phase: "buildPhase".into() },
            BuildEvent::Log { id: ActivityId(7), line: "one".into() },
            BuildEvent::Log { id: ActivityId(8), line: "nobody's".into() },
            BuildEvent::Message { level: 1, text: "warning: it is late".into() },
            BuildEvent::Start {
                id: ActivityId(9),
                parent: None,
                activity: Activity::CopyPath { path: "/nix/store/z".into(), from: "https://c".into(), to: "".into() },
                text: String::new(),
            },
        ];
        let builds = HashMap::from([(ActivityId(7), "/nix/store/x-y.drv".to_owned())]);
        let lines: Vec<_> = events.iter().filter_map(|event| told(event, &builds)).map(line).collect();
        assert_eq!(
            lines,
            [
                r#"{"event":"evaluating"}"#,
                r#"{"event":"building","derivation":"/nix/store/x-y.drv"}"#,
                r#"{"event":"phase","derivation":"/nix/store/x-y.drv","phase":"buildPhase"}"#,
                r#"{"event":"log","derivation":"/nix/store/x-y.drv","line":"one"}"#,
                r#"{"event":"warning","text":"warning: it is late"}"#,
                r#"{"event":"fetching","path":"/nix/store/z","from":"https://c"}"#,
            ]
        );
    }
}
