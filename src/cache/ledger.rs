//! The ledger of purges that name no single key: by tag, by subtree, by pattern.
//!
//! There is no index from tags to what is stored. A purge writes `tag -> sequence`, in constant time. Every stored response
//! knows the sequence at which its fetch began and the last one at which it was proved clean; while no purge has come since,
//! a look-up compares two numbers. Otherwise its tags are looked up: a purge later than its beginning concerns it.
//!
//! Bounds: so many records, so many patterns. When half of the records are used, or a pattern waits, a *sweep* proves
//! everything that is stored; then all older entries of the ledger can be dropped, for what has not been proved since (the
//! *floor*) counts as purged. If purges outrun the sweeps, the floor is raised at once: that forgets too much, never too
//! little.

use crate::semantics::key;
use crate::semantics::pattern::Pattern;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Tags of which purges are remembered at a time, about 60 bytes each.
pub const RECORDS_MAX: usize = 64 * 1024;

/// Patterns that wait for a sweep; each is matched against whatever is asked for meanwhile.
pub const PATTERNS_MAX: usize = 64;

/// What a stored response has to know to be purged by a tag.
#[derive(Debug)]
pub struct Tagged {
    tags: Box<[Tag]>,
    /// The sequence when its fetch began: later purges concern it.
    born: u64,
    /// Soft purges up to this one have been seen to.
    softened: u64,
    /// The last sequence at which it was clean.
    proved: AtomicU64,
}

/// What the ledger says of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No purge concerns it.
    Clean,
    /// It is stale since then; all purges up to this sequence are seen to with that.
    Soft(Instant, u64),
    /// It is purged.
    Gone,
}

/// What a pattern purge names.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// Only of the site with this tag.
    pub site: Option<Tag>,
    /// Paths that this matches; without it, all.
    pub pattern: Option<Pattern>,
    /// Whether the query is matched as well.
    pub with_query: bool,
}

/// A purge that names no single key.
#[derive(Clone, Debug)]
pub enum Order {
    /// Whatever has one of these tags.
    Tags(Vec<Tag>),
    /// What a pattern names.
    Reach(Reach),
    /// Everything.
    All,
}

/// So many patterns wait for a sweep already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{PATTERNS_MAX} purges by pattern are still being carried out; try again in some seconds")]
pub struct Busy;

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    sequence: AtomicU64,
    bounds: Bounds,
    book: RwLock<Book>,
}

/// How much a ledger remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tags.
    pub records: usize,
    /// Patterns.
    pub patterns: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::beginning(0, Bounds { records: RECORDS_MAX, patterns: PATTERNS_MAX })
    }
}

#[derive(Debug, Default)]
struct Book {
    /// What was proved clean no later than before this sequence counts as purged.
    floor: u64,
    records: HashMap<Tag, Record, RandomState>,
    bans: Vec<Ban>,
    raised: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    hard: u64,
    soft: u64,
    soft_at: Option<Instant>,
}

#[derive(Debug)]
struct Ban {
    sequence: u64,
    reach: Reach,
    mode: Mode,
    at: Instant,
}

/// The ledger as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerView {
    /// Purges so far.
    pub sequence: u64,
    /// Tags of which purges are remembered.
    pub records: usize,
    /// Patterns that wait for a sweep.
    pub patterns: usize,
    /// How often too much was forgotten because purges outran the sweeps.
    pub raised: u64,
}

impl Tagged {
    /// A response with these tags whose fetch began at `born`.
    #[must_use]
    pub fn new(mut tags: Vec<Tag>, born: u64) -> Self {
        tags.sort_unstable();
        tags.dedup();
        Self { tags: tags.into(), born, softened: born, proved: born.into() }
    }

    /// The same tags on what was fetched, or found good, at `born`.
    #[must_use]
    pub fn again(&self, born: u64) -> Self {
        Self { tags: self.tags.clone(), born, softened: born, proved: born.into() }
    }

    /// The same, with soft purges up to `sequence` seen to.
    #[must_use]
    pub fn softened(&self, sequence: u64) -> Self {
        Self { tags: self.tags.clone(), born: self.born, softened: sequence, proved: sequence.into() }
    }

    /// Whether it was proved clean after the last purge.
    #[must_use]
    pub fn is_proved(&self, sequence: u64) -> bool {
        self.proved() >= sequence
    }

