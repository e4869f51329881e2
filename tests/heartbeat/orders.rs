//! An operator at work: orders in a healthy pair and in a sick one, what they promise, and what is foretold.

use tidegate::heartbeat::machine::Forecast;
use tidegate::heartbeat::machine::Loss;
use tidegate::heartbeat::machine::NodeId;
use tidegate::heartbeat::machine::Order;
use tidegate::heartbeat::machine::Outcome;
use tidegate::heartbeat::machine::Phase;
use tidegate::heartbeat::machine::ProofKind;
use tidegate::heartbeat::machine::Refusal;

use super::chance::Chance;
use super::plan::Fault;
use super::plan::Kind;
use super::plan::apply;
use super::plan::run;
use super::world::Device;
use super::world::MS;
use super::world::SECOND;
use super::world::Terms;
use super::world::Us;
use super::world::World;
use super::world::micros;

pub fn terms(kind: Kind, base: Terms, chance: &mut Chance) -> Terms {
    let witnesses = chance.pick(&[1, 1, 3]);
    match kind {
        Kind::Maintained => Terms { probes: chance.often(700), fence: chance.often(700), gated: true, ..base },
        Kind::Observed => Terms { observe: u8::try_from(chance.range(1, 4)).expect("small"), ..base },
        Kind::Forced => Terms { dead: 300 * MS, fence: chance.often(500), armed: false, ..base },
        Kind::Foretold => {
            let armed = chance.often(600);
            let fence = chance.often(600);
            Terms {
                witnesses: chance.pick(&[0, 1, 1, 1, 3]),
                armed,
                fence,
                probes: chance.often(800),
                dead: chance.pick(&[300, 500]) * MS,
                takeovers_max: chance.pick(&[1, 1000, 1000, 1000]),
                observe: if chance.often(100) { 2 } else { 0 },
                ..base
            }
        }
        Kind::Switchover | Kind::OnStandby => Terms { witnesses, probes: chance.often(700), ..base },
        _ => base,
    }
}

/// What the kinds of plans with an operator in them do and promise, once a member serves.
pub fn play(world: &mut World, kind: Kind, first: usize, chance: &mut Chance) {
    match kind {
        Kind::Switchover => to_and_fro(world, chance),
        Kind::OnStandby => on_standby(world, 1 - first, chance),
        Kind::Observed => observed(world, chance),
        Kind::Forced => forced(world, first, chance),
        Kind::Foretold => foretold(world, first, chance),
        _ => {}
    }
}

/// Each order ends with the other member active, or with the old one again and a stated reason; and soon.
fn to_and_fro(world: &mut World, chance: &mut Chance) {
    for _ in 0..4 {
        let [active] = world.active()[..] else {
            return world.audit.fail(world.now, "nobody serves, and all is well");
        };
        let (heir, began) = (1 - active, world.now);
        let (unfollowed, refused) = (world.audit.unfollowed.len(), world.audit.refused.len());
        // Ready, not able to start, or not ready.
        let bad = chance.range(0, 4);
        match bad {
            0 => apply(world, Fault::StartFails(heir, true)),
            1 => world.order(heir, Order::Standby),
            _ => {}
        }
        // The other member hears of it.
        pass(world, 300 * MS);
        if chance.often(200) {
            world.order(heir, Order::Switchover);
            let told = world.audit.unfollowed.last().copied();
            if told != Some((heir, Order::Switchover, Refusal::NotActive)) {
                world
                    .audit
                    .fail(world.now, format!("who does not serve was ordered to give the role, and says {told:?}"));
            }
        }
        world.order(active, Order::Switchover);
        let told = world.audit.unfollowed.get(unfollowed..).unwrap_or_default().last().copied();
        let told = told.filter(|(node, ..)| *node == active);
        let yields =
            world.nodes[heir].machine.as_ref().and_then(|heir| heir.status(world.local(active, world.now)).ready.err());
        match (bad, told) {
            (1, Some((_, _, Refusal::Standby))) | (0 | 2.., None) => {}
            (_, told) => world.audit.fail(world.now, format!("switchover ({bad}, {yields:?}) answered with {told:?}")),
        }
        let longest = if bad == 0 { 3 * SECOND } else { 1_500 * MS };
        let due = world.now + longest;
        let wanted = if bad > 1 { heir } else { active };
        pass(world, if bad == 0 { 400 * MS } else { 0 });
        while world.active() != [wanted] && world.now < due && world.audit.broken.is_none() {
            pass(world, 10 * MS);
        }
        if world.active() != [wanted] {
            let views = world.audit.views;
            world.audit.fail(
                world.now,
                format!("node {wanted} does not serve {longest} us after a switchover ({bad}); {views:?}"),
            );
        }
        let said = world.audit.refused.get(refused..).unwrap_or_default();
        if bad == 0 && !said.contains(&(heir, Refusal::StartFailed)) {
            world.audit.fail(world.now, "the role came back, and nobody says why");
        }
        apply(world, Fault::StartFails(heir, false));
        // It forgets that it gave the role up, or could not start.
        (0..2).for_each(|node| world.order(node, Order::Online));
        pass(world, 500 * MS);
        if world.audit.broken.is_some() || world.now > began + 20 * SECOND {
            return;
        }
    }
}

