//! What one lock guards: the queue, the line's addresses, what is under way, why nothing is sent.
//!
//! Called with the lock held; nothing here waits or calls out.

use crate::upstream::Plan;
use crate::upstream::endpoint::Condition;
use crate::upstream::lease::Turn;
use crate::upstream::machine::pins::Pins;
use crate::upstream::machine::queue::Bounds;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Granted;
use crate::upstream::machine::queue::Queue;
use crate::upstream::machine::queue::Ticket;
use crate::upstream::machine::stuck;
use crate::upstream::machine::stuck::Begun;
use crate::upstream::machine::stuck::Stage;
use crate::upstream::machine::stuck::Underway;
use crate::upstream::machine::wait;
use crate::upstream::machine::wait::Service;
use crate::upstream::machine::warmup;
use crate::upstream::request::Request;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;

/// What one lock guards.
pub(super) struct Desk {
    pub queue: Queue,
    pub waiting: HashMap<Ticket, Waiter>,
    pub pins: Pins,
    /// Which endpoint a way-back cookie names; empty unless clients are given such cookies.
    pub ways: HashMap<u64, EndpointId>,
    pub epoch: u64,
    /// How long requests wait.
    pub rules: wait::Rules,
    /// Why nothing is sent, since when each.
    pub holds: BTreeMap<Hold, Instant>,
    /// Since when no endpoint serves.
    out_since: Option<Instant>,
    /// When the last outage or hold ended.
    served_since: Option<Instant>,
    /// An endpoint has served: that none does is news.
    has_served: bool,
    /// When the last hold ended, as long as the beginning after it is careful.
    released: Option<Instant>,
    /// What is under way, by endpoint.
    underway: Vec<Underway<Arc<dyn Request>>>,
    /// How many requests hang at endpoints that are stuck.
    hanging: HashMap<EndpointId, usize>,
    next_lease: u64,
}

/// Who stands in line.
pub(super) struct Waiter {
    /// Tells him that it is his turn.
    pub turn: oneshot::Sender<Turn>,
    /// Since when.
    pub since: Instant,
    /// For what.
    pub request: Arc<dyn Request>,
}

/// Why an upstream is held: requests wait, nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// An operator said so.
    Operator,
    /// Its storage does not answer: a Zope would hang with each request.
    Storage,
    /// The storage pair is failing over.
    Takeover,
}

/// News of an outage: no endpoint of the serving set answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    /// It has begun.
    Began,
    /// It is over, after so long.
    Ended(Duration),
}

impl Hold {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Storage, Self::Takeover];

    /// The word for logs, metrics and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Storage => "storage",
            Self::Takeover => "takeover",
        }
    }
}

impl Desk {
    pub fn new(bounds: Bounds, rules: wait::Rules) -> Self {
        Self {
            queue: Queue::new(bounds),
            waiting: HashMap::new(),
            pins: Pins::default(),
            ways: HashMap::new(),
            epoch: 0,
            rules,
            holds: BTreeMap::new(),
            out_since: None,
            served_since: None,
            has_served: false,
            released: None,
            underway: Vec::new(),
            hanging: HashMap::new(),
            next_lease: 0,
        }
    }

    /// What an endpoint's condition means for the queue, which is told whether it hangs: whether it is open, and its limit.
    /// Nobody rises slowly while there is no other to share the load with.
    fn means(&mut self, id: EndpointId, condition: &Condition, plan: &Plan, now: Instant) -> (bool, usize) {
        self.queue.set_hangs(id, self.is_stuck(id));
        let open = condition.is_open();
        let mut limit = plan.threads;
        if open {
            if self.queue.has_peer(id) {
                limit = condition.phase.limit(now, plan.threads, &warmup_rules(plan));
            }
            if let Some(hanging) = self.hanging.get(&id) {
                limit = limit.min(stuck::limit(plan.threads, *hanging));
            }
        }
        (open, limit)
    }

    /// Tells the queue what an endpoint's condition means for it.
    pub fn adjust(&mut self, id: EndpointId, condition: &Condition, plan: &Plan, now: Instant) -> Vec<Granted> {
        let (open, limit) = self.means(id, condition, plan, now);
        self.queue.set_open(id, open, limit)
    }

    /// The same, before the queue hears who serves from now on: nothing is granted yet.
    pub fn prepare(&mut self, id: EndpointId, condition: &Condition, plan: &Plan, now: Instant) {
        let (open, limit) = self.means(id, condition, plan, now);
        self.queue.prepare(id, open, limit);
    }

    /// Whether an endpoint of the serving set answers: it is open and not stuck.
    pub fn anyone_serves(&self) -> bool {
        self.queue.open().any(|id| !self.hanging.contains_key(&id))
    }

    /// Whether nothing is sent, or what is sent does not come back.
    pub fn is_out(&self) -> bool {
        self.queue.is_paused() || !self.anyone_serves()
    }

    /// Notes whether any endpoint serves; says if that is news.
    pub fn note_outage(&mut self, now: Instant) -> Option<Outage> {
        if self.anyone_serves() {
            let since = self.out_since.take();
            let known = std::mem::replace(&mut self.has_served, true);
            if since.is_some() {
                self.served_since = Some(now);
            }
            return since.filter(|_| known).map(|since| Outage::Ended(now.saturating_duration_since(since)));
        }
        if self.out_since.is_some() {
            return None;
        }
        self.out_since = Some(now);
        self.has_served.then_some(Outage::Began)
    }

