//! The namespaces, the nodes in them, and what can be done to them.

use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tempfile::TempDir;

use super::DEADLINE;
use super::harness::environment::Environment;
use super::harness::process::Minder;
use super::watch;
use super::watch::Watch;

/// The members and the witness.
pub const NODES: [&str; 3] = ["a", "b", "w"];

/// Where the storage answers.
pub const SERVICE: &str = "10.77.0.10:8100";

/// Everything.
pub struct World {
    prefix: String,
    dir: TempDir,
    environment: Environment,
    running: Vec<(String, Child)>,
    janitor: Option<Child>,
    /// What was measured.
    lines: Vec<String>,
    /// The storage as a client at the service address sees it.
    pub client: Option<Watch>,
    /// The storages as they are seen on their own nodes.
    pub storages: Vec<Watch>,
    /// A visitor of a cached page.
    pub visitor: Option<Watch>,
}

/// Why this cannot run here.
pub fn cannot_run() -> Option<String> {
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

impl World {
    /// Makes the namespaces; no node runs yet.
    pub fn build() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let minder = Minder::start()?;
        let environment = runtime.block_on(Environment::prepare(&minder, &mut |line| eprintln!("{line}")))?;
        let prefix = format!("tg{}", std::process::id());
        let dir = tempfile::Builder::new().prefix("tidegate-netns-").tempdir()?;
        let janitor = janitor(&prefix)?;
        let world = Self {
            prefix,
            dir,
            environment,
            running: Vec::new(),
            janitor: Some(janitor),
            lines: Vec::new(),
            client: None,
            storages: Vec::new(),
            visitor: None,
        };
        world.wire()?;
        world.furnish()?;
        Ok(world)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}{node}", self.prefix)
    }

    fn wire(&self) -> anyhow::Result<()> {
        let switch = self.namespace("s");
        let mut batch = format!("netns add {switch}\n");
        for bridge in ["lan", "hb"] {
            let _ = writeln!(batch, "-n {switch} link add {bridge} type bridge\n-n {switch} link set {bridge} up");
        }
        for (at, node) in ["a", "b", "w", "c"].into_iter().enumerate() {
            let namespace = self.namespace(node);
            let _ = writeln!(batch, "netns add {namespace}\n-n {namespace} link set lo up");
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
        }
        // `ip -batch` takes no `-n` within a line.
        for line in batch.lines() {
            ip(&line.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn furnish(&self) -> anyhow::Result<()> {
        let key = self.path("key");
        fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let zeo = "<zeo>\n address $(ZEO_ADDRESS)\n</zeo>\n<filestorage 1>\n path $(ZEO_DATA)\n</filestorage>\n";
        fs::write(self.path("zeo.conf"), zeo)?;
        for (node, peer) in [("a", "b"), ("b", "a")] {
            fs::create_dir(self.path(node))?;
            fs::copy(self.environment.data(), self.path(node).join("Data.fs"))?;
            self.fence_program(node)?;
            self.set_fence(node, "answers")?;
            fs::write(self.path(&format!("{node}.toml")), self.member(node, peer))?;
        }
        fs::write(self.path("w.toml"), self.witness())?;
        Ok(())
    }

    /// A device that kills everything in a namespace, as a power switch would, and can be told to behave badly.
    fn fence_program(&self, node: &str) -> anyhow::Result<()> {
        let (mode, mark) = (self.path(&format!("{node}.fence")), self.path(&format!("{node}.shot")));
        let (namespace, switch) = (self.namespace(node), self.namespace("s"));
        let text = format!(
            "#!/bin/sh\nread mode < {mode}\n\
             case $mode in unreachable) sleep 100;; refuses) exit 1;; slow) sleep 0.8;; *) sleep 0.2;; esac\n\
             if [ \"$1\" = off ]; then echo shot >> {mark}\n\
             ip netns pids {namespace} | xargs -r kill -9\nip -n {switch} link set {node}0 down\nip -n {switch} link set {node}1 down\nexit 0; fi\n\
             [ -z \"$(ip netns pids {namespace})\" ] && exit 2; exit 0\n",
            mode = mode.display(),
            mark = mark.display(),
        );
        let path = self.path(&format!("fence-{node}"));
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
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

    fn common(&self, node: &str) -> String {
        let (timing, monitor) = if is_fast() {
            (
                "interval = \"100ms\", warn = \"250ms\", dead = \"500ms\", lease = \"500ms\", margin = \"50ms\"",
                "every = \"100ms\", timeout = \"200ms\"",
            )
        } else {
            (
                "interval = \"100ms\", warn = \"600ms\", dead = \"1200ms\", lease = \"1200ms\", margin = \"200ms\"",
                "every = \"200ms\", timeout = \"800ms\"",
            )
        };
        format!(
            "version = 1\n[admin]\nsocket = \"{socket}\"\n[log]\naccess = \"off\"\n\
             [heartbeat]\nnode = \"{node}\"\ncluster = \"test\"\nmembers = [\"a\", \"b\"]\nwitnesses = [\"w\"]\n\
             key_file = \"{key}\"\nstate_dir = \"{state}\"\ntakeovers = 100\n\
             timing = {{ {timing}, initdead = \"4s\", yield_wait = \"2s\", fence_retry = \"1s\" }}\nmonitor = {{ {monitor} }}\n\
             [heartbeat.at]\n\
             a = {{ links = [\"10.77.0.1:694\", \"10.77.1.1:694\"], storage = \"10.77.0.1:8100\" }}\n\
             b = {{ links = [\"10.77.0.2:694\", \"10.77.1.2:694\"], storage = \"10.77.0.2:8100\" }}\n\
             w = {{ links = [\"10.77.0.3:694\"] }}\n",
            socket = self.path(&format!("{node}.sock")).display(),
            key = self.path("key").display(),
            state = self.path(&format!("{node}.state")).display(),
        )
    }

    fn member(&self, node: &str, peer: &str) -> String {
        let home = self.path(node);
        let mut options = vec!["ZEO_ADDRESS=0.0.0.0:8100".to_owned(), format!("ZEO_DATA={}/Data.fs", home.display())];
        options.extend(self.environment.variables().iter().map(|(key, value)| format!("{key}={}", value.display())));
        let fence = |node: &str| {
            let program = self.path(&format!("fence-{node}"));
            format!("{{ node = \"{node}\", kind = \"exec\", command = [\"{}\"], timeout = \"1s\" }}", program.display())
        };
        let common = self.common(node);
        let own = format!(
            "data = \"{home}/Data.fs\"\naddress = {{ kind = \"ip\", ip = \"10.77.0.10/24\", device = \"eth0\" }}\n\
             fence = [{fence}, {other}]\n\
             resource = [{{ name = \"zeo\", command = [\"{python}\", \"-m\", \"ZEO.runzeo\", \"-C\", \"{conf}\"], options = {options:?}, log = \"{home}/zeo.log\", stop = \"3s\" }}]\n",
            home = home.display(),
            fence = fence(peer),
            other = fence(node),
            python = self.environment.python().display(),
            conf = self.path("zeo.conf").display(),
        );
        common.replacen("[heartbeat.at]", &format!("{own}[heartbeat.at]"), 1)
    }

    fn witness(&self) -> String {
        let edge = "[server]\nlisten = [\"127.0.0.1:8000\"]\n[site.\"www.example.org\"]\nupstream = \"zope\"\n\
             [upstream.zope]\npair = true\nactive = \"a\"\ncheck = { kind = \"off\" }\nset = { a = [\"127.0.0.1:9001\"], b = [\"127.0.0.1:9002\"] }\n\
             [limit.per-client]\nrate = \"off\"\n";
        format!("{}{edge}", self.common("w"))
    }

    /// A file of this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a node, with its links up.
    pub fn start(&mut self, node: &str) -> anyhow::Result<()> {
        self.mend(node)?;
        let log = File::options().create(true).append(true).open(self.path(&format!("{node}.log")))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node), env!("CARGO_BIN_EXE_tidegate"), "run", "--config"]);
        command.arg(self.path(&format!("{node}.toml"))).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {node}"))?;
        self.running.push((node.to_owned(), child));
        Ok(())
    }

    /// Everything on a node ends at once, and its links with it.
    pub fn power_off(&mut self, node: &str) -> anyhow::Result<()> {
        self.signal_all(node, Signal::KILL)?;
        self.isolate(node)?;
        self.reap(node);
        Ok(())
    }

    /// A signal to every process of a node.
    pub fn signal_all(&self, node: &str, signal: Signal) -> anyhow::Result<()> {
        for pid in self.pids(node)? {
            // It may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }

    /// A signal to a node's storage.
    pub fn signal_storage(&self, node: &str, signal: Signal) -> anyhow::Result<()> {
        let mut found = false;
        for pid in self.pids(node)? {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("ZEO.runzeo") {
                found = true;
                kill_process(pid, signal)?;
            }
        }
        ensure!(found, "no storage runs on {node}");
        Ok(())
    }

    fn pids(&self, node: &str) -> anyhow::Result<Vec<Pid>> {
        let told = Command::new("ip").args(["netns", "pids", &self.namespace(node)]).output()?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect())
    }

    /// Whether anything runs on a node.
    pub fn is_empty(&self, node: &str) -> anyhow::Result<bool> {
        Ok(self.pids(node)?.is_empty())
    }

    /// Forgets a node's process that has ended.
    pub fn reap(&mut self, node: &str) {
        for (_, child) in self.running.iter_mut().filter(|(name, _)| name == node) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.running.retain(|(name, _)| name != node);
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

    /// What a node says of itself.
    pub fn status(&self, node: &str) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(self.path(&format!("{node}.sock")))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /pair HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n").context("an answer")?.1;
        serde_json::from_str(body).with_context(|| body.to_owned())
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
        self.client = Some(Watch::begin(&self.namespace("c"), SERVICE.parse()?, watch::ruok));
        for node in ["a", "b"] {
            let own: SocketAddr = "127.0.0.1:8100".parse()?;
            self.storages.push(Watch::begin(&self.namespace(node), own, watch::ruok));
        }
        Ok(())
    }

    /// Notes something that was measured.
    pub fn tell(&mut self, line: String) {
        self.lines.push(line);
    }

    /// What was measured.
    pub fn report(&self) -> &[String] {
        &self.lines
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
        // Those who ask sit in the namespaces, and would keep them.
        self.client = None;
        self.visitor = None;
        self.storages.clear();
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
        for (_, mut child) in self.running.drain(..) {
            let _ = child.wait();
        }
    }
}

/// A shell that ends and removes everything once its input ends, in whatever way we end.
fn janitor(prefix: &str) -> anyhow::Result<Child> {
    let script = format!(
        "trap '' HUP INT QUIT TERM; cat > /dev/null\n\
         for n in a b w c s; do ip netns pids {prefix}$n | xargs -r kill -9; done\n\
         for n in a b w c s; do ip netns del {prefix}$n; done"
    );
    let mut command = Command::new("sh");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the shell that removes the namespaces")
}

/// For figures: waits until no vote binds anybody any more, so that each fault is measured alone.
pub fn settle() {
    if is_fast() {
        std::thread::sleep(Duration::from_secs(4));
    }
}

fn is_fast() -> bool {
    std::env::var("TIDEGATE_NETNS_TIMES").as_deref() == Ok("fast")
}

fn links_of(node: &str) -> usize {
    if matches!(node, "a" | "b") { 2 } else { 1 }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let told = Command::new("ip").args(arguments).output().context("run ip")?;
    ensure!(told.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&told.stderr).trim());
    Ok(())
}
