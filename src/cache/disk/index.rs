//! What lies where on the disk: the hash of a key -> its newest record. In memory, about 32 bytes for each URL, and bounded.
//!
//! Two keys with one hash share a place: the record says for which key it is, so the other is only not found.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Parts with a lock each, so that nobody waits long for one who looks through all of them.
const PARTS: u64 = 64;

/// What a URL costs in the index: its place in the table, at the fill of a table that has just grown.
pub const COST: u64 = 40;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its segment.
    pub segment: u32,
    /// Its first byte.
    pub offset: u32,
    /// The bytes of its head and meta.
    pub front: u32,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    parts: Vec<Mutex<HashMap<u64, Slot, foldhash::fast::RandomState>>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

impl Index {
    fn part(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Slot, foldhash::fast::RandomState>> {
        let at = usize::try_from(hash >> 32 & (PARTS - 1)).unwrap_or(0);
        // A map is whole whoever panicked beside it.
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the newest record of a key lies.
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<Slot> {
        self.part(hash).get(&hash).copied()
    }

    /// The newest record of a key lies here now.
    pub fn put(&self, hash: u64, slot: Slot) {
        self.part(hash).insert(hash, slot);
    }

    /// A record of an earlier run lies here. Segments are read from the newest on, each from its first record on.
    pub fn found(&self, hash: u64, slot: Slot) {
        let mut part = self.part(hash);
        if part.get(&hash).is_none_or(|known| known.segment <= slot.segment) {
            part.insert(hash, slot);
        }
    }

    /// Forgets a key; says whether it was known.
    pub fn remove(&self, hash: u64) -> bool {
        self.part(hash).remove(&hash).is_some()
    }

    /// Forgets a record that turned out to be none, unless a newer one has taken its place.
    pub fn remove_if(&self, hash: u64, slot: Slot) {
        let mut part = self.part(hash);
        if part.get(&hash) == Some(&slot) {
            part.remove(&hash);
        }
    }

    /// Forgets what lies in these segments.
    pub fn forget(&self, is_gone: impl Fn(u32) -> bool) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, slot| !is_gone(slot.segment));
        }
    }

    /// How many keys it knows.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_a_key_is_found_in_whatever_order_they_are_read() {
        let slot = |segment, offset| Slot { segment, offset, front: 1 };
        let index = Index::default();
        for read in [slot(3, 10), slot(3, 20), slot(2, 90), slot(1, 95)] {
            index.found(7, read);
        }
        assert_eq!(index.get(7), Some(slot(3, 20)));
        index.put(8, slot(1, 0));
        assert_eq!(index.len(), 2);
        index.remove_if(7, slot(3, 10));
        assert_eq!(index.get(7), Some(slot(3, 20)), "another has taken its place");
        index.forget(|segment| segment == 1);
        assert_eq!((index.get(8), index.len()), (None, 1));
        assert!(index.remove(7) && !index.remove(7));
    }
}
