//! Builds through the program: what is remembered, what is watched, what is told, and what a flake has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use support::events::{DEADLINE, Process, end_of};
use support::{User, flake, text};

/// A Nix that cannot be started without being noticed.
fn noticed(user: &User) -> (PathBuf, PathBuf) {
    let (program, starts) = (user.home().join("noticed-nix"), user.home().join("starts"));
    let real = user.command(&[]).get_envs().find_map(|(n, v)| (n == "MVM_NIX").then(|| v.unwrap().to_owned()));
    let real = real.map_or("nix".into(), |real| real.into_string().unwrap());
    fs::write(&program, format!("#!/bin/sh\necho \"$*\" >>{}\nexec {real} \"$@\"\n", starts.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&starts, "").unwrap();
    (program, starts)
}

#[test]
fn an_unchanged_flake_starts_no_nix() {
    for user in User::of_each_nix() {
        let (program, starts) = noticed(&user);
        let flake = format!("{}#guest", flake::install(&user).display());
        let run = |args: &[&str]| {
            fs::write(&starts, "").unwrap();
            let out = user.command(args).env("MVM_NIX", &program).stdin(Stdio::null()).output().unwrap();
            assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
            let starts = fs::read_to_string(&starts).unwrap();
            (text(&out.stdout), starts.lines().map(str::to_owned).collect::<Vec<_>>())
        };
        let (image, first) = run(&["build", &flake]);
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(run(&["build", &flake]), (image.clone(), Vec::new()));
        let (again, refreshed) = run(&["build", &flake, "--refresh"]);
        assert!(again == image && refreshed.len() == 1 && refreshed[0].contains("--refresh"), "{refreshed:?}");

        // It fails before there is a VM.
        fs::write(&starts, "").unwrap();
        let fails = flake.replace("#guest", "#fails");
        let out =
            user.command(&["up", "-d", "--flake", &fails, "--refresh"]).env("MVM_NIX", &program).output().unwrap();
        assert_eq!(out.status.code(), Some(6), "{}", text(&out.stderr));
        assert!(fs::read_to_string(&starts).unwrap().contains("--refresh"));
        // Not being able to remember is no error.
        let out = user.command(&["build", &flake]).env("MVM_CACHE_DIR", "/proc/nowhere").output().unwrap();
        assert_eq!((out.status.code(), text(&out.stdout), text(&out.stderr)), (Some(0), image.clone(), String::new()));

        // A VM has links of its own, which only Nix can register; the flake is not evaluated for them.
        let (_, started) = run(&["up", "-d", "web", "--flake", &flake]);
        assert!(started.len() == 2 && started.iter().all(|s| s.ends_with(image.trim_end())), "{started:?}");
        user.ok(&["rm", "-f", "web"]);
        fs::remove_file(user.home().join(".local/share/mvm/gcroots/.last-build")).unwrap();
        user.assert_never_was();
    }
}

#[test]
fn outputs_are_found_by_every_name() {
    for user in User::of_each_nix() {
        let folder = flake::install_outputs(&user);
        let flake = folder.to_str().unwrap();
        let image = user.ok(&["build", &format!("{flake}#good")]);
        assert!(image.ends_with("-mvm-fixture-guest\n"), "{image}");
        for args in [
            &["build", flake, "--profile", "good"][..],
            &["build", "--flake", flake, "--profile", "machine"],
            &["build", &format!("{flake}#nixosConfigurations.machine")],
            &["build", &format!("{flake}#machine")],
        ] {
            assert_eq!(user.ok(args), image, "{args:?}");
        }
        let here = user.command(&["build", "--profile", "good"]).current_dir(&folder).output().unwrap();
        assert_eq!(text(&here.stdout), image);
        // A package comes before a configuration of the same name; this one is no image.
        let stderr = user.fails(9, &["build", &format!("{flake}#plain")]);
        assert!(stderr.contains("has no image.json"), "{stderr}");

        let both = format!("{flake}#good");
        for command in [&["build"][..], &["up", "-d", "--flake"]] {
            let stderr = user.fails(2, &[command, &[&both, "--profile", "good"]].concat());
            assert!(stderr.contains("is one already") && stderr.contains("hint: "), "{stderr}");
            let stderr = user.fails(3, &[command, &[flake, "--profile", "nobody"]].concat());
            for words in ["nobody", "good, plain", "NixOS configurations: machine, plain"] {
                assert!(stderr.contains(words), "no {words:?}: {stderr}");
            }
            user.fails(2, &[command, &[flake, "--profile", ""]].concat());
        }
        user.fails(2, &["up", "--profile", "good"]);
    }
}

#[test]
fn a_configuration_boots() {
    let user = User::new();
    let flake = format!("{}#nixosConfigurations.machine", flake::install_outputs(&user).display());
    user.ok(&["up", "-d", "machine", "--flake", &flake]);
    assert_eq!(user.ok(&["exec", "machine", "--", "cat", "/srv/www/index.html"]), "hello from the fixture flake\n");
    user.ok(&["down", "machine", "--rm"]);
    user.assert_never_was();
}

/// A command whose lines of JSON are read as they come.
struct Stream {
    child: Child,
    lines: Receiver<Value>,
}

impl Stream {
    fn of(user: &User, args: &[&str]) -> Self {
        let mut command = user.command(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).all(|line| tell.send(serde_json::from_str(&line).unwrap()).is_ok())
        });
        Self { child, lines }
    }

    /// The next line of one of these events; others are passed over.
    fn next(&self, wanted: &[&str]) -> Value {
        let until = Instant::now() + DEADLINE;
        let mut passed = Vec::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if wanted.iter().any(|event| line["event"] == *event) => return line,
                Ok(line) => passed.push(line),
                Err(error) => panic!("{error}: none of {wanted:?} after {passed:?}"),
            }
        }
    }
}

