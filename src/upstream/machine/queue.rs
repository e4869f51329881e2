//! Who gets a thread of which endpoint, and when: exact counting, one line per upstream with fair order, least-busy choice.
//!
//! A value, not a lock: the shell holds it in one. Invariants, checked after each step of the model tests:
//!
//! 1. No endpoint has more requests in flight than its limit grants at the moment it grants.
//! 2. Nobody waits while an endpoint that he may use has a thread free, unless the queue is paused or has just been.
//! 3. The line is never longer than its bound, no client takes more of it than his share, and the last places are for the more
//!    urgent: who would be served first is not refused for those who would wait.
//! 4. What was granted is released exactly once, whatever set serves by then.
//! 5. After a pause each endpoint has at most one request more than have ended on it since.
//! 6. Classes share threads by weight, clients within a class equally: nobody starves, whatever others send.
//!
//! The order is start-time fair queueing (Goyal, Vin, Cheng 1996) twice: between classes with weights, within a class
//! between clients. Somebody who sends 200 requests at once waits behind himself; a newcomer goes before his second.

mod line;
#[cfg(test)]
mod tests;

pub use line::Class;
pub use line::ClientKey;
use line::Line;
pub use line::Ticket;
use line::Waiting;
use std::time::Duration;

/// An endpoint of this upstream: its place in the table, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub usize);

/// Somebody who asks for a thread.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// For whom.
    pub client: ClientKey,
    /// How urgent.
    pub class: Class,
    /// Where he has just failed: anywhere else, if possible.
    pub avoid: Option<EndpointId>,
    /// Where he has just written, or wants to stay: nowhere else, while it is open and he has not failed there.
    pub pinned: Option<EndpointId>,
    /// What his request has in common with others that should go to the same endpoint.
    pub hash: u64,
}

/// What somebody who asks for a thread gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A thread, at once.
    Granted(EndpointId),
    /// A place in the line.
    Waiting(Ticket),
    /// Nothing.
    Refused(Refused),
}

/// Why somebody gets nothing, and after how long it may be different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The line is full.
    Full(Duration),
    /// This client has his share of the line already.
    PerClient(Duration),
    /// By all that is known, his turn would come too late.
    TooLong(Duration),
    /// No endpoint of the serving set is open.
    NoEndpoint,
}

/// What happened to somebody who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Who.
    pub ticket: Ticket,
    /// What he got.
    pub endpoint: EndpointId,
}

/// How an endpoint is chosen among those with a thread free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest requests in flight for its weight.
    #[default]
    LeastBusy,
    /// In turn, by weight.
    RoundRobin,
    /// The less busy of two that chance names.
    RandomTwo,
    /// Equal paths to the same endpoint, whose object cache is warm for them, unless it has a quarter more to do than the
    /// others have (bounded load, Mirrokni et al. 2016).
    PathHash,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that wait.
    pub max: usize,
    /// Requests of one client that wait.
    pub per_client: usize,
    /// The longest wait that makes sense.
    pub patience: Duration,
    /// How endpoints are chosen.
    pub balance: Balance,
}

/// An endpoint in the serving set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub id: EndpointId,
    /// Its share of the load, 1 or more.
    pub weight: u32,
    /// Used only while no other works.
    pub backup: bool,
}

/// All counting of one upstream.
#[derive(Clone, Debug)]
pub struct Queue {
    bounds: Bounds,
    endpoints: Vec<Endpoint>,
    serving: Vec<Server>,
    line: Line,
    paused: bool,
    grants: u64,
    /// How far the endpoints' turns have come.
    turn: u64,
    /// Smoothed time that a thread is taken for; none before the first release.
    service: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    /// Takes new requests: it is up and not being drained.
    open: bool,
    /// Its requests hang.
    hangs: bool,
    limit: usize,
    in_flight: usize,
    /// The number of the last grant it got: breaks ties in turn.
    last_grant: u64,
    /// When, in the time of `Queue::turn`, it is due: later by the inverse of its weight with each grant.
    due: u64,
    /// After a pause: what it has shown that it can take, however many its limit grants.
    window: usize,
}

