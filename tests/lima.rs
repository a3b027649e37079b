//! Commands handed over to a Lima instance, whose stand-in runs them in namespaces of their own (tests/fixtures/limactl).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::User;
use support::events::{Process, end_of};
use terminal::Terminal;

/// A Mac, with what its instance is made of.
struct Mac {
    user: User,
    lima: PathBuf,
}

impl Mac {
    /// One whose instance is not there yet. What Nix would build in it is this mvmctl.
    fn new() -> Self {
        let mac = Self::without_nix();
        let nix = format!(
            "#!/bin/sh\n[ \"$1 $2\" = 'build --out-link' ] || exit 1\necho \"$4\" >\"$HOME/installed\"\nmkdir -p \"$3/bin\"\n\
             ln -sfn {} \"$3/bin/mvmctl\"\n",
            env!("CARGO_BIN_EXE_mvmctl")
        );
        mac.program("nix", &nix);
        mac
    }

    /// One whose instance runs, with a program of ours for mvmctl.
    fn with_program(script: &str) -> Self {
        let mac = Self::without_nix();
        for folder in ["home", "lib/mvm", "tmp"] {
            fs::create_dir_all(mac.lima.join(folder)).unwrap();
        }
        fs::write(mac.lima.join("status"), "Running").unwrap();
        mac.program("mvmctl", script);
        mac
    }

