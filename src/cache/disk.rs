//! What is stored survives a restart, and may be larger than memory: a log of it on the disk (`cache.disk`).
//!
//! Memory stays the first tier; what it has no room for goes to the disk all the same. One thread (`keeper`) appends what is stored to
//! the newest of a ring of segments and drops the oldest when there is no room; nothing is moved or rewritten in place. An
//! index in memory knows where the newest record of each key lies. A miss looks there, and what is found is read by a
//! background thread: workers never touch the disk. After a start the index is read from the segments, the newest first,
//! while visitors are served.
//!
//! **A purge is never undone by a restart.** Purges have a ledger of their own here (the same as in memory, `cache::ledger`),
//! and each is with the kernel before it is answered ([`Disk::settled`]). Each record carries the sequence up to which it was
//! known to be clean, and is compared with the ledger when it is read. A process that is killed loses nothing of what the
//! kernel has. A machine that goes down does, so after another start of the machine only what was left in order is used.
//! Nothing is synced but at the end.
//!
//! **It is not served under settings that would not have stored it**: each response carries a digest of the settings under which
//! it was judged, and is used under the same only.
//!
//! When the disk fails or is full, all of it is forgotten, told once, and the site goes on from memory.

mod home;
mod index;
mod keeper;
mod record;
mod segment;

pub use home::HomeError;
pub use home::SeenAt;

use crate::cache::Cache;
use crate::cache::Shelf;
use crate::cache::Stored;
use crate::cache::StoredBody;
use crate::cache::Tagged;
use crate::cache::coded::Coded;
use crate::cache::entry::Place;
use crate::cache::ledger::Bounds;
use crate::cache::ledger::Ledger;
use crate::cache::ledger::Order;
use crate::cache::ledger::Verdict;
use crate::clock;
use crate::semantics::coding::Offer;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use crate::telemetry::chain;
use crate::telemetry::metrics::DiskFacts;
use bytes::Bytes;
use home::Found;
use home::Home;
use index::Index;
use index::Slot;
use record::BodyAt;
use record::HEAD;
use record::Head;
use record::Kind;
use record::Moment;
use record::Variant;
use segment::Segment;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::watch;
use tracing::error;
use tracing::info;

/// How the disk is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory.
    pub path: PathBuf,
    /// The most bytes of all files in it.
    pub size: u64,
    /// The memory that its index may take.
    pub index: u64,
}

/// The part of the cache's memory that the index may take.
pub const INDEX_PART: u64 = 16;

/// The disk is divided into so many segments at least; one is what is dropped at a time.
const SEGMENTS: u64 = 64;

/// No segment is longer, so that a place in it is a number of 32 bits.
const SEGMENT_MAX: u64 = 1 << 30;

/// How much the ledger of the disk remembers. When a quarter of it is left, the oldest segments are dropped.
const LEDGER: Bounds = Bounds { records: 256 * 1024, patterns: 1024 };

/// Keys that wait to be written. More are not written: what they name is stored in memory all the same.
const WAITING_MAX: usize = 64 * 1024;

/// Purges that wait to be written. If there are more, everything is purged.
const NOTES_MAX: usize = 64 * 1024;

/// Records that are read at a time. Whoever comes beyond asks the origin.
const READS_MAX: usize = 64;

/// What is only asked about again, its body being on the disk, is written at most this often.
const AGAIN: Duration = Duration::from_secs(60);

/// How long a purge waits to be written before its answer is that it was not.
const SETTLE: Duration = Duration::from_secs(5);

/// The part of the cache on the disk.
#[derive(Debug)]
pub struct Disk {
    home: Home,
    bounds: Sizes,
    ledger: Ledger,
    index: Index,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    inbox: Mutex<Inbox>,
    news: Condvar,
    /// How many of the purges that were noted are with the kernel.
    written: watch::Sender<u64>,
    phase: AtomicU8,
    reading: AtomicUsize,
    tally: Tally,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    disk: u64,
    segment: u64,
    keys: u64,
}

/// What the keeper has to do.
#[derive(Debug, Default)]
struct Inbox {
    notes: VecDeque<record::Purged>,
    /// How many there were.
    noted: u64,
    keys: Keys,
    /// The hash of the key that is being written.
    writing: Option<u64>,
    places: bool,
    end: Option<Ending>,
}

impl Inbox {
    fn waiting(&self) -> usize {
        self.keys.known.len() + self.notes.len() + usize::from(self.writing.is_some())
    }
}

