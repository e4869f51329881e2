//! The clients of the service address, as the active tells the other member of them, and what that does with it.
//!
//! When a machine freezes, or loses its power while a client waits for an answer that its kernel had acknowledged, the client
//! learns of nothing: it waits for an answer that never comes, a ZEO client for a minute, until its next keep-alive. So whoever
//! takes the address over sends each connection of the other member a bare acknowledgement. The client answers with its own
//! numbers to the address, which is ours now; our kernel knows no such connection, and resets it with these.
//!
//! The list is pure bytes here, sealed as heartbeats are. One that is lost, late or replayed costs a client that minute, and
//! nothing else: a connection that is not there any more is answered with a reset to nobody, one that is ours goes on.

use crate::heartbeat::machine::message::KeyRing;
use crate::heartbeat::machine::names::ClusterName;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use std::io;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

/// A connection to the service address, as its member sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The service's end.
    pub own: SocketAddr,
    /// The client's.
    pub peer: SocketAddr,
}

/// The connections that the other member has told of.
#[derive(Debug, Default)]
pub struct Clients {
    parts: Mutex<Vec<Vec<Connection>>>,
}

impl Clients {
    /// One part of the list, in place of what was told of it before.
    pub fn learn(&self, part: Part) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.resize(usize::from(part.of), Vec::new());
        if let Some(told) = parts.get_mut(usize::from(part.number)) {
            *told = part.connections;
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Connection> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).concat()
    }
}

/// A part of a list, as large as a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which, from 0.
    pub number: u8,
    /// Of how many.
    pub of: u8,
    /// What is in it.
    pub connections: Vec<Connection>,
}

/// The datagrams that tell of `connections`; of those past the bound they tell nothing.
#[must_use]
pub fn encode(connections: &[Connection], keys: &KeyRing, cluster: &ClusterName) -> Vec<Vec<u8>> {
    let chunks: Vec<&[Connection]> = connections.chunks(PART_MAX).take(PARTS_MAX).collect();
    let parts = u8::try_from(chunks.len()).unwrap_or(u8::MAX);
    let datagram = |(part, chunk): (u8, &&[Connection])| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[VERSION, part, parts, 0]);
        bytes.extend_from_slice(cluster.bytes());
        for connection in *chunk {
            for end in [connection.own, connection.peer] {
                bytes.extend_from_slice(&mapped(end.ip()).octets());
                bytes.extend_from_slice(&end.port().to_be_bytes());
            }
        }
        let seal = keys.seal(&bytes);
        bytes.extend_from_slice(&seal);
        bytes
    };
    (0..).zip(&chunks).map(datagram).collect()
}

/// Reads such a datagram; nothing when it is none of ours.
#[must_use]
pub fn decode(datagram: &[u8], keys: &KeyRing, cluster: &ClusterName) -> Option<Part> {
    let (text, seal) = datagram.split_at_checked(datagram.len().checked_sub(SEAL)?)?;
    let [version, number, of, _] = *text.strip_prefix(&MAGIC)?.first_chunk()?;
    let entries = text.get(HEAD..)?;
    let sound = version == VERSION && number < of && usize::from(of) <= PARTS_MAX;
    let sound = sound && entries.len() % ENTRY == 0 && entries.len() / ENTRY <= PART_MAX;
    if !sound || text.get(8..HEAD)? != cluster.bytes() || !keys.opens(text, seal) {
        return None;
    }
    let connections: Option<Vec<Connection>> = entries
        .chunks_exact(ENTRY)
        .map(|entry| Some(Connection { own: end(entry.get(..END)?)?, peer: end(entry.get(END..)?)? }))
        .collect();
    Some(Part { number, of, connections: connections? })
}

/// Whether a datagram means to be one of these.
#[must_use]
pub fn is_list(datagram: &[u8]) -> bool {
    datagram.starts_with(&MAGIC)
}

/// Makes the clients of `connections` ask about them: for `address`, which must be ours by now.
///
/// # Errors
/// What the system said: `EPERM` without `CAP_NET_RAW`.
pub fn tickle(address: IpAddr, connections: &[Connection]) -> io::Result<()> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
    // It would be given all that TCP receives.
    socket.set_recv_buffer_size(0)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    for connection in connections.iter().filter(|connection| connection.own.ip() == address) {
        let peer = SocketAddr::new(connection.peer.ip(), 0);
        socket.send_to(&acknowledgement(*connection), &peer.into())?;
    }
    Ok(())
}

