//! What a connection is doing and since when: the time-outs that hyper leaves to us, as one pure decision.
//!
//! The socket, the service and the bodies note events; a watchdog asks [`Activity::verdict`] when its timer fires and sleeps
//! until the moment it names. No timer is registered or reset per request.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// The bounds of a connection's phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From accept (or the end of the TLS handshake) to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// How long a write may stand still because the client does not read.
    pub write_idle: Duration,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No byte came.
    FirstByte,
    /// A head did not become complete.
    Head,
    /// Nobody asked for anything more.
    Idle,
    /// The client does not read what it asked for.
    WriteStalled,
}

/// What the watchdog should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Close the connection.
    Close(Closed),
    /// Ask again then.
    AskAgainAt(Instant),
}

/// The notes of one connection. Times are milliseconds since it began, plus one; zero means never or not now.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    multiplexed: bool,
    in_flight: AtomicU32,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    last_done: AtomicU64,
    heard: AtomicU64,
}

impl Closed {
    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::Head => "head",
            Self::Idle => "idle",
            Self::WriteStalled => "write_stalled",
        }
    }
}

impl Activity {
    /// A connection that began at `now`; `multiplexed` for HTTP/2, where bytes between requests are no head.
    #[must_use]
    pub fn new(now: Instant, multiplexed: bool) -> Self {
        Self {
            began: now,
            multiplexed,
            in_flight: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            last_done: AtomicU64::new(0),
            heard: AtomicU64::new(0),
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, stamp: u64) -> Instant {
        self.began + Duration::from_millis(stamp.saturating_sub(1))
    }

    /// Bytes came from the client.
    pub fn heard(&self, now: impl FnOnce() -> Instant) {
        // Inside a request (a body, or h2 frames) this says nothing new, and saves the clock.
        if self.in_flight.load(Ordering::Relaxed) > 0 || self.head_since.load(Ordering::Relaxed) > 0 {
            return;
        }
        if self.multiplexed {
            // Only the first bytes count: pings without a request prolong nothing.
            if self.heard.load(Ordering::Relaxed) == 0 {
                self.heard.store(self.stamp(now()), Ordering::Relaxed);
            }
        } else {
            self.head_since.store(self.stamp(now()), Ordering::Relaxed);
        }
    }

    /// A request's head is complete.
    pub fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// A response was handed over completely, or given up.
    pub fn request_ended(&self, now: Instant) {
        self.last_done.store(self.stamp(now), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A write had to wait.
    pub fn write_blocked(&self, now: impl FnOnce() -> Instant) {
        if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.stamp(now()), Ordering::Relaxed);
        }
    }

    /// A write made progress.
    pub fn write_moved(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
        }
    }

    /// What is due at `now`.
    #[must_use]
    pub fn verdict(&self, bounds: &Bounds, now: Instant) -> Verdict {
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked > 0 {
            return due(self.instant(blocked) + bounds.write_idle, Closed::WriteStalled, now);
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            // Bodies and origins have bounds of their own; look again when a write could have stood still too long.
            return Verdict::AskAgainAt(now + bounds.write_idle.min(bounds.idle));
        }
        let head = self.head_since.load(Ordering::Relaxed);
        if head > 0 {
            return due(self.instant(head) + bounds.head, Closed::Head, now);
        }
        match (self.heard.load(Ordering::Relaxed), self.last_done.load(Ordering::Relaxed)) {
            (0, 0) => due(self.began + bounds.first_byte, Closed::FirstByte, now),
            // An h2 preface without a request is a head that does not come.
            (first, 0) => due(self.instant(first) + bounds.head, Closed::Head, now),
            // h2 pings do not prolong: only requests count.
            (_, done) => due(self.instant(done) + bounds.idle, Closed::Idle, now),
        }
    }
}

fn due(at: Instant, why: Closed, now: Instant) -> Verdict {
    if now >= at { Verdict::Close(why) } else { Verdict::AskAgainAt(at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        first_byte: Duration::from_secs(10),
        head: Duration::from_secs(5),
        idle: Duration::from_secs(60),
        write_idle: Duration::from_secs(30),
    };

    fn at(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    /// The moment at which a watchdog that follows the verdicts closes the connection, and why.
    fn closes(activity: &Activity, mut now: Instant) -> (Instant, Closed) {
        for _ in 0..100 {
            match activity.verdict(&BOUNDS, now) {
                Verdict::Close(why) => return (now, why),
                Verdict::AskAgainAt(later) => {
                    assert!(later > now, "the watchdog must not spin");
                    now = later;
                }
            }
        }
        panic!("never closed");
    }

    #[test]
    fn silence_slow_heads_and_idling_are_closed_in_time() {
        let began = Instant::now();
        let activity = Activity::new(began, false);
        assert_eq!(closes(&activity, began), (at(began, 10), Closed::FirstByte));
        activity.heard(|| at(began, 9));
        assert_eq!(closes(&activity, began), (at(began, 14), Closed::Head), "dripping bytes do not prolong");
        activity.heard(|| at(began, 13));
        assert_eq!(closes(&activity, began), (at(began, 14), Closed::Head));
        activity.request_began();
        assert_eq!(activity.verdict(&BOUNDS, at(began, 400)), Verdict::AskAgainAt(at(began, 430)));
        activity.request_ended(at(began, 500));
        assert_eq!(closes(&activity, at(began, 500)), (at(began, 560), Closed::Idle));
    }

    #[test]
    fn a_client_that_does_not_read_is_closed_but_a_slow_one_is_not() {
        let began = Instant::now();
        let activity = Activity::new(began, false);
        activity.request_began();
        activity.write_blocked(|| at(began, 1));
        activity.write_blocked(|| at(began, 20));
        assert_eq!(closes(&activity, at(began, 20)), (at(began, 31), Closed::WriteStalled));
        activity.write_moved();
        activity.write_blocked(|| at(began, 29));
        assert_eq!(closes(&activity, at(began, 29)), (at(began, 59), Closed::WriteStalled));
    }

    #[test]
    fn http2_pings_do_not_keep_a_connection_alive_without_requests() {
        let began = Instant::now();
        let activity = Activity::new(began, true);
        activity.heard(|| at(began, 1));
        assert_eq!(closes(&activity, began), (at(began, 6), Closed::Head), "a preface alone is no request");
        activity.request_began();
        activity.request_ended(at(began, 3));
        activity.heard(|| at(began, 50));
        assert_eq!(closes(&activity, at(began, 3)), (at(began, 63), Closed::Idle));
    }
}
