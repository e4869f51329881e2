//! One endpoint: its idle connections, its health, what operators decided about it.

use crate::clock;
use crate::telemetry::metrics::EndpointState;
use crate::units::OriginAddr;
use crate::upstream::machine::health::Health;
use crate::upstream::machine::health::State;
use crate::upstream::machine::outlier::Rest;
use crate::upstream::machine::outlier::Summary;
use crate::upstream::machine::outlier::Window;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::warmup::Phase;
use crate::upstream::pool::Pool;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Notify;

/// One endpoint of an upstream, in whichever sets it stands.
pub struct Endpoint {
    /// Its place in the upstream's table.
    pub id: EndpointId,
    /// Where it is.
    pub addr: OriginAddr,
    /// What its clients' cookies call it, where they are given some: the same on every edge and after every restart.
    pub way: u64,
    /// Its idle connections.
    pub pool: Pool,
    pub(super) condition: Mutex<Condition>,
    /// A journey broke and no answer has come since: the next answer is news.
    pub(super) blemished: AtomicBool,
    pub(super) answered: AtomicU64,
    failed: AtomicU64,
    /// `answered` at the last check.
    answered_at_check: AtomicU64,
    last_error: Mutex<String>,
    /// Its last answers.
    window: Mutex<Window>,
    /// Tells those who still wait for an answer that nobody wants that it has fallen.
    pub(super) fallen: Notify,
    /// Tells its checks that requests broke, and that they are to decide.
    pub(super) doubted: Notify,
    /// Answers that are waited for although nobody wants them.
    pub(super) abandoned: AtomicUsize,
}

/// What decides whether it gets requests.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// What checks and requests tell.
    pub health: Health,
    /// How far it has come since it was down.
    pub phase: Phase,
    /// An operator takes it out, since then.
    pub drained: Option<Instant>,
    /// It rests, for it stood out among the others.
    pub rest: Rest,
}

impl Condition {
    /// Whether it takes new requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.health.state() == State::Up
            && self.drained.is_none()
            && self.rest.until().is_none()
            && !matches!(self.phase, Phase::Cold { .. })
    }

    /// The word that operators see.
    #[must_use]
    pub fn word(&self, in_flight: usize, limit: usize) -> EndpointState {
        if self.drained.is_some() {
            return if in_flight > 0 { EndpointState::Draining } else { EndpointState::Maint };
        }
        match (self.health.state(), self.phase) {
            _ if self.rest.until().is_some() => EndpointState::Down,
            (State::Down, _) => EndpointState::Down,
            (State::Up, Phase::Cold { .. } | Phase::Rising { .. }) => EndpointState::Warming,
            (State::Up, Phase::Warm) if in_flight >= limit => EndpointState::Busy,
            (State::Up, Phase::Warm) => EndpointState::Up,
        }
    }

    /// Since when it is in this state.
    #[must_use]
    pub fn lasting(&self, now: Instant) -> Duration {
        let since = self.drained.or(self.rest.since());
        since.map_or_else(|| self.health.lasting(now), |since| now.saturating_duration_since(since))
    }
}

impl Endpoint {
    /// An endpoint that nothing is known of yet: up.
    pub(super) fn new(id: EndpointId, addr: OriginAddr) -> Self {
        let health = Health::new(clock::mono());
        let condition = Condition { health, phase: Phase::Warm, drained: None, rest: Rest::default() };
        Self {
            id,
            way: way_to(&addr),
            addr,
            pool: Pool::default(),
            condition: Mutex::new(condition),
            blemished: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            answered_at_check: AtomicU64::new(0),
            last_error: Mutex::default(),
            window: Mutex::default(),
            fallen: Notify::new(),
            doubted: Notify::new(),
            abandoned: AtomicUsize::new(0),
        }
    }

    /// An answer came, or none did in time: a sample for comparing it with the others.
    pub(super) fn sample(&self, failed: bool, took: Duration) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).push(failed, took);
    }

    /// What its last answers say.
    pub(super) fn summary(&self) -> Summary {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).summary()
    }

    /// Forgets its last answers: it begins anew.
    pub(super) fn forget_samples(&self) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Answers that are waited for although nobody wants them: its threads are taken all the same.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// What decides whether it gets requests, as it is now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what went wrong.
    pub fn note_error(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// The last thing that went wrong, or nothing.
    #[must_use]
    pub fn last_error(&self) -> String {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests answered, and journeys that failed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Whether requests were answered since this was last asked: what a check asks.
    pub fn progressed(&self) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        self.answered_at_check.swap(answered, Ordering::Relaxed) != answered
    }
}

/// FNV-1a of the address.
fn way_to(addr: &OriginAddr) -> u64 {
    addr.to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
