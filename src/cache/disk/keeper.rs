//! The one thread that writes: purges first, then what was stored, when it is due. It begins by reading the segments that are
//! there, and ends by syncing what it has written. It is as urgent as other threads: it holds a lock for moments that workers
//! take as well, and they would wait for whoever keeps it from going on.

use crate::cache::Cache;
use crate::cache::disk::Disk;
use crate::cache::disk::Ending;
use crate::cache::disk::Inbox;
use crate::cache::disk::LEDGER;
use crate::cache::disk::index::Slot;
use crate::cache::disk::record;
use crate::cache::disk::record::HEAD;
use crate::cache::disk::segment;
use crate::cache::disk::segment::Purges;
use crate::cache::disk::segment::Segment;
use crate::cache::entry::Place;
use crate::cache::ledger::Order;
use crate::clock;
use crate::semantics::no_vary_search;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use crate::telemetry::chain;
use http::StatusCode;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::info;
use tracing::warn;

/// After so many records read, purges that have come meanwhile are written.
const READ_AT_ONCE: u64 = 256;

/// How often it is tried again to remove what must not be used any more.
const CLEAR_AGAIN: Duration = Duration::from_secs(10);

/// An entry larger than this part of the disk is not kept there.
const LARGEST_PART: u64 = 8;

/// The keeper at work.
struct Keeper<'d> {
    disk: &'d Disk,
    cache: &'d Weak<Cache>,
    current: Option<(Arc<Segment>, Purges)>,
    /// The number of the next segment.
    next: u32,
    /// Files that were written and not synced: purges of segments that are not current any more.
    sealed: Vec<Purges>,
}

/// What is next.
enum Task {
    Notes(Vec<record::Purged>, u64),
    Key(Arc<[u8]>),
    End(Ending),
}

