//! What goes wrong, when: a plan is drawn from the seed, played, healed, and judged.

use tidegate::heartbeat::machine::Input;
use tidegate::heartbeat::machine::Order;
use tidegate::heartbeat::machine::Phase;
use tidegate::heartbeat::machine::ProofKind;
use tidegate::heartbeat::machine::Refusal;
use tidegate::heartbeat::machine::faults::Rule;

use super::audit::Taken;
use super::chance::Chance;
use super::orders;
use super::world::Device;
use super::world::Event;
use super::world::LINKS;
use super::world::MS;
use super::world::NODES;
use super::world::SECOND;
use super::world::Terms;
use super::world::Us;
use super::world::World;

/// Kinds of plans, each with expectations of its own beside the invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything at once; after the last fault there is one active again.
    Swarm,
    /// Loss, pauses, one broken observer, one dead link: no takeover.
    Mild,
    /// Only the two members do not hear each other: nothing happens.
    PairCut,
    /// Clients and observers do not reach the active, its heartbeats arrive.
    LanCut,
    /// Both members start apart and want the role.
    Duel,
    /// No fence, no armed self-fence: refused, with a reason.
    Doomed,
    /// Clocks as wrong as they may be, and a margin that hides nothing.
    Drift,
    /// The active is isolated and a voter forgets its lease.
    VoterRestart,
    /// The copy lacks transactions.
    Behind,
    /// The service dies again and again.
    Flap,
    /// The service does not stop.
    StopFails,
    /// No witness: a fence decides.
    NoWitness,
    /// The journal of a voter is lost.
    JournalLost,
    /// Slow links and a margin below their delay.
    SlowWire,
    /// All but the active stop for a moment, as on one host: longer than `dead`, shorter than a lease.
    Stall,
    /// The active's tidegate ends and comes back, again and again.
    CrashLoop,
    /// A healthy pair, and an operator who gives the role to and fro.
    Switchover,
    /// Anything at once, in maintenance: nothing is done about it.
    Maintained,
    /// One member is on standby, and the other one fails.
    OnStandby,
    /// Takeovers are only observed, on one member or on both.
    Observed,
    /// Nothing is a proof, and an operator says that the other member is off, or errs.
    Forced,
    /// A new pair of which one voter is missing.
    NewPair,
    /// What would happen is asked, and then it happens.
    Foretold,
    /// Who shoots takes the role before the shot is over, and gives it up again.
    SlowShot,
    /// The same, and the voter that permitted the shot forgets it.
    ForgottenShot,
}

impl Kind {
    /// What is done follows from what is seen, instead of a plan.
    fn is_played(self) -> bool {
        matches!(
            self,
            Self::Switchover
                | Self::OnStandby
                | Self::Observed
                | Self::Forced
                | Self::Foretold
                | Self::SlowShot
                | Self::ForgottenShot
        )
    }
}

pub const KINDS: [Kind; 34] = [
    Kind::SlowWire,
    Kind::Stall,
    Kind::Swarm,
    Kind::Mild,
    Kind::Swarm,
    Kind::PairCut,
    Kind::Swarm,
    Kind::LanCut,
    Kind::Swarm,
    Kind::Duel,
    Kind::Swarm,
    Kind::Doomed,
    Kind::Swarm,
    Kind::Drift,
    Kind::Swarm,
    Kind::VoterRestart,
    Kind::Mild,
    Kind::Behind,
    Kind::Flap,
    Kind::StopFails,
    Kind::NoWitness,
    Kind::JournalLost,
    Kind::CrashLoop,
    Kind::Switchover,
    Kind::Maintained,
    Kind::OnStandby,
    Kind::Observed,
    Kind::Forced,
    Kind::NewPair,
    Kind::Foretold,
    Kind::Foretold,
    Kind::Foretold,
    Kind::SlowShot,
    Kind::ForgottenShot,
];

/// One thing that goes wrong, or is mended.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Link(usize, usize, usize, bool),
    Pair(usize, usize, bool),
    OneWay(usize, usize, bool),
    Isolate(usize, bool),
    ServiceCut(usize, usize, bool),
    Loss(u64),
    Doubles(u64),
    Freeze(usize, Us),
    Crash(usize, Us),
    LoseJournal(usize, Us),
    Dies(usize),
    Hangs(usize),
    StopFails(usize, bool),
    Device(usize, Device),
    OwnProbe(usize, bool),
    Replicates(bool),
    Disk(usize, bool),
    StaysOff(usize),
    StartFails(usize, bool),
    Order(usize, Order),
}

