//! Docker's daemon: where its socket is, whether it answers, and which version of its API it speaks.

use super::error::{DockerError, said};
use crate::http;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use hyper::Method;
use rustix::process::{getegid, getgroups, getuid};
use serde::Deserialize;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon may take to say who it is.
const VERSION_DEADLINE: Duration = Duration::from_secs(1);
/// How long it may take to answer a request, in seconds.
const ANSWER_DEADLINE: u64 = 60;

/// A daemon that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerInfo {
    /// Its socket.
    pub socket: PathBuf,
    /// Its version.
    pub version: String,
    /// The version of its API (docs.docker.com/reference/api/engine).
    api: (usize, usize),
}

/// Asks the daemon who it is; where it cannot be asked, why not. Takes a second at most.
pub async fn probe() -> Result<DockerInfo, DockerError> {
    find(&candidates(|name| std::env::var_os(name))?).await
}

/// Connects to the daemon, in the latest version of the API that both sides know: those of Docker 20.10 and of today have
/// all that is used here.
pub(super) async fn connect() -> Result<Docker, DockerError> {
    let DockerInfo { socket, api, .. } = probe().await?;
    let silent = |detail| DockerError::Silent { socket: socket.clone(), detail };
    let path = socket.to_str().ok_or_else(|| silent("its path is not UTF-8".into()))?;
    let (major, minor) = api.min((API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version));
    let version = ClientVersion { major_version: major, minor_version: minor };
    Docker::connect_with_unix(path, ANSWER_DEADLINE, &version).map_err(|error| silent(said(&error)))
}

/// Where its socket may be: as `DOCKER_HOST` says, else the system's and then the user's own.
fn candidates(var: impl Fn(&str) -> Option<OsString>) -> Result<Vec<PathBuf>, DockerError> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    if let Some(host) = set("DOCKER_HOST") {
        let text = host.to_string_lossy().into_owned();
        let path = text.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        return path.map(|path| vec![path.into()]).ok_or(DockerError::Remote(text));
    }
    let rootless = set("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("docker.sock"));
    Ok(std::iter::once("/var/run/docker.sock".into()).chain(rootless).collect())
}

/// The first that answers; else why the first that is there does not.
async fn find(candidates: &[PathBuf]) -> Result<DockerInfo, DockerError> {
    let mut why = None;
    for socket in candidates {
        match ask(socket).await {
            Ok(Some(info)) => return Ok(info),
            Ok(None) => {}
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(why.unwrap_or_else(|| DockerError::NoSocket(candidates.into())))
}

/// Who listens at a socket; `None` where there is none.
async fn ask(socket: &Path) -> Result<Option<DockerInfo>, DockerError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        version: String,
        api_version: String,
    }
    let socket = socket.to_path_buf();
    let answer = match http::ask(&socket, Method::GET, "/version", None, VERSION_DEADLINE).await {
        Ok(answer) => answer,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                io::ErrorKind::ConnectionRefused => Err(DockerError::Dead(socket)),
                io::ErrorKind::PermissionDenied => Err(DockerError::Denied { group: group_of(&socket), socket }),
                _ => Err(DockerError::Silent { socket, detail: error.to_string() }),
            };
        }
    };
    let version = serde_json::from_slice::<Version>(&answer.body).ok().filter(|_| answer.status.is_success());
    let known = version.and_then(|Version { version, api_version }| {
        let (major, minor) = api_version.split_once('.')?;
        Some((version, (major.parse().ok()?, minor.parse().ok()?)))
    });
    match known {
        Some((version, api)) => Ok(Some(DockerInfo { socket, version, api })),
        None => Err(DockerError::Other(socket)),
    }
}

/// The group that may open the socket, and whether this user is in it on paper but not in this login. root's is none.
fn group_of(socket: &Path) -> Option<(String, bool)> {
    let gid = std::fs::metadata(socket).ok()?.gid();
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let here = getgroups().ok()?.iter().chain([&getegid()]).any(|group| group.as_raw() == gid);
    let (group, on_paper) = membership(&groups, &users, gid, getuid().as_raw())?;
    (gid != 0).then_some((group, on_paper && !here))
}

/// A group's name, and whether its line in /etc/group names a user (group(5), passwd(5)).
fn membership(groups: &str, users: &str, gid: u32, uid: u32) -> Option<(String, bool)> {
    let user = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        if fields.nth(1)?.parse() != Ok(gid) {
            return None;
        }
        let members = fields.next().unwrap_or_default();
        Some((name.to_owned(), user.is_some_and(|user| members.split(',').any(|member| member == user))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[test]
    fn docker_host_wins_and_must_be_a_socket() {
        let with = |host: &str, runtime: &str| {
            let (host, runtime) = (OsString::from(host), OsString::from(runtime));
            candidates(move |name| Some(if name == "DOCKER_HOST" { host.clone() } else { runtime.clone() }))
        };
        let system = PathBuf::from("/var/run/docker.sock");
        assert_eq!(with("unix:///x/d.sock", "/run/user/1").unwrap(), [PathBuf::from("/x/d.sock")]);
        assert_eq!(with("", "/run/user/1").unwrap(), [system.clone(), "/run/user/1/docker.sock".into()]);
        assert_eq!(with("", "").unwrap(), [system]);
        for host in ["tcp://127.0.0.1:2375", "ssh://me@there", "unix://relative", "/var/run/docker.sock", "npipe://x"] {
            assert!(matches!(with(host, ""), Err(DockerError::Remote(named)) if named == host), "{host}");
        }
    }

    /// Answers everybody with these bytes.
    fn serve(path: &Path, answer: String) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }

    #[tokio::test]
    async fn each_kind_of_silence_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(matches!(find(&[at("none")]).await, Err(DockerError::NoSocket(places)) if places == [at("none")]));
        drop(UnixListener::bind(at("dead")).unwrap());
        assert!(matches!(find(&[at("none"), at("dead")]).await, Err(DockerError::Dead(path)) if path == at("dead")));
        let http = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        serve(&at("mail"), "220 smtp\r\n".into());
        assert!(matches!(find(&[at("mail")]).await, Err(DockerError::Silent { .. })));
        serve(&at("web"), http("hi"));
        assert!(matches!(find(&[at("web")]).await, Err(DockerError::Other(path)) if path == at("web")));
        serve(&at("live"), http(r#"{"Version":"20.10.24","ApiVersion":"1.41"}"#));
        let found = find(&[at("none"), at("dead"), at("live")]).await.unwrap();
        assert_eq!(found, DockerInfo { socket: at("live"), version: "20.10.24".into(), api: (1, 41) });
    }

    #[test]
    fn groups_are_read_as_they_are_written() {
        let groups = "root:x:0:\ndocker:x:999:ann,bob\nodd\n";
        let users = "root:x:0:0::/:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\neve:x:1002:1002:::\n";
        assert_eq!(membership(groups, users, 999, 1001), Some(("docker".into(), true)));
        assert_eq!(membership(groups, users, 999, 1002), Some(("docker".into(), false)));
        assert_eq!(membership(groups, users, 999, 7), Some(("docker".into(), false)));
        assert_eq!(membership(groups, users, 5, 1001), None);
    }
}
