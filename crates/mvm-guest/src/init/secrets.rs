//! Secrets: files in memory, each for whom the image says.

use super::say;
use crate::agent::users::User;
use crate::stage1::mount_fs;
use mvm_core::{SecretFile, Secrets};
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::Path;

/// Where they are.
const FOLDER: &str = "/run/secrets";

/// Places the secrets that the guest was given.
pub(super) fn place(secrets: &Secrets, files: &BTreeMap<String, SecretFile>) -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Room for the most that there may be, in whole pages.
    mount_fs("tmpfs", FOLDER, flags, Some(c"mode=0755,size=1m"))?;
    place_in(Path::new(FOLDER), secrets, files)
}

fn place_in(folder: &Path, secrets: &Secrets, files: &BTreeMap<String, SecretFile>) -> io::Result<()> {
    let unlisted = SecretFile::default();
    for (name, content) in secrets.iter() {
        let file = files.get(name).unwrap_or(&unlisted);
        let because = |error: io::Error| io::Error::other(format!("secret {name}: {error}"));
        let at = folder.join(name);
        write(&at, content, file).map_err(because)?;
        if let Some(path) = &file.path {
            link(&at, Path::new(path)).map_err(because)?;
        }
    }
    for name in files.keys().filter(|name| !secrets.iter().any(|(given, _)| given == *name)) {
        say(&format!("the secret {name} was not given"));
    }
    Ok(())
}

/// Nobody but root can read it before it is whose it is to be.
fn write(at: &Path, content: &[u8], of: &SecretFile) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(at)?;
    file.write_all(content)?;
    if let Some(owner) = &of.owner {
        let user = User::find(Some(owner)).map_err(|error| io::Error::other(error.message))?;
        fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    let mode = of.mode.as_deref().map_or(Ok(0o400), |mode| u32::from_str_radix(mode, 8)).map_err(io::Error::other)?;
    file.set_permissions(Permissions::from_mode(mode & 0o777))
}

/// Makes a link, in place of that of an earlier start; anything else that is there stays.
fn link(at: &Path, path: &Path) -> io::Result<()> {
    let because = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(because)?;
    }
    match fs::read_link(path) {
        Ok(before) if before == at => return Ok(()),
        Ok(_) => fs::remove_file(path).map_err(because)?,
        Err(_) => {}
    }
    symlink(at, path).map_err(because)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn each_is_for_whom_the_image_says() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (dir.path().join("secrets"), dir.path().join("etc/app/key"));
        let secrets = || from_value(json!({"key": "00ff", "other": "61"})).unwrap();
        let files = from_value(json!({"key": {"mode": "0440", "path": path}, "gone": {}})).unwrap();
        let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
        // A second start finds the links of the first.
        for _ in 0..2 {
            fs::create_dir(&folder).unwrap();
            place_in(&folder, &secrets(), &files).unwrap();
            assert_eq!((mode("key"), mode("other")), (0o440, 0o400));
            assert_eq!(fs::read(&path).unwrap(), [0, 0xff]);
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        fs::create_dir(&folder).unwrap();
        let error = place_in(&folder, &secrets(), &files).unwrap_err().to_string();
        assert!(error.contains("secret key") && error.contains("etc/app/key"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
    }
}
