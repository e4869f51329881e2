//! The faults: each is told who is active and who is not, does its worst, and says what must be so afterwards.

use std::fs;
use std::net::SocketAddrV6;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use rustix::net::netdevice::name_to_index;
use rustix::process::Signal;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tidegate::heartbeat::address::announcer::advertisement;
use tidegate::heartbeat::address::announcer::arp_packet;

use super::fabric::Family;
use super::fabric::ip;
use super::watch;
use super::world::World;

/// What is done: who is active, who is not.
pub type Fault = fn(&mut World, &'static str, &'static str) -> anyhow::Result<()>;

/// What must be so after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The other member serves.
    Moved,
    /// Nothing has moved, and nobody was shot.
    Stayed,
}

/// All of them, with what comes of each. What moves the role and what does not take turns where it can, for after a move votes
/// bind for a while, and that is waited for.
pub const ALL: [(&str, Fault, After); 14] = [
    ("service killed", service_killed, After::Moved),
    ("heartbeat link cut", heartbeat_link_cut, After::Stayed),
    ("service frozen", service_frozen, After::Moved),
    ("one-way cut between the members", one_way_cut, After::Stayed),
    ("power-off, fence answers in 0.2 s", power_off, After::Moved),
    ("the pair's links cut", pair_cut, After::Stayed),
    ("LAN of the active cut", lan_cut, After::Moved),
    ("power-off, fence unreachable", power_off_unreachable, After::Moved),
    ("active isolated", active_isolated, After::Moved),
    ("power-off, fence refuses", power_off_refused, After::Moved),
    ("node frozen, shot", node_frozen_and_shot, After::Moved),
    ("node frozen and thawed", node_frozen, After::Moved),
    ("a client hangs with its commit", commit_stuck, After::Moved),
    ("journal torn, member restarted", journal_torn, After::Stayed),
];

fn service_killed(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.signal_storage(active, Signal::KILL)?;
    Ok(())
}

fn service_frozen(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.signal_storage(active, Signal::STOP)?;
    Ok(())
}

