//! The live state of upstreams: the queue behind its lock, the endpoints' condition, pools and counters.
//!
//! Kept by identity (an upstream's name; within it an endpoint's address) and never by configuration: a reload changes the
//! plan and finds everything else as it was.

use crate::clock;
use crate::telemetry::metrics::EndpointMetrics;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use crate::upstream::CheckKind;
use crate::upstream::Plan;
use crate::upstream::budget::Budget;
use crate::upstream::endpoint::Condition;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::lease::Turn;
use crate::upstream::machine::health;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::health::State;
use crate::upstream::machine::pins::Pins;
use crate::upstream::machine::queue::Bounds;
use crate::upstream::machine::queue::Class;
use crate::upstream::machine::queue::ClientKey;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Granted;
use crate::upstream::machine::queue::Queue;
use crate::upstream::machine::queue::Server;
use crate::upstream::machine::queue::Ticket;
use crate::upstream::machine::warmup;
use crate::upstream::machine::warmup::Phase;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::info;
use tracing::warn;

/// All upstreams that ever were in this process, by name.
pub struct Registry {
    metrics: Arc<Metrics>,
    upstreams: Mutex<HashMap<UpstreamName, Arc<Upstream>>>,
}

/// One upstream.
pub struct Upstream {
    name: UpstreamName,
    /// Its counters.
    pub counters: Arc<UpstreamMetrics>,
    metrics: Arc<Metrics>,
    pub(super) desk: Mutex<Desk>,
    standing: RwLock<Arc<Standing>>,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    pub(super) retries: Budget,
}

/// What holds for an upstream at present: what was decided, and whom it concerns.
pub struct Standing {
    /// What the operator decided.
    pub plan: Plan,
    /// The endpoints of all sets, in the plan's order.
    pub members: Vec<Member>,
}

/// An endpoint in one set.
#[derive(Clone)]
pub struct Member {
    /// The set.
    pub set: SetName,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The counters of the two.
    pub counters: Arc<EndpointMetrics>,
}

/// What one lock guards: the queue, and the line's addresses.
pub(super) struct Desk {
    pub queue: Queue,
    pub waiting: HashMap<Ticket, oneshot::Sender<Turn>>,
    pub pins: Pins,
    pub epoch: u64,
    /// The longest wait for a thread.
    pub patience: Duration,
    /// How long requests wait for an endpoint, from the beginning of an outage.
    hold: Duration,
    /// Since when no endpoint is open.
    out_since: Option<Instant>,
    /// Why nothing is sent, since when each.
    holds: BTreeMap<Hold, Instant>,
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

impl Hold {
    /// The word for logs and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Storage => "storage",
            Self::Takeover => "takeover",
        }
    }
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
    /// The smoothed time that a request takes a thread for, in milliseconds.
    pub service_ms: Option<u64>,
    /// Why it is held, if it is.
    pub held: Vec<&'static str>,
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The sections under these locks neither call out nor leave anything half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// No upstreams yet; what they do is counted in `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, upstreams: Mutex::default() }
    }

    /// The upstream of this plan, new or as it has been, now following the plan.
    pub fn install(&self, plan: Plan) -> Arc<Upstream> {
        let upstream = {
            let mut known = lock(&self.upstreams);
            let new = || Arc::new(Upstream::new(&plan, &self.metrics));
            Arc::clone(known.entry(plan.name.clone()).or_insert_with(new))
        };
        upstream.install(plan);
        upstream
    }
}

fn bounds(plan: &Plan) -> Bounds {
    Bounds { max: plan.queue_max, per_client: plan.per_client, patience: plan.queue_wait, balance: plan.balance }
}

