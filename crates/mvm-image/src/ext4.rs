//! ext4 file systems, made by mke2fs: from a folder, without root and without mounting anything.

use crate::error::ImageError;
use crate::stop::Stop;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};

/// What every file system of ours has. `none` comes first: what the machine's own `mke2fs.conf` would add differs
/// between distributions, and an older guest kernel may not know it.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,\
                        dir_nlink,extra_isize";

/// What to make.
pub(crate) struct MakeExt4<'a> {
    /// By which the guest finds it.
    pub label: &'a str,
    /// Bytes.
    pub size: u64,
    /// The folder whose content goes into it, owned by root whoever staged it; nothing where absent.
    pub from: Option<&'a Path>,
    /// Paths inside that belong to somebody else: path, user id, group id.
    pub owners: &'a [(&'a str, u32, u32)],
    /// How many files it can hold; one for each 16 KiB where absent.
    pub inodes: Option<u32>,
    /// MiB of its journal; without one where absent. With a journal come checksums of metadata: it is written to.
    pub journal: Option<u32>,
}

impl MakeExt4<'_> {
    /// Makes the file system at `dest`, whole or not at all, readable by its owner only.
    pub(crate) fn write(&self, dest: &Path, stop: &Stop) -> Result<(), ImageError> {
        let folder = dest.parent().unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new()
            .prefix(crate::draft::PREFIX)
            .tempfile_in(folder)
            .map_err(ImageError::io("write to", folder))?;
        // With its size set beforehand mke2fs leaves holes where it would write zeros, and still tells the guest's
        // kernel that the inode tables are zeroed, so that no thread does it again in the guest.
        draft.as_file().set_len(self.size).map_err(ImageError::io("size", dest))?;
        let mut args: Vec<OsString> =
            ["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-I", "256"].map(OsString::from).into();
        args.extend(["-L".into(), self.label.into()]);
        args.extend(["-E".into(), "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0".into()]);
        match self.inodes {
            Some(n) => args.extend(["-N".into(), n.to_string().into()]),
            None => args.extend(["-i".into(), "16384".into()]),
        }
        match self.journal {
            Some(mib) => {
                args.extend(["-O".into(), format!("{FEATURES},has_journal,metadata_csum").into()]);
                args.extend(["-J".into(), format!("size={mib}").into()]);
            }
            None => args.extend(["-O".into(), FEATURES.into()]),
        }
        if let Some(from) = self.from {
            args.extend(["-d".into(), from.as_os_str().to_os_string()]);
        }
        args.push(draft.path().into());
        run("mke2fs", "MVM_MKE2FS", &args, "", dest, stop)?;
        if let Some(from) = self.from {
            self.set_owners(from, draft.path(), dest, stop)?;
        }
        // A template that a power cut emptied would be copied for years.
        draft.as_file().sync_all().map_err(ImageError::io("write", dest))?;
        draft.persist(dest).map_err(|e| ImageError::io("write", dest)(e.error))?;
        Ok(())
    }

    /// mke2fs keeps the user and group ids of the files that it copies: those of whoever runs mvmctl. debugfs, its
    /// sister, sets them right; where root runs mvmctl there is little or nothing to do.
    fn set_owners(&self, from: &Path, image: &Path, dest: &Path, stop: &Stop) -> Result<(), ImageError> {
        let mut commands = String::new();
        let mut open = vec![from.to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
                let path = entry.map_err(ImageError::io("read", &dir))?.path();
                let meta = fs::symlink_metadata(&path).map_err(ImageError::io("read", &path))?;
                let inside = path.strip_prefix(from).unwrap_or(&path).to_string_lossy().into_owned();
                let (uid, gid) =
                    self.owners.iter().find(|(owned, ..)| *owned == inside).map_or((0, 0), |(_, u, g)| (*u, *g));
                for (field, want, got) in [("uid", uid, meta.uid()), ("gid", gid, meta.gid())] {
                    if want != got {
                        let _infallible = writeln!(commands, "set_inode_field \"/{inside}\" {field} {want}");
                    }
                }
                if meta.is_dir() {
                    open.push(path);
                }
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        let args = ["-w", "-f", "-"].map(OsString::from).into_iter().chain([image.into()]).collect::<Vec<_>>();
        let said = run("debugfs", "MVM_DEBUGFS", &args, &commands, dest, stop)?;
        // debugfs ends with 0 whatever happens; beyond its banner it says what went wrong.
        match said.lines().find(|l| !l.is_empty() && !l.starts_with("debugfs ")) {
            None => Ok(()),
            Some(detail) => {
                Err(ImageError::MakeFs { program: "debugfs", path: dest.into(), detail: detail.to_string() })
            }
        }
    }
}

