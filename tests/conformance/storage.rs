//! What a guest writes, what it keeps, and what nobody may find.

use crate::lane::Lane;
use std::process::Command;

pub fn layers_are_apart(lane: &Lane) {
    lane.sh("one", "echo mine > /root/mine; echo changed > /srv/www/index.html");
    lane.user.fails(1, &["exec", "two", "--", "cat", "/root/mine"]);
    assert_eq!(lane.sh("two", "cat /srv/www/index.html"), "hello from the fixture flake\n");
    assert_eq!(lane.sh("one", "cat /root/mine /srv/www/index.html"), "mine\nchanged\n");
}

pub fn secrets(lane: &Lane) {
    let shown = lane.sh("one", "stat -c '%U %a' /run/secrets/token; od -An -v -tx1 /run/secrets/token | tr -d ' \\n'");
    assert_eq!(shown, format!("root 400\n{}", lane.secret.hex()));
    lane.secret.assert_nowhere(lane.user.home());
    // Nor in the other VM, which was given none.
    assert_eq!(lane.sh("two", "ls /run/secrets 2>/dev/null || true"), "");
}

pub fn volumes(lane: &Lane) {
    lane.sh("one", "echo kept > /data/file; echo gone > /root/gone");
    lane.user.ok(&["down", "one", "--rm"]);
    lane.secret.assert_nowhere(lane.user.home());
    let volume = lane.user.home().join(".local/share/mvm/volumes/one/data.ext4");
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&volume).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    // The next one of its name has it again, and nothing else of the one before.
    lane.user.ok(&lane.up("one", &["--memory", "128M", "--volume", "data:/data:16M"]));
    assert_eq!(lane.sh("one", "cat /data/file; ls /root/gone 2>/dev/null || echo none"), "kept\nnone\n");
}