impl Endpoint {
    fn new(limit: usize) -> Self {
        Self { open: true, hangs: false, limit, in_flight: 0, last_grant: 0, due: 0, window: usize::MAX }
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.limit.min(self.window)
    }
}

impl Queue {
    /// A queue without endpoints.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            endpoints: Vec::new(),
            serving: Vec::new(),
            line: Line::default(),
            paused: false,
            grants: 0,
            turn: 0,
            service: None,
        }
    }

    /// Adds an endpoint, open, with `limit` threads, that serves only once a set names it.
    pub fn add_endpoint(&mut self, limit: usize) -> EndpointId {
        self.endpoints.push(Endpoint::new(limit));
        EndpointId(self.endpoints.len() - 1)
    }

    /// Lets these endpoints serve from now on, within these bounds; all who wait, wait for them.
    #[must_use]
    pub fn serve(&mut self, bounds: Bounds, serving: Vec<Server>) -> Vec<Granted> {
        self.bounds = bounds;
        self.serving = serving;
        self.settle()
    }

    /// Grants nothing until this is undone: who comes, waits. Afterwards each endpoint gets one request, and one more for
    /// each that has ended: those who waited do not fall upon it all at once.
    #[must_use]
    pub fn pause(&mut self, paused: bool) -> Vec<Granted> {
        if self.paused && !paused {
            for endpoint in &mut self.endpoints {
                endpoint.window = endpoint.in_flight + 1;
            }
        }
        self.paused = paused;
        self.settle()
    }

    /// Ends the careful beginning after a pause.
    #[must_use]
    pub fn open_windows(&mut self) -> Vec<Granted> {
        for endpoint in &mut self.endpoints {
            endpoint.window = usize::MAX;
        }
        self.settle()
    }

    /// Makes the place of an endpoint that is not needed any more that of a new one, open, with `limit` threads.
    pub fn renew_endpoint(&mut self, id: EndpointId, limit: usize) {
        if let Some(found) = self.endpoints.get_mut(id.0) {
            *found = Endpoint::new(limit);
        }
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Somebody asks for a thread. `patient`: he may wait although no endpoint is open.
    pub fn arrive(&mut self, ask: Ask, patient: bool) -> Arrival {
        if !self.paused {
            if !self.anyone_open() && !patient {
                return Arrival::Refused(Refused::NoEndpoint);
            }
            // Who waits for others than this one could use does not keep him waiting; all others have had their turn.
            if let Some(endpoint) = self.choose(&ask) {
                return Arrival::Granted(self.grant(endpoint));
            }
        }
        if self.line.len() >= ask.class.places(self.bounds.max) {
            return Arrival::Refused(Refused::Full(self.wait_for(self.line.len())));
        }
        if self.line.of_client(ask.class, ask.client) >= self.bounds.per_client {
            return Arrival::Refused(Refused::PerClient(self.wait_for(self.bounds.per_client)));
        }
        if !self.paused && self.anyone_open() {
            let wait = self.wait_for(self.line.ahead_of(ask.class, ask.client));
            if wait > self.bounds.patience {
                return Arrival::Refused(Refused::TooLong(wait.saturating_sub(self.bounds.patience)));
            }
        }
        Arrival::Waiting(self.line.join(Waiting { ask }))
    }

    /// Somebody leaves the line. Says whether he stood in it: if not, he has been granted a thread and must release it.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.line.leave(ticket)
    }

    /// A thread of `endpoint` is free again after `took`. A download of an hour says nothing about how long the next in line
    /// will wait: it counts as the longest wait, or as four times what is usual.
    #[must_use]
    pub fn release(&mut self, endpoint: EndpointId, took: Duration) -> Vec<Granted> {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.in_flight = found.in_flight.saturating_sub(1);
            found.window = found.window.saturating_add(1);
        }
        let took = took.min(self.bounds.patience.max(self.service.unwrap_or_default() * 4));
        self.service = Some(self.service.map_or(took, |service| (service * 15 + took) / 16));
        self.settle()
    }

    /// Gives back a thread that was never used.
    #[must_use]
    pub fn give_back(&mut self, endpoint: EndpointId) -> Vec<Granted> {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.in_flight = found.in_flight.saturating_sub(1);
        }
        self.settle()
    }

    /// `endpoint` takes new requests from now on, up to `limit` at a time, or takes none.
    #[must_use]
    pub fn set_open(&mut self, endpoint: EndpointId, open: bool, limit: usize) -> Vec<Granted> {
        self.prepare(endpoint, open, limit);
        self.settle()
    }

    /// The same, before [`Queue::serve`] says who serves from now on: nothing is granted yet.
    pub fn prepare(&mut self, endpoint: EndpointId, open: bool, limit: usize) {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.open = open;
            found.limit = limit;
        }
    }

    /// The requests of `endpoint` hang, or do so no longer: where backups work they are used in its place. To be said before
    /// [`Queue::set_open`] or [`Queue::serve`], which grant what follows from it.
    pub fn set_hangs(&mut self, endpoint: EndpointId, hangs: bool) {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.hangs = hangs;
        }
    }

    /// The requests in flight at `endpoint`.
    #[must_use]
    pub fn in_flight(&self, endpoint: EndpointId) -> usize {
        self.endpoints.get(endpoint.0).map_or(0, |found| found.in_flight)
    }

    /// The most requests in flight at `endpoint`.
    #[must_use]
    pub fn limit(&self, endpoint: EndpointId) -> usize {
        self.endpoints.get(endpoint.0).map_or(0, |found| found.limit)
    }

    /// The requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// The requests of `class` that wait.
    #[must_use]
    pub fn waiting_of(&self, class: Class) -> usize {
        self.line.of_class(class)
    }

    /// The smoothed time that a request takes a thread for.
    #[must_use]
    pub fn service(&self) -> Option<Duration> {
        self.service
    }

    /// Whether any endpoint of the serving set but `id` is open.
    #[must_use]
    pub fn another_open(&self, id: EndpointId) -> bool {
        self.usable().any(|(server, _)| server.id != id)
    }

    /// Whether `id` has another beside it that takes a share of its load: one that is a backup if it is one.
    #[must_use]
    pub fn has_peer(&self, id: EndpointId) -> bool {
        let Some(own) = self.serving.iter().find(|server| server.id == id) else { return self.anyone_open() };
        self.serving.iter().any(|server| server.id != id && server.backup == own.backup && self.is_open(server.id))
    }

    /// The open endpoints of the serving set, backups too.
    pub fn open(&self) -> impl Iterator<Item = EndpointId> {
        self.serving.iter().map(|server| server.id).filter(|id| self.is_open(*id))
    }

    /// Whether any endpoint of the serving set is open.
    #[must_use]
    pub fn anyone_open(&self) -> bool {
        self.serving.iter().any(|server| self.is_open(server.id))
    }

    fn is_open(&self, id: EndpointId) -> bool {
        self.endpoints.get(id.0).is_some_and(|endpoint| endpoint.open)
    }

    /// How long it takes until so many have been served and the next thread is free, by what was measured so far.
    fn wait_for(&self, ahead: usize) -> Duration {
        let threads: usize = self.usable().map(|(_, endpoint)| endpoint.limit).sum();
        let service = self.service.unwrap_or_default();
        service.saturating_mul(u32::try_from(ahead + 1).unwrap_or(u32::MAX))
            / u32::try_from(threads.max(1)).unwrap_or(1)
    }

    /// The open endpoints; backups only if no other works.
    fn usable(&self) -> impl Iterator<Item = (&Server, &Endpoint)> {
        let hangs = |server: &Server| self.endpoints.get(server.id.0).is_some_and(|endpoint| endpoint.hangs);
        let any = |backup, hung| {
            let fits = |server: &&Server| server.backup == backup && self.is_open(server.id) && hangs(server) == hung;
            self.serving.iter().any(|server| fits(&server))
        };
        // Of those that all hang, the first get what their limits allow.
        let backups = !any(false, false) && (any(true, false) || !any(false, true));
        self.serving
            .iter()
            .filter(move |server| server.backup == backups)
            .filter_map(|server| Some((server, self.endpoints.get(server.id.0).filter(|endpoint| endpoint.open)?)))
    }

    fn choose(&self, ask: &Ask) -> Option<EndpointId> {
        if let Some(pinned) = ask.pinned.filter(|pinned| Some(*pinned) != ask.avoid)
            && let Some((server, endpoint)) = self.usable().find(|(server, _)| server.id == pinned)
        {
            return endpoint.has_room().then_some(server.id);
        }
        let free = || self.usable().filter(|(_, endpoint)| endpoint.has_room());
        let avoided = |server: &Server| Some(server.id) == ask.avoid;
        // Whose turn it is, by weight. Who was away, or is new, has nothing saved up.
        let turn = |endpoint: &Endpoint| (endpoint.due.max(self.turn), endpoint.last_grant);
        let load = |server: &Server, endpoint: &Endpoint| {
            (endpoint.in_flight as u64 * ROUND / u64::from(server.weight.max(1)), turn(endpoint))
        };
        let best = match self.bounds.balance {
            Balance::LeastBusy => free().min_by_key(|(server, endpoint)| (avoided(server), load(server, endpoint))),
            Balance::RoundRobin => free().min_by_key(|(server, endpoint)| (avoided(server), turn(endpoint))),
            Balance::RandomTwo => {
                let chance = |server: &Server| mix(self.grants ^ mix(server.id.0 as u64));
                let mut two: Vec<_> = free().collect();
                two.sort_by_key(|(server, _)| (avoided(server), chance(server)));
                two.truncate(2);
                two.into_iter().min_by_key(|(server, endpoint)| (avoided(server), load(server, endpoint)))
            }
            Balance::PathHash => {
                let all: usize = self.usable().map(|(_, endpoint)| endpoint.in_flight).sum();
                let most = (all + 1) * 5 / (self.usable().count().max(1) * 4) + 1;
                let order = |server: &Server| mix(ask.hash ^ mix(server.id.0 as u64 + 1));
                free().min_by_key(|(server, endpoint)| (avoided(server), endpoint.in_flight >= most, order(server)))
            }
        };
        best.map(|(server, _)| server.id)
    }

    fn grant(&mut self, id: EndpointId) -> EndpointId {
        self.grants += 1;
        let weight = self.serving.iter().find(|server| server.id == id).map_or(1, |server| server.weight.max(1));
        if let Some(endpoint) = self.endpoints.get_mut(id.0) {
            endpoint.in_flight += 1;
            endpoint.last_grant = self.grants;
            self.turn = self.turn.max(endpoint.due);
            endpoint.due = self.turn + ROUND / u64::from(weight);
        }
        id
    }

    /// Hands out what is free, in fair order. Who is pinned to a busy endpoint is passed over until it has room.
    fn settle(&mut self) -> Vec<Granted> {
        let mut granted = Vec::new();
        while !self.paused && !self.line.is_empty() && self.has_room() {
            let next = self.line.in_order().find_map(|(ticket, waiting)| Some((ticket, self.choose(&waiting.ask)?)));
            let Some((ticket, endpoint)) = next else { break };
            self.line.serve(ticket);
            granted.push(Granted { ticket, endpoint: self.grant(endpoint) });
        }
        granted
    }

    /// Whether a thread would be granted now.
    #[must_use]
    pub fn has_room_now(&self) -> bool {
        !self.paused && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.usable().any(|(_, endpoint)| endpoint.has_room())
    }
}

/// The turn of an endpoint of weight 1; it has all small divisors.
const ROUND: u64 = 840;

/// Scatters the bits of `value` (the finaliser of splitmix64).
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
