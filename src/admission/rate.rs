//! Rate limits by client, by governor's GCRA, and what is charged to them afterwards.
//!
//! A [`RateLimit`] is kept by the name and the numbers it was made with: as long as a reload changes neither, every bucket
//! stays as full as it was. Buckets are found by a keyed hash, so nobody can aim at another's. Their number has a bound that
//! is never passed: idle ones are forgotten first, and when there are still too many, new clients share a few buckets, so
//! that an attacker with many addresses or cookies fills no memory.

use crate::clock;
use crate::units::ClientAddr;
use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::clock::DefaultClock;
use governor::nanos::Nanos;
use governor::state::StateStore;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// The most buckets of one limit: about 40 bytes each.
const BUCKETS_MAX: usize = 200_000;

/// Locks among which a limit's buckets are spread.
const SHARDS: usize = 16;

/// The bucket of each shard that clients share while there are too many.
const CROWD: u64 = 0;

/// How often at most a full shard is searched for idle buckets.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);

/// The longest debt: who has cost more than that has not more to wait.
const DEBT_MAX: Duration = Duration::from_secs(600);

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// The time in which one unit is earned back.
    pub period: Duration,
    /// The units that may be spent at once.
    pub burst: NonZeroU32,
}

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// The networks that count as one client each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// How many of an IPv4 address's bits make one client (1 to 32).
    pub v4_bits: u8,
    /// How many of an IPv6 address's bits make one client (1 to 128).
    pub v6_bits: u8,
}

/// One limit with its buckets.
pub struct RateLimit {
    quotas: Quotas,
    limiter: RateLimiter<Key, Buckets, DefaultClock>,
    /// The same that the limiter holds: for charges, which it does not know.
    buckets: Buckets,
    hasher: RandomState,
    keys: AtomicUsize,
    clock: DefaultClock,
}

/// The client must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Until when, from now; at least a second, for `Retry-After` counts in seconds.
    pub retry_after: Duration,
}

impl Prefix {
    /// The network of `address`; IPv4 and IPv6 never give the same.
    #[must_use]
    pub fn network(self, address: IpAddr) -> u128 {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.v4_bits.min(32))).unwrap_or(0);
                // Above the 128 bits of an IPv6 network nothing is free, but ::ffff:0:0/96 is IPv4's own.
                0xffff_0000_0000 | u128::from(v4.to_bits() & kept)
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.v6_bits.min(128))).unwrap_or(0);
                v6.to_bits() & kept
            }
        }
    }
}

impl RateLimit {
    /// A limit whose buckets are all full.
    #[must_use]
    pub fn new(quotas: Quotas) -> Self {
        let quota = Quota::with_period(quotas.period.max(Duration::from_nanos(1)))
            .unwrap_or_else(|| Quota::per_second(quotas.burst))
            .allow_burst(quotas.burst);
        let clock = DefaultClock::default();
        let buckets = Buckets::new(BUCKETS_MAX);
        let limiter = RateLimiter::new(quota, buckets.clone(), clock.clone());
        Self { quotas, limiter, buckets, hasher: RandomState::new(), keys: AtomicUsize::new(0), clock }
    }

    /// The numbers it was made with.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// The bucket of `client`'s network, at one site or everywhere.
    #[must_use]
    pub fn of_network(&self, site: Option<&str>, prefix: Prefix, client: ClientAddr) -> Key {
        self.key((0_u8, site, prefix.network(client.0)))
    }

    /// The bucket of whoever shows `value`, at one site or everywhere.
    #[must_use]
    pub fn of_value(&self, site: Option<&str>, value: &[u8]) -> Key {
        self.key((1_u8, site, value))
    }

    fn key(&self, whose: impl std::hash::Hash) -> Key {
        Key(self.hasher.hash_one(whose).max(1))
    }

    /// Takes one unit from a bucket.
    ///
    /// # Errors
    /// [`TooMany`] when it is empty.
    pub fn check(&self, key: Key) -> Result<(), TooMany> {
        self.limiter.check_key(&key).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            TooMany { retry_after: wait.max(Duration::from_secs(1)) }
        })
    }

    /// Takes `units` from a bucket afterwards, whether they are in it or not: what is owed must be earned first.
    pub fn charge(&self, key: Key, units: u64) {
        let cost = self.quotas.period.as_nanos().saturating_mul(u128::from(units));
        let cost = Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        self.buckets.charge(key, cost.min(DEBT_MAX));
    }

    /// Forgets full buckets; call it every few seconds. Gives the number of buckets that are left.
    pub fn forget_idle(&self) -> usize {
        let keys = self.buckets.forget_idle();
        self.keys.store(keys, Ordering::Relaxed);
        keys
    }

    /// The buckets at the last clean-up.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }
}

/// The buckets: of each the time at which it will be full again, in nanoseconds since the limit was made.
#[derive(Clone)]
struct Buckets {
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    shard_max: usize,
    began: Instant,
}

#[derive(Default)]
struct Shard {
    full_at: HashMap<Key, u64>,
    swept: u64,
}

impl Buckets {
    fn new(max: usize) -> Self {
        Self { shards: Arc::default(), shard_max: (max / SHARDS).max(1), began: clock::mono() }
    }

