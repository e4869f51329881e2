//! A stored response, and the shelf on which the variants of one URL stand.

use crate::cache::body::StoredBody;
use crate::cache::coded::Coded;
use crate::cache::ledger::Tagged;
use crate::semantics::freshness::Freshness;
use crate::semantics::pack::Packed;
use crate::semantics::vary::Selection;
use http::HeaderMap;
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What an `Arc` has besides what it holds.
pub const COUNTERS: usize = 16;

/// What a body's piece has besides its bytes as soon as somebody has been given it.
pub const PIECE: usize = 32;

/// A response that may be shared.
#[derive(Debug)]
pub struct Stored {
    /// The origin's status.
    pub status: StatusCode,
    /// The head as it is sent: end-to-end fields, `Via` added; without those that each delivery says anew.
    pub head: Packed,
    /// The body.
    pub body: StoredBody,
    /// How long it may be reused, and how.
    pub freshness: Freshness,
    /// Which requests it answers (`Vary`).
    pub selection: Selection,
    /// The fields of the origin's head that visitors do not get, for a 304 is judged with them; mostly none.
    pub hidden: Packed,
    /// By what it can be forgotten besides its URL.
    pub tagged: Tagged,
    /// Its codings, if it is worth any.
    pub coded: Option<Coded>,
    /// What the disk has to know of it, where there is one.
    pub kept: Option<Arc<Kept>>,
}

/// What has to be known of a stored response to keep it on the disk, the same for all copies that have its body.
#[derive(Debug, Default)]
pub struct Kept {
    under: u64,
    place: AtomicU64,
}

/// Where a body lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which segment; they are counted from 1.
    pub segment: u32,
    /// From which byte on.
    pub offset: u32,
}

impl Kept {
    /// Of a response that was judged under these terms: a digest of the settings that decide what is stored.
    #[must_use]
    pub fn under_terms(under: u64) -> Self {
        Self { under, place: AtomicU64::new(0) }
    }

    /// The digest of the settings under which it was judged.
    #[must_use]
    pub fn under(&self) -> u64 {
        self.under
    }

    /// Where the body lies, if it was written.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let place = self.place.load(Ordering::Relaxed);
        let [.., a, b, c, d] = place.to_be_bytes();
        let segment = u32::try_from(place >> 32).unwrap_or(0);
        (place != 0).then_some(Place { segment, offset: u32::from_be_bytes([a, b, c, d]) })
    }

    /// Notes where the body lies.
    pub fn lies_at(&self, place: Place) {
        self.place.store(u64::from(place.segment) << 32 | u64::from(place.offset), Ordering::Relaxed);
    }
}

/// The variants of one URL, newest first.
#[derive(Clone, Debug)]
pub enum Shelf {
    /// The usual case.
    One(Arc<Stored>),
    /// Several, by `Vary`.
    Many(Arc<[Arc<Stored>]>),
}

impl Stored {
    /// The same response with its body complete.
    #[must_use]
    pub fn completed(&self, body: StoredBody) -> Self {
        Self {
            status: self.status,
            head: self.head.clone(),
            body,
            freshness: self.freshness.clone(),
            selection: self.selection.clone(),
            hidden: self.hidden.clone(),
            tagged: self.tagged.clone(),
            coded: self.coded.clone(),
            kept: self.kept.clone(),
        }
    }

    /// The same response, stale since `at`, with soft purges up to `sequence` seen to.
    #[must_use]
    pub fn softened(&self, at: Instant, sequence: u64) -> Self {
        let mut soft = self.completed(self.body.clone());
        soft.freshness.lifetime = soft.freshness.lifetime.min(soft.freshness.age(at));
        soft.tagged = self.tagged.softened(sequence);
        soft
    }

    /// The bytes it takes, everything counted.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields = allocated(self.head.len()) + allocated(self.hidden.len());
        let coded = self.coded.as_ref().map_or(0, Coded::weight);
        let kept = self.kept.as_ref().map_or(0, |_| allocated(COUNTERS + size_of::<Kept>()));
        let besides = [fields, self.selection.weight(), allocated(self.tagged.weight()), coded, kept];
        allocated(COUNTERS + size_of::<Self>()) + self.body.weight() + besides.into_iter().sum::<usize>()
    }
}

/// The bytes that an allocator of size classes takes for so many: four classes between each power of two and the next, and none
/// closer than 16 bytes.
#[must_use]
pub fn allocated(bytes: usize) -> usize {
    let step = (bytes.saturating_sub(1).checked_ilog2().map_or(0, |power| 1 << power) / 4).max(16);
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

impl Shelf {
    /// A shelf with `response` in front, without the variant it replaces, and with at most `max` variants.
    #[must_use]
    pub fn with(before: Option<&Self>, response: &Arc<Stored>, max: usize) -> Self {
        let others: Vec<Arc<Stored>> = before
            .map_or(&[][..], Self::variants)
            .iter()
            .filter(|other| other.selection != response.selection)
            // RFC 9111 4.1: a response without Vary answers every request; what stood beside it is superseded.
            .filter(|_| !response.selection.is_universal())
            .take(max.saturating_sub(1))
            .map(Arc::clone)
            .collect();
        if others.is_empty() {
            return Self::One(Arc::clone(response));
        }
        Self::Many(std::iter::once(Arc::clone(response)).chain(others).collect())
    }

    /// A shelf with these variants; `None` if there are none.
    #[must_use]
    pub fn of(mut variants: Vec<Arc<Stored>>) -> Option<Self> {
        if variants.len() > 1 { Some(Self::Many(variants.into())) } else { variants.pop().map(Self::One) }
    }

    /// All variants.
    #[must_use]
    pub fn variants(&self) -> &[Arc<Stored>] {
        match self {
            Self::One(response) => std::slice::from_ref(response),
            Self::Many(responses) => responses,
        }
    }

    /// The newest variant that answers a request with these headers.
    #[must_use]
    pub fn select(&self, request: &HeaderMap) -> Option<&Arc<Stored>> {
        self.variants().iter().find(|response| response.selection.matches(request))
    }

    /// Whether it is the other.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let (own, others) = (self.variants(), other.variants());
        own.len() == others.len() && own.iter().zip(others).all(|(this, that)| Arc::ptr_eq(this, that))
    }

    /// The bytes it holds, for the cache's budget.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let several = match self {
            Self::One(_) => 0,
            Self::Many(all) => allocated(COUNTERS + size_of_val(&**all)),
        };
        several as u64 + self.variants().iter().map(|response| response.weight() as u64).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_somewhat_more_than_what_is_asked_for() {
        let cases = [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (128, 128),
            (129, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (1024, 1024),
            (1025, 1280),
            (8192, 8192),
            (8193, 10_240),
            (1 << 20, 1 << 20),
            (usize::MAX, usize::MAX),
        ];
        for (asked, given) in cases {
            assert_eq!(allocated(asked), given, "{asked}");
        }
    }
}
