//! How slow is too slow: bytes earn patience, waiting spends it.
//!
//! Who sends a byte now and then keeps every pause short and still holds what he was given for ever. So patience is a
//! stock: full at the beginning, spent by waiting, filled up again at the least rate that is asked for, and never fuller
//! than at the beginning, so that a fast beginning does not pay for a slow end.

use std::time::Duration;

/// The patience with one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The least bytes per second; zero asks for none.
    rate: u64,
    most: Duration,
    left: Duration,
}

impl Pace {
    /// Full patience: `most` for who sends nothing, more for who sends at `rate` bytes per second or faster.
    #[must_use]
    pub fn new(rate: u64, most: Duration) -> Self {
        Self { rate, most, left: most }
    }

    /// How long may be waited from now on.
    #[must_use]
    pub fn left(&self) -> Duration {
        if self.rate == 0 { Duration::MAX } else { self.left }
    }

    /// So long was waited.
    pub fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// So many bytes came.
    pub fn moved(&mut self, bytes: u64) {
        if self.left == self.most || self.rate == 0 {
            return;
        }
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate);
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The seconds after which a peer that sends `bytes` every `pause` seconds has used up all patience.
    fn given_up_after(rate: u64, bytes: u64, pause: u64) -> Option<u64> {
        let mut pace = Pace::new(rate, seconds(30));
        (1..10_000).find(|_| {
            pace.waited(seconds(pause));
            let spent = pace.left() == Duration::ZERO;
            pace.moved(bytes);
            spent
        })
    }

    #[test]
    fn who_drips_is_given_up_and_who_is_merely_slow_is_not() {
        assert_eq!(given_up_after(100, 0, 1), Some(30));
        assert_eq!(given_up_after(100, 50, 1), Some(59));
        assert_eq!(given_up_after(100, 100, 1), None);
        assert_eq!(given_up_after(100, 2500, 25), None, "in bursts");
        assert_eq!(given_up_after(100, 1, 29), Some(2));
        assert_eq!(given_up_after(0, 1, 29), None, "nothing is asked for");
    }

    #[test]
    fn a_fast_beginning_pays_for_no_slow_end() {
        let mut pace = Pace::new(100, seconds(30));
        pace.moved(1 << 40);
        pace.waited(seconds(30));
        assert_eq!(pace.left(), Duration::ZERO);
        pace.moved(100);
        assert_eq!(pace.left(), seconds(1));
        pace.moved(u64::MAX);
        assert!(pace.left() > seconds(29) || pace.left() == seconds(30));
    }

    proptest! {
        #[test]
        fn patience_is_never_more_than_at_the_beginning(rate: u64, moves: Vec<(u64, u32)>) {
            let mut pace = Pace::new(rate, seconds(30));
            for (bytes, waited) in moves {
                pace.waited(Duration::from_micros(waited.into()));
                pace.moved(bytes);
                prop_assert!(rate == 0 || pace.left() <= seconds(30));
            }
        }
    }
}