/// Why it stopped: the disk said no, while it was doing this.
struct Failed(&'static str, io::Error);

trait While<T> {
    fn doing(self, what: &'static str) -> Result<T, Failed>;
}

impl<T> While<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, Failed> {
        self.map_err(|cause| Failed(what, cause))
    }
}

/// Runs until it is ended. `found` are the segments of earlier runs, the newest first.
pub(super) fn run(disk: &Disk, cache: &Weak<Cache>, found: &[u32]) {
    let next = found.first().map_or(1, |newest| newest.wrapping_add(1).max(1));
    let mut keeper = Keeper { disk, cache, current: None, next, sealed: Vec::new() };
    if let Err(Failed(doing, cause)) = keeper.work(found) {
        disk.fail(doing, &cause);
    }
    if disk.is_failed() {
        keeper.give_up();
    }
}

impl Keeper<'_> {
    fn work(&mut self, found: &[u32]) -> Result<(), Failed> {
        self.begin_segment()?;
        self.read_all(found)?;
        self.disk.become_ready();
        while !self.disk.is_failed() {
            match self.wait() {
                Task::Notes(notes, through) => self.write_notes(&notes, through)?,
                Task::Key(key) => self.write(&key)?,
                Task::End(Ending::AtOnce) => return Ok(()),
                Task::End(Ending::InOrder(_)) => return self.end(),
            }
        }
        Ok(())
    }

    /// The next task: purges first; then a key that is due; the end when nothing is left, or when its time has come.
    fn wait(&mut self) -> Task {
        let disk = self.disk;
        let mut inbox = disk.inbox();
        inbox.writing = None;
        loop {
            if let Some(task) = take_notes(&mut inbox) {
                return task;
            }
            let now = clock::mono();
            let ending = inbox.end;
            let over = match ending {
                None => false,
                Some(Ending::AtOnce) => true,
                Some(Ending::InOrder(until)) => now >= until,
            };
            if over || disk.is_failed() {
                return Task::End(ending.unwrap_or(Ending::AtOnce));
            }
            if let Some(key) = inbox.keys.take(now, ending.is_some()) {
                // From here on a purge of this key is noted, whatever the index says.
                inbox.writing = Some(Tag::key(&key).value());
                return Task::Key(key);
            }
            if let Some(ending) = ending {
                return Task::End(ending);
            }
            inbox = match inbox.keys.due() {
                Some(due) => wait_for(disk, inbox, due.saturating_duration_since(now)),
                None => disk.news.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Reads what earlier runs have left: the newest first, so that whatever is found is known with all purges that came
    /// after it.
    fn read_all(&mut self, found: &[u32]) -> Result<(), Failed> {
        let began = clock::mono();
        let (mut damaged, mut bad) = (0, None);
        for number in found {
            if self.disk.inbox().end.is_some() {
                // What is not read is there for the next run.
                return Ok(());
            }
            let Some(count) = self.read_segment(*number)? else {
                bad = Some(*number);
                break;
            };
            damaged += count;
        }
        if let Some(bad) = bad {
            // A purge may be missing: whatever was written before it is not to be trusted.
            for number in found.iter().filter(|number| **number <= bad) {
                self.drop_segment(*number)?;
            }
            warn!(segment = bad, "purges on disk are damaged; what was written before is forgotten");
        }
        if !found.is_empty() {
            let (entries, took) = (self.disk.index.len(), clock::mono().saturating_duration_since(began));
            info!(entries, bytes = self.disk.bytes_used(), damaged, ?took, "the cache on disk is read");
        }
        Ok(())
    }

    /// Reads one segment; gives how many damages there were, `None` if a purge may be missing.
    fn read_segment(&mut self, number: u32) -> Result<Option<u64>, Failed> {
        let (disk, home) = (self.disk, self.disk.home.path());
        let Some(purges) = segment::purges(home, number).doing("read purges")? else { return Ok(None) };
        let (now, here) = (clock::mono(), disk.moment());
        for purged in &purges {
            let ago = purged.at.since(here).unwrap_or_default();
            let at = now.checked_sub(ago).unwrap_or(now);
            disk.ledger.replay(&purged.order, purged.mode, at, purged.sequence);
        }
        let Some(segment) = Segment::open(home, number).doing("open a segment")? else {
            // Its purges concern older ones: they go on in ours.
            let kept: Vec<u8> = purges.iter().filter_map(record::purge).flatten().collect();
            self.append_purges(&kept)?;
            segment::remove(home, number).doing("remove a segment")?;
            return Ok(Some(1));
        };
        if purges.is_empty() && segment.is_empty() {
            // Of a run in which nothing happened.
            segment::remove(home, number).doing("remove a segment")?;
            return Ok(Some(0));
        }
        let segment = Arc::new(segment);
        disk.segments.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&segment));
        let cache = self.cache.upgrade();
        let (mut count, mut unreadable, mut failed) = (0_u64, 0, None);
        let mut slots = HashMap::new();
        let damage = segment.scan(|offset, head, meta| {
            count += 1;
            if count % READ_AT_ONCE == 0
                && failed.is_none()
                && let Err(Failed(doing, cause)) = self.write_waiting_notes()
            {
                failed = Some(Failed(doing, cause));
            }
            let Some(written) = record::shelf(meta, now) else {
                unreadable += 1;
                return;
            };
            let front = u32::try_from(HEAD).unwrap_or(0) + head.meta;
            slots.insert(Tag::key(&written.key).value(), Slot { segment: number, offset, front });
            // Which queries are one URL is known from what is stored.
            let newest = written.variants.first().filter(|variant| variant.stored.status == StatusCode::OK);
            if let (Some(cache), Some(newest)) = (&cache, newest)
                && let Some(rule) = no_vary_search::parse(&newest.stored.head.open(0))
            {
                cache.rules().learn_if_new(&written.key, rule);
            }
        });
        let damage = damage.doing("read a segment")?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        self.write_waiting_notes()?;
        if disk.index.len() + slots.len() as u64 <= disk.bounds.keys {
            // All at once: of two records of one key only the newer is ever found.
            for (hash, slot) in slots {
                disk.index.found(hash, slot);
            }
        }
        Ok(Some(damage.records + u64::from(damage.rest) + unreadable))
    }

    fn write_waiting_notes(&mut self) -> Result<(), Failed> {
        let task = take_notes(&mut self.disk.inbox());
        match task {
            Some(Task::Notes(notes, through)) => self.write_notes(&notes, through),
            _ => Ok(()),
        }
    }

    fn write_notes(&mut self, notes: &[record::Purged], through: u64) -> Result<(), Failed> {
        let mut bytes = Vec::new();
        let mut all = false;
        for note in notes {
            all |= matches!((&note.order, note.mode), (Order::All, Mode::Hard));
            // One that is too long for a record purges everything.
            let whole = record::Purged { order: Order::All, mode: Mode::Hard, ..note.clone() };
            bytes.extend(record::purge(note).or_else(|| record::purge(&whole)).unwrap_or_default());
        }
        self.append_purges(&bytes)?;
        self.disk.written.send_replace(through);
        if all {
            // The newest goes last: in it stands that everything before is purged.
            self.begin_segment()?;
            for number in self.numbers().into_iter().filter(|number| number + 1 < self.next).collect::<Vec<_>>() {
                self.drop_segment(number)?;
            }
        }
        if let Some(cache) = self.cache.upgrade() {
            self.rotate()?;
            self.make_room(0, &cache)?;
        }
        Ok(())
    }

    fn append_purges(&mut self, records: &[u8]) -> Result<(), Failed> {
        if let Some((segment, purges)) = &mut self.current {
            purges.append(records).doing("write a purge")?;
            segment.besides(records.len() as u64);
        }
        self.disk.tally.written.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what is stored under `key` now.
    fn write(&mut self, key: &[u8]) -> Result<(), Failed> {
        let (disk, Some(cache)) = (self.disk, self.cache.upgrade()) else { return Ok(()) };
        self.write_places(&cache)?;
        self.rotate()?;
        let inbox = disk.inbox();
        let stamp = disk.ledger.sequence();
        drop(inbox);
        let Some(now) = cache.to_be_kept(key) else { return Ok(()) };
        let is_there = |place: Place| disk.segment(place.segment).is_some();
        let Some(draft) = record::draft(key, &now, (stamp, disk.moment(), clock::mono()), is_there) else {
            return Ok(());
        };
        let len = draft.front.len() as u64 + u64::from(draft.len);
        if len > disk.bounds.disk / LARGEST_PART {
            return Ok(());
        }
        self.make_room(len, &cache)?;
        let Some((segment, _)) = &self.current else { return Ok(()) };
        let at = if draft.len as usize <= AT_ONCE {
            let whole: Vec<u8> = pieces(&draft).flatten().copied().collect();
            segment.append([&whole[..]]).doing("write")?
        } else {
            segment.append(pieces(&draft)).doing("write")?
        };
        disk.tally.written.fetch_add(len, Ordering::Relaxed);
        let (Ok(offset), Ok(front)) = (u32::try_from(at), u32::try_from(draft.front.len())) else { return Ok(()) };
        for (stored, place) in draft.places {
            let base = offset.saturating_add(front);
            if let Some(kept) = &stored.kept {
                kept.lies_at(Place { segment: segment.number, offset: base.saturating_add(place) });
            }
        }
        disk.index.put(Tag::key(key).value(), Slot { segment: segment.number, offset, front });
        // Who sees the count finds the record.
        disk.tally.records.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Purges of a bare path have to reach what is written: its place is on the disk before it is.
    fn write_places(&mut self, cache: &Cache) -> Result<(), Failed> {
        if std::mem::take(&mut self.disk.inbox().places) {
            self.disk.home.write_places(&cache.all_places()).doing("write places")?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Failed> {
        let is_full = |(segment, _): &(Arc<Segment>, Purges)| segment.size() >= self.disk.bounds.segment;
        if self.current.as_ref().is_none_or(is_full) { self.begin_segment() } else { Ok(()) }
    }

    fn begin_segment(&mut self) -> Result<(), Failed> {
        let disk = self.disk;
        let (segment, purges) =
            Segment::begin(disk.home.path(), self.next, disk.ledger.sequence()).doing("begin a segment")?;
        let segment = Arc::new(segment);
        disk.segments.write().unwrap_or_else(PoisonError::into_inner).insert(self.next, Arc::clone(&segment));
        self.next += 1;
        if let Some((_, before)) = self.current.replace((segment, purges)) {
            self.sealed.push(before);
            if self.sealed.len() > SEALED_MAX {
                // Rarely, and of files that are small: the kernel has long written them.
                self.sealed.remove(0).sync().doing("sync purges")?;
            }
        }
        Ok(())
    }

    /// Drops the oldest segments until there is room for a record, its key, and purges to come.
    fn make_room(&mut self, len: u64, cache: &Cache) -> Result<(), Failed> {
        let disk = self.disk;
        loop {
            let ledger = disk.ledger.view();
            let purges = ledger.records > LEDGER.records / 4 * 3 || ledger.patterns > LEDGER.patterns / 4 * 3;
            let files = disk.segments.read().unwrap_or_else(PoisonError::into_inner).len();
            let full = disk.bytes_used() + len > disk.bounds.disk
                || disk.index.len() >= disk.bounds.keys
                || files > SEGMENTS_MAX;
            if !full && !purges {
                return Ok(());
            }
            match self.numbers()[..] {
                [oldest, next, ..] => {
                    self.drop_segment(oldest)?;
                    // Purges from before what is left was written concern nothing any more.
                    if let Some(next) = disk.segment(next) {
                        disk.ledger.swept(next.sequence);
                    }
                }
                [_] if purges => self.begin_segment()?,
                _ => return Ok(()),
            }
            // What is worth memory is worth the disk.
            cache.write_again(|place| disk.segment(place.segment).is_none());
        }
    }

    fn drop_segment(&mut self, number: u32) -> Result<(), Failed> {
        let disk = self.disk;
        disk.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        disk.index.forget(|segment| segment == number);
        segment::remove(disk.home.path(), number).doing("remove a segment")
    }

    /// The segments that are there, the oldest first.
    fn numbers(&self) -> Vec<u32> {
        self.disk.segments.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Everything is written: it is synced, and then said to be whole.
    fn end(&mut self) -> Result<(), Failed> {
        if let Some(cache) = self.cache.upgrade() {
            self.write_places(&cache)?;
        }
        let began = clock::mono();
        for number in self.numbers() {
            if let Some(segment) = self.disk.segment(number) {
                segment.sync().doing("sync")?;
            }
        }
        for purges in self.sealed.drain(..).chain(self.current.take().map(|(_, purges)| purges)) {
            purges.sync().doing("sync")?;
        }
        self.disk.home.end().doing("say that it is whole")?;
        let took = clock::mono().saturating_duration_since(began);
        info!(entries = self.disk.index.len(), bytes = self.disk.bytes_used(), ?took, "the cache on disk is whole");
        Ok(())
    }

    /// The disk has failed: nothing on it may be used by the next run, for purges from now on are missing there.
    fn give_up(&mut self) {
        let disk = self.disk;
        disk.index.forget(|_| true);
        disk.segments.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.current = None;
        disk.written.send_replace(u64::MAX);
        let mut told = false;
        loop {
            match disk.home.clear() {
                Ok(()) => return,
                Err(cause) if !told => {
                    told = true;
                    warn!(
                        error = chain(&cause),
                        "the failed cache on disk cannot be removed yet; a restart might use it"
                    );
                }
                Err(_) => {}
            }
            let inbox = disk.inbox();
            if inbox.end.is_some() {
                return;
            }
            drop(wait_for(disk, inbox, CLEAR_AGAIN));
        }
    }
}

fn take_notes(inbox: &mut Inbox) -> Option<Task> {
    (!inbox.notes.is_empty()).then(|| Task::Notes(inbox.notes.drain(..).collect(), inbox.noted))
}

fn wait_for<'i>(disk: &Disk, inbox: MutexGuard<'i, Inbox>, pause: Duration) -> MutexGuard<'i, Inbox> {
    disk.news.wait_timeout(inbox, pause).unwrap_or_else(PoisonError::into_inner).0
}

fn pieces(draft: &record::Draft) -> impl Iterator<Item = &[u8]> {
    std::iter::once(&draft.front[..]).chain(draft.bodies.iter().map(|piece| &piece[..]))
}

/// Bodies up to this size are copied together with their record's front, to be written at once.
const AT_ONCE: usize = 64 * 1024;

/// Segments that are kept, each an open file: many more than a full disk has, for each start begins a new one.
const SEGMENTS_MAX: usize = 256;

/// Files of purges that are kept open to be synced at the end.
const SEALED_MAX: usize = 16;
