//! What a guest keeps and what it is given: volumes, secrets, and a name of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::secret::Secret;
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
    let more = ["-v", "small:/small:16M", "-v", "inner:/small/inner", "-v", "c:/c", "-v", "d:/home/user:1G"];
    let up = [&["up", "-d", "db", "--flake", &flake][..], &more].concat();
    // One that the image needs and nobody gives is told before anything is made.
    let said = user.fails(2, &up);
    assert!(said.contains("token") && said.contains("--secret token=FILE"), "{said}");
    assert!(!volume(&user, "data").exists());
    let secret = Secret::new();
    let token = secret.argument("token");
    let up = [&up[..], &["--secret", &token]].concat();
    user.ok(&up);
    let run = |script: &str| user.ok(&["exec", "db", "--", "sh", "-c", script]);
    // Ready means ready: nothing here waits for the services.
    assert_eq!(
        run("hostname; cat /etc/hostname; wget -q -O - localhost:8080; cat /srv/data/visits"),
        "keeper\nkeeper\nhello from the fixture flake\nuser was here\n"
    );
    // As the image says, or as the folder was that it covers.
    assert_eq!(run("stat -c '%U %a' /srv/data /home/user /c"), "user 750\nuser 755\nroot 755\n");
    assert_eq!(run("ls -A /small/inner /c /home/user"), "/c:\n\n/home/user:\n\n/small/inner:\n");
    assert_eq!(run("grep -c ' ext4 rw,nosuid,nodev,noatime' /proc/mounts"), "5\n");
    // One that is full says so, and is no concern of the others.
    assert_eq!(
        run("dd if=/dev/zero of=/small/fill bs=1M 2>&1 | grep -c 'No space left'; echo kept >/small/inner/file"),
        "1\n"
    );
    // A service opens its own output anew, though it may not open the console.
    assert_eq!(user.ok(&["logs", "db"]).matches("user was here").count(), 1);
    // Whose it is, in memory, and nowhere on the host.
    assert_eq!(
        run("stat -c '%U %G %a' /run/secrets/token; readlink /etc/app/token"),
        "root user 440\n/run/secrets/token\n"
    );
    let dump = "od -An -v -tx1 /etc/app/token | tr -d ' \\n'";
    assert_eq!(user.ok(&["exec", "-u", "user", "db", "--", "sh", "-c", dump]), secret.hex());
    secret.assert_nowhere(user.home());
    user.ok(&["down", "db"]);
    user.assert_nothing_left();
    secret.assert_nowhere(user.home());
    let said = user.fails(2, &["start", "-d", "db"]);
    assert!(said.contains("token") && said.contains("at each start"), "{said}");
    let said = user.fails(2, &["start", "-d", "db", "--secret", &token, "--secret", &secret.argument("more")]);
    assert!(said.contains("made without the secret \"more\""), "{said}");
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
fn a_read_only_root_stays_as_it_is() {
    let user = User::new();
    let flake = format!("{}#frozen", flake::install(&user).display());
    user.ok(&["up", "-d", "ice", "--flake", &flake, "-v", "data:/var/data:16M"]);
    let run = |script: &str| user.ok(&["exec", "ice", "--", "sh", "-c", script]);
    let tries = "for f in /x /root/x /srv/www/x /etc/x /var/lib/x /tmp/x /run/x /var/data/x; do touch $f 2>/dev/null && echo $f; done";
    assert_eq!(run(tries), "/var/lib/x\n/tmp/x\n/run/x\n/var/data/x\n");
    assert_eq!(
        run("cat /etc/hostname; stat -c %a /etc /var; grep -c '^/dev/.* / ext4 ro,' /proc/mounts"),
        "ice\n755\n755\n1\n"
    );
    assert_eq!(run("mount -o remount,rw / 2>/dev/null || echo refused"), "refused\n");
    let vm = user.home().join(".local/share/mvm/vms/ice");
    assert!(vm.join("spec.json").exists() && !vm.join("rw.ext4").exists());
    user.ok(&["down", "ice"]);
    assert!(user.ok(&["logs", "ice"]).contains("powered off cleanly"));
    user.ok(&["start", "-d", "ice"]);
    assert_eq!(run("ls /var/lib/x 2>/dev/null; ls /var/data"), "x\n");
    user.ok(&["down", "ice", "--rm", "--volumes"]);
    user.assert_never_was();
}

#[test]
fn an_unnamed_vm_takes_its_volumes_with_it() {
    let user = User::new();
    let secret = Secret::new();
    let given = secret.argument("ad-hoc");
    let name = user.ok(&["up", "-d", "--rm", "-v", "data:/data:16M", "--secret", &given, "--memory", "128M"]);
    let name = name.trim();
    let seen = user.ok(&["exec", name, "--", "stat", "-c", "%U %a %s", "/run/secrets/ad-hoc"]);
    assert_eq!(seen, "root 400 64\n");
    secret.assert_nowhere(user.home());
    user.ok(&["down", name]);
    user.assert_never_was();
    secret.assert_nowhere(user.home());
}

#[test]
fn a_vm_that_cannot_start_leaves_no_volume() {
    let user = User::new();
    let secret = Secret::new();
    let given = secret.argument("token");
    let up = ["up", "-d", "db", "-v", "data:/data:16M", "--secret", &given];
    let out = user.command(&up).env("MVM_QEMU", "/no/such/program").output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    user.assert_never_was();
    secret.assert_nowhere(user.home());
    let large = tempfile::NamedTempFile::new().unwrap();
    fs::write(&large, vec![b'x'; 65 << 10]).unwrap();
    for (code, value, word) in [
        (2, "token".into(), "no `=`"),
        (2, "../token=/etc/passwd".into(), "a name has"),
        (2, format!("token={}", large.path().display()), "too large"),
        (3, "token=/no/such/file".into(), "/no/such/file"),
        (2, "token=/etc".into(), "Is a directory"),
    ] {
        let said = user.fails(code, &["up", "-d", "db", "--secret", &value]);
        assert!(said.contains(word), "{said}");
    }
    for (value, word) in [("data", "no colon"), ("data:/etc", "something else"), ("d:/d:1M", "16M to 16T")] {
        let said = user.fails(2, &["up", "-d", "db", "-v", value]);
        assert!(said.contains(word) && said.contains("hint:"), "{said}");
    }
    let said = user.fails(2, &["up", "-d", "db", "-v", "a:/a", "-v", "b:/a"]);
    assert!(said.contains("same place"), "{said}");
    user.assert_never_was();
    // A volume on a disk that is not there now is not made anew.
    let link = volume(&user, "data");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/no/such/disk/data.ext4", &link).unwrap();
    let said = user.fails(1, &["up", "-d", "db", "-v", "data:/data:16M"]);
    assert!(said.contains("data.ext4") && said.contains("No such file"), "{said}");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/no/such/disk/data.ext4"));
    // What is there and is no volume is not mvm's to remove.
    fs::remove_file(&link).unwrap();
    let backup = link.with_extension("bak");
    fs::write(&backup, "kept").unwrap();
    let out = user.command(&up).env("MVM_QEMU", "/no/such/program").output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    assert!(backup.exists() && !link.exists());
    fs::remove_dir_all(link.parent().unwrap()).unwrap();
    user.assert_never_was();
}