/// Nothing happens by itself from now on, and what runs goes on.
pub fn maintenance(world: &mut World, chance: &mut Chance) {
    let node = usize::try_from(chance.range(0, 3)).expect("small");
    world.order(node, Order::Maintenance(true));
    pass(world, SECOND);
    (world.audit.quiet_from, world.audit.still_from) = (Some(world.now), Some(world.now));
    if let [active] = world.active()[..] {
        let before = world.audit.unfollowed.len();
        world.order(active, Order::Switchover);
        let told = world.audit.unfollowed.get(before).copied();
        if told != Some((active, Order::Switchover, Refusal::Maintenance)) {
            world.audit.fail(world.now, format!("a switchover in maintenance is answered with {told:?}"));
        }
    } else {
        world.audit.fail(world.now, "maintenance cost the service");
    }
}

/// Who is on standby does not take the role, whatever becomes of the other, of itself, and of its program.
fn on_standby(world: &mut World, node: usize, chance: &mut Chance) {
    world.order(node, Order::Standby);
    world.audit.never = Some(node);
    pass(world, 100 * MS);
    if chance.often(500) {
        apply(world, Fault::Crash(node, chance.range(10, 300) * MS));
        pass(world, SECOND);
    }
    let fault = chance.pick(&[Fault::StaysOff(9), Fault::Isolate(9, true), Fault::Hangs(9), Fault::Dies(9)]);
    apply(world, fault);
    pass(world, 3 * SECOND);
    let gone = matches!(fault, Fault::StaysOff(_) | Fault::Isolate(..));
    let told = world.audit.views[node].map(|view| view.phase);
    if gone && told != Some(Phase::Refused(Refusal::Standby)) {
        world.audit.fail(world.now, format!("it is on standby and nobody serves, and it says {told:?}"));
    }
    world.audit.never = None;
    world.order(node, Order::Online);
    pass(world, 4 * SECOND);
    if gone && world.active() != [node] {
        let views = world.audit.views;
        world.audit.fail(world.now, format!("it may serve again and does not; {views:?}"));
    }
}

/// One member only observes: the other serves, and has no heir.
fn observed(world: &mut World, chance: &mut Chance) {
    let node = usize::from(world.terms.observe == 2);
    world.audit.never = Some(node);
    let fault = chance.pick(&[Fault::StaysOff(9), Fault::Isolate(9, true)]);
    apply(world, fault);
    pass(world, 4 * SECOND);
    let told = world.audit.views[node].map(|view| view.phase);
    if told != Some(Phase::Refused(Refusal::Observing)) || world.audit.would == 0 {
        world.audit.fail(world.now, format!("it observes that nobody serves, and says {told:?}"));
    }
    // It will go on observing.
    world.audit.never = None;
}

/// Both only observe: nothing is done, and it is said what would be.
pub fn nothing_is_done(world: &mut World) {
    (world.audit.quiet_from, world.audit.still_from) = (Some(0), Some(0));
    world.boot_all();
    pass(world, 6 * SECOND);
    let observing = Some(Phase::Refused(Refusal::Observing));
    let told = world.audit.views[0].map(|view| view.phase);
    if told != observing || world.audit.would == 0 {
        world.audit.fail(world.now, format!("both observe and nobody serves, and it is said {told:?}"));
    }
}

