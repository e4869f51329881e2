//! Where stored responses live: two moka caches, one for small and one for large objects, under one byte budget.
//!
//! moka chooses victims by frequency and not by weight, so a few large objects would push out thousands of small ones;
//! each class therefore has a budget of its own. Small ones that find theirs full are guests in the other's as long as there is
//! room, and leave when a large one needs it. Weights count key, head, body and bookkeeping.

use crate::cache::body::FillBudget;
use crate::cache::coded::Mill;
use crate::cache::collapse::Flights;
use crate::cache::disk::Disk;
use crate::cache::disk::SeenAt;
use crate::cache::entry::Place;
use crate::cache::entry::Shelf;
use crate::cache::entry::Stored;
use crate::cache::ledger::Busy;
use crate::cache::ledger::Ledger;
use crate::cache::ledger::Order;
use crate::cache::ledger::Verdict;
use crate::cache::rules::Rules;
use crate::semantics::coding::Coding;
use crate::semantics::tags::Mode;
use crate::units::SiteName;
use bytes::Bytes;
use foldhash::quality::RandomState;
use moka::notification::RemovalCause;
use moka::ops::compute::CompResult;
use moka::ops::compute::Op;
use moka::sync::Cache as Moka;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// A shelf that weighs more than this is a large object.
const LARGE: u32 = 64 * 1024;

/// What each entry costs beyond its own bytes: moka's node, frequency and hash-table share (measured, see ARCHITECTURE.md).
const MOKA_OVERHEAD: u32 = 224;

/// How many keys of private answers are remembered, and for how long, so that they are not collapsed again.
const PRIVATE_KEYS: u64 = 50_000;
const PRIVATE_FOR: Duration = Duration::from_mins(1);

/// The most places (schemes, hosts and ports) under which one site's responses are stored.
const PLACES_MAX: usize = 1024;

