//! From down to a full share: a Zope that has just started has empty caches, and four visitors at once would fill its threads
//! for many seconds.
//!
//! ```text
//!     Cold --a round of warm-up paths is fast, or it has lasted long enough--> Rising --`ramp` is over--> Warm
//!       ^ it came up                                     limit 1 .. threads
//! ```
//!
//! Where nobody else serves, it has lasted long enough when an outage is not worth waiting for any longer.

use std::time::Duration;
use std::time::Instant;

/// How far an endpoint has come since it was down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gets no visitors yet.
    Cold {
        /// Since when it is up.
        since: Instant,
    },
    /// Gets more and more.
    Rising {
        /// Since when.
        since: Instant,
    },
    /// Gets its full share.
    Warm,
}

/// What warming up means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Fast enough for a page.
    pub until: Duration,
    /// Long enough for being cold.
    pub at_most: Duration,
    /// The time of rising.
    pub ramp: Duration,
}

impl Phase {
    /// It has come up at `now`; `paths`: there is something to warm it with.
    #[must_use]
    pub fn begin(now: Instant, paths: bool) -> Self {
        if paths { Self::Cold { since: now } } else { Self::Rising { since: now } }
    }

    /// The next phase at `now`; `slowest`: the slowest page of a whole round of warm-up paths, if there was one.
    #[must_use]
    pub fn next(self, now: Instant, slowest: Option<Duration>, rules: &Rules) -> Self {
        match self {
            Self::Cold { since } => {
                let fast = slowest.is_some_and(|slowest| slowest <= rules.until);
                let long = now.saturating_duration_since(since) >= rules.at_most;
                if fast || long { Self::Rising { since: now } } else { self }
            }
            Self::Rising { since } if now.saturating_duration_since(since) >= rules.ramp => Self::Warm,
            same => same,
        }
    }

    /// How many of its `threads` it may use at `now`.
    #[must_use]
    pub fn limit(self, now: Instant, threads: usize, rules: &Rules) -> usize {
        match self {
            Self::Cold { .. } => 0,
            Self::Rising { since } => {
                let risen = now.saturating_duration_since(since).as_millis();
                let ramp = rules.ramp.as_millis().max(1);
                let more = (threads.saturating_sub(1) as u128 * risen / ramp).min(threads as u128);
                threads.min(1 + usize::try_from(more).unwrap_or(threads))
            }
            Self::Warm => threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gets_visitors_when_it_is_fast_and_all_of_them_after_the_ramp() {
        let seconds = Duration::from_secs;
        let rules = Rules { until: seconds(1), at_most: seconds(60), ramp: seconds(10) };
        let now = Instant::now();
        let mut phase = Phase::begin(now, true);
        for (at, slowest, limit) in [
            (0, None, 0),
            (5, Some(seconds(8)), 0),
            (9, None, 0),
            (10, Some(seconds(1)), 1),
            (14, None, 2),
            (19, None, 3),
            (20, None, 4),
            (21, None, 4),
        ] {
            phase = phase.next(now + seconds(at), slowest, &rules);
            assert_eq!(phase.limit(now + seconds(at), 4, &rules), limit, "after {at} s");
        }
        assert_eq!(phase, Phase::Warm);
        let cold = Phase::begin(now, true);
        assert_eq!(cold.next(now + seconds(60), Some(seconds(9)), &rules), Phase::Rising { since: now + seconds(60) });
        assert_eq!(Phase::begin(now, false), Phase::Rising { since: now });
    }
}
