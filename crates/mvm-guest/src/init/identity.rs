//! Who this guest is: its names, its machine-id, and its clock.

use mvm_core::{GuestConfig, GuestManifest};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fs;
use std::io;
use std::path::Path;

/// The address that stands for the guest's own name, as in Debian.
const OWN_ADDRESS: &str = "127.0.1.1";

/// Takes the identity of the configuration as far as files tell it. The rest of a container's is its maker's, who has
/// given it the VM's name.
pub(super) fn assume_in_files(config: &GuestConfig) -> io::Result<()> {
    write(Path::new("/etc"), config, &config.name)
}

/// Takes the identity of the configuration, under the image's own host name where it has one.
pub(super) fn assume(config: &GuestConfig, manifest: &GuestManifest) -> io::Result<()> {
    let name = manifest.host_name.as_deref().unwrap_or(&config.name);
    sethostname(name.as_bytes()).map_err(|error| io::Error::other(format!("the host name {name:?}: {error}")))?;
    write(Path::new("/etc"), config, name)?;
    // The host wrote the time a moment before the start, so a clock that is behind it is wrong: a machine without a
    // clock, or one that was put aside. One that is ahead may be right.
    let now = i64::try_from(config.now).unwrap_or_default();
    if clock_gettime(ClockId::Realtime).tv_sec < now {
        clock_settime(ClockId::Realtime, Timespec { tv_sec: now, tv_nsec: 0 })?;
    }
    Ok(())
}

fn write(etc: &Path, config: &GuestConfig, name: &str) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    replace(&etc.join("hostname"), &format!("{name}\n"))?;
    replace(&etc.join("machine-id"), &format!("{}\n", config.machine_id))?;
    let known = fs::read_to_string(etc.join("hosts")).unwrap_or_default();
    replace(&etc.join("hosts"), &hosts(&known, name))?;
    if let Some(interface) = &config.interface {
        let lines: String = interface.resolvers.iter().map(|r| format!("nameserver {r}\n")).collect();
        replace(&etc.join("resolv.conf"), &lines)?;
    }
    Ok(())
}

/// Writes a file in place of what was there. That may be a link to one that is not this guest's to change: NixOS links
/// most of `/etc` into its store.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("mvm-new");
    fs::write(&new, text)?;
    match fs::rename(&new, path) {
        // Container runtimes mount files there, which are this guest's own.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::write(path, text)?;
            fs::remove_file(&new)
        }
        done => done,
    }
}

/// The image's hosts, with localhost where it is missing, and with this guest's name in place of an earlier one.
fn hosts(known: &str, name: &str) -> String {
    let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let kept: Vec<_> = known.lines().filter(|line| address(line).as_deref() != Some(OWN_ADDRESS)).collect();
    let mut text = String::new();
    for local in ["127.0.0.1", "::1"] {
        if !kept.iter().any(|line| address(line).as_deref() == Some(local)) {
            text += &format!("{local} localhost\n");
        }
    }
    for line in kept {
        text += line;
        text.push('\n');
    }
    text + &format!("{OWN_ADDRESS} {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_the_image_stay() {
        let fresh = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 one\n";
        assert_eq!(hosts("", "one"), fresh);
        // A VM that starts again, under another name.
        assert_eq!(hosts(fresh, "two"), fresh.replace("one", "two"));
        assert_eq!(
            hosts("# mine\n127.0.0.1\tlocalhost db", "one"),
            "::1 localhost\n# mine\n127.0.0.1\tlocalhost db\n127.0.1.1 one\n"
        );
    }

    #[test]
    fn an_identity_is_written() {
        let etc = tempfile::tempdir().unwrap();
        let config = r#"{"schema":1,"name":"one","machineId":"abc","hostPublicKey":"","guestSecretKey":"",
            "interface":{"addresses":[],"resolvers":["10.0.0.1","fd00::1"]}}"#;
        write(etc.path(), &serde_json::from_str(config).unwrap(), "own").unwrap();
        let read = |name: &str| fs::read_to_string(etc.path().join(name)).unwrap();
        assert_eq!((read("hostname"), read("machine-id")), ("own\n".into(), "abc\n".into()));
        assert_eq!(read("resolv.conf"), "nameserver 10.0.0.1\nnameserver fd00::1\n");
    }

    #[test]
    fn what_a_link_leads_to_is_left_alone() {
        let etc = tempfile::tempdir().unwrap();
        let (store, hosts) = (etc.path().join("store"), etc.path().join("hosts"));
        fs::write(&store, "127.0.0.1 localhost db\n").unwrap();
        std::os::unix::fs::symlink(&store, &hosts).unwrap();
        let config = r#"{"schema":1,"name":"one","machineId":"abc","hostPublicKey":"","guestSecretKey":""}"#;
        write(etc.path(), &serde_json::from_str(config).unwrap(), "one").unwrap();
        assert_eq!(fs::read_to_string(&store).unwrap(), "127.0.0.1 localhost db\n");
        let written = fs::read_to_string(&hosts).unwrap();
        assert_eq!(written, "::1 localhost\n127.0.0.1 localhost db\n127.0.1.1 one\n");
        assert_eq!(fs::read_dir(etc.path()).unwrap().count(), 4, "nothing half-made is left");
    }
}