/// Why the answer to a key was private, and when that was noted.
#[derive(Clone, Copy)]
struct Private {
    why: &'static str,
    since: Instant,
}

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
    private: Moka<Box<[u8]>, Private, RandomState>,
    flights: Arc<Flights>,
    fills: Arc<FillBudget>,
    evicted: Arc<[AtomicU64; 2]>,
    places: Mutex<HashMap<SiteName, BTreeSet<SeenAs>>>,
    ledger: Ledger,
    rules: Rules,
    mill: Mill,
    /// URLs dropped because a tag or a pattern of theirs was purged.
    dropped: AtomicU64,
    sweeping: Mutex<()>,
    writing: Mutex<()>,
    sweep_due: AtomicBool,
    disk: OnceLock<Arc<Disk>>,
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
            private: Moka::builder()
                .max_capacity(PRIVATE_KEYS)
                .time_to_live(PRIVATE_FOR)
                .build_with_hasher(RandomState::default()),
            flights: Flights::new(),
            fills: FillBudget::new(fills),
            evicted,
            places: Mutex::default(),
            ledger: Ledger::default(),
            rules: Rules::default(),
            mill: Mill::default(),
            dropped: AtomicU64::new(0),
            sweeping: Mutex::default(),
            writing: Mutex::default(),
            sweep_due: AtomicBool::new(false),
            disk: OnceLock::new(),
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
        let admitted = known.len() < PLACES_MAX && known.insert((scheme, authority.into()));
        if let Some(disk) = self.disk().filter(|_| admitted) {
            disk.place_seen();
        }
        admitted
    }

    /// How all sites have been seen.
    #[must_use]
    pub fn all_places(&self) -> Vec<SeenAt> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = places.iter().flat_map(|(site, known)| known.iter().map(move |place| (site, place)));
        seen.map(|(site, (scheme, authority))| (site.clone(), *scheme, authority.clone())).collect()
    }

    /// What is stored is kept on this disk as well, from now on. Said once, at the start.
    pub fn attach(&self, disk: &Arc<Disk>) {
        // The first one stays: there is one at most.
        let _ = self.disk.set(Arc::clone(disk));
    }

    /// The part on the disk, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.get()
    }

    /// Whether the whole of what `key` names is being fetched, or lies on the disk.
    #[must_use]
    pub fn may_have_whole(&self, key: &[u8]) -> bool {
        self.flights.is_under_way(key) || self.is_on_disk(key)
    }

    /// Whether something may be found on the disk under `key`.
    #[must_use]
    pub fn is_on_disk(&self, key: &[u8]) -> bool {
        self.disk().is_some_and(|disk| disk.has(key))
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

    /// The purges that name no single key.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What answers have said about the queries of their paths.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where bodies are coded.
    #[must_use]
    pub fn mill(&self) -> &Mill {
        &self.mill
    }

    /// Adds a coding to what is stored under `key`, if that is still the content of `before`.
    pub fn recode(&self, key: &[u8], before: &Stored, coding: Coding, body: &Bytes) {
        let _turn = self.turn();
        for cache in [&self.small, &self.large] {
            cache.entry(key.into()).and_compute_with(|found| {
                let Some(found) = found.map(moka::Entry::into_value) else { return Op::Nop };
                let mut changed = false;
                let recode = |stored: &Arc<Stored>| {
                    if !stored.has_content_of(before) {
                        return Arc::clone(stored);
                    }
                    changed = true;
                    Arc::new(stored.recoded(coding, body.clone()))
                };
                let after = Shelf::of(found.variants().iter().map(recode).collect());
                after.filter(|_| changed).map_or(Op::Nop, Op::Put)
            });
        }
    }

    /// URLs dropped so far because of the ledger.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The responses stored under `key` that no purge concerns.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Shelf> {
        let found = self.peek(key)?;
        let sequence = self.ledger.sequence();
        if found.variants().iter().all(|stored| stored.tagged.is_proved(sequence)) {
            return Some(found);
        }
        self.prove(key, found)
    }

    fn peek(&self, key: &[u8]) -> Option<Shelf> {
        self.small.get(key).or_else(|| self.large.get(key))
    }

    /// Compares what is stored under `key` with the ledger, and keeps what is left.
    fn prove(&self, key: &[u8], found: Shelf) -> Option<Shelf> {
        let clean = |stored: &Arc<Stored>| self.ledger.judge(key, &stored.tagged) == Verdict::Clean;
        if found.variants().iter().all(clean) {
            return Some(found);
        }
        let turn = self.turn();
        for cache in [&self.small, &self.large] {
            // As it is now: another may have been put there meanwhile.
            cache.entry(key.into()).and_compute_with(|found| match found {
                Some(found) => self.amended(key, &found.into_value()).map_or(Op::Remove, Op::Put),
                None => Op::Nop,
            });
        }
        drop(turn);
        let left = self.peek(key);
        if left.is_none() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        left
    }

    /// The shelf without what is purged, and with what was purged softly as stale.
    fn amended(&self, key: &[u8], before: &Shelf) -> Option<Shelf> {
        let amend = |stored: &Arc<Stored>| match self.ledger.judge(key, &stored.tagged) {
            Verdict::Clean => Some(Arc::clone(stored)),
            Verdict::Soft(at, sequence) => Some(Arc::new(stored.softened(at, sequence))),
            Verdict::Gone => None,
        };
        Shelf::of(before.variants().iter().filter_map(amend).collect())
    }

    /// Whether a response that others are given while it arrives is still what they may have.
    #[must_use]
    pub fn is_current(&self, key: &[u8], stored: &Stored) -> bool {
        stored.tagged.is_proved(self.ledger.sequence()) || self.ledger.judge(key, &stored.tagged) == Verdict::Clean
    }

    /// Whether a response that somebody holds was purged meanwhile.
    #[must_use]
    pub fn is_gone(&self, key: &[u8], stored: &Stored) -> bool {
        self.ledger.judge(key, &stored.tagged) == Verdict::Gone
    }

    /// Whether a sweep is due that nobody has begun yet; who is told so begins it.
    #[must_use]
    pub fn begins_sweep(&self) -> bool {
        self.ledger.wants_sweep() && !self.sweep_due.swap(true, Ordering::AcqRel)
    }

    /// Proves everything that is stored, drops what is purged, and so makes room in the ledger. Takes some
    /// seconds for a million URLs: not on the path of a request. Gives how many URLs it dropped.
    pub fn sweep(&self) -> u64 {
        let turn = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.sweep_due.store(false, Ordering::Release);
        let (before, through) = (self.dropped(), self.ledger.sequence());
        for cache in [&self.small, &self.large] {
            for (key, shelf) in cache {
                if !shelf.variants().iter().all(|stored| stored.tagged.is_proved(through)) {
                    self.prove(&key, shelf);
                }
            }
        }
        self.ledger.swept(through);
        drop(turn);
        self.dropped() - before
    }

    /// Whether something may be found on the disk under `key`, and nothing is in memory: what is there was written from here.
    #[must_use]
    pub fn is_on_disk_only(&self, key: &[u8]) -> bool {
        self.is_on_disk(key) && self.peek(key).is_none()
    }

    /// Puts a response on the shelf of `key`, in place of the variant that the same requests would select.
    /// A response that was purged while it was fetched is not put anywhere.
    pub fn put(&self, key: &[u8], response: &Arc<Stored>) {
        if self.ledger.judge(key, &response.tagged) == Verdict::Gone {
            return;
        }
        self.shelve(key, response);
        if let Some(disk) = self.disk() {
            disk.stored(key, response.kept.as_ref().is_some_and(|kept| kept.place().is_some()));
        }
    }

    /// Puts back what was read from the disk, but for what has been stored or purged since.
    pub fn restore(&self, key: &[u8], read: &Shelf) {
        let now = self.get(key);
        let known = now.as_ref().map_or(&[][..], Shelf::variants);
        // The newest goes on the shelf last, to stand in front.
        for stored in read.variants().iter().rev() {
            let superseded = known.iter().any(|one| one.selection == stored.selection || one.selection.is_universal());
            if !superseded && self.ledger.judge(key, &stored.tagged) != Verdict::Gone {
                self.shelve(key, stored);
            }
        }
    }

    /// Has the disk write once more whatever it has let go of.
    pub fn write_again(&self, is_gone: impl Fn(Place) -> bool) {
        let Some(disk) = self.disk() else { return };
        for cache in [&self.small, &self.large] {
            for (key, shelf) in cache {
                let mut places = shelf.variants().iter().filter_map(|stored| stored.kept.as_ref()?.place());
                if places.any(&is_gone) {
                    disk.stored(&key, false);
                }
            }
        }
    }

    fn shelve(&self, key: &[u8], response: &Arc<Stored>) {
        let before = self.get(key);
        let _turn = self.turn();
        let after = Shelf::with(before.as_ref(), response, self.settings.variants);
        let (is_large, weight) = (after.weight() > LARGE, u64::from(weight(key, &after)));
        if is_large {
            self.make_room(weight);
        }
        let (tier, other) = if is_large || self.is_guest(key, weight) {
            (&self.large, &self.small)
        } else {
            (&self.small, &self.large)
        };
        take(other, key);
        // Two variants may arrive at once: whoever comes second puts his beside the other's, not over it.
        tier.entry(key.into()).and_compute_with(|found| {
            let now = found.map(moka::Entry::into_value);
            Op::Put(Shelf::with(now.as_ref().or(before.as_ref()), response, self.settings.variants))
        });
    }

    /// Whether a small shelf of this weight goes where there is room for large ones. A guest that is stored anew while there is
    /// none moves among the small ones, if it is asked for more often than what it would displace. Called in turn.
    fn is_guest(&self, key: &[u8], weight: u64) -> bool {
        room(&self.small) < weight && weight <= room(&self.large) && !self.small.contains_key(key)
    }

    /// Lets guests go until a large object of this weight has room. Called in turn.
    fn make_room(&self, weight: u64) {
        if weight > capacity(&self.large) {
            return;
        }
        let mut missing = weight.saturating_sub(room(&self.large));
        for (key, shelf) in self.large.iter().filter(|(_, shelf)| shelf.weight() <= LARGE) {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(u64::from(self::weight(&key, &shelf)));
            self.large.invalidate(&**key);
        }
        self.large.run_pending_tasks();
    }

    /// The turn to change what is stored. moka takes the weight of what is replaced from its last housekeeping: a key that
    /// is replaced twice in between would be counted wrongly for ever, and the budget with it. So whoever changes something
    /// does so alone, and has the changes before him counted first.
    fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.small.run_pending_tasks();
        self.large.run_pending_tasks();
        turn
    }

    /// Forgets all variants of `key`, or makes them stale, and bars what is being fetched for it; says whether anything was
    /// stored.
    pub fn forget(&self, key: &[u8], mode: Mode, now: Instant) -> bool {
        let canonical = self.rules.canonical(key);
        self.forget_stored(key, mode, now) | canonical.is_some_and(|key| self.forget_stored(&key, mode, now))
    }

    fn forget_stored(&self, key: &[u8], mode: Mode, now: Instant) -> bool {
        let in_memory = || if mode == Mode::Hard { self.purge_memory(key) } else { self.soften(key, now) };
        match self.disk() {
            Some(disk) => disk.purge_key(key, mode, now, in_memory),
            None => in_memory(),
        }
    }

    fn soften(&self, key: &[u8], now: Instant) -> bool {
        self.flights.purge(key);
        let _turn = self.turn();
        let mut found = false;
        for cache in [&self.small, &self.large] {
            cache.entry(key.into()).and_compute_with(|before| {
                let Some(before) = before.map(moka::Entry::into_value) else { return Op::Nop };
                found = true;
                let sequence = self.ledger.sequence();
                let soften = |stored: &Arc<Stored>| match self.ledger.judge(key, &stored.tagged) {
                    Verdict::Gone => None,
                    Verdict::Clean => Some(Arc::new(stored.softened(now, sequence))),
                    Verdict::Soft(at, sequence) => Some(Arc::new(stored.softened(at.min(now), sequence))),
                };
                Shelf::of(before.variants().iter().filter_map(soften).collect()).map_or(Op::Remove, Op::Put)
            });
        }
        found
    }

    /// Forgets all variants of `key` and bars what is being fetched for it; says whether anything was stored.
    pub fn purge(&self, key: &[u8]) -> bool {
        self.forget_stored(key, Mode::Hard, crate::clock::mono())
    }

    /// Purges what names no single key: at once for whoever asks. In constant time.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn purge_order(&self, order: &Order, mode: Mode, now: Instant) -> Result<(), Busy> {
        let in_memory = || match (order, mode) {
            (Order::All, Mode::Hard) => {
                self.purge_all_memory();
                Ok(())
            }
            _ => self.ledger.purge(order, mode, now).map(drop),
        };
        match self.disk() {
            Some(disk) => disk.purge(order, mode, now, in_memory),
            None => in_memory(),
        }
    }

    fn purge_memory(&self, key: &[u8]) -> bool {
        self.flights.purge(key);
        self.private.invalidate(key);
        let _turn = self.turn();
        let small = take(&self.small, key);
        take(&self.large, key) || small
    }

    /// Forgets everything.
    pub fn purge_all(&self) {
        // Only patterns can be too many.
        let _ = self.purge_order(&Order::All, Mode::Hard, crate::clock::mono());
    }

    fn purge_all_memory(&self) {
        self.ledger.purge_all();
        self.flights.purge_all();
        self.private.invalidate_all();
        self.small.invalidate_all();
        self.large.invalidate_all();
    }

    /// Forgets a quarter of what is stored, for memory is short. Takes seconds for a million URLs: not on the path of a request.
    /// Gives how many URLs it forgot.
    pub fn shrink(&self) -> u64 {
        let mut forgotten = 0;
        for cache in [&self.small, &self.large] {
            // Keys are spread by a random hash, so each fourth is a fair choice.
            for (key, shelf) in cache.iter().skip(3).step_by(4) {
                drop(shelf);
                let _turn = self.turn();
                forgotten += u64::from(take(cache, &key));
            }
        }
        forgotten
    }

    /// Remembers that the answer to `key` was private, and why, so that the next requests go side by side (hit-for-miss).
    /// What is known already is noted again only when half of its time is over.
    pub fn note_private(&self, key: &[u8], why: &'static str, now: Instant) {
        let known = self.private.get(key);
        if !known.is_some_and(|known| known.why == why && now < known.since + PRIVATE_FOR / 2) {
            self.private.insert(key.into(), Private { why, since: now });
        }
    }

    /// Why the last answer to `key` was private, if it was.
    #[must_use]
    pub fn why_private(&self, key: &[u8]) -> Option<&'static str> {
        self.private.get(key).map(|known| known.why)
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
                capacity: capacity(cache),
                evictions: self.evicted[at].load(Ordering::Relaxed),
            }
        };
        [view("small", &self.small, 0), view("large", &self.large, 1)]
    }
}

fn capacity(tier: &Shelves) -> u64 {
    tier.policy().max_capacity().unwrap_or(0)
}

/// The bytes that are free in it, as of its last housekeeping.
fn room(tier: &Shelves) -> u64 {
    capacity(tier).saturating_sub(tier.weighted_size())
}

/// Removes a shelf, and says whether there was one. Like all that changes a shelf it waits its turn: whoever read the shelf
/// before, to add something, must not put it back afterwards.
fn take(cache: &Shelves, key: &[u8]) -> bool {
    let taken = cache.entry(key.into()).and_compute_with(|found| if found.is_some() { Op::Remove } else { Op::Nop });
    matches!(taken, CompResult::Removed(_))
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
    weight(key, shelf)
}

fn weight(key: &[u8], shelf: &Shelf) -> u32 {
    let key = u32::try_from(key.len()).unwrap_or(u32::MAX);
    shelf.weight().saturating_add(key).saturating_add(MOKA_OVERHEAD)
}

#[cfg(test)]
mod tests;
