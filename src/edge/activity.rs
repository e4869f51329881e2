//! What a connection is doing and since when: the time-outs that hyper leaves to us, as one pure decision.
//!
//! The socket, the service and the bodies note events; a watchdog asks [`Activity::verdict`] when its timer fires and sleeps
//! until the moment it names. No timer is registered or reset per request.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
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

/// A moment in a connection's own count: half as large as an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(NonZero<u64>);

/// Why a client is cut off in the middle of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// Frames that bring nothing, beyond all measure.
    Frames,
    /// Requests that cannot be answered, again and again.
    Faults,
}

/// Whose turn it is on one HTTP/2 stream.
#[derive(Debug)]
pub struct Turn {
    began: Instant,
    /// Since when it is the client's, in milliseconds since `began`, plus one; zero is not his.
    client: AtomicU64,
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
    /// Milliseconds for which writes stood still and nothing that was taken since makes up.
    debt: AtomicU64,
    /// The least bytes per second at which the client must take what it asked for; 0 asks for none.
    rate_min: u64,
    faults: AtomicU32,
    /// The [`Abuse`], if there was any.
    abuse: AtomicU32,
    stalled: AtomicU32,
    given_up: AtomicBool,
    /// The turn of the HTTP/2 stream that is just beginning.
    turn: Mutex<Option<Arc<Turn>>>,
}

/// A connection's requests that could not be answered, after which it is cut off. Who means well and errs closes long before.
const FAULTS_MAX: u32 = 100;

impl Abuse {
    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Faults => "faults",
        }
    }
}

impl Turn {
    /// On a stream that begins at `now`; it is ours.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now, client: AtomicU64::new(0) }
    }

    /// It is the client's since then, or not.
    pub fn set(&self, since: Option<Instant>) {
        let stamp = since.map_or(0, |since| stamp(self.began, since));
        self.client.store(stamp, Ordering::Relaxed);
    }

    /// Since when it is the client's, if it is.
    #[must_use]
    pub fn of_client(&self) -> Option<Instant> {
        let stamp = self.client.load(Ordering::Relaxed);
        (stamp > 0).then(|| self.began + Duration::from_millis(stamp - 1))
    }
}

