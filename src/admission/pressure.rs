//! How short memory is, and what gives way for it: a function of what is taken, what may be taken, and the time.
//!
//! ```text
//!            at 90 %             at 97 %
//!     Calm ----------> Tight ----------> Full
//!          <----------       <----------
//!           below 85 %        below 94 %
//! ```
//!
//! - *Tight*: connections that idle are closed, and those at work end with their answer.
//! - *Full*: besides, new connections are closed at once, what is not stored is answered 503, and the cache forgets a quarter.
//!
//! Each is done when its level is reached, and again after `AGAIN` if that did not help: the allocator gives memory back
//! some seconds after it was freed.

use std::time::Duration;
use std::time::Instant;

/// How long what was done may take to show.
const AGAIN: Duration = Duration::from_secs(15);

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// There is enough.
    #[default]
    Calm,
    /// What costs memory and serves nobody has to go.
    Tight,
    /// Nothing new is taken on.
    Full,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level that holds from now on.
    pub level: Level,
    /// Whether another held before.
    pub changed: bool,
    /// Close what idles.
    pub close_idle: bool,
    /// Forget a part of the cache.
    pub shrink: bool,
}

/// The level, and when something was last done about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    level: Level,
    acted: Option<Instant>,
}

impl Level {
    /// The level after `self` when `used` of `most` bytes are taken.
    #[must_use]
    pub fn next(self, used: u64, most: u64) -> Self {
        let over = |percent: u64| u128::from(used) * 100 >= u128::from(most) * u128::from(percent);
        let at_least = |from: Self, up: u64, down: u64| over(if self >= from { down } else { up });
        if at_least(Self::Full, 97, 94) {
            Self::Full
        } else if at_least(Self::Tight, 90, 85) {
            Self::Tight
        } else {
            Self::Calm
        }
    }

    /// The level of that number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Calm,
            1 => Self::Tight,
            _ => Self::Full,
        }
    }
}

impl Gauge {
    /// Takes a reading.
    pub fn read(&mut self, used: u64, most: u64, now: Instant) -> Step {
        let level = self.level.next(used, most);
        let (changed, worse) = (level != self.level, level > self.level);
        self.level = level;
        let due = self.acted.is_none_or(|acted| now.saturating_duration_since(acted) >= AGAIN);
        let act = level > Level::Calm && (worse || due);
        if act {
            self.acted = Some(now);
        }
        Step { level, changed, close_idle: act, shrink: act && level == Level::Full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_later_than_it_is_reached() {
        use Level::Calm;
        use Level::Full;
        use Level::Tight;
        for (before, used, after) in [
            (Calm, 0, Calm),
            (Calm, 899, Calm),
            (Calm, 900, Tight),
            (Calm, 970, Full),
            (Calm, u64::MAX, Full),
            (Tight, 969, Tight),
            (Tight, 850, Tight),
            (Tight, 849, Calm),
            (Full, 940, Full),
            (Full, 939, Tight),
            (Full, 100, Calm),
        ] {
            assert_eq!(before.next(used, 1000), after, "{before:?} at {used}");
        }
        assert_eq!(Calm.next(5, 0), Full, "nothing may be taken");
    }

    #[test]
    fn what_is_done_is_done_once_and_again_when_it_did_not_help() {
        let (began, mut gauge) = (Instant::now(), Gauge::default());
        let mut told = |used: u64, seconds: u64| {
            let step = gauge.read(used, 100, began + Duration::from_secs(seconds));
            (step.level as u8, step.changed, step.close_idle, step.shrink)
        };
        assert_eq!(told(50, 0), (0, false, false, false));
        assert_eq!(told(91, 1), (1, true, true, false));
        assert_eq!(told(92, 2), (1, false, false, false));
        assert_eq!(told(98, 3), (2, true, true, true), "at once when it gets worse");
        assert_eq!(told(98, 17), (2, false, false, false));
        assert_eq!(told(98, 18), (2, false, true, true));
        assert_eq!(told(93, 19), (1, true, false, false));
        assert_eq!(told(93, 40), (1, false, true, false));
        assert_eq!(told(80, 60), (0, true, false, false));
        assert_eq!(told(80, 99), (0, false, false, false));
    }
}
