//! The nodes in their namespaces, and what can be done to them.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tempfile::TempDir;

use self::conf::Kept;
use super::DEADLINE;
use super::fabric::Fabric;
use super::fabric::Family;
use super::fabric::ip;
use super::harness::environment::Environment;
use super::harness::process::Minder;
use super::site::Site;
use super::watch;
use super::watch::Watch;

#[path = "conf.rs"]
pub mod conf;

/// The members and the witness.
pub const NODES: [&str; 3] = ["a", "b", "w"];

/// The last part of the service address.
const SERVICE: u8 = 10;

/// A vote binds its voter as long as its candidate may shoot: two calls of the device and what is added to them; and a lease.
const BOUND: Duration = Duration::from_millis(4_500);

const HANG: &str = "
import sys, time, transaction
from ZEO.ClientStorage import ClientStorage
import ZODB
db = ZODB.DB(ClientStorage((sys.argv[2].strip('[]'), 8100)))
class Hangs:
    def sortKey(self): return '~~~'
    def tpc_begin(self, t): pass
    def commit(self, t): pass
    def tpc_vote(self, t):
        open(sys.argv[1], 'w').close()
        time.sleep(600)
    def abort(self, t): pass
    tpc_finish = tpc_abort = abort
connection = db.open()
connection.root()['hangs'] = 1
transaction.get().join(Hangs())
transaction.commit()
";

/// Everything.
pub struct World {
    /// The network.
    pub fabric: Fabric,
    family: Family,
    dir: TempDir,
    pub environment: Environment,
    running: Vec<(String, Child)>,
    kept: Kept,
    /// When a vote was last given, or a voter last started: either may bind a voter for a while.
    moved: Instant,
    /// The storage as a client at each service address sees it.
    clients: Vec<Watch>,
    /// The storages as they are seen on their own nodes.
    pub storages: Vec<Watch>,
    /// The site on top of it.
    pub site: Option<Site>,
}

