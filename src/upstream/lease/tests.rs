//! Every interleaving of those who ask, wait, leave, are served and finish with holds, swaps and drains: each step is one
//! critical section of the desk's lock, or the reading of a channel, so these are all the orders that threads can produce.

use super::*;
use crate::clock;
use crate::telemetry::metrics::Metrics;
use crate::units::ClientAddr;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use crate::upstream::Balance;
use crate::upstream::Check;
use crate::upstream::CheckKind;
use crate::upstream::Class;
use crate::upstream::Classes;
use crate::upstream::Hold;
use crate::upstream::Plan;
use crate::upstream::Registry;
use crate::upstream::ServerPlan;
use crate::upstream::SetPlan;
use crate::upstream::Timeouts;
use crate::upstream::Warmup;
use crate::upstream::desk::Outage;
use crate::upstream::endpoint::Condition;
use crate::upstream::machine::health::Health;
use crate::upstream::machine::outlier::Rest;
use crate::upstream::machine::queue::Bounds;
use crate::upstream::machine::queue::ClientKey;
use crate::upstream::machine::queue::Server;
use crate::upstream::machine::wait;
use crate::upstream::machine::warmup::Phase;
use crate::upstream::request::Description;
use crate::upstream::request::Request;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

fn plan(active: &str) -> Plan {
    let minute = Duration::from_secs(60);
    let set = |name: &str, ports: &[u16]| SetPlan {
        name: SetName::parse(name).unwrap(),
        servers: ports
            .iter()
            .map(|port| ServerPlan {
                addr: OriginAddr::parse(&format!("127.0.0.1:{port}")).unwrap(),
                weight: 1,
                backup: false,
                by_name: false,
            })
            .collect(),
    };
    Plan {
        name: UpstreamName::parse("zope").unwrap(),
        sets: vec![set("old", &[1, 2]), set("new", &[3])],
        active: SetName::parse(active).unwrap(),
        threads: 1,
        balance: Balance::LeastBusy,
        pin: Duration::ZERO,
        queue_max: 3,
        queue_wait: minute,
        per_client: 3,
        scales: None,
        hold: minute,
        classes: Arc::new(Classes::default()),
        way: None,
        warmup: Warmup { paths: Vec::new(), until: minute, at_most: minute, ramp: minute },
        timeouts: Timeouts { connect: minute, first_byte: minute, between_bytes: minute, rate_min: 0 },
        idle: minute,
        buffer: 0,
        storage: Vec::new(),
        secure: None,
        storage_lag: None,
        storage_commit_max: None,
        storage_clients: 0,
        resolver: Vec::new(),
        check: Check {
            kind: CheckKind::Off,
            every: minute,
            timeout: minute,
            rise: 1,
            fall: 1,
            stuck: Duration::ZERO,
            rest: Duration::ZERO,
        },
        retry_max: 1,
        retry_503: false,
    }
}

/// A request of which nothing is known.
struct Somebodys;

impl Request for Somebodys {
    fn describe(&self) -> Description {
        let [method, site, url, client] = ["GET", "www", "/", "127.0.0.1"].map(str::to_owned);
        Description { method, site, url, client }
    }
}

fn somebody() -> Arc<dyn Request> {
    Arc::new(Somebodys)
}