pub struct Outcome {
    pub broken: Option<String>,
    pub events: u64,
    pub shots: usize,
    pub kind: Kind,
}

/// What kind of plan a seed plays; `HEARTBEAT_KIND=Name` makes it one for all.
pub fn kind_of(seed: u64) -> Kind {
    if let Ok(only) = std::env::var("HEARTBEAT_KIND") {
        return KINDS.into_iter().find(|kind| format!("{kind:?}") == only).expect("the name of a kind");
    }
    KINDS[usize::try_from(seed % KINDS.len() as u64).expect("small")]
}

/// Plays one seed, with one rule dropped or none.
pub fn play(seed: u64, rule: Option<Rule>) -> Outcome {
    let kind = kind_of(seed);
    play_kind(seed, kind, rule)
}

pub fn play_kind(seed: u64, kind: Kind, rule: Option<Rule>) -> Outcome {
    let mut chance = Chance::new(seed ^ 0x7165_6761_7465);
    let terms = terms(kind, &mut chance);
    let plan = plan(kind, &terms, &mut chance);
    let mut world = World::new(seed, terms, rule);
    if world.trace {
        eprintln!("seed {seed} {kind:?}\n{:#?}\n{plan:?}", world.terms);
    }
    judge(&mut world, kind, &plan, &mut chance);
    Outcome { broken: world.audit.broken.take(), events: world.events, shots: world.audit.fenced, kind }
}

fn terms(kind: Kind, chance: &mut Chance) -> Terms {
    let base = Terms::default();
    match kind {
        Kind::Swarm => {
            let lease = chance.pick(&[500, 500, 800, 1000]) * MS;
            Terms {
                witnesses: chance.pick(&[1, 1, 1, 1, 3]),
                links: chance.pick(&[1, 2]),
                lease,
                dead: chance.pick(&[300, 400, 500]) * MS,
                margin: chance.pick(&[20, 50, 100]) * MS,
                fence: chance.often(800),
                armed: chance.often(700),
                restarts: chance.pick(&[0, 0, 2]),
                gated: chance.often(700),
                drift_ppm: chance.pick(&[0, 2_000, 4_500]),
                delay: (100, chance.pick(&[2, 2, 20, 60]) * MS),
                probes: chance.often(900),
                ..base
            }
        }
        Kind::Mild => Terms {
            lease: chance.pick(&[500, 1000]) * MS,
            probes: chance.often(800),
            witnesses: chance.pick(&[1, 1, 3]),
            ..base
        },
        Kind::PairCut => Terms { probes: chance.often(700), ..base },
        Kind::Doomed => Terms { fence: chance.often(600), armed: false, ..base },
        Kind::Drift => Terms {
            drift_ppm: 4_900,
            margin: MS / 2,
            dead: 300 * MS,
            lease: chance.pick(&[500, 1000]) * MS,
            delay: (50, 200),
            start: (40, 100),
            fence: false,
            ..base
        },
        Kind::VoterRestart => Terms { lease: 1_500 * MS, dead: 300 * MS, fence: false, ..base },
        Kind::Flap | Kind::CrashLoop => Terms { takeovers_max: 3, ..base },
        Kind::StopFails => Terms { armed: chance.often(500), gated: chance.often(500), ..base },
        Kind::NoWitness => Terms { witnesses: 0, ..base },
        Kind::JournalLost | Kind::Duel => Terms { fence: chance.often(700), ..base },
        Kind::LanCut => Terms { fence: chance.often(500), gated: chance.often(500), ..base },
        Kind::SlowWire => Terms {
            delay: (100, 60 * MS),
            margin: 20 * MS,
            dead: 300 * MS,
            start: (40, 100),
            fence: false,
            gated: chance.often(500),
            ..base
        },
        Kind::Stall => Terms { lease: 1_000 * MS, probes: chance.often(500), ..base },
        Kind::Behind | Kind::SlowShot | Kind::ForgottenShot => base,
        Kind::Switchover
        | Kind::Maintained
        | Kind::OnStandby
        | Kind::Observed
        | Kind::Forced
        | Kind::NewPair
        | Kind::Foretold => orders::terms(kind, base, chance),
    }
}

