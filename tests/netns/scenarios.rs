//! What happens to the pair, and what must be so afterwards.
//!
//! One world, one fault after the other, each healed before the next: the roles go to and fro. After each fault: one member
//! serves (or the refusal is stated), the two storages never answered in turns, stored pages were always served, and no
//! acknowledged commit is missing.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use rustix::process::Signal;

use super::faults;
use super::faults::After;
use super::faults::Fault;
use super::site::Site;
use super::world::NODES;
use super::world::World;
use super::world::conf::Kept;

/// All of it.
pub fn all(world: &mut World) -> anyhow::Result<()> {
    begin(world)?;
    let only = std::env::var("TIDEGATE_NETNS_ONLY").unwrap_or_default();
    for (name, fault, after) in faults::ALL.into_iter().filter(|(name, ..)| name.contains(&only)) {
        scenario(world, name, fault, after).with_context(|| name.to_owned())?;
    }
    faults::forged_datagrams(world).context("forged datagrams")?;
    apart(world).context("both booted apart")?;
    unarmed(world).context("storages from an init script")?;
    nothing_is_broken(world)
}

/// The same where the storage has a service address of each family, for those faults that depend on it: whoever is not reset or
/// not told waits.
pub fn over_both(world: &mut World) -> anyhow::Result<()> {
    begin(world)?;
    for name in ["power-off, fence unreachable", "service frozen", "node frozen and thawed"] {
        let (name, fault, after) = faults::ALL.into_iter().find(|(one, ..)| *one == name).context("a fault")?;
        scenario(world, &format!("both: {name}"), fault, after).with_context(|| name.to_owned())?;
        let (active, standby) = world.active().context("nobody is active")?;
        let up = [active, standby].map(|node| world.addresses_up(node).unwrap_or(usize::MAX));
        ensure!(up == [2, 0], "the active has {} of both addresses, the standby {}", up[0], up[1]);
        ensure!(world.has_undoubted_address()?, "the kernel looks for duplicates before it uses the address");
    }
    faults::the_addresses_get_lost(world).context("addresses that get lost")?;
    let claimed = faults::another_claims_the_addresses(world)?;
    world.wait("clients are served", |world| world.clients_served_since(claimed))?;
    nothing_is_broken(world)
}

/// After all of it: no write was sent twice, and the disk that both storages had is as ZODB would have written it.
fn nothing_is_broken(world: &mut World) -> anyhow::Result<()> {
    let mut sent = BTreeSet::new();
    for request in world.reached("/ledger/add?")? {
        let number = request.split("number=").nth(1).and_then(|rest| rest.split(' ').next().map(str::to_owned));
        ensure!(sent.insert(number), "sent twice: {request}");
    }
    stop_all(world)?;
    let told = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("verify").arg(world.path("Data.fs")).output()?;
    ensure!(told.status.success(), "the shared Data.fs is damaged: {told:?}");
    eprintln!("{} writes reached a Zope, none of them twice; the shared Data.fs is whole", sent.len());
    Ok(())
}

fn begin(world: &mut World) -> anyhow::Result<()> {
    let began = Instant::now();
    for node in NODES {
        world.start(node)?;
    }
    world.wait("a member serves", |world| world.active().is_some())?;
    world.wait("the other one is ready", standby_ready)?;
    let (active, standby) = world.active().context("nobody is active")?;
    let expected = format!("{standby} takes over");
    world.wait("the active tells of its lease, and what its death would cost", |world| {
        let status = world.status(active).unwrap_or_default();
        let forecast = status["if_the_active_died_now"].as_str().unwrap_or_default();
        status["lease_left_ms"].as_u64().is_some_and(|left| left > 0) && forecast.starts_with(&expected)
    })?;
    let first = began.elapsed().as_secs_f64();
    world.start_zopes()?;
    let zopes = began.elapsed().as_secs_f64() - first;
    eprintln!("first start: {first:.1} s until one serves, {zopes:.1} s more until two Zopes answer");
    world.begin_watching()?;
    open_site(world, 0)
}

fn open_site(world: &mut World, above: u32) -> anyhow::Result<()> {
    let opened = Instant::now();
    world.site = Some(Site::open(&world.fabric.namespace("w"), above)?);
    world.wait("visitors are served", |world| site(world).is_ok_and(|site| site.is_served(opened)))
}

fn site(world: &World) -> anyhow::Result<&Site> {
    world.site.as_ref().context("a site")
}

