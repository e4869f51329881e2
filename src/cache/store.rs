//! Where stored responses live: in one moka cache, which finds them, under one byte budget, which `seats` keeps.
//!
//! moka has no bound of its own here. Its admission compares how often a newcomer was asked for with the sum of those whom it would
//! push out, in four bits, so that a large object would never get in or push out thousands of small ones; and it counts
//! weights some time after a change. Whoever changes what is stored does so in turn, and makes room first. Weights
//! count key, head, body and bookkeeping.

use crate::cache::body::FillBudget;
use crate::cache::coded::Mill;
use crate::cache::collapse::Flights;
use crate::cache::disk::Disk;
use crate::cache::disk::SeenAt;
use crate::cache::entry::Place;
use crate::cache::entry::Shelf;
use crate::cache::entry::Stored;
use crate::cache::entry::allocated;
use crate::cache::ledger::Busy;
use crate::cache::ledger::Ledger;
use crate::cache::ledger::Order;
use crate::cache::ledger::Verdict;
use crate::cache::private::Privates;
use crate::cache::rules::Rules;
use crate::cache::seats::Seat;
use crate::cache::seats::Seats;
use crate::semantics::coding::Coding;
use crate::semantics::tags::Mode;
use crate::units::SiteName;
use bytes::Bytes;
use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache as Moka;
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What each entry costs beyond its own bytes: moka's nodes and share of its table, its seat (measured, see ARCHITECTURE.md).
const ENTRY_OVERHEAD: u64 = 336;

/// The part of memory in which what has no seat waits for the disk, where there is one.
const ANTEROOM: u64 = 32;

/// How many seats are looked at, or vacated, in one turn by what goes through all of them.
const AT_A_TIME: usize = 256;

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

/// What is stored under a key, and its seat. Keys are hashed with a random seed by a function quicker than the standard one: an
/// attacker cannot choose collisions without knowing the seed.
type Shelves = Moka<Name, Seated, RandomState>;

/// A key is kept once, in its seat.
#[derive(Debug, PartialEq, Eq)]
struct Name(Arc<Seat>);

#[derive(Clone, Debug)]
struct Seated {
    seat: Arc<Seat>,
    shelf: Shelf,
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

/// All stored responses.
pub struct Cache {
    settings: Settings,
    hall: Arc<Hall>,
    anteroom: Mutex<Anteroom>,
    private: Privates,
    flights: Arc<Flights>,
    fills: Arc<FillBudget>,
    places: Mutex<HashMap<SiteName, BTreeSet<SeenAs>>>,
    ledger: Ledger,
    rules: Rules,
    mill: Mill,
    /// URLs dropped because a tag or a pattern of theirs was purged.
    dropped: AtomicU64,
    sweeping: Mutex<()>,
    sweep_due: AtomicBool,
    disk: OnceLock<Arc<Disk>>,
}

/// What is in memory, as seen by metrics.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    /// `memory`.
    pub name: &'static str,
    /// URLs stored.
    pub objects: u64,
    /// Their bytes, everything counted.
    pub bytes: u64,
    /// The budget in bytes.
    pub capacity: u64,
    /// URLs evicted for want of room since the start.
    pub evictions: u64,
    /// URLs that were not stored, for all that is stored is asked for more.
    pub refusals: u64,
}

impl Cache {
    /// An empty cache. Up to an eighth of the budget is for fills, when they need it.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let hall = Arc::new(Hall::new(settings.memory));
        let lender = Arc::clone(&hall);
        Self {
            settings,
            private: Privates::default(),
            flights: Flights::new(),
            fills: FillBudget::new(settings.memory / 8, Box::new(move |bytes| lender.lend(bytes))),
            hall,
            anteroom: Mutex::default(),
            places: Mutex::default(),
            ledger: Ledger::default(),
            rules: Rules::default(),
            mill: Mill::default(),
            dropped: AtomicU64::new(0),
            sweeping: Mutex::default(),
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
        if self.disk.set(Arc::clone(disk)).is_ok() {
            self.anteroom().capacity = self.hall.lend(self.settings.memory / ANTEROOM);
        }
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
        self.turn().change(key, |shelf| {
            let recode = |stored: &Arc<Stored>| {
                let same = stored.has_content_of(before);
                if same { Arc::new(stored.recoded(coding, body.clone())) } else { Arc::clone(stored) }
            };
            let concerns = shelf.variants().iter().any(|stored| stored.has_content_of(before));
            if concerns { Shelf::of(shelf.variants().iter().map(recode).collect()) } else { Some(shelf.clone()) }
        });
    }

