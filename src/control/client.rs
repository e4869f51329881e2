//! Speaking to a running tidegate over its admin socket.

use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// An answer is not larger than this.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// An order may take as long as a reload takes.
const WITHIN: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no tidegate answers on {}; is it running, is --socket its admin.socket, and may you write to it?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody is, but does not answer.
    #[error("tidegate did not answer on {} within 30 s", .0.display())]
    Silent(PathBuf),
    /// Or not properly.
    #[error("speak with tidegate on {}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Sends one request and gives status and text of the answer.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(socket: &Path, method: Method, target: &str) -> Result<(StatusCode, String), ClientError> {
    let path = socket.to_owned();
    match tokio::time::timeout(WITHIN, exchange(socket, method, target)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Silent(path)),
    }
}

async fn exchange(socket: &Path, method: Method, target: &str) -> Result<(StatusCode, String), ClientError> {
    let unreachable = |source| ClientError::Unreachable { path: socket.to_owned(), source };
    let broken = |source: Box<dyn Error + Send + Sync>| ClientError::Broken { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(target).header(header::HOST, "admin");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(error.into()))?;
    let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(broken)?;
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
