//! An upstream as operators see it.

use crate::clock;
use crate::upstream::desk::Desk;
use crate::upstream::live::Member;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::queue::Class;
use crate::upstream::request::Description;
use crate::upstream::request::Request;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// The most requests that are listed of one endpoint, or of one line, when all are wanted.
const LISTED_MAX: usize = 100;

/// The same when only those are wanted that take long.
const LONG_MAX: usize = 5;

/// Which requests are listed, the longest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// Of each endpoint those that have held a thread for longer than `check.stuck`, and no more than five.
    #[default]
    Long,
    /// Of each endpoint and of the line a hundred.
    All,
}

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
    /// The names among its endpoints.
    pub names: Vec<NameView>,
    /// The requests that stand in line, if all are wanted.
    pub line: Vec<RequestView>,
    /// All endpoints of all sets.
    pub endpoints: Vec<EndpointView>,
}

/// A name among the endpoints (`dns+`) as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NameView {
    /// The name, with its port.
    pub name: String,
    /// Whether the last look-up gave addresses; nothing before the first has ended.
    pub answers: Option<bool>,
    /// For how many seconds look-ups have failed.
    pub failing: Option<u64>,
    /// `failed`, `timeout` or `absent`, while they fail.
    pub why: Option<&'static str>,
    /// What the last one said, while they fail.
    pub error: Option<String>,
    /// Its addresses: while it fails, those that it had last.
    pub addresses: Vec<String>,
}

/// A request as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RequestView {
    /// Its number within the upstream, as in the diary; none while it has no thread.
    pub number: Option<u64>,
    /// For how many milliseconds it has held a thread, or stood in line.
    pub age_ms: u64,
    /// `line`, `head` (of the answer, which is waited for), `body` or `tunnel`.
    pub phase: &'static str,
    /// Whether its visitor has left, though the endpoint has not answered yet.
    pub abandoned: bool,
    /// Its method.
    pub method: String,
    /// The site.
    pub site: String,
    /// The URL, visible ASCII of a bounded length.
    pub url: String,
    /// The visitor's address.
    pub client: String,
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
    /// The requests that hold its threads, as far as they are wanted.
    pub requests: Vec<RequestView>,
    /// How many more of the kind that is wanted there are.
    pub requests_unlisted: usize,
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
    /// What operators see, with the requests that take long.
    #[must_use]
    pub fn view(&self) -> UpstreamView {
        self.view_with(Listed::Long)
    }

    /// What operators see, with these requests.
    #[must_use]
    pub fn view_with(&self, listed: Listed) -> UpstreamView {
        let standing = self.standing();
        let now = clock::mono();
        let storage = lock(&self.storage_seen).clone();
        let names = self.names().into_iter().map(|(name, lookups, addresses)| {
            let failing = lookups.failing();
            NameView {
                name: name.to_string(),
                answers: lookups.answers(),
                failing: failing.map(|failing| now.saturating_duration_since(failing.since).as_secs()),
                why: failing.map(|failing| failing.why.as_str()),
                error: failing.map(|failing| failing.error.clone()),
                addresses: addresses.iter().map(ToString::to_string).collect(),
            }
        });
        let names = names.collect();
        let desk = lock(&self.desk);
        let seconds = |since: &Instant| now.saturating_duration_since(*since).as_secs();
        let held: Vec<Picked> =
            standing.members.iter().map(|member| held(&desk, member, listed, standing.plan.check.stuck, now)).collect();
        let line = if listed == Listed::All { in_line(&desk) } else { Picked::default() };
        let mut view = UpstreamView {
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
            names,
            line: Vec::new(),
            endpoints: standing.members.iter().map(|member| endpoint(&desk, member, now)).collect(),
        };
        drop(desk);
        // Who is asked what he is about may take his time.
        view.line = line.show(now).0;
        for (endpoint, picked) in view.endpoints.iter_mut().zip(held) {
            (endpoint.requests, endpoint.requests_unlisted) = picked.show(now);
        }
        view
    }
}

/// A request that is going to be shown.
struct Pick {
    number: Option<u64>,
    since: Instant,
    phase: &'static str,
    abandoned: bool,
    request: Arc<dyn Request>,
}

/// Requests that are going to be shown, and how many more there are.
#[derive(Default)]
struct Picked(Vec<Pick>, usize);

impl Picked {
    /// The oldest of these.
    fn oldest(mut picks: Vec<Pick>, most: usize) -> Self {
        picks.sort_by_key(|pick| pick.since);
        let more = picks.len().saturating_sub(most);
        picks.truncate(most);
        Self(picks, more)
    }

    fn show(self, now: Instant) -> (Vec<RequestView>, usize) {
        let show = |pick: Pick| {
            let Description { method, site, url, client } = pick.request.describe();
            let age = now.saturating_duration_since(pick.since);
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let Pick { number, phase, abandoned, .. } = pick;
            RequestView { number, age_ms, phase, abandoned, method, site, url, client }
        };
        (self.0.into_iter().map(show).collect(), self.1)
    }
}

/// The requests at an endpoint that are wanted.
fn held(desk: &Desk, member: &Member, listed: Listed, bound: Duration, now: Instant) -> Picked {
    let long = |since: Instant| !bound.is_zero() && now.saturating_duration_since(since) >= bound;
    let wanted = desk.underway(member.endpoint.id).filter(|begun| listed == Listed::All || long(begun.since));
    let picks = wanted.map(|begun| Pick {
        number: Some(begun.id),
        since: begun.since,
        phase: begun.stage.as_str(),
        abandoned: begun.abandoned,
        request: Arc::clone(&begun.request),
    });
    Picked::oldest(picks.collect(), if listed == Listed::All { LISTED_MAX } else { LONG_MAX })
}

/// The requests that stand in line.
fn in_line(desk: &Desk) -> Picked {
    let picks = desk.waiting.values().map(|waiter| Pick {
        number: None,
        since: waiter.since,
        phase: "line",
        abandoned: false,
        request: Arc::clone(&waiter.request),
    });
    Picked::oldest(picks.collect(), LISTED_MAX)
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
        requests: Vec::new(),
        requests_unlisted: 0,
    }
}