    /// URLs dropped so far because of the ledger.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The responses stored under `key` that no purge concerns, for somebody who asks for them.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Shelf> {
        let Seated { seat, shelf } = self.hall.shelves.get(key)?;
        seat.asked(self.hall.epoch.load(Ordering::Relaxed));
        self.clean(key, shelf)
    }

    /// The same for somebody who looks after them: that counts as no use.
    #[must_use]
    pub fn look(&self, key: &[u8]) -> Option<Shelf> {
        self.clean(key, self.hall.shelves.get(key)?.shelf)
    }

    fn clean(&self, key: &[u8], found: Shelf) -> Option<Shelf> {
        let sequence = self.ledger.sequence();
        let is_clean = |stored: &Arc<Stored>| {
            stored.tagged.is_proved(sequence) || self.ledger.judge(key, &stored.tagged) == Verdict::Clean
        };
        if found.variants().iter().all(is_clean) {
            return Some(found);
        }
        // As it is now: another may have been put there meanwhile.
        let left = self.turn().change(key, |shelf| self.amended(key, shelf));
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
        self.walk(|key, shelf| {
            if !shelf.variants().iter().all(|stored| stored.tagged.is_proved(through)) {
                self.clean(key, shelf);
            }
        });
        self.ledger.swept(through);
        drop(turn);
        self.dropped() - before
    }

    /// Whether something may be found on the disk under `key`, and nothing is in memory: what is there was written from here.
    #[must_use]
    pub fn is_on_disk_only(&self, key: &[u8]) -> bool {
        self.is_on_disk(key) && !self.hall.shelves.contains_key(key)
    }

    /// Puts a response on the shelf of `key`, in place of the variant that the same requests would select.
    /// A response that was purged while it was fetched is not put anywhere.
    pub fn put(&self, key: &[u8], response: &Arc<Stored>) {
        let unwritten = self.put_in_memory(key, response);
        self.have_written(key, unwritten);
    }

    /// The same, but that the disk has yet to be told: not under a lock for which a purge may wait, for it has the disk's by then.
    #[must_use]
    pub fn put_in_memory(&self, key: &[u8], response: &Arc<Stored>) -> Option<Unwritten> {
        if self.ledger.judge(key, &response.tagged) == Verdict::Gone {
            return None;
        }
        let refused = self.shelve(key, response).err();
        self.disk()?;
        let seated = refused.is_none();
        let waits = refused.is_none_or(|refused| self.anteroom().put(key, refused));
        let again = seated && response.kept.as_ref().is_some_and(|kept| kept.place().is_some());
        waits.then_some(Unwritten { again })
    }

    /// Tells the disk what is stored; what was purged meanwhile is not there when it looks.
    pub fn have_written(&self, key: &[u8], unwritten: Option<Unwritten>) {
        if let (Some(Unwritten { again }), Some(disk)) = (unwritten, self.disk())
            && !disk.stored(key, again)
        {
            self.anteroom().take(key);
        }
    }

    /// What the disk is to keep under `key`: what is stored, or what there was no room for.
    #[must_use]
    pub fn to_be_kept(&self, key: &[u8]) -> Option<Shelf> {
        let refused = self.anteroom().take(key);
        self.look(key).or_else(|| self.amended(key, &refused?))
    }

    fn anteroom(&self) -> MutexGuard<'_, Anteroom> {
        // Whoever panicked under it has at worst forgotten to count something out.
        self.anteroom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts back what was read from the disk, but for what has been stored or purged since.
    pub fn restore(&self, key: &[u8], read: &Shelf) {
        let now = self.look(key);
        let known = now.as_ref().map_or(&[][..], Shelf::variants);
        // The newest goes on the shelf last, to stand in front.
        for stored in read.variants().iter().rev() {
            let superseded = known.iter().any(|one| one.selection == stored.selection || one.selection.is_universal());
            if !superseded && self.ledger.judge(key, &stored.tagged) != Verdict::Gone {
                // What has no room lies on the disk all the same.
                let _ = self.shelve(key, stored);
            }
        }
    }

    /// Has the disk write once more whatever it has let go of.
    pub fn write_again(&self, is_gone: impl Fn(Place) -> bool) {
        let Some(disk) = self.disk() else { return };
        self.walk(|key, shelf| {
            let mut places = shelf.variants().iter().filter_map(|stored| stored.kept.as_ref()?.place());
            if places.any(&is_gone) {
                disk.stored(key, false);
            }
        });
    }

    /// Shows all shelves that are there from its beginning to its end, as they are; what is changed or stored meanwhile may be
    /// missed.
    fn walk(&self, mut show: impl FnMut(&[u8], Shelf)) {
        // Backwards: what leaves is replaced by what stands last, which has been seen then.
        let mut end = usize::MAX;
        while end > 0 {
            let some: Vec<Arc<Seat>> = {
                let seats = self.hall.seats();
                let upto = end.min(seats.all().len());
                end = upto.saturating_sub(AT_A_TIME);
                seats.all()[end..upto].to_vec()
            };
            for seat in some.iter().rev() {
                if let Some(found) = self.hall.shelves.get(seat.key()) {
                    show(seat.key(), found.shelf);
                }
            }
        }
    }

    /// Puts it on its shelf; gives the shelf if there is no room for it.
    fn shelve(&self, key: &[u8], response: &Arc<Stored>) -> Result<(), Shelf> {
        // What is purged of it is not put back.
        let _ = self.look(key);
        let mut turn = self.turn();
        let found = self.hall.shelves.get(key);
        // Two variants may arrive at once: whoever comes second puts his beside the other's, not over it.
        let after = Shelf::with(found.as_ref().map(|found| &found.shelf), response, self.settings.variants);
        let seat = found.map_or_else(|| turn.seats.newcomer(key), |found| found.seat);
        if turn.seats.is_short_of(weight(key, &after)) {
            turn.seats.regain(self.fills.give_back());
        }
        if turn.put(seat, after.clone()) { Ok(()) } else { Err(after) }
    }

    /// The turn to change what is stored: one at a time, so that the seats and what is found are the same at its end.
    fn turn(&self) -> Turn<'_> {
        self.hall.turn()
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
        let mut found = self.anteroom().take(key).is_some();
        self.turn().change(key, |before| {
            found = true;
            let sequence = self.ledger.sequence();
            let soften = |stored: &Arc<Stored>| match self.ledger.judge(key, &stored.tagged) {
                Verdict::Gone => None,
                Verdict::Clean => Some(Arc::new(stored.softened(now, sequence))),
                Verdict::Soft(at, sequence) => Some(Arc::new(stored.softened(at.min(now), sequence))),
            };
            Shelf::of(before.variants().iter().filter_map(soften).collect())
        });
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
        self.private.forget(key);
        let mut found = self.anteroom().take(key).is_some();
        self.turn().change(key, |_| {
            found = true;
            None
        });
        found
    }

    /// Forgets everything.
    pub fn purge_all(&self) {
        // Only patterns can be too many.
        let _ = self.purge_order(&Order::All, Mode::Hard, crate::clock::mono());
    }

    fn purge_all_memory(&self) {
        self.ledger.purge_all();
        self.flights.purge_all();
        self.private.clear();
        self.anteroom().clear();
        let mut turn = self.turn();
        turn.seats.clear();
        self.hall.shelves.invalidate_all();
    }

    /// Forgets a quarter of what is stored, by bytes, for memory is short. Takes seconds for a million URLs: not on the path of a
    /// request. Gives how many URLs it forgot.
    pub fn shrink(&self) -> u64 {
        self.anteroom().clear();
        let mut left = self.hall.seats().used() / 4;
        let mut forgotten = 0;
        while left > 0 {
            let mut turn = self.turn();
            let before = turn.seats.used();
            let gone = turn.seats.give_up(left, AT_A_TIME);
            if gone.is_empty() {
                break;
            }
            left = left.saturating_sub(before - turn.seats.used());
            forgotten += gone.len() as u64;
            turn.evict(&gone);
        }
        forgotten
    }

    /// The keys whose answers were private: the next requests for them go side by side.
    #[must_use]
    pub fn private(&self) -> &Privates {
        &self.private
    }

    /// What is in memory now.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let seats = self.hall.seats();
        Tier {
            name: "memory",
            objects: seats.all().len() as u64,
            bytes: seats.used(),
            capacity: seats.capacity(),
            evictions: self.hall.evicted.load(Ordering::Relaxed),
            refusals: self.hall.refused.load(Ordering::Relaxed),
        }
    }
}

