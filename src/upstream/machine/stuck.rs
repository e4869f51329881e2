//! Requests that do not come back: a Zope whose storage is gone takes every request and hangs with it, for minutes, and its
//! health page says 200 all along. Three threads more for it would be three threads lost.
//!
//! An endpoint is stuck when several of its requests have been without an answer for longer than the bound and none has been
//! answered for as long. It is not down: it gets one request beside those that hang, and the first answer makes it well again.
//! Once the head of an answer has come, the rest may take its time: a download takes minutes, a WebSocket lasts for hours.

use std::time::Duration;
use std::time::Instant;

/// The requests under way at one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Underway {
    begun: Vec<Begun>,
    last_end: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    id: u64,
    at: Instant,
    /// The head of its answer has come.
    heard: bool,
}

impl Underway {
    /// Request `id` was sent on its way.
    pub fn begin(&mut self, id: u64, now: Instant) {
        self.begun.push(Begun { id, at: now, heard: false });
    }

    /// The head of the answer to request `id` has come; it goes on.
    pub fn hear(&mut self, id: u64, now: Instant) {
        if let Some(begun) = self.begun.iter_mut().find(|begun| begun.id == id) {
            begun.heard = true;
            self.last_end = Some(now);
        }
    }

    /// Request `id` has ended; says when it began. `answered`: it was the endpoint's doing.
    pub fn end(&mut self, id: u64, answered: bool, now: Instant) -> Option<Instant> {
        let at = self.begun.iter().position(|begun| begun.id == id)?;
        if answered {
            self.last_end = Some(now);
        }
        Some(self.begun.swap_remove(at).at)
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
        let hanging = self.begun.iter().filter(|begun| !begun.heard && long(begun.at)).count();
        (hanging >= threads.clamp(1, 2)).then_some(hanging)
    }

    /// Since when the oldest is under way.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.begun.iter().map(|begun| begun.at).min()
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
        underway.begin(1, at(0));
        assert_eq!(underway.stuck(at(60), bound, 4), None, "one long report is no sign");
        assert_eq!(underway.stuck(at(60), bound, 1), Some(1), "unless there is only one thread");
        underway.begin(2, at(5));
        underway.begin(3, at(12));
        assert_eq!(underway.stuck(at(14), bound, 4), None);
        assert_eq!(underway.stuck(at(15), bound, 4), Some(2));
        assert_eq!(underway.stuck(at(22), bound, 4), Some(3));
        assert_eq!(underway.stuck(at(22), Duration::ZERO, 4), None, "switched off");
        assert_eq!(underway.end(3, true, at(23)), Some(at(12)));
        assert_eq!(underway.stuck(at(32), bound, 4), None, "it works");
        assert_eq!(underway.stuck(at(33), bound, 4), Some(2), "it does not");
        underway.begin(4, at(24));
        assert_eq!(underway.end(2, false, at(34)), Some(at(5)));
        assert_eq!(underway.stuck(at(35), bound, 4), Some(2), "a visitor who left is no answer");
        assert_eq!(underway.end(2, false, at(34)), None);
        assert_eq!(underway.oldest(), Some(at(0)));
    }

    #[test]
    fn tunnels_and_downloads_that_last_do_not_hang() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let bound = Duration::from_secs(10);
        let mut underway = Underway::default();
        for id in 1..=4 {
            underway.begin(id, at(0));
        }
        underway.hear(1, at(1));
        underway.hear(2, at(1));
        assert_eq!(underway.stuck(at(10), bound, 4), None, "it has answered a moment ago");
        assert_eq!(underway.stuck(at(11), bound, 4), Some(2), "two of four have no answer");
        underway.hear(3, at(12));
        underway.hear(9, at(100));
        assert_eq!(underway.stuck(at(100), bound, 4), None);
        assert_eq!(underway.oldest(), Some(at(0)));
    }

    #[test]
    fn a_stuck_endpoint_gets_one_request_beside_those_that_hang() {
        assert_eq!([2, 3, 4, 9].map(|hanging| limit(4, hanging)), [3, 4, 4, 4]);
    }
}
