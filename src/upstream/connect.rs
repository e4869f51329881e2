//! A new connection to an endpoint: name, TCP, HTTP/1.1, each within the time for connecting.

use crate::units::OriginAddr;
use crate::upstream::body::RequestBody;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tracing::debug;

/// The most fields of an answer's head.
const HEADERS_MAX: usize = 200;

/// The most bytes of an answer's head, and of what is buffered of its body.
const BUFFER_MAX: usize = 128 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("connect to {0}: no answer in time")]
    Timeout(OriginAddr),
    /// The name is not known, the port is closed, the way is blocked.
    #[error("connect to {addr}")]
    Io {
        /// The endpoint.
        addr: OriginAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// hyper would not have it.
    #[error("begin HTTP with {addr}")]
    Http {
        /// The endpoint.
        addr: OriginAddr,
        /// What hyper said.
        #[source]
        source: hyper::Error,
    },
}

/// Opens a TCP connection.
///
/// # Errors
/// [`ConnectError`].
pub async fn tcp(addr: &OriginAddr, within: Duration) -> Result<TcpStream, ConnectError> {
    let fail = |source| ConnectError::Io { addr: addr.clone(), source };
    let connecting = async {
        if let Ok(ip) = addr.host().parse::<IpAddr>() {
            return TcpStream::connect(SocketAddr::new(ip, addr.port())).await;
        }
        TcpStream::connect((addr.host(), addr.port())).await
    };
    let stream = match tokio::time::timeout(within, connecting).await {
        Ok(connected) => connected.map_err(fail)?,
        Err(_) => return Err(ConnectError::Timeout(addr.clone())),
    };
    stream.set_nodelay(true).map_err(fail)?;
    Ok(stream)
}

/// Opens a connection that speaks HTTP/1.1, driven by a task of the current runtime.
///
/// # Errors
/// [`ConnectError`].
pub async fn open(addr: &OriginAddr, within: Duration) -> Result<SendRequest<RequestBody>, ConnectError> {
    let stream = tcp(addr, within).await?;
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_MAX)
        .handshake::<_, RequestBody>(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { addr: addr.clone(), source })?;
    let addr = addr.clone();
    tokio::spawn(async move {
        // What breaks a connection is told to the request that was on it; an idle one that breaks is of no account.
        if let Err(error) = connection.with_upgrades().await {
            debug!(endpoint = %addr, %error, "connection to origin ended");
        }
    });
    Ok(sender)
}
