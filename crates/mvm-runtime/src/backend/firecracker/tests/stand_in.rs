//! A server in Firecracker's place: it checks every request against the description of the API, and keeps the rules of
//! order that Firecracker keeps.

use super::super::api::Client;
use super::super::vmm::{API_SOCKET, VSOCK_SOCKET};
use super::description::Description;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The server; it ends with the test.
pub(super) struct StandIn {
    socket: PathBuf,
    seen: Rc<RefCell<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<String>,
    kernel: bool,
    started: bool,
    vsock: Option<std::os::unix::net::UnixListener>,
}

impl StandIn {
    pub(super) fn listen(folder: &Path) -> Self {
        let socket = folder.join(API_SOCKET);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (folder, shared) = (folder.to_path_buf(), seen.clone());
        tokio::task::spawn_local(async move {
            let api = Rc::new(Description::read());
            while let Ok((stream, _)) = listener.accept().await {
                let (api, seen, folder) = (api.clone(), shared.clone(), folder.clone());
                let serve = service_fn(move |request| answer(request, api.clone(), seen.clone(), folder.clone()));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                tokio::task::spawn_local(connection);
            }
        });
        Self { socket, seen }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// What was asked so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.borrow().requests.clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    api: Rc<Description>,
    seen: Rc<RefCell<Seen>>,
    folder: PathBuf,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let body: Option<Value> = (!bytes.is_empty()).then(|| serde_json::from_slice(&bytes).unwrap());
    let done = api
        .check_request(&method, &path, body.as_ref())
        .and_then(|()| seen.borrow_mut().apply(&method, &path, body.as_ref(), &folder));
    let (status, body) = match done {
        Ok(None) => (StatusCode::NO_CONTENT, String::new()),
        Ok(Some(body)) => (StatusCode::OK, body.to_string()),
        Err(fault) => (StatusCode::BAD_REQUEST, json!({ "fault_message": fault }).to_string()),
    };
    Ok(Response::builder().status(status).body(Full::new(body.into())).unwrap())
}

impl Seen {
    fn apply(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        folder: &Path,
    ) -> Result<Option<Value>, String> {
        self.requests.push(format!("{method} {path}"));
        match (method, path) {
            ("GET", "/") => {
                let state = if self.started { "Running" } else { "Not started" };
                return Ok(Some(json!({ "app_name": "x", "id": "x", "state": state, "vmm_version": "1.0" })));
            }
            ("PUT", _) if self.started => return Err("not after the start".into()),
            ("PUT", "/boot-source") => self.kernel = true,
            ("PUT", "/actions") if !self.kernel => return Err("there is no kernel".into()),
            ("PUT", "/actions") => self.started = true,
            ("PUT", "/vsock") => {
                let path = folder.join(body.and_then(|b| b["uds_path"].as_str()).unwrap_or(VSOCK_SOCKET));
                self.vsock = Some(std::os::unix::net::UnixListener::bind(path).map_err(|e| e.to_string())?);
            }
            _ => {}
        }
        Ok(None)
    }
}
