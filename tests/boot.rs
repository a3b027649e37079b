//! A real VM from `up` to `down`, with the distribution's kernel. What runs our own is in tests/conformance.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::User;

#[test]
fn the_main_line_with_the_distributions_kernel() {
    let user = User::with_stock_kernel();
    user.ok(&["up", "-d", "--name", "one", "-e", "GREETING=hello"]);
    assert!(user.ok(&["ls"]).contains("one"));
    assert_eq!(user.ok(&["exec", "one", "--", "uname", "-s"]), "Linux\n");
    assert_eq!(user.ok(&["exec", "one", "--", "hostname"]), "one\n");
    assert_eq!(user.ok(&["exec", "one", "--", "sh", "-c", "echo $GREETING"]), "hello\n");
    user.fails(3, &["exec", "one", "--", "sh", "-c", "exit 3"]);
    user.fails(127, &["exec", "one", "--", "no-such-program"]);
    user.ok(&["exec", "one", "--", "sh", "-c", "echo kept > /root/file && sync"]);
    user.ok(&["down", "one"]);
    user.assert_nothing_left();
    assert!(user.ok(&["logs", "one"]).contains("mvm: powered off cleanly"));
    // The writable layer is the VM's: it survives a stop, and so does what the image has not.
    user.ok(&["start", "-d", "one"]);
    assert_eq!(user.ok(&["exec", "one", "--", "cat", "/root/file"]), "kept\n");
    user.ok(&["down", "one"]);
    user.ok(&["rm", "one"]);
    assert!(!user.ok(&["ls", "-a"]).contains("one"));
    user.assert_nothing_left();
}