/// Keys that wait to be written, each once.
#[derive(Debug, Default)]
struct Keys {
    /// Whether it is among those for now; otherwise it is among those for later.
    known: HashMap<Arc<[u8]>, bool, foldhash::quality::RandomState>,
    now: VecDeque<Arc<[u8]>>,
    /// Each with its time, the first that is due in front.
    later: VecDeque<(Instant, Arc<[u8]>)>,
}

impl Keys {
    /// Notes a key, for now or to be written at `due`; says whether there was room.
    fn add(&mut self, key: &[u8], due: Option<Instant>) -> bool {
        if let Some(now) = self.known.get_mut(key) {
            if due.is_none() && !*now {
                *now = true;
                self.now.push_back(key.into());
            }
            return true;
        }
        if self.known.len() >= WAITING_MAX {
            return false;
        }
        let key: Arc<[u8]> = key.into();
        self.known.insert(Arc::clone(&key), due.is_none());
        match due {
            None => self.now.push_back(key),
            Some(due) => self.later.push_back((due, key)),
        }
        true
    }

    /// Takes the next key that is due at `now`, or any.
    fn take(&mut self, now: Instant, any: bool) -> Option<Arc<[u8]>> {
        if let Some(key) = self.now.pop_front() {
            self.known.remove(&key);
            return Some(key);
        }
        while let Some((due, _)) = self.later.front() {
            if *due > now && !any {
                return None;
            }
            let (_, key) = self.later.pop_front()?;
            // One that was wanted at once meanwhile has been written.
            if self.known.get(&key) == Some(&false) {
                self.known.remove(&key);
                return Some(key);
            }
        }
        None
    }

    /// When the next key is due.
    fn due(&self) -> Option<Instant> {
        self.later.front().map(|(due, _)| *due)
    }
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// All that waits is written and synced, until then.
    InOrder(Instant),
    /// As if the process were killed.
    AtOnce,
}

/// How it is with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The index is being read; what is in it already can be served.
    Reading,
    /// All is known.
    Ready,
    /// It has failed and is not used any more.
    Failed,
}

/// What came of looking for a key on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// There is nothing under it.
    Absent,
    /// It was purged after it was written.
    Purged,
    /// It was judged under other settings.
    Settings,
    /// Its record or its bodies are damaged, or were dropped.
    Damaged,
    /// The disk failed.
    Error,
    /// Too many are reading, or too many bytes are on their way.
    Busy,
}

#[derive(Debug, Default)]
struct Tally {
    hits: AtomicU64,
    misses: [AtomicU64; Miss::ALL.len()],
    written: AtomicU64,
    records: AtomicU64,
    skipped: AtomicU64,
    errors: AtomicU64,
}

/// Under which settings something is read.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Their digest.
    pub under: u64,
    /// The codings that its site offers.
    pub codings: Offer,
}

impl Miss {
    const ALL: [Self; 6] = [Self::Absent, Self::Purged, Self::Settings, Self::Damaged, Self::Error, Self::Busy];

    /// The word for metrics and explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Purged => "purged",
            Self::Settings => "settings",
            Self::Damaged => "damaged",
            Self::Error => "error",
            Self::Busy => "busy",
        }
    }
}

impl Phase {
    /// The word for metrics and the diary.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

impl Disk {
    /// Takes the directory and begins to keep what is stored in `cache`. `boot` is a number for this start of the machine.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(settings: &Settings, boot: u64, cache: &Arc<Cache>) -> Result<Arc<Self>, HomeError> {
        let (home, mut found) = Home::take(&settings.path, boot)?;
        let failed = |what| move |source| HomeError::Io { what, path: settings.path.clone(), source };
        let places = match found {
            Found::Usable => home.places(),
            Found::Empty(_) => Some(Vec::new()),
        };
        let segments = if places.is_some() { home.segments().map_err(failed("list"))? } else { Vec::new() };
        if places.is_none() {
            home.clear().map_err(failed("empty"))?;
            found = Found::Empty(Some("the file of places is damaged"));
        }
        if let Found::Empty(Some(why)) = found {
            info!(path = %settings.path.display(), why, "the cache on disk is not used; it begins empty");
        }
        for (site, scheme, authority) in places.into_iter().flatten() {
            cache.admit_place(&site, scheme, &authority);
        }
        let segment = (settings.size / SEGMENTS).min(SEGMENT_MAX);
        let ledger = Ledger::beginning(home.sequence(), LEDGER);
        let disk = Arc::new(Self {
            home,
            bounds: Sizes { disk: settings.size, segment, keys: settings.index / index::COST },
            ledger,
            index: Index::default(),
            segments: RwLock::default(),
            inbox: Mutex::default(),
            news: Condvar::new(),
            written: watch::Sender::new(0),
            phase: AtomicU8::new(Phase::Reading as u8),
            reading: AtomicUsize::new(0),
            tally: Tally::default(),
            keeper: Mutex::default(),
        });
        cache.attach(&disk);
        let (of_thread, weak) = (Arc::clone(&disk), Arc::downgrade(cache));
        let keeper = thread::Builder::new()
            .name("tidegate-disk".to_owned())
            .spawn(move || keeper::run(&of_thread, &weak, &segments))
            .map_err(failed("start the thread for"))?;
        *disk.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        Ok(disk)
    }

