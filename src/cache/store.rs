//! Where stored responses live: two moka caches, one for small and one for large objects, under one byte budget.
//!
//! moka chooses victims by frequency and not by weight, so a few large objects would push out thousands of small ones;
//! each class therefore has a budget of its own. Weights count key, head, body and bookkeeping.

use crate::cache::body::FillBudget;
use crate::cache::collapse::Flights;
use crate::cache::entry::Shelf;
use crate::cache::entry::Stored;
use crate::units::SiteName;
use foldhash::quality::RandomState;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache as Moka;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A shelf that weighs more than this is a large object.
const LARGE: u32 = 64 * 1024;

/// What each entry costs beyond its own bytes: moka's node, frequency and hash-table share (measured, see ARCHITECTURE.md).
const MOKA_OVERHEAD: u32 = 224;

/// How many keys of private answers are remembered, and for how long, so that they are not collapsed again.
const PRIVATE_KEYS: u64 = 50_000;
const PRIVATE_FOR: Duration = Duration::from_mins(1);

/// The most places (schemes, hosts and ports) under which one site's responses are stored.
const PLACES_MAX: usize = 1024;

/// A scheme and an authority under which a site is seen.
pub type SeenAs = (&'static str, Box<str>);

/// The bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bytes of all stored responses and fills in flight.
    pub memory: u64,
    /// The most bytes of one stored body.
    pub object_max: u64,
    /// The most variants of one URL.
    pub variants: usize,
}

/// Keys hashed with a random seed by a function quicker than the standard one: an attacker cannot choose collisions without
/// knowing the seed.
type Shelves = Moka<Box<[u8]>, Shelf, RandomState>;

/// All stored responses.
pub struct Cache {
    settings: Settings,
    small: Shelves,
    large: Shelves,
    private: Moka<Box<[u8]>, ()>,
    flights: Arc<Flights>,
    fills: Arc<FillBudget>,
    evicted: Arc<[AtomicU64; 2]>,
    places: Mutex<HashMap<SiteName, BTreeSet<SeenAs>>>,
}

/// One size class, as seen by metrics.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    /// `small` or `large`.
    pub name: &'static str,
    /// URLs stored.
    pub objects: u64,
    /// Their bytes, everything counted.
    pub bytes: u64,
    /// The budget in bytes.
    pub capacity: u64,
    /// URLs evicted for want of room since the start.
    pub evictions: u64,
}

impl Cache {
    /// An empty cache. Half of the budget is for small objects, three eighths for large ones, the rest for fills.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let evicted: Arc<[AtomicU64; 2]> = Arc::default();
        let fills = settings.memory / 8;
        let small = settings.memory / 2;
        let large = settings.memory - small - fills;
        Self {
            settings,
            small: tier(small, 0, &evicted),
            large: tier(large, 1, &evicted),
            private: Moka::builder().max_capacity(PRIVATE_KEYS).time_to_live(PRIVATE_FOR).build(),
            flights: Flights::new(),
            fills: FillBudget::new(fills),
            evicted,
            places: Mutex::default(),
        }
    }

    /// Remembers that `site` is seen so: a purge that names only a path must reach what is stored under every name of its
    /// site. Says whether it may be stored; one site has not more than 1024 names, whatever clients send.
    pub fn admit_place(&self, site: &SiteName, scheme: &'static str, authority: &str) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let known = places.entry(site.clone()).or_default();
        if known.iter().any(|(one, other)| *one == scheme && **other == *authority) {
            return true;
        }
        known.len() < PLACES_MAX && known.insert((scheme, authority.into()))
    }

    /// How `site` has been seen.
    #[must_use]
    pub fn places(&self, site: &SiteName) -> Vec<SeenAs> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(site).map_or_else(Vec::new, |known| known.iter().cloned().collect())
    }

    /// The bounds it was made with.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The fetches under way.
    #[must_use]
    pub fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    /// The budget of bodies that are arriving.
    #[must_use]
    pub fn fills(&self) -> &Arc<FillBudget> {
        &self.fills
    }

    /// The responses stored under `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Shelf> {
        self.small.get(key).or_else(|| self.large.get(key))
    }

    /// Puts a response on the shelf of `key`, in place of the variant that the same requests would select.
    pub fn put(&self, key: &[u8], response: &Arc<Stored>) {
        let before = self.get(key);
        let after = Shelf::with(before.as_ref(), response, self.settings.variants);
        let (tier, other) =
            if after.weight() > LARGE { (&self.large, &self.small) } else { (&self.small, &self.large) };
        other.invalidate(key);
        // Two variants may arrive at once: whoever comes second puts his beside the other's, not over it.
        tier.entry(key.into()).and_compute_with(|found| {
            let now = found.map(moka::Entry::into_value);
            Op::Put(Shelf::with(now.as_ref().or(before.as_ref()), response, self.settings.variants))
        });
    }

    /// Forgets all variants of `key` and bars what is being fetched for it; says whether anything was stored.
    pub fn purge(&self, key: &[u8]) -> bool {
        self.flights.purge(key);
        self.private.invalidate(key);
        let small = self.small.remove(key).is_some();
        self.large.remove(key).is_some() || small
    }

    /// Forgets everything.
    pub fn purge_all(&self) {
        self.flights.purge_all();
        self.private.invalidate_all();
        self.small.invalidate_all();
        self.large.invalidate_all();
    }

    /// Remembers that the answer to `key` was private, so that the next requests go side by side (hit-for-miss).
    pub fn note_private(&self, key: &[u8]) {
        self.private.insert(key.into(), ());
    }

    /// Whether the last answer to `key` was private.
    #[must_use]
    pub fn is_private(&self, key: &[u8]) -> bool {
        self.private.contains_key(key)
    }

    /// Forgets that the answer to `key` was private.
    pub fn forget_private(&self, key: &[u8]) {
        if self.private.contains_key(key) {
            self.private.invalidate(key);
        }
    }

    /// The two size classes as they are now.
    #[must_use]
    pub fn tiers(&self) -> [Tier; 2] {
        let view = |name, cache: &Shelves, at: usize| {
            cache.run_pending_tasks();
            Tier {
                name,
                objects: cache.entry_count(),
                bytes: cache.weighted_size(),
                capacity: cache.policy().max_capacity().unwrap_or(0),
                evictions: self.evicted[at].load(Ordering::Relaxed),
            }
        };
        [view("small", &self.small, 0), view("large", &self.large, 1)]
    }
}

fn tier(capacity: u64, at: usize, evicted: &Arc<[AtomicU64; 2]>) -> Shelves {
    let evicted = Arc::clone(evicted);
    Moka::builder()
        .max_capacity(capacity)
        .weigher(weigh)
        .eviction_listener(move |_, _, cause| {
            if cause == RemovalCause::Size {
                evicted[at].fetch_add(1, Ordering::Relaxed);
            }
        })
        .build_with_hasher(RandomState::default())
}

#[expect(clippy::borrowed_box, reason = "moka's weigher is given the key as it is stored")]
fn weigh(key: &Box<[u8]>, shelf: &Shelf) -> u32 {
    let key = u32::try_from(key.len()).unwrap_or(u32::MAX);
    shelf.weight().saturating_add(key).saturating_add(MOKA_OVERHEAD)
}
