//! What happens to the pair, and what must be so afterwards.
//!
//! One world, one fault after the other, each healed before the next: the roles go to and fro. After each fault: one member
//! serves (or the refusal is stated), and the two storages never answered in turns.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use rustix::process::Signal;

use super::watch;
use super::watch::Watch;
use super::world;
use super::world::World;

/// A fault: it is told who is active and who is not, does its worst, and says who must serve afterwards.
type Fault = fn(&mut World, &'static str, &'static str) -> anyhow::Result<After>;

/// What must be so after a fault.
enum After {
    /// The other member serves.
    Moved,
    /// Nothing has moved, and nobody was shot.
    Stayed,
}

/// All of it.
pub fn all(world: &mut World) -> anyhow::Result<()> {
    begin(world)?;
    // What moves the role and what does not take turns: a vote binds its voter for as long as its candidate may shoot, and a
    // fault within that time would only measure that.
    let scenarios: [(&str, Fault); 11] = [
        ("service killed", service_killed),
        ("heartbeat link cut", heartbeat_link_cut),
        ("service frozen", service_frozen),
        ("one-way cut between the members", one_way_cut),
        ("power-off, fence answers in 0.2 s", power_off),
        ("the pair's links cut", pair_cut),
        ("power-off, fence unreachable", power_off_unreachable),
        ("active isolated", active_isolated),
        ("power-off, fence refuses", power_off_refused),
        ("node frozen and thawed", node_frozen),
        ("journal torn, member restarted", journal_torn),
    ];
    let only = std::env::var("TIDEGATE_NETNS_ONLY").unwrap_or_default();
    for (name, fault) in scenarios.into_iter().filter(|(name, _)| name.contains(&only)) {
        scenario(world, name, fault).with_context(|| name.to_owned())?;
    }
    forged_datagrams(world).context("forged datagrams")?;
    apart(world).context("both booted apart")
}

fn begin(world: &mut World) -> anyhow::Result<()> {
    for (port, body) in [(9001, "from a"), (9002, "from b")] {
        let bound = watch::within(&world.namespace("w"), move || TcpListener::bind(("127.0.0.1", port)));
        let listener = bound.join().map_err(|_| anyhow::anyhow!("a thread panicked"))???;
        std::thread::spawn(move || origin(&listener, body));
    }
    for node in ["a", "b", "w"] {
        world.start(node)?;
    }
    let began = Instant::now();
    world.wait("a member serves", |world| world.active().is_some())?;
    world.wait("the other one is ready", standby_ready)?;
    let (active, standby) = world.active().context("nobody is active")?;
    let expected = format!("{standby} takes over");
    world.wait("the active tells of its lease, and what its death would cost", |world| {
        let status = world.status(active).unwrap_or_default();
        let forecast = status["if_the_active_died_now"].as_str().unwrap_or_default();
        status["lease_left_ms"].as_u64().is_some_and(|left| left > 0) && forecast.starts_with(&expected)
    })?;
    world.tell(format!("first start: {:.1} s until one serves", began.elapsed().as_secs_f64()));
    world.begin_watching()?;
    let edge = "127.0.0.1:8000".parse()?;
    let visit = |addr| match watch::get(addr, "/cached") {
        Ok((200, _)) => Ok(()),
        other => Err(std::io::Error::other(format!("{other:?}"))),
    };
    world.visitor = Some(Watch::begin(&world.namespace("w"), edge, visit));
    Ok(())
}

/// A Zope of sorts: one page that may be stored, others that may not.
fn origin(listener: &TcpListener, body: &str) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut request = [0; 4096];
        let Ok(length) = std::io::Read::read(&mut stream, &mut request) else { continue };
        let stored = request[..length].starts_with(b"GET /cached ");
        let control = if stored { "max-age=1, stale-while-revalidate=600, stale-if-error=600" } else { "no-store" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // A visitor that has gone is no matter.
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
    }
}

fn standby_ready(world: &World) -> bool {
    let roles = [world.role("a"), world.role("b")];
    roles.iter().any(|role| role == "active") && roles.iter().any(|role| role == "standby")
}

