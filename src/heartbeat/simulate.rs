//! What the pair would do: the same machines on a clock of their own, with links that can be cut and nodes that can be killed. Pure:
//! no socket, no program, no waiting. The world is kind beside the faults: what is asked for is done, in the time it usually takes.

use crate::heartbeat::diary;
use crate::heartbeat::machine::Action;
use crate::heartbeat::machine::Began;
use crate::heartbeat::machine::BootId;
use crate::heartbeat::machine::Fenced;
use crate::heartbeat::machine::Input;
use crate::heartbeat::machine::Journal;
use crate::heartbeat::machine::LinkId;
use crate::heartbeat::machine::Machine;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Phase;
use crate::heartbeat::machine::Power;
use crate::heartbeat::plan::Plan;
use crate::zodb::Tid;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::time::Duration;
use std::time::Instant;

/// What goes wrong, once a member serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nodes that are off: names, or `active` and `standby`.
    pub kill: Vec<String>,
    /// Cut links: `a:b` (all between the two), `a:b:2` (the second), `a>b` (one way), `a` (all of a node).
    pub cut: Vec<String>,
    /// The storage of this node hangs or has ended.
    pub storage: Option<String>,
    /// No fence device answers.
    pub fence_fails: bool,
}

/// A cut, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    from: Option<NodeId>,
    to: Option<NodeId>,
    link: Option<u8>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are inputs")]
enum Event {
    Input(NodeId, Input),
    Wake(NodeId),
    Probe,
    Off(NodeId),
}

struct Node {
    machine: Machine,
    alive: bool,
    serves: bool,
    hangs: bool,
}

struct World<'a> {
    plan: &'a Plan,
    start: Instant,
    now: Duration,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    count: u64,
    cuts: Vec<Cut>,
    fence_fails: bool,
    fault_at: Duration,
    story: String,
}

/// The story of what would happen, in lines. `start`: any moment.
///
/// # Errors
/// A fault that names nobody.
pub fn tell(plan: &Plan, faults: &Faults, start: Instant) -> Result<String, String> {
    let mut world = World::new(plan, start);
    let Some(active) = world.run_until_served(FIRST_MAX) else {
        return Ok(format!("nobody serves even without a fault:\n{}", world.story));
    };
    // Until votes and first leases bind nobody any more.
    world.run(world.now + plan.settings.fence_timeout * 2 + plan.settings.dead * 4);
    let standby = active.peer();
    world.story = format!("{} serves, {} stands by; then the faults:\n", plan.name(active), plan.name(standby));
    world.fault_at = world.now;
    world.fence_fails = faults.fence_fails;
    let find = |name: &str| match name {
        "active" => Ok(active),
        "standby" => Ok(standby),
        _ => world_id(plan, name),
    };
    for name in &faults.kill {
        world.kill(find(name)?);
    }
    if let Some(name) = &faults.storage {
        let id = find(name)?;
        world.node(id).hangs = true;
        let wanted = Event::Input(id, Input::ResourceExited);
        world.at(MS, wanted);
    }
    for cut in &faults.cut {
        let cuts = read_cut(cut, find)?;
        world.cuts.extend(cuts);
    }
    world.run(world.now + AFTER);
    world.conclude();
    Ok(world.story)
}

fn world_id(plan: &Plan, name: &str) -> Result<NodeId, String> {
    let found = plan.settings.roster.ids().find(|id| plan.name(*id) == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        format!("there is no node `{name}`; there are active, standby, {}", names.join(", "))
    })
}