fn edit(file: &Path, from: &str, to: &str) {
    let content = fs::read_to_string(file).unwrap();
    assert!(content.contains(from), "{from}");
    // As editors save: another file in its place.
    let draft = file.with_extension("draft");
    fs::write(&draft, content.replace(from, to)).unwrap();
    fs::rename(draft, file).unwrap();
}

#[test]
fn a_watch_builds_whenever_the_flake_changes() {
    for user in User::of_each_nix() {
        let folder = flake::install(&user);
        let guest = folder.join("guest.nix");
        let (flake, link) = (format!("{}#guest", folder.display()), folder.join("result"));
        let stream = Stream::of(&user, &["build", &flake, "--watch", "--json=events", "-o", link.to_str().unwrap()]);
        let ends = ["built", "failed"];
        let rebuilt = |before: &Value| {
            // The lock file that Nix writes, or its copy of a link, may be a change of their own.
            loop {
                let built = stream.next(&ends);
                assert_eq!(built["event"], "built", "{built}");
                if built["path"] != before["path"] {
                    return built;
                }
            }
        };
        stream.next(&["evaluating"]);
        let first = rebuilt(&Value::Null);
        assert_eq!((&first["image"]["name"], &first["outLink"]), (&"guest".into(), &link.to_str().unwrap().into()));
        let watching = stream.next(&["watching"]);
        assert_eq!(watching["folder"], folder.canonicalize().unwrap().to_str().unwrap());

        edit(&guest, "hello from the fixture flake", "hello again");
        stream.next(&["changed"]);
        let second = rebuilt(&first);
        assert_eq!(fs::read_link(&link).unwrap().to_str(), second["path"].as_str());

        edit(&guest, "hello again", "hello again\" + syntax error + \"");
        let failed = loop {
            let line = stream.next(&ends);
            if line["event"] == "failed" {
                break line;
            }
        };
        assert_eq!(failed["error"]["kind"], "build-failed", "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains("guest.nix"), "{failed}");
        edit(&guest, "hello again\" + syntax error + \"", "hello from the fixture flake");
        assert_eq!(rebuilt(&second)["path"], first["path"]);

        // What is written anew, but says the same, is no change: the next to be told is one.
        edit(&guest, "hello from", "hello from");
        fs::write(folder.join("new.nix"), "{ }").unwrap();
        stream.next(&["changed"]);
        stream.next(&["watching"]);
        Process::open(stream.child.id()).unwrap().signal(Signal::INT);
        assert_eq!(end_of(stream.child).code(), Some(130));
    }
}

#[test]
fn what_has_no_files_here_cannot_be_watched() {
    let user = User::new();
    let stderr = user.fails(2, &["build", "github:nobody/nothing", "--watch"]);
    assert!(stderr.contains("cannot be watched") && stderr.contains("hint: "), "{stderr}");
    user.fails(3, &["build", "/no/such/folder", "--watch"]);
}

#[test]
fn events_tell_a_build_and_its_failure() {
    for user in User::of_each_nix() {
        let flake = flake::install(&user);
        let run = |attribute: &str, code: i32| -> Vec<Value> {
            let out = user.run(&["build", &format!("{}#{attribute}", flake.display()), "--json=events"]);
            assert_eq!(out.status.code(), Some(code), "{}", text(&out.stderr));
            text(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let lines = run("fails", 6);
        let of = |event: &str| lines.iter().filter(|l| l["event"] == event).collect::<Vec<_>>();
        assert_eq!((of("evaluating").len(), of("building").len(), of("failed").len()), (1, 1, 1), "{lines:?}");
        let derivation = &of("building")[0]["derivation"];
        assert!(derivation.as_str().unwrap().ends_with("-mvm-fixture-fails.drv"), "{derivation}");
        assert!(of("log").iter().any(|l| l["line"] == "step 1 of the build" && &l["derivation"] == derivation));
        assert_eq!(lines.last().unwrap()["error"]["kind"], "build-failed");

        let built = run("guest", 0).pop().unwrap();
        assert_eq!((&built["event"], &built["remembered"]), (&"built".into(), &false.into()));
        let [remembered] = &run("guest", 0)[..] else { panic!("nothing else happens") };
        assert_eq!((&remembered["path"], &remembered["remembered"]), (&built["path"], &true.into()));
    }
}

#[test]
fn a_flake_is_checked_with_its_images() {
    for user in User::of_each_nix() {
        let folder = flake::install_outputs(&user);
        let flake = folder.to_str().unwrap();
        let table = user.ok(&["flake", "check", flake]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let system = format!("{}-linux", std::env::consts::ARCH);
        let row = |attribute| vec![attribute, "guest", &system, "ok"];
        let images = ["good", "nixosConfigurations.machine", "nixosConfigurations.plain"];
        assert_eq!(rows[0], ["IMAGE", "NAME", "SYSTEM", "RESULT"]);
        assert_eq!(rows[1..], images.map(row), "{table}");

        edit(&folder.join("flake.nix"), "isBroken = false", "isBroken = true");
        let out = user.run(&["flake", "check", flake, "--json"]);
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(6), "{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert!(report["error"]["message"].as_str().unwrap().contains("this package is never there"), "{report:#}");
        let images = report["images"].as_array().unwrap();
        let wrong = |attribute: &str| {
            let image = images.iter().find(|i| i["attribute"] == attribute).unwrap_or_else(|| panic!("{report:#}"));
            image["error"]["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(wrong("good"), "");
        assert!(wrong("foreign").contains("riscv64-linux"), "{report:#}");
        assert!(wrong("later").contains("schema 99"), "{report:#}");
        assert!(wrong("throws").contains("this package is never there"), "{report:#}");
        assert!(stderr.contains("3 of ") && stderr.contains("foreign: "), "{stderr}");

        let stderr = user.fails(2, &["flake", "check", &format!("{flake}#good")]);
        assert!(stderr.contains("as a whole"), "{stderr}");
        user.fails(3, &["flake", "check", "/no/such/folder"]);
        let here = user.command(&["flake", "check", "--json"]).current_dir(&folder).output().unwrap();
        assert_eq!(here.status.code(), Some(6));
        user.assert_never_was();
    }
}