fn scenario(world: &mut World, name: &str, fault: Fault) -> anyhow::Result<()> {
    let (active, standby) = world.active().context("nobody is active")?;
    world::settle();
    world.forget_shots();
    for node in ["a", "b"] {
        world.set_fence(node, "answers")?;
    }
    let start = Instant::now();
    let after = fault(world, active, standby)?;
    let (serves, shot) = match after {
        After::Moved => {
            world.wait("the other member serves", |world| world.role(standby) == "active")?;
            (standby, "")
        }
        After::Stayed => {
            ensure!(world.role(active) == "active", "{active} is {} now", world.role(active));
            ensure!(!world.was_shot("a") && !world.was_shot("b"), "somebody was shot");
            (active, "")
        }
    };
    world.wait("clients are served", |world| {
        let client = world.client.as_ref();
        client.is_some_and(|client| client.answered_within(Duration::from_millis(300)))
    })?;
    let outage = world.client.as_ref().context("a client")?.outage(start);
    one_after_the_other(world, start, active)?;
    edge_follows(world, serves)?;
    let visitor = world.visitor.as_ref().context("a visitor")?.outage(start);
    ensure!(visitor < Duration::from_secs(5), "a cached page was not served for {visitor:?}");
    let phases = phases(world, serves, &after);
    world.tell(format!("{name:<36} {:>6.2} s without service{phases}{shot}", outage.as_secs_f64()));
    heal(world, active)?;
    world.wait("one active, one standby", standby_ready)?;
    // A member that was started anew may be ready before its last cable is.
    world.wait("all links are heard", |world| ["a", "b"].iter().all(|node| quiet_links(world, node) == 0))?;
    world.wait("all know who serves", |world| {
        let status = ["a", "b", "w"].map(|node| world.status(node).unwrap_or_default());
        let steady =
            |status: &serde_json::Value| matches!(status["pair"]["phase"].as_str(), Some("steady" | "serving"));
        status.iter().all(|one| one["pair"]["epoch"] == status[0]["pair"]["epoch"] && steady(one))
    })
}

/// The phases of a takeover, as its report tells them.
fn phases(world: &World, serves: &str, after: &After) -> String {
    if matches!(after, After::Stayed) {
        return String::new();
    }
    let status = world.status(serves).unwrap_or_default();
    let report = &status["reports"][0];
    let at = |phase: &str| report["since_suspicion_ms"][phase].as_u64();
    let start = match (at("started"), at("serving")) {
        (Some(started), Some(serving)) => {
            format!(
                ", of it {:.2} s for the storage to start",
                Duration::from_millis(serving.saturating_sub(started)).as_secs_f64()
            )
        }
        _ => String::new(),
    };
    let proof = report["proof"].as_str().unwrap_or("?");
    format!("{start}; proof: {proof}; ms since suspicion: {}", report["since_suspicion_ms"])
}

/// The storages answered one after the other: the old one, then the new one, and never again the old one.
fn one_after_the_other(world: &World, start: Instant, active: &str) -> anyhow::Result<()> {
    let [a, b] = world.storages.as_slice() else { anyhow::bail!("two storages are watched") };
    let mut answers: Vec<(Instant, &str)> = a.since(start).into_iter().map(|at| (at, "a")).collect();
    answers.extend(b.since(start).into_iter().map(|at| (at, "b")));
    answers.sort();
    let mut turns: Vec<&str> = answers.into_iter().map(|(_, who)| who).collect();
    turns.dedup();
    if turns.first().is_some_and(|first| *first != active) {
        turns.insert(0, active);
    }
    ensure!(turns.len() <= 2, "both storages answered in turns: {turns:?}");
    Ok(())
}

fn edge_follows(world: &World, serves: &str) -> anyhow::Result<()> {
    let edge = "127.0.0.1:8000".parse()?;
    let asked = watch::within(&world.namespace("w"), move || watch::get(edge, "/live"));
    let (status, body) = asked.join().map_err(|_| anyhow::anyhow!("a thread panicked"))???;
    ensure!(
        status == 200 && body == format!("from {serves}"),
        "the edge answers {status} {body:?}, but {serves} serves"
    );
    Ok(())
}

/// Brings everything back that the fault has taken.
fn heal(world: &mut World, node: &'static str) -> anyhow::Result<()> {
    for node in ["a", "b"] {
        world.mend(node)?;
    }
    if world.is_empty(node)? || world.role(node) == "gone" {
        world.signal_all(node, Signal::KILL)?;
        world.reap(node);
        world.wait("the node is empty", |world| world.is_empty(node).unwrap_or(false))?;
        world.start(node)?;
    }
    Ok(())
}

fn service_killed(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    world.signal_storage(active, Signal::KILL)?;
    Ok(After::Moved)
}

fn service_frozen(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    world.signal_storage(active, Signal::STOP)?;
    Ok(After::Moved)
}

