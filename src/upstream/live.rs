//! The live state of upstreams: the queue behind its lock, the endpoints' condition, pools and counters.
//!
//! Kept by identity (an upstream's name; within it an endpoint's address) and never by configuration: a reload changes the
//! plan and finds everything else as it was.

use crate::clock;
use crate::telemetry::metrics::EndpointMetrics;
use crate::telemetry::metrics::GONE_FOR;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::NameFacts;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use crate::upstream::Plan;
use crate::upstream::budget::Budget;
use crate::upstream::desk::Desk;
use crate::upstream::desk::Hold;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::gate::Gate;
use crate::upstream::machine::names;
use crate::upstream::machine::names::Failure;
use crate::upstream::machine::names::Lookups;
use crate::upstream::machine::names::News;
use crate::upstream::machine::names::Placed;
use crate::upstream::machine::notices::Notices;
use crate::upstream::machine::queue::Bounds;
use crate::upstream::machine::queue::Class;
use crate::upstream::machine::queue::ClientKey;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Server;
use crate::upstream::machine::storage::Storage;
use crate::upstream::machine::wait;
use crate::upstream::view::StorageView;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::Weak;
use std::time::Instant;
use tracing::info;

/// The places that endpoints have for good. Beyond, those of endpoints that no set names any more are given away.
const PLACES: usize = 256;

/// How many addresses of names have counters of their own; further ones count under their name.
const LABELS_MAX: usize = 256;

/// All upstreams that somebody uses, by name: a snapshot, or a request under way.
pub struct Registry {
    metrics: Arc<Metrics>,
    upstreams: Mutex<HashMap<UpstreamName, Weak<Upstream>>>,
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
    /// Where scales of images wait for each other.
    pub(super) scales: Gate,
    /// Held while a plan or the meaning of a name is put in force: one at a time.
    names: Mutex<Names>,
    /// How many requests the diary may name.
    pub(super) notices: Mutex<Notices>,
    pub(super) storage: Mutex<Storage>,
    pub(super) storage_seen: Mutex<Vec<StorageView>>,
}

/// What the names among the endpoints mean at present.
#[derive(Default)]
struct Names {
    addresses: BTreeMap<OriginAddr, Vec<OriginAddr>>,
    lookups: BTreeMap<OriginAddr, Lookups>,
    /// The addresses with counters of their own, and when each was last in use.
    labelled: HashMap<OriginAddr, Instant>,
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
            known.retain(|_, upstream| upstream.strong_count() > 0);
            let found = known.get(&plan.name).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let new = Arc::new(Upstream::new(&plan, &self.metrics));
                known.insert(plan.name.clone(), Arc::downgrade(&new));
                new
            })
        };
        upstream.install(plan);
        upstream
    }
}

fn bounds(plan: &Plan) -> Bounds {
    Bounds { max: plan.queue_max, per_client: plan.per_client, patience: plan.queue_wait, balance: plan.balance }
}

fn rules(plan: &Plan) -> wait::Rules {
    wait::Rules { patience: plan.queue_wait, hold: plan.hold }
}

