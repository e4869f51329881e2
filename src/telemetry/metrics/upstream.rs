//! What is counted for upstreams, their endpoints, limits and listeners.
//!
//! Gauges are shown as long as somebody besides us holds the handle: an endpoint that a reload took away disappears when its last
//! request has let go of it, and its counters ten minutes later.

use crate::telemetry::metrics::cells::Counter;
use crate::telemetry::metrics::cells::Gauge;
use crate::telemetry::metrics::cells::Histogram;
use crate::telemetry::metrics::cells::Striped;
use crate::telemetry::metrics::cells::Words;
use crate::telemetry::metrics::cells::lock;
use crate::telemetry::metrics::words::CodeClass;
use crate::telemetry::metrics::words::Decision;
use crate::telemetry::metrics::words::EndpointState;
use crate::telemetry::metrics::words::SwitchCause;
use crate::telemetry::metrics::words::Visitor;
use crate::units::SetName;
use http::StatusCode;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// The counters of one upstream.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) connect: Histogram,
    pub(super) errors: Words<&'static str>,
    pub(super) retries: Words<&'static str>,
    pub(super) retry_budget_exhausted: Counter,
    pub(super) queue_length: [Gauge; Visitor::COUNT],
    pub(super) queue_wait: [Histogram; Visitor::COUNT],
    pub(super) held: Gauge,
    pub(super) holds: Mutex<Vec<&'static str>>,
    pub(super) hold_time: Histogram,
    pub(super) hold_released: Words<&'static str>,
    pub(super) queue_rejected: Words<&'static str>,
    pub(super) sets: Mutex<Sets>,
    pub(super) names: Mutex<Vec<NameFacts>>,
}

/// A name among an upstream's endpoints, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFacts {
    /// The name, with its port.
    pub name: String,
    /// Whether the last look-up gave addresses; nothing before the first has ended.
    pub up: Option<bool>,
    /// How long look-ups have failed.
    pub failing: Option<Duration>,
    /// The addresses that are in use for it.
    pub addresses: usize,
    /// Look-ups by result.
    pub lookups: Vec<(&'static str, u64)>,
}

/// Which sets an upstream has, and how often each began to serve.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub known: Vec<SetName>,
    pub active: Option<SetName>,
    pub switches: BTreeMap<(SetName, SwitchCause), u64>,
}

impl UpstreamMetrics {
    /// A response has ended, so long after its request had left the queue.
    pub fn duration(&self, took: Duration) {
        self.duration.observe(took);
    }

    /// A response has begun, so long after its request was sent.
    pub fn first_byte(&self, took: Duration) {
        self.first_byte.observe(took);
    }

    /// A connection was made.
    pub fn connected(&self, took: Duration) {
        self.connect.observe(took);
    }

    /// A request got no response, for this reason.
    pub fn error(&self, reason: &'static str) {
        self.errors.add(reason, 1);
    }

    /// A request was sent again, for this reason.
    pub fn retry(&self, reason: &'static str) {
        self.retries.add(reason, 1);
    }

    /// A request would have been sent again, but there had been too many.
    pub fn retry_budget_exhausted(&self) {
        self.retry_budget_exhausted.inc();
    }

