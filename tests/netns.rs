//! The pair in network namespaces: real sockets, real ARP, real ZEO servers, real faults. Two storage members with two links, a
//! witness that is an edge, a client; all made and removed by the test. Needs root; says so loudly when it cannot run, and fails
//! then if `TIDEGATE_NETNS=required`.
//!
//! `TIDEGATE_NETNS_TIMES=fast` takes the fast profile (dead after half a second) for figures on a quiet machine.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tidegate::heartbeat::address::Address;
use tidegate::heartbeat::address::Mode;
use tidegate::heartbeat::address::Placed;

use self::endurance::Lost;
use self::fabric::Fabric;
use self::fabric::Family;
use self::world::World;

#[path = "netns/endurance.rs"]
mod endurance;
#[path = "netns/fabric.rs"]
mod fabric;
#[path = "netns/faults.rs"]
mod faults;
#[path = "netns/scenarios.rs"]
mod scenarios;
#[path = "netns/site.rs"]
mod site;
#[path = "netns/watch.rs"]
mod watch;
#[path = "netns/world.rs"]
mod world;

#[expect(dead_code, reason = "the real site uses more of it")]
#[path = "zope/harness.rs"]
mod harness;

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(40);

/// Whether it can run here; if not, that is said loudly.
fn can_run(what: &str, why_not: Option<String>) -> bool {
    let Some(why) = why_not else { return true };
    assert!(std::env::var("TIDEGATE_NETNS").as_deref() != Ok("required"), "{why}");
    eprintln!("\n*** NOT RUN: {what}: {why} ***\n");
    false
}

fn goes_through(family: Family, scenarios: fn(&mut World) -> anyhow::Result<()>) {
    if !can_run("the pair in network namespaces", fabric::cannot_run()) {
        return;
    }
    let mut world = World::build(family).expect("the namespaces and their nodes");
    if let Err(error) = scenarios(&mut world) {
        panic!("{error:#}\n{}", world.logs());
    }
}

#[test]
fn one_member_serves_whatever_happens_and_never_two() {
    goes_through(Family::V4, scenarios::all);
}

#[test]
fn service_addresses_of_both_families_move_as_one() {
    goes_through(Family::Both, scenarios::over_both);
}

#[test]
fn a_service_address_that_cannot_be_put_up_takes_the_others_with_it() {
    if !can_run("addresses in network namespaces", fabric::cannot_run()) {
        return;
    }
    let fabric = Fabric::weave().expect("namespaces");
    let placed =
        |(address, device): (&str, &str)| Placed { address: address.parse().unwrap(), device: device.to_owned() };
    let good = [("10.77.0.20/24", "eth0"), ("fd77::20/64", "eth0"), ("10.77.1.20/24", "eth1")];
    let bad = [good[0], good[1], ("10.77.1.20/24", "eth7")];
    let [good, bad] = [good, bad].map(|places| places.map(placed).to_vec());
    let told = watch::run_within(&fabric.namespace("a"), move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let up = |places: &[Placed]| places.iter().filter(|at| UdpSocket::bind((at.address.addr(), 0)).is_ok()).count();
        let mut told = Vec::new();
        for places in [good, bad] {
            let mut address = Address::new(Mode::Ip(places.clone()), Arc::default(), Arc::default());
            let raised = runtime.block_on(address.up()).map_err(|error| error.to_string());
            told.push((raised, up(&places), runtime.block_on(address.down()).is_ok(), up(&places)));
        }
        Ok(told)
    });
    let why = "put up 10.77.1.20/24 on eth7".to_owned();
    assert_eq!(told.expect("a namespace"), [(Ok(()), 3, true, 0), (Err(why), 0, false, 0)]);
}

fn endures(what: &str, why_not: Option<String>, test: impl FnOnce(&World) -> anyhow::Result<String>) {
    if !can_run(what, fabric::cannot_run().or(why_not)) {
        return;
    }
    let world = endurance::begin().expect("a pair that serves");
    match test(&world) {
        Ok(told) => eprintln!("{told}"),
        Err(error) => panic!("{error:#}\n{}", world.logs()),
    }
}

fn lose(what: Lost, time: Duration) {
    let test = |world: &World| endurance::every_fifth_is_lost(world, what, time);
    endures("lost packets", endurance::no_loss_here(), test);
}

#[test]
fn a_fifth_of_the_heartbeats_lost_moves_nothing() {
    lose(Lost::Heartbeats, Duration::from_secs(20));
}

#[test]
fn a_fifth_of_everything_lost_moves_nothing() {
    lose(Lost::Everything, Duration::from_secs(20));
}

/// `cargo test --test netns -- --ignored --nocapture five_minutes`
#[test]
#[ignore = "takes five minutes"]
fn a_fifth_of_the_heartbeats_lost_for_five_minutes_moves_nothing() {
    lose(Lost::Heartbeats, Duration::from_secs(300));
}

#[test]
#[ignore = "takes five minutes"]
fn a_fifth_of_everything_lost_for_five_minutes_moves_nothing() {
    lose(Lost::Everything, Duration::from_secs(300));
}

#[test]
fn fifty_freezes_move_nothing() {
    endures("freezes", None, |world| endurance::nodes_freeze(world, 50));
}

/// `cargo test --test netns -- --ignored --nocapture thousand`
#[test]
#[ignore = "takes eight minutes"]
fn a_thousand_freezes_move_nothing() {
    endures("freezes", None, |world| endurance::nodes_freeze(world, 1_000));
}