impl Upstream {
    fn new(plan: &Plan, metrics: &Arc<Metrics>) -> Self {
        Self {
            name: plan.name.clone(),
            counters: metrics.upstream(&plan.name),
            metrics: Arc::clone(metrics),
            desk: Mutex::new(Desk::new(bounds(plan), rules(plan))),
            standing: RwLock::new(Arc::new(Standing { plan: plan.clone(), members: Vec::new() })),
            endpoints: RwLock::default(),
            retries: Budget::new(),
            scales: Gate::default(),
            names: Mutex::default(),
            notices: Mutex::default(),
            storage: Mutex::default(),
            storage_seen: Mutex::default(),
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

    /// All endpoints that have a place, whether a set names them or not.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows `plan` from now on: one exchange, after which new requests and all that wait go to its active set. What is
    /// in flight elsewhere finishes there.
    fn install(&self, plan: Plan) {
        let mut names = lock(&self.names);
        self.put_in_force(&mut names, plan);
    }

    /// `name` means these endpoints from now on; says whether those are others than before, and what else is news.
    pub fn resolved(&self, name: &OriginAddr, endpoints: Vec<OriginAddr>) -> (bool, Option<News>) {
        let mut names = lock(&self.names);
        let news = names.lookups.entry(name.clone()).or_default().answered(clock::mono());
        if names.addresses.get(name) == Some(&endpoints) {
            return (false, news);
        }
        names.addresses.insert(name.clone(), endpoints);
        let plan = self.standing().plan.clone();
        self.put_in_force(&mut names, plan);
        (true, news)
    }

    /// `name` could not be looked up; says what is news about that, and how many addresses it had.
    pub fn unresolved(&self, name: &OriginAddr, why: Failure, error: String) -> (Option<News>, usize) {
        let mut names = lock(&self.names);
        let news = names.lookups.entry(name.clone()).or_default().failed(why, error, clock::mono());
        (news, names.addresses.get(name).map_or(0, Vec::len))
    }

    /// The names among its endpoints, what looking them up has come to, and the addresses that they have at present.
    pub(super) fn names(&self) -> Vec<(OriginAddr, Lookups, Vec<OriginAddr>)> {
        let standing = self.standing();
        let names = lock(&self.names);
        let mut wanted: Vec<&OriginAddr> = standing.plan.names().collect();
        wanted.sort();
        wanted.dedup();
        let known = |name: &OriginAddr| {
            let (lookups, addresses) = (names.lookups.get(name), names.addresses.get(name));
            (name.clone(), lookups.cloned().unwrap_or_default(), addresses.cloned().unwrap_or_default())
        };
        wanted.into_iter().map(known).collect()
    }

    /// Whether one of its names has this address at present.
    #[must_use]
    pub fn has_named(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        lock(&self.names).addresses.values().flatten().any(|endpoint| endpoint.host().parse() == Ok(address))
    }

    fn put_in_force(&self, names: &mut Names, plan: Plan) {
        let now = clock::mono();
        names.addresses.retain(|name, _| plan.names().any(|known| known == name));
        names.lookups.retain(|name, _| plan.names().any(|known| known == name));
        let placed = names::expand(&plan.sets, &names.addresses);
        // What is shown no more makes room for others.
        names.labelled.retain(|addr, used| {
            if placed.iter().any(|one| one.addr == *addr) {
                *used = now;
            }
            now.saturating_duration_since(*used) < GONE_FOR
        });
        let mut desk = lock(&self.desk);
        let mut known = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        for Placed { addr, .. } in &placed {
            if !known.iter().any(|endpoint| endpoint.addr == *addr) {
                place(&mut desk, &mut known, &placed, addr, plan.threads);
            }
        }
        let find = |addr: &OriginAddr| known.iter().find(|endpoint| endpoint.addr == *addr).cloned();
        let active = placed.iter().filter(|one| one.set == plan.active);
        let serving: Vec<(Server, Arc<Endpoint>)> = active
            .filter_map(|one| {
                let endpoint = find(&one.addr)?;
                Some((Server { id: endpoint.id, weight: one.weight, backup: one.backup }, endpoint))
            })
            .collect();
        let members = placed.iter().filter_map(|one| Some(self.member(names, one, find(&one.addr)?, now))).collect();
        for endpoint in known.iter() {
            desk.prepare(endpoint.id, &endpoint.condition(), &plan, now);
        }
        drop(known);
        desk.rules = rules(&plan);
        desk.ways.clear();
        if plan.way.is_some() {
            desk.ways.extend(serving.iter().map(|(_, endpoint)| (endpoint.way, endpoint.id)));
        }
        let bounds = bounds(&plan);
        let mut current = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        if current.plan.active != plan.active {
            desk.epoch += 1;
        }
        *current = Arc::new(Standing { plan, members });
        drop(current);
        let granted = desk.queue.serve(bounds, serving.into_iter().map(|(server, _)| server).collect());
        let outage = desk.note_outage(now);
        desk.tell(granted);
        let waiting = desk.queue.waiting();
        drop(desk);
        self.tell_outage(outage, waiting);
    }

    fn member(&self, names: &mut Names, placed: &Placed, endpoint: Arc<Endpoint>, now: Instant) -> Member {
        let mut label = &placed.addr;
        if let Some(name) = &placed.name {
            if names.labelled.contains_key(&placed.addr) || names.labelled.len() < LABELS_MAX {
                names.labelled.insert(placed.addr.clone(), now);
            } else {
                label = name;
            }
        }
        let counters = self.metrics.endpoint(&self.name, &placed.set, label);
        Member { set: placed.set.clone(), endpoint, counters }
    }

    /// Stops sending for this reason, or ends that: who comes, waits.
    pub fn hold(&self, why: Hold, held: bool) {
        let mut desk = lock(&self.desk);
        let Some(granted) = desk.hold(why, held, clock::mono()) else { return };
        let (waiting, still) = (desk.queue.waiting() + granted.len(), desk.holds.len());
        desk.tell(granted);
        drop(desk);
        let (name, why) = (&self.name, why.as_str());
        match (held, still) {
            (true, _) => info!(upstream = %name, why, waiting, "held: requests wait"),
            (false, 0) => info!(upstream = %name, why, waiting, "no longer held: who waited is served"),
            (false, _) => info!(upstream = %name, why, waiting, "no longer held for this reason, but for another"),
        }
    }

    /// Whether it is held for this reason.
    #[must_use]
    pub fn is_held_by(&self, why: Hold) -> bool {
        lock(&self.desk).holds.contains_key(&why)
    }

    /// Whether it is held because of its storage: what a Zope answers now may be no fault of its own.
    #[must_use]
    pub fn is_without_storage(&self) -> bool {
        let desk = lock(&self.desk);
        desk.holds.contains_key(&Hold::Storage) || desk.holds.contains_key(&Hold::Takeover)
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Remembers that `who` has written at `endpoint`.
    pub fn pin(&self, who: ClientKey, endpoint: EndpointId) {
        let lasting = self.standing().plan.pin;
        lock(&self.desk).pins.pin(who, endpoint, clock::mono(), lasting);
    }

    /// Whether any endpoint of the serving set is open.
    #[must_use]
    pub fn anyone_open(&self) -> bool {
        lock(&self.desk).queue.anyone_open()
    }

    /// Whether any endpoint of the serving set but `id` is open.
    #[must_use]
    pub fn another_open(&self, id: EndpointId) -> bool {
        lock(&self.desk).queue.another_open(id)
    }

    /// Whether all threads of `id` that may be used are taken.
    #[must_use]
    pub fn is_full(&self, id: EndpointId) -> bool {
        let desk = lock(&self.desk);
        desk.queue.in_flight(id) > 0 && desk.queue.in_flight(id) >= desk.queue.limit(id)
    }

    /// Whether nothing is sent now, or what is sent does not come back: no endpoint is open, all that are open are stuck, or
    /// the upstream is held.
    #[must_use]
    pub fn is_out(&self) -> bool {
        lock(&self.desk).is_out()
    }

    /// The count of set swaps.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        lock(&self.desk).epoch
    }

    /// Brings what changes all the time into the gauges.
    pub fn show_gauges(&self) {
        let standing = self.standing();
        self.counters.names(self.names().into_iter().map(|(name, lookups, addresses)| NameFacts {
            name: name.to_string(),
            up: lookups.answers(),
            failing: lookups.failing().map(|failing| clock::mono().saturating_duration_since(failing.since)),
            addresses: addresses.len(),
            lookups: lookups.counts(),
        }));
        self.counters.sets(standing.plan.sets.iter().map(|set| set.name.clone()), &standing.plan.active);
        let desk = lock(&self.desk);
        for class in Class::ALL {
            let at_the_door = if class == Class::Anonymous { self.scales.waiting() } else { 0 };
            self.counters.queue_length(class.visitor(), desk.queue.waiting_of(class) + at_the_door);
        }
        self.counters.held(if desk.is_out() { desk.queue.waiting() } else { 0 });
        self.counters.holds(desk.holds.keys().map(|why| why.as_str()).collect());
        for Member { endpoint, counters, .. } in &standing.members {
            let (in_flight, limit) = (desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
            counters.in_flight(in_flight, limit);
            counters.state(endpoint.condition().word(in_flight, limit));
        }
    }
}

/// Gives the endpoint at `addr` a place: a new one, or beyond [`PLACES`] that of one that is not needed any more.
fn place(desk: &mut Desk, known: &mut Vec<Arc<Endpoint>>, placed: &[Placed], addr: &OriginAddr, threads: usize) {
    let needed = |endpoint: &Endpoint| {
        desk.queue.in_flight(endpoint.id) > 0 || placed.iter().any(|one| one.addr == endpoint.addr)
    };
    let free = (known.len() >= PLACES).then(|| known.iter().position(|endpoint| !needed(endpoint))).flatten();
    let Some(at) = free else {
        let id = desk.queue.add_endpoint(threads);
        known.push(Arc::new(Endpoint::new(id, addr.clone())));
        return;
    };
    let id = EndpointId(at);
    desk.queue.renew_endpoint(id, threads);
    desk.pins.forget_endpoint(id);
    known[at] = Arc::new(Endpoint::new(id, addr.clone()));
}

impl Standing {
    /// How many scales of images may be fetched for visitors at once: as the operator said, or a quarter of all threads of
    /// the serving set.
    #[must_use]
    pub fn scales(&self) -> usize {
        let serving = self.members.iter().filter(|member| member.set == self.plan.active).count();
        self.plan.scales.unwrap_or((serving * self.plan.threads / 4).max(1))
    }

    /// The endpoint in the serving set, if it stands there, else in any.
    #[must_use]
    pub fn member(&self, id: EndpointId) -> Option<&Member> {
        let mut found = self.members.iter().filter(|member| member.endpoint.id == id);
        found.clone().find(|member| member.set == self.plan.active).or_else(|| found.next())
    }
}
