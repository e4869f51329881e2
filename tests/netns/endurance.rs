//! What must move nothing, however long it lasts: lost heartbeats, frozen nodes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use rustix::process::Signal;
use rustix::process::kill_process;

use super::fabric::Family;
use super::world::NODES;
use super::world::World;

/// A pair that serves.
pub fn begin() -> anyhow::Result<World> {
    let mut world = World::build(Family::V4)?;
    for node in NODES {
        world.start(node)?;
    }
    world.wait("one active, one standby", |world| {
        let roles = ["a", "b"].map(|node| world.role(node));
        roles.contains(&"active".to_owned()) && roles.contains(&"standby".to_owned())
    })?;
    Ok(world)
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Heartbeats.
    Heartbeats,
    /// Whatever comes by a cable, the questions to the storages and their answers too. (Not ARP: it is no matter of IP.)
    Everything,
}

/// Every fifth packet of this kind to each node is lost, on all links, for so long.
pub fn every_fifth_is_lost(world: &World, what: Lost, time: Duration) -> anyhow::Result<String> {
    let before = standing(world)?;
    let which = match what {
        Lost::Heartbeats => "-p udp --dport 694",
        Lost::Everything => "! -i lo",
    };
    for node in NODES {
        iptables(world, node, &format!("-A INPUT {which} -m statistic --mode random --probability 0.2 -j DROP"))?;
    }
    let until = Instant::now() + time;
    while Instant::now() < until {
        ensure!(standing(world)? == before, "from {before:?} to {:?}", standing(world)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut lost = 0;
    for node in NODES {
        let told = iptables(world, node, "-L INPUT -v -x -n")?;
        let rule = told.lines().find(|line| line.contains("DROP") && line.contains("statistic"));
        let count = rule.and_then(|rule| rule.split_whitespace().next()?.parse::<u64>().ok());
        lost += count.with_context(|| format!("no count in {told}"))?;
        iptables(world, node, "-F INPUT")?;
    }
    // Two members on two links and a witness on one: eight datagrams in each interval of a tenth of a second.
    let sent = 80 * time.as_secs();
    ensure!(lost > sent / 10, "only {lost} of about {sent} were lost");
    ensure!(standing(world)? == before, "from {before:?} to {:?}", standing(world)?);
    Ok(format!("{what:?}: {lost} lost in {time:?}, when there were {sent} heartbeats: no takeover"))
}

/// One node after the other stands still for up to half of `dead`, on a machine whose processors are all taken.
pub fn nodes_freeze(world: &World, count: u32) -> anyhow::Result<String> {
    let before = standing(world)?;
    let dead = world.status("a")?["timing_ms"]["dead"].as_u64().context("a time")?;
    let load = Load::begin();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut longest, mut total) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..count {
        let node = NODES[usize::try_from(chance.below(3))?];
        let time = Duration::from_millis(20 + chance.below(dead / 2 - 20));
        let pids = world.fabric.pids(node)?;
        let began = Instant::now();
        for pid in &pids {
            kill_process(*pid, Signal::STOP)?;
        }
        std::thread::sleep(time);
        for pid in &pids {
            kill_process(*pid, Signal::CONT)?;
        }
        let took = began.elapsed();
        (longest, total) = (longest.max(took), total + took);
        std::thread::sleep(Duration::from_millis(50 + chance.below(150)));
        ensure!(
            standing(world)? == before,
            "freeze {turn}, {node} for {took:?}: from {before:?} to {:?}",
            standing(world)?
        );
    }
    drop(load);
    ensure!(!world.was_shot("a") && !world.was_shot("b"), "somebody was shot");
    Ok(format!("{count} freezes, {total:.1?} in all, the longest {longest:.2?} of {dead} ms: no takeover"))
}

/// The epoch, and who is active in it.
fn standing(world: &World) -> anyhow::Result<(u64, String)> {
    // Any of them will do; one may be frozen just now, but not for long.
    let status = world.status("w")?;
    let epoch = status["pair"]["epoch"].as_u64().context("an epoch")?;
    Ok((epoch, status["pair"]["active"].as_str().unwrap_or("nobody").to_owned()))
}

fn iptables(world: &World, node: &str, arguments: &str) -> anyhow::Result<String> {
    let namespace = world.fabric.namespace(node);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace, "iptables"]).args(arguments.split(' '));
    let told = command.output()?;
    ensure!(told.status.success(), "iptables {arguments}: {}", String::from_utf8_lossy(&told.stderr).trim());
    Ok(String::from_utf8_lossy(&told.stdout).into_owned())
}

/// Whether heartbeats can be lost here.
pub fn no_loss_here() -> Option<String> {
    let found = Command::new("iptables").arg("--version").output();
    found.is_err().then(|| "it needs `iptables` (apt-get install iptables)".to_owned())
}

/// Threads that do nothing as fast as they can, two for each processor.
struct Load(Arc<AtomicBool>);

impl Load {
    fn begin() -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let count = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        for _ in 0..count {
            let goes_on = Arc::clone(&goes_on);
            std::thread::spawn(move || {
                while goes_on.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(goes_on)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The same numbers in every run (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
