//! Who gets a thread of which endpoint: exact counting, one waiting line per upstream, least-busy choice.
//!
//! A value, not a lock: the shell holds it in one. Invariants, checked after each step of the model test:
//!
//! 1. No endpoint has more requests in flight than `limit` grants at the moment it grants.
//! 2. Nobody waits while an endpoint of the serving set is up and has a thread free.
//! 3. The line is never longer than its bound, and first come is first served.
//! 4. What was granted is released exactly once, whatever set serves by then.

use std::collections::VecDeque;

/// An endpoint of this upstream: its place in the table, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub usize);

/// Somebody's place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What somebody who asks for a thread gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A thread, at once.
    Granted(EndpointId),
    /// A place in the line.
    Waiting(Ticket),
    /// Nothing: the line is full.
    Full,
    /// Nothing: no endpoint of the serving set is up.
    NoEndpoint,
}

/// What happened to somebody who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It got a thread.
    Granted(Ticket, EndpointId),
    /// No endpoint is left that it could wait for.
    NoEndpoint(Ticket),
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests in flight per endpoint.
    pub limit: usize,
    /// Requests that wait.
    pub max: usize,
}

/// All counting of one upstream.
#[derive(Clone, Debug)]
pub struct Queue {
    bounds: Bounds,
    endpoints: Vec<Endpoint>,
    serving: Vec<EndpointId>,
    line: VecDeque<Ticket>,
    next_ticket: u64,
    grants: u64,
}

#[derive(Clone, Debug, Default)]
struct Endpoint {
    up: bool,
    in_flight: usize,
    /// The number of the last grant it got: breaks ties in turn.
    last_grant: u64,
}

