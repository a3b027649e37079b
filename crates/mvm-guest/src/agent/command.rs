//! From a request to a command that can be spawned: user, folder, environment, and the program on the guest's `PATH`.

use super::sys;
use super::users::User;
use crate::context::Guest;
use mvm_protocol::{ErrorCode, RequestError};
use rustix::fs::{Access, AtFlags, CWD};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are looked for when nobody says so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a request asks to be run.
pub struct Wanted<'r> {
    /// Program and arguments.
    pub argv: &'r [String],
    /// Over the environment of the guest.
    pub env: &'r BTreeMap<String, String>,
    /// Working directory; the home of the user where absent.
    pub cwd: Option<&'r str>,
    /// Whose rights it has; those of the agent where absent.
    pub user: Option<&'r str>,
}

/// Makes the command; standard streams and process group are the caller's to set.
pub fn command(guest: &Guest, wanted: &Wanted<'_>) -> Result<Command, RequestError> {
    let Some((program, arguments)) = wanted.argv.split_first() else {
        return Err(RequestError::new(ErrorCode::Invalid, "no command was given"));
    };
    let user = User::find(wanted.user)?;
    let cwd = folder(wanted.cwd, &user)?;
    let env = environment(guest, wanted.env, &user);
    check(wanted.argv, &env)?;
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let found = find(program, path, &cwd)?;
    let mut command = Command::new(found);
    // With an absolute program and an own process group std spawns without a fork of this process.
    command.arg0(program).args(arguments).current_dir(cwd).env_clear().envs(&env);
    if wanted.user.is_some() && (user.uid, user.gid) != ids() {
        sys::become_user(&mut command, user.uid, user.gid, &user.groups);
    }
    Ok(command)
}

/// What an error of the spawn itself means.
pub fn spawn_error(program: &str, error: &io::Error) -> RequestError {
    use rustix::io::Errno;
    let (code, why) = match Errno::from_io_error(error) {
        Some(Errno::NOEXEC) => {
            (ErrorCode::NotExecutable, "it is no program for this machine and has no #! line".into())
        }
        Some(Errno::ACCESS) => (ErrorCode::NotExecutable, "permission denied".into()),
        // The file is there: it is its interpreter that is not.
        Some(Errno::NOENT) => (ErrorCode::NotFound, "its interpreter or dynamic loader does not exist".into()),
        Some(Errno::PERM) => (ErrorCode::Failed, "the agent may not change to that user".into()),
        Some(Errno::TOOBIG) => (ErrorCode::Invalid, "arguments and environment are too long".into()),
        _ => (ErrorCode::Failed, error.to_string()),
    };
    RequestError::new(code, format!("cannot run {program:?}: {why}"))
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn folder(wanted: Option<&str>, user: &User) -> Result<PathBuf, RequestError> {
    match wanted {
        Some(cwd) if !cwd.starts_with('/') => {
            Err(RequestError::new(ErrorCode::Invalid, format!("the working directory {cwd:?} is not an absolute path")))
        }
        Some(cwd) if !Path::new(cwd).is_dir() => {
            Err(RequestError::new(ErrorCode::NotFound, format!("the guest has no working directory {cwd:?}")))
        }
        Some(cwd) => Ok(cwd.into()),
        // A home that was never made keeps nobody out.
        None if Path::new(&user.home).is_dir() => Ok(user.home.clone().into()),
        None => Ok("/".into()),
    }
}

fn environment(guest: &Guest, wanted: &BTreeMap<String, String>, user: &User) -> BTreeMap<String, String> {
    let own = [
        ("PATH", DEFAULT_PATH),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter();
    let given = [&guest.manifest.env, &guest.config.env, wanted];
    own.chain(given.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()))).collect()
}

fn check(argv: &[String], env: &BTreeMap<String, String>) -> Result<(), RequestError> {
    let invalid = |what: String| Err(RequestError::new(ErrorCode::Invalid, what));
    if argv.iter().any(|argument| argument.contains('\0')) {
        return invalid("an argument contains a zero byte".into());
    }
    match env.iter().find(|(key, value)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')) {
        Some((key, _)) => invalid(format!("{key:?} cannot be an environment variable")),
        None => Ok(()),
    }
}

/// Finds a program as `execvp` does, but by the `PATH` that the command itself will have.
fn find(program: &str, path: &str, cwd: &Path) -> Result<PathBuf, RequestError> {
    let missing = |code, why: &str| Err(RequestError::new(code, format!("cannot run {program:?}: {why}")));
    if program.is_empty() {
        return missing(ErrorCode::NotFound, "the name is empty");
    }
    if program.contains('/') {
        let file = cwd.join(program);
        return match look(&file) {
            Look::Program => Ok(file),
            Look::Other(why) => missing(ErrorCode::NotExecutable, why),
            Look::Nothing => missing(ErrorCode::NotFound, "no such file in the guest"),
        };
    }
    let mut other = None;
    for folder in path.split(':') {
        let file = cwd.join(folder).join(program);
        match look(&file) {
            Look::Program => return Ok(file),
            Look::Other(why) => other = other.or(Some(why)),
            Look::Nothing => {}
        }
    }
    match other {
        Some(why) => missing(ErrorCode::NotExecutable, why),
        None => missing(ErrorCode::NotFound, &format!("not found in the guest's PATH ({path})")),
    }
}

enum Look {
    Program,
    Other(&'static str),
    Nothing,
}

fn look(file: &Path) -> Look {
    match rustix::fs::stat(file) {
        Err(_) => Look::Nothing,
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() => Look::Other("it is a folder"),
        Ok(_) if rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS).is_err() => {
            Look::Other("the file is not executable")
        }
        Ok(_) => Look::Program,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_a_shell_would() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for (name, mode) in [("a/plain", 0o644), ("a/tool", 0o755), ("b/plain", 0o755), ("b/tool", 0o755)] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "").unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(at("a/folder")).unwrap();
        let path = format!("/nonexistent:{}:b", at("a").display());
        let found = |program: &str| find(program, &path, root.path()).map_err(|error| error.code);
        assert_eq!(found("tool"), Ok(at("a/tool")));
        assert_eq!(found("plain"), Ok(at("b/plain")));
        assert_eq!(found("./b/tool"), Ok(at("./b/tool")));
        assert_eq!(found("a/plain"), Err(ErrorCode::NotExecutable));
        assert_eq!(found("folder"), Err(ErrorCode::NotExecutable));
        assert_eq!(found("a"), Err(ErrorCode::NotFound));
        assert_eq!(found("none"), Err(ErrorCode::NotFound));
        assert_eq!(found("a/none"), Err(ErrorCode::NotFound));
        assert_eq!(found(""), Err(ErrorCode::NotFound));
    }
}