impl Upstream {
    fn new(plan: &Plan, metrics: &Arc<Metrics>) -> Self {
        let desk = Desk {
            queue: Queue::new(bounds(plan)),
            waiting: HashMap::new(),
            pins: Pins::default(),
            epoch: 0,
            patience: plan.queue_wait,
            hold: plan.hold,
            out_since: None,
            holds: BTreeMap::new(),
        };
        Self {
            name: plan.name.clone(),
            counters: metrics.upstream(&plan.name),
            metrics: Arc::clone(metrics),
            desk: Mutex::new(desk),
            standing: RwLock::new(Arc::new(Standing { plan: plan.clone(), members: Vec::new() })),
            endpoints: RwLock::default(),
            retries: Budget::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// What holds at present.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(id.0).cloned()
    }

    /// Follows `plan` from now on: one exchange, after which new requests and all that wait go to its active set. What is
    /// in flight elsewhere finishes there.
    fn install(&self, plan: Plan) {
        let now = clock::mono();
        let mut desk = lock(&self.desk);
        let mut known = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        for server in plan.sets.iter().flat_map(|set| &set.servers) {
            if !known.iter().any(|endpoint| endpoint.addr == server.addr) {
                let id = desk.queue.add_endpoint(plan.threads);
                known.push(Arc::new(Endpoint::new(id, server.addr.clone())));
            }
        }
        let active = plan.sets.iter().find(|set| set.name == plan.active);
        let id_of = |addr: &OriginAddr| known.iter().find(|endpoint| endpoint.addr == *addr).map(|found| found.id);
        let servers = active.map_or(&[][..], |set| &set.servers).iter().filter_map(|server| {
            Some(Server { id: id_of(&server.addr)?, weight: server.weight, backup: server.backup })
        });
        let serving = servers.collect();
        let members = self.members(&plan, &known);
        let mut granted = Vec::new();
        for endpoint in known.iter() {
            granted.extend(desk.adjust(endpoint.id, &endpoint.condition(), &plan, now));
        }
        drop(known);
        let bounds = bounds(&plan);
        (desk.patience, desk.hold) = (plan.queue_wait, plan.hold);
        let mut current = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        if current.plan.active != plan.active {
            desk.epoch += 1;
        }
        *current = Arc::new(Standing { plan, members });
        drop(current);
        granted.extend(desk.queue.serve(bounds, serving));
        desk.note_outage(now);
        desk.tell(granted);
    }

    fn members(&self, plan: &Plan, known: &[Arc<Endpoint>]) -> Vec<Member> {
        let member = |set: &SetName, addr: &OriginAddr| {
            let endpoint = Arc::clone(known.iter().find(|endpoint| endpoint.addr == *addr)?);
            let counters = self.metrics.endpoint(&self.name, set, addr);
            Some(Member { set: set.clone(), endpoint, counters })
        };
        let places = plan.sets.iter().flat_map(|set| set.servers.iter().map(|server| (&set.name, &server.addr)));
        places.filter_map(|(set, addr)| member(set, addr)).collect()
    }

    /// Takes evidence about `endpoint`, and lets the queue know if it changes anything.
    pub fn learn(&self, endpoint: &Endpoint, evidence: Evidence) {
        if evidence == Evidence::Answered {
            endpoint.answered.fetch_add(1, Ordering::Relaxed);
            if !endpoint.blemished.load(Ordering::Relaxed) {
                return;
            }
        }
        let standing = self.standing();
        let plan = &standing.plan;
        let now = clock::mono();
        let rules = health::Rules { rise: plan.check.rise, fall: plan.check.fall };
        let changed = {
            let mut condition = lock(&endpoint.condition);
            let changed = condition.health.learn(evidence, rules, now);
            endpoint.blemished.store(!condition.health.is_spotless(), Ordering::Relaxed);
            if changed == Some(State::Up) {
                condition.phase = Phase::begin(now, !plan.warmup.paths.is_empty());
            }
            changed
        };
        match changed {
            None => return,
            Some(State::Up) => info!(upstream = %self.name, endpoint = %endpoint.addr, "endpoint is up"),
            Some(State::Down) => {
                endpoint.pool.clear();
                let error = endpoint.last_error();
                warn!(upstream = %self.name, endpoint = %endpoint.addr, error, "endpoint is down");
            }
        }
        self.changed(endpoint, &standing, now);
    }

    /// Goes on with warming `endpoint` up; `slowest`: the slowest page of a round of warm-up paths, if one was made.
    pub fn warm(&self, endpoint: &Endpoint, slowest: Option<Duration>) {
        let standing = self.standing();
        let plan = &standing.plan;
        let now = clock::mono();
        {
            let mut condition = lock(&endpoint.condition);
            if condition.phase == Phase::Warm || condition.health.state() == State::Down {
                return;
            }
            let rules = warmup_rules(plan);
            let next = condition.phase.next(now, slowest, &rules);
            if matches!((condition.phase, next), (Phase::Cold { .. }, Phase::Rising { .. })) {
                info!(upstream = %self.name, endpoint = %endpoint.addr, "endpoint is warm");
            }
            condition.phase = next;
        }
        self.changed(endpoint, &standing, now);
    }

    /// Takes an endpoint out of service, or back in: it finishes what it has and gets nothing new.
    ///
    /// # Errors
    /// When no set has such an endpoint; the text names those that there are.
    pub fn drain(&self, addr: &OriginAddr, out: bool) -> Result<(), String> {
        let standing = self.standing();
        let Some(member) = standing.members.iter().find(|member| member.endpoint.addr == *addr) else {
            let known: Vec<String> = standing.members.iter().map(|member| member.endpoint.addr.to_string()).collect();
            return Err(format!("upstream `{}` has no endpoint {addr}; it has {}", self.name, known.join(", ")));
        };
        let now = clock::mono();
        lock(&member.endpoint.condition).drained = out.then_some(now);
        info!(upstream = %self.name, endpoint = %addr, out, "endpoint is drained by order");
        self.changed(&member.endpoint, &standing, now);
        Ok(())
    }

    /// Stops sending for this reason, or ends that: who comes, waits.
    pub fn hold(&self, why: Hold, held: bool) {
        let mut desk = lock(&self.desk);
        let before = desk.holds.len();
        if held {
            desk.holds.entry(why).or_insert_with(clock::mono);
        } else {
            desk.holds.remove(&why);
        }
        if before == desk.holds.len() {
            return;
        }
        info!(upstream = %self.name, why = why.as_str(), held, waiting = desk.queue.waiting(), "hold");
        let paused = !desk.holds.is_empty();
        let granted = desk.queue.pause(paused);
        desk.tell(granted);
    }

    /// Whether it is held for this reason.
    #[must_use]
    pub fn is_held_by(&self, why: Hold) -> bool {
        lock(&self.desk).holds.contains_key(&why)
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Remembers that `who` has written at `endpoint`.
    pub fn pin(&self, who: ClientKey, endpoint: EndpointId) {
        let lasting = self.standing().plan.pin;
        lock(&self.desk).pins.pin(who, endpoint, clock::mono(), lasting);
    }

    /// The condition of `endpoint` has changed: the queue and the gauges follow.
    fn changed(&self, endpoint: &Endpoint, standing: &Standing, now: Instant) {
        let condition = endpoint.condition();
        let mut desk = lock(&self.desk);
        let granted = desk.adjust(endpoint.id, &condition, &standing.plan, now);
        desk.note_outage(now);
        desk.tell(granted);
        let word = condition.word(desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
        for member in standing.members.iter().filter(|member| member.endpoint.id == endpoint.id) {
            member.counters.state(word);
        }
    }

    /// Lets a request try an endpoint that has been down for a while and that nobody checks.
    pub fn try_unchecked(&self) {
        let standing = self.standing();
        let check = &standing.plan.check;
        if check.kind != CheckKind::Off {
            return;
        }
        for member in &standing.members {
            let health = member.endpoint.condition().health;
            if health.state() == State::Down && health.lasting(clock::mono()) >= check.every {
                self.learn(&member.endpoint, Evidence::Trial);
            }
        }
    }

    /// Whether any endpoint of the serving set is open.
    #[must_use]
    pub fn anyone_open(&self) -> bool {
        lock(&self.desk).queue.anyone_open()
    }

    /// Whether nothing is sent now: no endpoint is open, or the upstream is held.
    #[must_use]
    pub fn is_out(&self) -> bool {
        let desk = lock(&self.desk);
        desk.queue.is_paused() || !desk.queue.anyone_open()
    }

    /// The count of set swaps.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        lock(&self.desk).epoch
    }

    /// Brings what changes all the time into the gauges.
    pub fn show_gauges(&self) {
        let standing = self.standing();
        self.counters.sets(standing.plan.sets.iter().map(|set| set.name.clone()), &standing.plan.active);
        let desk = lock(&self.desk);
        for class in Class::ALL {
            self.counters.queue_length(class.visitor(), desk.queue.waiting_of(class));
        }
        self.counters.held(if desk.queue.is_paused() { desk.queue.waiting() } else { 0 });
        for Member { endpoint, counters, .. } in &standing.members {
            let (in_flight, limit) = (desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
            counters.in_flight(in_flight, limit);
            counters.state(endpoint.condition().word(in_flight, limit));
        }
    }

    /// What operators see.
    #[must_use]
    pub fn view(&self) -> UpstreamView {
        let standing = self.standing();
        let now = clock::mono();
        let desk = lock(&self.desk);
        let view = |Member { set, endpoint, .. }: &Member| {
            let condition = endpoint.condition();
            let (in_flight, limit) = (desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
            let (answered, failed) = endpoint.counts();
            EndpointView {
                set: set.to_string(),
                address: endpoint.addr.to_string(),
                state: condition.word(in_flight, limit).as_str(),
                seconds: condition.lasting(now).as_secs(),
                in_flight,
                limit,
                idle: endpoint.pool.len(),
                answered,
                failed,
                last_error: endpoint.last_error(),
            }
        };
        UpstreamView {
            name: self.name.to_string(),
            active: standing.plan.active.to_string(),
            epoch: desk.epoch,
            waiting: desk.queue.waiting(),
            waiting_by_class: Class::ALL.map(|class| (class.as_str(), desk.queue.waiting_of(class))).into(),
            service_ms: desk.queue.service().map(|service| u64::try_from(service.as_millis()).unwrap_or(u64::MAX)),
            held: desk.holds.keys().map(|why| why.as_str()).collect(),
            endpoints: standing.members.iter().map(view).collect(),
        }
    }
}

fn warmup_rules(plan: &Plan) -> warmup::Rules {
    warmup::Rules { until: plan.warmup.until, at_most: plan.warmup.at_most, ramp: plan.warmup.ramp }
}

impl Standing {
    /// The endpoint in the serving set, if it stands there, else in any.
    #[must_use]
    pub fn member(&self, id: EndpointId) -> Option<&Member> {
        let mut found = self.members.iter().filter(|member| member.endpoint.id == id);
        found.clone().find(|member| member.set == self.plan.active).or_else(|| found.next())
    }
}

impl Desk {
    /// Tells the queue what an endpoint's condition means for it. Nobody rises slowly while there is no other.
    fn adjust(&mut self, id: EndpointId, condition: &Condition, plan: &Plan, now: Instant) -> Vec<Granted> {
        let open = condition.is_open();
        let mut limit = condition.phase.limit(now, plan.threads, &warmup_rules(plan));
        if open && limit < plan.threads {
            let mut granted = self.queue.set_open(id, false, limit);
            if !self.queue.anyone_open() {
                limit = plan.threads;
            }
            granted.extend(self.queue.set_open(id, true, limit));
            return granted;
        }
        self.queue.set_open(id, open, if open { limit } else { plan.threads })
    }

    fn note_outage(&mut self, now: Instant) {
        if self.queue.anyone_open() {
            self.out_since = None;
        } else if self.out_since.is_none() {
            self.out_since = Some(now);
        }
    }

    /// How long it is worth waiting for an endpoint to open; none when one is open, or the outage has lasted too long.
    pub fn hold_left(&self, now: Instant) -> Option<Duration> {
        let since = self.holds.values().min().copied().or(self.out_since)?;
        Some((since + self.hold).saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}
