//! One backend with its VMs: `one`, which the cases work on, and `two` beside it.

use crate::support::docker::Daemon;
use crate::support::secret::Secret;
use crate::support::{User, text};
use crate::terminal::Terminal;
use mvm_core::{Feature, Hypervisor};
use serde_json::Value;
use std::path::Path;

/// A backend that this machine has.
pub struct Lane {
    pub hypervisor: Hypervisor,
    pub user: User,
    pub secret: Secret,
    /// What its VMs are of, as options of `up`.
    source: [String; 2],
    /// Ends after the user's VMs have.
    daemon: Option<Daemon>,
}

impl Lane {
    /// The lane of a backend, or why there is none, in one line.
    pub fn open(hypervisor: Hypervisor, image: &Path, flake: &Path) -> Result<Self, String> {
        let daemon = match hypervisor {
            Hypervisor::Docker => {
                Some(Daemon::start().ok_or("it takes root and dockerd, which scripts/dev-setup.sh installs")?)
            }
            _ => None,
        };
        let user = daemon.as_ref().map_or_else(User::new, User::with_docker);
        let doctor: Value = serde_json::from_slice(&user.run(&["doctor", "--json"]).stdout).unwrap();
        let backends = doctor["backends"].as_array().unwrap();
        let told = backends.iter().find(|backend| backend["hypervisor"] == hypervisor.as_str()).unwrap();
        if told["usable"] != true {
            return Err(told["why"].as_str().unwrap().to_owned());
        }
        let source = if hypervisor.capabilities().image {
            ["--image".into(), image.display().to_string()]
        } else {
            ["--flake".into(), format!("{}#box", flake.display())]
        };
        Ok(Self { hypervisor, user, secret: Secret::new(), source, daemon })
    }

    /// Whether the table of capabilities says so.
    pub fn can(&self, feature: Feature) -> bool {
        self.hypervisor.require(feature, "").is_ok()
    }

    /// The words that make a VM.
    pub fn up<'a>(&'a self, name: &'a str, options: &[&'a str]) -> Vec<&'a str> {
        let up = ["up", "-d", "--name", name, "--hypervisor", self.hypervisor.as_str()];
        [&up[..], &[&self.source[0], &self.source[1]], options].concat()
    }

    /// Starts `one`, which is stopped. Its secret has to be given each time.
    pub fn start(&self) {
        let secret = self.secret.argument("token");
        let secret = if self.can(Feature::Drives) { &["--secret", &secret][..] } else { &[] };
        self.user.ok(&[&["start", "-d", "one"], secret].concat());
    }

    /// Runs a script in a VM; its output.
    pub fn sh(&self, vm: &str, script: &str) -> String {
        self.user.ok(&["exec", vm, "--", "sh", "-c", script])
    }

    /// What is written down of a VM.
    pub fn record(&self, vm: &str) -> Value {
        let inspected: Value = serde_json::from_str(&self.user.ok(&["inspect", vm, "--json"])).unwrap();
        assert_eq!(inspected["spec"]["name"], vm);
        inspected["record"].clone()
    }

    /// Asserts that it refuses, by name and at once, what it cannot do: a command, or else options of `up`.
    pub fn assert_refused(&self, words: &[&str]) {
        let before = self.user.ok(&["ls", "-a", "--json"]);
        let args = if words[0].starts_with("--") { self.up("refused", words) } else { words.to_vec() };
        // On a terminal, for there are commands that want one first of all.
        let (status, said) = Terminal::spawn(&mut self.user.command(&args), 24, 200).end();
        assert_eq!(status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words[0]) && said.contains(self.hypervisor.as_str()), "{args:?}: {said}");
        let after = self.user.ok(&["ls", "-a", "--json"]);
        assert_eq!(names(&before), names(&after));
    }

    /// Asserts that nothing runs, here or at Docker, and that there are only files that may stay.
    pub fn assert_nothing_runs(&self) {
        self.user.assert_nothing_left();
        for (name, state) in self.daemon.iter().flat_map(Daemon::containers) {
            assert_eq!(state, "exited", "{name}");
        }
    }

    /// Asserts that there is no VM any more.
    pub fn assert_no_vm(&self) {
        self.user.assert_never_was();
        assert_eq!(self.daemon.as_ref().map(Daemon::containers).unwrap_or_default(), []);
    }

    /// Runs `mvmctl` with bytes as its stdin; what it printed.
    pub fn feed(&self, args: &[&str], stdin: Vec<u8>) -> Vec<u8> {
        use std::io::Write;
        let mut child = crate::piped(&mut self.user.command(args));
        let mut pipe = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || pipe.write_all(&stdin).unwrap());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        writer.join().unwrap();
        out.stdout
    }
}

fn names(list: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(list).unwrap();
    all.as_array().unwrap().iter().map(|vm| vm["spec"]["name"].as_str().unwrap().to_owned()).collect()
}
