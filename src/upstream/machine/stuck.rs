//! Requests that do not come back: a Zope whose storage is gone takes every request and hangs with it, for minutes, and its
//! health page says 200 all along. Three threads more for it would be three threads lost.
//!
//! An endpoint is stuck when several of its requests have been without an answer for longer than the bound and none has been
//! answered for as long. It is not down: it gets one request beside those that hang, and the first answer makes it well again.
//! Once the head of an answer has come, the rest may take its time: a download takes minutes, a WebSocket lasts for hours.

use std::time::Duration;
use std::time::Instant;

/// How far a request has come that holds a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being sent, or the head of its answer is waited for.
    Head,
    /// The body of its answer is under way.
    Body,
    /// It has become a tunnel.
    Tunnel,
}

impl Stage {
    /// The word for logs and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A request under way; `R` is whatever else is known of it.
#[derive(Clone, Debug)]
pub struct Begun<R> {
    /// Its number.
    pub id: u64,
    /// When it got its thread.
    pub since: Instant,
    /// How far it has come.
    pub stage: Stage,
    /// Nobody waits for its answer any more.
    pub abandoned: bool,
    /// It has taken long, and that was told.
    told: bool,
    /// What else is known of it.
    pub request: R,
}

/// The requests under way at one endpoint.
#[derive(Clone, Debug)]
pub struct Underway<R> {
    begun: Vec<Begun<R>>,
    last_end: Option<Instant>,
}

impl<R> Default for Underway<R> {
    fn default() -> Self {
        Self { begun: Vec::new(), last_end: None }
    }
}

impl<R> Underway<R> {
    /// Request `id` was sent on its way.
    pub fn begin(&mut self, id: u64, request: R, now: Instant) {
        self.begun.push(Begun { id, since: now, stage: Stage::Head, abandoned: false, told: false, request });
    }

    /// Request `id` has ended; gives what was known of it. `answered`: it was the endpoint's doing.
    pub fn end(&mut self, id: u64, answered: bool, now: Instant) -> Option<Begun<R>> {
        let at = self.begun.iter().position(|begun| begun.id == id)?;
        if answered {
            self.last_end = Some(now);
        }
        Some(self.begun.swap_remove(at))
    }

    /// The head of the answer to request `id` has come; it goes on as `stage` says.
    pub fn hear(&mut self, id: u64, stage: Stage, now: Instant) {
        if let Some(begun) = self.find(id) {
            begun.stage = stage;
            self.last_end = Some(now);
        }
    }

    /// Nobody waits for the answer to request `id` any more.
    pub fn abandon(&mut self, id: u64) {
        if let Some(begun) = self.find(id) {
            begun.abandoned = true;
        }
    }

    /// Request `id`.
    pub fn find(&mut self, id: u64) -> Option<&mut Begun<R>> {
        self.begun.iter_mut().find(|begun| begun.id == id)
    }

    /// All requests under way, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Begun<R>> {
        self.begun.iter()
    }

    /// Those that have passed the bound since this was last asked.
    pub fn newly_long(&mut self, now: Instant, bound: Duration) -> impl Iterator<Item = &Begun<R>> {
        let long = move |begun: &Begun<R>| now.saturating_duration_since(begun.since) >= bound;
        self.begun.iter_mut().filter_map(move |begun| {
            let news = !begun.told && long(begun);
            begun.told |= news;
            news.then_some(&*begun)
        })
    }

    /// How many hang, if the endpoint is stuck at `now`.
    #[must_use]
    pub fn stuck(&self, now: Instant, bound: Duration, threads: usize) -> Option<usize> {
        if bound.is_zero() {
            return None;
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= bound;
        if self.last_end.is_some_and(|end| !long(end)) {
            return None;
        }
        let hanging = self.begun.iter().filter(|begun| begun.stage == Stage::Head && long(begun.since)).count();
        (hanging >= threads.clamp(1, 2)).then_some(hanging)
    }

    /// Since when the oldest is under way.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.begun.iter().map(|begun| begun.since).min()
    }
}

/// How many requests an endpoint of so many threads gets while so many hang: one more than those.
#[must_use]
pub fn limit(threads: usize, hanging: usize) -> usize {
    threads.min(hanging + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_that_hang_while_none_ends_are_stuck_and_one_end_is_enough() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let bound = Duration::from_secs(10);
        let mut underway = Underway::default();
        underway.begin(1, (), at(0));
        assert_eq!(underway.stuck(at(60), bound, 4), None, "one long report is no sign");
        assert_eq!(underway.stuck(at(60), bound, 1), Some(1), "unless there is only one thread");
        underway.begin(2, (), at(5));
        underway.begin(3, (), at(12));
        assert_eq!(underway.stuck(at(14), bound, 4), None);
        assert_eq!(underway.stuck(at(15), bound, 4), Some(2));
        assert_eq!(underway.stuck(at(22), bound, 4), Some(3));
        assert_eq!(underway.stuck(at(22), Duration::ZERO, 4), None, "switched off");
        let end = |underway: &mut Underway<()>, id, answered, second| {
            underway.end(id, answered, at(second)).map(|begun| begun.since)
        };
        assert_eq!(end(&mut underway, 3, true, 23), Some(at(12)));
        assert_eq!(underway.stuck(at(32), bound, 4), None, "it works");
        assert_eq!(underway.stuck(at(33), bound, 4), Some(2), "it does not");
        underway.begin(4, (), at(24));
        assert_eq!(end(&mut underway, 2, false, 34), Some(at(5)));
        assert_eq!(underway.stuck(at(35), bound, 4), Some(2), "a visitor who left is no answer");
        assert_eq!(end(&mut underway, 2, false, 34), None);
        assert_eq!(underway.oldest(), Some(at(0)));
    }

    #[test]
    fn tunnels_and_downloads_that_last_do_not_hang() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let bound = Duration::from_secs(10);
        let mut underway = Underway::default();
        for id in 1..=4 {
            underway.begin(id, (), at(0));
        }
        underway.hear(1, Stage::Body, at(1));
        underway.hear(2, Stage::Tunnel, at(1));
        assert_eq!(underway.stuck(at(10), bound, 4), None, "it has answered a moment ago");
        assert_eq!(underway.stuck(at(11), bound, 4), Some(2), "two of four have no answer");
        underway.hear(3, Stage::Body, at(12));
        underway.hear(9, Stage::Body, at(100));
        assert_eq!(underway.stuck(at(100), bound, 4), None);
        assert_eq!(underway.oldest(), Some(at(0)));
    }

    #[test]
    fn a_request_that_takes_long_is_news_once() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let bound = Duration::from_secs(10);
        let mut underway = Underway::default();
        underway.begin(1, "slow", at(0));
        underway.begin(2, "later", at(5));
        let mut news =
            |second, bound| underway.newly_long(at(second), bound).map(|begun| begun.request).collect::<Vec<_>>();
        assert!(news(9, bound).is_empty());
        assert_eq!(news(10, bound), ["slow"]);
        assert_eq!(news(14, bound), [""; 0], "it is no news any more");
        assert_eq!(news(15, bound), ["later"]);
        assert!(news(99, bound).is_empty());
    }

    #[test]
    fn a_stuck_endpoint_gets_one_request_beside_those_that_hang() {
        assert_eq!([2, 3, 4, 9].map(|hanging| limit(4, hanging)), [3, 4, 4, 4]);
    }
}
