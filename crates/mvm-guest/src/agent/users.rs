//! Users and groups out of `/etc/passwd` and `/etc/group`, read by hand: a static binary has no name service.

use mvm_protocol::{ErrorCode, RequestError};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes that are read of either file.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Most supplementary groups of a process (`NGROUPS_MAX` is 65536; nobody needs it).
const MAX_GROUPS: usize = 1024;

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name; the number, where it has none.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The main group's number.
    pub gid: u32,
    /// Numbers of further groups.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

impl User {
    /// Whom `NAME`, `UID`, `NAME:GROUP` or `UID:GID` means; whoever this process is where absent.
    ///
    /// A number that `/etc/passwd` does not know is a user of its own, with a group of the same number and `/` for home.
    pub fn find(spec: Option<&str>) -> Result<Self, RequestError> {
        Self::find_in(Path::new("/etc"), spec)
    }

    fn find_in(etc: &Path, spec: Option<&str>) -> Result<Self, RequestError> {
        let passwd = read(&etc.join("passwd"));
        let Some(spec) = spec else {
            let uid = rustix::process::geteuid().as_raw();
            return Ok(Self::with_uid(&passwd, uid));
        };
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let known = entries(&passwd).find(|fields| fields[0] == user).and_then(|fields| Self::from_fields(&fields));
        let mut user = match (known, user.parse()) {
            (Some(user), _) => user,
            (None, Ok(uid)) => Self::with_uid(&passwd, uid),
            (None, Err(_)) => return Err(unknown("user", user, "/etc/passwd")),
        };
        let groups = read(&etc.join("group"));
        match group {
            Some(name) => {
                let known = entries(&groups).find(|fields| fields[0] == name).and_then(|f| f.get(2)?.parse().ok());
                let gid = known.or_else(|| name.parse().ok());
                user.gid = gid.ok_or_else(|| unknown("group", name, "/etc/group"))?;
            }
            None => {
                user.groups = entries(&groups)
                    .filter(|fields| fields.get(3).is_some_and(|names| names.split(',').any(|n| n == user.name)))
                    .filter_map(|fields| fields.get(2)?.parse().ok())
                    .filter(|gid| *gid != user.gid)
                    .take(MAX_GROUPS)
                    .collect();
            }
        }
        Ok(user)
    }

    fn with_uid(passwd: &str, uid: u32) -> Self {
        entries(passwd).filter_map(|fields| Self::from_fields(&fields)).find(|user| user.uid == uid).unwrap_or_else(
            || Self {
                name: if uid == 0 { "root".into() } else { uid.to_string() },
                uid,
                gid: uid,
                groups: Vec::new(),
                home: if uid == 0 { "/root".into() } else { "/".into() },
                shell: "/bin/sh".into(),
            },
        )
    }

    fn from_fields(fields: &[&str]) -> Option<Self> {
        let [name, _, uid, gid, _, home, shell @ ..] = fields else { return None };
        let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.to_owned() };
        Some(Self {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            groups: Vec::new(),
            home: or(home, "/"),
            shell: or(shell.first().copied().unwrap_or_default(), "/bin/sh"),
        })
    }
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| line.split(':').collect())
}

/// A file's text; empty where there is none, for numbers work without it.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unknown(what: &str, name: &str, file: &str) -> RequestError {
    RequestError::new(ErrorCode::NotFound, format!("the guest has no {what} {name:?} in {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc() -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/ash\n# note\nbroken line\nweb:x:33:33::/srv:\n\
                      ada:x:1000:100:Ada,,,:/home/ada:/bin/bash\nshort:x:7:7::/x\n";
        std::fs::write(etc.path().join("passwd"), passwd).unwrap();
        let group = "root:x:0:\nusers:x:100:ada\nwheel:x:10:bob,ada\ndocker:x:999:ada,web\nadam:x:5:adam\n";
        std::fs::write(etc.path().join("group"), group).unwrap();
        etc
    }

    #[test]
    fn every_form_is_read() {
        let etc = etc();
        let find = |spec| {
            let user = User::find_in(etc.path(), Some(spec)).unwrap();
            (user.name, user.uid, user.gid, user.groups, user.home, user.shell)
        };
        let full = |name: &str, uid, gid, groups: &[u32], home: &str, shell: &str| {
            (name.to_owned(), uid, gid, groups.to_vec(), home.to_owned(), shell.to_owned())
        };
        assert_eq!(find("ada"), full("ada", 1000, 100, &[10, 999], "/home/ada", "/bin/bash"));
        assert_eq!(find("1000"), find("ada"));
        assert_eq!(find("ada:docker"), full("ada", 1000, 999, &[], "/home/ada", "/bin/bash"));
        assert_eq!(find("ada:7"), full("ada", 1000, 7, &[], "/home/ada", "/bin/bash"));
        assert_eq!(find("web"), full("web", 33, 33, &[999], "/srv", "/bin/sh"));
        assert_eq!(find("4000:5"), full("4000", 4000, 5, &[], "/", "/bin/sh"));
        assert_eq!(find("4000"), full("4000", 4000, 4000, &[], "/", "/bin/sh"));
        assert_eq!(find("short"), full("short", 7, 7, &[], "/x", "/bin/sh"));
    }

    #[test]
    fn the_unknown_is_named() {
        let etc = etc();
        for (spec, word) in [("eve", "user \"eve\""), ("ada:eves", "group \"eves\""), ("", "user"), ("-1", "user")] {
            let error = User::find_in(etc.path(), Some(spec)).unwrap_err();
            assert!(error.code == ErrorCode::NotFound && error.message.contains(word), "{spec}: {error}");
        }
        assert_eq!(User::find_in(Path::new("/nonexistent"), Some("0")).unwrap().home, "/root");
    }
}