/// What has no seat and waits for the disk to write it, which is much larger than memory. Nobody finds it here.
#[derive(Default)]
struct Anteroom {
    /// Each with its weight when it came.
    waiting: HashMap<Box<[u8]>, (u64, Shelf)>,
    bytes: u64,
    capacity: u64,
}

impl Anteroom {
    /// Says whether there is room.
    fn put(&mut self, key: &[u8], refused: Shelf) -> bool {
        self.take(key);
        let weight = weight(key, &refused);
        let fits = self.bytes.saturating_add(weight) <= self.capacity;
        if fits {
            self.bytes += weight;
            self.waiting.insert(key.into(), (weight, refused));
        }
        fits
    }

    fn take(&mut self, key: &[u8]) -> Option<Shelf> {
        let (weight, refused) = self.waiting.remove(key)?;
        self.bytes -= weight;
        Some(refused)
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }
}

/// What the disk has yet to be told of what was stored.
#[derive(Clone, Copy, Debug)]
pub struct Unwritten {
    /// Its body is there already.
    again: bool,
}

/// Where all that is stored sits, and is found.
struct Hall {
    shelves: Shelves,
    seats: Mutex<Seats<RandomState>>,
    /// As the seats have it.
    epoch: AtomicU32,
    /// URLs that had to leave for want of room, and those that were refused a seat.
    evicted: AtomicU64,
    refused: AtomicU64,
}

