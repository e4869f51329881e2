//! Whose answers were for one client only (what Varnish calls hit-for-miss): asked on the way of every pass, so it is small and
//! quick. Two generations of marks, each of half the bound: when the younger is full it becomes the elder, and those of the elder
//! that nobody has asked for meanwhile are forgotten.

use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// How many keys are remembered, and for how long, so that they are not collapsed again.
const KEYS_MAX: usize = 50_000;
const FOR: Duration = Duration::from_mins(1);

/// Each has a lock of its own.
const PARTS: usize = 16;

/// What is known of whom the answer to a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Nothing.
    Unknown,
    /// For one client only.
    Private(Mark),
    /// So it was; but unless that is noted again, it is soon forgotten.
    Fading(Mark),
}

/// Why the answer to a key was private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The reason.
    pub why: &'static str,
    /// By what it said so ([`crate::semantics::policy::said`]), if that was reason enough.
    pub said: Option<u64>,
}

impl Privacy {
    /// Why it is, or was, for one client only.
    #[must_use]
    pub fn why(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Private(mark) | Self::Fading(mark) => Some(mark.why),
        }
    }
}

/// By the hash of their keys. Nobody knows its seed, and for keys that share one a private answer costs no more than that
/// both are asked for side by side.
type Marks = HashMap<u64, (Mark, Instant), foldhash::fast::RandomState>;

#[derive(Default)]
struct Part {
    young: Marks,
    old: Marks,
}

/// The marks.
#[derive(Default)]
pub struct Privates {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

impl Privates {
    /// Remembers that the answer to `key` was private. What is known already is noted again only when half of its time is over.
    pub fn note(&self, key: &[u8], mark: Mark, now: Instant) {
        let (hash, mut part) = self.part(key);
        if part.privacy(hash, now) != Privacy::Private(mark) {
            part.put(hash, (mark, now));
        }
    }

    /// What is known of whom the answer to `key` is for.
    #[must_use]
    pub fn privacy(&self, key: &[u8], now: Instant) -> Privacy {
        let (hash, mut part) = self.part(key);
        part.privacy(hash, now)
    }

    /// Whether the last answer to `key` was private, by all that is known.
    #[must_use]
    pub fn knows(&self, key: &[u8], now: Instant) -> bool {
        self.privacy(key, now) != Privacy::Unknown
    }

    /// Forgets that the answer to `key` was private.
    pub fn forget(&self, key: &[u8]) {
        let (hash, mut part) = self.part(key);
        part.young.remove(&hash);
        part.old.remove(&hash);
    }

    /// Forgets all.
    pub fn clear(&self) {
        for part in &self.parts {
            *lock(part) = Part::default();
        }
    }

    fn part(&self, key: &[u8]) -> (u64, MutexGuard<'_, Part>) {
        let hash = self.hasher.hash_one(key);
        // The upper bits: the maps go by the lower ones.
        (hash, lock(&self.parts[(hash >> 32) as usize % PARTS]))
    }
}

impl Part {
    /// What is known; who is asked for is young again.
    fn privacy(&mut self, hash: u64, now: Instant) -> Privacy {
        let known = self.young.get(&hash).copied();
        let Some((mark, since)) = known.or_else(|| self.old.remove(&hash).inspect(|old| self.put(hash, *old))) else {
            return Privacy::Unknown;
        };
        if now < since + FOR / 2 {
            Privacy::Private(mark)
        } else if now < since + FOR {
            Privacy::Fading(mark)
        } else {
            Privacy::Unknown
        }
    }

    fn put(&mut self, hash: u64, mark: (Mark, Instant)) {
        if self.young.len() >= KEYS_MAX / PARTS / 2 && !self.young.contains_key(&hash) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, mark);
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: Mark = Mark { why: "private", said: Some(7) };
    const COOKIE: Mark = Mark { why: "set_cookie", said: None };

    #[test]
    fn a_mark_fades_is_renewed_and_is_forgotten() {
        let (privates, began) = (Privates::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(privates.privacy(b"a", began), Privacy::Unknown);
        privates.note(b"a", PRIVATE, began);
        privates.note(b"a", PRIVATE, at(29));
        assert_eq!(privates.privacy(b"a", at(29)), Privacy::Private(PRIVATE));
        assert_eq!(privates.privacy(b"a", at(30)), Privacy::Fading(PRIVATE), "not renewed while it was young");
        privates.note(b"a", PRIVATE, at(59));
        assert_eq!(privates.privacy(b"a", at(88)), Privacy::Private(PRIVATE));
        privates.note(b"a", COOKIE, at(88));
        assert_eq!(privates.privacy(b"a", at(88)), Privacy::Private(COOKIE));
        assert_eq!(privates.privacy(b"a", at(148)), Privacy::Unknown);
        privates.note(b"b", PRIVATE, at(148));
        privates.forget(b"b");
        assert_eq!(privates.privacy(b"b", at(148)), Privacy::Unknown);
        privates.note(b"b", PRIVATE, at(148));
        privates.clear();
        assert_eq!(privates.privacy(b"b", at(148)), Privacy::Unknown);
    }

    #[test]
    fn the_eldest_are_forgotten_and_what_is_asked_for_stays() {
        let (privates, now) = (Privates::default(), Instant::now());
        for number in 0..10 * KEYS_MAX {
            privates.note(&number.to_ne_bytes(), PRIVATE, now);
            if number % 1000 == 0 {
                privates.note(b"popular", PRIVATE, now);
            }
        }
        let kept = privates.parts.iter().map(|part| lock(part)).map(|part| part.young.len() + part.old.len());
        assert!((KEYS_MAX / 3..=KEYS_MAX).contains(&kept.sum()));
        assert_eq!(privates.privacy(b"popular", now), Privacy::Private(PRIVATE));
        assert_eq!(privates.privacy(&0_usize.to_ne_bytes(), now), Privacy::Unknown);
    }
}
