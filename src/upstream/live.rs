//! The live state of upstreams: the queue behind its lock, the endpoints' health, pools and counters.
//!
//! Kept by identity (an upstream's name; within it an endpoint's address) and never by configuration: a reload changes the
//! plan and finds everything else as it was.

use crate::clock;
use crate::telemetry::metrics::EndpointMetrics;
use crate::telemetry::metrics::EndpointState;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use crate::upstream::CheckKind;
use crate::upstream::Plan;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::health::Health;
use crate::upstream::machine::health::Rules;
use crate::upstream::machine::health::State;
use crate::upstream::machine::queue::Arrival;
use crate::upstream::machine::queue::Bounds;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Event;
use crate::upstream::machine::queue::Queue;
use crate::upstream::machine::queue::Ticket;
use crate::upstream::pool::Pool;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing::info;
use tracing::warn;

/// What to tell a client who finds the line full.
const FULL_RETRY: Duration = Duration::from_secs(5);

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
    desk: Mutex<Desk>,
    standing: RwLock<Arc<Standing>>,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
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
struct Desk {
    queue: Queue,
    waiting: HashMap<Ticket, oneshot::Sender<Turn>>,
    epoch: u64,
}

/// What somebody who waited is told.
#[derive(Debug)]
enum Turn {
    Granted(EndpointId, u64),
    NoEndpoint,
}

/// One endpoint of an upstream, in whichever sets it stands.
pub struct Endpoint {
    /// Its place in the upstream's table.
    pub id: EndpointId,
    /// Where it is.
    pub addr: OriginAddr,
    /// Its idle connections.
    pub pool: Pool,
    health: Mutex<Health>,
    /// A journey broke and no answer has come since: the next answer is news.
    blemished: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    /// `answered` at the last check.
    answered_at_check: AtomicU64,
    last_error: Mutex<String>,
}

/// A thread of an endpoint, given back when dropped.
pub struct Lease {
    upstream: Arc<Upstream>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The count of set swaps at which it was granted.
    pub epoch: u64,
    /// How long it was waited for.
    pub waited: Duration,
    granted: Instant,
}

/// Why there is no thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRefusal {
    /// Too many wait already.
    Full {
        /// When it may be better.
        retry_after: Duration,
    },
    /// It took too long.
    Timeout {
        /// When it may be better.
        retry_after: Duration,
    },
    /// No endpoint of the serving set is up.
    NoEndpoint {
        /// When the next checks will be through.
        retry_after: Duration,
    },
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
    /// `up`, `busy` or `down`.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            Arc::clone(known.entry(plan.name.clone()).or_insert_with(|| Arc::new(Upstream::new(&plan, &self.metrics))))
        };
        upstream.install(plan);
        upstream
    }
}

impl Upstream {
    fn new(plan: &Plan, metrics: &Arc<Metrics>) -> Self {
        let bounds = Bounds { limit: plan.threads, max: plan.queue_max };
        let desk = Desk { queue: Queue::new(bounds), waiting: HashMap::new(), epoch: 0 };
        Self {
            name: plan.name.clone(),
            counters: metrics.upstream(&plan.name),
            metrics: Arc::clone(metrics),
            desk: Mutex::new(desk),
            standing: RwLock::new(Arc::new(Standing { plan: plan.clone(), members: Vec::new() })),
            endpoints: RwLock::default(),
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

    fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).get(id.0).cloned()
    }

    /// Follows `plan` from now on: one exchange, after which new requests and all that wait go to its active set. What is
    /// in flight elsewhere finishes there.
    fn install(&self, plan: Plan) {
        let mut desk = lock(&self.desk);
        let mut known = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        for addr in plan.sets.iter().flat_map(|set| &set.endpoints) {
            if !known.iter().any(|endpoint| endpoint.addr == *addr) {
                let id = desk.queue.add_endpoint();
                known.push(Arc::new(Endpoint::new(id, addr.clone())));
            }
        }
        let active = plan.sets.iter().find(|set| set.name == plan.active);
        let addrs = active.map_or(&[][..], |set| &set.endpoints);
        let ids = known.iter().filter(|endpoint| addrs.contains(&endpoint.addr)).map(|endpoint| endpoint.id).collect();
        let bounds = Bounds { limit: plan.threads, max: plan.queue_max };
        let members = self.members(&plan, &known);
        drop(known);
        let mut current = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        if current.plan.active != plan.active {
            desk.epoch += 1;
        }
        *current = Arc::new(Standing { plan, members });
        drop(current);
        let events = desk.queue.serve(bounds, ids);
        desk.tell(events);
    }

