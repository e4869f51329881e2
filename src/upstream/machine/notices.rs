//! How many lines the diary gets about requests: enough to know what is going on, and never so many that they bury the rest.

use std::time::Duration;
use std::time::Instant;

/// The most requests that are named in one [`PERIOD`].
pub const NAMED_MAX: usize = 10;

/// After so long as many may be named again.
pub const PERIOD: Duration = Duration::from_mins(1);

/// What was told in this period, and what was not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notices {
    began: Option<Instant>,
    named: usize,
    unnamed: usize,
}

impl Notices {
    /// How many requests may be named now.
    pub fn left(&mut self, now: Instant) -> usize {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) && self.unnamed == 0 {
            *self = Self { began: Some(now), ..Self::default() };
        }
        NAMED_MAX.saturating_sub(self.named)
    }

    /// So many were named, and so many others not.
    pub fn note(&mut self, named: usize, unnamed: usize) {
        self.named += named;
        self.unnamed += unnamed;
    }

    /// At the end of a period in which some were not named, how many that were; else nothing.
    pub fn owed(&mut self, now: Instant) -> usize {
        if self.began.is_some_and(|began| now.saturating_duration_since(began) >= PERIOD) {
            std::mem::take(&mut self.unnamed)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_long_requests_names_ten_a_minute_and_counts_the_others() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut notices = Notices::default();
        let mut told = Vec::new();
        for second in 0..180 {
            // Five of them each second in the first minute, then one every ten seconds.
            let came = if second < 60 { 5 } else { usize::from(second % 10 == 0) };
            let named = came.min(notices.left(at(second)));
            notices.note(named, came - named);
            told.push((named, notices.owed(at(second))));
        }
        let sum = |range: std::ops::Range<usize>| told[range].iter().map(|(named, _)| named).sum::<usize>();
        assert_eq!([sum(0..60), sum(61..121)], [NAMED_MAX, 6], "{told:?}");
        let owed: Vec<(usize, usize)> =
            told.iter().enumerate().filter(|(_, (_, owed))| *owed > 0).map(|(at, (_, owed))| (at, *owed)).collect();
        assert_eq!(owed, [(60, 291)], "told once, when the minute is over");
    }
}
