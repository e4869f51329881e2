//! The namespaces and the cables between them: a switch with two bridges, `lan` and `hb`; the members are on both, everybody else
//! on the first. Made by the test, and removed whatever way it ends.

use std::fmt::Write as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

/// Who has a place: the members, the witness, a client, the Zopes. Addresses end in 1, 2, 3, ...
const PLACES: [&str; 5] = ["a", "b", "w", "c", "z"];

/// By which addresses the storage, its clients and the edge's origins are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// All by IPv4.
    V4,
    /// The storage by a service address of each family; everybody else by IPv6, but the heartbeat's links.
    Both,
}

impl Family {
    /// An address on the first network, by its last part, as it stands before a port.
    pub fn at(self, last: u8) -> String {
        match self {
            Self::V4 => format!("10.77.0.{last}"),
            Self::Both => format!("[fd77::{last}]"),
        }
    }

    /// The same as an interface has it, with its prefix.
    pub fn on_interface(self, last: u8) -> String {
        match self {
            Self::V4 => format!("10.77.0.{last}/24"),
            Self::Both => format!("fd77::{last}/64"),
        }
    }

    /// The families of the service addresses, that which others use, too, first.
    pub fn of_service(self) -> &'static [Self] {
        match self {
            Self::V4 => &[Self::V4],
            Self::Both => &[Self::Both, Self::V4],
        }
    }

    /// Where a server listens for everybody, as it stands before a port.
    pub fn anywhere(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0",
            // ZEO takes this for all addresses of both.
            Self::Both => "",
        }
    }
}

/// The namespaces of one world.
pub struct Fabric {
    prefix: String,
    janitor: Option<Child>,
}

/// Why this cannot run here.
pub fn cannot_run() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    WHY.get_or_init(try_one).clone()
}

fn try_one() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let name = format!("tg{}try", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let _ = Command::new("ip").args(["netns", "del", &name]).output();
    match made {
        Err(_) => Some("it needs `ip` (apt-get install iproute2)".to_owned()),
        Ok(made) if !made.status.success() => {
            Some(format!("no namespaces: {}", String::from_utf8_lossy(&made.stderr).trim()))
        }
        Ok(_) => None,
    }
}

impl Fabric {
    /// Makes them all.
    pub fn weave() -> anyhow::Result<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("tg{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let janitor = Some(janitor(&prefix)?);
        let fabric = Self { prefix, janitor };
        fabric.wire()?;
        Ok(fabric)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }

    /// What runs on a node.
    pub fn pids(&self, node: &str) -> anyhow::Result<Vec<Pid>> {
        let told = Command::new("ip").args(["netns", "pids", &self.namespace(node)]).output()?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect())
    }

    /// A signal to every process of a node.
    pub fn signal_all(&self, node: &str, signal: Signal) -> anyhow::Result<()> {
        for pid in self.pids(node)? {
            // It may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    fn wire(&self) -> anyhow::Result<()> {
        let switch = self.namespace("s");
        let mut batch = format!("netns add {switch}\n");
        for bridge in ["lan", "hb"] {
            let _ = writeln!(batch, "-n {switch} link add {bridge} type bridge\n-n {switch} link set {bridge} up");
        }
        for (at, node) in PLACES.into_iter().enumerate() {
            let namespace = self.namespace(node);
            let _ = writeln!(batch, "netns add {namespace}\n-n {namespace} link set lo up");
            // Without its second of looking for duplicates.
            let ipv6 = Family::Both.on_interface(u8::try_from(at + 1)?);
            let links = if at < 2 { &["lan", "hb"][..] } else { &["lan"][..] };
            for (link, bridge) in links.iter().enumerate() {
                let _ = writeln!(
                    batch,
                    "link add eth{link} netns {namespace} type veth peer name {node}{link} netns {switch}\n\
                     -n {switch} link set {node}{link} master {bridge}\n-n {switch} link set {node}{link} up\n\
                     -n {namespace} addr add 10.77.{link}.{}/24 dev eth{link}\n-n {namespace} link set eth{link} up",
                    at + 1
                );
            }
            let _ = writeln!(batch, "-n {namespace} addr add {ipv6} dev eth0 nodad");
        }
        // `ip -batch` takes no `-n` within a line.
        for line in batch.lines() {
            ip(&line.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Cuts or mends one cable of a node, as at the switch: the node's interface stays up.
    pub fn cable(&self, node: &str, link: usize, whole: bool) -> anyhow::Result<()> {
        let (switch, port) = (self.namespace("s"), format!("{node}{link}"));
        ip(&["-n", &switch, "link", "set", &port, if whole { "up" } else { "down" }])?;
        if whole {
            ip(&["-n", &switch, "link", "set", &port, "master", ["lan", "hb"][link]])?;
        }
        Ok(())
    }

    /// Takes a port off its bridge without a sign that the node could see.
    pub fn unplug(&self, node: &str, link: usize) -> anyhow::Result<()> {
        ip(&["-n", &self.namespace("s"), "link", "set", &format!("{node}{link}"), "nomaster"])
    }

    /// All cables of a node are cut.
    pub fn isolate(&self, node: &str) -> anyhow::Result<()> {
        (0..links_of(node)).try_for_each(|link| self.unplug(node, link))
    }

    /// All cables of a node are whole.
    pub fn mend(&self, node: &str) -> anyhow::Result<()> {
        (0..links_of(node)).try_for_each(|link| self.cable(node, link, true))
    }

    /// What `from` sends to `to` on a link reaches nobody any more; or does again.
    pub fn one_way(&self, from: &str, to: &str, link: usize, cut: bool) -> anyhow::Result<()> {
        let (namespace, device) = (self.namespace(from), format!("eth{link}"));
        let addr = format!("10.77.{link}.{}", if to == "a" { 1 } else { 2 });
        if cut {
            ip(&[
                "-n",
                &namespace,
                "neigh",
                "replace",
                &addr,
                "lladdr",
                "02:00:00:00:00:99",
                "dev",
                &device,
                "nud",
                "permanent",
            ])
        } else {
            ip(&["-n", &namespace, "neigh", "del", &addr, "dev", &device])
        }
    }

    /// Ends what runs, and removes the namespaces.
    pub fn remove(&mut self) {
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
    }
}

/// A shell that ends and removes everything once its input ends, in whatever way we end.
fn janitor(prefix: &str) -> anyhow::Result<Child> {
    let script = format!(
        "trap '' HUP INT QUIT TERM; cat > /dev/null\n\
         for n in a b w c z s; do ip netns pids {prefix}$n | xargs -r kill -9; done\n\
         for n in a b w c z s; do ip netns del {prefix}$n; done"
    );
    let mut command = Command::new("sh");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the shell that removes the namespaces")
}

fn links_of(node: &str) -> usize {
    if matches!(node, "a" | "b") { 2 } else { 1 }
}

/// Runs `ip`.
pub fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let told = Command::new("ip").args(arguments).output().context("run ip")?;
    ensure!(told.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&told.stderr).trim());
    Ok(())
}
