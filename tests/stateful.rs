//! What a guest keeps and what it is given: volumes and a name of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use support::{User, flake, text};

/// Where a file system's label is, and what stands there in all of ours.
const LABEL: u64 = 1024 + 120;

fn volume(user: &User, name: &str) -> PathBuf {
    user.home().join(format!(".local/share/mvm/volumes/db/{name}.ext4"))
}

#[test]
fn volumes_outlive_their_vm() {
    let user = User::new();
    let flake = format!("{}#stateful", flake::install(&user).display());
    // Together with the image's own more drives than a machine without ACPI has room for.
    let more = ["-v", "small:/small:16M", "-v", "inner:/small/inner", "-v", "c:/c", "-v", "d:/d:1G"];
    let up = [&["up", "-d", "db", "--flake", &flake][..], &more].concat();
    user.ok(&up);
    let run = |script: &str| user.ok(&["exec", "db", "--", "sh", "-c", script]);
    // Ready means ready: nothing here waits for the services.
    assert_eq!(
        run("hostname; cat /etc/hostname; wget -q -O - localhost:8080; cat /srv/data/visits"),
        "keeper\nkeeper\nhello from the fixture flake\nuser was here\n"
    );
    assert_eq!(run("stat -c '%U %a' /srv/data; ls -A /small/inner /c /d"), "user 750\n/c:\n\n/d:\n\n/small/inner:\n");
    assert_eq!(run("grep -c ' ext4 rw,nosuid,nodev,noatime' /proc/mounts"), "5\n");
    // One that is full says so, and is no concern of the others.
    assert_eq!(
        run("dd if=/dev/zero of=/small/fill bs=1M 2>&1 | grep -c 'No space left'; echo kept >/small/inner/file"),
        "1\n"
    );
    user.ok(&["down", "db"]);
    user.assert_nothing_left();
    for name in ["data", "small", "inner"] {
        let check = Command::new("e2fsck").args(["-f", "-n"]).arg(volume(&user, name)).output().unwrap();
        assert!(check.status.success(), "{name}: {}{}", text(&check.stdout), text(&check.stderr));
    }
    let rm = user.run(&["rm", "db"]);
    let said = text(&rm.stderr);
    assert!(
        rm.status.success() && said.contains("c, d, data, inner, small") && said.contains("rm --volumes db"),
        "{said}"
    );

    // What it cannot be sure of it does not touch, and what was there before a start that fails is there after it.
    let label = File::options().write(true).open(volume(&user, "c")).unwrap();
    let was = fs::read(volume(&user, "inner")).map(|bytes| bytes[LABEL as usize..][..9].to_vec()).unwrap();
    label.write_all_at(b"mvm-root\0", LABEL).unwrap();
    let said = user.fails(1, &[&up[..], &["-v", "e:/e"]].concat());
    assert!(said.contains("c.ext4") && said.contains("\"mvm-root\"") && said.contains("tune2fs"), "{said}");
    label.write_all_at(&was, LABEL).unwrap();
    assert!(volume(&user, "data").exists() && !volume(&user, "e").exists());

    // The next one of the same name has them again.
    user.ok(&up);
    assert_eq!(run("cat /srv/data/visits /small/inner/file"), "user was here\nuser was here\nkept\n");
    user.ok(&["down", "--rm", "db"]);
    user.fails(3, &["rm", "db"]);
    user.ok(&["rm", "--volumes", "db"]);
    user.fails(3, &["rm", "--volumes", "db"]);
    user.assert_never_was();
}

#[test]
fn a_vm_that_cannot_start_leaves_no_volume() {
    let user = User::new();
    let up = ["up", "-d", "db", "-v", "data:/data:16M"];
    let out = user.command(&up).env("MVM_QEMU", "/no/such/program").output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    user.assert_never_was();
    for (value, word) in [("data", "no colon"), ("data:/proc/x", "something else"), ("d:/d:1M", "16M to 16T")] {
        let said = user.fails(2, &["up", "-d", "db", "-v", value]);
        assert!(said.contains(word) && said.contains("hint:"), "{said}");
    }
    let said = user.fails(2, &["up", "-d", "db", "-v", "a:/a", "-v", "b:/a"]);
    assert!(said.contains("same place"), "{said}");
    user.assert_never_was();
}