/// Runs one of e2fsprogs' programs and gives back what it said on stderr.
fn run(
    program: &'static str,
    var: &str,
    args: &[OsString],
    input: &str,
    dest: &Path,
    stop: &Stop,
) -> Result<String, ImageError> {
    let failed = |detail: String| ImageError::MakeFs { program, path: dest.into(), detail };
    let mut command = Command::new(find_program(program, var)?);
    command
        .args(args)
        // Its own configuration file would make images differ from machine to machine.
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // The thread that starts it waits for it, and so dies before it only with its process.
    mvm_process::signal_with_parent(&mut command, rustix::process::Signal::KILL);
    let mut child = command.spawn().map_err(|e| failed(format!("cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it read everything: its exit code tells why.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(failed(e.to_string())),
            _ => {}
        }
    }
    let mut said = Vec::new();
    if let Some(stderr) = &mut child.stderr
        && let Err(error) = read_to_end(stderr, &mut said, stop)
    {
        // It may have ended by itself in this moment.
        let _ = child.kill();
        let _ = child.wait();
        return Err(if let ImageError::Stopped = error { error } else { failed(error.to_string()) });
    }
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&said).trim().to_string();
    if status.success() {
        return Ok(said);
    }
    let detail = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
    Err(failed(if detail.is_empty() { status.to_string() } else { detail }))
}

fn read_to_end(from: &mut ChildStderr, into: &mut Vec<u8>, stop: &Stop) -> Result<(), ImageError> {
    let mut buffer = [0; 4096];
    loop {
        stop.readable(from)?;
        match from.read(&mut buffer).map_err(ImageError::io("read", "what it says"))? {
            0 => return Ok(()),
            n => into.extend_from_slice(&buffer[..n]),
        }
    }
}

fn find_program(program: &'static str, var: &str) -> Result<PathBuf, ImageError> {
    if let Some(given) = std::env::var_os(var).filter(|v| !v.is_empty()) {
        return Ok(given.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Users often have no sbin on their PATH.
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
        .ok_or_else(|| ImageError::Missing {
            what: program,
            places: vec![format!("${var}"), "PATH".into(), "/usr/sbin".into(), "/sbin".into()],
            hint: "install e2fsprogs (Debian: `apt-get install e2fsprogs`)",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debugfs(image: &Path, request: &str) -> String {
        let program = find_program("debugfs", "MVM_DEBUGFS").unwrap();
        let out = Command::new(program).args(["-R", request]).arg(image).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[test]
    fn files_belong_to_root_and_to_whom_they_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("root");
        fs::create_dir_all(from.join("home/user")).unwrap();
        fs::write(from.join("home/user/a"), "a").unwrap();
        if rustix::process::geteuid().is_root() {
            // As it is where a plain user runs mvmctl.
            std::os::unix::fs::chown(from.join("home/user/a"), Some(1234), Some(1234)).unwrap();
        }
        let image = dir.path().join("i.ext4");
        let make = MakeExt4 {
            label: "mvm-root",
            size: 4 << 20,
            from: Some(&from),
            owners: &[("home/user", 1000, 1001)],
            inodes: Some(64),
            journal: None,
        };
        make.write(&image, &Stop::never()).unwrap();
        let owner = |path: &str| {
            let stat = debugfs(&image, &format!("stat {path}"));
            let line = stat.lines().find(|l| l.starts_with("User:")).unwrap().to_string();
            line.split_whitespace().filter_map(|w| w.parse().ok()).take(2).collect::<Vec<u32>>()
        };
        assert_eq!(owner("/home/user/a"), [0, 0]);
        assert_eq!(owner("/home"), [0, 0]);
        assert_eq!(owner("/home/user"), [1000, 1001]);
    }

    #[test]
    fn what_mke2fs_says_is_told_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("root");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("big"), vec![1; 8 << 20]).unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let make =
            MakeExt4 { label: "x", size: 1 << 20, from: Some(&from), owners: &[], inodes: Some(16), journal: None };
        let error = make.write(&out.join("i.ext4"), &Stop::never()).unwrap_err();
        assert!(matches!(&error, ImageError::MakeFs { detail, .. } if detail.contains("block")), "{error}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    }
}
