//! What would keep a takeover from working, looked at before it is needed. Asks devices for their status; changes nothing.

use crate::heartbeat::address;
use crate::heartbeat::address::Placed;
use crate::heartbeat::device;
use crate::heartbeat::fence::Power;
use crate::heartbeat::monitor::Depth;
use crate::heartbeat::netlink;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::resource::Users;
use crate::heartbeat::watchdog;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io;
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
        for user in plan.users() {
            match Users::default().learn(&user, USER_WITHIN).await {
                Ok(ids) => say(true, format!("the user {user} has the number {}, its group {}", ids.user, ids.group)),
                Err(why) => say(false, why),
            }
        }
        for (good, text) in interfaces(plan) {
            say(good, text);
        }
        match netlink::addresses() {
            Ok(here) => {
                for (good, text) in addresses(plan, status["role"] == "active", &here, device::index) {
                    say(good, text);
                }
            }
            Err(error) => say(false, format!("the addresses of this machine cannot be listed: {error}")),
        }
        for (good, text) in kernel(plan, Path::new("/proc/sys/net")) {
            say(good, text);
        }
        for (good, text) in answers(plan).await {
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

fn places(plan: &Plan) -> &[Placed] {
    if let address::Mode::Ip(places) = &plan.address { places } else { &[] }
}

/// Whether the interfaces of the service addresses carry packets, and can announce an address.
fn interfaces(plan: &Plan) -> Vec<(bool, String)> {
    let devices: BTreeSet<&str> = places(plan).iter().map(|place| place.device.as_str()).collect();
    let judge = |device: &str| match (device::is_up(device), device::mac(device)) {
        (Ok(true), Ok(_)) => (true, format!("the interface {device} is up")),
        (Ok(false), Ok(_)) => (false, format!("the interface {device} is down, or its cable is out")),
        (Err(error), _) | (_, Err(error)) => (false, format!("a service address cannot be announced: {error}")),
    };
    devices.into_iter().map(judge).collect()
}

/// Whether the service addresses are where they should be: up on the active member, and only there. `here`: what this machine has,
/// by the numbers of its interfaces.
fn addresses(
    plan: &Plan,
    active: bool,
    here: &[(u32, IpAddr)],
    index: impl Fn(&str) -> io::Result<u32>,
) -> Vec<(bool, String)> {
    let judge = |Placed { address, device }: &Placed| {
        let found = here.iter().find(|(_, ip)| *ip == address.addr());
        let right = found.is_some_and(|(on, _)| index(device).is_ok_and(|index| index == *on));
        match (active, found.is_some()) {
            (true, true) if right => (true, format!("the service address {address} is up on {device}")),
            (false, false) => {
                (true, format!("the service address {address} is not up here, as it should be on a standby"))
            }
            (_, true) if !right => {
                (false, format!("{address} is up on another interface than {device}: take it away there"))
            }
            (true, _) => (false, format!("the service address {address} is not up, though this member is active")),
            (false, _) => {
                let remedy = "take it out of what configures the machine's interfaces";
                (false, format!("{address} is up on {device}, though this member is not active: {remedy}"))
            }
        }
    };
    places(plan).iter().map(judge).collect()
}

/// Settings of the kernel that make an address move cleanly; `net`: where it shows them.
fn kernel(plan: &Plan, net: &Path) -> Vec<(bool, String)> {
    let wanted = [
        ("ipv4", "arp_ignore", "1"),
        ("ipv4", "arp_announce", "2"),
        ("ipv4", "promote_secondaries", "1"),
        ("ipv6", "disable_ipv6", "0"),
    ];
    let family = |place: &Placed| if place.address.addr().is_ipv4() { "ipv4" } else { "ipv6" };
    let devices: BTreeSet<(&str, &str)> = places(plan).iter().map(|place| (family(place), &*place.device)).collect();
    let mut found = Vec::new();
    for (family, device) in devices {
        for (_, what, good) in wanted.iter().filter(|(of, ..)| *of == family) {
            let path = net.join(family).join("conf").join(device).join(what);
            let read = fs::read_to_string(path).unwrap_or_else(|_| "not known".to_owned());
            let is = read.trim();
            let text = format!("net.{family}.conf.{device}.{what} is {is}; {good} is right for an address that moves");
            found.push((is == *good, text));
        }
    }
    found
}

/// Whether the storage answers at each service address: it may listen for one family only.
async fn answers(plan: &Plan) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let Some(monitor) = plan.monitors.iter().flatten().next() else { return found };
    for ip in address::addresses(places(plan)) {
        let Some(there) = monitor.at(ip) else { continue };
        found.push(match there.ask(Depth::Alive, plan.probe_timeout).await {
            Ok(_) => (true, format!("a storage answers at the service address {ip}")),
            Err(why) => (false, format!("no storage answers at the service address {ip}: {why}")),
        });
    }
    found
}

