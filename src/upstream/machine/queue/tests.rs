use super::*;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

const BOUNDS: Bounds = Bounds { max: 3, per_client: 2, patience: Duration::from_secs(60), balance: Balance::LeastBusy };

fn ask(client: u64) -> Ask {
    Ask { client: ClientKey(client), class: Class::Anonymous, avoid: None, pinned: None, hash: 0 }
}

fn servers(ids: &[EndpointId]) -> Vec<Server> {
    ids.iter().map(|id| Server { id: *id, weight: 1, backup: false }).collect()
}

/// The threads of each endpoint of the model.
const THREADS: usize = 2;

/// A queue with so many endpoints of `limit` threads, all serving.
fn queue(bounds: Bounds, count: usize, limit: usize) -> (Queue, Vec<EndpointId>) {
    let mut queue = Queue::new(bounds);
    let ids: Vec<EndpointId> = (0..count).map(|_| queue.add_endpoint(limit)).collect();
    assert!(queue.serve(bounds, servers(&ids)).is_empty());
    (queue, ids)
}

/// The queue beside a count of what it handed out.
#[derive(Clone)]
struct Model {
    queue: Queue,
    serving: Vec<EndpointId>,
    open: BTreeMap<EndpointId, bool>,
    paused: bool,
    held: Vec<EndpointId>,
    waiting: BTreeSet<Ticket>,
    arrivals: u64,
    /// After a pause: what each endpoint may have at most.
    windows: BTreeMap<EndpointId, usize>,
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
    Pause,
    OpenWindows,
}

const STEPS: [Step; 10] = [
    Step::Arrive,
    Step::LeaveFirst,
    Step::LeaveLast,
    Step::ReleaseFirst,
    Step::ReleaseLast,
    Step::Toggle(0),
    Step::Toggle(1),
    Step::Swap,
    Step::Pause,
    Step::OpenWindows,
];

impl Model {
    fn new() -> Self {
        let mut queue = Queue::new(BOUNDS);
        let ids: Vec<EndpointId> = (0..3).map(|_| queue.add_endpoint(THREADS)).collect();
        let serving = ids[..2].to_vec();
        assert!(queue.serve(BOUNDS, servers(&serving)).is_empty());
        let open = ids.iter().map(|id| (*id, true)).collect();
        let windows = ids.iter().map(|id| (*id, usize::MAX / 2)).collect();
        Self { queue, serving, open, paused: false, held: Vec::new(), waiting: BTreeSet::new(), arrivals: 0, windows }
    }

    fn take(&mut self, granted: Vec<Granted>) {
        for Granted { ticket, endpoint } in granted {
            assert!(self.waiting.remove(&ticket), "who was granted had waited");
            self.hold(endpoint);
        }
    }

    fn hold(&mut self, endpoint: EndpointId) {
        assert!(!self.paused && self.serving.contains(&endpoint) && self.open[&endpoint]);
        self.held.push(endpoint);
        let held = self.held_at(endpoint);
        assert!(held <= THREADS, "more in flight than threads");
        assert!(held <= self.windows[&endpoint], "more at once after a pause than have ended");
    }

    fn held_at(&self, endpoint: EndpointId) -> usize {
        self.held.iter().filter(|held| **held == endpoint).count()
    }