fn read_cut(text: &str, find: impl Fn(&str) -> Result<NodeId, String>) -> Result<Vec<Cut>, String> {
    if let Some((from, to)) = text.split_once('>') {
        return Ok(vec![Cut { from: Some(find(from)?), to: Some(find(to)?), link: None }]);
    }
    let mut parts = text.split(':');
    let one = Some(find(parts.next().unwrap_or_default())?);
    let Some(other) = parts.next() else {
        return Ok(vec![Cut { from: one, to: None, link: None }, Cut { from: None, to: one, link: None }]);
    };
    let other = Some(find(other)?);
    let link = match parts.next() {
        None => None,
        Some(link) => {
            let number: Option<u8> = link.parse().ok().filter(|number| *number > 0);
            Some(number.ok_or_else(|| format!("`{link}` is no link; they count from 1"))? - 1)
        }
    };
    Ok(vec![Cut { from: one, to: other, link }, Cut { from: other, to: one, link }])
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, start: Instant) -> Self {
        let mut world = Self {
            plan,
            start,
            now: Duration::ZERO,
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            events: std::collections::HashMap::new(),
            count: 0,
            cuts: Vec::new(),
            fence_fails: false,
            fault_at: Duration::ZERO,
            story: String::new(),
        };
        let armed = plan.can_be_killed() || plan.settings.self_fence_required;
        let mut first = Vec::new();
        for id in plan.settings.roster.ids() {
            let mut settings = plan.settings.clone();
            settings.me = id;
            let mut actions = Vec::new();
            let began = Began { boot: BootId(u64::from(id.0) + 1), at: start, wall: 0 };
            let machine = Machine::new(settings, began, &Journal::Lost, &mut actions);
            world.nodes.push(Node { machine, alive: true, serves: false, hangs: false });
            first.push((id, actions));
        }
        for (id, actions) in first {
            world.act(id, actions);
            world.at(Duration::ZERO, Event::Wake(id));
            if id.is_member() {
                world.at(MS, Event::Input(id, Input::SelfFenceArmed(armed)));
                world.at(MS, Event::Input(id, Input::Copy(Tid(1))));
            }
        }
        world.at(MS, Event::Probe);
        world
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.insert(self.count, event);
        self.queue.push(Reverse((self.now + after, self.count)));
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        // Ids come from the roster that the nodes were made from.
        &mut self.nodes[usize::from(id.0)]
    }

    fn kill(&mut self, id: NodeId) {
        let node = self.node(id);
        node.alive = false;
        node.serves = false;
    }

    fn is_cut(&self, from: NodeId, to: NodeId, link: u8) -> bool {
        let meets = |cut: &Cut| {
            cut.from.is_none_or(|id| id == from)
                && cut.to.is_none_or(|id| id == to)
                && cut.link.is_none_or(|cut| cut == link)
        };
        self.cuts.iter().any(meets)
    }

    fn run(&mut self, until: Duration) {
        for _ in 0..STEPS_MAX {
            let Some(Reverse((at, _))) = self.queue.peek() else { return };
            if *at > until {
                self.now = until;
                return;
            }
            self.step();
        }
    }

    fn run_until_served(&mut self, until: Duration) -> Option<NodeId> {
        for _ in 0..STEPS_MAX {
            if self.now >= until {
                return None;
            }
            let view = self.nodes[0].machine.view();
            let active = view.active.filter(|_| matches!(view.phase, Phase::Steady | Phase::Serving));
            if let Some(active) = active.filter(|active| self.nodes[usize::from(active.0)].serves) {
                return Some(active);
            }
            self.step();
        }
        None
    }

    fn step(&mut self) {
        let Some(Reverse((at, number))) = self.queue.pop() else { return };
        self.now = at;
        match self.events.remove(&number) {
            Some(Event::Input(id, input)) => self.handle(id, input),
            Some(Event::Wake(id)) => {
                let now = self.start + self.now;
                let due = self.node(id).machine.next_deadline();
                match due {
                    Some(due) if due <= now => self.handle(id, Input::Tick),
                    Some(due) => self.at(due.saturating_duration_since(now).max(MS), Event::Wake(id)),
                    None => self.at(self.plan.settings.interval, Event::Wake(id)),
                }
                if due.is_some_and(|due| due <= now) {
                    self.at(MS, Event::Wake(id));
                }
            }
            Some(Event::Probe) => self.probe(),
            Some(Event::Off(id)) => self.kill(id),
            None => {}
        }
    }

    fn probe(&mut self) {
        if self.plan.settings.probes {
            for observer in self.plan.settings.roster.ids() {
                for target in [NodeId(0), NodeId(1)] {
                    let node = self.node(target);
                    let serves = node.alive && node.serves && !node.hangs;
                    let near = observer == target;
                    let good =
                        serves && (near || !self.is_cut(observer, target, 0) && !self.is_cut(target, observer, 0));
                    let after = if good { MS } else { self.plan.probe_timeout };
                    self.at(after, Event::Input(observer, Input::Probe { target, good }));
                }
            }
        }
        self.at(self.plan.probe_every, Event::Probe);
    }

    fn handle(&mut self, id: NodeId, input: Input) {
        let now = self.start + self.now;
        let node = self.node(id);
        if !node.alive {
            return;
        }
        let mut actions = Vec::new();
        node.machine.handle(input, now, &mut actions);
        self.act(id, actions);
    }

    fn act(&mut self, id: NodeId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, link: LinkId(link), beat } => {
                    if !self.is_cut(id, to, link) {
                        self.at(MS, Event::Input(to, Input::Heard { link: LinkId(link), beat }));
                    }
                }
                Action::SaveEpoch { ticket, .. } => {
                    self.at(SYNC, Event::Input(id, Input::EpochSaved { ticket, result: Ok(()) }));
                }
                Action::Fence { epoch, attempt, target, .. } => {
                    let (after, outcome) = if self.fence_fails {
                        (self.plan.settings.fence_timeout / 2, Fenced { off: false, status: Power::Unknown })
                    } else {
                        self.at(FENCE, Event::Off(target));
                        (FENCE, Fenced { off: true, status: Power::Off })
                    };
                    self.at(after, Event::Input(id, Input::FenceDone { epoch, attempt, outcome }));
                }
                Action::RaiseAddress(epoch, _) => self.address(id, epoch, true),
                Action::DropAddress(epoch) => self.address(id, epoch, false),
                Action::StartResources(epoch, _) => self.resources(id, epoch, true, START),
                Action::StopResources(epoch) => self.resources(id, epoch, false, STOP),
                Action::SelfFence(epoch, _) => self.resources(id, epoch, false, SYNC),
                Action::VerifyCopy(epoch) => {
                    self.at(SYNC, Event::Input(id, Input::Verified { epoch, result: Ok(Tid(1)) }));
                }
                Action::Note(note) => self.note(id, &note),
                Action::Report(report) => {
                    let line = diary::report(&report, self.plan, std::time::UNIX_EPOCH);
                    let phases = &line["since_suspicion_ms"];
                    self.line(id, &format!("takeover done, proof {}, ms since suspicion: {phases}", line["proof"]));
                }
                Action::AnnounceAddress(_) | Action::FeedWatchdog | Action::Publish(_) => {}
            }
        }
    }

    fn address(&mut self, id: NodeId, epoch: crate::heartbeat::machine::Epoch, raised: bool) {
        self.at(SYNC, Event::Input(id, Input::AddressDone { epoch, raised, result: Ok(()) }));
    }

    fn resources(&mut self, id: NodeId, epoch: crate::heartbeat::machine::Epoch, started: bool, after: Duration) {
        let node = self.node(id);
        node.serves = started;
        // A storage that is started anew hangs no more.
        node.hangs = false;
        self.at(after, Event::Input(id, Input::ResourceDone { epoch, started, result: Ok(()) }));
    }

    fn note(&mut self, id: NodeId, note: &Note) {
        let told = matches!(
            note,
            Note::Role(..)
                | Note::Dead(_)
                | Note::Back(_)
                | Note::OneWay(..)
                | Note::Proven(..)
                | Note::FenceEnded(..)
                | Note::Refused(_)
                | Note::WouldFence(_)
                | Note::WouldTakeOver(_)
                | Note::WouldSelfFence(_)
                | Note::Restart(_)
        );
        if told {
            self.line(id, &diary::words(note, self.plan).1);
        }
    }

    fn line(&mut self, id: NodeId, text: &str) {
        let since = self.now.saturating_sub(self.fault_at);
        // Writing to a String cannot fail.
        let _ = writeln!(self.story, "{:>8.3} s  {:<12} {text}", since.as_secs_f64(), self.plan.name(id));
    }

    fn conclude(&mut self) {
        let serving: Vec<&str> = (0..2_u8)
            .filter(|id| self.nodes[usize::from(*id)].alive && self.nodes[usize::from(*id)].serves)
            .map(|id| self.plan.name(NodeId(id)))
            .collect();
        let text = match serving.as_slice() {
            [one] => format!("in the end {one} serves"),
            [] => "in the end NOBODY serves".to_owned(),
            _ => "in the end BOTH run their storage".to_owned(),
        };
        let _ = writeln!(self.story, "{text}");
    }
}

