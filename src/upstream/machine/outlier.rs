//! Who stands out: an endpoint whose answers fail, or take much longer than those of its neighbours, rests for a while.
//!
//! 1. Only in comparison: when all fail alike, the fault is not this endpoint's.
//! 2. Never more than half of those that serve rest at a time, and never the last one.
//! 3. Who stands out again rests longer.

use std::time::Duration;
use std::time::Instant;

/// How many answers are looked back on.
const LOOKED_BACK: usize = 32;

/// How many answers say something about failures.
const FAILURES_OF: usize = 10;

/// A median below this is never slow.
const SLOW_FROM: Duration = Duration::from_secs(1);

/// How much slower than the slowest of the others is slow.
const SLOWER: u32 = 4;

/// The longest rest, in units of the first.
const RESTS_MAX: u32 = 10;

/// The last answers of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Window {
    answers: Vec<Sample>,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    failed: bool,
    took: Duration,
}

/// What the last answers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many there are.
    pub of: usize,
    /// How many of them failed.
    pub failed: usize,
    /// Half of them took no longer.
    pub median: Duration,
}

/// In what an endpoint stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In nothing.
    Ordinary,
    /// Its answers fail.
    Failing,
    /// Its answers take long.
    Slow,
}

/// An endpoint's rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    since: Option<Instant>,
    until: Option<Instant>,
    ended: Option<Instant>,
    times: u32,
}

impl Window {
    /// One more answer.
    pub fn push(&mut self, failed: bool, took: Duration) {
        let sample = Sample { failed, took };
        if self.answers.len() < LOOKED_BACK {
            self.answers.push(sample);
        } else if let Some(oldest) = self.answers.get_mut(self.next) {
            *oldest = sample;
        }
        self.next = (self.next + 1) % LOOKED_BACK;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What they say.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut times: Vec<Duration> = self.answers.iter().map(|sample| sample.took).collect();
        times.sort_unstable();
        Summary {
            of: times.len(),
            failed: self.answers.iter().filter(|sample| sample.failed).count(),
            median: times.get(times.len() / 2).copied().unwrap_or_default(),
        }
    }
}

/// Judges an endpoint beside the others that serve.
#[must_use]
pub fn judge(own: &Summary, others: &[Summary]) -> Verdict {
    if own.of < FAILURES_OF {
        return Verdict::Ordinary;
    }
    let (of, failed) = others.iter().fold((0, 0), |(of, failed), other| (of + other.of, failed + other.failed));
    // Half of its answers fail, and of the others' less than a quarter.
    if of >= FAILURES_OF && own.failed * 2 >= own.of && failed * 4 < of {
        return Verdict::Failing;
    }
    let known = others.iter().filter(|other| other.of >= LOOKED_BACK / 2);
    let slowest = known.map(|other| other.median).max();
    let slow = |slowest: Duration| own.of >= LOOKED_BACK / 2 && own.median >= SLOW_FROM.max(slowest * SLOWER);
    if slowest.is_some_and(slow) { Verdict::Slow } else { Verdict::Ordinary }
}

/// Whether one more may rest, when so many serve of whom so many rest already.
#[must_use]
pub fn may_rest(serving: usize, resting: usize) -> bool {
    (resting + 1) * 2 <= serving
}

impl Rest {
    /// Begins, for `first` or longer when the last rest is not long ago.
    pub fn begin(&mut self, now: Instant, first: Duration) {
        let again = self.ended.is_some_and(|ended| now.saturating_duration_since(ended) < first * 2 * RESTS_MAX);
        self.times = if again { (self.times + 1).min(RESTS_MAX) } else { 1 };
        self.since = Some(now);
        self.until = Some(now + first * self.times);
    }

    /// Ends, if it is time; says whether it ended now.
    pub fn end(&mut self, now: Instant) -> bool {
        let over = self.until.is_some_and(|until| until <= now);
        if over {
            self.until = None;
            self.ended = Some(now);
        }
        over
    }

    /// Since when it lasts.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.until.and(self.since)
    }

    /// Until when it lasts.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(of: usize, failed: usize, median: u64) -> Summary {
        Summary { of, failed, median: Duration::from_millis(median) }
    }

    #[test]
    fn who_fails_or_dawdles_beside_others_that_do_not_stands_out() {
        use Verdict::Failing;
        use Verdict::Ordinary;
        use Verdict::Slow;
        let good = summary(32, 0, 100);
        for (own, others, verdict) in [
            (summary(32, 16, 100), vec![good], Failing),
            (summary(32, 15, 100), vec![good], Ordinary),
            (summary(9, 9, 100), vec![good], Ordinary),
            (summary(32, 32, 100), vec![], Ordinary),
            (summary(32, 32, 100), vec![summary(32, 16, 100), good], Ordinary),
            (summary(32, 32, 100), vec![summary(3, 0, 100)], Ordinary),
            (summary(32, 0, 1000), vec![good, summary(32, 0, 250)], Slow),
            (summary(32, 0, 1000), vec![good, summary(32, 0, 300)], Ordinary),
            (summary(32, 0, 900), vec![good], Ordinary),
            (summary(15, 0, 9000), vec![good], Ordinary),
            (summary(32, 0, 9000), vec![summary(15, 0, 10)], Ordinary),
        ] {
            assert_eq!(judge(&own, &others), verdict, "{own:?} beside {others:?}");
        }
    }

    #[test]
    fn half_of_them_may_rest_and_never_the_last() {
        let may = |serving| (0..serving).find(|resting| !may_rest(serving, *resting)).unwrap_or(serving);
        assert_eq!([1, 2, 3, 4, 5].map(may), [0, 1, 1, 2, 2]);
    }

    #[test]
    fn the_last_answers_count_and_older_ones_do_not() {
        let mut window = Window::default();
        for _ in 0..20 {
            window.push(true, Duration::from_secs(9));
        }
        assert_eq!(window.summary(), summary(20, 20, 9000));
        for at in 0..32 {
            window.push(false, Duration::from_millis(at));
        }
        assert_eq!(window.summary(), summary(32, 0, 16));
    }

    #[test]
    fn rests_grow_while_they_follow_each_other() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let (mut rest, mut now) = (Rest::default(), began);
        for length in [1, 2, 3] {
            rest.begin(now, second);
            assert_eq!(rest.until(), Some(now + second * length));
            assert!(!rest.end(now) && rest.end(now + second * length) && !rest.end(now + second * length));
            now += second * length;
        }
        for _ in 0..20 {
            rest.begin(now, second);
            now += second * RESTS_MAX;
            assert!(rest.end(now), "none is longer than that");
        }
        now += second * 2 * RESTS_MAX;
        rest.begin(now, second);
        assert_eq!(rest.until(), Some(now + second));
    }
}
