//! From `[heartbeat]` to what the pair's parts need, with everything that is wrong with it.

use crate::config::check::Finding;
use crate::config::pair_settings::Address;
use crate::config::pair_settings::Fence;
use crate::config::pair_settings::Heartbeat;
use crate::config::pair_settings::Resource;
use crate::config::values::AddressKind;
use crate::config::values::FenceKind;
use crate::config::values::NodeLabel;
use crate::config::values::PairMode;
use crate::config::values::ProbeKind;
use crate::config::values::ResourceKind;
use crate::config::values::ServiceIp;
use crate::config::values::WatchdogNeed;
use crate::heartbeat::address;
use crate::heartbeat::address::Placed;
use crate::heartbeat::fence;
use crate::heartbeat::fence::Device;
use crate::heartbeat::machine::ClusterName;
use crate::heartbeat::machine::Mode;
use crate::heartbeat::machine::NodeName;
use crate::heartbeat::machine::Roster;
use crate::heartbeat::machine::Settings;
use crate::heartbeat::machine::names::LINKS_MAX;
use crate::heartbeat::machine::names::VOTERS_MAX;
use crate::heartbeat::monitor::Monitor;
use crate::heartbeat::plan::Node;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::resource;
use crate::heartbeat::watchdog;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

/// The witness that is written when there shall be none.
pub const NO_WITNESS: &str = "none";

/// What is gathered on the way.
struct Desk<'a> {
    from: &'a Heartbeat,
    found: Vec<Finding>,
}

/// The plan that `from` stands for, and what is wrong or odd about it; no plan when something is wrong.
#[must_use]
pub fn plan(from: &Heartbeat) -> (Option<Plan>, Vec<Finding>) {
    let mut desk = Desk { from, found: Vec::new() };
    let plan = desk.plan();
    let broken = desk.found.iter().any(|finding| finding.is_error);
    (plan.filter(|_| !broken), desk.found)
}

