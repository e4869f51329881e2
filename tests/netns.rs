//! The pair in network namespaces: real sockets, real ARP, real ZEO servers, real faults. Two storage members with two links, a
//! witness that is an edge, a client; all made and removed by the test. Needs root; says so loudly when it cannot run, and fails
//! then if `TIDEGATE_NETNS=required`.
//!
//! `TIDEGATE_NETNS_TIMES=fast` takes the fast profile (dead after half a second) for figures on a quiet machine.

use std::time::Duration;

use self::world::World;

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

#[test]
fn one_member_serves_whatever_happens_and_never_two() {
    if let Some(why) = fabric::cannot_run() {
        assert!(std::env::var("TIDEGATE_NETNS").as_deref() != Ok("required"), "{why}");
        eprintln!("\n*** NOT RUN: the pair in network namespaces: {why} ***\n");
        return;
    }
    let mut world = World::build().expect("the namespaces and their nodes");
    if let Err(error) = scenarios::all(&mut world) {
        panic!("{error:#}\n{}", world.logs());
    }
}
