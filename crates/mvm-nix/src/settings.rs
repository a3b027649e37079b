//! What else an evaluation depends on beside the flake: the Nix program, its settings, its environment.

use crate::cli::Nix;
use crate::stamp::{self, Stamp};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Settings that are larger, or include more files, are beyond what is looked at.
const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 64;

/// Variables by which Git, as within its hooks, looks elsewhere than we do.
const ELSEWHERE: [&str; 4] = ["GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"];

/// A digest of all that. Values stay inside it: there are access tokens among them. An error says only that it cannot
/// be told.
pub(crate) fn digest(nix: &Nix) -> io::Result<String> {
    if ELSEWHERE.iter().any(|name| nix.variable(name).is_some()) {
        return Err(ErrorKind::Unsupported.into());
    }
    // The file stands for the version: to ask the program for it would be to start it.
    let program = nix.program().canonicalize()?;
    let mut text = format!("{}\0{:?}\0", program.display(), Stamp::of(&program)?).into_bytes();
    for (name, value) in nix.environment().into_iter().filter(|(name, _)| counts(name)) {
        for part in [name, value] {
            text.extend([part.as_bytes(), b"\0"].concat());
        }
    }
    let mut files = BTreeSet::new();
    for file in settings_files(nix) {
        read(&file, &mut files, &mut text)?;
    }
    Ok(stamp::digest(&text))
}

/// Whether a variable can change what Nix, or the Git that it asks, finds.
fn counts(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"NIX_") || name.as_bytes().starts_with(b"GIT_")
}

/// Where Nix looks for settings ("nix.conf" in the Nix manual).
fn settings_files(nix: &Nix) -> Vec<PathBuf> {
    let variable = |name: &str| nix.variable(name).filter(|v| !v.is_empty());
    let folder = variable("NIX_CONF_DIR").map_or_else(|| "/etc/nix".into(), PathBuf::from);
    let mut files = vec![folder.join("nix.conf")];
    if let Some(list) = variable("NIX_USER_CONF_FILES") {
        files.extend(std::env::split_paths(&list));
        return files;
    }
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let user = variable("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let others = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| OsString::from("/etc/xdg"));
    files.extend(user.into_iter().chain(std::env::split_paths(&others)).map(|folder| folder.join("nix/nix.conf")));
    files
}

/// Adds a file, and the files that it includes.
fn read(path: &Path, seen: &mut BTreeSet<PathBuf>, text: &mut Vec<u8>) -> io::Result<()> {
    if !seen.insert(path.to_owned()) {
        return Ok(());
    }
    if seen.len() > MAX_FILES {
        return Err(ErrorKind::InvalidData.into());
    }
    text.extend([path.as_os_str().as_bytes(), b"\0"].concat());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        // It counts when it appears.
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(ErrorKind::InvalidData.into());
    }
    for line in String::from_utf8_lossy(&content).lines() {
        if let ["include" | "!include", included] = line.split_whitespace().collect::<Vec<_>>().as_slice() {
            read(&path.parent().unwrap_or(Path::new("/")).join(included), seen, text)?;
        }
    }
    text.extend(content);
    text.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_counts_changes_the_digest() {
        let home = tempfile::tempdir().unwrap();
        let conf = home.path().join(".config/nix/nix.conf");
        std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
        let program = home.path().join("nix");
        std::fs::write(&program, "").unwrap();
        let nix = Nix::at(&program).env("HOME", home.path()).env("XDG_CONFIG_HOME", "").env("NIX_CONF_DIR", "/absent");
        let mut seen = BTreeSet::new();
        let mut is_new = |nix: &Nix| assert!(seen.insert(digest(nix).unwrap()));
        is_new(&nix);
        std::fs::write(&conf, "!include more.conf\n").unwrap();
        is_new(&nix);
        std::fs::write(conf.with_file_name("more.conf"), "system = a\n").unwrap();
        is_new(&nix);
        std::fs::write(conf.with_file_name("more.conf"), "system = b\n").unwrap();
        is_new(&nix);
        is_new(&nix.clone().env("NIX_CONFIG", "system = c"));
        is_new(&nix.clone().env("NIX_USER_CONF_FILES", conf.with_file_name("more.conf")));
        std::fs::write(&program, "another").unwrap();
        is_new(&nix);
        assert_eq!(digest(&nix).unwrap(), digest(&nix.clone().env("EDITOR", "ed")).unwrap());
        assert!(digest(&nix.clone().env("GIT_INDEX_FILE", "/elsewhere")).is_err());
        // A file that includes itself ends.
        std::fs::write(&conf, "include nix.conf\n").unwrap();
        is_new(&nix);
        std::fs::remove_file(&program).unwrap();
        assert!(digest(&nix).is_err());
    }
}
