//! Listening sockets: bound by control before a configuration is published, accepted from by the workers.
//!
//! Each worker has a socket of its own per address (`SO_REUSEPORT`), so the kernel spreads connections and the workers
//! share nothing. A listener that leaves the configuration stops accepting; its connections go on.

use crate::service::Inherited;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockAddr;
use socket2::Socket;
use socket2::Type;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;

/// Connections that wait to be accepted, per worker.
const BACKLOG: i32 = 4096;

/// Where visitors are expected, and how they speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Address and port.
    pub addr: SocketAddr,
    /// Whether connections begin with a TLS handshake.
    pub tls: bool,
}

/// A place that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {}{addr} ({remedy})", if *tls { "https://" } else { "" })]
pub struct BindError {
    addr: SocketAddr,
    tls: bool,
    remedy: &'static str,
    #[source]
    source: io::Error,
}

/// Binds one socket per worker to `place`, all to the same port even if it is 0.
///
/// A socket that the service manager has opened there is taken over, and shared by all workers.
///
/// `[::]` takes IPv4 as well, and falls back to `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// When the address is taken, not of this machine, or needs a privilege.
pub fn bind(place: Place, workers: usize, inherited: &Inherited) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source: io::Error| BindError { addr: place.addr, tls: place.tls, remedy: remedy(&source), source };
    if let Some(socket) = inherited.take(place.addr) {
        let copies = (1..workers).map(|_| socket.try_clone()).collect::<io::Result<Vec<TcpListener>>>();
        let mut sockets = copies.map_err(fail)?;
        sockets.push(socket);
        return Ok(sockets);
    }
    let first = match bind_first(place.addr) {
        Err(error) if place.addr.is_ipv6() && place.addr.ip().is_unspecified() && no_ipv6(&error) => {
            bind_first(SocketAddr::from((Ipv4Addr::UNSPECIFIED, place.addr.port())))
        }
        other => other,
    };
    let first = first.map_err(fail)?;
    let addr = first.local_addr().map_err(fail)?;
    let mut sockets = vec![first];
    while sockets.len() < workers.max(1) {
        sockets.push(bind_one(addr, true).map_err(fail)?);
    }
    Ok(sockets)
}

/// The first socket: bound once without `SO_REUSEPORT`, which fails when anybody else listens there; else two processes
/// of one user would share the port without a word.
fn bind_first(addr: SocketAddr) -> io::Result<TcpListener> {
    if addr.port() != 0 {
        drop(bind_one(addr, false)?);
    }
    bind_one(addr, true)
}

fn bind_one(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT and EADDRNOTAVAIL: built without IPv6, or switched off.
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something else listens there; `ss -ltnp` shows what",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; the systemd unit in conf/ grants it"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => "see the cause",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_refused_with_a_remedy() {
        let any = Place { addr: "127.0.0.1:0".parse().unwrap(), tls: false };
        let nothing = Inherited::default();
        let held = bind(any, 2, &nothing).unwrap();
        assert_eq!(held[0].local_addr().unwrap(), held[1].local_addr().unwrap());
        let taken = Place { addr: held[0].local_addr().unwrap(), tls: true };
        let again = bind(taken, 1, &nothing).unwrap_err();
        assert!(again.to_string().contains("https://127.0.0.1:") && again.to_string().contains("ss -ltnp"), "{again}");
    }
}
