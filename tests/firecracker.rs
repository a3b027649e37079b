//! Firecracker under the supervisor, with a bare guest: what a real one does on a machine whose KVM runs no Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../crates/mvm-runtime/src/backend/firecracker/tests/bare_guest.rs"]
mod bare_guest;
mod support;

use bare_guest::{GREETING, Then};
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::events::{Held, end_of};
use support::{User, flake, text};

/// A user whose machine is known to run guests with KVM, and an image whose kernel is the bare guest.
fn user_with_image(then: &Then) -> Option<(User, PathBuf)> {
    if std::env::var_os("MVM_FIRECRACKER").is_none() {
        println!("not run against a real Firecracker: MVM_FIRECRACKER is not set");
        return None;
    }
    if cfg!(not(target_arch = "x86_64")) || std::fs::File::options().write(true).open("/dev/kvm").is_err() {
        println!("not run against a real Firecracker: the bare guest needs an x86_64 with a /dev/kvm that opens");
        return None;
    }
    let user = User::new();
    // The bare guest runs even where the probe would say that Linux does not: the answer is given beforehand.
    let probes = user.home().join(".cache/mvm/probes");
    std::fs::create_dir_all(&probes).unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(probes.join("kvm.json"), serde_json::json!({ "boot_id": boot_id, "answer": true }).to_string())
        .unwrap();
    let flake = flake::install(&user);
    let (built, image) = (user.home().join("result"), user.home().join("image"));
    user.ok(&["build", &format!("{}#guest", flake.display()), "-o", built.to_str().unwrap()]);
    std::fs::create_dir(&image).unwrap();
    for file in ["image.json", "initrd.cpio", "rootfs.ext4"] {
        std::fs::copy(built.join(file), image.join(file)).unwrap();
    }
    std::fs::remove_file(built).unwrap();
    std::fs::write(image.join("kernel"), bare_guest::elf(then)).unwrap();
    Some((user, image))
}

fn up(user: &User, image: &std::path::Path, more: &[&str]) -> Command {
    let up = ["up", "-d", "vm", "--image", image.to_str().unwrap()];
    user.command(&[&up[..], more].concat())
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn it_is_chosen_where_kvm_works_and_a_guest_that_never_answers_is_shown() {
    let Some((user, image)) = user_with_image(&Then::Dots) else { return };
    let doctor: Value = serde_json::from_str(&user.ok(&["doctor", "--json"])).unwrap();
    assert_eq!(doctor["chosen"]["hypervisor"], "firecracker");
    let out = run(&mut up(&user, &image, &["--boot-timeout", "2"]));
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains(&format!("console: {GREETING}")), "{stderr}");
    user.assert_never_was();
}

#[test]
fn a_guest_that_resets_has_ended_before_it_was_ready() {
    let Some((user, image)) = user_with_image(&Then::Reset) else { return };
    let out = run(&mut up(&user, &image, &["--hypervisor", "firecracker"]));
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(10), "{stderr}");
    assert!(stderr.contains("ended before it was ready") && stderr.contains(GREETING.trim()), "{stderr}");
    user.assert_never_was();
}

#[test]
fn a_supervisor_that_is_killed_takes_firecracker_along() {
    let Some((user, image)) = user_with_image(&Then::Dots) else { return };
    let folder = user.home().join("held");
    let held = Held::new(folder.clone());
    let real = std::env::var("MVM_FIRECRACKER").unwrap();
    let tells = user.home().join("firecracker");
    std::fs::write(&tells, format!("#!/bin/sh\necho $$ >{}/told\nexec {real} \"$@\"\n", folder.display())).unwrap();
    std::fs::set_permissions(&tells, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut up = up(&user, &image, &["--boot-timeout", "600"]);
    let up = up.env("MVM_FIRECRACKER", &tells).stdin(Stdio::null()).spawn().unwrap();
    let firecracker = held.next("firecracker's start");
    firecracker.parent().signal(Signal::KILL);
    firecracker.gone();
    assert!(!end_of(up).success());
    user.assert_never_was();
}
