//! A new connection to an endpoint: name, TCP, TLS where it speaks that, HTTP/1.1, within the time for connecting.

use crate::units::OriginAddr;
use crate::upstream::body::RequestBody;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

/// The most fields of an answer's head.
const HEADERS_MAX: usize = 200;

/// The most bytes of an answer's head, and of what is buffered of its body.
const BUFFER_MAX: usize = 128 * 1024;

/// How endpoints that speak TLS are believed.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The authorities, and our own certificate.
    pub config: Arc<ClientConfig>,
    /// The name that their certificates must have, if not the endpoint's own.
    pub name: Option<ServerName<'static>>,
}

impl PartialEq for Secure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl Eq for Secure {}

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
    /// The endpoint could not show that it is the right one, or would not have us.
    #[error("begin TLS with {addr}")]
    Tls {
        /// The endpoint.
        addr: OriginAddr,
        /// What went wrong.
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

/// Opens a connection that speaks HTTP/1.1, driven by a task of the current runtime. One to an endpoint that speaks TLS is
/// opened only with `secure`.
///
/// # Errors
/// [`ConnectError`].
pub async fn open(
    addr: &OriginAddr,
    secure: Option<&Secure>,
    within: Duration,
) -> Result<SendRequest<RequestBody>, ConnectError> {
    if !addr.tls() {
        return begin(addr, tcp(addr, within).await?).await;
    }
    let connecting = async {
        let stream = tcp(addr, within).await?;
        let fail = |source| ConnectError::Tls { addr: addr.clone(), source };
        let Some(secure) = secure else { return Err(fail(io::ErrorKind::Unsupported.into())) };
        let name = match &secure.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(addr.host().to_owned())
                .map_err(|bad| fail(io::Error::new(io::ErrorKind::InvalidInput, bad)))?,
        };
        TlsConnector::from(Arc::clone(&secure.config)).connect(name, stream).await.map_err(fail)
    };
    match tokio::time::timeout(within, connecting).await {
        Ok(stream) => begin(addr, stream?).await,
        Err(_) => Err(ConnectError::Timeout(addr.clone())),
    }
}

async fn begin<S>(addr: &OriginAddr, stream: S) -> Result<SendRequest<RequestBody>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_MAX)
        .max_header_size(BUFFER_MAX)
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