/// A TCP segment that acknowledges nothing that was ever sent (RFC 9293 3.10.7.4: it is answered with the right numbers).
fn acknowledgement(connection: Connection) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&connection.own.port().to_be_bytes());
    segment[2..4].copy_from_slice(&connection.peer.port().to_be_bytes());
    // Five words of header; ACK.
    (segment[12], segment[13]) = (5 << 4, 0x10);
    let sum = checksum(connection, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The sum over pseudo-header and segment. The two kinds of pseudo-header differ only by zeros.
fn checksum(connection: Connection, segment: &[u8; 20]) -> u16 {
    let mut bytes = Vec::with_capacity(60);
    for ip in [connection.own.ip(), connection.peer.ip()] {
        match ip {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
    }
    bytes.extend_from_slice(&[0, 6, 0, 20]);
    bytes.extend_from_slice(segment);
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn end(bytes: &[u8]) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical();
    Some(SocketAddr::new(ip, u16::from_be_bytes(*bytes.last_chunk::<2>()?)))
}

const MAGIC: [u8; 4] = *b"tgCL";
const VERSION: u8 = 1;
const HEAD: usize = 4 + 4 + 32;
const SEAL: usize = 32;
const END: usize = 16 + 2;
const ENTRY: usize = 2 * END;

/// As many as an Ethernet frame carries.
const PART_MAX: usize = 36;
/// 1152 clients; a large site has a few dozen.
const PARTS_MAX: usize = 32;

/// The longest of these datagrams.
pub const LONGEST: usize = HEAD + PART_MAX * ENTRY + SEAL;

const _: () = assert!(LONGEST <= 1_400, "it fits into one frame, tunnels included");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(byte: u8) -> KeyRing {
        KeyRing::new(&[&[byte; 32]]).unwrap()
    }

    fn cluster() -> ClusterName {
        ClusterName::parse("test").unwrap()
    }

    fn connections(count: u16) -> Vec<Connection> {
        let own = "192.0.2.10:8100".parse().unwrap();
        let peer = |port| SocketAddr::new("198.51.100.7".parse().unwrap(), port);
        (1..=count).map(|port| Connection { own, peer: peer(port) }).collect()
    }

    #[test]
    fn a_long_list_comes_in_parts_and_a_shorter_one_replaces_it() {
        let clients = Clients::default();
        for count in [100, 36, 1] {
            let datagrams = encode(&connections(count), &keys(1), &cluster());
            assert!(datagrams.iter().all(|datagram| datagram.len() <= LONGEST && is_list(datagram)));
            for datagram in datagrams {
                clients.learn(decode(&datagram, &keys(1), &cluster()).unwrap());
            }
            assert_eq!(clients.all(), connections(count));
        }
    }

    #[test]
    fn a_list_is_bounded_and_both_kinds_of_addresses_come_through() {
        let bounded: usize = PARTS_MAX * PART_MAX;
        assert_eq!(encode(&connections(5_000), &keys(1), &cluster()).len() * PART_MAX, bounded);
        let six = Connection { own: "[2001:db8::1]:8100".parse().unwrap(), peer: "[2001:db8::2]:9".parse().unwrap() };
        let told = encode(&[six], &keys(1), &cluster());
        assert_eq!(decode(&told[0], &keys(1), &cluster()).unwrap().connections, [six]);
    }

    #[test]
    fn a_list_that_is_not_sealed_with_our_key_for_our_pair_is_none() {
        let told = encode(&connections(2), &keys(1), &cluster()).remove(0);
        assert_eq!(decode(&told, &keys(2), &cluster()), None);
        assert_eq!(decode(&told, &keys(1), &ClusterName::parse("other").unwrap()), None);
        for at in 0..told.len() {
            let mut changed = told.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed, &keys(1), &cluster()), None, "byte {at}");
            assert_eq!(decode(&told[..at], &keys(1), &cluster()), None, "{at} bytes");
        }
    }

    #[test]
    fn a_tickle_is_an_acknowledgement_with_a_good_sum() {
        let connection = connections(1)[0];
        let segment = acknowledgement(connection);
        assert_eq!((segment[..2].to_vec(), segment[13]), (8100_u16.to_be_bytes().to_vec(), 0x10));
        assert_eq!(checksum(connection, &segment), 0, "a sum over itself");
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_without_a_panic(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes, &keys(1), &cluster()), None);
        }

        #[test]
        fn any_sealed_text_is_read_without_a_panic(rest: Vec<u8>) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&rest);
            let seal = keys(1).seal(&bytes);
            bytes.extend_from_slice(&seal);
            let _ = decode(&bytes, &keys(1), &cluster());
        }
    }
}