fn power_off(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<After> {
    world.power_off(active)?;
    world.wait("it was shot", |world| world.was_shot(active) || world.role(standby) == "active")?;
    Ok(After::Moved)
}

fn power_off_unreachable(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    world.set_fence(active, "unreachable")?;
    world.power_off(active)?;
    Ok(After::Moved)
}

fn power_off_refused(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    world.set_fence(active, "refuses")?;
    world.power_off(active)?;
    Ok(After::Moved)
}

fn heartbeat_link_cut(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    world.unplug(active, 1)?;
    world.wait("the cut is seen", |world| quiet_links(world, active) >= 1)?;
    Ok(After::Stayed)
}

fn one_way_cut(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<After> {
    for link in [0, 1] {
        world.one_way(active, standby, link, true)?;
    }
    world.wait("the cut is seen", |world| quiet_links(world, standby) >= 2)?;
    std::thread::sleep(AWHILE);
    ensure!(world.role(active) == "active", "{active} is {}", world.role(active));
    for link in [0, 1] {
        world.one_way(active, standby, link, false)?;
    }
    Ok(After::Stayed)
}

fn pair_cut(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<After> {
    for (from, to) in [(active, standby), (standby, active)] {
        for link in [0, 1] {
            world.one_way(from, to, link, true)?;
        }
    }
    world.wait("the cut is seen", |world| quiet_links(world, standby) >= 2)?;
    std::thread::sleep(AWHILE);
    ensure!(world.role(active) == "active", "{active} is {}", world.role(active));
    for (from, to) in [(active, standby), (standby, active)] {
        for link in [0, 1] {
            world.one_way(from, to, link, false)?;
        }
    }
    Ok(After::Stayed)
}

/// How many links of a node to the other member are silent.
fn quiet_links(world: &World, node: &str) -> usize {
    let status = world.status(node).unwrap_or_default();
    let links = status["links"].as_array().cloned().unwrap_or_default();
    let dead = status["timing_ms"]["dead"].as_u64().unwrap_or(u64::MAX);
    let silent = |link: &&serde_json::Value| {
        link["node"] != "w" && link["last_heard_ms"].as_u64().is_none_or(|heard| heard > dead)
    };
    links.iter().filter(silent).count()
}

fn active_isolated(world: &mut World, active: &'static str, _: &'static str) -> anyhow::Result<After> {
    // No device: the lease alone must do.
    world.set_fence(active, "unreachable")?;
    world.isolate(active)?;
    world.wait("it has stopped its storage", |world| world.role(active) != "active")?;
    Ok(After::Moved)
}

fn node_frozen(world: &mut World, active: &'static str, standby: &'static str) -> anyhow::Result<After> {
    world.set_fence(active, "unreachable")?;
    world.signal_all(active, Signal::STOP)?;
    world.wait("the other member serves", |world| world.role(standby) == "active")?;
    world.signal_all(active, Signal::CONT)?;
    world.wait("the thawed one knows", |world| {
        matches!(world.role(active).as_str(), "standby" | "stopping" | "booting")
    })?;
    Ok(After::Moved)
}

fn journal_torn(world: &mut World, _: &'static str, standby: &'static str) -> anyhow::Result<After> {
    world.signal_all(standby, Signal::KILL)?;
    world.reap(standby);
    let journal = world.path(&format!("{standby}.state/pair.journal"));
    let whole = fs::read(&journal).context("a journal")?;
    fs::write(&journal, &whole[..whole.len() / 2])?;
    world.start(standby)?;
    world.wait("it comes back as standby", |world| world.role(standby) == "standby")?;
    Ok(After::Stayed)
}

fn forged_datagrams(world: &mut World) -> anyhow::Result<()> {
    let (active, _) = world.active().context("nobody is active")?;
    let rejected = |world: &World| -> u64 {
        let status = world.status(active).unwrap_or_default();
        status["rejected"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    };
    let before = rejected(world);
    let target = if active == "a" { "10.77.0.1:694" } else { "10.77.0.2:694" };
    let sent = watch::within(&world.namespace("c"), move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for length in 0..500_usize {
            let mut datagram = vec![0; length];
            // The magic of a heartbeat, and nonsense behind it.
            datagram.iter_mut().zip(b"tgHB\x01").for_each(|(byte, magic)| *byte = *magic);
            socket.send_to(&datagram, target)?;
        }
        std::io::Result::Ok(())
    });
    sent.join().map_err(|_| anyhow::anyhow!("a thread panicked"))???;
    world.wait("they are counted", |world| rejected(world) >= before + 300)?;
    ensure!(world.role(active) == "active", "it is {} now", world.role(active));
    Ok(())
}

/// Both members start, and neither hears anybody.
fn apart(world: &mut World) -> anyhow::Result<()> {
    for node in ["a", "b", "w"] {
        world.signal_all(node, Signal::KILL)?;
        world.reap(node);
    }
    world.wait("nothing runs", |world| ["a", "b", "w"].iter().all(|node| world.is_empty(node).unwrap_or(false)))?;
    for node in ["a", "b"] {
        world.start(node)?;
        world.isolate(node)?;
    }
    for node in ["a", "b"] {
        world.wait("it refuses, and says why", |world| {
            let status = world.status(node).unwrap_or_default();
            status["pair"]["phase"] == "refused" && status["pair"]["remedy"].is_string()
        })?;
        ensure!(world.role(node) != "active");
    }
    world.start("w")?;
    for node in ["a", "b"] {
        world.mend(node)?;
    }
    world.wait("one serves once they hear each other", |world| world.active().is_some())
}

/// Long enough for a wrong takeover to happen.
const AWHILE: Duration = Duration::from_secs(2);
