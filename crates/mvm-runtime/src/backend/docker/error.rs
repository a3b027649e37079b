//! Why Docker could not do it.

use mvm_core::{Diagnostic, ErrorKind, Lack};
use std::path::PathBuf;

/// Why Docker could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket where there could be one.
    #[error("no Docker daemon listens at {}", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoSocket(Vec<PathBuf>),
    /// `DOCKER_HOST` is no Unix socket.
    #[error("DOCKER_HOST is {0:?}, which is not on this machine: mvm needs Docker's Unix socket")]
    Remote(String),
    /// A socket that nobody serves.
    #[error("no Docker daemon listens at {}, though its socket is there", .0.display())]
    Dead(PathBuf),
    /// A socket that this user may not open.
    #[error("permission denied for Docker's socket {}", .socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// The group that may open it, and whether the user is in it on paper but not in this login.
        group: Option<(String, bool)>,
    },
    /// Somebody else's socket.
    #[error("what listens at {} is not Docker", .0.display())]
    Other(PathBuf),
    /// A daemon that takes connections and does not answer.
    #[error("Docker at {} does not answer as it should: {detail}", .socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What it said or did.
        detail: String,
    },
    /// An agent that knows nothing of containers.
    #[error("the image's agent (mvm-guest {version}) cannot run in a container")]
    Agent {
        /// Its version.
        version: String,
    },
    /// The image's root file system cannot be imported.
    #[error(transparent)]
    Image(#[from] mvm_image::ImageError),
    /// A launch without a root.
    #[error("the VM has no root file system")]
    NoRoot,
    /// More configuration (environment, mostly) than a lifeline carries.
    #[error("the VM's configuration has {bytes} bytes; a container is given at most {most}")]
    Config {
        /// What it has.
        bytes: usize,
        /// What is taken.
        most: usize,
    },
    /// A container of that name that is another's.
    #[error("Docker has a container {0:?} that is not this mvm's")]
    Foreign(String),
    /// A container that was made for another folder.
    #[error("the VM's container looks for its host in {}, and the host is in {}", .container.display(), .host.display())]
    Moved {
        /// Where the container looks.
        container: PathBuf,
        /// Where the host is.
        host: PathBuf,
    },
    /// Docker refused, or went away.
    #[error("Docker cannot {action}: {detail}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What it said.
        detail: String,
    },
    /// The host's own side failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl DockerError {
    /// For an answer of Docker's.
    pub(super) fn refused(action: &'static str) -> impl Fn(bollard::errors::Error) -> Self {
        move |error| Self::Refused { action, detail: said(&error) }
    }

    /// What the machine lacks, for a daemon that cannot be used.
    pub(crate) fn lack(&self) -> Lack {
        Lack { why: self.to_string(), hint: self.hint() }
    }

    pub(super) fn io(action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// What Docker said, without the words of the library around it.
pub(super) fn said(error: &bollard::errors::Error) -> String {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().into(),
        Error::DockerStreamError { error } => error.trim().into(),
        other => mvm_core::Fault::unexpected("it does not answer", other).message,
    }
}

/// Whether Docker knows nothing by that name.
pub(super) fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

impl Diagnostic for DockerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Image(error) => error.kind(),
            Self::Agent { .. } | Self::NoRoot => ErrorKind::ImageInvalid,
            Self::Foreign(_) => ErrorKind::Busy,
            Self::Moved { .. } | Self::Config { .. } => ErrorKind::Usage,
            Self::NoSocket(_)
            | Self::Remote(_)
            | Self::Dead(_)
            | Self::Denied { .. }
            | Self::Other(_)
            | Self::Silent { .. }
            | Self::Refused { .. } => ErrorKind::BackendUnavailable,
            Self::Io { .. } => ErrorKind::Unexpected,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Image(error) => return error.hint(),
            Self::NoSocket(_) | Self::Dead(_) => {
                "start it (`systemctl start docker`), install it, or name its socket in DOCKER_HOST (unix://PATH)"
                    .into()
            }
            Self::Remote(_) => "unset DOCKER_HOST, or point it at a socket as unix:///var/run/docker.sock".into(),
            Self::Denied { group: Some((group, true)), .. } => {
                format!("you are in the group {group}, but not in this login: log in again, or run `newgrp {group}`")
            }
            Self::Denied { group: Some((group, false)), .. } => format!(
                "`sudo usermod -aG {group} \"$USER\"` and a new login let you in; who is in the group is as good as root"
            ),
            Self::Denied { group: None, .. } => "run a Docker of your own (rootless), or ask who owns this one".into(),
            Self::Silent { .. } | Self::Other(_) => "`docker version` shows whether others can talk to it".into(),
            Self::Agent { .. } => {
                "build the image again with this mvm, or run it as a VM with another --hypervisor".into()
            }
            Self::Config { .. } => "pass fewer or shorter variables (-e), or copy a file in with `cp`".into(),
            Self::Foreign(name) => format!("`docker rm {name}` removes it, if nobody wants it"),
            Self::Moved { .. } => "set MVM_RUNTIME_DIR, or XDG_RUNTIME_DIR, as it was when the VM was made".into(),
            Self::Refused { detail, .. } if detail.contains("no space left") => {
                "Docker's disk is full: `docker system df` shows what takes it".into()
            }
            Self::NoRoot | Self::Refused { .. } | Self::Io { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_why_not_has_its_advice() {
        let socket = PathBuf::from("/var/run/docker.sock");
        let denied = |group| DockerError::Denied { socket: socket.clone(), group };
        for (error, words) in [
            (DockerError::NoSocket(vec![socket.clone(), "/run/user/1/docker.sock".into()]), "systemctl start"),
            (DockerError::Remote("tcp://10.0.0.1:2375".into()), "unix://"),
            (denied(Some(("docker".into(), true))), "not in this login"),
            (denied(Some(("docker".into(), false))), "usermod -aG docker"),
            (denied(None), "rootless"),
        ] {
            assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
            assert!(error.hint().unwrap().contains(words), "{error}");
        }
    }
}