const BEGIN: Us = 2_500 * MS;
const HEAL: Us = 6_500 * MS;

#[expect(clippy::too_many_lines, reason = "a table")]
fn plan(kind: Kind, terms: &Terms, chance: &mut Chance) -> Vec<(Us, Fault)> {
    let mut plan = Vec::new();
    let time = |chance: &mut Chance| chance.range(BEGIN, HEAL - 500 * MS);
    match kind {
        Kind::Swarm => {
            for _ in 0..chance.range(1, 7) {
                swarm(terms, chance, &mut plan);
            }
            if chance.often(500) {
                ordered(chance, &mut plan);
            }
        }
        Kind::Mild => mild(terms, chance, &mut plan),
        Kind::PairCut => plan.push((time(chance), Fault::Pair(0, 1, true))),
        Kind::LanCut => {
            let at = time(chance);
            for node in 0..2 {
                for observer in (0..3).filter(|observer| *observer != node) {
                    plan.push((at, Fault::ServiceCut(observer, node, true)));
                }
            }
            if chance.often(700) {
                plan.push((at, Fault::Pair(0, 1, true)));
            }
        }
        Kind::Duel => {
            let at = BEGIN + chance.range(0, SECOND);
            let device = chance.pick(&[Device::Slow, Device::Works, Device::Refuses, Device::Late]);
            plan.extend([(at, Fault::Device(0, device)), (at, Fault::Device(1, device))]);
            plan.push((at, Fault::Pair(0, 1, true)));
            let down = chance.range(50, 800) * MS;
            plan.push((at + MS, Fault::Crash(0, down)));
            plan.push((at + chance.range(1, 50) * MS, Fault::Crash(1, down + chance.range(0, 30) * MS)));
            for _ in 0..chance.range(0, 5) {
                plan.push((at + down + chance.range(1_000, 4_000) * MS, Fault::Crash(2, chance.range(1, 50) * MS)));
            }
        }
        Kind::Doomed => {
            let at = BEGIN + chance.range(0, 1_500) * MS;
            let device = chance.pick(&[Device::Refuses, Device::Unreachable, Device::Lies]);
            plan.extend([(0, Fault::Device(0, device)), (0, Fault::Device(1, device))]);
            plan.push((at, if chance.often(500) { Fault::Isolate(9, true) } else { Fault::StaysOff(9) }));
        }
        Kind::Drift | Kind::SlowWire => plan.push((time(chance), Fault::Isolate(9, true))),
        Kind::Stall => {
            let (at, span) = (time(chance), chance.range(550, 700) * MS);
            (0..3).for_each(|node| plan.push((at, Fault::Freeze(10 + node, span))));
        }
        Kind::VoterRestart => {
            // The standby has not heard the active for longer than a lease: only the witness knows of the one that runs.
            plan.push((BEGIN, Fault::Pair(0, 1, true)));
            let at = chance.range(BEGIN + 1_700 * MS, HEAL - 500 * MS);
            plan.push((at, Fault::Isolate(9, true)));
            plan.push((at + chance.range(1, 300) * MS, Fault::Crash(2, chance.range(5, 30) * MS)));
        }
        Kind::Behind => {
            let at = BEGIN + chance.range(0, 500) * MS;
            plan.push((at, Fault::Replicates(false)));
            plan.push((at + chance.range(600, 1_500) * MS, Fault::StaysOff(9)));
        }
        Kind::Flap => {
            for round in 0..12 {
                plan.push((BEGIN + round * chance.range(600, 900) * MS, Fault::Dies(9)));
            }
        }
        Kind::CrashLoop => {
            for round in 0..6 {
                plan.push((BEGIN + round * 1_600 * MS, Fault::Crash(9, chance.range(700, 1_000) * MS)));
            }
        }
        Kind::StopFails => {
            let at = time(chance);
            plan.extend([(BEGIN, Fault::StopFails(0, true)), (BEGIN, Fault::StopFails(1, true))]);
            plan.push((at, if chance.often(500) { Fault::Hangs(9) } else { Fault::Isolate(9, true) }));
        }
        Kind::NoWitness => {
            let at = time(chance);
            plan.push((at, chance.pick(&[Fault::StaysOff(9), Fault::Pair(0, 1, true), Fault::Crash(9, 900 * MS)])));
        }
        Kind::JournalLost => {
            // Both start apart and bid at about the same time; the witness votes for one, forgets it, and is cut from it.
            let at = BEGIN + chance.range(0, 500) * MS;
            let down = chance.range(50, 200) * MS;
            plan.push((at, Fault::Pair(0, 1, true)));
            plan.extend([
                (at + MS, Fault::Crash(0, down)),
                (at + MS, Fault::Crash(1, down + chance.range(0, 40) * MS)),
            ]);
            let bid = at + down + 3 * terms.dead + chance.range(0, 120) * MS;
            plan.extend([(bid, Fault::LoseJournal(2, chance.range(1, 20) * MS)), (bid, Fault::Pair(2, 0, true))]);
        }
        // Faults while the pair is in maintenance, which began before.
        Kind::Maintained => {
            for _ in 0..chance.range(1, 5) {
                swarm(terms, chance, &mut plan);
            }
            for (at, _) in &mut plan {
                *at += SECOND;
            }
            plan.retain(|(at, _)| *at < HEAL);
        }
        // What is done there follows from what is seen.
        Kind::Switchover
        | Kind::OnStandby
        | Kind::Observed
        | Kind::Forced
        | Kind::NewPair
        | Kind::Foretold
        | Kind::SlowShot
        | Kind::ForgottenShot => {}
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

/// Something, for some time.
fn swarm(terms: &Terms, chance: &mut Chance, plan: &mut Vec<(Us, Fault)>) {
    let voters = 2 + terms.witnesses;
    let any = |chance: &mut Chance| usize::try_from(chance.range(0, voters as u64)).expect("small");
    let at = chance.range(BEGIN, HEAL - 200 * MS);
    let until = at + chance.range(50 * MS, 3 * SECOND);
    let member = usize::try_from(chance.range(0, 2)).expect("small");
    let (one, two) = (any(chance), any(chance));
    let mut both = |fault: Fault, mended: Fault| plan.extend([(at, fault), (until, mended)]);
    match chance.range(0, 20) {
        0 => both(Fault::Link(one, two, 0, true), Fault::Link(one, two, 0, false)),
        1 | 2 => both(Fault::Pair(one, two, true), Fault::Pair(one, two, false)),
        3 => both(Fault::OneWay(one, two, true), Fault::OneWay(one, two, false)),
        4 | 5 => both(Fault::Isolate(one, true), Fault::Isolate(one, false)),
        6 => both(Fault::ServiceCut(one, member, true), Fault::ServiceCut(one, member, false)),
        7 => both(Fault::Loss(chance.range(50, 500)), Fault::Loss(0)),
        8 => both(Fault::Doubles(500), Fault::Doubles(0)),
        9 | 10 => {
            // A storage that asks nobody before it acknowledges goes on for a moment when its frozen host thaws: only a
            // watchdog that runs on meanwhile, or the gate, helps there, and this storage has neither.
            let longest = if terms.gated { 2_500 } else { 200 };
            plan.push((at, Fault::Freeze(one, chance.range(50, longest) * MS)));
        }
        11 | 12 => plan.push((at, Fault::Crash(one, chance.range(5, 2_000) * MS))),
        13 => plan.push((at, Fault::Dies(member))),
        14 => plan.push((at, Fault::Hangs(member))),
        15 => both(Fault::StopFails(member, true), Fault::StopFails(member, false)),
        16 => {
            let device = chance.pick(&[Device::Slow, Device::Refuses, Device::Unreachable, Device::Lies, Device::Late]);
            both(Fault::Device(member, device), Fault::Device(member, Device::Works));
        }
        17 => both(Fault::OwnProbe(member, true), Fault::OwnProbe(member, false)),
        18 => both(Fault::Replicates(false), Fault::Replicates(true)),
        _ => both(Fault::Disk(one, true), Fault::Disk(one, false)),
    }
}

/// An operator interferes.
fn ordered(chance: &mut Chance, plan: &mut Vec<(Us, Fault)>) {
    let at = chance.range(BEGIN, HEAL - 200 * MS);
    let until = at + chance.range(50 * MS, 3 * SECOND);
    let mut any = || usize::try_from(chance.range(0, 3)).expect("small");
    let (node, other, what) = (any(), any(), any());
    match what {
        0 => plan.extend([(at, Fault::Order(9, Order::Switchover)), (until, Fault::Order(9, Order::Switchover))]),
        1 => plan.extend([(at, Fault::Order(node, Order::Standby)), (until, Fault::Order(node, Order::Online))]),
        _ => {
            let (on, off) = (Order::Maintenance(true), Order::Maintenance(false));
            plan.extend([(at, Fault::Order(node, on)), (until, Fault::Order(other, off))]);
        }
    }
}

fn mild(terms: &Terms, chance: &mut Chance, plan: &mut Vec<(Us, Fault)>) {
    let voters = 2 + terms.witnesses;
    let at = BEGIN + chance.range(0, 500) * MS;
    if chance.often(300) {
        plan.push((SECOND, Fault::Dies(9)));
    }
    match chance.range(0, 5) {
        0 => plan.push((at, Fault::Loss(200))),
        1 => {
            // One after the other: pauses that meet add up to more than each of them.
            for round in 0..5 {
                let node = usize::try_from(chance.range(0, voters as u64)).expect("small");
                let when = BEGIN + round * 750 * MS + chance.range(0, 100 * MS);
                plan.push((when, Fault::Freeze(node, chance.range(10, 250) * MS)));
            }
        }
        2 => plan.push((at, Fault::OwnProbe(9, true))),
        3 => {
            for one in 0..voters {
                for two in (0..voters).filter(|two| *two != one) {
                    plan.push((at, Fault::Link(one, two, 1, true)));
                }
            }
        }
        _ => plan.push((at, Fault::Doubles(900))),
    }
}

pub fn apply(world: &mut World, fault: Fault) {
    let voters = world.nodes.len();
    let active = world.active().first().copied();
    let who = |node: usize| if node == 9 { active.unwrap_or(0) } else { node };
    match fault {
        Fault::Link(one, two, link, cut) => (world.cut[one][two][link], world.cut[two][one][link]) = (cut, cut),
        Fault::Pair(one, two, cut) => {
            (world.cut[one][two], world.cut[two][one]) = ([cut; LINKS], [cut; LINKS]);
        }
        Fault::OneWay(one, two, cut) => world.cut[one][two] = [cut; LINKS],
        Fault::Isolate(node, cut) => {
            let node = who(node);
            world.isolated[node] = cut;
            for other in 0..voters {
                (world.cut[node][other], world.cut[other][node]) = ([cut; LINKS], [cut; LINKS]);
                if other != node && node < 2 {
                    world.service_cut[other][node] = cut;
                }
                if node != other && other < 2 {
                    world.service_cut[node][other] = cut;
                }
            }
        }
        Fault::ServiceCut(observer, node, cut) => {
            if observer != node {
                world.service_cut[observer][node] = cut;
            }
        }
        Fault::Loss(loss) => world.loss = loss,
        Fault::Doubles(doubles) => world.doubles = doubles,
        Fault::Freeze(node, span) if node >= 10 => {
            if Some(node - 10) != active {
                world.freeze(node - 10, span);
            }
        }
        Fault::Freeze(node, span) => world.freeze(node, span),
        Fault::Crash(node, span) => {
            let node = who(node);
            world.power_off(node);
            world.after(span, Event::Boot(node));
        }
        Fault::LoseJournal(node, span) => {
            world.power_off(node);
            world.nodes[node].journal = None;
            world.after(span, Event::Boot(node));
        }
        Fault::Dies(node) => {
            let node = who(node);
            if world.nodes[node].running {
                world.nodes[node].running = false;
                world.input(node, Input::ResourceExited);
            }
        }
        Fault::Hangs(node) => world.nodes[who(node)].healthy = false,
        Fault::StopFails(node, fails) => world.nodes[node].stop_fails = fails,
        Fault::Device(node, device) => world.nodes[node].device = device,
        Fault::OwnProbe(node, broken) => world.nodes[who(node)].own_probe_broken = broken,
        Fault::Replicates(on) => world.replicates = on,
        Fault::Disk(node, fails) => world.nodes[node].disk_fails = fails,
        Fault::StaysOff(node) => {
            let node = who(node);
            world.power_off(node);
            world.nodes[node].stays_off = true;
        }
        Fault::StartFails(node, fails) => world.nodes[node].start_fails = fails,
        Fault::Order(node, order) => world.order(who(node), order),
    }
}

fn heal(world: &mut World) {
    world.cut = [[[false; LINKS]; NODES]; NODES];
    world.service_cut = [[false; NODES]; NODES];
    world.isolated = [false; NODES];
    (world.loss, world.doubles, world.replicates, world.commits, world.healed) = (0, 0, true, true, true);
    (world.audit.quiet_from, world.audit.still_from, world.audit.never) = (None, None, None);
    for node in 0..world.nodes.len() {
        let it = &mut world.nodes[node];
        (it.healthy, it.stop_fails, it.own_probe_broken, it.disk_fails) = (true, false, false, false);
        (it.stays_off, it.start_fails, it.device) = (false, false, Device::Works);
        if it.machine.is_none() {
            world.boot(node);
        }
        world.order(node, Order::Maintenance(false));
        world.order(node, Order::Online);
    }
}

pub fn run(world: &mut World, plan: &[(Us, Fault)], until: Us) {
    world.run(until, &mut |world, n| apply(world, plan[n].1));
}

/// Whether one member, and only one, acknowledges; and goes on doing so.
fn settles(world: &mut World, plan: &[(Us, Fault)], bound: Us) -> Option<Us> {
    let begin = world.now;
    let mut since = None;
    while world.now < begin + bound && world.audit.broken.is_none() {
        let next = world.now + 100 * MS;
        run(world, plan, next);
        match (world.active().as_slice(), since) {
            ([node], None) => since = Some((*node, world.now)),
            ([node], Some((before, at))) if *node == before => {
                if world.now >= at + 1_200 * MS {
                    return Some(at - begin);
                }
            }
            _ => since = None,
        }
    }
    None
}

fn judge(world: &mut World, kind: Kind, plan: &[(Us, Fault)], chance: &mut Chance) {
    if kind == Kind::NewPair {
        orders::new_pair(world, chance);
        heal_and_settle(world, plan);
        return;
    }
    if kind == Kind::Observed && world.terms.observe == 3 {
        orders::nothing_is_done(world);
        return;
    }
    world.boot_all();
    for (n, (at, _)) in plan.iter().enumerate() {
        world.at(*at, Event::Fault(n));
    }
    run(world, plan, BEGIN - 100 * MS);
    if world.active().len() != 1 {
        world.audit.fail(world.now, "nobody serves after the first start");
        return;
    }
    let first = world.active()[0];
    world.frozen_lose = kind == Kind::Stall;
    if matches!(kind, Kind::Mild | Kind::PairCut | Kind::Stall) {
        world.audit.quiet_from = Some(world.now);
    }
    let bids = world.audit.bids;
    if kind == Kind::Maintained {
        orders::maintenance(world, chance);
    }
    let end = if matches!(kind, Kind::Flap | Kind::CrashLoop) { HEAL + 6 * SECOND } else { HEAL };
    if !kind.is_played() {
        run(world, plan, end);
    }
    if world.audit.broken.is_some() {
        return;
    }
    expect(world, kind, first, bids);
    orders::play(world, kind, first, chance);
    if matches!(kind, Kind::SlowShot | Kind::ForgottenShot) {
        slow_shot(world, kind, first, chance);
    }
    heal_and_settle(world, plan);
}

fn heal_and_settle(world: &mut World, plan: &[(Us, Fault)]) {
    if world.audit.broken.is_some() {
        return;
    }
    heal(world);
    if settles(world, plan, 25 * SECOND).is_none() {
        world.audit.fail(world.now, format!("no active 25 s after the last fault; views {:?}", world.audit.views));
    }
}

/// What the kind of plan promises beside the invariants.
fn expect(world: &mut World, kind: Kind, first: usize, bids: usize) {
    let now = world.now;
    let lossless = world.loss == 0;
    let other = 1 - first;
    let refusal = match world.audit.views[other].map(|view| view.phase) {
        Some(Phase::Refused(refusal)) => Some(refusal),
        _ => None,
    };
    let later: Vec<_> = world.audit.taken.iter().filter(|taken| taken.at > BEGIN - 100 * MS).copied().collect();
    match kind {
        Kind::Mild | Kind::Stall => {
            if world.active() != [first] {
                world.audit.fail(now, "the active does not serve, without any need");
            }
            if lossless && world.audit.bids != bids {
                world.audit.fail(now, "a member bids, without any need");
            }
        }
        Kind::PairCut if world.active() != [first] => {
            world.audit.fail(now, "a cut between the members alone cost the service");
        }
        Kind::Doomed => {
            if let Some(taken) = later.first() {
                world.audit.fail(now, format!("took over by {:?} where nothing is a proof", taken.proof));
            } else if refusal.is_none() {
                world.audit.fail(now, "it refuses without saying so");
            } else if refusal != Some(Refusal::NoProof) && refusal != Some(Refusal::Behind) {
                world.audit.fail(now, format!("it refuses for {refusal:?}"));
            }
        }
        Kind::Behind => {
            if !later.is_empty() {
                world.audit.fail(now, "promoted though it lacks transactions");
            } else if refusal != Some(Refusal::Behind) {
                world.audit.fail(now, format!("it should refuse because it is behind, not {refusal:?}"));
            }
        }
        Kind::Flap | Kind::CrashLoop => {
            let mut changes = 0;
            let mut last = None;
            for taken in &world.audit.taken {
                changes += usize::from(last.is_some_and(|last| last != taken.node));
                last = Some(taken.node);
            }
            if changes > 3 {
                world.audit.fail(now, format!("{changes} takeovers where 3 an hour are the most"));
            }
        }
        Kind::Drift | Kind::VoterRestart if later.iter().any(|taken| taken.proof == ProofKind::Fence) => {
            world.audit.fail(now, "there is no fence");
        }
        _ => {}
    }
}

/// How long, in milliseconds, nobody acknowledges after the faults, all at one moment.
pub fn outage(seed: u64, faults: &[Fault]) -> u64 {
    let mut world = World::new(seed, Terms::default(), None);
    world.boot_all();
    let at = BEGIN + Chance::new(seed).range(0, 200 * MS);
    world.run(at, &mut |_, _| {});
    assert_eq!(world.active().len(), 1, "somebody serves");
    for fault in faults {
        apply(&mut world, *fault);
    }
    let mut away = 0;
    while world.now < at + 5 * SECOND {
        let next = world.now + MS;
        world.run(next, &mut |_, _| {});
        if world.active().is_empty() {
            away = (world.now - at) / MS;
        }
        assert_eq!(world.audit.broken, None, "seed {seed}");
    }
    away
}

/// The standby shoots with a device that takes its time, and takes the role meanwhile, for the active stood still. That one hears
/// nothing of the other when it is back, and would like to shoot as well, or to serve.
fn slow_shot(world: &mut World, kind: Kind, active: usize, chance: &mut Chance) {
    let (standby, began) = (1 - active, world.now);
    for fault in [
        Fault::Device(0, Device::Slow),
        Fault::Device(1, Device::Slow),
        Fault::Pair(0, 1, true),
        Fault::ServiceCut(2, standby, true),
        Fault::StartFails(standby, kind == Kind::SlowShot),
        Fault::Freeze(active, 600 * MS),
    ] {
        apply(world, fault);
    }
    if kind == Kind::ForgottenShot {
        run(world, &[], began + chance.pick(&[520, 560, 600]) * MS);
        apply(world, Fault::LoseJournal(2, 10 * MS));
    }
    run(world, &[], began + 3 * SECOND);
    for (victim, by, at) in world.audit.hits.clone() {
        let serves = |taken: &Taken| taken.node == victim && taken.at > began && taken.at < at;
        if world.audit.taken.iter().any(serves) {
            world.audit.fail(at, format!("{by} had given the role up, and shot {victim}, which took it"));
        }
    }
}
