//! How long somebody waits for a thread: in line, through an outage, and in line again.
//!
//! 1. For a thread of endpoints that serve he waits for `patience`, counted from the last outage's end if one came in between:
//!    what is no fault of the line's does not count.
//! 2. While nobody serves he waits for as long as those who come then: to the end of the outage's hold, whether he stood in
//!    line before it began or not.
//! 3. Whatever happens, he waits no longer than twice `patience` and once `hold`.

use std::time::Duration;
use std::time::Instant;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The longest wait for a thread.
    pub patience: Duration,
    /// How long an endpoint is waited for, from the beginning of an outage.
    pub hold: Duration,
}

/// Whether anybody serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Somebody does.
    On {
        /// When the last outage ended, if there was one.
        since: Option<Instant>,
    },
    /// Nobody does, and it is worth waiting for so long; zero: no longer.
    Out(Duration),
}

/// What becomes of him when the time has come that he waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// He waits on.
    Wait,
    /// No thread was free for too long.
    TooLong,
    /// Nobody serves, and has not for too long.
    NobodyServes,
}

/// One who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    until: Instant,
    latest: Instant,
    /// From when his patience is counted.
    counted: Instant,
    parked: bool,
}

impl Wait {
    /// Somebody begins to wait.
    #[must_use]
    pub fn begin(now: Instant, rules: Rules, service: Service) -> Self {
        let latest = now + rules.patience * 2 + rules.hold;
        let (until, parked) = match service {
            Service::On { .. } => (now + rules.patience, false),
            Service::Out(left) => (now + left, true),
        };
        Self { until, latest, counted: now, parked }
    }

    /// When to ask [`Wait::judge`], if his turn has not come.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Whether he has waited because nobody served.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// The time has come that he waited for.
    pub fn judge(&mut self, now: Instant, rules: Rules, service: Service) -> Verdict {
        let (until, refused) = match service {
            Service::Out(left) => {
                self.parked = true;
                (now + left, Verdict::NobodyServes)
            }
            Service::On { since } => {
                self.counted = self.counted.max(since.unwrap_or(self.counted));
                (self.counted + rules.patience, Verdict::TooLong)
            }
        };
        self.until = until.min(self.latest);
        if self.until > now { Verdict::Wait } else { refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { patience: Duration::from_secs(30), hold: Duration::from_secs(60) };

    /// When somebody who came at second `came` is refused, and why, if no thread is ever free and these are the outages.
    fn refused(came: u64, outages: &[(u64, u64)]) -> (u64, Verdict, bool) {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let service = |second: u64| {
            let hold = RULES.hold.as_secs();
            match outages.iter().find(|(from, to)| (*from..*to).contains(&second)) {
                Some((from, _)) => Service::Out(Duration::from_secs((from + hold).saturating_sub(second))),
                None => {
                    Service::On { since: outages.iter().map(|(_, to)| *to).filter(|to| *to <= second).max().map(at) }
                }
            }
        };
        let mut wait = Wait::begin(at(came), RULES, service(came));
        loop {
            let second = (wait.until() - began).as_secs();
            match wait.judge(at(second), RULES, service(second)) {
                Verdict::Wait => assert!(wait.until() > at(second)),
                verdict => return (second, verdict, wait.is_parked()),
            }
        }
    }

    #[test]
    fn who_stood_in_line_when_an_outage_began_waits_like_those_who_come_after() {
        use Verdict::NobodyServes;
        use Verdict::TooLong;
        for (came, outages, expected) in [
            (100, &[][..], (130, TooLong, false)),
            (100, &[(40, 50)], (130, TooLong, false)),
            // It begins while he stands in line, or just before he comes.
            (100, &[(110, 1000)], (170, NobodyServes, true)),
            (110, &[(110, 1000)], (170, NobodyServes, true)),
            (120, &[(110, 1000)], (170, NobodyServes, true)),
            (129, &[(110, 150)], (180, TooLong, true)),
            (100, &[(110, 150)], (180, TooLong, true)),
            // It is over before his patience is: it does not count.
            (100, &[(110, 115)], (145, TooLong, false)),
            // He comes when it has lasted too long already.
            (180, &[(110, 1000)], (180, NobodyServes, true)),
            // One after the other: he waits for no more than twice 30 and 60.
            (100, &[(110, 160), (180, 230), (250, 300)], (220, NobodyServes, true)),
            (100, &[(110, 160), (185, 190), (215, 218)], (220, TooLong, true)),
        ] {
            assert_eq!(refused(came, outages), expected, "came at {came}, outages {outages:?}");
        }
    }

    #[test]
    fn whatever_comes_nobody_waits_for_ever() {
        let outages: Vec<(u64, u64)> = (0..1000).map(|at| (100 + 7 * at, 103 + 7 * at)).collect();
        for came in 90..130 {
            let (second, ..) = refused(came, &outages);
            assert!(second <= came + 120, "came at {came}, left at {second}");
        }
    }
}
