//! Rate limits per client network, by governor's GCRA.
//!
//! A [`RateLimit`] is kept by the name and the numbers it was made with: as long as a reload changes neither, every bucket
//! stays as full as it was. Idle buckets are forgotten on a timer, and the number of buckets has a bound; past it new
//! networks share one common bucket, so that an attacker with many addresses cannot fill the memory.

use crate::units::ClientAddr;
use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The most networks a limit remembers at a time: about 100 bytes each.
const KEYS_MAX: usize = 200_000;

/// The bucket that all networks share while there are too many: the unspecified address, which no client has.
const CROWD: u128 = 0;

/// What a limit allows, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// How many of an IPv4 address's bits make one client (1 to 32).
    pub v4_bits: u8,
    /// How many of an IPv6 address's bits make one client (1 to 128).
    pub v6_bits: u8,
    /// The time in which one request is earned back.
    pub period: Duration,
    /// The requests that may come at once.
    pub burst: NonZeroU32,
}

/// One limit with its buckets.
pub struct RateLimit {
    quotas: Quotas,
    buckets: RateLimiter<u128, DashMapStateStore<u128>, DefaultClock>,
    keys: AtomicUsize,
    clock: DefaultClock,
}

/// The client must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Until when, from now; at least a second, for `Retry-After` counts in seconds.
    pub retry_after: Duration,
}

impl RateLimit {
    /// A limit whose buckets are all full.
    #[must_use]
    pub fn new(quotas: Quotas) -> Self {
        let quota = Quota::with_period(quotas.period.max(Duration::from_nanos(1)))
            .unwrap_or_else(|| Quota::per_second(quotas.burst))
            .allow_burst(quotas.burst);
        let clock = DefaultClock::default();
        Self { quotas, buckets: RateLimiter::dashmap(quota), keys: AtomicUsize::new(0), clock }
    }

    /// The numbers it was made with.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// Takes one request from the bucket of `client`'s network.
    ///
    /// # Errors
    /// [`TooMany`] when the bucket is empty.
    pub fn check(&self, client: ClientAddr) -> Result<(), TooMany> {
        self.buckets.check_key(&self.key(client.0)).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            TooMany { retry_after: wait.max(Duration::from_secs(1)) }
        })
    }

    /// Forgets full buckets; call it every few seconds. Gives the number of buckets that are left.
    pub fn forget_idle(&self) -> usize {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
        let keys = self.buckets.len();
        self.keys.store(keys, Ordering::Relaxed);
        keys
    }

    /// The networks remembered at the last clean-up.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    fn key(&self, address: IpAddr) -> u128 {
        let key = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.quotas.v4_bits.min(32))).unwrap_or(0);
                // Above the 128 bits of an IPv6 network nothing is free, but ::ffff:0:0/96 is IPv4's own.
                0xffff_0000_0000 | u128::from(v4.to_bits() & kept)
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.quotas.v6_bits.min(128))).unwrap_or(0);
                v6.to_bits() & kept
            }
        };
        // Counting a DashMap locks every shard, so the number is that of the last clean-up.
        if self.keys.load(Ordering::Relaxed) > KEYS_MAX { CROWD } else { key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(v6_bits: u8) -> RateLimit {
        let burst = NonZeroU32::new(3).unwrap();
        RateLimit::new(Quotas { v4_bits: 32, v6_bits, period: Duration::from_secs(3600), burst })
    }

    fn client(text: &str) -> ClientAddr {
        ClientAddr(text.parse().unwrap())
    }

    #[test]
    fn a_client_network_has_one_bucket_and_is_told_when_to_come_back() {
        let limit = limit(56);
        for address in ["2001:db8:0:1::1", "2001:db8:0:2::2", "2001:db8:0:ff::3"] {
            limit.check(client(address)).unwrap();
        }
        let refused = limit.check(client("2001:db8:0:3::4")).unwrap_err();
        assert!(refused.retry_after > Duration::from_secs(3000) && refused.retry_after <= Duration::from_secs(3600));
        limit.check(client("2001:db8:0:100::1")).unwrap();
        limit.check(client("192.0.2.1")).unwrap();
        limit.check(client("::ffff:192.0.2.1")).unwrap();
        limit.check(client("192.0.2.1")).unwrap();
        limit.check(client("192.0.2.1")).unwrap_err();
        limit.check(client("192.0.2.2")).unwrap();
        assert_eq!(limit.forget_idle(), 4);
    }

    #[test]
    fn too_many_networks_share_one_bucket_instead_of_the_memory() {
        let limit = limit(128);
        limit.keys.store(KEYS_MAX + 1, Ordering::Relaxed);
        for at in 0..3 {
            limit.check(client(&format!("192.0.2.{at}"))).unwrap();
        }
        limit.check(client("192.0.2.9")).unwrap_err();
    }
}
