//! A whole cluster in one thread and in virtual time: machines, clocks, disks, links, storages, fence devices.
//!
//! Everything that a machine wants happens after a delay, or not at all, as chance and the faults in force say. After every
//! event the invariants of [`super::audit`] are looked at.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use std::time::Instant;

use tidegate::heartbeat::machine::Action;
use tidegate::heartbeat::machine::Beat;
use tidegate::heartbeat::machine::Began;
use tidegate::heartbeat::machine::BootId;
use tidegate::heartbeat::machine::Epoch;
use tidegate::heartbeat::machine::Failure;
use tidegate::heartbeat::machine::Fenced;
use tidegate::heartbeat::machine::Input;
use tidegate::heartbeat::machine::Journal;
use tidegate::heartbeat::machine::LinkId;
use tidegate::heartbeat::machine::Machine;
use tidegate::heartbeat::machine::Mode;
use tidegate::heartbeat::machine::NodeId;
use tidegate::heartbeat::machine::NodeName;
use tidegate::heartbeat::machine::Order;
use tidegate::heartbeat::machine::Power;
use tidegate::heartbeat::machine::Roster;
use tidegate::heartbeat::machine::Saved;
use tidegate::heartbeat::machine::Settings;
use tidegate::heartbeat::machine::faults::Rule;
use tidegate::heartbeat::machine::message::Verdict;
use tidegate::zodb::Tid;

use super::audit::Audit;
use super::chance::Chance;

/// Microseconds of real time.
pub type Us = u64;

pub const MS: Us = 1_000;
pub const SECOND: Us = 1_000_000;
pub const NODES: usize = 5;
const PROBE_DEADLINE: Us = 250 * MS;
pub const LINKS: usize = 2;
/// The date at which the simulation begins, in seconds since 1970.
const WALL: u64 = 1_795_000_000;
/// The same in the calendar of transaction ids.
const MINUTES: u64 = 0x040d_34aa;

/// What a cluster is like.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Terms {
    pub witnesses: usize,
    pub links: u8,
    pub lease: Us,
    pub dead: Us,
    pub margin: Us,
    pub fence: bool,
    pub armed: bool,
    pub restarts: u32,
    pub takeovers_max: u32,
    /// Whether the storage asks the machine before each acknowledgement. One that does not is stopped by its kill alone.
    pub gated: bool,
    pub drift_ppm: i64,
    /// Delays of a datagram.
    pub delay: (Us, Us),
    /// How long address and start take.
    pub start: (Us, Us),
    pub probes: bool,
    /// The nodes that only observe, as bits.
    pub observe: u8,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            witnesses: 1,
            links: 2,
            lease: 500 * MS,
            dead: 500 * MS,
            margin: 50 * MS,
            fence: true,
            armed: true,
            restarts: 0,
            takeovers_max: 1000,
            gated: true,
            drift_ppm: 2_000,
            delay: (100, 2 * MS),
            start: (5 * MS, 60 * MS),
            probes: true,
            observe: 0,
        }
    }
}

/// How the device that can switch a node off behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Works,
    Slow,
    Refuses,
    Unreachable,
    /// It says that it is done, and its status says that the node is on.
    Lies,
    /// It says that it failed, and does it a moment later.
    Late,
}

/// What happens in the world.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are beats")]
pub enum Event {
    Deliver(NodeId, Beat),
    Wake(usize, u64),
    Input(usize, u32, Box<Input>),
    Saved(usize, u32, u64, Box<Saved>),
    Started(usize, u32, u64, Epoch),
    Killed(usize, u32, u64, Epoch, bool),
    Off(usize, usize),
    Boot(usize),
    Thaw(usize),
    Probed(usize, u32, usize, bool),
    ProbeAll,
    Commit,
    Replicate(usize, u64),
    Fault(usize),
}

