//! Many VMs at once, and the ends of the road that one VM alone does not reach.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Child, Command, Stdio};
use support::{User, text};

fn spawn(user: &User, args: &[&str]) -> Child {
    user.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn of_two_with_the_same_name_one_wins() {
    let user = User::new();
    let up = || spawn(&user, &["up", "-d", "--name", "same", "--memory", "128M"]);
    let both = [up(), up()].map(|child| child.wait_with_output().unwrap());
    let mut codes = both.each_ref().map(|out| out.status.code());
    codes.sort();
    let said: String = both.iter().map(|out| text(&out.stderr)).collect();
    assert_eq!(codes, [Some(0), Some(4)], "{said}");
    assert_eq!(user.ok(&["exec", "same", "--", "echo", "well"]), "well\n");
    user.ok(&["down", "--rm", "same"]);
    user.assert_nothing_left();
}

#[test]
fn twenty_come_and_go_at_once() {
    let user = User::new();
    let names: Vec<String> = (0..20).map(|n| format!("vm-{n}")).collect();
    let every = |args: &dyn Fn(&str) -> Vec<String>| {
        let running: Vec<_> =
            names.iter().map(|name| spawn(&user, &args(name).iter().map(String::as_str).collect::<Vec<_>>())).collect();
        for child in running {
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", text(&out.stderr));
        }
    };
    let words = |given: &str| given.split(' ').map(String::from).collect::<Vec<_>>();
    every(&|name| words(&format!("up -d --name {name} --memory 128M --boot-timeout 600")));
    let vms: serde_json::Value = serde_json::from_str(&user.ok(&["ls", "--json"])).unwrap();
    let ready = vms.as_array().unwrap().iter().filter(|vm| vm["record"]["state"] == "ready").count();
    assert_eq!(ready, names.len(), "{vms}");
    every(&|name| words(&format!("down --rm --timeout 300 {name}")));
    user.assert_nothing_left();
    assert_eq!(user.ok(&["ls", "-a", "--json"]).trim(), "[]");
}

#[test]
fn the_writable_layer_is_clean_after_down() {
    let user = User::new();
    user.ok(&["up", "-d", "--name", "vm", "--memory", "128M"]);
    user.ok(&["exec", "vm", "--", "sh", "-c", "echo kept > /root/file"]);
    user.ok(&["down", "vm"]);
    let layer = user.home().join(".local/share/mvm/vms/vm/rw.ext4");
    // -n opens it read-only and answers no to every question; a journal to replay is one.
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&layer).output().unwrap();
    assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
    let header = Command::new("dumpe2fs").arg("-h").arg(&layer).output().unwrap();
    let header = text(&header.stdout);
    assert!(header.lines().any(|l| l.starts_with("Filesystem state:") && l.ends_with(" clean")), "{header}");
    assert!(!header.contains("needs_recovery"), "{header}");
}

#[test]
fn a_wrong_key_is_refused_and_the_vm_stays_well() {
    let user = User::new();
    for name in ["vm", "other"] {
        user.ok(&["up", "-d", "--name", name, "--memory", "128M"]);
    }
    let keys = |name: &str| user.home().join(".local/share/mvm/vms").join(name).join("keys.json");
    let right = std::fs::read(keys("vm")).unwrap();
    std::fs::copy(keys("other"), keys("vm")).unwrap();
    let refused = user.fails(10, &["exec", "vm", "--", "echo", "in"]);
    assert!(refused.contains("key"), "{refused}");
    std::fs::write(keys("vm"), right).unwrap();
    assert_eq!(user.ok(&["exec", "vm", "--", "echo", "well"]), "well\n");
    user.ok(&["down", "--rm", "--all"]);
    user.assert_nothing_left();
}

#[test]
fn a_home_of_200_characters_is_a_home() {
    let user = User::new();
    let long = user.home().join("x".repeat(200 - user.home().as_os_str().len() - 1));
    std::fs::create_dir(&long).unwrap();
    assert_eq!(long.as_os_str().len(), 200);
    let run = |args: &[&str]| {
        let out = user.command(args).env("HOME", &long).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    run(&["up", "-d", "--name", "vm", "--memory", "128M"]);
    assert_eq!(run(&["exec", "vm", "--", "echo", "in"]), "in\n");
    let file = long.join("file").display().to_string();
    run(&["cp", "vm:/etc/mvm/guest.json", &file]);
    assert!(std::fs::metadata(&file).unwrap().len() > 0);
    run(&["down", "--rm", "vm"]);
    user.assert_nothing_left();
}