    /// How long it is worth waiting for an endpoint to open; none when one is open, or the outage has lasted too long.
    pub fn hold_left(&self, now: Instant) -> Option<Duration> {
        let since = self.holds.values().min().copied().or(self.out_since)?;
        Some((since + self.rules.hold).saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether anybody serves, as it matters to those who wait.
    pub fn service(&self, now: Instant) -> Service {
        if self.is_out() {
            Service::Out(self.hold_left(now).unwrap_or_default())
        } else {
            Service::On { since: self.served_since }
        }
    }

    /// Holds for this reason, or does so no longer; says whether that changed anything, and who is served now.
    pub fn hold(&mut self, why: Hold, held: bool, now: Instant) -> Option<Vec<Granted>> {
        let before = self.holds.len();
        if held {
            self.holds.entry(why).or_insert(now);
        } else {
            self.holds.remove(&why);
        }
        if before == self.holds.len() {
            return None;
        }
        let paused = !self.holds.is_empty();
        if self.queue.is_paused() && !paused {
            self.released = Some(now);
            self.served_since = Some(now);
        }
        Some(self.queue.pause(paused))
    }

    /// Ends the careful beginning after a hold when it has lasted long enough.
    pub fn end_release(&mut self, now: Instant, after: Duration) -> Vec<Granted> {
        if self.queue.is_paused() || self.released.is_none_or(|since| now.saturating_duration_since(since) < after) {
            return Vec::new();
        }
        self.released = None;
        self.queue.open_windows()
    }

    /// A request begins its journey to `id`; gives its number.
    pub fn begin(&mut self, id: EndpointId, request: Arc<dyn Request>, now: Instant) -> u64 {
        self.next_lease += 1;
        if self.underway.len() <= id.0 {
            self.underway.resize_with(id.0 + 1, Underway::default);
        }
        if let Some(underway) = self.underway.get_mut(id.0) {
            underway.begin(self.next_lease, request, now);
        }
        self.next_lease
    }

    /// It has ended; what was known of it is best let go of when the lock is free again.
    pub fn end(&mut self, id: EndpointId, lease: u64, answered: bool, now: Instant) -> Option<Begun<Arc<dyn Request>>> {
        self.underway.get_mut(id.0)?.end(lease, answered, now)
    }

    /// The head of its answer has come, and it goes on as `stage` says.
    pub fn hear(&mut self, id: EndpointId, lease: u64, stage: Stage, now: Instant) {
        if let Some(underway) = self.underway.get_mut(id.0) {
            underway.hear(lease, stage, now);
        }
    }

    /// Nobody waits for its answer any more.
    pub fn abandon(&mut self, id: EndpointId, lease: u64) {
        if let Some(underway) = self.underway.get_mut(id.0) {
            underway.abandon(lease);
        }
    }

    /// The requests under way at `id`, in no order.
    pub fn underway(&self, id: EndpointId) -> impl Iterator<Item = &Begun<Arc<dyn Request>>> {
        self.underway.get(id.0).into_iter().flat_map(Underway::all)
    }

    /// The requests that have passed the bound since this was last asked, with their endpoints.
    pub fn newly_long(&mut self, now: Instant, bound: Duration) -> Vec<(EndpointId, Begun<Arc<dyn Request>>)> {
        let mut long = Vec::new();
        for (at, underway) in self.underway.iter_mut().enumerate() {
            long.extend(underway.newly_long(now, bound).map(|begun| (EndpointId(at), begun.clone())));
        }
        long
    }

    /// What is known of a request is this from now on; gives what was known before.
    pub fn describe(&mut self, id: EndpointId, lease: u64, known: Arc<dyn Request>) -> Option<Arc<dyn Request>> {
        let begun = self.underway.get_mut(id.0)?.find(lease)?;
        Some(std::mem::replace(&mut begun.request, known))
    }

    /// Looks for endpoints that are stuck; gives those of which that is news.
    pub fn look_for_stuck(
        &mut self,
        now: Instant,
        bound: Duration,
        threads: usize,
    ) -> Vec<(EndpointId, Option<usize>)> {
        let mut news = Vec::new();
        for (at, underway) in self.underway.iter().enumerate() {
            let id = EndpointId(at);
            let stuck = underway.stuck(now, bound, threads);
            if stuck != self.hanging.get(&id).copied() {
                match stuck {
                    Some(hanging) => self.hanging.insert(id, hanging),
                    None => self.hanging.remove(&id),
                };
                news.push((id, stuck));
            }
        }
        news
    }

    /// Whether `id` is known to be stuck: what ends there is news.
    pub fn is_stuck(&self, id: EndpointId) -> bool {
        self.hanging.contains_key(&id)
    }

    /// How long the oldest request has been under way at `id`.
    pub fn oldest(&self, id: EndpointId, now: Instant) -> Option<Duration> {
        self.underway.get(id.0)?.oldest().map(|begun| now.saturating_duration_since(begun))
    }
}

pub(super) fn warmup_rules(plan: &Plan) -> warmup::Rules {
    warmup::Rules { until: plan.warmup.until, at_most: plan.warmup.at_most, ramp: plan.warmup.ramp }
}
