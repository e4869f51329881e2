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
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Everything that was looked at, each good or not, in words. `status`: what the heartbeat says of itself.
pub async fn examine(plan: &Plan, status: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut say = |good: bool, text: String| found.push(json!({ "good": good, "text": text }));
    for (good, text) in links(status) {
        say(good, text);
    }
    let (good, text) = key(&plan.key_file);
    say(good, text);
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
        let (good, text) = watchdog_state(plan, watchdog::timeout(&plan.watchdog_device));
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
        for (good, text) in kernel(plan, Path::new("/proc/sys/net/ipv4/conf")) {
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

/// Whether nobody else can read the keys.
fn key(path: &Path) -> (bool, String) {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            let others = mode & 0o077;
            (others == 0, format!("the keys {shown} have mode {mode:04o}; 0600 is right"))
        }
        Err(error) => (false, format!("the keys {shown}: {error}")),
    }
}

/// `waits`: how long it waits before it bites, as its driver says.
fn watchdog_state(plan: &Plan, waits: Option<Duration>) -> (bool, String) {
    let device = plan.watchdog_device.display();
    match (plan.watchdog, waits) {
        (watchdog::Need::Off, _) => (true, "the watchdog is off by configuration".to_owned()),
        (_, Some(waits)) => {
            let (waits, most) = (waits.as_secs(), plan.watchdog_max.as_secs());
            (waits <= most, format!("the watchdog {device} waits {waits} s, and may wait {most} s (`watchdog_max`)"))
        }
        (_, None) if plan.watchdog_device.exists() => {
            (true, format!("the watchdog {device} is there, and does not tell how long it waits"))
        }
        (_, None) => (false, format!("there is no watchdog {device}: load its driver (`modprobe softdog`)")),
    }
}

/// Settings of the kernel that make an address move cleanly; `conf`: where it shows them.
fn kernel(plan: &Plan, conf: &Path) -> Vec<(bool, String)> {
    let address::Mode::Ip { address, device } = &plan.address else { return Vec::new() };
    if !matches!(address.addr(), IpAddr::V4(_)) {
        return Vec::new();
    }
    let read = |what: &str| fs::read_to_string(conf.join(device).join(what)).unwrap_or_else(|_| "not known".to_owned());
    let wanted = [("arp_ignore", "1"), ("arp_announce", "2"), ("promote_secondaries", "1")];
    let found = wanted.iter().map(|(what, good)| {
        let is = read(what).trim().to_owned();
        (is == *good, format!("net.ipv4.conf.{device}.{what} is {is}; {good} is right for an address that moves"))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::fence;

    fn plan() -> Plan {
        crate::heartbeat::plan::sample()
    }

    #[test]
    fn dead_is_compared_with_the_gaps_that_there_were() {
        let link = |heard: Value, gap: u64| {
            let link = json!({ "node": "b", "link": 1, "last_heard_ms": heard, "gap_max_ms": gap });
            let found = links(&json!({ "timing_ms": { "dead": 1000 }, "links": [link] }));
            found.into_iter().map(|(good, _)| good).collect::<Vec<_>>()
        };
        assert_eq!(link(json!(90), 120), [true, true]);
        assert_eq!(link(json!(90), 501), [true, false], "a late peer would nearly have been a dead one");
        assert_eq!(link(json!(1000), 120), [false, true], "it is silent");
        assert_eq!(link(Value::Null, 0), [false], "it was never heard");
        assert_eq!(links(&Value::Null), []);
    }

    #[test]
    fn keys_that_others_can_read_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(!key(&path).0, "there is none");
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(key(&path).0, good, "{mode:o}");
        }
    }

    #[test]
    fn a_watchdog_that_is_missing_or_too_slow_is_found() {
        let (need, there, none) = (watchdog::Need::Required, Path::new("/dev/null"), Path::new("/no/watchdog"));
        for (watchdog, device, waits, good) in [
            (watchdog::Need::Off, none, None, true),
            (need, there, Some(10), true),
            (need, there, Some(11), false),
            (need, there, None, true),
            (need, none, None, false),
            (watchdog::Need::Observe, none, None, false),
        ] {
            let plan = Plan { watchdog, watchdog_device: device.to_owned(), ..plan() };
            let found = watchdog_state(&plan, waits.map(Duration::from_secs));
            assert_eq!(found.0, good, "{watchdog:?} {device:?} {waits:?}: {}", found.1);
        }
    }

    #[test]
    fn a_kernel_that_would_answer_for_an_address_that_has_moved_is_found() {
        let conf = tempfile::tempdir().unwrap();
        fs::create_dir(conf.path().join("eth0")).unwrap();
        for (what, is) in [("arp_ignore", "1\n"), ("arp_announce", "0\n")] {
            fs::write(conf.path().join("eth0").join(what), is).unwrap();
        }
        let (address, device) = ("10.0.0.10/24".parse().unwrap(), "eth0".to_owned());
        let plan = Plan { address: address::Mode::Ip { address, device }, ..plan() };
        let found = kernel(&plan, conf.path());
        assert_eq!(found.iter().map(|(good, _)| *good).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(found[1].1, "net.ipv4.conf.eth0.arp_announce is 0; 2 is right for an address that moves");
        assert!(kernel(&Plan { address: address::Mode::None, ..plan }, conf.path()).is_empty());
    }

    #[tokio::test]
    async fn a_fence_device_that_does_not_answer_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let device = |name: &str, code: u8| {
            let path = crate::heartbeat::command::script(dir.path(), name, &format!("exit {code}"));
            fence::Device {
                kind: fence::Kind::Exec,
                argv: vec![path.display().to_string()],
                options: Vec::new(),
                password_file: None,
                plug: "b".to_owned(),
                level: 1,
                timeout: Duration::from_secs(30),
            }
        };
        let fence = vec![vec![device("on", 0), device("broken", 1)], vec![device("off", 2)]];
        let found = examine(&Plan { fence, monitors: [None, None], ..plan() }, &Value::Null).await;
        let good = |name: &str| {
            let told = |one: &&Value| one["text"].as_str().unwrap().contains(&format!("fence device {name} ("));
            found.iter().find(told).unwrap_or_else(|| panic!("{name} is not in {found:?}"))["good"] == true
        };
        assert!(good("on") && !good("broken"));
        assert!(!good("off"), "the other member runs, and the device says that it does not: the wrong plug?");
    }
}
