//! A new connection to an endpoint: name, TCP, TLS where it speaks that, HTTP/1.1, within the time for connecting.

use crate::units::OriginAddr;
use crate::upstream::exchange::Connection;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use socket2::TcpKeepalive;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// After so long without a byte the other machine is asked whether it is there; as long again without a reply, and it is not.
const SILENCE: Duration = Duration::from_secs(15);

/// A socket to an endpoint.
pub enum Socket {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

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
    // A machine that lost its power, or a way that broke, says nothing; a process that works on an answer says nothing either,
    // but its kernel does. Without this a thread would be taken until the time for the answer is over, also when the machine
    // has long been back.
    let alive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 3).with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&alive).map_err(fail)?;
    Ok(stream)
}

/// Opens a connection. One to an endpoint that speaks TLS is opened only with `secure`.
///
/// # Errors
/// [`ConnectError`].
pub async fn open(
    addr: &OriginAddr,
    secure: Option<&Secure>,
    within: Duration,
) -> Result<Box<Connection>, ConnectError> {
    if !addr.tls() {
        let stream = tcp(addr, within).await?;
        return Ok(Box::new(Connection::new(Socket::Plain(stream))));
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
        Ok(stream) => Ok(Box::new(Connection::new(Socket::Tls(Box::new(stream?))))),
        Err(_) => Err(ConnectError::Timeout(addr.clone())),
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_that_is_gone_without_a_word_is_found_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = OriginAddr::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let stream = tcp(&addr, Duration::from_secs(10)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let within = socket.tcp_keepalive_time().unwrap()
            + socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(within, 2 * SILENCE);
    }
}
