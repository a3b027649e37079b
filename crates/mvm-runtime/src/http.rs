//! HTTP over a Unix socket: one request, one bounded answer.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 256 * 1024;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Sends a request to the server that listens at a socket; `body` is JSON. The answer has to come within `limit`.
pub(crate) async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
    limit: Duration,
) -> io::Result<Answer> {
    let stream = crate::unix::connect(socket)?;
    tokio::time::timeout(limit, converse(TokioIo::new(stream), method, path, body))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")))
}

async fn converse(
    stream: TokioIo<tokio::net::UnixStream>,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    request = request.header(header::ACCEPT, "application/json");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(io::Error::other)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?.to_bytes();
        // The connection ends with its only sender.
        drop(sender);
        Ok(Answer { status, body })
    };
    // The connection moves bytes for as long as it is polled.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Asks a server that answers with these bytes and closes.
    async fn answer_to(bytes: Vec<u8>) -> (io::Result<Answer>, String) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = crate::unix::listen(&socket).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            String::from_utf8_lossy(&request[..n]).into_owned()
        };
        let body = Some(br#"{"a":1}"#.to_vec());
        tokio::join!(ask(&socket, Method::PUT, "/x", body, Duration::from_secs(20)), serve)
    }

    #[tokio::test]
    async fn a_request_and_its_answer() {
        let (answer, request) = answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec()).await;
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hi"[..]));
        assert!(request.starts_with("PUT /x HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    }

    #[tokio::test]
    async fn a_flood_and_an_end_in_the_middle_are_errors() {
        let mut flood = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        flood.resize(MAX_ANSWER + 1000, b'x');
        assert!(answer_to(flood).await.0.is_err());
        assert!(answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi".to_vec()).await.0.is_err());
        assert!(answer_to(b"no HTTP\r\n\r\n".to_vec()).await.0.is_err());
    }
}
