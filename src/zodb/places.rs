//! Where the last record of each object is, for all objects of a file as far as a bound allows.
//!
//! Object ids are given out in order, so neighbours share a page; a file of scattered ids only fills the bound sooner. What
//! is not known here is looked up in the file.

use crate::zodb::tid::Oid;
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// Objects on one page.
const PAGE: usize = 512;

/// Positions by object id.
pub struct Places {
    pages: Vec<Box<[u64; PAGE]>>,
    /// Which page has the objects whose ids divided by [`PAGE`] are this.
    by_id: HashMap<u64, usize, RandomState>,
    last: (u64, usize),
    pages_max: usize,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its last record is here.
    At(u64),
    /// It has had no record yet.
    Nowhere,
    /// There was no room to remember it.
    Forgotten,
}

impl Places {
    /// Remembers in at most about `bytes` of memory.
    pub fn new(bytes: usize) -> Self {
        Self {
            pages: Vec::new(),
            by_id: HashMap::default(),
            last: (u64::MAX, 0),
            pages_max: bytes / (PAGE * size_of::<u64>()),
        }
    }

    /// Where the object's last record was so far; from now on it is `here` (which is not 0).
    pub fn swap(&mut self, oid: Oid, here: u64) -> Place {
        let number = oid.0 / PAGE as u64;
        if self.last.0 != number {
            let pages = self.pages.len();
            let Some(page) = self.by_id.get(&number).copied().or_else(|| (pages < self.pages_max).then_some(pages))
            else {
                return Place::Forgotten;
            };
            if page == pages {
                self.pages.push(Box::new([0; PAGE]));
                self.by_id.insert(number, page);
            }
            self.last = (number, page);
        }
        // The remainder is below PAGE, and a page is as long.
        let slot = &mut self.pages[self.last.1][usize::try_from(oid.0 % PAGE as u64).unwrap_or(0)];
        match std::mem::replace(slot, here) {
            0 => Place::Nowhere,
            before => Place::At(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_forgotten_and_what_is_known_stays_known() {
        let mut places = Places::new(2 * PAGE * 8);
        assert_eq!(places.swap(Oid(1), 100), Place::Nowhere);
        assert_eq!(places.swap(Oid(u64::MAX), 200), Place::Nowhere);
        assert_eq!(places.swap(Oid(1 << 40), 300), Place::Forgotten, "two pages are taken");
        assert_eq!(places.swap(Oid(1), 400), Place::At(100));
        assert_eq!(places.swap(Oid(2), 500), Place::Nowhere);
        assert_eq!(places.swap(Oid(u64::MAX), 600), Place::At(200));
    }
}
