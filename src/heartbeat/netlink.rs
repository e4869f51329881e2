//! The few words of netlink that a pair needs: give an interface an address, take it away, reset TCP connections.
//!
//! Messages are made and read by pure functions on bytes; two small functions at the end talk to the kernel. Written by hand,
//! for it is five messages, and the crates for it bring a dozen others.

use crate::heartbeat::clients::Connection;
use rustix::net::AddressFamily;
use rustix::net::Protocol;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::bind;
use rustix::net::netlink;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::recv;
use rustix::net::send;
use rustix::net::socket_with;
use rustix::net::sockopt;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Adds or takes away an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds it; that it is there already is no error.
    Add,
    /// Takes it away; that it is not there is no error.
    Remove,
}

/// Gives the interface `index` the address, or takes it away; says whether anything had to be changed.
///
/// # Errors
/// What the kernel said: `EPERM` without `CAP_NET_ADMIN`.
pub fn change_address(change: Change, index: u32, address: IpAddr, prefix: u8) -> io::Result<bool> {
    let message = address_message(change, index, address, prefix);
    let answers = talk(None, &message)?;
    let code = answers.iter().find_map(|answer| error_code(answer)).unwrap_or(0);
    match (change, code) {
        (_, 0) => Ok(true),
        (Change::Add, EEXIST) | (Change::Remove, EADDRNOTAVAIL) => Ok(false),
        (_, code) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The addresses of this machine, each with the number of its interface.
///
/// # Errors
/// What the kernel said.
pub fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let answers = talk(None, &message(RTM_GETADDR, REQUEST | DUMP, &[0; ADDRESS_HEAD]))?;
    Ok(answers.iter().filter_map(|answer| address_of(answer)).collect())
}

/// The TCP connections of this machine whose own end is one of `addresses`.
///
/// # Errors
/// What the kernel said.
pub fn connections(addresses: &[IpAddr]) -> io::Result<Vec<Connection>> {
    let sockets = sockets(addresses, 1 << TCP_ESTABLISHED)?;
    Ok(sockets.iter().filter_map(|(family, socket)| ends_of(*family, socket)).collect())
}

/// Resets every TCP connection of this machine whose own end is one of `addresses`; says how many.
///
/// # Errors
/// What the kernel said: `EPERM` without `CAP_NET_ADMIN`, `EOPNOTSUPP` when it was built without `INET_DIAG_DESTROY`.
pub fn reset_connections(addresses: &[IpAddr]) -> io::Result<usize> {
    let mut reset = 0;
    for (family, socket) in sockets(addresses, 0xfff & !(1 << TCP_LISTEN))? {
        let answers = talk(Some(netlink::SOCK_DIAG), &destroy_message(family, &socket))?;
        match answers.iter().find_map(|answer| error_code(answer)).unwrap_or(0) {
            0 => reset += 1,
            // It ended by itself meanwhile.
            ENOENT => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
    Ok(reset)
}

/// The sockets whose own end is one of `addresses` and whose state is one of `states`, each with its family: a server that
/// listens for both families has IPv4 clients on sockets of IPv6.
fn sockets(addresses: &[IpAddr], states: u32) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let families = if addresses.iter().any(IpAddr::is_ipv4) { &[AF_INET, AF_INET6][..] } else { &[AF_INET6] };
    let mut found = Vec::new();
    for family in families {
        let listed = talk(Some(netlink::SOCK_DIAG), &list_sockets_message(*family, states))?;
        found.extend(listed.iter().filter_map(|line| Some((*family, socket_of(line, addresses)?.to_vec()))));
    }
    found.truncate(SOCKETS_MAX);
    Ok(found)
}

/// A message with its header.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&1_u32.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn address_message(change: Change, index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let mut body = vec![family, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&attribute(IFA_LOCAL, &octets));
    body.extend_from_slice(&attribute(IFA_ADDRESS, &octets));
    if family == AF_INET6 {
        // Without it the kernel looks for duplicates for a second before it uses the address (RFC 4862 5.4).
        body.extend_from_slice(&attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()));
    }
    match change {
        Change::Add => message(RTM_NEWADDR, REQUEST | ACK | CREATE | EXCL, &body),
        Change::Remove => message(RTM_DELADDR, REQUEST | ACK, &body),
    }
}

fn list_sockets_message(family: u8, states: u32) -> Vec<u8> {
    let mut body = vec![family, TCP, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(&[0; SOCKET_ID]);
    message(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, &body)
}

fn destroy_message(family: u8, socket: &[u8]) -> Vec<u8> {
    let mut body = vec![family, TCP, 0, 0];
    body.extend_from_slice(&u32::MAX.to_ne_bytes());
    body.extend_from_slice(socket);
    message(SOCK_DESTROY, REQUEST | ACK, &body)
}

/// The interface and the address that a line of the list of addresses tells of.
fn address_of(line: &[u8]) -> Option<(u32, IpAddr)> {
    if kind(line)? != RTM_NEWADDR {
        return None;
    }
    let head = line.get(HEADER..HEADER + ADDRESS_HEAD)?;
    let (family, index) = (*head.first()?, u32::from_ne_bytes(*head.last_chunk()?));
    // Of a point-to-point link the other end is the address, and this one local; IPv6 tells of a local one only then.
    let attributes = line.get(HEADER + ADDRESS_HEAD..)?;
    let found = |wanted| attributes_of(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let value = found(IFA_LOCAL).or_else(|| found(IFA_ADDRESS))?;
    let address = match family {
        AF_INET => IpAddr::from(*value.first_chunk::<4>()?),
        AF_INET6 => IpAddr::from(*value.first_chunk::<16>()?),
        _ => return None,
    };
    Some((index, address))
}

/// Attributes, each its kind and its value; what is cut off is left out.
fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (bytes.first_chunk::<2>()?, bytes.get(2..)?.first_chunk::<2>()?);
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind), value))
    })
}