fn standby_ready(world: &World) -> bool {
    let roles = [world.role("a"), world.role("b")];
    roles.iter().any(|role| role == "active") && roles.iter().any(|role| role == "standby")
}

fn scenario(world: &mut World, name: &str, fault: Fault, after: After) -> anyhow::Result<()> {
    let (active, standby) = world.active().context("nobody is active")?;
    if after == After::Moved {
        world.settle();
    }
    world.forget_shots();
    for node in ["a", "b"] {
        world.set_fence(node, "answers")?;
    }
    let (start, alarms) = (Instant::now(), world.alarms(active));
    fault(world, active, standby)?;
    let serves = match after {
        After::Moved => {
            world.wait("the other member serves", |world| world.role(standby) == "active")?;
            world.has_moved();
            standby
        }
        After::Stayed => {
            ensure!(world.role(active) == "active", "{active} is {} now", world.role(active));
            ensure!(!world.was_shot("a") && !world.was_shot("b"), "somebody was shot");
            active
        }
    };
    served_again(world, start, serves)?;
    one_after_the_other(world, start, active)?;
    let outage = world.outage(start);
    let account = site(world)?.account(start)?;
    let phases = phases(world, serves, after);
    eprintln!("{name:<36} {outage:>6.2} s without service{phases}{account}");
    if phases.contains("proof: release") {
        ensure!(world.alarms(active) == alarms, "it let the address go, and took the new owner's claim for an alarm");
    }
    heal(world, active)?;
    in_order(world)
}

/// Clients at the service address, visitors and the writer are served, by the Zopes of the member that serves.
fn served_again(world: &World, start: Instant, serves: &str) -> anyhow::Result<()> {
    let now = Instant::now();
    world.wait("clients are served", |world| world.clients_served_since(now))?;
    world
        .wait("visitors are served", |world| site(world).is_ok_and(|site| site.is_served(now)))
        .with_context(|| site(world).and_then(|site| site.account(start)).unwrap_or_else(|error| error.to_string()))?;
    let zope = site(world)?.who_answers()?;
    ensure!(zope == serves, "Zope {zope} answers, but {serves} serves");
    Ok(())
}

fn in_order(world: &World) -> anyhow::Result<()> {
    world.wait("one active, one standby", standby_ready)?;
    // A member that was started anew may be ready before its last cable is.
    world.wait("all links are heard", |world| ["a", "b"].iter().all(|node| faults::quiet_links(world, node) == 0))?;
    world.wait("all know who serves", |world| {
        let status = NODES.map(|node| world.status(node).unwrap_or_default());
        let steady =
            |status: &serde_json::Value| matches!(status["pair"]["phase"].as_str(), Some("steady" | "serving"));
        status.iter().all(|one| one["pair"]["epoch"] == status[0]["pair"]["epoch"] && steady(one))
    })
}