/// One voter's machine and what it stands on.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Node {
    pub machine: Option<Machine>,
    pub incarnation: u32,
    pub frozen: bool,
    pub rate_ppm: i64,
    pub journal: Option<Saved>,
    pub running: bool,
    pub healthy: bool,
    pub op: u64,
    pub address: bool,
    pub tid: u64,
    pub queue: Vec<Event>,
    wake: u64,
    pub device: Device,
    pub stop_fails: bool,
    pub own_probe_broken: bool,
    pub stays_off: bool,
    pub disk_fails: bool,
    pub start_fails: bool,
    pub settings: Settings,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct World {
    pub chance: Chance,
    pub now: Us,
    heap: BinaryHeap<Reverse<(Us, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    origin: Instant,
    pub nodes: Vec<Node>,
    pub terms: Terms,
    pub cut: [[[bool; LINKS]; NODES]; NODES],
    pub service_cut: [[bool; NODES]; NODES],
    pub loss: u64,
    pub doubles: u64,
    pub replicates: bool,
    pub commits: bool,
    pub isolated: [bool; NODES],
    /// What is sent to a frozen node is lost, as when a whole virtual machine is suspended.
    pub frozen_lose: bool,
    /// Everything works again, an unarmed self-fence too.
    pub healed: bool,
    pub audit: Audit,
    pub rule: Option<Rule>,
    pub events: u64,
    actions: Vec<Action>,
    pub trace: bool,
    last_tid: u64,
}

impl World {
    pub fn new(seed: u64, terms: Terms, rule: Option<Rule>) -> Self {
        let mut chance = Chance::new(seed);
        let name = |text: String| NodeName::parse(&text).expect("a name");
        let witnesses = (0..terms.witnesses).map(|n| name(format!("edge-{n}"))).collect();
        let roster = Roster::new([name("zeo-a".into()), name("zeo-b".into())], witnesses).expect("a roster");
        let voters = roster.voters();
        let origin = Instant::now();
        let nodes = roster
            .ids()
            .map(|me| {
                let settings = settings(me, &roster, &terms);
                let drift = terms.drift_ppm;
                let span = drift.unsigned_abs() * 2 + 1;
                let rate_ppm = i64::try_from(chance.range(0, span)).expect("small") - drift;
                Node {
                    machine: None,
                    incarnation: 0,
                    frozen: false,
                    rate_ppm,
                    journal: None,
                    running: false,
                    healthy: true,
                    op: 0,
                    address: false,
                    tid: 1,
                    queue: Vec::new(),
                    wake: 0,
                    device: Device::Works,
                    stop_fails: false,
                    own_probe_broken: false,
                    stays_off: false,
                    disk_fails: false,
                    start_fails: false,
                    settings,
                }
            })
            .collect();
        let mut world = Self {
            chance,
            now: 0,
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            order: 0,
            origin,
            nodes,
            terms,
            cut: [[[false; LINKS]; NODES]; NODES],
            service_cut: [[false; NODES]; NODES],
            loss: 0,
            doubles: 0,
            replicates: true,
            commits: true,
            isolated: [false; NODES],
            frozen_lose: false,
            healed: false,
            audit: Audit::new(voters),
            rule,
            events: 0,
            actions: Vec::new(),
            trace: std::env::var_os("HEARTBEAT_TRACE").is_some(),
            last_tid: 1,
        };
        world.at(0, Event::ProbeAll);
        world.at(0, Event::Commit);
        world
    }

    /// Boots everybody at about the same time.
    pub fn boot_all(&mut self) {
        for node in 0..self.nodes.len() {
            let at = self.chance.range(0, 50 * MS);
            self.at(at, Event::Boot(node));
        }
    }

    pub fn at(&mut self, time: Us, event: Event) {
        self.order += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.heap.push(Reverse((time, self.order, slot)));
    }

    pub fn after(&mut self, delay: Us, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Runs until then, or until an invariant is broken; `fault` is told of [`Event::Fault`].
    pub fn run(&mut self, until: Us, fault: &mut dyn FnMut(&mut World, usize)) {
        while self.audit.broken.is_none() {
            match self.heap.peek() {
                Some(Reverse((time, _, _))) if *time <= until => {}
                _ => break,
            }
            let Some(Reverse((time, _, slot))) = self.heap.pop() else {
                break;
            };
            let event = self.slots[slot].take().expect("an event");
            self.free.push(slot);
            self.now = time;
            self.events += 1;
            if let Event::Fault(n) = event {
                fault(self, n);
            } else {
                self.happen(event);
            }
            self.audit();
        }
        self.now = self.now.max(until);
    }

    /// The local clock of a node.
    pub fn local(&self, node: usize, at: Us) -> Instant {
        let drift = i64::try_from(at).expect("short") / 1000 * self.nodes[node].rate_ppm / 1000;
        self.origin + Duration::from_secs(10) + Duration::from_micros(at.saturating_add_signed(drift))
    }

    /// When a node's clock will show that.
    fn real(&self, node: usize, local: Instant) -> Us {
        let shown = local.saturating_duration_since(self.origin + Duration::from_secs(10));
        let shown = i64::try_from(shown.as_micros()).expect("short");
        let drift = shown / 1000 * self.nodes[node].rate_ppm / 1000;
        u64::try_from(shown - drift).unwrap_or(0)
    }

    fn happen(&mut self, event: Event) {
        let whose = match &event {
            Event::Deliver(to, _) => Some(usize::from(to.0)),
            Event::Wake(node, _)
            | Event::Input(node, ..)
            | Event::Probed(node, ..)
            | Event::Saved(node, ..)
            | Event::Started(node, ..)
            | Event::Killed(node, ..) => Some(*node),
            _ => None,
        };
        if let Some(node) = whose
            && self.nodes[node].frozen
        {
            let lost = self.frozen_lose && matches!(event, Event::Deliver(..));
            if !lost && self.nodes[node].queue.len() < 5_000 {
                self.nodes[node].queue.push(event);
            }
            return;
        }
        match event {
            Event::Deliver(to, beat) => self.deliver(usize::from(to.0), beat),
            Event::Wake(node, wake) if self.nodes[node].wake == wake => self.input(node, Input::Tick),
            Event::Input(node, incarnation, input) if self.nodes[node].incarnation == incarnation => {
                self.input(node, *input);
            }
            Event::Saved(node, incarnation, ticket, saved) if self.nodes[node].incarnation == incarnation => {
                let result = if self.nodes[node].disk_fails {
                    Err(Failure("disk full".into()))
                } else {
                    self.nodes[node].journal = Some(*saved);
                    Ok(())
                };
                self.input(node, Input::EpochSaved { ticket, result });
            }
            Event::Started(node, incarnation, op, epoch) if self.nodes[node].is(incarnation, op) => {
                let result = if self.nodes[node].start_fails {
                    Err(Failure("it does not start".into()))
                } else {
                    (self.nodes[node].running, self.nodes[node].healthy) = (true, true);
                    Ok(())
                };
                self.input(node, Input::ResourceDone { epoch, started: true, result });
            }
            Event::Killed(node, incarnation, op, epoch, good) if self.nodes[node].is(incarnation, op) => {
                self.nodes[node].running &= !good;
                let result = if good { Ok(()) } else { Err(Failure("it does not die".into())) };
                self.input(node, Input::ResourceDone { epoch, started: false, result });
            }
            Event::Off(node, by) => {
                self.audit.shot(node, by, self.now);
                self.power_off(node);
                let stays = self.nodes[node].stays_off;
                if !stays {
                    let delay = self.chance.range(SECOND, 3 * SECOND);
                    self.after(delay, Event::Boot(node));
                }
            }
            Event::Boot(node) => self.boot(node),
            Event::Thaw(node) => self.thaw(node),
            Event::Probed(observer, incarnation, target, good) if self.nodes[observer].incarnation == incarnation => {
                // One that got no answer waited until its deadline: a pause that ended before cost nothing.
                let good = good || self.answers(observer, target);
                let target = NodeId(u8::try_from(target).expect("small"));
                self.input(observer, Input::Probe { target, good });
            }
            Event::ProbeAll => self.probe_all(),
            Event::Commit => self.commit(),
            Event::Replicate(node, tid) if tid > self.nodes[node].tid => {
                self.nodes[node].tid = tid;
                if !self.nodes[node].frozen {
                    self.input(node, Input::Copy(Tid(tid)));
                }
            }
            _ => {}
        }
    }

    pub fn boot(&mut self, node: usize) {
        if self.nodes[node].machine.is_some() || self.nodes[node].stays_off {
            return;
        }
        self.nodes[node].incarnation += 1;
        self.audit.booted(node);
        let boot = BootId(self.chance.next() | 1);
        let journal = self.nodes[node].journal.map_or(Journal::Lost, Journal::Found);
        let mut actions = std::mem::take(&mut self.actions);
        let now = self.local(node, self.now);
        let settings = self.nodes[node].settings.clone();
        let began = Began { boot, at: now, wall: WALL + self.now / SECOND };
        let machine = Machine::sabotaged(settings, began, &journal, self.rule, &mut actions);
        self.nodes[node].machine = Some(machine);
        self.act(node, &mut actions);
        self.actions = actions;
        let (armed, tid) = (self.terms.armed, self.nodes[node].tid);
        self.input(node, Input::SelfFenceArmed(armed));
        if node < 2 {
            self.input(node, Input::Copy(Tid(tid)));
        }
    }

    /// Power off, or a crash: what was not synced is lost, the storage ends.
    pub fn power_off(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.machine = None;
        it.incarnation += 1;
        it.op += 1;
        (it.running, it.address, it.frozen) = (false, false, false);
        it.queue.clear();
    }

    pub fn freeze(&mut self, node: usize, span: Us) {
        if self.nodes[node].machine.is_some() && !self.nodes[node].frozen {
            self.nodes[node].frozen = true;
            self.after(span, Event::Thaw(node));
        }
    }

    fn thaw(&mut self, node: usize) {
        if !self.nodes[node].frozen {
            return;
        }
        self.nodes[node].frozen = false;
        let mut queue = std::mem::take(&mut self.nodes[node].queue);
        // Either the timers or the sockets are looked at first.
        if self.chance.often(500) {
            self.input(node, Input::Tick);
        }
        for event in queue.drain(..) {
            self.happen(event);
        }
        if self.nodes[node].machine.is_some() {
            self.input(node, Input::Tick);
        }
    }

    fn deliver(&mut self, node: usize, beat: Beat) {
        if self.nodes[node].machine.is_none() {
            return;
        }
        self.audit.heard(node, &beat, self.now);
        self.input(node, Input::Heard { link: beat.link, beat });
    }

    /// An operator orders something at a node.
    pub fn order(&mut self, node: usize, order: Order) {
        if !self.nodes[node].frozen {
            self.input(node, Input::Operator(order));
        }
    }

    /// Gives a machine its input and does what it wants.
    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.local(node, self.now);
        let mut actions = std::mem::take(&mut self.actions);
        if self.trace && !matches!(input, Input::Heard { .. } | Input::Tick | Input::Probe { .. } | Input::Copy(_)) {
            eprintln!("{:>9} node {node} <- {input:?}", self.now);
        }
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle(input, now, &mut actions);
            self.act(node, &mut actions);
        }
        actions.clear();
        self.actions = actions;
    }

    fn act(&mut self, node: usize, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            if self.trace && !matches!(action, Action::Send { .. } | Action::FeedWatchdog) {
                eprintln!("{:>9} node {node} -> {action:?}", self.now);
            }
            self.act_one(node, action);
        }
        let Some(machine) = &self.nodes[node].machine else {
            return;
        };
        if let Some(deadline) = machine.next_deadline() {
            let jitter = self.chance.range(0, 300);
            let at = self.real(node, deadline).max(self.now) + 1 + jitter;
            self.nodes[node].wake += 1;
            let wake = self.nodes[node].wake;
            self.at(at, Event::Wake(node, wake));
        }
    }

    fn act_one(&mut self, node: usize, action: Action) {
        let incarnation = self.nodes[node].incarnation;
        match action {
            Action::Send { to, link, beat } => self.send(node, to, link, beat),
            Action::SaveEpoch { ticket, saved } => {
                let delay = self.chance.range(500, 10 * MS);
                self.after(delay, Event::Saved(node, incarnation, ticket, Box::new(saved)));
            }
            Action::Fence { epoch, attempt, target, .. } => self.fence(node, epoch, attempt, target),
            Action::RaiseAddress(epoch, proof) => {
                if self.acknowledges(1 - node) {
                    let what = format!("node {node} took over by {:?} while the other acknowledges", proof.kind());
                    self.audit.fail(self.now, what);
                }
                self.audit.took(node, epoch, proof.kind(), self.now, &self.nodes, &self.terms);
                self.nodes[node].address = true;
                let delay = self.chance.range(self.terms.start.0 / 4, self.terms.start.1 / 4 + 1);
                let input = Input::AddressDone { epoch, raised: true, result: Ok(()) };
                self.after(delay, Event::Input(node, incarnation, Box::new(input)));
            }
            Action::DropAddress(epoch) => {
                self.audit.stops(node, epoch, self.now);
                self.nodes[node].address = false;
                let delay = self.chance.range(100, 5 * MS);
                let input = Input::AddressDone { epoch, raised: false, result: Ok(()) };
                self.after(delay, Event::Input(node, incarnation, Box::new(input)));
            }
            Action::StartResources(epoch, _) => {
                self.nodes[node].op += 1;
                let op = self.nodes[node].op;
                let delay = self.chance.range(self.terms.start.0, self.terms.start.1);
                self.after(delay, Event::Started(node, incarnation, op, epoch));
            }
            Action::StopResources(epoch) => {
                self.audit.stops(node, epoch, self.now);
                self.nodes[node].op += 1;
                let op = self.nodes[node].op;
                let fails = self.nodes[node].stop_fails;
                let delay = self.chance.range(MS, 100 * MS);
                self.after(delay, Event::Killed(node, incarnation, op, epoch, !fails));
            }
            Action::SelfFence(epoch, _) => {
                self.audit.stops(node, epoch, self.now);
                self.nodes[node].op += 1;
                let op = self.nodes[node].op;
                // An armed self-fence is done within the margin, if need be by the watchdog. One that is not may hang.
                let works = self.terms.armed || self.healed;
                let delay = self.chance.range(100, self.terms.margin * 9 / 10);
                if works && self.nodes[node].stop_fails {
                    let again = delay + 2 * SECOND;
                    self.power_off(node);
                    self.after(again, Event::Boot(node));
                } else {
                    self.after(delay, Event::Killed(node, incarnation, op, epoch, works));
                }
            }
            Action::VerifyCopy(epoch) => {
                let delay = self.chance.range(MS, 20 * MS);
                let result = Ok(Tid(self.nodes[node].tid));
                self.after(delay, Event::Input(node, incarnation, Box::new(Input::Verified { epoch, result })));
            }
            Action::Report(report) => self.audit.report(report),
            Action::Publish(view) => self.audit.view(node, view),
            Action::Note(said) => self.audit.note(node, said, self.now),
            Action::AnnounceAddress(_) | Action::FeedWatchdog => {}
        }
    }

    fn send(&mut self, from: usize, to: NodeId, link: LinkId, beat: Beat) {
        self.audit.says(from, to, &beat, self.now);
        let granted = beat.answer.filter(|answer| answer.verdict == Verdict::Granted);
        let on_disk = self.nodes[from].journal.map_or(Epoch(0), |saved| saved.backed[usize::from(to.0) & 1]);
        if granted.is_some_and(|answer| answer.epoch > on_disk) {
            self.audit.fail(self.now, format!("node {from} grants what is not on its disk"));
        }
        let (there, wire) = (usize::from(to.0), usize::from(link.0));
        if self.cut[from][there][wire] || self.chance.often(self.loss) {
            return;
        }
        let copies = if self.chance.often(self.doubles) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.chance.range(self.terms.delay.0, self.terms.delay.1);
            self.after(delay, Event::Deliver(to, beat));
        }
    }

    fn fence(&mut self, node: usize, epoch: Epoch, attempt: u32, target: NodeId) {
        let victim = usize::from(target.0);
        let own = self.nodes[node].journal.and_then(|saved| saved.vote);
        if own.is_none_or(|vote| vote.epoch != epoch || usize::from(vote.candidate.0) != node) {
            self.audit.fail(self.now, format!("node {node} shoots before its own vote is on disk"));
        }
        self.audit.fences(node, victim, epoch, self.now, &self.terms);
        let limit = micros(self.nodes[node].settings.fence_timeout);
        let incarnation = self.nodes[node].incarnation;
        let device = self.nodes[victim].device;
        let (kills_after, ends_after, outcome) = match device {
            Device::Works => (Some(180 * MS), 200 * MS, Fenced { off: true, status: Power::Off }),
            Device::Slow => (Some(limit - 30 * MS), limit - 20 * MS, Fenced { off: true, status: Power::Off }),
            Device::Refuses => (None, 50 * MS, Fenced { off: false, status: Power::On }),
            Device::Unreachable => (None, limit - MS, Fenced { off: false, status: Power::Unknown }),
            Device::Lies => (None, 100 * MS, Fenced { off: true, status: Power::On }),
            Device::Late => (Some(limit - 5 * MS), 100 * MS, Fenced { off: false, status: Power::Unknown }),
        };
        self.audit.ends(node, self.now + ends_after.max(kills_after.unwrap_or(0)));
        if let Some(delay) = kills_after {
            self.after(delay, Event::Off(victim, node));
        }
        let input = Input::FenceDone { epoch, attempt, outcome };
        self.after(ends_after, Event::Input(node, incarnation, Box::new(input)));
    }

    /// Whether a member's storage would acknowledge a commit at this moment.
    pub fn acknowledges(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        let may = || {
            let now = self.local(node, self.now);
            it.machine.as_ref().is_some_and(|machine| machine.may_acknowledge(now))
        };
        it.running && it.healthy && !it.frozen && (!self.terms.gated || may())
    }

    fn probe_all(&mut self) {
        for observer in 0..self.nodes.len() {
            for target in 0..2 {
                let from = &self.nodes[observer];
                // Every member probes its own storage; whether a voter probes that of others is a setting.
                let looks = from.settings.probes || observer == target;
                if from.machine.is_none() || from.frozen || !looks {
                    continue;
                }
                let incarnation = from.incarnation;
                let good = self.answers(observer, target);
                let delay = if good { self.chance.range(MS, 4 * MS) } else { PROBE_DEADLINE };
                self.after(delay, Event::Probed(observer, incarnation, target, good));
            }
        }
        let next = self.chance.range(95 * MS, 105 * MS);
        self.after(next, Event::ProbeAll);
    }

    /// Whether a member's storage answers that observer at this moment.
    fn answers(&self, observer: usize, target: usize) -> bool {
        let it = &self.nodes[target];
        let serves = it.running && it.healthy && !it.frozen && it.machine.is_some();
        let broken = observer == target && it.own_probe_broken;
        serves && !self.service_cut[observer][target] && !broken
    }

    /// The acknowledging storage commits, and its replica follows.
    fn commit(&mut self) {
        for node in 0..2 {
            let other = 1 - node;
            if self.commits && self.acknowledges(node) {
                self.last_tid = (self.last_tid.max(self.nodes[node].tid) + 1).max(stamp(self.now));
                let tid = self.last_tid;
                self.nodes[node].tid = tid;
                self.input(node, Input::Copy(Tid(tid)));
                if self.replicates
                    && self.nodes[other].machine.is_some()
                    && !self.isolated[node]
                    && !self.isolated[other]
                {
                    let delay = self.chance.range(MS, 20 * MS);
                    self.after(delay, Event::Replicate(other, tid));
                }
            }
        }
        let next = self.chance.range(30 * MS, 70 * MS);
        self.after(next, Event::Commit);
    }

    fn audit(&mut self) {
        let both = self.acknowledges(0) && self.acknowledges(1);
        if both {
            self.audit.fail(self.now, "two members acknowledge at one time");
        }
    }

    /// The members that acknowledge now.
    pub fn active(&self) -> Vec<usize> {
        (0..2).filter(|node| self.acknowledges(*node)).collect()
    }
}