/// The operator's word, where nothing else is a proof; and where it is wrong.
fn forced(world: &mut World, first: usize, chance: &mut Chance) {
    let heir = 1 - first;
    let device = chance.pick(&[Device::Refuses, Device::Unreachable]);
    (0..2).for_each(|node| apply(world, Fault::Device(node, device)));
    match chance.range(0, 4) {
        // Everybody hears the active.
        0 => {
            world.audit.quiet_from = Some(world.now);
            world.order(heir, Order::ForceTakeover);
            expect_unfollowed(world, heir, Refusal::PeerServes);
            pass(world, 3 * SECOND);
        }
        // A witness hears it, the operator and his member do not.
        1 => {
            world.audit.quiet_from = Some(world.now);
            apply(world, Fault::Pair(0, 1, true));
            pass(world, 2 * SECOND);
            world.order(heir, Order::ForceTakeover);
            pass(world, 4 * SECOND);
            expect_unfollowed(world, heir, Refusal::Vetoed);
        }
        // It is off, and the witness may be too.
        2 => {
            apply(world, Fault::StaysOff(first));
            if chance.often(500) {
                apply(world, Fault::StaysOff(2));
            }
            pass(world, 3 * SECOND);
            if world.active() == [heir] {
                return world.audit.fail(world.now, "it needs no order, where nothing is a proof");
            }
            world.order(heir, Order::ForceTakeover);
            pass(world, 4 * SECOND);
            if world.active() != [heir] {
                let views = world.audit.views;
                world.audit.fail(world.now, format!("an operator's word was not taken; {views:?}"));
            }
        }
        // It is off, but the witness cannot vote; when it can, the operator's word is old.
        _ => {
            apply(world, Fault::StaysOff(first));
            apply(world, Fault::LoseJournal(2, 20 * MS));
            pass(world, 2 * SECOND);
            world.order(heir, Order::ForceTakeover);
            pass(world, 4 * SECOND);
            expect_unfollowed(world, heir, Refusal::Denied);
            world.order(2, Order::TrustJournal);
            pass(world, 3 * SECOND);
        }
    }
    world.audit.quiet_from = None;
}

fn expect_unfollowed(world: &mut World, node: usize, why: Refusal) {
    let told = world.audit.unfollowed.last().copied();
    if told != Some((node, Order::ForceTakeover, why)) {
        world
            .audit
            .fail(world.now, format!("a forced takeover should be refused for {why:?}, and is answered with {told:?}"));
    }
}

/// A new pair waits for all its voters, unless an operator says that it is new.
pub fn new_pair(world: &mut World, chance: &mut Chance) {
    let missing = usize::try_from(chance.range(0, 3)).expect("small");
    world.nodes[missing].stays_off = true;
    world.boot_all();
    pass(world, 4 * SECOND);
    if !world.active().is_empty() {
        return world.audit.fail(world.now, "a pair whose journals are lost takes the role without all its voters");
    }
    let told = world.audit.views[usize::from(missing == 0)].map(|view| view.phase);
    if told != Some(Phase::Refused(Refusal::JournalLost)) {
        world.audit.fail(world.now, format!("it waits for its voters and says {told:?}"));
    }
    for node in (0..3).filter(|node| *node != missing) {
        world.order(node, Order::TrustJournal);
    }
    pass(world, 5 * SECOND);
    // The third voter may have the last word on who stopped; without it only a member that never served is vacant.
    if world.active().len() != 1 {
        let views = world.audit.views;
        world.audit.fail(world.now, format!("a new pair without node {missing} does not serve; {views:?}"));
    }
}