/// Milliseconds from `began`, plus one, so that zero can mean never.
fn stamp(began: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX - 1) + 1
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
    /// A connection that began at `now`; `multiplexed` for HTTP/2, where bytes between requests are no head. The client must
    /// take `rate_min` bytes per second, or 0.
    #[must_use]
    pub fn new(now: Instant, multiplexed: bool, rate_min: u64) -> Self {
        Self {
            began: now,
            multiplexed,
            in_flight: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            last_done: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            debt: AtomicU64::new(0),
            rate_min,
            faults: AtomicU32::new(0),
            abuse: AtomicU32::new(0),
            stalled: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
            turn: Mutex::new(None),
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        stamp(self.began, now)
    }

    /// Whether it is HTTP/2.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// The turn of a stream that begins now, to be taken by whoever watches it.
    pub fn begin_turn(&self, now: impl FnOnce() -> Instant) -> Option<Arc<Turn>> {
        if !self.multiplexed {
            return None;
        }
        let turn = Arc::new(Turn::new(now()));
        // One thread drives a connection, so nobody ever waits for this lock.
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&turn));
        Some(turn)
    }

    /// The turn that began last, once.
    #[must_use]
    pub fn take_turn(&self) -> Option<Arc<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A stream was ended because the client did not take what it had asked for.
    pub fn stalled(&self) {
        self.stalled.fetch_add(1, Ordering::Relaxed);
    }

    /// The client does not take what it asked for, and shall have no more of it.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// How many streams ended so.
    #[must_use]
    pub fn streams_stalled(&self) -> u32 {
        self.stalled.load(Ordering::Relaxed)
    }

    /// A request could not be answered, for it was wrong.
    pub fn fault(&self) {
        if self.faults.fetch_add(1, Ordering::Relaxed) >= FAULTS_MAX {
            self.abused(Abuse::Faults);
        }
    }

    /// The client is to be cut off.
    pub fn abused(&self, how: Abuse) {
        self.abuse.store(how as u32 + 1, Ordering::Relaxed);
    }

    /// Whether the client is to be cut off, and why.
    #[must_use]
    pub fn abuse(&self) -> Option<Abuse> {
        match self.abuse.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Abuse::Frames),
            _ => Some(Abuse::Faults),
        }
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

    /// The moment `now` in the connection's own count.
    #[must_use]
    pub fn moment(&self, now: Instant) -> Moment {
        Moment(NonZero::new(self.stamp(now)).unwrap_or(NonZero::<u64>::MIN))
    }

    /// A response was handed over completely, or given up.
    pub fn request_ended(&self, when: Moment) {
        self.last_done.store(when.0.get(), Ordering::Relaxed);
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

    /// A write made progress by so many bytes.
    pub fn write_moved(&self, bytes: usize, now: impl FnOnce() -> Instant) {
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
            let waited = self.stamp(now()).saturating_sub(blocked);
            self.debt.fetch_add(waited, Ordering::Relaxed);
        }
        let debt = self.debt.load(Ordering::Relaxed);
        if debt > 0 {
            let paid = (bytes as u64).saturating_mul(1000).checked_div(self.rate_min).unwrap_or(debt);
            self.debt.store(debt.saturating_sub(paid), Ordering::Relaxed);
        }
    }

    /// What is due at `now`.
    #[must_use]
    pub fn verdict(&self, bounds: &Bounds, now: Instant) -> Verdict {
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked > 0 {
            let debt = Duration::from_millis(self.debt.load(Ordering::Relaxed));
            return due(self.instant(blocked) + bounds.write_idle.saturating_sub(debt), Closed::WriteStalled, now);
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
        let activity = Activity::new(began, false, 0);
        assert_eq!(closes(&activity, began), (at(began, 10), Closed::FirstByte));
        activity.heard(|| at(began, 9));
        assert_eq!(closes(&activity, began), (at(began, 14), Closed::Head), "dripping bytes do not prolong");
        activity.heard(|| at(began, 13));
        assert_eq!(closes(&activity, began), (at(began, 14), Closed::Head));
        activity.request_began();
        assert_eq!(activity.verdict(&BOUNDS, at(began, 400)), Verdict::AskAgainAt(at(began, 430)));
        activity.request_ended(activity.moment(at(began, 500)));
        assert_eq!(closes(&activity, at(began, 500)), (at(began, 560), Closed::Idle));
    }

    #[test]
    fn a_client_that_does_not_read_is_closed_but_a_slow_one_is_not() {
        let began = Instant::now();
        let activity = Activity::new(began, false, 0);
        activity.request_began();
        activity.write_blocked(|| at(began, 1));
        activity.write_blocked(|| at(began, 20));
        assert_eq!(closes(&activity, at(began, 20)), (at(began, 31), Closed::WriteStalled));
        activity.write_moved(1, || at(began, 29));
        activity.write_blocked(|| at(began, 29));
        assert_eq!(closes(&activity, at(began, 29)), (at(began, 59), Closed::WriteStalled));
    }

    #[test]
    fn http2_pings_do_not_keep_a_connection_alive_without_requests() {
        let began = Instant::now();
        let activity = Activity::new(began, true, 0);
        activity.heard(|| at(began, 1));
        assert_eq!(closes(&activity, began), (at(began, 6), Closed::Head), "a preface alone is no request");
        activity.request_began();
        activity.request_ended(activity.moment(at(began, 3)));
        activity.heard(|| at(began, 50));
        assert_eq!(closes(&activity, at(began, 3)), (at(began, 63), Closed::Idle));
    }

    #[test]
    fn a_client_that_reads_by_drops_is_closed_and_one_that_reads_slowly_is_not() {
        let drips = |bytes: usize| {
            let began = Instant::now();
            let activity = Activity::new(began, false, 100);
            activity.request_began();
            (0..1000).find(|round| {
                activity.write_blocked(|| at(began, round * 10));
                let closed = matches!(activity.verdict(&BOUNDS, at(began, round * 10 + 9)), Verdict::Close(_));
                activity.write_moved(bytes, || at(began, round * 10 + 10));
                closed
            })
        };
        assert_eq!(drips(1), Some(3), "30 seconds of waiting for three bytes");
        assert_eq!(drips(500), Some(5));
        assert_eq!(drips(1000), None, "as fast as asked for");
    }

    #[test]
    fn who_errs_and_errs_is_cut_off() {
        let activity = Activity::new(Instant::now(), true, 0);
        (0..100).for_each(|_| activity.fault());
        assert_eq!(activity.abuse(), None);
        activity.fault();
        assert_eq!(activity.abuse(), Some(Abuse::Faults));
        activity.abused(Abuse::Frames);
        assert_eq!(activity.abuse(), Some(Abuse::Frames));
    }

    #[test]
    fn the_turn_of_a_stream_is_found_by_whoever_watches_it() {
        let began = Instant::now();
        let activity = Activity::new(began, true, 0);
        let turn = activity.begin_turn(|| began).unwrap();
        assert_eq!(turn.of_client(), None);
        turn.set(Some(at(began, 3)));
        assert_eq!(activity.take_turn().and_then(|turn| turn.of_client()), Some(at(began, 3)));
        assert!(activity.take_turn().is_none());
        assert!(Activity::new(began, false, 0).begin_turn(|| began).is_none());
    }
}
