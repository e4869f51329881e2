//! The heartbeat's sockets: one UDP socket for each link of this voter, datagrams as they are.
//!
//! A node's n-th address is on link n, so a datagram to it leaves by our n-th socket and no other: a link that is cut is seen as
//! cut, whatever the routing table could do about it. What is in a datagram is not known here.

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A socket that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the heartbeat link {addr}: is it an address of this machine, and is the port free?")]
pub struct LinkError {
    /// Its address.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// The sockets of this voter, one for each of its links.
#[derive(Debug)]
pub struct Links {
    sockets: Vec<UdpSocket>,
}

impl Links {
    /// Opens a socket at each of `own`, in the order of the links.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open(own: &[SocketAddr]) -> Result<Self, LinkError> {
        let open = |addr: &SocketAddr| {
            let wrong = |source| LinkError { addr: *addr, source };
            let socket = UdpSocket::bind(addr).map_err(wrong)?;
            socket.set_nonblocking(true).map_err(wrong)?;
            Ok(socket)
        };
        Ok(Self { sockets: own.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Sends on link `link`. What cannot be sent is lost, like anything on a network.
    ///
    /// # Errors
    /// What the system said, for counting.
    pub fn send(&self, link: usize, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = self.sockets.get(link).ok_or(io::ErrorKind::NotFound)?;
        socket.send_to(datagram, to).map(drop)
    }

    /// The next datagram that is there, with its link and its sender; `None` when there is none now.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr, usize)> {
        for (link, socket) in self.sockets.iter().enumerate() {
            // An error is an ICMP answer to something that we sent before, or nothing to read.
            for _ in 0..ERRORS_MAX {
                match socket.recv_from(buffer) {
                    Ok((length, from)) => return Some((link, from, length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        None
    }

    /// Waits for a datagram, for `waker` to become readable, or for `within` to pass.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait(&self, waker: BorrowedFd<'_>, within: Duration) -> io::Result<()> {
        let sockets = self.sockets.iter().map(AsFd::as_fd).chain([waker]);
        let mut wanted: Vec<PollFd<'_>> = sockets.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut wanted, Timespec::try_from(within).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

const ERRORS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn two() -> (Links, Links, Vec<SocketAddr>) {
        let any: Vec<SocketAddr> = ["127.0.0.1:0", "127.0.0.2:0"].map(|addr| addr.parse().unwrap()).into();
        let (one, other) = (Links::open(&any).unwrap(), Links::open(&any).unwrap());
        let at = other.sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        (one, other, at)
    }

    #[test]
    fn datagrams_come_by_the_link_they_were_sent_on() {
        let (one, other, at) = two();
        let (_silent, waker) = UnixDatagram::pair().unwrap();
        let mut buffer = [0; 512];
        assert_eq!(other.receive(&mut buffer), None);
        for link in [1, 0] {
            one.send(link, at[link], b"beat").unwrap();
            other.wait(waker.as_fd(), Duration::from_secs(20)).unwrap();
            let (came, _, length) = other.receive(&mut buffer).unwrap();
            assert_eq!((came, &buffer[..length]), (link, &b"beat"[..]));
        }
        assert!(one.send(2, at[0], b"beat").is_err());
    }

    #[test]
    fn a_waker_ends_the_wait() {
        let (one, _, _) = two();
        let (wake, waker) = UnixDatagram::pair().unwrap();
        wake.send(b"!").unwrap();
        let began = std::time::Instant::now();
        one.wait(waker.as_fd(), Duration::from_secs(60)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_foreign_address_is_named() {
        let told = Links::open(&["192.0.2.77:694".parse().unwrap()]).unwrap_err().to_string();
        assert!(told.contains("192.0.2.77:694"), "{told}");
    }
}