    fn members(&self, plan: &Plan, known: &[Arc<Endpoint>]) -> Vec<Member> {
        let member = |set: &SetName, addr: &OriginAddr| {
            let endpoint = Arc::clone(known.iter().find(|endpoint| endpoint.addr == *addr)?);
            let counters = self.metrics.endpoint(&self.name, set, addr);
            Some(Member { set: set.clone(), endpoint, counters })
        };
        let places = plan.sets.iter().flat_map(|set| set.endpoints.iter().map(|addr| (&set.name, addr)));
        places.filter_map(|(set, addr)| member(set, addr)).collect()
    }

    /// A thread of an endpoint that is up, if possible not of `avoid`. Waits in line while none is free.
    ///
    /// Cancel-safe: dropped, it leaves the line or gives the thread back.
    ///
    /// # Errors
    /// [`QueueRefusal`], with the time after which it may be different.
    pub async fn acquire(self: &Arc<Self>, avoid: Option<EndpointId>) -> Result<Lease, QueueRefusal> {
        let (ticket, turn) = {
            let mut desk = lock(&self.desk);
            match desk.queue.arrive(avoid) {
                Arrival::Granted(endpoint) => {
                    let epoch = desk.epoch;
                    drop(desk);
                    return self.lease(endpoint, epoch, Duration::ZERO);
                }
                Arrival::Waiting(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    desk.waiting.insert(ticket, sender);
                    (ticket, receiver)
                }
                Arrival::Full => return Err(QueueRefusal::Full { retry_after: FULL_RETRY }),
                Arrival::NoEndpoint => return Err(self.no_endpoint()),
            }
        };
        let began = clock::mono();
        let mut place = Place { upstream: self, ticket, turn };
        let wait = self.standing().plan.queue_wait;
        match tokio::time::timeout(wait, &mut place.turn).await {
            Ok(Ok(Turn::Granted(endpoint, epoch))) => {
                let waited = clock::mono().saturating_duration_since(began);
                self.lease(endpoint, epoch, waited)
            }
            Ok(Ok(Turn::NoEndpoint) | Err(_)) => Err(self.no_endpoint()),
            Err(_) => Err(QueueRefusal::Timeout { retry_after: FULL_RETRY }),
        }
    }

    fn lease(self: &Arc<Self>, id: EndpointId, epoch: u64, waited: Duration) -> Result<Lease, QueueRefusal> {
        // The table only grows, so an endpoint that was granted is in it.
        let endpoint = self.endpoint(id).ok_or_else(|| self.no_endpoint())?;
        Ok(Lease { upstream: Arc::clone(self), endpoint, epoch, waited, granted: clock::mono() })
    }

    fn no_endpoint(&self) -> QueueRefusal {
        let check = &self.standing().plan.check;
        QueueRefusal::NoEndpoint { retry_after: check.every * check.rise.max(1) }
    }

    fn release(&self, endpoint: EndpointId) {
        let mut desk = lock(&self.desk);
        let events = desk.queue.release(endpoint);
        desk.tell(events);
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
        let check = &standing.plan.check;
        let rules = Rules { rise: check.rise, fall: check.fall };
        let changed = {
            let mut health = lock(&endpoint.health);
            let changed = health.learn(evidence, rules, clock::mono());
            endpoint.blemished.store(!health.is_spotless(), Ordering::Relaxed);
            changed
        };
        let Some(state) = changed else { return };
        let up = state == State::Up;
        for member in standing.members.iter().filter(|member| member.endpoint.id == endpoint.id) {
            member.counters.state(if up { EndpointState::Up } else { EndpointState::Down });
        }
        if up {
            info!(upstream = %self.name, endpoint = %endpoint.addr, "endpoint is up");
        } else {
            endpoint.pool.clear();
            let error = lock(&endpoint.last_error).clone();
            warn!(upstream = %self.name, endpoint = %endpoint.addr, error, "endpoint is down");
        }
        let mut desk = lock(&self.desk);
        let events = desk.queue.set_up(endpoint.id, up);
        desk.tell(events);
    }

    /// Lets a request try an endpoint that has been down for a while and that nobody checks.
    pub fn try_unchecked(&self) {
        let standing = self.standing();
        let check = &standing.plan.check;
        if check.kind != CheckKind::Off {
            return;
        }
        for member in &standing.members {
            let (state, lasting) = member.endpoint.state();
            if state == State::Down && lasting >= check.every {
                self.learn(&member.endpoint, Evidence::Trial);
            }
        }
    }