    fn now(&self) -> u64 {
        u64::try_from(clock::mono().saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(key.0 % SHARDS as u64).unwrap_or(0);
        // Only counting happens under this lock.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, key: Key, cost: Duration) {
        let now = self.now();
        let mut shard = self.shard(key);
        let key = shard.place(key, self.shard_max, now);
        let full_at = shard.full_at.entry(key).or_insert(now);
        let most = now.saturating_add(2 * u64::try_from(DEBT_MAX.as_nanos()).unwrap_or(u64::MAX / 2));
        let cost = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        *full_at = (*full_at).max(now).saturating_add(cost).min(most);
    }

    fn forget_idle(&self) -> usize {
        let now = self.now();
        let shards = self.shards.iter().map(|shard| {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.forget_idle(now);
            shard.full_at.shrink_to(64);
            shard.full_at.len()
        });
        shards.sum()
    }
}

impl Shard {
    /// The bucket that `key` has, or the crowd's when there is no room for one more.
    fn place(&mut self, key: Key, max: usize, now: u64) -> Key {
        if self.full_at.len() < max || self.full_at.contains_key(&key) {
            return key;
        }
        let pause = u64::try_from(SWEEP_PAUSE.as_nanos()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.swept) >= pause {
            self.forget_idle(now);
        }
        if self.full_at.len() < max { key } else { Key(CROWD) }
    }

    fn forget_idle(&mut self, now: u64) {
        self.swept = now;
        self.full_at.retain(|_, full_at| *full_at > now);
    }
}

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key);
        // The clock is read only where it matters.
        let full = shard.full_at.len() >= self.shard_max;
        let key = if full { shard.place(*key, self.shard_max, self.now()) } else { *key };
        let (told, next) = f(shard.full_at.get(&key).copied().map(Nanos::new))?;
        shard.full_at.insert(key, next.as_u64());
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limit(period: Duration, burst: u32) -> RateLimit {
        RateLimit::new(Quotas { period, burst: NonZeroU32::new(burst).unwrap() })
    }

    fn client(text: &str) -> ClientAddr {
        ClientAddr(text.parse().unwrap())
    }

    #[test]
    fn a_client_network_has_one_bucket_and_is_told_when_to_come_back() {
        let limit = limit(HOUR, 3);
        let prefix = Prefix { v4_bits: 32, v6_bits: 56 };
        let check = |address: &str| limit.check(limit.of_network(None, prefix, client(address)));
        for address in ["2001:db8:0:1::1", "2001:db8:0:2::2", "2001:db8:0:ff::3"] {
            check(address).unwrap();
        }
        let refused = check("2001:db8:0:3::4").unwrap_err();
        assert!(refused.retry_after > Duration::from_secs(3000) && refused.retry_after <= HOUR);
        check("2001:db8:0:100::1").unwrap();
        check("192.0.2.1").unwrap();
        check("::ffff:192.0.2.1").unwrap();
        check("192.0.2.1").unwrap();
        check("192.0.2.1").unwrap_err();
        check("192.0.2.2").unwrap();
        assert_eq!(limit.forget_idle(), 4);
        assert_eq!(limit.keys(), 4);
    }

    #[test]
    fn what_a_request_cost_is_owed_and_delays_the_next() {
        let limit = limit(Duration::from_secs(1), 10);
        let (one, other) = (limit.of_value(None, b"one"), limit.of_value(None, b"other"));
        limit.check(one).unwrap();
        limit.charge(one, 59);
        let wait = limit.check(one).unwrap_err().retry_after;
        assert!(wait > Duration::from_secs(45) && wait <= Duration::from_secs(51), "{wait:?}");
        limit.check(other).unwrap();
        for _ in 0..10 {
            limit.charge(one, u64::MAX);
        }
        assert!(limit.check(one).unwrap_err().retry_after <= 2 * DEBT_MAX, "a debt has a bound");
    }

    #[test]
    fn too_many_clients_share_buckets_instead_of_the_memory() {
        let buckets = Buckets::new(SHARDS * 10);
        let keys = (1..=10_000_u64).map(|key| Key(key * 7));
        for key in keys {
            let _ = buckets.measure_and_replace(&key, |_| Ok::<_, ()>(((), Nanos::new(u64::MAX))));
            buckets.charge(key, HOUR);
        }
        let kept: usize = buckets.shards.iter().map(|shard| shard.lock().unwrap().full_at.len()).sum();
        assert!(kept <= SHARDS * 11, "{kept}");
        let seen = buckets.measure_and_replace(&Key(5), |seen| Ok::<_, ()>((seen, Nanos::new(0))));
        assert!(seen.unwrap().is_some(), "a new client finds what the crowd has left");
    }

    #[test]
    fn idle_buckets_make_room() {
        let buckets = Buckets::new(SHARDS);
        let past = |_: Option<Nanos>| Ok::<_, ()>(((), Nanos::new(0)));
        buckets.measure_and_replace(&Key(16), past).unwrap();
        buckets.shard(Key(32)).swept = 0;
        let mut shard = buckets.shard(Key(32));
        assert_eq!(shard.place(Key(32), 1, u64::MAX), Key(32));
        assert!(shard.full_at.is_empty());
    }
}