impl Desk<'_> {
    fn wrong(&mut self, code: &'static str, key: &str, message: impl Into<String>, help: &str) {
        self.found.push(Finding::error(code, &join(key), message.into(), help));
    }

    fn odd(&mut self, code: &'static str, key: &str, message: impl Into<String>, help: &str) {
        self.found.push(Finding::warning(code, &join(key), message.into(), help));
    }

    fn plan(&mut self) -> Option<Plan> {
        let from = self.from;
        let roster = self.roster()?;
        let node = from.node.as_ref()?;
        let Some(me) = name(node).and_then(|name| roster.find(&name)) else {
            let message = format!("`heartbeat.node` is \"{node}\", which is neither a member nor a witness");
            self.wrong("E0402", "node", message, "it is the name of this very node");
            return None;
        };
        let cluster = match ClusterName::parse(&from.cluster) {
            Ok(cluster) => cluster,
            Err(bad) => {
                self.wrong("E0403", "cluster", bad.to_string(), "");
                return None;
            }
        };
        let nodes = self.nodes(&roster);
        let mut links = [0; VOTERS_MAX];
        for (count, node) in links.iter_mut().zip(&nodes) {
            *count = u8::try_from(node.links.len()).unwrap_or(u8::MAX);
        }
        let peer = roster.name(me.peer()).filter(|_| me.is_member()).map(|peer| peer.as_str().to_owned());
        let devices = self.devices(peer.as_deref());
        let levels = fence::levels(&devices);
        let monitors = [0, 1].map(|member| nodes.get(member).and_then(|node| self.monitor(node)));
        let resources = if me.is_member() { self.resources() } else { Vec::new() };
        let mut settings = Settings::fast(me, roster, links);
        self.times(&mut settings, &resources, &levels);
        settings.probes = monitors.iter().any(Option::is_some);
        settings.verify = from.data.is_some();
        let mut plan = Plan {
            settings,
            cluster,
            nodes,
            key_file: from.key_file.clone(),
            state_dir: from.state_dir.clone(),
            data: from.data.clone(),
            monitors,
            probe_every: from.monitor.every,
            probe_timeout: from.monitor.timeout,
            fence: levels,
            address: self.address(&from.address),
            resources,
            watchdog: match from.watchdog {
                WatchdogNeed::Off => watchdog::Need::Off,
                WatchdogNeed::Observe => watchdog::Need::Observe,
                WatchdogNeed::Required => watchdog::Need::Required,
            },
            watchdog_device: from.watchdog_device.clone(),
            watchdog_max: from.watchdog_max,
        };
        plan.settings.fence_levels = u8::try_from(plan.fence.len()).unwrap_or(u8::MAX);
        self.between(&plan);
        for bad in plan.settings.problems() {
            self.wrong("E0410", &place_of(bad.key), format!("`{}` {}", bad.key, bad.problem), "");
        }
        Some(plan)
    }

    fn roster(&mut self) -> Option<Roster> {
        let from = self.from;
        let [one, other] = from.members.as_slice() else {
            let message = format!("a pair has two members; here are {}", from.members.len());
            self.wrong("E0401", "members", message, "write members = [\"zeo-a\", \"zeo-b\"]");
            return None;
        };
        let none = from.witnesses.iter().any(|witness| witness.as_str() == NO_WITNESS);
        if from.witnesses.is_empty() {
            let help =
                "an edge is a good one: witnesses = [\"edge-1\"]; or accept the risk with witnesses = [\"none\"]";
            self.wrong(
                "E0404",
                "witnesses",
                "there is no witness: two voters cannot tell a dead peer from a cut link",
                help,
            );
        }
        let witnesses: Vec<&NodeLabel> = from.witnesses.iter().filter(|_| !none).collect();
        if !none && witnesses.len().is_multiple_of(2) && !witnesses.is_empty() {
            let message =
                format!("{} voters: an even number outlives no more failures than one less", witnesses.len() + 2);
            self.odd("W0404", "witnesses", message, "one witness, or three");
        }
        let witnesses = witnesses.into_iter().filter_map(name).collect();
        match Roster::new([name(one)?, name(other)?], witnesses) {
            Ok(roster) => Some(roster),
            Err(bad) => {
                self.wrong("E0405", "members", bad.to_string(), "");
                None
            }
        }
    }

    fn nodes(&mut self, roster: &Roster) -> Vec<Node> {
        let mut nodes = Vec::new();
        for id in roster.ids() {
            let Some(name) = roster.name(id) else { continue };
            let label = NodeLabel::parse(name.as_str()).ok();
            let place = label.and_then(|label| self.from.at.get(&label));
            let links = place.map(|place| place.links.clone()).unwrap_or_default();
            let key = format!("at.{name}");
            if links.is_empty() {
                let help = format!("add [heartbeat.at.{name}] with links = [\"10.0.0.1:694\", \"192.168.9.1:694\"]");
                self.wrong("E0406", &key, format!("nobody knows where {name} is"), &help);
            }
            if links.len() > LINKS_MAX {
                let message = format!("{name} has {} links; {LINKS_MAX} are the most", links.len());
                self.wrong("E0407", &key, message, "");
            }
            if links.iter().any(|link| link.ip().is_unspecified() || link.port() == 0) {
                let message = format!("a link of {name} has no address or port of its own");
                self.wrong("E0408", &key, message, "write the address that the others send to");
            }
            if id.is_member() && links.len() == 1 {
                let message = format!("{name} has one link only; a cable fault looks like a dead peer");
                self.odd("W0406", &key, message, "add a second link, on another cable");
            }
            nodes.push(Node { name: name.clone(), links });
        }
        let strangers: Vec<&NodeLabel> = self
            .from
            .at
            .keys()
            .filter(|label| !nodes.iter().any(|node| node.name.as_str() == label.as_str()))
            .collect();
        for stranger in strangers {
            let message = format!("{stranger} has a place, but is neither a member nor a witness");
            self.wrong("E0409", &format!("at.{stranger}"), message, "");
        }
        nodes
    }

    fn monitor(&mut self, node: &Node) -> Option<Monitor> {
        let probe = &self.from.monitor;
        let name = node.name.as_str();
        if probe.kind == ProbeKind::Exec {
            if probe.command.is_empty() {
                self.wrong("E0411", "monitor.command", "there is no program to ask", "write command = [\"/path\"]");
                return None;
            }
            let argv = probe.command.iter().cloned().chain([name.to_owned()]).collect();
            return Some(Monitor::Exec { argv });
        }
        let place = NodeLabel::parse(name).ok().and_then(|label| self.from.at.get(&label));
        let Some(addr) = place.and_then(|place| place.storage.as_ref()).map(ToString::to_string) else {
            let help = "without it only silence shows a failure, not a storage that hangs";
            self.odd(
                "W0411",
                &format!("at.{name}"),
                format!("nobody knows where the storage of {name} answers: set `storage`"),
                help,
            );
            return None;
        };
        Some(match probe.kind {
            ProbeKind::Zeo | ProbeKind::Exec => {
                Monitor::Zeo { addr, storage: probe.storage.clone(), commit_max: probe.commit_max }
            }
            ProbeKind::Tcp => Monitor::Tcp { addr },
            ProbeKind::Http => Monitor::Http { addr, path: probe.path.clone() },
        })
    }

    fn times(&self, settings: &mut Settings, resources: &[resource::Resource], levels: &[Vec<Device>]) {
        let (from, timing) = (self.from, &self.from.timing);
        settings.interval = timing.interval;
        settings.warn = timing.warn;
        settings.dead = timing.dead;
        settings.initdead = timing.initdead;
        settings.lease = timing.lease;
        settings.margin = timing.margin;
        settings.restarts_max = from.restarts;
        settings.probe_failed = u8::try_from(from.monitor.failed).unwrap_or(u8::MAX);
        settings.probe_window = u8::try_from(from.monitor.window).unwrap_or(u8::MAX);
        settings.fence_timeout = levels.iter().map(|level| fence::longest(level)).max().unwrap_or(SLACK) + FENCE_SLACK;
        settings.fence_retry = timing.fence_retry;
        settings.address_timeout = from.address.timeout + SLACK;
        settings.start_timeout = resources.iter().map(|resource| resource.start_timeout).sum::<Duration>() + SLACK;
        // A stop asks for the status afterwards, and a killed process may take the kernel a moment.
        let stop = |resource: &resource::Resource| resource.stop_timeout + KILL;
        settings.stop_timeout = resources.iter().map(stop).sum::<Duration>() + SLACK;
        settings.serve_timeout = timing.serve;
        settings.verify_timeout = timing.verify;
        settings.max_lag = from.max_lag;
        settings.takeovers_max = from.takeovers;
        settings.yield_wait = timing.yield_wait;
        let mode = match from.mode {
            PairMode::Act => Mode::Act,
            PairMode::Observe => Mode::Observe,
        };
        (settings.takeover, settings.fence, settings.self_fence) = (mode, mode, mode);
        settings.self_fence_required = from.watchdog == WatchdogNeed::Required;
    }

    fn address(&mut self, address: &Address) -> address::Mode {
        if address.kind != AddressKind::Ip && !address.ip.0.is_empty() {
            let help = "write kind = \"ip\", or take `ip` away";
            self.odd("W0412", "address.ip", "this address does not move: `kind` is not \"ip\"", help);
        }
        match address.kind {
            AddressKind::None => address::Mode::None,
            AddressKind::Ip => address::Mode::Ip(self.places(address)),
            AddressKind::Exec => {
                if address.command.is_empty() {
                    self.wrong("E0413", "address.command", "there is no program that moves the address", "");
                }
                address::Mode::Exec { argv: address.command.clone(), timeout: address.timeout }
            }
        }
    }

    fn places(&mut self, from: &Address) -> Vec<Placed> {
        let count = from.ip.0.len();
        if count == 0 {
            let help = "write ip = \"10.0.0.10/24\" and device = \"eth0\"";
            self.wrong("E0412", "address", "the service address needs `ip` and `device`", help);
        }
        if count > ADDRESSES_MAX {
            let message = format!("{count} service addresses; {ADDRESSES_MAX} are the most");
            self.wrong("E0423", "address.ip", message, "leave out those that no client uses");
        }
        let mut own: BTreeSet<IpAddr> = BTreeSet::new();
        for node in self.from.at.values() {
            own.extend(node.links.iter().map(SocketAddr::ip));
            own.extend(node.storage.iter().filter_map(|storage| storage.host().parse::<IpAddr>().ok()));
        }
        let mut places: Vec<Placed> = Vec::new();
        for (at, ServiceIp { address, device }) in from.ip.0.iter().enumerate() {
            let (key, ip) = (format!("address.ip.{at}"), address.addr());
            let device = device.clone().unwrap_or_else(|| from.device.clone());
            if device.is_empty() {
                let help = "write device = \"eth0\", or \"ADDRESS/PREFIX dev eth0\"";
                self.wrong("E0412", &key, format!("nobody knows on which interface to put {address}"), help);
            }
            if device.contains('/') || device.len() > DEVICE_MAX {
                self.wrong("E0424", &key, format!("`{device}` is no interface"), "see `ip -brief link`");
            }
            let whole = address.prefix_len() + 1 >= address.max_prefix_len();
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || (!whole && ip == address.network()) {
                let help = "write an address that clients connect to, with the prefix of its network";
                self.wrong("E0425", &key, format!("{address} is no address that can move"), help);
            }
            if own.contains(&ip) {
                let help = "the service address is one more, which no machine has of its own";
                self.wrong("E0426", &key, format!("{ip} is a node's own address"), help);
            }
            if places.iter().any(|place| place.address.addr() == ip) {
                self.wrong("E0427", &key, format!("{ip} is written twice"), "take one of them away");
            }
            places.push(Placed { address: *address, device });
        }
        places
    }

    fn devices(&mut self, peer: Option<&str>) -> Vec<Device> {
        let from = self.from;
        let mut devices = Vec::new();
        for (at, fence) in from.fence.iter().enumerate() {
            let key = format!("fence.{at}");
            let Some(node) = fence.node.as_ref().filter(|node| from.members.contains(node)) else {
                self.wrong("E0414", &key, "this device puts nobody off: `node` must be one of the members", "");
                continue;
            };
            if fence.command.is_empty() {
                self.wrong(
                    "E0415",
                    &key,
                    "this device has no program",
                    "write command = [\"/usr/sbin/fence_ipmilan\"]",
                );
            }
            let options = self.pairs(&key, &fence.options);
            if options.iter().any(|(key, _)| matches!(key.as_str(), "password" | "passwd" | "passwd_script")) {
                self.odd(
                    "W0415",
                    &key,
                    "a password stands in the configuration",
                    "write password_file = \"PATH\" instead",
                );
            }
            if Some(node.as_str()) == peer {
                devices.push(device(fence, node, options));
            }
        }
        // An edge shoots at nobody.
        let fenced =
            |label: &&NodeLabel| peer.is_some() && !from.fence.iter().any(|fence| fence.node.as_ref() == Some(*label));
        let bare: Vec<&NodeLabel> = from.members.iter().filter(fenced).collect();
        for label in bare {
            let help = "a takeover then needs its release, the end of its lease, or a person";
            self.odd("W0416", "fence", format!("no device can put {label} off"), help);
        }
        devices
    }

    fn resources(&mut self) -> Vec<resource::Resource> {
        let from = self.from;
        let mut resources = Vec::new();
        for (at, wanted) in from.resource.iter().enumerate() {
            let key = format!("resource.{at}");
            if wanted.command.is_empty() {
                let help = "write command = [\"PROGRAM\", ...]; for ocf the agent, for systemd the unit";
                self.wrong("E0417", &key, "there is nothing to start: `command` is missing", help);
                continue;
            }
            let options = self.pairs(&key, &wanted.options);
            resources.push(resource::Resource {
                name: if wanted.name.is_empty() { format!("resource-{}", at + 1) } else { wanted.name.clone() },
                kind: kind(wanted, options),
                start_timeout: wanted.start,
                stop_timeout: wanted.stop,
            });
        }
        if resources.is_empty() {
            let help = "add [[heartbeat.resource]] with name = \"zeo\" and command = [\"/opt/zeo/bin/runzeo\", \"-C\", \"zeo.conf\"]";
            self.odd("W0417", "resource", "a takeover starts nothing on this member", help);
        }
        resources
    }

    fn pairs(&mut self, key: &str, options: &[String]) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for option in options {
            match option.split_once('=') {
                Some((name, value)) if !name.is_empty() && !option.contains(['\n', '\0']) => {
                    pairs.push((name.to_owned(), value.to_owned()));
                }
                _ => self.wrong("E0418", key, "an option must be \"KEY=VALUE\" in one line", ""),
            }
        }
        pairs
    }

    /// Rules between several settings.
    fn between(&mut self, plan: &Plan) {
        let killed = plan.can_be_killed() || plan.watchdog == watchdog::Need::Required;
        if !killed && plan.settings.me.is_member() {
            let help = "use kind = \"process\", or watchdog = \"required\"; until then only fencing or a person proves a takeover";
            self.odd(
                "W0419",
                "resource",
                "a resource that is no process of ours cannot be killed at once: the end of a lease proves nothing",
                help,
            );
        }
        if plan.data.is_none() && plan.settings.me.is_member() {
            let help = "set data = \"/srv/zeo/Data.fs\", or be sure that both members have the same disk";
            self.odd("W0422", "data", "`data` is not set: a copy that lacks transactions would be promoted", help);
        }
        let probe = &self.from.monitor;
        if probe.every.is_zero() || probe.timeout.is_zero() {
            self.wrong("E0420", "monitor", "`every` and `timeout` must be longer than 0", "");
        }
        if plan.watchdog_max > plan.settings.lease * 8 && plan.watchdog == watchdog::Need::Required {
            let help = "the lease proves that the active has stopped only when the watchdog bites soon after its end";
            self.odd("W0421", "watchdog_max", "the watchdog may wait much longer than the lease", help);
        }
    }
}

