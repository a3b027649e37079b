//! A NixOS configuration's own runner under mvm's supervisor. The runner is a stand-in of the shape that microvm.nix
//! makes; the hypervisor and the kernel in it are real.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use support::events::Process;
use support::{User, flake};

fn record(user: &User) -> Value {
    let vm: Value = serde_json::from_str(&user.ok(&["inspect", "vm", "--json"])).unwrap();
    vm["record"].clone()
}

/// Follows the console until a line of it has these words.
fn console_says(user: &User, words: &str) {
    use std::io::{BufRead, BufReader};
    let mut logs = user.command(&["logs", "-f", "vm"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(logs.stdout.take().unwrap()).lines().map_while(Result::ok).any(|l| l.contains(words));
    let _ = logs.kill();
    logs.wait().unwrap();
    assert!(said, "the console never said {words:?}");
}

#[test]
fn a_runner_from_up_to_down() {
    let user = User::new();
    let flake = flake::install(&user);
    let at = format!("{}#box", flake.display());
    user.ok(&["up", "-d", "vm", "--hypervisor", "microvm-nix", "--flake", &at]);
    let record_ = record(&user);
    assert_eq!((&record_["state"], &record_["hypervisor"]), (&"running".into(), &"microvm-nix".into()));
    assert_eq!(record_["bootMs"], Value::Null, "nobody knows when it was ready");
    let vm: Value = serde_json::from_str(&user.ok(&["inspect", "vm", "--json"])).unwrap();
    assert_eq!((&vm["spec"]["vcpus"], &vm["spec"]["memoryMiB"]), (&1.into(), &128.into()), "the configuration's own");
    console_says(&user, "hello from the runner");
    user.ok(&["wait", "vm"]);

    // The configuration's own script asks the guest, and the runner's files are user data.
    user.ok(&["down", "vm"]);
    assert_eq!(record(&user)["exit"]["kind"], "requested");
    user.assert_nothing_left();
    let volume = user.home().join(".local/share/mvm/vms/vm/runner/volume");
    assert_eq!(std::fs::read_to_string(volume).unwrap(), "made by box\n");
    assert!(user.fails(2, &["start", "-d", "vm", "--boot-timeout", "9"]).contains("--boot-timeout"));
    user.ok(&["start", "-d", "vm"]);
    assert_eq!(record(&user)["state"], "running");
    user.ok(&["down", "vm", "--force", "--rm"]);
    user.assert_never_was();
}

#[test]
fn a_guest_that_ends_by_itself() {
    let user = User::new();
    let at = format!("{}#nixosConfigurations.brief", flake::install(&user).display());
    // In the foreground: its console, then its end.
    let console = user.ok(&["up", "vm", "--hypervisor", "microvm-nix", "--flake", &at]);
    assert!(console.contains("hello and goodbye"), "{console}");
    let record = record(&user);
    assert_eq!((&record["state"], &record["exit"]["kind"]), (&"stopped".into(), &"guest-powered-off".into()));
    user.assert_nothing_left();
}

#[test]
fn a_supervisor_that_is_killed_takes_the_runner_along() {
    let user = User::new();
    let at = format!("{}#box", flake::install(&user).display());
    user.ok(&["up", "-d", "vm", "--hypervisor", "microvm-nix", "--flake", &at]);
    let process = |what: &str| Process::open(record(&user)[what].as_u64().unwrap() as u32).unwrap();
    let (supervisor, hypervisor) = (process("supervisorPid"), process("vmmPid"));
    // As a hypervisor leaves its own.
    let socket = user.home().join(".local/share/mvm/vms/vm/runner/box.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    supervisor.signal(Signal::KILL);
    supervisor.gone();
    hypervisor.gone();
    assert_eq!(record(&user)["state"], "failed");
    user.assert_nothing_left();
}

#[test]
fn what_cannot_be_run() {
    let user = User::new();
    let flake = flake::install(&user);
    let at = |name: &str| format!("{}#{name}", flake.display());
    fn up<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["up", "-d", "vm", "--hypervisor", "microvm-nix"][..], more].concat()
    }
    user.ok(&["template", "create", "site", "--flake", &at("guest"), "--hypervisor", "microvm-nix"]);
    let stderr = user.fails(2, &["up", "-d", "vm", "--template", "site"]);
    assert!(stderr.contains("microvm-nix cannot honour --template"), "{stderr}");
    user.ok(&["template", "rm", "site"]);
    for (code, args, words) in [
        (2, up(&[]), "--flake"),
        (2, up(&["--image", "x"]), "--image"),
        (2, up(&["--flake", &at("box"), "--cpus", "2"]), "--cpus"),
        (2, up(&["--flake", &at("box"), "--memory", "1G"]), "--memory"),
        (2, up(&["--flake", &at("box"), "-e", "A=b"]), "--env"),
        (2, up(&["--flake", &at("box"), "-p", "0:80"]), "--port"),
        (2, up(&["--flake", &at("box"), "--boot-timeout", "9"]), "--boot-timeout"),
        (2, up(&["--flake", flake.to_str().unwrap()]), "names no NixOS configuration"),
        (3, up(&["--flake", &at("no-such")]), "box, brief, no-runner, plain"),
        (3, up(&["--flake", &at("plain")]), "imports the module of microvm.nix"),
        (9, up(&["--flake", &at("no-runner")]), "bin/microvm-run"),
    ] {
        let stderr = user.fails(code, &args);
        assert!(stderr.contains(words) && stderr.contains("\nhint: "), "{args:?}: {stderr}");
        user.assert_never_was();
    }
}
