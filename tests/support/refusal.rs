//! Commands that have to fail in order: one error, one line of advice, the right exit code.

use super::{User, text};
use std::process::{Command, Output, Stdio};

/// What a command that cannot work has to say.
pub struct Refusal<'w> {
    code: i32,
    /// All of these, in the error.
    error: &'w [&'w str],
    /// This, in the hint.
    hint: &'w str,
}

pub fn refusal<'w>(code: i32, error: &'w [&'w str], hint: &'w str) -> Refusal<'w> {
    Refusal { code, error, hint }
}

/// Asserts that a command failed in the way it should; its stderr.
pub fn assert_refused(what: &str, out: &Output, want: &Refusal<'_>) -> String {
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(want.code), "{what}: {stderr}");
    assert_eq!(text(&out.stdout), "", "{what}");
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{what}: {stderr}");
    let (_, error) = stderr.split_once("error: ").unwrap();
    let (error, hint) = error.split_once("\nhint: ").unwrap_or_else(|| panic!("{what}: no hint: {stderr}"));
    for words in want.error {
        assert!(error.contains(words), "{what}: no {words:?} in {error:?}");
    }
    assert!(hint.contains(want.hint), "{what}: no {:?} in {hint:?}", want.hint);
    assert_eq!(hint.trim_end().lines().count(), 1, "{what}: {hint}");
    assert!(!stderr.contains("panicked at") && !stderr.contains("warning:"), "{what}: {stderr}");
    stderr
}

pub fn refuses(user: &User, args: &[&str], want: &Refusal<'_>) -> String {
    assert_refused(&format!("{args:?}"), &user.run(args), want)
}

pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}
