//! Who is alive, by what checks and requests tell.
//!
//! ```text
//!          `fall` failed checks in a row, or 3 journeys in a row that broke
//!     Up ------------------------------------------------------------------> Down
//!        <------------------------------------------------------------------
//!          `rise` good checks in a row; without checks, a trial after a pause
//! ```
//!
//! 1. Busy is not down: a check that fails while requests are being completed does not count.
//! 2. One good answer ends a row of broken journeys.
//! 3. A new endpoint is up until something tells otherwise.
//! 4. What broke after it was sent does not call down the last endpoint that takes requests: see [`broken`].

use std::time::Duration;
use std::time::Instant;

/// Journeys in a row that must break before requests alone call an endpoint down.
const BROKEN_MAX: u32 = 3;

/// Alive or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Gets requests.
    Up,
    /// Gets none.
    Down,
}

/// The rules of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Good checks in a row after which it is up.
    pub rise: u32,
    /// Failed checks in a row after which it is down.
    pub fall: u32,
}

/// What is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A check was good.
    CheckGood,
    /// A check failed; `progressing`: requests were completed meanwhile.
    CheckFailed {
        /// Whether requests were completed since the check before.
        progressing: bool,
    },
    /// A request was answered.
    Answered,
    /// A connection could not be made, or broke before an answer.
    Broken,
    /// Nobody checks it and it has been down for a while: let a request try.
    Trial,
}

/// What a journey that broke says about its endpoint. `sent`: the request may have reached it; `last`: no other endpoint of the
/// serving set takes requests.
///
/// Where there is another, little is lost by calling this one down. The last one is all that the site has: a request that breaks
/// its connection, asked for three times, shall not keep all visitors waiting. Nothing is said then, and the checks decide. To
/// where no connection can be made nothing could be sent anyway.
#[must_use]
pub fn broken(sent: bool, last: bool) -> Option<Evidence> {
    (!sent || !last).then_some(Evidence::Broken)
}

/// The health of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    state: State,
    good: u32,
    failed: u32,
    broken: u32,
    since: Instant,
}

impl Health {
    /// An endpoint that nothing is known of yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { state: State::Up, good: 0, failed: 0, broken: 0, since: now }
    }

    /// Alive or not.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// How long it has been so.
    #[must_use]
    pub fn lasting(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether an answer would change anything: if not, the caller need not take the lock.
    #[must_use]
    pub fn is_spotless(&self) -> bool {
        self.broken == 0
    }

    /// Takes evidence; gives the new state if it changed.
    pub fn learn(&mut self, evidence: Evidence, rules: Rules, now: Instant) -> Option<State> {
        match evidence {
            Evidence::CheckGood => {
                self.good += 1;
                self.failed = 0;
            }
            Evidence::CheckFailed { progressing: false } => {
                self.failed += 1;
                self.good = 0;
            }
            Evidence::Answered => self.broken = 0,
            Evidence::Broken => self.broken += 1,
            Evidence::Trial | Evidence::CheckFailed { progressing: true } => {}
        }
        let next = match self.state {
            State::Up if self.failed >= rules.fall || self.broken >= BROKEN_MAX => State::Down,
            State::Down if self.good >= rules.rise || evidence == Evidence::Trial => State::Up,
            same => same,
        };
        if next == self.state {
            return None;
        }
        *self = Self { state: next, good: 0, failed: 0, broken: 0, since: now };
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { rise: 2, fall: 3 };

    fn states(evidence: &[Evidence]) -> Vec<State> {
        let now = Instant::now();
        let mut health = Health::new(now);
        evidence
            .iter()
            .map(|evidence| {
                health.learn(*evidence, RULES, now);
                health.state()
            })
            .collect()
    }

    #[test]
    fn checks_must_agree_in_a_row() {
        use Evidence::CheckGood as Good;
        use State::Down;
        use State::Up;
        let bad = Evidence::CheckFailed { progressing: false };
        assert_eq!(states(&[bad, bad, Good, bad, bad, bad]), [Up, Up, Up, Up, Up, Down]);
        assert_eq!(states(&[bad, bad, bad, Good, bad, Good, Good]), [Up, Up, Down, Down, Down, Down, Up]);
    }

    #[test]
    fn a_busy_zope_is_not_a_dead_one() {
        let busy = Evidence::CheckFailed { progressing: true };
        assert!(states(&[busy; 20]).iter().all(|state| *state == State::Up));
    }

    #[test]
    fn broken_journeys_in_a_row_call_it_down_and_one_answer_does_not() {
        use Evidence::Answered;
        use Evidence::Broken;
        assert_eq!(states(&[Broken, Broken, Answered, Broken, Broken]).last(), Some(&State::Up));
        assert_eq!(states(&[Broken, Broken, Broken]).last(), Some(&State::Down));
        assert_eq!(states(&[Broken, Broken, Broken, Evidence::Trial]).last(), Some(&State::Up));
        assert_eq!(states(&[Broken, Broken, Broken, Evidence::Trial, Broken]).last(), Some(&State::Up), "all anew");
    }

    #[test]
    fn what_broke_after_it_was_sent_says_nothing_about_the_last_endpoint() {
        for (sent, last, expected) in [
            (false, false, Some(Evidence::Broken)),
            (false, true, Some(Evidence::Broken)),
            (true, false, Some(Evidence::Broken)),
            (true, true, None),
        ] {
            assert_eq!(broken(sent, last), expected, "sent {sent}, last {last}");
        }
    }

    #[test]
    fn a_state_lasts_since_it_began() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut health = Health::new(began);
        for second in 1..=3 {
            health.learn(Evidence::Broken, RULES, at(second));
        }
        health.learn(Evidence::Broken, RULES, at(4));
        assert_eq!((health.state(), health.lasting(at(5))), (State::Down, Duration::from_secs(2)));
    }
}
