//! Real processes on loopback: what an operator orders and is told, and what strangers send.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use tidegate::heartbeat::machine::Beat;
use tidegate::heartbeat::machine::BootId;
use tidegate::heartbeat::machine::ClusterName;
use tidegate::heartbeat::machine::Epoch;
use tidegate::heartbeat::machine::LinkId;
use tidegate::heartbeat::machine::NodeId;
use tidegate::heartbeat::machine::NodeName;
use tidegate::heartbeat::machine::Roster;
use tidegate::heartbeat::machine::Service;
use tidegate::heartbeat::machine::Standing;
use tidegate::heartbeat::machine::message::DATAGRAM;
use tidegate::heartbeat::machine::message::Echo;
use tidegate::heartbeat::machine::message::Hearsay;
use tidegate::heartbeat::machine::message::KeyRing;
use tidegate::heartbeat::machine::message::Known;
use tidegate::heartbeat::machine::message::Maintenance;
use tidegate::heartbeat::machine::message::decode;
use tidegate::heartbeat::machine::message::encode;
use tidegate::zodb::Tid;

/// Nothing here takes longer, on a very busy machine neither.
const DEADLINE: Duration = Duration::from_secs(120);

const NODES: [&str; 3] = ["a", "b", "w"];
const KEY: [u8; 16] = [7; 16];

/// A storage of sorts: it listens, and ends when it is told to.
const STORAGE: &str = "import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(sys.argv[1])))
s.listen(64)
while True: s.accept()[0].close()
";

/// Two members and a witness, in a directory of their own.
struct Voters {
    dir: TempDir,
    links: [SocketAddr; 3],
    storages: [SocketAddr; 2],
    running: [Option<Child>; 3],
}