impl Queue {
    /// A queue without endpoints.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, endpoints: Vec::new(), serving: Vec::new(), line: VecDeque::new(), next_ticket: 0, grants: 0 }
    }

    /// Adds an endpoint, up and idle, that serves only once a set names it.
    pub fn add_endpoint(&mut self) -> EndpointId {
        self.endpoints.push(Endpoint { up: true, ..Endpoint::default() });
        EndpointId(self.endpoints.len() - 1)
    }

    /// Lets these endpoints serve from now on, within these bounds; all who wait, wait for them.
    #[must_use]
    pub fn serve(&mut self, bounds: Bounds, serving: Vec<EndpointId>) -> Vec<Event> {
        self.bounds = bounds;
        self.serving = serving;
        self.settle()
    }

    /// Somebody asks for a thread, if possible not of `avoid`, where he has just failed.
    pub fn arrive(&mut self, avoid: Option<EndpointId>) -> Arrival {
        if !self.anyone_up() {
            return Arrival::NoEndpoint;
        }
        if self.line.is_empty()
            && let Some(endpoint) = self.choose(avoid)
        {
            return Arrival::Granted(self.grant(endpoint));
        }
        if self.line.len() >= self.bounds.max {
            return Arrival::Full;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.line.push_back(ticket);
        Arrival::Waiting(ticket)
    }

    /// Somebody leaves the line. Says whether he stood in it: if not, he has been granted a thread and must release it.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let place = self.line.iter().position(|waiting| *waiting == ticket);
        if let Some(place) = place {
            self.line.remove(place);
        }
        place.is_some()
    }

    /// A thread of `endpoint` is free again.
    #[must_use]
    pub fn release(&mut self, endpoint: EndpointId) -> Vec<Event> {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.in_flight = found.in_flight.saturating_sub(1);
        }
        self.settle()
    }

    /// `endpoint` came up or went down.
    #[must_use]
    pub fn set_up(&mut self, endpoint: EndpointId, up: bool) -> Vec<Event> {
        if let Some(found) = self.endpoints.get_mut(endpoint.0) {
            found.up = up;
        }
        self.settle()
    }

    /// The requests in flight at `endpoint`.
    #[must_use]
    pub fn in_flight(&self, endpoint: EndpointId) -> usize {
        self.endpoints.get(endpoint.0).map_or(0, |found| found.in_flight)
    }

    /// The requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// The most requests in flight at one endpoint.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.bounds.limit
    }

    /// Whether any endpoint of the serving set is up.
    #[must_use]
    pub fn anyone_up(&self) -> bool {
        self.serving.iter().any(|id| self.endpoints.get(id.0).is_some_and(|endpoint| endpoint.up))
    }

    fn choose(&self, avoid: Option<EndpointId>) -> Option<EndpointId> {
        let free = |id: &EndpointId| {
            let endpoint = self.endpoints.get(id.0)?;
            (endpoint.up && endpoint.in_flight < self.bounds.limit).then_some((
                Some(*id) == avoid,
                endpoint.in_flight,
                endpoint.last_grant,
                *id,
            ))
        };
        self.serving.iter().filter_map(free).min().map(|(_, _, _, id)| id)
    }

    fn grant(&mut self, id: EndpointId) -> EndpointId {
        self.grants += 1;
        if let Some(endpoint) = self.endpoints.get_mut(id.0) {
            endpoint.in_flight += 1;
            endpoint.last_grant = self.grants;
        }
        id
    }

    /// Hands out what is free; sends away those who wait for nobody.
    fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.line.is_empty() {
            return events;
        }
        if !self.anyone_up() {
            return self.line.drain(..).map(Event::NoEndpoint).collect();
        }
        while let Some(ticket) = self.line.front().copied() {
            let Some(endpoint) = self.choose(None) else { break };
            self.line.pop_front();
            events.push(Event::Granted(ticket, self.grant(endpoint)));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    /// The queue beside a count of what it handed out.
    #[derive(Clone)]
    struct Model {
        queue: Queue,
        bounds: Bounds,
        serving: Vec<EndpointId>,
        up: BTreeMap<EndpointId, bool>,
        held: Vec<EndpointId>,
        waiting: BTreeSet<Ticket>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Arrive,
        LeaveFirst,
        LeaveLast,
        ReleaseFirst,
        ReleaseLast,
        Toggle(usize),
        Swap,
    }

    const STEPS: [Step; 8] = [
        Step::Arrive,
        Step::LeaveFirst,
        Step::LeaveLast,
        Step::ReleaseFirst,
        Step::ReleaseLast,
        Step::Toggle(0),
        Step::Toggle(1),
        Step::Swap,
    ];

    impl Model {
        fn new() -> Self {
            let bounds = Bounds { limit: 1, max: 2 };
            let mut queue = Queue::new(bounds);
            let ids: Vec<EndpointId> = (0..3).map(|_| queue.add_endpoint()).collect();
            let serving = ids[..2].to_vec();
            assert!(queue.serve(bounds, serving.clone()).is_empty());
            let up = ids.iter().map(|id| (*id, true)).collect();
            Self { queue, bounds, serving, up, held: Vec::new(), waiting: BTreeSet::new() }
        }

        fn take(&mut self, events: Vec<Event>) {
            for event in events {
                match event {
                    Event::Granted(ticket, endpoint) => {
                        assert_eq!(self.waiting.first(), Some(&ticket), "first come, first served");
                        self.waiting.remove(&ticket);
                        self.hold(endpoint);
                    }
                    Event::NoEndpoint(ticket) => assert!(self.waiting.remove(&ticket)),
                }
            }
        }

        fn hold(&mut self, endpoint: EndpointId) {
            assert!(self.serving.contains(&endpoint) && self.up[&endpoint]);
            self.held.push(endpoint);
            let here = self.held.iter().filter(|held| **held == endpoint).count();
            assert!(here <= self.bounds.limit, "more in flight than there are threads");
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Arrive => match self.queue.arrive(None) {
                    Arrival::Granted(endpoint) => self.hold(endpoint),
                    Arrival::Waiting(ticket) => assert!(self.waiting.insert(ticket)),
                    Arrival::Full => assert_eq!(self.waiting.len(), self.bounds.max),
                    Arrival::NoEndpoint => assert!(!self.serving.iter().any(|id| self.up[id])),
                },
                Step::LeaveFirst | Step::LeaveLast => {
                    let first = matches!(step, Step::LeaveFirst);
                    let ticket = if first { self.waiting.pop_first() } else { self.waiting.pop_last() };
                    if let Some(ticket) = ticket {
                        assert!(self.queue.leave(ticket));
                        assert!(!self.queue.leave(ticket));
                    }
                }
                Step::ReleaseFirst | Step::ReleaseLast => {
                    if !self.held.is_empty() {
                        let at = if matches!(step, Step::ReleaseFirst) { 0 } else { self.held.len() - 1 };
                        let endpoint = self.held.remove(at);
                        let events = self.queue.release(endpoint);
                        self.take(events);
                    }
                }
                Step::Toggle(at) => {
                    let id = EndpointId(at);
                    let up = !self.up[&id];
                    self.up.insert(id, up);
                    let events = self.queue.set_up(id, up);
                    self.take(events);
                }
                Step::Swap => {
                    let other =
                        if self.serving.len() == 2 { vec![EndpointId(2)] } else { vec![EndpointId(0), EndpointId(1)] };
                    self.serving.clone_from(&other);
                    let events = self.queue.serve(self.bounds, other);
                    self.take(events);
                }
            }
            self.check();
        }

        fn check(&self) {
            for id in self.up.keys() {
                assert_eq!(self.queue.in_flight(*id), self.held.iter().filter(|held| *held == id).count());
            }
            assert_eq!(self.queue.waiting(), self.waiting.len());
            let idle = |id: &&EndpointId| self.up[*id] && self.queue.in_flight(**id) < self.bounds.limit;
            if !self.waiting.is_empty() {
                assert!(!self.serving.iter().any(|id| idle(&id)), "somebody waits beside a free thread");
                assert!(self.serving.iter().any(|id| self.up[id]), "somebody waits for nobody");
            }
        }
    }

    fn explore(model: &Model, depth: usize) {
        if depth == 0 {
            return;
        }
        for step in STEPS {
            let mut next = model.clone();
            next.step(step);
            explore(&next, depth - 1);
        }
    }

    #[test]
    fn no_order_of_events_breaks_the_counting() {
        // All sequences of six steps after three arrivals: 262,144 of them.
        let mut start = Model::new();
        for _ in 0..3 {
            start.step(Step::Arrive);
        }
        explore(&start, 6);
    }

    #[test]
    fn the_least_busy_endpoint_is_chosen_and_equals_take_turns() {
        let bounds = Bounds { limit: 2, max: 10 };
        let mut queue = Queue::new(bounds);
        let ids: Vec<EndpointId> = (0..3).map(|_| queue.add_endpoint()).collect();
        let _ = queue.serve(bounds, ids.clone());
        let granted: Vec<Arrival> = (0..4).map(|_| queue.arrive(None)).collect();
        assert_eq!(granted[..3], [Arrival::Granted(ids[0]), Arrival::Granted(ids[1]), Arrival::Granted(ids[2])]);
        let _ = queue.release(ids[1]);
        assert_eq!(queue.arrive(None), Arrival::Granted(ids[1]));
        assert_eq!(queue.arrive(Some(ids[1])), Arrival::Granted(ids[2]));
        assert_eq!(queue.arrive(Some(ids[1])), Arrival::Granted(ids[1]), "better there than nowhere");
    }
}