    fn without_nix() -> Self {
        let user = User::new();
        let lima = user.home().join("lima");
        fs::create_dir_all(lima.join("bin")).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/limactl"), lima.join("limactl")).unwrap();
        Self { user, lima }
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.lima.join("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.user.command(args);
        command.env("MVM_LIMA", "mvm").env("MVM_LIMACTL", self.lima.join("limactl")).env("MVM_FLAKE", "github:me/mvm");
        command.current_dir(self.user.home()).stdin(Stdio::null());
        command
    }

    fn said(&self, file: &str) -> String {
        fs::read_to_string(self.lima.join(file)).unwrap_or_default()
    }
}

/// Tells where it is and what it is given, echoes its input, and fails in its own way.
const TELLER: &str = r#"#!/bin/sh
printf '%s\n' "$PWD" "${NO_COLOR-unset}" "${MVM_LIMA-unset}" "${SECRET-unset}" >&2
printf '[%s]' "$@"
printf '\n'
cat
exit 7
"#;

#[test]
fn words_streams_and_the_exit_code_pass_as_they_are() {
    let mac = Mac::with_program(TELLER);
    let odd = ["a b", "", "$HOME `id` $(id)", "'\"\\", "new\nline", "x=y", "-n", "*", "é"];
    let work = mac.user.home().join("my project");
    fs::create_dir(&work).unwrap();
    let mut args = vec!["exec", "web", "--"];
    args.extend(odd);
    let mut command = mac.command(&args);
    command.current_dir(&work).env("NO_COLOR", "1").env("SECRET", "s");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let (mut stdin, sent) = (child.stdin.take().unwrap(), input.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let place = fs::canonicalize(&work).unwrap().display().to_string();
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{place}\n1\nunset\nunset\n"));
    let end = output.stdout.len() - input.len();
    assert!(output.stdout[end..] == input, "the input came back changed");
    let words = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let (mark, words) = words.split_once("][exec]").unwrap();
    assert!(mark.starts_with("[--handed-over][") && mark.len() == 16 + 32, "{mark}");
    let expected: String = odd.iter().map(|word| format!("[{word}]")).collect();
    assert_eq!(words, format!("[web][--]{expected}\n"));
}

#[test]
fn mistakes_and_help_need_no_instance() {
    let mac = Mac::new();
    assert_eq!(mac.command(&["frobnicate"]).output().unwrap().status.code(), Some(2));
    assert_eq!(mac.command(&["up", "--help"]).output().unwrap().status.code(), Some(0));
    assert_eq!(mac.said("calls"), "");
    let output = mac.command(&["ls"]).env("MVM_LIMA", "--help").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = mac.command(&["ls"]).env("MVM_LIMACTL", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn an_instance_that_cannot_be_made_is_an_error() {
    let mac = Mac::new();
    mac.program("nix", "#!/bin/sh\necho 'no such flake' >&2\nexit 1\n");
    let output = mac.command(&["ls"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("no such flake") && said.contains("nix build") && said.contains("hint:"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_vm_lives_in_the_instance() {
    let mac = Mac::new();
    let run = |args: &[&str]| mac.command(args).output().unwrap();
    let output = run(&["up", "web", "-d"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"web\n", "{said}");
    // Made, started and installed once, of all that only its template says.
    let template: serde_json::Value = serde_json::from_str(&mac.said("template.yaml")).unwrap();
    assert_eq!(template["mounts"][0]["location"], mac.user.home().to_str().unwrap());
    assert_eq!(mac.said("home/installed"), "github:me/mvm#mvmctl\n");
    assert!(mac.lima.join("home/.local/share/mvm/vms/web").is_dir(), "the VM is the instance's");
    assert!(!mac.user.home().join(".local/share/mvm").exists(), "and not the Mac's");

    assert_eq!(run(&["exec", "web", "--", "sh", "-c", "exit 42"]).status.code(), Some(42));

    // A signal reaches the command in the VM in the instance.
    let script = "trap 'echo heard; exit 9' TERM; echo up; while :; do sleep 1 & wait $!; done";
    let mut child = mac.command(&["exec", "web", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    Process::open(child.id()).unwrap().signal(Signal::TERM);
    assert_eq!(end_of(child).code(), Some(9));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "heard\n");

    // A terminal is a terminal.
    let mut terminal = Terminal::spawn(&mut mac.command(&["console", "web"]), 33, 99);
    terminal.type_in("stty size; exit 3\n");
    terminal.until("33 99");
    assert_eq!(terminal.end().0.code(), Some(3));

    // When the way in breaks, the command inside takes it as a hang-up.
    let mut inside =
        mac.user.command(&["--handed-over", "0", "exec", "web", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    inside.env("HOME", mac.lima.join("home")).stdin(Stdio::null());
    let mut child = inside.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(end_of(child).code(), Some(129));

    assert!(run(&["down", "web", "--rm"]).status.success());
    assert_eq!(mac.said("calls").lines().filter(|call| call.starts_with("start")).count(), 1);
}

#[test]
fn dev_is_the_instance_itself() {
    let mac = Mac::new();
    let run = |args: &[&str]| mac.command(args).output().unwrap();
    let status = || -> serde_json::Value { serde_json::from_slice(&run(&["dev", "status", "--json"]).stdout).unwrap() };
    assert_eq!(status()["state"], "absent");
    assert_eq!(run(&["dev", "shell"]).status.code(), Some(5));
    assert_eq!(run(&["dev", "up", "--image", "x"]).status.code(), Some(2));

    let output = run(&["dev", "up", "--cpus", "3", "--memory", "2G", "--disk", "20"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let template: serde_json::Value = serde_json::from_str(&mac.said("template.yaml")).unwrap();
    assert_eq!(
        (&template["cpus"], &template["memory"], &template["disk"]),
        (&3.into(), &"2048MiB".into(), &"20GiB".into())
    );
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(status(), serde_json::json!({ "kind": "lima", "name": "mvm", "state": "running", "mvmctl": version }));
    assert_eq!(run(&["dev", "up", "--cpus", "4"]).status.code(), Some(2));

    let mut terminal = Terminal::spawn(&mut mac.command(&["dev"]), 24, 80);
    terminal.type_in("echo in $HOME; exit 6\n");
    terminal.until(&format!("in {}", mac.lima.join("home").display()));
    assert_eq!(terminal.end().0.code(), Some(6));

    assert!(run(&["dev", "down"]).status.success());
    assert_eq!((&status()["state"], mac.said("status").as_str()), (&"stopped".into(), "Stopped\n"));
}