const MS: Duration = Duration::from_millis(1);
const SYNC: Duration = Duration::from_millis(5);
const FENCE: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_millis(500);
const STOP: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_secs(60);
const FIRST_MAX: Duration = Duration::from_secs(300);
const STEPS_MAX: usize = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(faults: &Faults) -> String {
        let plan = crate::heartbeat::plan::sample();
        tell(&plan, faults, Instant::now()).unwrap_or_else(|why| why)
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_would_happen_is_told_before_it_does() {
        let active = told(&Faults::default()).split(' ').next().unwrap().to_owned();
        let standby = if active == "a" { "b" } else { "a" };
        let moved = format!("in the end {standby} serves");
        let stayed = format!("in the end {active} serves");
        for (kill, cut, storage, fence_fails, end) in [
            (&[][..], &[][..], None, false, &stayed),
            (&["active"], &[], None, false, &moved),
            (&["active"], &[], None, true, &moved),
            (&["standby"], &[], None, false, &stayed),
            (&["w"], &[], None, false, &stayed),
            (&[], &["active:standby"], None, false, &stayed),
            (&[], &["active>standby"], None, false, &stayed),
            (&[], &["active:standby:2"], None, false, &stayed),
            (&[], &["active"], None, true, &moved),
            (&[], &[], Some("active".to_owned()), false, &moved),
        ] {
            let faults = Faults { kill: words(kill), cut: words(cut), storage, fence_fails };
            let story = told(&faults);
            assert!(story.trim_end().ends_with(end.as_str()), "{faults:?}\n{story}");
        }
    }

    #[test]
    fn a_fault_that_names_nobody_is_an_error_with_the_names() {
        for (kill, cut) in [(&["c"][..], &[][..]), (&[], &["a:c"]), (&[], &["a:b:0"]), (&[], &["a>c"])] {
            let told = told(&Faults { kill: words(kill), cut: words(cut), ..Faults::default() });
            assert!(told.contains("there is no node `c`") || told.contains("is no link"), "{told}");
        }
    }
}