    /// The tags, sorted.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The bytes they take.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.tags.len() * size_of::<Tag>()
    }

    fn proved(&self) -> u64 {
        self.proved.load(Ordering::Acquire)
    }

    fn has(&self, tag: Tag) -> bool {
        self.tags.binary_search(&tag).is_ok()
    }
}

impl Clone for Tagged {
    fn clone(&self) -> Self {
        let proved = self.proved().into();
        Self { tags: self.tags.clone(), born: self.born, softened: self.softened, proved }
    }
}

impl Ledger {
    /// A ledger whose purges are counted from `sequence` on.
    #[must_use]
    pub fn beginning(sequence: u64, bounds: Bounds) -> Self {
        Self { sequence: sequence.into(), bounds, book: RwLock::default() }
    }

    /// Purges what `order` names. Gives the purge's sequence.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn purge(&self, order: &Order, mode: Mode, now: Instant) -> Result<u64, Busy> {
        match order {
            Order::Tags(tags) => self.purge_tags(tags, mode, now),
            Order::Reach(reach) => return self.purge_reach(reach.clone(), mode, now),
            Order::All => self.purge_all(),
        }
        Ok(self.sequence())
    }

    /// Notes a purge of an earlier run, whose sequence lies before the first of this one. In any order.
    pub fn replay(&self, order: &Order, mode: Mode, at: Instant, sequence: u64) {
        let mut book = self.write();
        let room = match order {
            Order::Tags(tags) => book.records.len() + tags.len() <= self.bounds.records,
            Order::Reach(_) => book.bans.len() < self.bounds.patterns,
            Order::All => false,
        };
        if !room {
            // What was proved before it counts as purged.
            book.floor = book.floor.max(sequence);
            return;
        }
        match order {
            Order::Tags(tags) => {
                for tag in tags {
                    let record = book.records.entry(*tag).or_default();
                    match mode {
                        Mode::Hard => record.hard = record.hard.max(sequence),
                        Mode::Soft if record.soft < sequence => {
                            (record.soft, record.soft_at) = (sequence, Some(at));
                        }
                        Mode::Soft => {}
                    }
                }
            }
            Order::Reach(reach) => book.bans.push(Ban { sequence, reach: reach.clone(), mode, at }),
            Order::All => {}
        }
    }

    /// The sequence of the last purge: what is fetched from now on knows all up to it.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Purges whatever has one of `tags`. In constant time for each.
    pub fn purge_tags(&self, tags: &[Tag], mode: Mode, now: Instant) {
        let mut book = self.write();
        let sequence = self.sequence() + 1;
        if book.records.len() + tags.len() > self.bounds.records {
            // The sweeps did not keep up. Everything counts as purged, so nothing needs to be remembered.
            book.floor = sequence;
            book.raised += 1;
            book.records.clear();
            book.bans.clear();
        }
        for tag in tags {
            let record = book.records.entry(*tag).or_default();
            match mode {
                Mode::Hard => record.hard = sequence,
                Mode::Soft => (record.soft, record.soft_at) = (sequence, Some(now)),
            }
        }
        // Under the lock: who reads the sequence finds the records that go with it.
        self.sequence.store(sequence, Ordering::Release);
    }

    /// Purges whatever `reach` names, at once for whoever asks, and for good by the next sweep.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn purge_reach(&self, reach: Reach, mode: Mode, now: Instant) -> Result<u64, Busy> {
        let mut book = self.write();
        if mode == Mode::Hard {
            // The same once more takes the place of the first: whatever that concerned, this one does.
            book.bans.retain(|ban| ban.mode != mode || ban.reach != reach);
        }
        if book.bans.len() >= self.bounds.patterns {
            return Err(Busy);
        }
        let sequence = self.sequence() + 1;
        book.bans.push(Ban { sequence, reach, mode, at: now });
        self.sequence.store(sequence, Ordering::Release);
        Ok(sequence)
    }

    /// Purges everything, in constant time.
    pub fn purge_all(&self) {
        let mut book = self.write();
        let sequence = self.sequence() + 1;
        book.floor = sequence;
        book.records.clear();
        book.bans.clear();
        self.sequence.store(sequence, Ordering::Release);
    }

    /// What is to be done with a response stored under `key`.
    #[must_use]
    pub fn judge(&self, key: &[u8], tagged: &Tagged) -> Verdict {
        let book = self.read();
        let sequence = self.sequence();
        let proved = tagged.proved();
        if proved >= sequence {
            return Verdict::Clean;
        }
        if proved < book.floor {
            return Verdict::Gone;
        }
        let mut soft: Option<Instant> = None;
        let mut soften = |at: Instant| soft = Some(soft.map_or(at, |other| other.min(at)));
        for record in tagged.tags.iter().filter_map(|tag| book.records.get(tag)) {
            if record.hard > tagged.born {
                return Verdict::Gone;
            }
            if let Some(at) = record.soft_at.filter(|_| record.soft > tagged.softened) {
                soften(at);
            }
        }
        for ban in &book.bans {
            let since = if ban.mode == Mode::Hard { tagged.born } else { tagged.softened };
            if ban.sequence <= since.max(proved) || !ban.reach.includes(key, tagged) {
                continue;
            }
            match ban.mode {
                Mode::Hard => return Verdict::Gone,
                Mode::Soft => soften(ban.at),
            }
        }
        if let Some(at) = soft {
            return Verdict::Soft(at, sequence);
        }
        tagged.proved.fetch_max(sequence, Ordering::AcqRel);
        Verdict::Clean
    }

    /// Whether a sweep is due.
    #[must_use]
    pub fn wants_sweep(&self) -> bool {
        let book = self.read();
        !book.bans.is_empty() || book.records.len() > self.bounds.records / 2
    }

    /// Everything that is stored was proved at `sequence` or later: what is older in the ledger is not needed any more.
    pub fn swept(&self, sequence: u64) {
        let mut book = self.write();
        book.floor = book.floor.max(sequence);
        book.records.retain(|_, record| record.hard.max(record.soft) > sequence);
        book.bans.retain(|ban| ban.sequence > sequence);
        if book.records.capacity() > self.bounds.records {
            book.records.shrink_to(self.bounds.records / 2);
        }
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> LedgerView {
        let book = self.read();
        LedgerView {
            sequence: self.sequence(),
            records: book.records.len(),
            patterns: book.bans.len(),
            raised: book.raised,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Book> {
        // Whoever panicked under it has left maps and numbers that are whole.
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reach {
    fn includes(&self, key: &[u8], tagged: &Tagged) -> bool {
        if self.site.is_some_and(|site| !tagged.has(site)) {
            return false;
        }
        let Some(pattern) = &self.pattern else { return true };
        // A key that cannot be read is none of ours; to forget it costs a rendering.
        let Some(parts) = key::parts(key) else { return true };
        match parts.query.filter(|_| self.with_query) {
            Some(query) => pattern.matches(&format!("{}?{query}", parts.path)),
            None => pattern.matches(parts.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::accept::AcceptClass;
    use crate::semantics::key::KeyBuf;
    use crate::semantics::key::Parts;
    use proptest::prelude::*;

    fn key(path: &str) -> Vec<u8> {
        KeyBuf::new()
            .build(&Parts { scheme: "http", authority: "a", path, query: None, accept: AcceptClass::Any })
            .to_vec()
    }

    fn tag(number: u64) -> Tag {
        Tag::from_value(number + 1)
    }

    fn tagged(ledger: &Ledger, tags: &[u64]) -> Tagged {
        Tagged::new(tags.iter().map(|number| tag(*number)).collect(), ledger.sequence())
    }

    #[test]
    fn a_purge_concerns_what_began_before_it_and_nothing_else() {
        let (ledger, now, key) = (Ledger::default(), Instant::now(), key("/"));
        let (before, other) = (tagged(&ledger, &[1, 2]), tagged(&ledger, &[3]));
        assert_eq!(ledger.judge(&key, &before), Verdict::Clean);
        ledger.purge_tags(&[tag(2)], Mode::Hard, now);
        let after = tagged(&ledger, &[1, 2]);
        assert_eq!(ledger.judge(&key, &before), Verdict::Gone);
        assert_eq!(ledger.judge(&key, &before), Verdict::Gone, "it does not come back");
        assert_eq!(ledger.judge(&key, &other), Verdict::Clean);
        assert!(other.is_proved(ledger.sequence()), "it need not be compared again");
        assert_eq!(ledger.judge(&key, &after), Verdict::Clean);
        ledger.purge_all();
        assert_eq!(ledger.judge(&key, &after), Verdict::Gone);
    }

    #[test]
    fn a_soft_purge_is_seen_to_once() {
        let (ledger, now, key) = (Ledger::default(), Instant::now(), key("/"));
        let first = tagged(&ledger, &[1]);
        ledger.purge_tags(&[tag(1)], Mode::Soft, now);
        let Verdict::Soft(at, sequence) = ledger.judge(&key, &first) else { panic!("it is stale") };
        assert_eq!(at, now);
        let stale = first.softened(sequence);
        assert_eq!(ledger.judge(&key, &stale), Verdict::Clean);
        ledger.purge_tags(&[tag(1)], Mode::Hard, now);
        assert_eq!(ledger.judge(&key, &stale), Verdict::Gone);
    }

    #[test]
    fn patterns_reach_their_paths_on_their_site_until_the_sweep_and_after_it() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let site = tag(9);
        let here = tagged(&ledger, &[9]);
        let there = tagged(&ledger, &[8]);
        let late = tagged(&ledger, &[9]);
        let reach = |glob: &str| Reach { site: Some(site), pattern: Pattern::glob(glob).ok(), with_query: false };
        ledger.purge_reach(reach("/a/**"), Mode::Hard, now).unwrap();
        assert!(ledger.wants_sweep());
        assert_eq!(ledger.judge(&key("/a/b"), &here), Verdict::Gone);
        assert_eq!(ledger.judge(&key("/b"), &here), Verdict::Clean);
        assert_eq!(ledger.judge(&key("/a/b"), &there), Verdict::Clean);
        ledger.swept(ledger.sequence());
        assert!(!ledger.wants_sweep());
        assert_eq!(ledger.judge(&key("/a/b"), &late), Verdict::Gone, "what began before and comes late is not trusted");
        for _ in 0..PATTERNS_MAX {
            ledger.purge_reach(reach("/x"), Mode::Soft, now).unwrap();
        }
        assert_eq!(ledger.purge_reach(reach("/x"), Mode::Soft, now), Err(Busy));
    }

    #[test]
    fn memory_is_bounded_and_too_many_purges_forget_too_much() {
        let (ledger, now, key) = (Ledger::default(), Instant::now(), key("/"));
        let stored = tagged(&ledger, &[u64::MAX - 1]);
        for number in 0..200_000 {
            ledger.purge_tags(&[tag(number)], Mode::Hard, now);
            assert!(ledger.view().records <= RECORDS_MAX);
        }
        assert_eq!(ledger.judge(&key, &stored), Verdict::Gone);
        assert!(ledger.view().raised > 0);
        assert_eq!(ledger.judge(&key, &tagged(&ledger, &[5])), Verdict::Clean);
    }

    /// What a purger and a cache may do, and what must hold of it: the plain truth beside the ledger.
    #[derive(Clone, Debug)]
    enum Step {
        Store(u8),
        Purge(u8),
        Sweep,
        Ask(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6_u8).prop_map(Step::Store),
            (0..6_u8).prop_map(Step::Purge),
            Just(Step::Sweep),
            (0..8_usize).prop_map(Step::Ask),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn nothing_purged_is_ever_clean_and_nothing_else_is_gone(steps in steps()) {
            let (ledger, now, key) = (Ledger::default(), Instant::now(), key("/"));
            // Each stored response with whether a purge has named one of its tags since.
            let mut stored: Vec<(Tagged, u8, bool)> = Vec::new();
            for step in steps {
                match step {
                    Step::Store(number) => {
                        stored.push((tagged(&ledger, &[number.into(), u64::from(number) + 100]), number, false));
                    }
                    Step::Purge(number) => {
                        ledger.purge_tags(&[tag(number.into())], Mode::Hard, now);
                        for entry in stored.iter_mut().filter(|entry| entry.1 == number) {
                            entry.2 = true;
                        }
                    }
                    Step::Sweep => {
                        let through = ledger.sequence();
                        stored.retain(|(tagged, ..)| ledger.judge(&key, tagged) == Verdict::Clean);
                        ledger.swept(through);
                    }
                    Step::Ask(at) => {
                        if let Some((tagged, _, purged)) = stored.get(at) {
                            let gone = ledger.judge(&key, tagged) == Verdict::Gone;
                            prop_assert_eq!(gone, *purged);
                        }
                    }
                }
            }
        }
    }
}