impl Hall {
    fn new(memory: u64) -> Self {
        let hasher = RandomState::default();
        let capacity = memory.saturating_sub(Seats::<RandomState>::overhead(memory));
        Self {
            shelves: Moka::builder().eviction_policy(EvictionPolicy::lru()).build_with_hasher(hasher.clone()),
            seats: Mutex::new(Seats::new(capacity, hasher)),
            epoch: AtomicU32::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats<RandomState>> {
        // Whoever panicked under it has at worst forgotten to count something out.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Turn<'_> {
        Turn { hall: self, seats: self.seats() }
    }

    /// Makes so many bytes free for bodies in flight; gives how many.
    fn lend(&self, bytes: u64) -> u64 {
        let mut turn = self.turn();
        let (lent, gone) = turn.seats.lend(bytes);
        turn.evict(&gone);
        lent
    }
}

/// The turn to change what is stored.
struct Turn<'c> {
    hall: &'c Hall,
    seats: MutexGuard<'c, Seats<RandomState>>,
}

impl Turn<'_> {
    /// Puts in place of the shelf under `key` what `change` makes of it, if there is one; gives what stands there then.
    fn change(&mut self, key: &[u8], change: impl FnOnce(&Shelf) -> Option<Shelf>) -> Option<Shelf> {
        let Seated { seat, shelf } = self.hall.shelves.get(key)?;
        match change(&shelf) {
            Some(after) if after.is(&shelf) => Some(after),
            Some(after) => self.put(seat, after.clone()).then_some(after),
            None => {
                self.seats.leave(&seat);
                self.hall.shelves.invalidate(key);
                None
            }
        }
    }

    /// Puts a shelf where its seat is, if there is room for it; otherwise nothing is there. Says whether there is.
    fn put(&mut self, seat: Arc<Seat>, whole: Shelf) -> bool {
        let hall = self.hall;
        let placed = self.seats.place(&seat, weight(seat.key(), &whole));
        self.evict(&placed.gone);
        if placed.seated {
            hall.shelves.insert(Name(Arc::clone(&seat)), Seated { seat, shelf: whole });
        } else {
            hall.refused.fetch_add(1, Ordering::Relaxed);
            hall.shelves.invalidate(seat.key());
        }
        placed.seated
    }

    /// Those who have no seat any more are not found any more.
    fn evict(&self, gone: &[Arc<Seat>]) {
        self.hall.evicted.fetch_add(gone.len() as u64, Ordering::Relaxed);
        for seat in gone {
            self.hall.shelves.invalidate(seat.key());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.hall.epoch.store(self.seats.epoch(), Ordering::Relaxed);
        // moka lets go of what is gone when it does its housekeeping; the bytes are counted as free now.
        self.hall.shelves.run_pending_tasks();
    }
}

fn weight(key: &[u8], shelf: &Shelf) -> u64 {
    shelf.weight() + allocated(key.len()) as u64 + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests;