fn power_off(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<()> {
    world.power_off(active)?;
    world.wait("it was shot", |world| world.was_shot(active) || world.role(standby) == "active")?;
    Ok(())
}

fn power_off_unreachable(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.set_fence(active, "unreachable")?;
    world.power_off(active)?;
    Ok(())
}

fn power_off_refused(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.set_fence(active, "refuses")?;
    world.power_off(active)?;
    Ok(())
}

fn heartbeat_link_cut(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.fabric.unplug(active, 1)?;
    world.wait("the cut is seen", |world| quiet_links(world, active) >= 1)?;
    Ok(())
}

fn one_way_cut(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<()> {
    for link in [0, 1] {
        world.fabric.one_way(active, standby, link, true)?;
    }
    world.wait("the cut is seen", |world| quiet_links(world, standby) >= 2)?;
    std::thread::sleep(AWHILE);
    ensure!(world.role(active) == "active", "{active} is {}", world.role(active));
    for link in [0, 1] {
        world.fabric.one_way(active, standby, link, false)?;
    }
    Ok(())
}

fn pair_cut(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<()> {
    for (from, to) in [(active, standby), (standby, active)] {
        for link in [0, 1] {
            world.fabric.one_way(from, to, link, true)?;
        }
    }
    world.wait("the cut is seen", |world| quiet_links(world, standby) >= 2)?;
    std::thread::sleep(AWHILE);
    ensure!(world.role(active) == "active", "{active} is {}", world.role(active));
    for (from, to) in [(active, standby), (standby, active)] {
        for link in [0, 1] {
            world.fabric.one_way(from, to, link, false)?;
        }
    }
    Ok(())
}

/// How many links of a node to the other member are silent.
pub fn quiet_links(world: &World, node: &str) -> usize {
    let status = world.status(node).unwrap_or_default();
    let links = status["links"].as_array().cloned().unwrap_or_default();
    let dead = status["timing_ms"]["dead"].as_u64().unwrap_or(u64::MAX);
    let silent = |link: &&serde_json::Value| {
        link["node"] != "w" && link["last_heard_ms"].as_u64().is_none_or(|heard| heard > dead)
    };
    links.iter().filter(silent).count()
}

fn active_isolated(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    // No device: the lease alone must do.
    world.set_fence(active, "unreachable")?;
    world.fabric.isolate(active)?;
    world.wait("it has stopped its storage", |world| world.role(active) != "active")?;
    Ok(())
}

/// The heartbeat between the members lives, but no client and no witness reaches the active.
fn lan_cut(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.fabric.unplug(active, 0)?;
    world.wait("it gives way", |world| world.role(active) == "standby")?;
    ensure!(!world.was_shot(active), "it was shot, and gave way");
    Ok(())
}

fn node_frozen_and_shot(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<()> {
    world.fabric.signal_all(active, Signal::STOP)?;
    world.wait("the other member serves", |world| world.role(standby) == "active")?;
    Ok(())
}

/// Without a device, and with one disk for both, only a watchdog saves what is under way when a whole node freezes and thaws:
/// the storage runs before anybody can end it. So nobody writes here.
fn node_frozen(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<()> {
    world.set_fence(active, "unreachable")?;
    world.site.as_ref().context("a site")?.pause_writer(true);
    world.fabric.signal_all(active, Signal::STOP)?;
    world.wait("the other member serves", |world| world.role(standby) == "active")?;
    world.fabric.signal_all(active, Signal::CONT)?;
    world.wait("the thawed one knows", |world| {
        matches!(world.role(active).as_str(), "standby" | "stopping" | "booting")
    })?;
    world.site.as_ref().context("a site")?.pause_writer(false);
    Ok(())
}

/// A client has voted for its transaction and stands still: the storage is well, and nobody can write.
fn commit_stuck(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<()> {
    world.hang_with_a_commit()?;
    world.wait("an edge tells of it", |world| {
        let status = world.ask("w", "/status").unwrap_or_default();
        let upstreams = status["upstreams"].as_array().cloned().unwrap_or_default();
        let seen = upstreams.iter().map(|upstream| upstream["storage"][0]["state"].as_str().unwrap_or_default());
        seen.into_iter().any(|state| state.starts_with("writable, ") && state.contains("wait for one commit"))
    })?;
    world.wait("it gives way", |world| world.role(active) == "standby")?;
    ensure!(!world.was_shot(active), "it was shot, and gave way");
    Ok(())
}

fn journal_torn(world: &mut World, _: &'static str, standby: &'static str) -> anyhow::Result<()> {
    world.fabric.signal_all(standby, Signal::KILL)?;
    world.reap(standby);
    let journal = world.path(&format!("{standby}.state/pair.journal"));
    let whole = fs::read(&journal).context("a journal")?;
    fs::write(&journal, &whole[..whole.len() / 2])?;
    world.start(standby)?;
    world.wait("it comes back as standby", |world| world.role(standby) == "standby")?;
    Ok(())
}

/// Somebody else on the active node takes its addresses away, with the whole interface and without: they are put up again.
pub fn the_addresses_get_lost(world: &World) -> anyhow::Result<()> {
    let (active, _) = world.active().context("nobody is active")?;
    let namespace = world.fabric.namespace(active);
    let own = Family::Both.on_interface(if active == "a" { 1 } else { 2 });
    for line in [
        &["link", "set", "eth0", "down"][..],
        &["link", "set", "eth0", "up"],
        &["addr", "add", &own, "dev", "eth0", "nodad"],
    ] {
        ip(&[&["-n", &namespace], line].concat())?;
    }
    for lost in ["with the interface", "alone"] {
        if lost == "alone" {
            world.forget_address(active)?;
        }
        let lost_at = Instant::now();
        world.wait(lost, |world| {
            world.addresses_up(active).is_ok_and(|up| up == 2) && world.clients_served_since(lost_at)
        })?;
    }
    ensure!(world.role(active) == "active", "{active} is {}", world.role(active));
    Ok(())
}

/// A machine that is none of the pair says that the addresses are its own: each is an alarm, and the last word is the active's.
pub fn another_claims_the_addresses(world: &World) -> anyhow::Result<Instant> {
    let (active, _) = world.active().context("nobody is active")?;
    let mut before = world.alarms(active);
    let mac = [2, 0, 0, 0, 0, 0x99];
    let packet = arp_packet(mac, "10.77.0.10".parse()?, false).map(|byte| format!("{byte:02x}")).join("");
    let python = world.environment.python().display().to_string();
    let told = world.command("c", &python).args(["-c", SEND, &packet]).output()?;
    ensure!(told.status.success(), "{told:?}");
    world.wait("that of IPv4 is an alarm", |world| world.alarms(active) > before)?;
    before = world.alarms(active);
    watch::run_within(&world.fabric.namespace("c"), move || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        let index = name_to_index(&socket, "eth0")?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_hops_v6(255)?;
        let packet = advertisement(mac, "fd77::10".parse()?);
        let everybody = SocketAddrV6::new("ff02::1".parse()?, 0, 0, index);
        socket.send_to(&packet, &everybody.into())?;
        Ok(())
    })?;
    let claimed = Instant::now();
    world.wait("that of IPv6 is an alarm", |world| world.alarms(active) > before)?;
    Ok(claimed)
}

/// Nonsense that looks like heartbeats is counted, and does nothing.
pub fn forged_datagrams(world: &mut World) -> anyhow::Result<()> {
    let (active, _) = world.active().context("nobody is active")?;
    let rejected = |world: &World| -> u64 {
        let status = world.status(active).unwrap_or_default();
        status["rejected"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    };
    let before = rejected(world);
    let target = if active == "a" { "10.77.0.1:694" } else { "10.77.0.2:694" };
    watch::run_within(&world.fabric.namespace("c"), move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for length in 0..500_usize {
            let mut datagram = vec![0; length];
            // The magic of a heartbeat, and nonsense behind it.
            datagram.iter_mut().zip(b"tgHB\x01").for_each(|(byte, magic)| *byte = *magic);
            socket.send_to(&datagram, target)?;
        }
        Ok(())
    })?;
    world.wait("they are counted", |world| rejected(world) >= before + 300)?;
    ensure!(world.role(active) == "active", "it is {} now", world.role(active));
    Ok(())
}

/// Sends a packet as it is.
const SEND: &str = "import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('eth0', 0))
wire.send(bytes.fromhex(sys.argv[1]))
";

/// Long enough for a wrong takeover to happen.
const AWHILE: Duration = Duration::from_secs(2);
