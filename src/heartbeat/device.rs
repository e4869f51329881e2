//! An interface of this machine, as the kernel tells of it under `/sys/class/net`.

use std::io;

/// The number of an interface.
///
/// # Errors
/// There is no such interface.
pub fn index(device: &str) -> io::Result<u32> {
    read(device, "ifindex", |text| text.parse().ok())
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

fn read<T>(device: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/{what}"))
        .map_err(|_| io::Error::other(format!("there is no interface {device}")))?;
    parse(text.trim()).ok_or_else(|| io::Error::other(format!("{device} has no {what} of the usual kind")))
}