    fn anyone_open(&self) -> bool {
        self.serving.iter().any(|id| self.open[id])
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive => {
                self.arrivals += 1;
                let client = self.arrivals % 2;
                match self.queue.arrive(ask(client), client == 0) {
                    Arrival::Granted(endpoint) => self.hold(endpoint),
                    Arrival::Waiting(ticket) => assert!(self.waiting.insert(ticket)),
                    Arrival::Refused(Refused::NoEndpoint) => assert!(!self.anyone_open() && client == 1),
                    Arrival::Refused(Refused::Full(_)) => assert_eq!(self.waiting.len(), BOUNDS.max),
                    Arrival::Refused(_) => assert!(self.waiting.len() >= BOUNDS.per_client),
                }
            }
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
                    *self.windows.get_mut(&endpoint).unwrap() += 1;
                    let granted = self.queue.release(endpoint, Duration::from_secs(1));
                    self.take(granted);
                }
            }
            Step::Toggle(at) => {
                let id = EndpointId(at);
                let open = !self.open[&id];
                self.open.insert(id, open);
                let granted = self.queue.set_open(id, open, THREADS);
                self.take(granted);
            }
            Step::Swap => {
                let other =
                    if self.serving.len() == 2 { vec![EndpointId(2)] } else { vec![EndpointId(0), EndpointId(1)] };
                self.serving.clone_from(&other);
                let granted = self.queue.serve(BOUNDS, servers(&other));
                self.take(granted);
            }
            Step::Pause => {
                self.paused = !self.paused;
                if !self.paused {
                    self.windows = self.open.keys().map(|id| (*id, self.held_at(*id) + 1)).collect();
                }
                let granted = self.queue.pause(self.paused);
                self.take(granted);
            }
            Step::OpenWindows => {
                self.windows.values_mut().for_each(|window| *window = usize::MAX / 2);
                let granted = self.queue.open_windows();
                self.take(granted);
            }
        }
        self.check();
    }

    fn check(&self) {
        for id in self.open.keys() {
            assert_eq!(self.queue.in_flight(*id), self.held.iter().filter(|held| *held == id).count());
        }
        assert_eq!(self.queue.waiting(), self.waiting.len());
        assert!(self.waiting.len() <= BOUNDS.max);
        let idle = |id: &&EndpointId| self.open[*id] && self.queue.in_flight(**id) < THREADS.min(self.windows[*id]);
        if !self.waiting.is_empty() && !self.paused {
            assert!(!self.serving.iter().any(|id| idle(&id)), "somebody waits beside a free thread");
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
    // All sequences of five steps after five arrivals, of which one waits: 100,000 of them.
    let mut start = Model::new();
    for _ in 0..5 {
        start.step(Step::Arrive);
    }
    explore(&start, 5);
}

#[test]
fn the_least_busy_endpoint_is_chosen_and_equals_take_turns() {
    let (mut queue, ids) = queue(BOUNDS, 3, 2);
    let granted: Vec<Arrival> = (0..4).map(|_| queue.arrive(ask(1), false)).collect();
    assert_eq!(granted[..3], [Arrival::Granted(ids[0]), Arrival::Granted(ids[1]), Arrival::Granted(ids[2])]);
    let _ = queue.release(ids[1], Duration::ZERO);
    assert_eq!(queue.arrive(ask(1), false), Arrival::Granted(ids[1]));
    let not_there = Ask { avoid: Some(ids[1]), ..ask(1) };
    assert_eq!(queue.arrive(not_there, false), Arrival::Granted(ids[2]));
    assert_eq!(queue.arrive(not_there, false), Arrival::Granted(ids[1]), "better there than nowhere");
}

#[test]
fn weights_share_the_load_and_backups_serve_only_when_nobody_else_does() {
    for balance in [Balance::LeastBusy, Balance::RoundRobin] {
        let bounds = Bounds { balance, ..BOUNDS };
        let (mut queue, ids) = queue(bounds, 3, 100);
        let heavy = Server { id: ids[0], weight: 3, backup: false };
        let light = Server { id: ids[1], weight: 1, backup: false };
        let backup = Server { id: ids[2], weight: 1, backup: true };
        let _ = queue.serve(bounds, vec![heavy, light, backup]);
        for _ in 0..40 {
            assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
        }
        assert_eq!([30, 10, 0], [0, 1, 2].map(|at| queue.in_flight(ids[at])), "{balance:?}");
        let _ = queue.set_open(ids[0], false, 100);
        assert_eq!(queue.arrive(ask(1), false), Arrival::Granted(ids[1]));
        let _ = queue.set_open(ids[1], false, 100);
        assert_eq!(queue.arrive(ask(1), false), Arrival::Granted(ids[2]));
        let _ = queue.set_open(ids[2], false, 100);
        assert_eq!(queue.arrive(ask(1), false), Arrival::Refused(Refused::NoEndpoint));
    }
}

#[test]
fn backups_serve_in_place_of_those_that_hang_and_not_beside_those_that_work() {
    let (mut queue, ids) = queue(BOUNDS, 3, 100);
    let server = |at: usize, backup| Server { id: ids[at], weight: 1, backup };
    let _ = queue.serve(BOUNDS, vec![server(0, false), server(1, false), server(2, true)]);
    assert!(queue.has_peer(ids[0]) && !queue.has_peer(ids[2]), "the backup takes no share of what others have");
    queue.set_hangs(ids[0], true);
    let _ = queue.set_open(ids[1], false, 100);
    assert!(!queue.has_peer(ids[0]));
    for (hang, goes) in [([true, false], 2), ([true, true], 0), ([false, true], 0)] {
        queue.set_hangs(ids[0], hang[0]);
        queue.set_hangs(ids[2], hang[1]);
        assert_eq!(queue.arrive(ask(1), false), Arrival::Granted(ids[goes]), "{hang:?}");
    }
}

/// Where requests go that come one after the other, `free` of them.
fn one_by_one(queue: &mut Queue, count: usize) -> BTreeMap<EndpointId, usize> {
    let mut went = BTreeMap::new();
    for _ in 0..count {
        let Arrival::Granted(endpoint) = queue.arrive(ask(1), false) else { panic!("somebody is free") };
        *went.entry(endpoint).or_default() += 1;
        let _ = queue.release(endpoint, Duration::ZERO);
    }
    went
}

#[test]
fn weights_count_also_when_nobody_is_busy() {
    for balance in [Balance::LeastBusy, Balance::RoundRobin] {
        let bounds = Bounds { balance, ..BOUNDS };
        let (mut queue, ids) = queue(bounds, 2, 4);
        let server = |at: usize, weight| Server { id: ids[at], weight, backup: false };
        let _ = queue.serve(bounds, vec![server(0, 3), server(1, 1)]);
        assert_eq!(one_by_one(&mut queue, 40), BTreeMap::from([(ids[0], 30), (ids[1], 10)]), "{balance:?}");
    }
}

#[test]
fn an_endpoint_that_was_away_gets_its_share_and_not_what_it_missed() {
    for balance in [Balance::LeastBusy, Balance::RoundRobin] {
        let bounds = Bounds { balance, ..BOUNDS };
        let (mut queue, ids) = queue(bounds, 2, 4);
        let _ = queue.set_open(ids[1], false, 4);
        one_by_one(&mut queue, 1000);
        let _ = queue.set_open(ids[1], true, 4);
        let fresh = queue.add_endpoint(4);
        let _ = queue.serve(bounds, [ids[0], ids[1], fresh].map(|id| Server { id, weight: 1, backup: false }).into());
        let went = one_by_one(&mut queue, 30);
        assert_eq!(went, BTreeMap::from([(ids[0], 10), (ids[1], 10), (fresh, 10)]), "{balance:?}");
    }
}

#[test]
fn equal_paths_go_to_the_same_endpoint_unless_it_has_too_much_to_do() {
    let bounds = Bounds { balance: Balance::PathHash, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 4, 100);
    let to = |queue: &mut Queue, hash: u64| match queue.arrive(Ask { hash, ..ask(1) }, false) {
        Arrival::Granted(endpoint) => endpoint,
        other => panic!("{other:?}"),
    };
    let mut homes = BTreeSet::new();
    for hash in 0..64 {
        let home = to(&mut queue, hash);
        homes.insert(home);
        let _ = queue.give_back(home);
        assert_eq!(to(&mut queue, hash), home);
        let _ = queue.give_back(home);
    }
    assert_eq!(homes.len(), 4, "all are used");
    for _ in 0..100 {
        to(&mut queue, 7);
    }
    let most = ids.iter().map(|id| queue.in_flight(*id)).max().unwrap();
    assert!((26..=34).contains(&most), "{most} of 100 at one of four");
}

#[test]
fn chance_spreads_the_load() {
    let bounds = Bounds { balance: Balance::RandomTwo, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 4, 1000);
    for _ in 0..400 {
        assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
    }
    for id in ids {
        assert!((90..=110).contains(&queue.in_flight(id)), "{}", queue.in_flight(id));
    }
}

#[test]
fn who_has_written_is_served_where_he_wrote_while_it_is_open() {
    let (mut queue, ids) = queue(BOUNDS, 2, 1);
    let pinned = Ask { pinned: Some(ids[1]), ..ask(1) };
    assert_eq!(queue.arrive(pinned, false), Arrival::Granted(ids[1]));
    let Arrival::Waiting(ticket) = queue.arrive(pinned, false) else { panic!("he waits for it") };
    assert_eq!(queue.arrive(ask(2), false), Arrival::Granted(ids[0]), "others are not kept waiting");
    assert_eq!(queue.release(ids[1], Duration::ZERO), [Granted { ticket, endpoint: ids[1] }]);
    let _ = queue.release(ids[0], Duration::ZERO);
    let failed = Ask { avoid: Some(ids[1]), ..pinned };
    assert_eq!(queue.arrive(failed, false), Arrival::Granted(ids[0]), "he has failed there");
    let _ = queue.release(ids[0], Duration::ZERO);
    let _ = queue.set_open(ids[1], false, 1);
    assert_eq!(queue.arrive(pinned, false), Arrival::Granted(ids[0]), "it is gone: anywhere");
}

/// Lets everybody who waits be served one by one; gives them in this order.
fn drain(queue: &mut Queue, endpoint: EndpointId, names: &BTreeMap<Ticket, String>) -> Vec<String> {
    let mut order = Vec::new();
    while queue.waiting() > 0 {
        for granted in queue.release(endpoint, Duration::from_millis(1)) {
            order.push(names[&granted.ticket].clone());
        }
    }
    order
}

#[test]
fn who_sends_many_waits_behind_himself_and_newcomers_do_not() {
    let bounds = Bounds { max: 1000, per_client: 300, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    let mut names = BTreeMap::new();
    let mut wait = |queue: &mut Queue, client: u64, name: String| match queue.arrive(ask(client), false) {
        Arrival::Waiting(ticket) => assert!(names.insert(ticket, name).is_none()),
        other => panic!("{other:?}"),
    };
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    for at in 0..200 {
        wait(&mut queue, 0, format!("hog {at}"));
    }
    for client in 1..=20 {
        wait(&mut queue, client, format!("client {client}"));
    }
    let order = drain(&mut queue, ids[0], &names);
    let last = order.iter().rposition(|name| name.starts_with("client")).unwrap();
    assert!(last <= 21, "all twenty come before the hog's third: {:?}", &order[..25]);
}

#[test]
fn nobody_starves_beside_an_endless_stream_of_newcomers() {
    let bounds = Bounds { max: 1000, per_client: 300, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    let mut patient = BTreeSet::new();
    for _ in 0..3 {
        let Arrival::Waiting(ticket) = queue.arrive(ask(0), false) else { panic!("he waits") };
        patient.insert(ticket);
    }
    for client in 1..=5 {
        assert!(matches!(queue.arrive(ask(client), false), Arrival::Waiting(_)));
    }
    for client in 6..100 {
        for granted in queue.release(ids[0], Duration::from_millis(1)) {
            patient.remove(&granted.ticket);
        }
        assert!(matches!(queue.arrive(ask(client), false), Arrival::Waiting(_)));
    }
    assert!(patient.is_empty(), "{} of his requests still wait", patient.len());
}

#[test]
fn classes_share_by_weight_and_none_starves() {
    let bounds = Bounds { max: 1000, per_client: 1000, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    let mut names = BTreeMap::new();
    for class in [Class::Background, Class::Anonymous, Class::Editor] {
        for client in 0..130 {
            let Arrival::Waiting(ticket) = queue.arrive(Ask { class, ..ask(client) }, false) else { panic!("full") };
            names.insert(ticket, class.as_str().to_owned());
        }
    }
    let order = drain(&mut queue, ids[0], &names);
    let share = |class: &str| order[..130].iter().filter(|name| *name == class).count();
    assert_eq!([80, 40, 10], [share("editor"), share("anonymous"), share("background")]);
}

#[test]
fn an_editor_goes_before_visitors_who_came_earlier() {
    let bounds = Bounds { max: 1000, per_client: 1000, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    for client in 0..50 {
        let _ = queue.arrive(ask(client), false);
    }
    for _ in 0..10 {
        let _ = queue.release(ids[0], Duration::from_millis(1));
    }
    let Arrival::Waiting(editor) = queue.arrive(Ask { class: Class::Editor, ..ask(99) }, false) else { panic!("full") };
    let next = queue.release(ids[0], Duration::from_millis(1));
    assert_eq!(next, [Granted { ticket: editor, endpoint: ids[0] }]);
}

#[test]
fn who_would_wait_too_long_is_told_so_at_once() {
    let bounds = Bounds { max: 1000, per_client: 1000, patience: Duration::from_secs(10), ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 2, 2);
    for client in 0..4 {
        assert!(matches!(queue.arrive(ask(client), false), Arrival::Granted(_)));
    }
    assert_eq!(queue.release(ids[0], Duration::from_secs(1)), [], "now the service time is known: 1 s");
    let mut waiting = 0;
    let refused = loop {
        match queue.arrive(ask(10 + waiting), false) {
            Arrival::Waiting(_) => waiting += 1,
            Arrival::Granted(_) => {}
            Arrival::Refused(refused) => break refused,
        }
    };
    // Four threads of 1 s serve 40 in 10 s.
    assert_eq!((waiting, refused), (40, Refused::TooLong(Duration::from_millis(250))));
    let _ = queue.pause(true);
    assert!(matches!(queue.arrive(ask(1000), false), Arrival::Waiting(_)), "no prediction while nothing is granted");
}

#[test]
fn after_a_pause_each_endpoint_begins_with_one_and_gets_one_more_for_each_that_ends() {
    let bounds = Bounds { max: 100, per_client: 100, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 2, 4);
    let _ = queue.pause(true);
    for client in 0..20 {
        assert!(matches!(queue.arrive(ask(client), true), Arrival::Waiting(_)));
    }
    assert_eq!(queue.pause(false).len(), 2);
    let taken = |queue: &Queue| [queue.in_flight(ids[0]), queue.in_flight(ids[1])];
    for expected in [2, 3, 4, 4] {
        let _ = queue.release(ids[0], Duration::from_millis(1));
        assert_eq!(taken(&queue), [expected, 1]);
    }
    // A turn that nobody used says nothing of how the endpoint fares.
    let _ = queue.give_back(ids[1]);
    assert_eq!(taken(&queue), [4, 1], "the one that took its place, and no second");
    let _ = queue.open_windows();
    assert_eq!(taken(&queue), [4, 4]);
}

#[test]
fn a_new_endpoint_in_an_old_ones_place_begins_anew() {
    let bounds = Bounds { max: 100, per_client: 100, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 4);
    let _ = queue.pause(true);
    let _ = queue.pause(false);
    let _ = queue.set_open(ids[0], false, 4);
    queue.renew_endpoint(ids[0], 3);
    for client in 0..3 {
        assert!(matches!(queue.arrive(ask(client), true), Arrival::Granted(_)), "{client}");
    }
    assert!(matches!(queue.arrive(ask(3), true), Arrival::Waiting(_)), "its limit is its own");
}

#[test]
fn what_is_not_paused_does_not_begin_anew() {
    let (mut queue, _) = queue(BOUNDS, 1, 4);
    assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
    assert_eq!(queue.pause(false), []);
    for _ in 0..3 {
        assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
    }
}

#[test]
fn a_client_has_his_share_of_the_line_and_no_more() {
    let (mut queue, _) = queue(BOUNDS, 1, 1);
    assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
    for _ in 0..BOUNDS.per_client {
        assert!(matches!(queue.arrive(ask(1), false), Arrival::Waiting(_)));
    }
    assert!(matches!(queue.arrive(ask(1), false), Arrival::Refused(Refused::PerClient(_))));
    assert!(matches!(queue.arrive(ask(2), false), Arrival::Waiting(_)), "there is room for others");
}

#[test]
fn the_last_places_of_the_line_are_for_those_who_are_served_first() {
    let bounds = Bounds { max: 16, per_client: 16, ..BOUNDS };
    let (mut queue, _) = queue(bounds, 1, 0);
    let mut fill = |class| {
        let of_class = Ask { class, ..ask(1) };
        while matches!(queue.arrive(of_class, false), Arrival::Waiting(_)) {}
        assert!(matches!(queue.arrive(of_class, false), Arrival::Refused(Refused::Full(_))));
        queue.waiting()
    };
    assert_eq!([Class::Background, Class::Anonymous, Class::Editor].map(&mut fill), [8, 14, 16]);
    assert!(Class::ALL.iter().all(|class| class.places(1) == 1), "the shortest line is for all");
}

#[test]
fn one_slow_page_does_not_change_the_forecast_much() {
    let (mut queue, ids) = queue(BOUNDS, 1, 1);
    let _ = queue.release(ids[0], Duration::from_secs(1));
    let _ = queue.release(ids[0], Duration::from_secs(17));
    assert_eq!(queue.service(), Some(Duration::from_secs(2)));
}

#[test]
fn a_download_of_an_hour_turns_nobody_away_and_pages_that_are_all_slow_do() {
    let bounds = Bounds { patience: Duration::from_secs(15), ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    let _ = queue.release(ids[0], Duration::from_secs(3600));
    assert_eq!(queue.service(), Some(bounds.patience), "the first of all");
    for _ in 0..100 {
        let _ = queue.release(ids[0], Duration::from_millis(100));
    }
    let _ = queue.release(ids[0], Duration::from_secs(3600));
    assert!(queue.service() < Some(Duration::from_millis(1200)), "{:?}", queue.service());
    for _ in 0..100 {
        let _ = queue.release(ids[0], Duration::from_secs(60));
    }
    assert!(queue.service() > Some(Duration::from_secs(55)), "{:?}", queue.service());
}

#[test]
fn a_new_limit_counts_from_the_next_grant() {
    let (mut queue, ids) = queue(BOUNDS, 1, 3);
    assert!(matches!(queue.arrive(ask(1), false), Arrival::Granted(_)));
    let _ = queue.set_open(ids[0], true, 1);
    let Arrival::Waiting(ticket) = queue.arrive(ask(2), false) else { panic!("the only thread is taken") };
    assert_eq!(queue.set_open(ids[0], true, 2), [Granted { ticket, endpoint: ids[0] }]);
}

#[test]
fn who_has_failed_somewhere_goes_elsewhere_though_it_has_more_to_do() {
    let (mut queue, ids) = queue(BOUNDS, 2, 9);
    let not_there = Ask { avoid: Some(ids[0]), ..ask(1) };
    for _ in 0..3 {
        assert_eq!(queue.arrive(not_there, false), Arrival::Granted(ids[1]));
    }
}

#[test]
fn who_waits_for_one_endpoint_keeps_nobody_waiting_for_another() {
    let (mut queue, ids) = queue(BOUNDS, 2, 1);
    for client in 1..=2 {
        assert!(matches!(queue.arrive(ask(client), false), Arrival::Granted(_)));
    }
    let Arrival::Waiting(_) = queue.arrive(Ask { pinned: Some(ids[0]), ..ask(3) }, false) else { panic!("busy") };
    let Arrival::Waiting(ticket) = queue.arrive(ask(4), false) else { panic!("busy") };
    assert_eq!(queue.release(ids[1], Duration::ZERO), [Granted { ticket, endpoint: ids[1] }]);
}

#[test]
fn a_class_that_was_not_there_has_saved_nothing_up() {
    let bounds = Bounds { max: 1000, per_client: 1000, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    for client in 0..40 {
        let _ = queue.arrive(ask(client), false);
    }
    for _ in 0..20 {
        let _ = queue.release(ids[0], Duration::from_millis(1));
    }
    let mut robots = BTreeSet::new();
    for client in 100..110 {
        let robot = Ask { class: Class::Background, ..ask(client) };
        let Arrival::Waiting(ticket) = queue.arrive(robot, false) else { panic!("full") };
        robots.insert(ticket);
    }
    let served: Vec<Granted> = (0..10).flat_map(|_| queue.release(ids[0], Duration::from_millis(1))).collect();
    let of_robots = served.iter().filter(|granted| robots.contains(&granted.ticket)).count();
    assert!((1..=3).contains(&of_robots), "{of_robots} of 10, where one in five is their share");
}

#[test]
fn a_newcomer_waits_for_one_request_of_each_client_and_not_for_all_that_wait() {
    let bounds = Bounds { max: 1000, per_client: 1000, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    for _ in 0..3 {
        for client in 1..=10 {
            assert!(matches!(queue.arrive(ask(client), false), Arrival::Waiting(_)));
        }
    }
    for _ in 0..10 {
        let _ = queue.release(ids[0], Duration::from_millis(1));
    }
    let Arrival::Waiting(newcomer) = queue.arrive(ask(99), false) else { panic!("he waits") };
    let turn = (1..=20).find(|_| queue.release(ids[0], Duration::from_millis(1))[0].ticket == newcomer);
    assert!(turn.is_some_and(|turn| turn <= 11), "{turn:?}");
}

#[test]
fn the_forecast_counts_those_who_go_before() {
    let bounds = Bounds { max: 100, per_client: 100, patience: Duration::from_millis(2500), ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    let _ = queue.release(ids[0], Duration::from_secs(1));
    assert!(matches!(queue.arrive(ask(0), false), Arrival::Granted(_)));
    for client in 1..=2 {
        assert!(matches!(queue.arrive(Ask { class: Class::Editor, ..ask(client) }, false), Arrival::Waiting(_)));
    }
    let refused = Arrival::Refused(Refused::TooLong(Duration::from_millis(500)));
    assert_eq!(queue.arrive(ask(3), false), refused, "two editors and he himself take 3 s");
}

#[test]
fn an_editor_who_was_served_before_goes_before_a_robot_who_never_was() {
    let bounds = Bounds { max: 1000, per_client: 1000, ..BOUNDS };
    let (mut queue, ids) = queue(bounds, 1, 1);
    let editor = Ask { class: Class::Editor, ..ask(1000) };
    let robot = Ask { class: Class::Background, ..ask(1001) };
    for asked in [ask(0), editor] {
        let _ = queue.arrive(asked, false);
    }
    for client in 1..40 {
        let _ = queue.arrive(ask(client), false);
    }
    for _ in 0..20 {
        let _ = queue.release(ids[0], Duration::from_millis(1));
    }
    let Arrival::Waiting(_) = queue.arrive(robot, false) else { panic!("full") };
    let Arrival::Waiting(ticket) = queue.arrive(editor, false) else { panic!("full") };
    assert_eq!(queue.release(ids[0], Duration::from_millis(1)), [Granted { ticket, endpoint: ids[0] }]);
}