fn device(fence: &Fence, node: &NodeLabel, options: Vec<(String, String)>) -> Device {
    Device {
        kind: match fence.kind {
            FenceKind::Agent => fence::Kind::Agent,
            FenceKind::External => fence::Kind::External,
            FenceKind::Exec => fence::Kind::Exec,
        },
        argv: fence.command.clone(),
        options,
        password_file: fence.password_file.clone(),
        plug: fence.plug.clone().unwrap_or_else(|| node.to_string()),
        level: fence.level,
        timeout: fence.timeout,
    }
}

fn kind(wanted: &Resource, options: Vec<(String, String)>) -> resource::Kind {
    let first = wanted.command.first().cloned().unwrap_or_default();
    match wanted.kind {
        ResourceKind::Process => resource::Kind::Process(resource::Process {
            argv: wanted.command.clone(),
            env: options,
            user: wanted.user.clone(),
            dir: wanted.dir.clone(),
            log: wanted.log.clone(),
        }),
        ResourceKind::Lsb => resource::Kind::Lsb { argv: wanted.command.clone() },
        ResourceKind::Ocf => resource::Kind::Ocf { agent: first.into(), parameters: options },
        ResourceKind::Systemd => resource::Kind::Systemd { unit: first },
    }
}

fn name(label: &NodeLabel) -> Option<NodeName> {
    NodeName::parse(label.as_str()).ok()
}