/// For an answer of the system about a user.
const USER_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::fence;
    use crate::heartbeat::monitor::Monitor;

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
        for (what, is) in [
            ("ipv4/conf/eth0/arp_ignore", "1\n"),
            ("ipv4/conf/eth0/arp_announce", "0\n"),
            ("ipv6/conf/eth0/disable_ipv6", "1"),
        ] {
            let path = conf.path().join(what);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, is).unwrap();
        }
        let plan = placed(&["10.0.0.10/24", "fd00::10/64", "10.0.0.11/24"]);
        let found = kernel(&plan, conf.path());
        assert_eq!(found.iter().map(|(good, _)| *good).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(found[1].1, "net.ipv4.conf.eth0.arp_announce is 0; 2 is right for an address that moves");
        assert_eq!(found[3].1, "net.ipv6.conf.eth0.disable_ipv6 is 1; 0 is right for an address that moves");
        assert!(kernel(&Plan { address: address::Mode::None, ..plan }, conf.path()).is_empty());
    }

    /// A plan with service addresses on eth0.
    fn placed(addresses: &[&str]) -> Plan {
        let place = |text: &&str| Placed { address: text.parse().unwrap(), device: "eth0".to_owned() };
        Plan { address: address::Mode::Ip(addresses.iter().map(place).collect()), ..plan() }
    }

    #[test]
    fn a_service_address_that_is_not_where_the_role_is_is_found() {
        let plan = placed(&["10.0.0.10/24", "fd00::10/64"]);
        let (four, six): (IpAddr, IpAddr) = ("10.0.0.10".parse().unwrap(), "fd00::10".parse().unwrap());
        for (active, here, expected) in [
            (true, &[(2, four), (2, six)][..], [true, true]),
            (true, &[(2, four)], [true, false]),
            (true, &[(2, four), (3, six)], [true, false]),
            (false, &[], [true, true]),
            (false, &[(2, four)], [false, true]),
            (false, &[(3, six)], [true, false]),
        ] {
            let found = addresses(&plan, active, here, |_| Ok(2));
            let good: Vec<bool> = found.iter().map(|(good, _)| *good).collect();
            assert_eq!(good, expected, "{active} {here:?}: {found:?}");
        }
        assert!(!addresses(&plan, true, &[(2, four)], |_| Err(io::ErrorKind::NotFound.into()))[0].0);
    }

    #[tokio::test]
    async fn a_storage_that_does_not_listen_for_a_service_address_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let monitor = Monitor::Tcp { addr: addr.replace("127.0.0.1", "zeo-a.example.org") };
        let plan = Plan { monitors: [Some(monitor), None], ..placed(&["127.0.0.1/8", "127.0.0.2/8"]) };
        let good: Vec<bool> = answers(&plan).await.into_iter().map(|(good, _)| good).collect();
        assert_eq!(good, [true, false]);
        let monitor = Monitor::Exec { argv: vec!["true".to_owned()] };
        assert_eq!(answers(&Plan { monitors: [Some(monitor), None], ..plan }).await, []);
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