/// The identity of the socket that a line of the list tells of, if its own end is one of `addresses`.
fn socket_of<'a>(message: &'a [u8], addresses: &[IpAddr]) -> Option<&'a [u8]> {
    if kind(message)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let family = *message.get(HEADER)?;
    let socket = message.get(HEADER + 4..HEADER + 4 + SOCKET_ID)?;
    addresses.contains(&ip_of(family, socket.get(4..20)?)?).then_some(socket)
}

/// The address in a field of a socket's identity; IPv4 on a socket of IPv6 is IPv4.
fn ip_of(family: u8, field: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        return Some(Ipv4Addr::from(*field.first_chunk::<4>()?).into());
    }
    Some(Ipv6Addr::from(*field.first_chunk::<16>()?).to_canonical())
}

/// Both ends of a connection.
fn ends_of(family: u8, socket: &[u8]) -> Option<Connection> {
    let end = |port: &[u8], ip: &[u8]| {
        Some(SocketAddr::new(ip_of(family, ip)?, u16::from_be_bytes(*port.first_chunk::<2>()?)))
    };
    Some(Connection {
        own: end(socket.get(..2)?, socket.get(4..20)?)?,
        peer: end(socket.get(2..4)?, socket.get(20..36)?)?,
    })
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*message.get(4..)?.first_chunk::<2>()?))
}

/// The code that an acknowledgement or an error carries; 0 is success.
fn error_code(message: &[u8]) -> Option<i32> {
    if kind(message)? != NLMSG_ERROR {
        return None;
    }
    Some(-i32::from_ne_bytes(*message.get(HEADER..)?.first_chunk::<4>()?))
}

/// The messages in what was received; what is cut off is left out.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        if length < HEADER {
            break;
        }
        let Some(message) = bytes.get(..length) else { break };
        found.push(message.to_vec());
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Sends one request and gathers its answers, up to the last. No protocol is `NETLINK_ROUTE`.
fn talk(protocol: Option<Protocol>, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = open(protocol)?;
    send(&socket, request, SendFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..READS_MAX {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for message in messages(&buffer[..length]) {
            let last = matches!(kind(&message), Some(NLMSG_ERROR | NLMSG_DONE));
            answers.push(message);
            if last {
                return Ok(answers);
            }
        }
    }
    Ok(answers)
}

fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // The kernel answers at once; whatever keeps it must not keep us for ever.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(1)))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const SOCKETS_MAX: usize = 65_536;
const READS_MAX: usize = 4096;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// Family, prefix, flags, scope, interface.
const ADDRESS_HEAD: usize = 8;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EADDRNOTAVAIL: i32 = 99;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_message_is_laid_out_as_the_kernel_reads_it() {
        let message = address_message(Change::Add, 7, "192.0.2.9".parse().unwrap(), 24);
        assert_eq!(message.len(), 16 + 8 + 8 + 8);
        assert_eq!(u32::from_ne_bytes(*message.first_chunk().unwrap()), 40);
        assert_eq!(kind(&message), Some(RTM_NEWADDR));
        assert_eq!(message[16..20], [AF_INET, 24, 0, 0]);
        assert_eq!(message[28..32], [192, 0, 2, 9]);
        let message = address_message(Change::Remove, 7, "2001:db8::9".parse().unwrap(), 64);
        assert_eq!(message.len(), 16 + 8 + 20 + 20 + 8);
        assert_eq!(kind(&message), Some(RTM_DELADDR));
    }

    #[test]
    fn addresses_of_this_machine_can_be_listed() {
        let own = addresses().unwrap();
        assert!(
            own.contains(&(crate::heartbeat::device::index("lo").unwrap(), "127.0.0.1".parse().unwrap())),
            "{own:?}"
        );
        // The kernel lists addresses in the form in which it is told of them.
        let (index, six) = (7, "2001:db8::9".parse().unwrap());
        assert_eq!(address_of(&address_message(Change::Add, index, six, 64)), Some((index, six)));
        assert_eq!(address_of(&address_message(Change::Remove, index, six, 64)), None);
    }

    #[test]
    fn connections_of_this_machine_can_be_listed() {
        let listener = std::net::TcpListener::bind("127.0.0.9:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = Connection { own: listener.local_addr().unwrap(), peer: client.local_addr().unwrap() };
        let found = connections(&["127.0.0.8".parse().unwrap(), "127.0.0.9".parse().unwrap()]).unwrap();
        assert!(found.contains(&ends), "{found:?}");
        assert!(connections(&["127.0.0.8".parse().unwrap()]).unwrap().is_empty());
        assert!(connections(&[]).unwrap().is_empty());
    }

    #[test]
    fn ipv4_clients_of_a_server_for_both_families_are_seen() {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        let own = SocketAddr::new("127.0.0.10".parse().unwrap(), listener.local_addr().unwrap().port());
        let client = std::net::TcpStream::connect(own).unwrap();
        let found = connections(&["::1".parse().unwrap(), own.ip()]).unwrap();
        assert!(found.contains(&Connection { own, peer: client.local_addr().unwrap() }), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = attributes_of(&bytes).count();
            for message in messages(&bytes) {
                let _ = error_code(&message);
                let _ = address_of(&message);
                let _ = socket_of(&message, &["192.0.2.1".parse().unwrap()]);
            }
        }
    }
}