    /// So many requests of a class wait now.
    pub fn queue_length(&self, class: Visitor, length: usize) {
        // An index of an enum whose words were counted to make the table; so below.
        self.queue_length[class.index()].set(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// A request of a class has left the queue for an endpoint, after this wait.
    pub fn queue_waited(&self, class: Visitor, wait: Duration) {
        self.queue_wait[class.index()].observe(wait);
    }

    /// So many requests are held now.
    pub fn held(&self, requests: usize) {
        self.held.set(u64::try_from(requests).unwrap_or(u64::MAX));
    }

    /// These are the reasons why it is held now.
    pub fn holds(&self, reasons: Vec<&'static str>) {
        *lock(&self.holds) = reasons;
    }

    /// A request that came while nothing was sent has got `result` (`served`, `stale`, `timeout`, `client_gone`) after this
    /// wait.
    pub fn hold_ended(&self, result: &'static str, wait: Duration) {
        self.hold_released.add(result, 1);
        self.hold_time.observe(wait);
    }

    /// A request has left the queue for nothing, or was not let in, for this reason.
    pub fn queue_rejected(&self, reason: &'static str) {
        self.queue_rejected.add(reason, 1);
    }

    /// These are the sets, and this is the one that serves. What was known before is replaced.
    pub fn sets(&self, known: impl IntoIterator<Item = SetName>, active: &SetName) {
        let mut sets = lock(&self.sets);
        sets.known = known.into_iter().collect();
        sets.active = Some(active.clone());
    }

    /// These are the names among its endpoints. What was known before is replaced.
    pub fn names(&self, names: impl IntoIterator<Item = NameFacts>) {
        *lock(&self.names) = names.into_iter().collect();
    }

    /// `set` began to serve in place of another.
    pub fn set_switched(&self, set: &SetName, cause: SwitchCause) {
        let mut sets = lock(&self.sets);
        if !sets.known.contains(set) {
            sets.known.push(set.clone());
        }
        sets.active = Some(set.clone());
        *sets.switches.entry((set.clone(), cause)).or_default() += 1;
    }
}

/// The counters of one endpoint in one set.
#[derive(Debug, Default)]
pub struct EndpointMetrics {
    pub(super) responses: [Counter; CodeClass::COUNT],
    pub(super) in_flight: Gauge,
    pub(super) limit: Gauge,
    pub(super) state: Mutex<Option<EndpointState>>,
    pub(super) changes: Words<EndpointState>,
    pub(super) checks: Words<&'static str>,
    pub(super) check_duration: Histogram,
}

impl EndpointMetrics {
    /// It answered.
    pub fn response(&self, status: StatusCode) {
        // An index of an enum whose words were counted to make the table.
        self.responses[CodeClass::of(status).index()].inc();
    }

    /// So many requests are with it now, of so many that may be.
    pub fn in_flight(&self, now: usize, limit: usize) {
        self.in_flight.set(u64::try_from(now).unwrap_or(u64::MAX));
        self.limit.set(u64::try_from(limit).unwrap_or(u64::MAX));
    }

    /// It is in `state`; counted as a change when it was in another.
    pub fn state(&self, state: EndpointState) {
        let before = lock(&self.state).replace(state);
        if before.is_some_and(|before| before != state) {
            self.changes.add(state, 1);
        }
    }

    /// It was checked, with this result (`ok`, or what was wrong).
    pub fn check(&self, result: &'static str, took: Duration) {
        self.checks.add(result, 1);
        self.check_duration.observe(took);
    }
}

/// The counters of one limit.
#[derive(Debug, Default)]
pub struct LimitMetrics {
    pub(super) decisions: Striped<[Counter; Decision::COUNT]>,
    pub(super) keys: Gauge,
}

impl LimitMetrics {
    /// The limit has spoken.
    pub fn decision(&self, decision: Decision) {
        // An index of an enum whose words were counted to make the table.
        self.decisions.mine()[decision.index()].inc();
    }

    /// So many clients are remembered.
    pub fn keys(&self, keys: usize) {
        self.keys.set(u64::try_from(keys).unwrap_or(u64::MAX));
    }

    /// How often the limit said `decision`.
    pub(super) fn decided(&self, decision: Decision) -> u64 {
        self.decisions.all().map(|stripe| stripe[decision.index()].value()).sum()
    }
}

/// The counters of one listener's connections of one kind.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
}

impl ListenerMetrics {
    /// A connection is being served.
    pub fn opened(&self) {
        self.opened.inc();
    }

    /// It has ended.
    pub fn closed(&self) {
        self.closed.inc();
    }

    /// Connections being served now.
    pub(super) fn current(&self) -> u64 {
        // What is closed is read first: it was opened before.
        let closed = self.closed.value();
        self.opened.value().saturating_sub(closed)
    }
}