impl World {
    /// Makes the namespaces; no node runs yet.
    pub fn build(family: Family) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let minder = Minder::start()?;
        let environment = runtime.block_on(Environment::prepare(&minder, &mut |line| eprintln!("{line}")))?;
        let world = Self {
            fabric: Fabric::weave()?,
            family,
            dir: tempfile::Builder::new().prefix("tidegate-netns-").tempdir()?,
            environment,
            running: Vec::new(),
            kept: Kept::Supervised,
            moved: Instant::now(),
            clients: Vec::new(),
            storages: Vec::new(),
            site: None,
        };
        conf::furnish(&world)?;
        Ok(world)
    }

    /// A node's configuration.
    pub fn config(&self, node: &str, kept: Kept) -> PathBuf {
        self.path(&format!("{node}.{kept:?}.toml"))
    }

    /// From their next start on the members' storages are kept so.
    pub fn keep(&mut self, kept: Kept) {
        self.kept = kept;
    }

    /// How the device that puts `node` off behaves: answers, slow, refuses, unreachable.
    pub fn set_fence(&self, node: &str, mode: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.path(&format!("{node}.fence")), format!("{mode}\n"))?)
    }

    /// Whether the device was used on `node`.
    pub fn was_shot(&self, node: &str) -> bool {
        self.path(&format!("{node}.shot")).exists()
    }

    /// Forgets that it was.
    pub fn forget_shots(&self) {
        for node in NODES {
            let _ = fs::remove_file(self.path(&format!("{node}.shot")));
        }
    }

    /// A file of this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a node, with its links up.
    pub fn start(&mut self, node: &str) -> anyhow::Result<()> {
        self.fabric.mend(node)?;
        let mut command = self.command(node, env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", "--config"]).arg(self.config(node, self.kept));
        self.moved = Instant::now();
        self.launch(node, command)
    }

    /// Starts the Zopes: clients of the service address, in sets of one for each member.
    pub fn start_zopes(&mut self) -> anyhow::Result<()> {
        for (name, port) in [("a", 9001), ("b", 9002)] {
            let home = self.path(&format!("zope-{name}"));
            fs::create_dir(&home)?;
            let mut command = self.command("z", &self.environment.python().display().to_string());
            command.args(["-m", "Zope2.Startup.serve"]).arg(self.environment.etc("zope.ini"));
            command.args([format!("zope_listen={}:{port}", self.family.at(5)), "zope_threads=4".to_owned()]);
            command.envs(self.environment.variables());
            command.env("ZEO_ADDRESS", format!("{}:8100", self.family.at(SERVICE))).env("ZOPE_INSTANCE", &home);
            command.env("ZOPE_NAME", name).env("ZOPE_REQUESTS", home.join("requests"));
            self.launch(&format!("zope-{name}"), command)?;
        }
        for port in [9001, 9002] {
            let addr: SocketAddr = format!("{}:{port}", self.family.at(5)).parse()?;
            let namespace = self.fabric.namespace("c");
            self.wait("the Zopes answer", |_| {
                watch::run_within(&namespace, move || Ok(watch::visit(addr, "GET /storage/ping")?.status == 200))
                    .unwrap_or(false)
            })?;
        }
        Ok(())
    }

    /// How often each request of this kind reached a Zope.
    pub fn reached(&self, what: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for name in ["a", "b"] {
            let text = fs::read_to_string(self.path(&format!("zope-{name}/requests")))?;
            found.extend(text.lines().filter(|line| line.contains(what)).map(str::to_owned));
        }
        Ok(found)
    }

    /// A ZEO client votes for a transaction, which takes the commit lock, and says and does nothing more.
    pub fn hang_with_a_commit(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("z", &self.environment.python().display().to_string());
        command.args(["-c", HANG, &self.path("hangs").display().to_string(), &self.family.at(SERVICE)]);
        self.launch("hangs", command)?;
        self.wait("it holds the lock", |world| world.path("hangs").exists())
    }

    /// A program on a node.
    pub fn command(&self, node: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.fabric.namespace(node), program]);
        command
    }

    fn launch(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// A node is gone at once: nobody hears of its end, and what it was given is forgotten.
    pub fn power_off(&mut self, node: &str) -> anyhow::Result<()> {
        self.fabric.isolate(node)?;
        self.fabric.signal_all(node, Signal::KILL)?;
        self.reap(node);
        self.forget_address(node)
    }

    /// What a machine that was switched off does not have any more.
    pub fn forget_address(&self, node: &str) -> anyhow::Result<()> {
        let namespace = self.fabric.namespace(node);
        self.service_addresses().iter().try_for_each(|address| {
            let address = address.replace("/24", "/32").replace("/64", "/128");
            ip(&["-n", &namespace, "addr", "flush", "dev", "eth0", "to", &address])
        })
    }

    /// The service addresses as an interface has them.
    pub fn service_addresses(&self) -> Vec<String> {
        self.family.of_service().iter().map(|family| family.on_interface(SERVICE)).collect()
    }

    /// How many of the service addresses a node has.
    pub fn addresses_up(&self, node: &str) -> anyhow::Result<usize> {
        let told =
            Command::new("ip").args(["-n", &self.fabric.namespace(node), "addr", "show", "dev", "eth0"]).output()?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        Ok(self.service_addresses().iter().filter(|address| text.contains(&format!(" {address} "))).count())
    }

    /// Whether a client at each of the service addresses was served since `start`.
    pub fn clients_served_since(&self, start: Instant) -> bool {
        self.clients.iter().all(|client| client.served_since(start))
    }

    /// The longest time without an answer that a client at any of the service addresses had between `start` and now, in seconds.
    pub fn outage(&self, start: Instant) -> f64 {
        self.clients.iter().map(|client| client.outage(start)).max().unwrap_or_default().as_secs_f64()
    }

    /// Whether the active has an address of IPv6 that it used from the first moment on.
    pub fn has_undoubted_address(&self) -> anyhow::Result<bool> {
        let (active, _) = self.active().context("nobody is active")?;
        let address = self.family.on_interface(SERVICE);
        let namespace = self.fabric.namespace(active);
        let told =
            Command::new("ip").args(["-n", &namespace, "-6", "addr", "show", "dev", "eth0", "nodad"]).output()?;
        Ok(String::from_utf8_lossy(&told.stdout).contains(&address))
    }

    /// A signal to a node's storage.
    pub fn signal_storage(&self, node: &str, signal: Signal) -> anyhow::Result<()> {
        let mut found = false;
        for pid in self.fabric.pids(node)? {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("ZEO.runzeo") {
                found = true;
                kill_process(pid, signal)?;
            }
        }
        ensure!(found, "no storage runs on {node}");
        Ok(())
    }

    /// Whether anything runs on a node.
    pub fn is_empty(&self, node: &str) -> anyhow::Result<bool> {
        Ok(self.fabric.pids(node)?.is_empty())
    }

    /// Forgets a node's process that has ended.
    pub fn reap(&mut self, node: &str) {
        for (_, child) in self.running.iter_mut().filter(|(name, _)| name == node) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.running.retain(|(name, _)| name != node);
    }

    /// What a node says of its part in the pair.
    pub fn status(&self, node: &str) -> anyhow::Result<Value> {
        self.ask(node, "/pair")
    }

    /// What a node answers to an operator.
    pub fn ask(&self, node: &str, path: &str) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(self.path(&format!("{node}.sock")))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n").context("an answer")?.1;
        serde_json::from_str(body).with_context(|| body.to_owned())
    }

    /// What an operator does on a node.
    pub fn tidegate(&self, node: &str, words: &[&str]) -> anyhow::Result<Output> {
        let socket = self.path(&format!("{node}.sock"));
        Ok(Command::new(env!("CARGO_BIN_EXE_tidegate")).args(words).arg("--socket").arg(socket).output()?)
    }

    /// How often a node has heard another claim the service address.
    pub fn alarms(&self, node: &str) -> u64 {
        self.status(node).unwrap_or_default()["address_conflicts"].as_u64().unwrap_or_default()
    }

    /// A node's role; `gone` when it does not answer.
    pub fn role(&self, node: &str) -> String {
        let status = self.status(node).unwrap_or_default();
        status["role"].as_str().unwrap_or("gone").to_owned()
    }

    /// The member that is active, and its peer.
    pub fn active(&self) -> Option<(&'static str, &'static str)> {
        let roles = [self.role("a"), self.role("b")];
        match roles.each_ref().map(|role| role == "active") {
            [true, false] => Some(("a", "b")),
            [false, true] => Some(("b", "a")),
            _ => None,
        }
    }

    /// Waits until `is` holds.
    pub fn wait(&self, what: &str, mut is: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let due = Instant::now() + DEADLINE;
        while !is(self) {
            if Instant::now() >= due {
                let told: Vec<String> = NODES
                    .iter()
                    .map(|node| {
                        format!(
                            "{node}: {}",
                            self.status(node).map_or_else(|error| error.to_string(), |status| status.to_string())
                        )
                    })
                    .collect();
                bail!("not within {DEADLINE:?}: {what}\n{}", told.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Begins to watch, once a member serves.
    pub fn begin_watching(&mut self) -> anyhow::Result<()> {
        let own: SocketAddr = match self.family {
            Family::V4 => "127.0.0.1:8100".parse()?,
            Family::Both => "[::1]:8100".parse()?,
        };
        for family in self.family.of_service() {
            let service: SocketAddr = format!("{}:8100", family.at(SERVICE)).parse()?;
            self.clients.push(Watch::begin(&self.fabric.namespace("c"), watch::PACE, move || watch::ruok(service)));
        }
        for node in ["a", "b"] {
            self.storages.push(Watch::begin(&self.fabric.namespace(node), watch::PACE, move || watch::ruok(own)));
        }
        Ok(())
    }

    /// Waits until no vote and no start binds a voter any more, so that each fault is measured alone.
    pub fn settle(&self) {
        std::thread::sleep((self.moved + BOUND).saturating_duration_since(Instant::now()));
    }

    /// Somebody else has the role now.
    pub fn has_moved(&mut self) {
        self.moved = Instant::now();
    }

    /// The ends of the nodes' logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in NODES {
            let log = fs::read_to_string(self.path(&format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(text, "--- {node}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Those who ask hang in the namespaces until nobody is left who could answer.
        self.fabric.remove();
        self.clients.clear();
        self.site = None;
        self.storages.clear();
        for (_, mut child) in self.running.drain(..) {
            let _ = child.wait();
        }
    }
}
