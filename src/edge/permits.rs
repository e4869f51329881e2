//! How many connections there may be: in all, and from one client network.
//!
//! Counting is exact and outlives reloads; the bounds come with each request for a permit.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

const SHARDS: usize = 16;

/// The counters of all open client connections.
pub struct Permits {
    all: AtomicUsize,
    clients: Vec<Mutex<HashMap<IpAddr, usize>>>,
    hasher: RandomState,
}

/// The right to one connection, given back when dropped.
pub struct Permit {
    permits: Arc<Permits>,
    network: IpAddr,
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `server.limits.connections` are open.
    Everywhere,
    /// `server.limits.per_client` are open from this client's network.
    Client,
}

impl Full {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everywhere => "limit",
            Self::Client => "per_ip",
        }
    }
}

impl Permits {
    /// No connection is open.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let clients = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { all: AtomicUsize::new(0), clients, hasher: RandomState::new() })
    }

    fn shard(&self, network: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let at = usize::try_from(self.hasher.hash_one(network) % SHARDS as u64).unwrap_or(0);
        // Only counting happens under this lock.
        self.clients[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one connection from `peer`, if both bounds allow it. IPv6 clients count by their /64.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn take(self: &Arc<Self>, peer: IpAddr, all_max: usize, client_max: usize) -> Result<Permit, Full> {
        if self.all.fetch_add(1, Ordering::Relaxed) >= all_max {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Everywhere);
        }
        let network = network(peer);
        if let Err(full) = self.enter(network, client_max) {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(full);
        }
        Ok(Permit { permits: Arc::clone(self), network })
    }

    fn enter(&self, network: IpAddr, client_max: usize) -> Result<(), Full> {
        let mut shard = self.shard(network);
        let open = shard.get(&network).copied().unwrap_or(0);
        if open >= client_max {
            return Err(Full::Client);
        }
        shard.insert(network, open + 1);
        Ok(())
    }

    fn leave(&self, network: IpAddr) {
        let mut shard = self.shard(network);
        if let Some(open) = shard.get_mut(&network) {
            *open -= 1;
            if *open == 0 {
                shard.remove(&network);
            }
        }
    }

    /// The connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// The connection turns out to be that of `peer`: it counts for him from now on.
    ///
    /// # Errors
    /// When he has enough already.
    pub fn turns_out_to_be_of(&mut self, peer: IpAddr, client_max: usize) -> Result<(), Full> {
        let network = network(peer);
        self.permits.enter(network, client_max)?;
        self.permits.leave(self.network);
        self.network = network;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.leave(self.network);
        self.permits.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One household: an IPv4 address, or an IPv6 /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_network_cannot_take_all_connections() {
        let permits = Permits::new();
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held = vec![permits.take(peer("2001:db8::1"), 4, 2).ok().unwrap()];
        held.push(permits.take(peer("2001:db8::2"), 4, 2).ok().unwrap());
        assert_eq!(permits.take(peer("2001:db8::3"), 4, 2).err(), Some(Full::Client));
        held.push(permits.take(peer("192.0.2.1"), 4, 2).ok().unwrap());
        held.push(permits.take(peer("::ffff:192.0.2.1"), 4, 2).ok().unwrap());
        assert_eq!(permits.take(peer("192.0.2.1"), 9, 2).err(), Some(Full::Client), "mapped addresses count as IPv4");
        assert_eq!(permits.take(peer("192.0.2.2"), 4, 2).err(), Some(Full::Everywhere));
        held[0].turns_out_to_be_of(peer("192.0.2.9"), 1).unwrap();
        assert_eq!(held[1].turns_out_to_be_of(peer("192.0.2.9"), 1), Err(Full::Client));
        drop(held);
        assert_eq!(permits.open(), 0);
        assert!(permits.clients.iter().all(|shard| shard.lock().unwrap().is_empty()), "nothing is remembered");
    }
}