/// Whatever was foretold for a loss at this moment comes of it.
fn foretold(world: &mut World, first: usize, chance: &mut Chance) {
    let first = if world.terms.takeovers_max == 1 {
        // The only takeover of this hour is over.
        world.order(first, Order::Switchover);
        pass(world, 3 * SECOND);
        (0..2).for_each(|node| world.order(node, Order::Online));
        1 - first
    } else {
        first
    };
    let (heir, voters) = (1 - first, world.nodes.len());
    if world.active() != [first] {
        return;
    }
    let mut hidden = false;
    for _ in 0..chance.range(0, 3) {
        match chance.range(0, 7) {
            0 if voters > 2 => apply(world, Fault::StaysOff(2)),
            1 if chance.often(300) => apply(world, Fault::StaysOff(heir)),
            2 if voters > 2 => {
                hidden = true;
                apply(world, Fault::Pair(0, 1, true));
            }
            3 => {
                apply(world, Fault::Replicates(false));
                pass(world, 200 * MS);
            }
            4 => world.order(heir, Order::Standby),
            5 => world.order(heir, Order::Maintenance(true)),
            _ => {}
        }
    }
    pass(world, 3 * SECOND);
    // What is under way to the copy arrives.
    world.commits = false;
    pass(world, 300 * MS);
    if world.active() != [first] || world.audit.broken.is_some() {
        return;
    }
    let member = |node: usize| NodeId(u8::try_from(node).expect("small"));
    let loss = match chance.range(0, 8) {
        0 if voters > 2 => Loss { killed: vec![member(2)], cut: Vec::new() },
        1 => Loss { killed: vec![member(heir)], cut: Vec::new() },
        2 if voters > 2 => Loss { killed: Vec::new(), cut: vec![(member(0), member(1))] },
        _ => Loss { killed: vec![member(first)], cut: Vec::new() },
    };
    let told: Vec<(usize, Forecast)> = (0..voters)
        // Who does not hear the heir cannot know what it would do.
        .filter(|node| !hidden || *node == heir)
        .filter_map(|node| Some((node, world.nodes[node].machine.as_ref()?.forecast(&loss))))
        .collect();
    let (at, taken) = (world.now, world.audit.taken.len());
    loss.killed.iter().for_each(|node| apply(world, Fault::StaysOff(usize::from(node.0))));
    loss.cut.iter().for_each(|(one, other)| apply(world, Fault::Pair(usize::from(one.0), usize::from(other.0), true)));
    let mut serves = None;
    while world.now < at + 6 * SECOND && world.audit.broken.is_none() {
        pass(world, 20 * MS);
        if serves.is_none() && world.active() == [heir] {
            serves = Some(world.now - at);
        }
    }
    let proof = world.audit.taken.get(taken).map(|taken| taken.proof);
    for (node, forecast) in told {
        if let Err(why) = comes_true(world, &forecast, heir, serves, proof) {
            let views = world.audit.views;
            let what = format!("node {node} foretold for {loss:?}: {forecast:?}, and {why}; {views:?}");
            world.audit.fail(world.now, what);
        }
    }
}

fn comes_true(
    world: &World,
    forecast: &Forecast,
    heir: usize,
    serves: Option<Us>,
    proof: Option<ProofKind>,
) -> Result<(), String> {
    let active = world.active();
    match &forecast.outcome {
        Outcome::Stays(node) => {
            let stays = active == [usize::from(node.0)] && proof.is_none();
            if stays { Ok(()) } else { Err(format!("{active:?} serve, by {proof:?}")) }
        }
        Outcome::Takeover(node, proofs, within) => {
            let start = world.terms.start.1 * 5 / 4 + 300 * MS;
            let within = micros(*within) + start;
            match (serves, proof) {
                (None, _) | (_, None) => Err("nobody takes over".to_owned()),
                (Some(at), _) if at > within => Err(format!("it takes {at} us instead of {within}")),
                (_, Some(proof)) if !proofs.contains(&proof) => Err(format!("{proof:?} is the proof")),
                _ if usize::from(node.0) != heir => Err("it is not the heir".to_owned()),
                _ => Ok(()),
            }
        }
        Outcome::Refused(refusal) => {
            let told = world.nodes[heir].machine.as_ref().and(world.audit.views[heir]).map(|view| view.phase);
            match (proof, told) {
                (Some(proof), _) => Err(format!("it takes over by {proof:?}")),
                (None, Some(Phase::Refused(said))) if said != *refusal => Err(format!("it refuses for {said:?}")),
                (None, Some(Phase::Refused(_)) | None) => Ok(()),
                (None, Some(other)) => Err(format!("it says {other:?}")),
            }
        }
        Outcome::Nobody if active.is_empty() => Ok(()),
        Outcome::Nobody => Err(format!("{active:?} serve")),
    }
}

fn pass(world: &mut World, span: Us) {
    let until = world.now + span;
    run(world, &[], until);
}
