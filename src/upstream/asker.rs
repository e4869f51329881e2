//! For whom a thread is wanted: what the queue and the choice of an endpoint go by.

use crate::telemetry::metrics::Visitor;
use crate::units::ClientAddr;
use crate::upstream::machine::queue::Class;
use crate::upstream::machine::queue::ClientKey;
use std::hash::BuildHasher;
use std::net::IpAddr;

/// For whom a thread is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Who counts as one client: an IPv4 address, an IPv6 /56.
    pub client: ClientKey,
    /// Who exactly: the client and his login. One office is one client, but its editors write at different endpoints.
    pub who: ClientKey,
    /// How urgent.
    pub class: Class,
    /// Of the path, for choosing by it.
    pub hash: u64,
    /// Whether the request may change something: its client is then served by the same endpoint for a while.
    pub writes: bool,
    /// Whether it is for a scale of an image, for a visitor: few of those are asked for at once.
    pub scale: bool,
    /// Whether it is worth waiting until an endpoint that has just gone away is back, or known to be away: not where something
    /// is at hand that can be served instead.
    pub patient: bool,
    /// The endpoint that served its client before, as his cookie calls it.
    pub way: Option<u64>,
}

impl Class {
    /// The word in metrics.
    #[must_use]
    pub fn visitor(self) -> Visitor {
        match self {
            Self::Editor => Visitor::Editor,
            Self::Anonymous => Visitor::Anonymous,
            Self::Background => Visitor::Background,
        }
    }
}

impl Asker {
    /// A request of `client`, logged in with `login`, for `path`.
    #[must_use]
    pub fn new(client: ClientAddr, login: Option<&[u8]>, class: Class, path: &str, writes: bool) -> Self {
        let number = match client.0 {
            IpAddr::V4(addr) => u64::from(addr.to_bits()),
            // The upper half holds the network; no IPv4 address collides with one, for those have no upper bits.
            IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 & !0xff,
        };
        let hasher = foldhash::fast::FixedState::with_seed(0);
        let who = login.map_or(number, |login| hasher.hash_one((number, login)));
        Self {
            client: ClientKey(number),
            who: ClientKey(who),
            class,
            hash: hasher.hash_one(path),
            writes,
            scale: false,
            patient: true,
            way: None,
        }
    }
}