fn join(key: &str) -> String {
    format!("heartbeat.{key}")
}

/// Where a setting of the machine stands in the file.
fn place_of(key: &str) -> String {
    match key {
        "probe_failed" => "monitor.failed".to_owned(),
        "probe_window" => "monitor.window".to_owned(),
        "takeovers_max" => "takeovers".to_owned(),
        "node" => key.to_owned(),
        _ => format!("timing.{key}"),
    }
}

/// Service addresses. Each has a thread that tells the network of it.
const ADDRESSES_MAX: usize = 8;

/// Bytes in the name of an interface (`IFNAMSIZ` of Linux, without its end).
const DEVICE_MAX: usize = 15;

/// What every deed may take besides its own time: a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// The same for fencing. Short: a vote binds its voter for as long as its candidate may shoot.
const FENCE_SLACK: Duration = Duration::from_millis(500);

/// What the kernel may take to end what was killed, and a status to be told.
const KILL: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use crate::config;

    fn told(text: &str) -> String {
        let text = format!("version = 1\n[heartbeat]\n{text}");
        match config::parse("pair.toml", &text) {
            Ok(loaded) => loaded.warnings.join("\n"),
            Err(report) => report.to_string(),
        }
    }

    const GOOD: &str = "node = \"a\"\ndata = \"/srv/Data.fs\"\nmembers = [\"a\", \"b\"]\nwitnesses = [\"w\"]\n\
        at.a = { links = [\"10.0.0.1:694\", \"10.1.0.1:694\"], storage = \"10.0.0.1:8100\" }\n\
        at.b = { links = [\"10.0.0.2:694\", \"10.1.0.2:694\"], storage = \"10.0.0.2:8100\" }\n\
        at.w = { links = [\"10.0.0.3:694\"] }\n\
        resource = [{ name = \"zeo\", command = [\"runzeo\"] }]\n\
        fence = [{ node = \"a\", command = [\"fence_x\"] }, { node = \"b\", command = [\"fence_x\"] }]\n";

    #[test]
    fn a_pair_with_everything_has_nothing_odd_about_it() {
        assert_eq!(told(GOOD), "");
    }

    #[test]
    fn several_service_addresses_are_each_judged_in_their_line() {
        let told_of = |list: &str| {
            let address = format!("address = {{ kind = \"ip\", device = \"eth0\", ip = {list} }}\nresource =");
            told(&GOOD.replacen("resource =", &address, 1))
        };
        assert_eq!(told_of("\"10.0.0.9/24\""), "");
        assert_eq!(told_of("[\"10.0.0.9/24\", \"2001:db8::9/64\", \"192.0.2.1/31\", \"192.0.2.9 dev eth1\"]"), "");
        let ninth: Vec<String> = (20..29).map(|last| format!("\"10.0.0.{last}/24\"")).collect();
        for (list, expected) in [
            (format!("[{}]", ninth.join(", ")), "9 service addresses; 8 are the most"),
            ("[]".to_owned(), "needs `ip` and `device`"),
            ("[\"10.0.0.9/24\",\n\"10.0.0.9/25\"]".to_owned(), "10.0.0.9 is written twice"),
            ("[\"10.0.0.9/24\",\n\"10.0.0.1/24\"]".to_owned(), "10.0.0.1 is a node's own address"),
            ("[\"10.0.0.9/24\",\n\"2001:db8::/64\"]".to_owned(), "2001:db8::/64 is no address that can move"),
            ("[\"10.0.0.9/24\",\n\"ff02::1/64\"]".to_owned(), "ff02::1/64 is no address that can move"),
            ("[\"10.0.0.9/24\",\n\"10.0.0.7/24 on eth1\"]".to_owned(), "or \"10.0.0.10/24 dev eth0\""),
            ("[\"10.0.0.9/24\",\n\"10.0.0.7/24 dev a/b\"]".to_owned(), "`a/b` is no interface"),
        ] {
            let told = told_of(&list);
            assert!(told.contains(expected), "{list}:\n{told}");
            let line = 10 + list.matches('\n').count();
            assert!(told.contains(&format!("pair.toml:{line}:")), "{list}:\n{told}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_named_with_its_remedy() {
        for (from, to, expected) in [
            ("witnesses = [\"w\"]\n", "", "there is no witness"),
            ("node = \"a\"", "node = \"c\"", "neither a member nor a witness"),
            ("members = [\"a\", \"b\"]", "members = [\"a\"]", "a pair has two members; here are 1"),
            ("witnesses = [\"w\"]", "witnesses = [\"a\"]", "named twice"),
            (", \"10.1.0.1:694\"]", "]", "a has one link only"),
            ("at.w = { links = [\"10.0.0.3:694\"] }\n", "", "nobody knows where w is"),
            ("command = [\"runzeo\"]", "start = \"5s\"", "there is nothing to start"),
            ("{ node = \"b\", command", "{ node = \"x\", command", "this device puts nobody off"),
            ("{ node = \"b\", command = [\"fence_x\"] }", "", "no device can put b off"),
            ("fence_x\"] }]", "fence_x\"], options = [\"passwd=x\"] }]", "a password stands in the configuration"),
            ("[\"runzeo\"] }", "[\"zeo\"], kind = \"systemd\" }", "the end of a lease proves nothing"),
            ("resource =", "timing.dead = \"500ms\"\nresource =", "timing.dead"),
            ("resource =", "address.kind = \"ip\"\nresource =", "needs `ip` and `device`"),
            ("resource =", "address.ip = \"10.0.0.9/24\"\nresource =", "does not move: `kind` is not \"ip\""),
            ("resource =", "cluster = \"two words\"\nresource =", "is no cluster name"),
            (", storage = \"10.0.0.2:8100\"", "", "set `storage`"),
            ("data = \"/srv/Data.fs\"\n", "", "`data` is not set"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let told = told(&GOOD.replacen(from, to, 1));
            assert!(told.contains(expected), "{from} -> {to}:\n{told}");
        }
    }
}