    /// Writes what waits, syncs everything, and ends; blocks for at most as long as this.
    pub fn close(&self, within: Duration) {
        self.end(Ending::InOrder(clock::mono() + within));
    }

    /// Ends as if the process were killed now: what waits is not written.
    pub fn abandon(&self) {
        self.end(Ending::AtOnce);
    }

    fn end(&self, ending: Ending) {
        self.inbox().end = Some(ending);
        self.news.notify_all();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It never panics; if it did, the next start would see that it has not ended in order.
            let _ = keeper.join();
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Whoever panicked under it has left collections that are whole.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Reading,
            1 => Phase::Ready,
            _ => Phase::Failed,
        }
    }

    fn is_failed(&self) -> bool {
        self.phase() == Phase::Failed
    }

    fn become_ready(&self) {
        let from = Phase::Reading as u8;
        let _ = self.phase.compare_exchange(from, Phase::Ready as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// It is not used any more. Called by the keeper and by readers; the keeper clears the directory.
    fn fail(&self, doing: &'static str, cause: &io::Error) {
        self.tally.errors.fetch_add(1, Ordering::Relaxed);
        if self.phase.swap(Phase::Failed as u8, Ordering::AcqRel) != Phase::Failed as u8 {
            let path = self.home.path().display();
            error!(%path, doing, error = chain(cause), "the cache on disk has failed; it is forgotten and not used any more");
        }
        // Under the lock: the keeper is not between looking and waiting.
        drop(self.inbox());
        self.news.notify_all();
    }

    /// Something was stored under `key`; `again` if its body is on the disk already. Says whether it waits to be written.
    pub(super) fn stored(&self, key: &[u8], again: bool) -> bool {
        if self.is_failed() {
            return false;
        }
        let due = again.then(|| clock::mono() + AGAIN);
        let waits = self.inbox().keys.add(key, due);
        if !waits {
            self.tally.skipped.fetch_add(1, Ordering::Relaxed);
        }
        self.news.notify_one();
        waits
    }

    /// A site was seen in a way that is new.
    pub(super) fn place_seen(&self) {
        self.inbox().places = true;
    }

    /// Carries out in memory, and notes, a purge that names no single key.
    ///
    /// Under the lock both: whoever learns a sequence, of memory's ledger or of ours, has learnt of both or of neither.
    pub(super) fn purge<E>(
        &self,
        order: &Order,
        mode: Mode,
        now: Instant,
        in_memory: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if self.is_failed() {
            return in_memory();
        }
        let mut inbox = self.inbox();
        in_memory()?;
        self.note(&mut inbox, order.clone(), mode, now);
        drop(inbox);
        self.news.notify_one();
        Ok(())
    }

    /// Purges a key, here and in memory; says whether there was anything.
    ///
    /// Here first: a flight that memory's purge does not bar finds nothing here any more. Under the lock both: what is
    /// written later is what the purge has left.
    pub(super) fn purge_key(&self, key: &[u8], mode: Mode, now: Instant, in_memory: impl FnOnce() -> bool) -> bool {
        if self.is_failed() {
            return in_memory();
        }
        let hash = Tag::key(key).value();
        let mut inbox = self.inbox();
        // Before looking: what is being read may be found only afterwards.
        let reading = self.phase() == Phase::Reading;
        let found = match mode {
            Mode::Hard => self.index.remove(hash),
            Mode::Soft => self.index.get(hash).is_some(),
        };
        // What is not there, and is not coming, need not be remembered.
        let noted = found || reading || inbox.writing == Some(hash);
        if noted {
            self.note(&mut inbox, Order::Tags(vec![Tag::key(key)]), mode, now);
        }
        let in_memory = in_memory();
        drop(inbox);
        if noted {
            self.news.notify_one();
        }
        found || in_memory
    }

    fn note(&self, inbox: &mut Inbox, order: Order, mode: Mode, now: Instant) {
        let (mut order, mut mode) = (order, mode);
        if inbox.notes.len() >= NOTES_MAX {
            // All that they and this one name, and more.
            inbox.notes.clear();
            (order, mode) = (Order::All, Mode::Hard);
        }
        let sequence = self.ledger.purge(&order, mode, now).unwrap_or_else(|_| {
            // Too many patterns.
            (order, mode) = (Order::All, Mode::Hard);
            self.ledger.purge_all();
            self.ledger.sequence()
        });
        inbox.notes.push_back(record::Purged { sequence, at: self.moment(), order, mode });
        inbox.noted += 1;
    }

    /// Waits until every purge so far is with the kernel; what is killed then has not forgotten it. `None` if there is nothing to
    /// wait for. The future says whether they are: after five seconds the disk hangs, and nobody knows.
    #[must_use]
    pub fn settled(&self) -> Option<impl Future<Output = bool> + Send + use<>> {
        let noted = self.inbox().noted;
        if self.is_failed() || *self.written.borrow() >= noted {
            return None;
        }
        let mut written = self.written.subscribe();
        Some(async move {
            let wait = written.wait_for(|written| *written >= noted);
            tokio::time::timeout(SETTLE, wait).await.is_ok_and(|seen| seen.is_ok())
        })
    }

    /// Whether something may be found under `key`.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        !self.is_failed() && self.index.get(Tag::key(key).value()).is_some()
    }

    /// Reads what is kept under `key`, as far as it may be served under these terms. Blocks on the disk: not for a worker's
    /// thread.
    ///
    /// # Errors
    /// Why there is nothing.
    pub fn read(&self, cache: &Cache, key: &[u8], terms: &Terms) -> Result<Shelf, Miss> {
        let read = self.read_untold(cache, key, terms);
        let count = match read {
            Ok(_) => &self.tally.hits,
            Err(miss) => &self.tally.misses[miss as usize],
        };
        count.fetch_add(1, Ordering::Relaxed);
        read
    }

    /// The same, counted nowhere: for explanations.
    ///
    /// # Errors
    /// Why there is nothing.
    pub fn read_untold(&self, cache: &Cache, key: &[u8], terms: &Terms) -> Result<Shelf, Miss> {
        if self.is_failed() {
            return Err(Miss::Absent);
        }
        let hash = Tag::key(key).value();
        let Some(slot) = self.index.get(hash) else { return Err(Miss::Absent) };
        let seat = Seat::take(&self.reading).ok_or(Miss::Busy)?;
        let read = self.read_slot(cache, key, slot, terms);
        drop(seat);
        if matches!(read, Err(Miss::Purged | Miss::Damaged | Miss::Absent)) {
            self.index.remove_if(hash, slot);
        }
        read
    }

    fn read_slot(&self, cache: &Cache, key: &[u8], slot: Slot, terms: &Terms) -> Result<Shelf, Miss> {
        // Purges that come from here on are seen by the ledger in memory, all before by ours.
        let inbox = self.inbox();
        let born = cache.ledger().sequence();
        drop(inbox);
        let front = self.bytes(slot.segment, u64::from(slot.offset), slot.front as usize)?;
        let head = Head::read(&front).filter(|head| head.kind == Kind::Shelf).ok_or(Miss::Damaged)?;
        let meta = front.get(HEAD..).filter(|meta| head.fits(meta)).ok_or(Miss::Damaged)?;
        let now = clock::mono();
        let written = record::shelf(meta, now).ok_or(Miss::Damaged)?;
        if *written.key != *key {
            // Another key with the same hash.
            return Err(Miss::Absent);
        }
        let gone = written.at.since(self.moment());
        let base = slot.offset.checked_add(slot.front).ok_or(Miss::Damaged)?;
        let (mut left, mut why) = (Vec::new(), Miss::Settings);
        for variant in written.variants {
            if variant.stored.kept.as_ref().map(|kept| kept.under()) != Some(terms.under) {
                continue;
            }
            let Some(stored) = self.judged(key, variant.stored, written.stamp, gone, now) else {
                why = Miss::Purged;
                continue;
            };
            let variant = Variant { stored, ..variant };
            match self.with_body(cache, variant, (slot.segment, base), born, terms) {
                Ok(stored) => left.push(Arc::new(stored)),
                Err(miss) => why = miss,
            }
        }
        Shelf::of(left).ok_or(why)
    }

    /// What the purges since it was written, and the time, have left of a response.
    fn judged(
        &self,
        key: &[u8],
        mut stored: Stored,
        stamp: u64,
        gone: Option<Duration>,
        now: Instant,
    ) -> Option<Stored> {
        let freshness = &mut stored.freshness;
        if let Some(gone) = gone {
            freshness.initial_age += gone;
        } else {
            // The clock was set back: nobody knows how old it is. It can be asked about, and that is all.
            (freshness.lifetime, freshness.while_revalidate, freshness.if_error) = Default::default();
        }
        let tags = stored.tagged.tags().iter().copied().chain([Tag::key(key)]).collect();
        match self.ledger.judge(key, &Tagged::new(tags, stamp)) {
            Verdict::Clean => Some(stored),
            Verdict::Gone => None,
            Verdict::Soft(at, _) => {
                let freshness = &mut stored.freshness;
                let then = freshness.initial_age.saturating_sub(now.saturating_duration_since(at));
                freshness.lifetime = freshness.lifetime.min(then);
                Some(stored)
            }
        }
    }

    fn with_body(
        &self,
        cache: &Cache,
        variant: Variant,
        (segment, base): (u32, u32),
        born: u64,
        terms: &Terms,
    ) -> Result<Stored, Miss> {
        let Variant { mut stored, coded, body: BodyAt { place, len, sum } } = variant;
        let place = match place {
            Place { segment: 0, offset } => Place { segment, offset: base.checked_add(offset).ok_or(Miss::Damaged)? },
            place => place,
        };
        let share = cache.fills().share(u64::from(len)).ok_or(Miss::Busy)?;
        let bytes =
            if len == 0 { Vec::new() } else { self.bytes(place.segment, u64::from(place.offset), len as usize)? };
        drop(share);
        if record::sum([&bytes[..]]) != sum {
            return Err(Miss::Damaged);
        }
        stored.body = StoredBody::whole(Bytes::from(bytes));
        stored.tagged = stored.tagged.again(born);
        stored.coded = (coded && !terms.codings.is_empty()).then(|| Coded::offering(terms.codings));
        if let Some(kept) = &stored.kept {
            kept.lies_at(place);
        }
        Ok(stored)
    }

    fn bytes(&self, segment: u32, at: u64, len: usize) -> Result<Vec<u8>, Miss> {
        // The oldest segments are dropped, and with them bodies of newer records.
        let segment = self.segment(segment).ok_or(Miss::Absent)?;
        match segment.read(at, len) {
            Ok(bytes) => bytes.ok_or(Miss::Damaged),
            Err(cause) => {
                self.fail("read", &cause);
                Err(Miss::Error)
            }
        }
    }

    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    fn moment(&self) -> Moment {
        Moment::of(clock::now().wall, clock::since_boot(), self.home.boot())
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> DiskFacts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let misses = Miss::ALL.into_iter().map(|miss| (miss.as_str(), count(&self.tally.misses[miss as usize])));
        DiskFacts {
            phase: self.phase().as_str(),
            bytes: self.bytes_used(),
            capacity: self.bounds.disk,
            entries: self.index.len(),
            reads: std::iter::once(("hit", count(&self.tally.hits))).chain(misses).collect(),
            records: count(&self.tally.records),
            written: count(&self.tally.written),
            waiting: self.inbox().waiting() as u64,
            skipped: count(&self.tally.skipped),
            errors: count(&self.tally.errors),
        }
    }

    fn bytes_used(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().map(|segment| segment.size()).sum()
    }
}

/// One of the places among those who read.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(reading: &'a AtomicUsize) -> Option<Self> {
        let seat = Self(reading);
        (reading.fetch_add(1, Ordering::AcqRel) < READS_MAX).then_some(seat)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A number for this start of the machine: after another one, what was not synced may be lost.
#[must_use]
pub fn this_boot() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.is_empty() {
        // Where the kernel does not say, no two runs are of one start.
        let now = clock::now().wall.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        return Tag::named(&now.as_nanos().to_le_bytes()).value();
    }
    Tag::named(&id).value()
}

#[cfg(test)]
mod tests;
