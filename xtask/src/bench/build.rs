//! Builds of a flake that is built already: what finding that out costs.

use super::row::{Against, Row};
use super::sample::{in_turns, timed};
use super::user::User;
use super::{Effort, Failure};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of a flake that has not changed.
const UNCHANGED: f64 = 0.1;
/// Of one that has.
const CHANGED: f64 = 1.1;
/// The same for both sides: no network, and nothing that this machine's nix.conf says or lacks.
const SETTINGS: &str = "experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
sandbox = false";

pub(super) fn measure(user: &User, effort: Effort) -> Result<Vec<Row>, Failure> {
    let flake = Flake::install(user)?;
    // Nix builds the image, and locks the input.
    flake.nix()?;
    flake.commit()?;
    let against = |what: &str, samples| Against::Measured { what: what.into(), samples };
    let (ours, theirs) = in_turns(effort.commands, || timed(|| flake.mvmctl()), || timed(|| flake.nix()))?;
    let unchanged = Row {
        what: "`mvmctl build` of a flake that has not changed".into(),
        ours,
        unit: "ms",
        against: against("`nix build` of the same", theirs),
        promised: Some(UNCHANGED),
    };
    let after_change = |build: &dyn Fn() -> Result<(), Failure>| {
        flake.change()?;
        timed(build)
    };
    let (ours, theirs) =
        in_turns(effort.commands, || after_change(&|| flake.mvmctl()), || after_change(&|| flake.nix()))?;
    let changed = Row {
        what: "`mvmctl build` that has to evaluate".into(),
        ours,
        unit: "ms",
        against: against("`nix build` that has to", theirs),
        promised: Some(CHANGED),
    };
    Ok(vec![unchanged, changed])
}

/// The fixture flake of the tests in a Git work tree.
struct Flake<'u> {
    user: &'u User<'u>,
    folder: PathBuf,
    changes: Cell<u32>,
}

impl<'u> Flake<'u> {
    fn install(user: &'u User<'u>) -> Result<Self, Failure> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask lies in no workspace")?;
        let (tools, folder) = (user.home().join("tools"), user.home().join("flake"));
        let mut script = Command::new(repo.join("scripts/make-test-toolbox.sh"));
        done(script.arg(&tools).env("MVM_GUEST", &user.programs.guest))?;
        std::fs::create_dir(&folder)?;
        let input = format!("path:{}", tools.display());
        for entry in repo.join("tests/fixtures/flakes/guest").read_dir()? {
            let entry = entry?;
            let text = std::fs::read_to_string(entry.path())?;
            std::fs::write(folder.join(entry.file_name()), text.replace("path:/override-the-input-tools", &input))?;
        }
        let flake = Self { user, folder, changes: Cell::new(0) };
        flake.git(&["init", "-q"])?;
        flake.git(&["add", "."])?;
        Ok(flake)
    }

    fn git(&self, args: &[&str]) -> Result<(), Failure> {
        let who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        done(Command::new("git").arg("-C").arg(&self.folder).args(who).args(args))
    }

    fn commit(&self) -> Result<(), Failure> {
        self.git(&["add", "."])?;
        self.git(&["commit", "-q", "-m", "bench"])
    }

    /// Changes a file so that the flake has to be evaluated again; what comes out is the same.
    fn change(&self) -> Result<(), Failure> {
        self.changes.set(self.changes.get() + 1);
        let file = self.folder.join("guest.nix");
        let text = std::fs::read_to_string(&file)?;
        let text = text.split_once("\n# change").map_or(text.trim_end(), |(text, _)| text);
        Ok(std::fs::write(&file, format!("{text}\n# change {}\n", self.changes.get()))?)
    }

    fn output(&self) -> String {
        format!("{}#guest", self.folder.display())
    }

    fn mvmctl(&self) -> Result<(), Failure> {
        done(self.user.command(&["build", &self.output()]).env("NIX_CONFIG", SETTINGS))
    }

    fn nix(&self) -> Result<(), Failure> {
        let mut nix = Command::new("nix");
        nix.args(["build", "--out-link"]).arg(self.user.home().join("result")).arg(self.output());
        done(nix.env("NIX_CONFIG", SETTINGS).env("HOME", self.user.home()).env_remove("XDG_CACHE_HOME"))
    }
}

/// Runs a program, which must succeed.
fn done(command: &mut Command) -> Result<(), Failure> {
    let out = command.stdin(Stdio::null()).output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim()).into())
}