async fn acquire(upstream: &Arc<Upstream>, asker: &Asker, request: &Arc<dyn Request>) -> Result<Lease, QueueRefusal> {
    let now = clock::mono();
    match upstream.ask(asker, &|| Arc::clone(request), None, now)? {
        Asked::Granted(lease) => Ok(lease),
        Asked::Waiting(place) => upstream.wait(place, now, None).await,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    ReadFirst,
    ReadLast,
    LeaveFirst,
    LeaveLast,
    FinishFirst,
    FinishLast,
    Hold,
    Swap,
    Drain,
}

const STEPS: [Step; 10] = [
    Step::Ask,
    Step::ReadFirst,
    Step::ReadLast,
    Step::LeaveFirst,
    Step::LeaveLast,
    Step::FinishFirst,
    Step::FinishLast,
    Step::Hold,
    Step::Swap,
    Step::Drain,
];

type Asking = Pin<Box<dyn Future<Output = Result<Lease, QueueRefusal>>>>;

struct World {
    registry: Registry,
    upstream: Arc<Upstream>,
    asking: Vec<Asking>,
    leases: Vec<Lease>,
    new: bool,
    held: bool,
    drained: bool,
    refused: usize,
}

impl World {
    fn new(metrics: &Arc<Metrics>) -> Self {
        let registry = Registry::new(Arc::clone(metrics));
        let upstream = registry.install(plan("old"));
        let (asking, leases) = (Vec::new(), Vec::new());
        Self { registry, upstream, asking, leases, new: false, held: false, drained: false, refused: 0 }
    }

    fn read(&mut self, at: usize) {
        let Some(asking) = self.asking.get_mut(at) else { return };
        let Poll::Ready(told) = asking.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return };
        drop(self.asking.remove(at));
        match told {
            Ok(lease) => self.leases.push(lease),
            Err(QueueRefusal::Full { .. } | QueueRefusal::PerClient { .. }) => self.refused += 1,
            // Nothing is open: the endpoints of the old set are two, so only the hold of a drained upstream does that.
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    fn step(&mut self, step: Step) {
        let last = |len: usize| len.saturating_sub(1);
        match step {
            Step::Ask => {
                let upstream = Arc::clone(&self.upstream);
                let client = ClientAddr(IpAddr::V4(Ipv4Addr::LOCALHOST));
                let asker = Asker::new(client, None, Class::Anonymous, "/", false);
                self.asking.push(Box::pin(async move { acquire(&upstream, &asker, &somebody()).await }));
                self.read(last(self.asking.len()));
            }
            Step::ReadFirst => self.read(0),
            Step::ReadLast => self.read(last(self.asking.len())),
            Step::LeaveFirst if !self.asking.is_empty() => drop(self.asking.remove(0)),
            Step::LeaveLast => drop(self.asking.pop()),
            Step::FinishFirst if !self.leases.is_empty() => drop(self.leases.remove(0)),
            Step::FinishLast => drop(self.leases.pop()),
            Step::Hold => {
                self.held = !self.held;
                self.upstream.hold(Hold::Takeover, self.held);
            }
            Step::Swap => {
                self.new = !self.new;
                self.registry.install(plan(if self.new { "new" } else { "old" }));
            }
            Step::Drain => {
                self.drained = !self.drained;
                self.upstream.drain(&OriginAddr::parse("127.0.0.1:1").unwrap(), self.drained).unwrap();
            }
            Step::LeaveFirst | Step::FinishFirst => {}
        }
        self.check();
    }

    fn check(&self) {
        let desk = lock(&self.upstream.desk);
        let taken: Vec<usize> = (0..3).map(|at| desk.queue.in_flight(EndpointId(at))).collect();
        assert!(taken.iter().all(|taken| *taken <= 1), "never more than threads");
        let on_their_way = taken.iter().sum::<usize>().checked_sub(self.leases.len()).expect("every lease is counted");
        let waiting = desk.queue.waiting();
        assert_eq!(waiting + on_their_way, self.asking.len(), "each who asks stands in line or has his turn sent");
        assert_eq!(desk.waiting.len(), waiting, "nobody is written to who does not stand in line");
        assert!(waiting == 0 || !desk.queue.has_room_now(), "nobody waits beside a free thread");
    }

    /// Whatever happened, everybody is served in the end, and nothing is left over.
    fn end(mut self) {
        if self.held {
            self.step(Step::Hold);
        }
        if self.drained {
            self.step(Step::Drain);
        }
        for _ in 0..20 {
            (0..self.asking.len()).rev().for_each(|at| self.read(at));
            self.step(Step::FinishFirst);
        }
        assert!(self.asking.is_empty() && self.leases.is_empty(), "somebody waits for ever");
        let view = self.upstream.view();
        assert!(view.endpoints.iter().all(|endpoint| endpoint.in_flight == 0 && endpoint.oldest.is_none()));
    }
}

#[test]
fn no_interleaving_of_clients_holds_and_swaps_loses_or_doubles_a_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _context = runtime.enter();
    let metrics = Metrics::new();
    let depth = 4;
    for number in 0..STEPS.len().pow(depth) {
        let mut world = World::new(&metrics);
        // Two have a thread of the old set and one waits.
        (0..3).for_each(|_| world.step(Step::Ask));
        for digit in 0..depth {
            world.step(STEPS[number / STEPS.len().pow(digit) % STEPS.len()]);
        }
        world.end();
    }
}

#[test]
fn who_has_written_at_an_endpoint_that_rises_slowly_is_not_sent_elsewhere_while_it_rises() {
    let plan = plan("old");
    let bounds = Bounds { max: 3, per_client: 3, patience: plan.queue_wait, balance: Balance::LeastBusy };
    let mut desk = Desk::new(bounds, wait::Rules { patience: plan.queue_wait, hold: plan.hold });
    let ids = [desk.queue.add_endpoint(1), desk.queue.add_endpoint(1)];
    let _ = desk.queue.serve(bounds, ids.map(|id| Server { id, weight: 1, backup: false }).into());
    let ask = |pinned| Ask { client: ClientKey(1), class: Class::Anonymous, avoid: None, pinned, hash: 0 };
    for id in ids {
        assert_eq!(desk.queue.arrive(ask(Some(id)), false), Arrival::Granted(id));
    }
    assert!(matches!(desk.queue.arrive(ask(Some(ids[0])), false), Arrival::Waiting(_)));
    assert!(desk.queue.release(ids[1], Duration::ZERO).is_empty());
    let now = clock::mono();
    let plan = Plan { threads: 2, ..plan };
    let (health, phase) = (Health::new(now), Phase::Rising { since: now });
    let rising = Condition { health, phase, drained: None, rest: Rest::default() };
    assert_eq!(
        desk.adjust(ids[0], &rising, &plan, now),
        [],
        "the other one is free, and knows nothing of what he wrote"
    );
}

#[test]
fn an_outage_is_news_once_and_so_is_its_end() {
    let plan = plan("old");
    let bounds = Bounds { max: 3, per_client: 3, patience: plan.queue_wait, balance: Balance::LeastBusy };
    let mut desk = Desk::new(bounds, wait::Rules { patience: plan.queue_wait, hold: plan.hold });
    let began = clock::mono();
    let at = |second| began + Duration::from_secs(second);
    assert_eq!(desk.note_outage(at(0)), None, "names are not known yet");
    let id = desk.queue.add_endpoint(1);
    let _ = desk.queue.serve(bounds, vec![Server { id, weight: 1, backup: false }]);
    assert_eq!(desk.note_outage(at(1)), None, "it has just begun");
    let _ = desk.queue.set_open(id, false, 1);
    assert_eq!([2, 3].map(|second| desk.note_outage(at(second))), [Some(Outage::Began), None]);
    let _ = desk.queue.set_open(id, true, 1);
    let lasted = Duration::from_secs(5);
    assert_eq!([7, 8].map(|second| desk.note_outage(at(second))), [Some(Outage::Ended(lasted)), None]);
}

#[tokio::test]
async fn a_swap_that_brings_more_threads_sends_nobody_to_the_old_set() {
    let registry = Registry::new(Metrics::new());
    let upstream = registry.install(plan("old"));
    let asker = Asker::new(ClientAddr(IpAddr::V4(Ipv4Addr::LOCALHOST)), None, Class::Anonymous, "/", false);
    let mut context = Context::from_waker(Waker::noop());
    let request = somebody();
    let mut asking: Vec<_> = (0..3).map(|_| Box::pin(acquire(&upstream, &asker, &request))).collect();
    let told: Vec<_> = asking.iter_mut().map(|asking| asking.as_mut().poll(&mut context)).collect();
    assert!(matches!(told[..], [Poll::Ready(Ok(_)), Poll::Ready(Ok(_)), Poll::Pending]));
    registry.install(Plan { threads: 2, ..plan("new") });
    let Poll::Ready(Ok(lease)) = asking[2].as_mut().poll(&mut context) else { panic!("it is his turn") };
    assert_eq!((lease.endpoint.addr.to_string(), lease.epoch), ("127.0.0.1:3".to_owned(), 1));
}