impl Node {
    fn is(&self, incarnation: u32, op: u64) -> bool {
        self.incarnation == incarnation && self.op == op
    }
}

/// The transaction id of that moment.
fn stamp(now: Us) -> u64 {
    let (minutes, rest) = (now / (60 * SECOND), now % (60 * SECOND));
    ((MINUTES + minutes) << 32) | ((rest << 32) / (60 * SECOND))
}

pub fn micros(span: Duration) -> Us {
    Us::try_from(span.as_micros()).expect("short")
}

fn settings(me: NodeId, roster: &Roster, terms: &Terms) -> Settings {
    let ms = Duration::from_millis;
    let us = Duration::from_micros;
    let mode = if terms.observe & (1 << me.0) == 0 { Mode::Act } else { Mode::Observe };
    let mut links = [0; 9];
    links[..roster.voters()].fill(terms.links);
    Settings {
        dead: us(terms.dead),
        lease: us(terms.lease),
        margin: us(terms.margin),
        initdead: us(terms.dead * 3),
        restarts_max: terms.restarts,
        fence_levels: u8::from(terms.fence),
        fence_timeout: ms(1_000),
        fence_retry: ms(500),
        address_timeout: ms(500),
        start_timeout: ms(1_500),
        stop_timeout: ms(500),
        serve_timeout: ms(1_500),
        verify_timeout: ms(1_000),
        takeovers_max: terms.takeovers_max,
        yield_wait: ms(2_000),
        exclusion: ms(3_000),
        takeover: mode,
        fence: mode,
        self_fence: mode,
        probes: terms.probes,
        ..Settings::fast(me, roster.clone(), links)
    }
}
