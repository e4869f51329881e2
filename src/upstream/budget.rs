//! How many requests may be sent again: a tenth of all, so that an upstream in trouble does not get more of it.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;

/// What a request earns, in thousandths of a retry.
const EARNED: i64 = 100;

/// What a retry costs.
const COST: i64 = 1000;

/// The most that can be saved up: twenty retries at once.
const SAVED_MAX: i64 = 20 * COST;

/// The retries that may be made.
#[derive(Debug)]
pub struct Budget(AtomicI64);

impl Budget {
    /// As many as can be saved up.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicI64::new(SAVED_MAX))
    }

    /// A request was made.
    pub fn earn(&self) {
        if self.0.load(Ordering::Relaxed) < SAVED_MAX {
            self.0.fetch_add(EARNED, Ordering::Relaxed);
        }
    }

    /// Takes a retry, if there is one.
    #[must_use]
    pub fn spend(&self) -> bool {
        let spend = |saved: i64| (saved >= COST).then_some(saved - COST);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_requests_may_be_sent_again() {
        let budget = Budget::new();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 20, "what was saved up");
        for _ in 0..100 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