impl Drop for Voters {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            // The guard kills its storage.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Voters {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let (links, storages) = (ports(udp_port), ports(tcp_port));
        let voters = Self { dir, links, storages, running: [const { None }; 3] };
        let key = voters.path("key");
        fs::write(&key, format!("{}\n", "07".repeat(KEY.len()))).expect("a file");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
        for (node, name) in NODES.into_iter().enumerate() {
            fs::write(voters.path(&format!("{name}.toml")), voters.config(node)).expect("a file");
        }
        voters
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, node: usize) -> String {
        let name = NODES[node];
        let [a, b, w] = self.links;
        let [at_a, at_b] = self.storages;
        let resource = self.storages.get(node).map_or(String::new(), |addr| {
            let port = addr.port().to_string();
            format!(
                "resource = [{{ name = \"zeo\", command = [\"python3\", \"-c\", {STORAGE:?}, {port:?}], stop = \"5s\" }}]\n"
            )
        });
        format!(
            "version = 1\n[admin]\nsocket = \"{socket}\"\n[log]\naccess = \"off\"\n\
             [heartbeat]\nnode = \"{name}\"\ncluster = \"test\"\nmembers = [\"a\", \"b\"]\nwitnesses = [\"w\"]\n\
             key_file = \"{key}\"\nstate_dir = \"{state}\"\n{resource}\
             timing = {{ interval = \"100ms\", warn = \"2s\", dead = \"4s\", lease = \"4s\", margin = \"1s\", initdead = \"8s\" }}\n\
             monitor = {{ kind = \"tcp\", every = \"200ms\", timeout = \"2s\" }}\n\
             [heartbeat.at]\n\
             a = {{ links = [\"{a}\"], storage = \"{at_a}\" }}\nb = {{ links = [\"{b}\"], storage = \"{at_b}\" }}\n\
             w = {{ links = [\"{w}\"] }}\n",
            socket = self.path(&format!("{name}.sock")).display(),
            key = self.path("key").display(),
            state = self.path(&format!("{name}.state")).display(),
        )
    }

    fn start(&mut self, node: usize) {
        let name = NODES[node];
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(self.path(&format!("{name}.toml")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("tidegate starts");
        self.running[node] = Some(child);
    }

    /// Ends a voter as a service manager does, and waits for it.
    fn stop(&mut self, node: usize) {
        let mut child = self.running[node].take().expect("it runs");
        let sent = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        let began = Instant::now();
        while child.try_wait().expect("a child").is_none() {
            assert!(began.elapsed() < DEADLINE, "{} does not end:\n{}", NODES[node], self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `tidegate pair` says of it, and its exit status.
    fn pair(&self, node: usize, words: &[&str]) -> (i32, String) {
        let socket = self.path(&format!("{}.sock", NODES[node]));
        let ran = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("pair")
            .args(words)
            .arg("--socket")
            .arg(socket)
            .output()
            .expect("it runs");
        let told = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (ran.status.code().unwrap_or(-1), told)
    }

    fn status(&self, node: usize) -> Value {
        serde_json::from_str(&self.pair(node, &["status", "--json"]).1).unwrap_or_default()
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < DEADLINE, "not in time: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Who is active, when the other one is ready and would take over.
    fn active(&self) -> Option<usize> {
        let active = (0..2).find(|node| self.status(*node)["role"] == "active")?;
        let forecast = self.status(active)["if_the_active_died_now"].as_str()?.to_owned();
        forecast.starts_with(&format!("{} takes over", NODES[1 - active])).then_some(active)
    }

    fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        NODES.map(|name| format!("--- {name}\n{}", read(name))).concat()
    }
}

fn ports<const N: usize>(one: impl Fn() -> (SocketAddr, Box<dyn std::any::Any>)) -> [SocketAddr; N] {
    // All are held until the last is chosen, so that they differ.
    let held: [(SocketAddr, Box<dyn std::any::Any>); N] = std::array::from_fn(|_| one());
    held.map(|(addr, _)| addr)
}

fn udp_port() -> (SocketAddr, Box<dyn std::any::Any>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    (socket.local_addr().expect("its address"), Box::new(socket))
}

fn tcp_port() -> (SocketAddr, Box<dyn std::any::Any>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    (socket.local_addr().expect("its address"), Box::new(socket))
}

#[test]
fn orders_are_followed_or_refused_with_the_reason_that_holds() {
    let mut voters = Voters::new();
    (0..3).for_each(|node| voters.start(node));
    voters.wait("one serves, the other would take over", |voters| voters.active().is_some());
    let active = voters.active().expect("one is active");
    let standby = 1 - active;
    let refused = |voters: &Voters, node: usize, words: &[&str], why: &str| {
        let (code, told) = voters.pair(node, words);
        assert!(code == 1 && told.contains(why), "{words:?} at {}: {code}, {told}\n{}", NODES[node], voters.logs());
    };
    let followed = |voters: &Voters, node: usize, words: &[&str]| {
        let (code, told) = voters.pair(node, words);
        assert!(code == 0, "{words:?} at {}: {code}, {told}\n{}", NODES[node], voters.logs());
        told
    };

    refused(&voters, standby, &["drill"], "this member is not active");
    refused(&voters, standby, &["switchover"], "this member does not serve");
    refused(&voters, standby, &["takeover", "--force"], "is heard here, so it is not off");
    refused(&voters, 2, &["standby"], "this is a witness");

    followed(&voters, 2, &["maintenance", "on"]);
    voters.wait("the active hears of it", |voters| voters.status(active)["maintenance"] == true);
    refused(&voters, active, &["switchover"], "the pair is in maintenance");
    followed(&voters, active, &["maintenance", "off"]);
    voters.wait("it is over", |voters| voters.active() == Some(active));

    // An order outlives the program that took it.
    followed(&voters, standby, &["standby"]);
    voters.stop(standby);
    voters.start(standby);
    let told = format!("{} says: an operator has put this member on standby", NODES[standby]);
    voters.wait("it is back", |voters| voters.status(standby)["role"] == "standby");
    voters.wait("and heard", |voters| voters.pair(active, &["drill"]).1.contains(&told));
    refused(&voters, active, &["drill"], &told);
    followed(&voters, standby, &["online"]);
    voters.wait("it would take over again", |voters| voters.active() == Some(active));

    let (code, told) = voters.pair(active, &["doctor"]);
    assert!(code == 1 && told.contains("no fence device can put"), "{code}, {told}");
    let told = followed(&voters, active, &["drill"]);
    assert!(told.contains(&format!("{} serves since", NODES[standby])), "{told}");
    voters.wait("the roles have changed", |voters| voters.status(standby)["role"] == "active");
    let report = voters.status(standby)["reports"][0].clone();
    assert_eq!((&report["proof"], &report["by"]), (&"release".into(), &NODES[standby].into()), "{report}");

    voters.stop(active);
    voters.wait("its end is noticed", |voters| {
        voters.pair(standby, &["drill"]).1.contains("the other member is not heard here")
    });
    assert_eq!(voters.status(standby)["role"], "active");
    // With nobody to give the role to, the last one stops its service in order.
    let storage = voters.storages[standby];
    TcpStream::connect(storage).expect("it serves");
    voters.stop(standby);
    assert!(TcpStream::connect(storage).is_err(), "it does not serve any more");

    let audit = fs::read_to_string(voters.path(&format!("{}.state/pair.log", NODES[standby]))).expect("an audit");
    for line in ["an operator orders: takeover --force", "not done: takeover --force", "an operator orders: standby"] {
        assert!(audit.contains(line), "{line} is missing in\n{audit}");
    }
}

#[test]
fn what_strangers_send_is_counted_by_reason_and_changes_nothing() {
    let mut voters = Voters::new();
    voters.start(2);
    voters.wait("it listens", |voters| voters.status(2)["role"] == "witness");
    // We are the member a, and whoever else sends to the witness.
    let socket = UdpSocket::bind(voters.links[0]).expect("the address of a");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.connect(voters.links[2]).expect("the witness");
    let name = |text: &str| NodeName::parse(text).expect("a name");
    let roster = Roster::new([name("a"), name("b")], vec![name("w")]).expect("a roster");
    let larger = Roster::new([name("a"), name("b")], vec![name("w"), name("x")]).expect("a roster");
    let cluster = |text: &str| ClusterName::parse(text).expect("a name");
    let keys = |key: &[u8]| KeyRing::new(&[key]).expect("a key");
    let send = |datagram: &[u8]| {
        // A full queue is no reason to stop.
        let _ = socket.send(datagram);
    };
    let good = |beat: &Beat| encode(beat, &keys(&KEY), &cluster("test"), &roster);

    // Its own beats reach us, and one of them, echoed, shows that we are no recording.
    let mut datagram = [0; DATAGRAM];
    let length = socket.recv(&mut datagram).expect("a beat");
    let heard = decode(&datagram[..length], &keys(&KEY), &cluster("test"), &roster).expect("it is whole");
    let echo = Echo { boot: heard.boot, seq: heard.seq };
    send(&good(&beat(9, Echo::default())));
    send(&good(&beat(10, echo)));
    voters.wait("we are heard", |voters| voters.status(2)["links"][0]["last_heard_ms"].is_u64());

    for seq in 1..=20 {
        send(&good(&beat(10, echo)));
        send(&good(&Beat { to: NodeId(1), ..beat(20 + seq, echo) }));
        send(&encode(&beat(50, echo), &keys(b"somebody else's key"), &cluster("test"), &roster));
        send(&encode(&beat(50, echo), &keys(&KEY), &cluster("other"), &roster));
        send(&encode(&beat(50, echo), &keys(&KEY), &cluster("test"), &larger));
        send(&good(&Beat { standing: Standing::Witness, ..beat(50, echo) }));
        let mut newer = good(&beat(50, echo));
        newer[4] = 99;
        send(&newer);
        let whole = good(&beat(50, echo));
        send(&whole[..usize::try_from(seq * 17).expect("short")]);
        send(&[whole.as_slice(), b"!"].concat());
        std::thread::yield_now();
    }
    let wanted = ["replayed", "misdirected", "key", "cluster", "roster", "field", "version", "garbage", "unproven"];
    voters.wait("all is counted", |voters| {
        let rejected = voters.status(2)["rejected"].clone();
        wanted.iter().all(|reason| rejected[reason].as_u64().is_some_and(|count| count > 0))
    });
    let status = voters.status(2);
    assert_eq!((&status["role"], &status["pair"]["epoch"]), (&"witness".into(), &0.into()), "{status}");
}

/// A standby's beat to the witness.
fn beat(seq: u64, echo: Echo) -> Beat {
    let nothing =
        Hearsay { released: Epoch(0), left_us: 0, armed: Epoch(0), backed: Epoch(0), service: Service::Unknown };
    Beat {
        from: NodeId(0),
        to: NodeId(2),
        link: LinkId(0),
        boot: BootId(77),
        seq,
        echo,
        seen: Epoch(0),
        vote: None,
        standing: Standing::Standby,
        held: Epoch(0),
        ask: None,
        answer: None,
        members: [nothing; 2],
        tid: Tid(0),
        known: Known::default(),
        armed: false,
        lease_us: 0,
        ready: false,
        maintenance: Maintenance::default(),
        plea: Epoch(0),
        refusal: 0,
        unready: 0,
    }
}
