//! An upstream as operators see it.

use crate::clock;
use crate::upstream::desk::Desk;
use crate::upstream::live::Member;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::queue::Class;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

/// An upstream as operators see it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: String,
    /// The set that serves.
    pub active: String,
    /// The count of set swaps.
    pub epoch: u64,
    /// The requests that wait.
    pub waiting: usize,
    /// The same by class.
    pub waiting_by_class: BTreeMap<&'static str, usize>,
    /// The scales of images that wait for others, before they come into the line.
    pub waiting_scales: usize,
    /// The most that may wait.
    pub queue_max: usize,
    /// The smoothed time that a request takes a thread for, in milliseconds.
    pub service_ms: Option<u64>,
    /// Why it is held, if it is, and for how many seconds.
    pub held: BTreeMap<&'static str, u64>,
    /// For how many seconds more requests wait for an endpoint, if none serves; then they are refused.
    pub hold_left: Option<u64>,
    /// Whether no endpoint serves, or it is held.
    pub out: bool,
    /// The storage servers behind it, as they were last seen.
    pub storage: Vec<StorageView>,
    /// All endpoints of all sets.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint as operators see it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointView {
    /// The set it stands in.
    pub set: String,
    /// Its address.
    pub address: String,
    /// `up`, `busy`, `warming`, `draining`, `down` or `maint`.
    pub state: &'static str,
    /// How long, in seconds.
    pub seconds: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Of these, those whose client has left or whose time was over, though the endpoint has not answered yet.
    pub abandoned: usize,
    /// Whether its requests hang: it gets one at a time beside them.
    pub stuck: bool,
    /// For how many seconds the oldest request has been in flight.
    pub oldest: Option<u64>,
    /// The most that may be.
    pub limit: usize,
    /// Idle connections.
    pub idle: usize,
    /// Requests answered.
    pub answered: u64,
    /// Journeys that failed.
    pub failed: u64,
    /// The last thing that went wrong, or nothing.
    pub last_error: String,
}

/// A storage server as operators see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StorageView {
    /// Its address.
    pub address: String,
    /// `writable`, `read-only`, or why it does not answer.
    pub state: String,
    /// Its last transaction, as ZODB's tools write it.
    pub last_tid: Option<String>,
    /// Its clients.
    pub clients: Option<u64>,
    /// How long others have been seen to wait for the commit that holds its lock.
    pub commit_wait_ms: Option<u64>,
}

impl Upstream {
    /// What operators see.
    #[must_use]
    pub fn view(&self) -> UpstreamView {
        let standing = self.standing();
        let now = clock::mono();
        let storage = lock(&self.storage_seen).clone();
        let desk = lock(&self.desk);
        let seconds = |since: &Instant| now.saturating_duration_since(*since).as_secs();
        UpstreamView {
            name: self.name().to_string(),
            active: standing.plan.active.to_string(),
            epoch: desk.epoch,
            waiting: desk.queue.waiting(),
            waiting_by_class: Class::ALL.map(|class| (class.as_str(), desk.queue.waiting_of(class))).into(),
            waiting_scales: self.scales.waiting(),
            queue_max: standing.plan.queue_max,
            service_ms: desk.queue.service().map(|service| u64::try_from(service.as_millis()).unwrap_or(u64::MAX)),
            held: desk.holds.iter().map(|(why, since)| (why.as_str(), seconds(since))).collect(),
            hold_left: desk.hold_left(now).map(|left| left.as_secs()),
            out: desk.is_out(),
            storage,
            endpoints: standing.members.iter().map(|member| endpoint(&desk, member, now)).collect(),
        }
    }
}

fn endpoint(desk: &Desk, Member { set, endpoint, .. }: &Member, now: Instant) -> EndpointView {
    let condition = endpoint.condition();
    let (in_flight, limit) = (desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
    let (answered, failed) = endpoint.counts();
    EndpointView {
        set: set.to_string(),
        address: endpoint.addr.to_string(),
        state: condition.word(in_flight, limit).as_str(),
        seconds: condition.lasting(now).as_secs(),
        in_flight,
        abandoned: endpoint.abandoned(),
        stuck: desk.is_stuck(endpoint.id),
        oldest: desk.oldest(endpoint.id, now).as_ref().map(Duration::as_secs),
        limit,
        idle: endpoint.pool.len(),
        answered,
        failed,
        last_error: endpoint.last_error(),
    }
}
