//! The pair's machine, simulated: whole clusters in one thread and in virtual time, seeded.
//!
//! `HEARTBEAT_SEED=n` replays one seed (with `HEARTBEAT_TRACE=1` it tells everything), `HEARTBEAT_SEEDS=n` plays more,
//! `HEARTBEAT_KIND=Name` plays one kind of plan only.

#[path = "heartbeat/audit.rs"]
mod audit;
#[path = "heartbeat/chance.rs"]
mod chance;
#[path = "heartbeat/orders.rs"]
mod orders;
#[path = "heartbeat/plan.rs"]
mod plan;
#[path = "heartbeat/real.rs"]
mod real;
#[path = "heartbeat/world.rs"]
mod world;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use tidegate::heartbeat::machine::faults::Rule;

use self::plan::Fault;
use self::plan::Kind;
use self::plan::play;
use self::plan::play_kind;
use self::world::Device;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_seed_keeps_the_invariants_and_comes_to_one_active() {
    if let Some(seed) = number("HEARTBEAT_SEED") {
        let outcome = play(seed, None);
        assert_eq!(outcome.broken, None, "HEARTBEAT_SEED={seed} {:?}", outcome.kind);
        return;
    }
    let seeds = number("HEARTBEAT_SEEDS").unwrap_or(10_000);
    let began = Instant::now();
    let (next, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || broken.lock().expect("a list").len() >= 10 {
                        break;
                    }
                    let outcome = play(seed, None);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    if let Some(what) = outcome.broken {
                        broken
                            .lock()
                            .expect("a list")
                            .push(format!("HEARTBEAT_SEED={seed} {:?}: {what}", outcome.kind));
                    }
                }
            });
        }
    });
    let events = events.load(Ordering::Relaxed);
    eprintln!("{seeds} seeds, {events} events in {:?}", began.elapsed());
    let broken = broken.into_inner().expect("a list");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Which plans notice which rule, were it dropped.
const PLANTED: [(Rule, Kind); 36] = [
    (Rule::OneVotePerEpoch, Kind::Duel),
    (Rule::SaveBeforeAnswer, Kind::Duel),
    (Rule::MajorityOfConfigured, Kind::Swarm),
    (Rule::LeaseFromBeforeSend, Kind::SlowWire),
    (Rule::VoterCountsLonger, Kind::Drift),
    (Rule::Veto, Kind::PairCut),
    (Rule::SilentOnAllLinks, Kind::Mild),
    (Rule::StallDiscards, Kind::Stall),
    (Rule::SelfFence, Kind::SlowWire),
    (Rule::FenceVerified, Kind::Doomed),
    (Rule::PermitBeforeFence, Kind::LanCut),
    (Rule::OnePermit, Kind::Duel),
    (Rule::LeaseNeedsArmed, Kind::Doomed),
    (Rule::WaitForLease, Kind::Drift),
    (Rule::PromotionGuard, Kind::Behind),
    (Rule::StandbyAfterBoot, Kind::Swarm),
    (Rule::LostJournalAbstains, Kind::JournalLost),
    (Rule::VoteEndsLease, Kind::LanCut),
    (Rule::TwoObservers, Kind::Mild),
    (Rule::TakeoverLimit, Kind::Flap),
    (Rule::StopMustSucceed, Kind::StopFails),
    (Rule::ReleaseAfterStop, Kind::StopFails),
    (Rule::RestartedVoterWaits, Kind::VoterRestart),
    (Rule::NoFailback, Kind::Mild),
    (Rule::RefusalHasAlarm, Kind::Doomed),
    (Rule::OrderEnds, Kind::Forced),
    (Rule::HeirIsReady, Kind::Switchover),
    (Rule::MaintenanceHolds, Kind::Maintained),
    (Rule::MaintenanceUnleases, Kind::Maintained),
    (Rule::StandbyStays, Kind::OnStandby),
    (Rule::ObserveOnly, Kind::Observed),
    (Rule::ForecastAsks, Kind::Foretold),
    (Rule::TakeoversLast, Kind::CrashLoop),
    (Rule::StandbyLasts, Kind::OnStandby),
    (Rule::ShotsEndFirst, Kind::SlowShot),
    (Rule::ForgottenShotBinds, Kind::ForgottenShot),
];

#[test]
fn every_rule_that_is_dropped_is_noticed() {
    assert_eq!(PLANTED.map(|(rule, _)| rule), Rule::ALL, "one row for each rule, in their order");
    let seeds = number("HEARTBEAT_PLANTED").unwrap_or(60);
    let mut unnoticed = Vec::new();
    let only = std::env::var("HEARTBEAT_RULE").ok();
    for (rule, kind) in PLANTED {
        if only.as_ref().is_some_and(|only| *only != format!("{rule:?}")) {
            continue;
        }
        let found = (0..seeds).find_map(|seed| Some((seed, play_kind(seed, kind, Some(rule)).broken?)));
        match found {
            Some((seed, what)) => eprintln!("{rule:?}: {kind:?} seed {seed}: {what}"),
            None => unnoticed.push((rule, kind)),
        }
    }
    assert!(unnoticed.is_empty(), "dropped, and nobody noticed: {unnoticed:?}");
}

/// How often somebody shoots in so many plans of a kind, none of which breaks an invariant.
fn shots(kind: Kind, seeds: u64) -> usize {
    let play = |seed| {
        let outcome = play_kind(seed, kind, None);
        assert_eq!(outcome.broken, None, "{kind:?} seed {seed}");
        outcome.shots
    };
    (0..seeds).map(play).sum()
}

#[test]
fn nobody_shoots_who_is_being_shot_though_the_vote_for_it_was_forgotten() {
    assert!(shots(Kind::ForgottenShot, 60) > 20, "somebody shoots");
}

#[test]
fn who_gives_up_what_it_took_while_it_shot_says_so_when_the_shot_is_over() {
    assert!(shots(Kind::SlowShot, 40) > 20, "somebody shoots");
}

/// What is lost, and how long the service may be away for it, its own start time included (virtual time).
const FIGURES: [(&str, &[Fault], u64); 8] = [
    ("power-off, fence answers in 0.2 s", &[Fault::StaysOff(9)], 1_000),
    (
        "power-off, fence unreachable",
        &[Fault::Device(0, Device::Unreachable), Fault::Device(1, Device::Unreachable), Fault::StaysOff(9)],
        1_500,
    ),
    (
        "the same, and a witness is started anew",
        &[
            Fault::Device(0, Device::Unreachable),
            Fault::Device(1, Device::Unreachable),
            Fault::Crash(2, 100_000),
            Fault::StaysOff(9),
        ],
        1_000,
    ),
    ("service killed", &[Fault::Dies(9)], 400),
    ("service frozen", &[Fault::Hangs(9)], 1_000),
    ("active isolated, fence answers", &[Fault::Isolate(9, true)], 1_000),
    (
        "active isolated, fence unreachable",
        &[Fault::Device(0, Device::Unreachable), Fault::Device(1, Device::Unreachable), Fault::Isolate(9, true)],
        1_000,
    ),
    ("only the pair's link cut", &[Fault::Pair(0, 1, true)], 0),
];

#[test]
fn takeovers_are_as_fast_as_promised() {
    for (what, faults, promised) in FIGURES {
        let mut away: Vec<u64> = (0..60).map(|seed| plan::outage(seed, faults)).collect();
        away.sort_unstable();
        let (least, median, most) = (away[0], away[30], away[59]);
        eprintln!("{what:>40}: {least} / {median} / {most} ms away (least / median / most of 60), promised {promised}");
        assert!(most <= promised, "{what}: {most} ms");
    }
}
