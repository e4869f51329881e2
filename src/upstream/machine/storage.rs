//! Whether the storage behind an upstream can be relied on, by what its servers say.
//!
//! 1. A server that takes writes but lacks transactions that were seen before is refused: its Zopes would show what is no
//!    more, and write over what they do not know.
//! 2. After an outage the Zopes are given time to connect.

use std::time::Duration;
use std::time::Instant;

/// How long the Zopes are waited for after an outage.
const CLIENTS_WITHIN: Duration = Duration::from_secs(15);

/// What one server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its address.
    pub server: String,
    /// Whether it takes writes.
    pub writable: bool,
    /// When its last transaction was, in nanoseconds since the epoch of ZODB's time stamps.
    pub last: u64,
    /// Its clients.
    pub clients: u64,
}

/// What operators demand of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How far the last transaction may be behind the newest that was seen; none: however far.
    pub lag: Option<Duration>,
    /// How many clients must be connected after an outage before it is used.
    pub clients: u64,
}

/// Whether it can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Good,
    /// None takes writes.
    Gone,
    /// The one that takes writes lacks so much.
    Behind {
        /// Which.
        server: String,
        /// How much.
        lag: Duration,
    },
    /// So many of its clients have yet to come back.
    Lonely {
        /// Which server.
        server: String,
        /// How many are missing.
        missing: u64,
    },
}

/// What is remembered of a storage.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// The newest transaction that a server had while it took writes.
    newest: u64,
    /// Since when it is back, while its clients are waited for.
    back: Option<Instant>,
    /// It was gone.
    gone: bool,
}

impl Storage {
    /// Judges by what the servers that answer say.
    pub fn judge(&mut self, told: &[Told], rules: Rules, now: Instant) -> Verdict {
        // Two that take writes: only one of them can be in use, and it is the newer one.
        let Some(best) = told.iter().filter(|one| one.writable).max_by_key(|one| one.last) else {
            self.gone = true;
            self.back = None;
            return Verdict::Gone;
        };
        let lag = Duration::from_nanos(self.newest.saturating_sub(best.last));
        if rules.lag.is_some_and(|most| lag > most) {
            self.gone = true;
            self.back = None;
            return Verdict::Behind { server: best.server.clone(), lag };
        }
        if self.gone {
            let since = *self.back.get_or_insert(now);
            let missing = rules.clients.saturating_sub(best.clients);
            if missing > 0 && now.saturating_duration_since(since) < CLIENTS_WITHIN {
                return Verdict::Lonely { server: best.server.clone(), missing };
            }
        }
        (self.gone, self.back) = (false, None);
        self.newest = best.last.max(if rules.lag.is_some() { self.newest } else { 0 });
        Verdict::Good
    }

    /// An operator takes the storage as it is, whatever it lacks.
    pub fn accept(&mut self) {
        self.newest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn told(writable: bool, last: u64, clients: u64) -> Told {
        Told { server: format!("at {last}"), writable, last: last * SECOND, clients }
    }

    #[test]
    fn a_storage_that_lacks_what_was_seen_is_refused_until_it_is_accepted() {
        let now = Instant::now();
        let rules = Rules { lag: Some(Duration::from_secs(1)), clients: 0 };
        let mut storage = Storage::default();
        assert_eq!(storage.judge(&[told(true, 100, 0), told(false, 99, 0)], rules, now), Verdict::Good);
        assert_eq!(storage.judge(&[told(false, 99, 0)], rules, now), Verdict::Gone);
        let behind = Verdict::Behind { server: "at 98".to_owned(), lag: Duration::from_secs(2) };
        assert_eq!(storage.judge(&[told(true, 98, 0)], rules, now), behind);
        assert_eq!(storage.judge(&[told(true, 99, 0)], rules, now), Verdict::Good, "within the bound");
        assert_eq!(storage.judge(&[told(true, 98, 0)], rules, now), behind, "the newest is still remembered");
        assert_eq!(storage.judge(&[told(true, 98, 0), told(true, 100, 0)], rules, now), Verdict::Good);
        storage.accept();
        assert_eq!(storage.judge(&[told(true, 50, 0)], rules, now), Verdict::Good);
        let anything = Rules { lag: None, clients: 0 };
        assert_eq!(storage.judge(&[told(true, 1, 0)], anything, now), Verdict::Good);
        assert_eq!(storage.judge(&[told(true, 1, 0)], rules, now), Verdict::Good);
    }

    #[test]
    fn after_an_outage_its_clients_are_waited_for_and_not_for_ever() {
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let rules = Rules { lag: None, clients: 2 };
        let lonely = |missing| Verdict::Lonely { server: "at 1".to_owned(), missing };
        let mut storage = Storage::default();
        assert_eq!(storage.judge(&[told(true, 1, 0)], rules, at(0)), Verdict::Good, "it was never seen to be gone");
        for (second, answer, verdict) in [
            (1, vec![], Verdict::Gone),
            (2, vec![told(true, 1, 0)], lonely(2)),
            (3, vec![told(true, 1, 1)], lonely(1)),
            (4, vec![told(true, 1, 2)], Verdict::Good),
            (5, vec![told(true, 1, 1)], Verdict::Good),
            (6, vec![], Verdict::Gone),
            (7, vec![told(true, 1, 1)], lonely(1)),
            (8, vec![], Verdict::Gone),
            (9, vec![told(true, 1, 1)], lonely(1)),
            (23, vec![told(true, 1, 1)], lonely(1)),
            (24, vec![told(true, 1, 1)], Verdict::Good),
        ] {
            assert_eq!(storage.judge(&answer, rules, at(second)), verdict, "after {second} s");
        }
    }
}
