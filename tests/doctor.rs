//! `mvmctl doctor`: what it says is what it tried.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::{User, text};

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn report(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", text(&out.stdout), text(&out.stderr)))
}

/// The entry of a list by its name.
fn named<'v>(list: &'v Value, key: &str, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|e| e[key] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn backend<'v>(report: &'v Value, name: &str) -> &'v Value {
    named(&report["backends"], "hypervisor", name)
}

fn dependency<'v>(report: &'v Value, name: &str) -> &'v Value {
    named(&report["dependencies"], "name", name)
}

/// A program that is a script.
fn script(user: &User, name: &str, body: &str) -> PathBuf {
    let path = user.home().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_it_chooses_is_what_up_takes() {
    let user = User::new();
    let json = report(&user.run(&["doctor", "--json"]));
    let chosen = json["chosen"]["hypervisor"].as_str().unwrap();
    assert_eq!(backend(&json, chosen)["usable"], true);
    for name in ["mke2fs", "busybox", "nix"] {
        let found = dependency(&json, name);
        assert!(found["path"].as_str().unwrap().ends_with(name), "{found}");
        assert!(found["version"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{found}");
    }
    let text = user.ok(&["doctor"]);
    assert!(text.contains("BACKEND") && text.contains(&format!("chosen  {chosen}: ")), "{text}");
    user.ok(&["up", "-d", "vm"]);
    let vm: Value = serde_json::from_str(&user.ok(&["inspect", "vm", "--json"])).unwrap();
    assert_eq!(vm["record"]["hypervisor"], chosen);
    assert_eq!(vm["record"]["accelerator"], backend(&json, chosen)["accelerator"]);
    user.ok(&["rm", "-f", "vm"]);
    user.assert_never_was();
}

#[test]
fn where_nothing_can_run_it_fails_and_says_what_to_do() {
    let user = User::new();
    let path = user.path_without(&["qemu-system-x86_64", "qemu-system-aarch64", "firecracker", "nix"]);
    let doctor = || {
        let mut command = user.command(&["doctor", "--json"]);
        command.env("PATH", &path).env_remove("MVM_QEMU").env_remove("MVM_FIRECRACKER").env_remove("MVM_NIX");
        command
    };
    let out = run(&mut doctor());
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("hint: "), "{}", text(&out.stderr));
    let json = report(&out);
    assert_eq!(json["chosen"]["hypervisor"], Value::Null);
    assert!(backend(&json, "qemu")["hint"].as_str().unwrap().contains("apt-get install"));
    // One that is there and does not work is as good as none.
    let out = run(doctor().env("MVM_NIX", script(&user, "broken-nix", "exit 1")));
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stdout));
    // Something is enough, whatever it is.
    let nix = script(&user, "nix", "echo 'nix (Nix) 2.18.1'");
    let out = run(doctor().env("MVM_NIX", nix));
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(backend(&report(&out), "microvm-nix")["usable"], true);
}

#[test]
fn a_program_that_is_there_is_tried() {
    let user = User::new();
    let not_executable = user.home().join("not-executable");
    std::fs::write(&not_executable, "").unwrap();
    for (program, why) in [
        (script(&user, "broken", "echo 'no such machine' >&2; exit 3"), "no such machine"),
        (script(&user, "hangs", "exec sleep 1000"), "does not tell its version within"),
        (script(&user, "floods", "exec yes"), "does not tell its version within"),
        (script(&user, "old", "echo 'QEMU emulator version 4.2.1 (Debian)'"), "too old"),
        (not_executable, "cannot be started"),
        (user.home().join("missing"), "MVM_QEMU"),
    ] {
        let json = report(&run(user.command(&["doctor", "--json"]).env("MVM_QEMU", &program)));
        for said in [backend(&json, "qemu"), named(&json["dependencies"], "path", program.to_str().unwrap())] {
            assert!(said["why"].as_str().unwrap_or_default().contains(why), "{program:?}: {said}");
        }
        assert_eq!(backend(&json, "qemu")["usable"], false);
    }
    assert_eq!(user.processes(), Vec::<String>::new(), "what hung is gone");
}

#[test]
fn docker_is_asked() {
    let user = User::new();
    let docker = |host: &str| {
        let json = report(&run(user.command(&["doctor", "--json"]).env("DOCKER_HOST", host)));
        dependency(&json, "docker").clone()
    };
    let socket = user.home().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    assert!(docker(&host)["why"].as_str().unwrap().contains("no Docker daemon listens"));
    assert!(docker("tcp://1.2.3.4:2375")["why"].as_str().unwrap().contains("not on this machine"));

    let listener = UnixListener::bind(&socket).unwrap();
    let version = "{\"Version\":\"20.10.24\",\"ApiVersion\":\"1.41\"}";
    let answers = [("200 OK", version), ("200 OK", "{\"Nothing\":true}"), ("404 Not Found", version)];
    let server = std::thread::spawn(move || {
        answers.map(|(status, body)| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            text(&request[..n])
        })
    });
    assert_eq!(docker(&host)["version"], "20.10.24");
    for _ in ["other JSON", "an error"] {
        assert!(docker(&host)["why"].as_str().unwrap().contains("is not Docker"));
    }
    assert!(server.join().unwrap()[0].starts_with("GET /version HTTP/1.1\r\n"));
}

#[test]
fn what_cannot_run_here_is_refused_with_the_same_reason() {
    let user = User::new();
    let path = user.path_without(&["firecracker"]);
    let doctor = run(user.command(&["doctor", "--json"]).env("PATH", &path).env_remove("MVM_FIRECRACKER"));
    let why = backend(&report(&doctor), "firecracker")["why"].as_str().unwrap().to_owned();
    let up = ["up", "-d", "vm", "--hypervisor", "firecracker"];
    let out = run(user.command(&up).env("PATH", &path).env_remove("MVM_FIRECRACKER"));
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains(&format!("firecracker cannot run here: {why}")) && stderr.contains("hint: "), "{stderr}");
    let stderr = user.fails(2, &[&up[..], &["--cpus", "33"]].concat());
    assert!(stderr.contains("at most 32 vCPUs") && stderr.contains("--hypervisor qemu"), "{stderr}");
    user.assert_never_was();
}