/// The phases of a takeover, as its report tells them.
fn phases(world: &World, serves: &str, after: After) -> String {
    if after == After::Stayed {
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
    let mut answers: Vec<(Instant, &str)> = a.answers(start).into_iter().map(|at| (at, "a")).collect();
    answers.extend(b.answers(start).into_iter().map(|at| (at, "b")));
    answers.sort();
    let mut turns: Vec<&str> = answers.into_iter().map(|(_, who)| who).collect();
    turns.dedup();
    if turns.first().is_some_and(|first| *first != active) {
        turns.insert(0, active);
    }
    ensure!(turns.len() <= 2, "both storages answered in turns: {turns:?}");
    Ok(())
}

/// Brings everything back that the fault has taken.
fn heal(world: &mut World, node: &'static str) -> anyhow::Result<()> {
    for node in ["a", "b"] {
        world.fabric.mend(node)?;
    }
    if world.is_empty(node)? || world.role(node) == "gone" {
        world.fabric.signal_all(node, Signal::KILL)?;
        world.reap(node);
        world.wait("the node is empty", |world| world.is_empty(node).unwrap_or(false))?;
        world.start(node)?;
    }
    Ok(())
}

fn stop_all(world: &mut World) -> anyhow::Result<()> {
    for node in NODES {
        world.power_off(node)?;
    }
    world.wait("nothing runs", |world| NODES.iter().all(|node| world.is_empty(node).unwrap_or(false)))
}

/// Both members start, and neither hears anybody.
fn apart(world: &mut World) -> anyhow::Result<()> {
    // The edge goes, too, and with it whoever could serve a visitor.
    world.site = None;
    stop_all(world)?;
    for node in ["a", "b"] {
        world.start(node)?;
        world.fabric.isolate(node)?;
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
        world.fabric.mend(node)?;
    }
    world.wait("one serves once they hear each other", |world| world.active().is_some())
}

/// The storage is the work of an init script, which nobody can be sure to end: the end of a lease proves nothing, so whoever
/// takes over waits for the device, however slow it is, and does without if that refuses.
fn unarmed(world: &mut World) -> anyhow::Result<()> {
    stop_all(world)?;
    world.keep(Kept::ByInitScript);
    for node in NODES {
        world.start(node)?;
    }
    world.wait("a member serves", |world| world.active().is_some())?;
    // Many more than were handed in before.
    open_site(world, 1_000_000)?;
    in_order(world)?;
    for (name, mode) in [("power-off, fence slow (3 s)", "slow"), ("power-off, fence refuses at first", "refuses")] {
        waits_for_the_device(world, name, mode).with_context(|| name.to_owned())?;
    }
    by_order(world).context("a forced takeover")
}

/// No device will ever answer: an operator looks, and says that the other member is off.
fn by_order(world: &mut World) -> anyhow::Result<()> {
    let (active, standby) = world.active().context("nobody is active")?;
    world.settle();
    world.set_fence(active, "refuses")?;
    let start = Instant::now();
    world.power_off(active)?;
    world.wait("it refuses", |world| world.status(standby).unwrap_or_default()["pair"]["phase"] == "refused")?;
    let told = world.tidegate(standby, &["pair", "takeover"])?;
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(!told.status.success() && text.contains(&format!("{active} was heard ")), "{text}");
    ensure!(world.role(standby) == "bidding", "nothing was ordered, and it is {}", world.role(standby));
    let told = world.tidegate(standby, &["pair", "takeover", "--force"])?;
    ensure!(told.status.success(), "{told:?}");
    world.wait("it serves by order", |world| world.role(standby) == "active")?;
    world.has_moved();
    served_again(world, start, standby)?;
    one_after_the_other(world, start, active)?;
    let report = world.status(standby)?["reports"][0].clone();
    ensure!(
        report["proof"] == "operator" && report["ordered_by"].as_str().is_some_and(|who| who.starts_with("root")),
        "{report}"
    );
    let audit = std::fs::read_to_string(world.path(&format!("{standby}.state/pair.log")))?;
    let ordered = audit.lines().filter(|line| line.contains("takeover --force") && line.contains("\"by\":\"root"));
    ensure!(ordered.count() == 1, "who ordered it is not kept: {audit}");
    heal(world, active)?;
    in_order(world)?;
    ensure!(world.role(active) == "standby", "who comes back is {}", world.role(active));
    Ok(())
}

fn waits_for_the_device(world: &mut World, name: &str, mode: &str) -> anyhow::Result<()> {
    let (active, standby) = world.active().context("nobody is active")?;
    world.settle();
    world.forget_shots();
    world.set_fence(active, mode)?;
    let start = Instant::now();
    world.power_off(active)?;
    if mode == "refuses" {
        world.wait("it refuses, and says why", |world| {
            let status = world.status(standby).unwrap_or_default();
            status["pair"]["phase"] == "refused" && status["pair"]["remedy"].is_string()
        })?;
        ensure!(world.role(standby) != "active" && !world.was_shot(active), "there was no proof");
        world.set_fence(active, "answers")?;
    } else {
        world.wait("it was shot", |world| {
            let role = world.role(standby);
            let shot = world.was_shot(active);
            assert!(shot || matches!(role.as_str(), "standby" | "bidding"), "{role} before the device has answered");
            shot
        })?;
    }
    world.wait("the other member serves", |world| world.role(standby) == "active")?;
    world.has_moved();
    served_again(world, start, standby)?;
    one_after_the_other(world, start, active)?;
    let status = world.status(standby)?;
    ensure!(status["reports"][0]["proof"] == "fence", "{}", status["reports"][0]);
    let outage = world.outage(start);
    let account = site(world)?.account(start)?;
    let phases = phases(world, standby, After::Moved);
    eprintln!("{name:<36} {outage:>6.2} s without service{phases}{account}");
    heal(world, active)?;
    in_order(world)
}