    /// Whether any endpoint of the serving set is up.
    #[must_use]
    pub fn anyone_up(&self) -> bool {
        lock(&self.desk).queue.anyone_up()
    }

    /// Brings what changes all the time into the gauges.
    pub fn show_gauges(&self) {
        let standing = self.standing();
        self.counters.sets(standing.plan.sets.iter().map(|set| set.name.clone()), &standing.plan.active);
        let desk = lock(&self.desk);
        self.counters.queue_length(desk.queue.waiting());
        for Member { endpoint, counters, .. } in &standing.members {
            let in_flight = desk.queue.in_flight(endpoint.id);
            counters.in_flight(in_flight, desk.queue.limit());
            counters.state(endpoint.shown_state(in_flight >= desk.queue.limit()));
        }
    }

    /// What operators see.
    #[must_use]
    pub fn view(&self) -> UpstreamView {
        let standing = self.standing();
        let desk = lock(&self.desk);
        let limit = desk.queue.limit();
        let view = |Member { set, endpoint, .. }: &Member| {
            let (_, lasting) = endpoint.state();
            let in_flight = desk.queue.in_flight(endpoint.id);
            EndpointView {
                set: set.to_string(),
                address: endpoint.addr.to_string(),
                state: endpoint.shown_state(in_flight >= limit).as_str(),
                seconds: lasting.as_secs(),
                in_flight,
                limit,
                idle: endpoint.pool.len(),
                answered: endpoint.answered.load(Ordering::Relaxed),
                failed: endpoint.failed.load(Ordering::Relaxed),
                last_error: lock(&endpoint.last_error).clone(),
            }
        };
        UpstreamView {
            name: self.name.to_string(),
            active: standing.plan.active.to_string(),
            epoch: desk.epoch,
            waiting: desk.queue.waiting(),
            endpoints: standing.members.iter().map(view).collect(),
        }
    }
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
    fn tell(&mut self, events: Vec<Event>) {
        let mut events = std::collections::VecDeque::from(events);
        while let Some(event) = events.pop_front() {
            match event {
                Event::Granted(ticket, endpoint) => {
                    let turn = Turn::Granted(endpoint, self.epoch);
                    let told = self.waiting.remove(&ticket).is_some_and(|waiting| waiting.send(turn).is_ok());
                    if !told {
                        events.extend(self.queue.release(endpoint));
                    }
                }
                Event::NoEndpoint(ticket) => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        // Who is gone need not be told.
                        let _ = waiting.send(Turn::NoEndpoint);
                    }
                }
            }
        }
    }
}

/// Somebody's place in the line; dropped, he leaves it.
struct Place<'a> {
    upstream: &'a Upstream,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut desk = lock(&self.upstream.desk);
        desk.waiting.remove(&self.ticket);
        if desk.queue.leave(self.ticket) {
            return;
        }
        // Not in the line: a turn was sent. If it was received, the lease holds the thread and nothing is in the channel.
        if let Ok(Turn::Granted(endpoint, _)) = self.turn.try_recv() {
            let events = desk.queue.release(endpoint);
            desk.tell(events);
        }
    }
}

impl Lease {
    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.counters.duration(clock::mono().saturating_duration_since(self.granted));
        self.upstream.release(self.endpoint.id);
    }
}

impl Endpoint {
    fn new(id: EndpointId, addr: OriginAddr) -> Self {
        Self {
            id,
            addr,
            pool: Pool::default(),
            health: Mutex::new(Health::new(clock::mono())),
            blemished: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            answered_at_check: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// Its state and how long it lasts.
    #[must_use]
    pub fn state(&self) -> (State, Duration) {
        let health = lock(&self.health);
        (health.state(), health.lasting(clock::mono()))
    }

    fn shown_state(&self, busy: bool) -> EndpointState {
        match self.state().0 {
            State::Down => EndpointState::Down,
            State::Up if busy => EndpointState::Busy,
            State::Up => EndpointState::Up,
        }
    }

    /// Notes what went wrong.
    pub fn note_error(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_error) = error;
    }

    /// Whether requests were answered since this was last asked: what a check asks.
    pub fn progressed(&self) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        self.answered_at_check.swap(answered, Ordering::Relaxed) != answered
    }
}
