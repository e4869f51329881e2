//! An interface of this machine, as the kernel tells of it.

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::netdevice::name_to_index;
use rustix::net::socket_with;
use std::io;

/// The number of an interface.
///
/// # Errors
/// There is no such interface.
pub fn index(device: &str) -> io::Result<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match name_to_index(socket, device) {
        Err(Errno::NODEV) => Err(absent(device)),
        index => Ok(index?),
    }
}

/// The hardware address of an interface.
///
/// # Errors
/// There is no such interface, or it has none of six bytes: a tunnel, a serial line.
pub fn mac(device: &str) -> io::Result<[u8; 6]> {
    read(device, "address", |text| {
        let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes?.try_into().ok()
    })
}

/// Whether it can carry packets: it is up, and its cable is, as far as it can tell.
///
/// # Errors
/// There is no such interface.
pub fn is_up(device: &str) -> io::Result<bool> {
    // RFC 2863 3.1.14: a loopback or a tunnel does not know.
    read(device, "operstate", |text| Some(matches!(text, "up" | "unknown")))
}

fn read<T>(device: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/{what}")).map_err(|_| absent(device))?;
    parse(text.trim()).ok_or_else(|| io::Error::other(format!("{device} has no {what} of the usual kind")))
}

fn absent(device: &str) -> io::Error {
    io::Error::other(format!("there is no interface {device}"))
}
