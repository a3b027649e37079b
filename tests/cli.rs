//! `mvmctl` where no VM is needed: what it prints, what it refuses, and with which exit code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::User;

#[test]
fn wrong_values_are_named_with_a_hint() {
    let user = User::new();
    for (args, word) in [
        (&["up", "-d", "--name", "Bad_Name"][..], "Bad_Name"),
        (&["up", "-d", "--memory", "3M"], "3M"),
        (&["up", "-d", "--memory", "3P"], "3P"),
        (&["up", "-d", "--hypervisor", "vbox"], "vbox"),
        (&["up", "-d", "-p", "80"], "80"),
    ] {
        let stderr = user.fails(2, args);
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
    user.assert_nothing_left();
}

#[test]
fn what_is_not_there_is_not_found() {
    let user = User::new();
    for args in [
        &["exec", "ghost", "--", "true"][..],
        &["down", "ghost"],
        &["logs", "ghost"],
        &["inspect", "ghost"],
        &["rm", "ghost"],
    ] {
        let stderr = user.fails(3, args);
        assert!(stderr.contains("ghost") && stderr.contains("hint:"), "{args:?}: {stderr}");
    }
    user.fails(3, &["up", "-d", "--image", "/no/such/folder"]);
}

#[test]
fn an_empty_list_is_no_error() {
    let user = User::new();
    user.ok(&["ls"]);
    assert_eq!(user.ok(&["ls", "--json"]).trim(), "[]");
}
