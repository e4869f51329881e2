//! What would keep a takeover from working, looked at before it is needed. Asks devices for their status; changes nothing.

use crate::heartbeat::address;
use crate::heartbeat::fence::Power;
use crate::heartbeat::monitor::Depth;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::watchdog;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::net::IpAddr;

/// Everything that was looked at, each good or not, in words. `status`: what the heartbeat says of itself.
pub async fn examine(plan: &Plan, status: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut say = |good: bool, text: String| found.push(json!({ "good": good, "text": text }));
    for (good, text) in links(status) {
        say(good, text);
    }
    if plan.settings.me.is_member() {
        let peer = plan.name(plan.settings.me.peer());
        if plan.fence.is_empty() {
            say(false, format!("no fence device can put {peer} off"));
        }
        for (level, devices) in plan.fence.iter().enumerate() {
            for device in devices {
                let (power, words) = device.status().await;
                let good = matches!(power, Power::On | Power::Answers);
                let name = device.name();
                say(good, format!("fence device {name} (level {}) says of {peer}: {power:?}, {words}", level + 1));
            }
        }
        let (good, text) = watchdog_state(plan);
        say(good, text);
        let armed = plan.can_be_killed() || plan.watchdog == watchdog::Need::Required;
        say(
            armed,
            if armed {
                "the self-fence can be armed: an ended lease proves something".to_owned()
            } else {
                "a resource cannot be killed at once and there is no watchdog: an ended lease proves nothing".to_owned()
            },
        );
        if let Some(data) = &plan.data {
            match crate::heartbeat::copy::last_tid(data) {
                Ok(tid) => say(true, format!("the copy {} ends in transaction 0x{tid:016x}", data.display())),
                Err(error) => say(false, format!("the copy {}: {error}", data.display())),
            }
        } else {
            say(false, "`data` is not set: nobody knows whether the copy is whole".to_owned());
        }
        for (good, text) in kernel(plan) {
            say(good, text);
        }
    }
    let mut serving = 0;
    for (member, monitor) in ["first", "second"].iter().zip(&plan.monitors) {
        let Some(monitor) = monitor else {
            say(false, format!("the {member} member's storage is not asked"));
            continue;
        };
        serving += usize::from(monitor.ask(Depth::Writable, plan.probe_timeout).await.is_ok());
    }
    say(serving == 1, format!("{serving} storage(s) take writes"));
    found
}

/// Which links are heard, and whether `dead` is far enough above the gaps that there were.
fn links(status: &Value) -> Vec<(bool, String)> {
    let dead = status["timing_ms"]["dead"].as_u64().unwrap_or(u64::MAX);
    let mut found = Vec::new();
    for link in status["links"].as_array().into_iter().flatten() {
        let who = format!("{} on link {}", link["node"].as_str().unwrap_or("?"), link["link"]);
        let (Some(heard), gap) = (link["last_heard_ms"].as_u64(), link["gap_max_ms"].as_u64().unwrap_or(0)) else {
            found.push((false, format!("{who} was never heard")));
            continue;
        };
        found.push((heard < dead, format!("{who} was heard {heard} ms ago")));
        // As warntime of old: a dead peer must not look like a late one.
        found.push((gap * 2 <= dead, format!("{who}: the longest gap was {gap} ms, `dead` is {dead} ms")));
    }
    found
}

fn watchdog_state(plan: &Plan) -> (bool, String) {
    let device = plan.watchdog_device.display();
    match (plan.watchdog, watchdog::timeout(&plan.watchdog_device)) {
        (watchdog::Need::Off, _) => (true, "the watchdog is off by configuration".to_owned()),
        (_, Some(waits)) => (waits <= plan.watchdog_max, format!("the watchdog {device} waits {} s", waits.as_secs())),
        (_, None) => (plan.watchdog_device.exists(), format!("the watchdog {device} does not tell how long it waits")),
    }
}

/// Settings of the kernel that make an address move cleanly.
fn kernel(plan: &Plan) -> Vec<(bool, String)> {
    let address::Mode::Ip { address, device } = &plan.address else { return Vec::new() };
    if !matches!(address.addr(), IpAddr::V4(_)) {
        return Vec::new();
    }
    let read = |what: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{device}/{what}")).unwrap_or_default();
    let wanted = [("arp_ignore", "1"), ("arp_announce", "2"), ("promote_secondaries", "1")];
    let found = wanted.iter().map(|(what, good)| {
        let is = read(what).trim().to_owned();
        (is == *good, format!("net.ipv4.conf.{device}.{what} is {is}; {good} is right for an address that moves"))
    });
    found.collect()
}
