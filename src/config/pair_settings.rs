//! The settings of the storage pair.

use crate::config::decode::settings;
use crate::config::values::AddressKind;
use crate::config::values::FenceKind;
use crate::config::values::NodeLabel;
use crate::config::values::OneOrMore;
use crate::config::values::PairMode;
use crate::config::values::ProbeKind;
use crate::config::values::ResourceKind;
use crate::config::values::ServiceIp;
use crate::config::values::WatchdogNeed;
use crate::units::OriginAddr;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

settings! {
    /// The storage pair.
    Heartbeat {
        /// The name of this node: one of `members` or `witnesses`.
        node: Option<NodeLabel> = None,
        /// The pair's name; part of what is authenticated, so that two pairs on one network never hear each other.
        cluster: String = "pair".to_owned(),
        /// The two nodes that have the storage.
        members: Vec<NodeLabel> = Vec::new(),
        /// The nodes that only vote; an edge normally is one. An odd number of voters: one witness, or three. A pair without
        /// any must say `witnesses = ["none"]`: then only a confirmed fence, a release or an operator can prove a takeover.
        witnesses: Vec<NodeLabel> = Vec::new(),
        /// Where each of them is.
        at: BTreeMap<NodeLabel, Place> = BTreeMap::new(),
        /// The file with the keys, one a line in hex (`openssl rand -hex 32`), the one to seal with first; mode 0600. A new
        /// key is added as second on every voter, then moved to the first place, then the old one is taken away.
        key_file: PathBuf = PathBuf::from("/etc/tidegate/pair.key"),
        /// Where votes are remembered. On a disk that keeps what was synced.
        state_dir: PathBuf = PathBuf::from("/var/lib/tidegate"),
        /// Do everything, or, with "observe", only say what would have been done: for the first weeks.
        mode: PairMode = PairMode::Act,
        /// The times of the heartbeat.
        timing: Timing = Timing::default(),
        /// How often the service is restarted on the active member within 10 minutes before it moves. 0: it moves at once.
        restarts: u32 = 0,
        /// Most takeovers in an hour, 1 to 32; then refuse, and call for a person. The journal remembers them, so a restart
        /// does not begin the count anew; `tidegate pair online` does.
        takeovers: u32 = 4,
        /// How far the copy may be behind the last transaction that an active was known to have, when it is promoted.
        max_lag: Duration = Duration::ZERO,
        /// The Data.fs of this member, whose last transaction is told to the others and which is checked before it is
        /// promoted. Without it nobody knows whether the copy is whole.
        data: Option<PathBuf> = None,
        /// How the storage is asked whether it serves: "zeo" (greeting, `ruok`, last transaction), "tcp", "http" or "exec".
        monitor: Probe = Probe::default(),
        /// How the members' power is put off. Devices of one level must all succeed; levels are tried in turn.
        fence: Vec<Fence> = Vec::new(),
        /// The service address.
        address: Address = Address::default(),
        /// What runs on the active member only, started in this order, stopped in reverse.
        resource: Vec<Resource> = Vec::new(),
        /// The machine's watchdog: "off"; "observe" (look at it, never open it); "required" (no active role without it).
        watchdog: WatchdogNeed = WatchdogNeed::Off,
        /// Its device.
        watchdog_device: PathBuf = PathBuf::from("/dev/watchdog"),
        /// The longest that the watchdog may wait before it resets the machine. Not longer than a lease may be relied on.
        watchdog_max: Duration = seconds(10),
    }
}

settings! {
    /// Where a node of the pair is.
    Place {
        /// Its heartbeat addresses, one for each link: the first of every node is on the first link, and so on. Two links at
        /// least between the members, on separate cables.
        links: Vec<SocketAddr> = Vec::new(),
        /// Where its storage answers when it serves there, HOST:PORT, on an address of its own, not the service address. Members
        /// only.
        storage: Option<OriginAddr> = None,
    }
}

settings! {
    /// The times of the heartbeat. Four intervals must fit in the lease, three in `dead`.
    Timing {
        /// One heartbeat per link in this time.
        interval: Duration = Duration::from_millis(250),
        /// A voter so long silent is late: it is said and counted, and edges begin to hold.
        warn: Duration = seconds(1),
        /// A voter silent on all links for so long is dead.
        dead: Duration = seconds(2),
        /// After its start a member that hears nothing waits so long before it wants the role: switches are slow. Twice `dead`
        /// at least.
        initdead: Duration = seconds(30),
        /// The active's right to serve lasts so long after a majority renewed it.
        lease: Duration = seconds(2),
        /// So long before the end of a lease that could not be renewed the active stops itself: as long as a kill takes.
        margin: Duration = Duration::from_millis(200),
        /// A member that gave up the role leaves it to the other for so long.
        yield_wait: Duration = seconds(10),
        /// For the storage to answer after it was started.
        serve: Duration = seconds(120),
        /// For the check of the copy before it is promoted.
        verify: Duration = seconds(120),
        /// Between two rounds of all fence devices.
        fence_retry: Duration = seconds(5),
    }
}

settings! {
    /// How the storage is asked.
    Probe {
        /// "zeo", "tcp", "http" or "exec".
        kind: ProbeKind = ProbeKind::Zeo,
        /// The storage's name in ZEO.
        storage: String = "1".to_owned(),
        /// With "zeo": the longest that one commit may keep others waiting; then the storage does not serve, is stopped, and the
        /// client that hangs with its commit is rid of it. Longer than any commit of the site takes (imports, uploads). "0s": for
        /// ever.
        commit_max: Duration = seconds(300),
        /// The page of "http".
        path: String = "/".to_owned(),
        /// Program and arguments of "exec"; it gets the node's name as last argument, and exits with 0 when the storage serves.
        command: Vec<String> = Vec::new(),
        /// How often.
        every: Duration = Duration::from_millis(500),
        /// How long an answer may take. A ZEO server answers nobody while its disk syncs.
        timeout: Duration = seconds(2),
        /// Of the last `window` questions, so many must have failed for two observers. Questions do not wait for each other, so a
        /// storage that hangs is sick after `timeout` and `failed` times `every` at the latest: 3.5 s as shipped. One without an
        /// answer does not count when a later one was answered: packets get lost.
        failed: u32 = 3,
        /// See `failed`. 1 to 16.
        window: u32 = 4,
    }
}

settings! {
    /// A fence device.
    Fence {
        /// The member that it puts off.
        node: Option<NodeLabel> = None,
        /// The protocol: "agent" (fence-agents), "external" (cluster-glue) or "exec" (`off` or `status` as last argument; exit
        /// codes as those of fence-agents: status 0 on, 2 off).
        kind: FenceKind = FenceKind::Agent,
        /// The program and its arguments.
        command: Vec<String> = Vec::new(),
        /// What it is told, each "KEY=VALUE"; never a password.
        options: Vec<String> = Vec::new(),
        /// The file with the password; mode 0600.
        password_file: Option<PathBuf> = None,
        /// The node's name to the device: a plug, an outlet. Its own name, unless told otherwise.
        plug: Option<String> = None,
        /// Its level, from 1.
        level: u32 = 1,
        /// For one call of the program.
        timeout: Duration = seconds(10),
    }
}

settings! {
    /// The service address.
    Address {
        /// "none" (clients know both members, edges hear of the event), "ip" (an address that moves) or "exec".
        kind: AddressKind = AddressKind::None,
        /// The address with its prefix, such as "10.0.0.10/24", or a list of up to 8, such as one of each family. They are one
        /// thing: all are up before the storage is started; when one cannot be put up, none stays, and the takeover has failed.
        /// "10.0.1.10/24 dev eth1" is put on an interface of its own.
        ip: OneOrMore<ServiceIp> = OneOrMore(Vec::new()),
        /// The interface they are put on.
        device: String = String::new(),
        /// Program and arguments of "exec"; it gets `up` or `down` as last argument.
        command: Vec<String> = Vec::new(),
        /// For one call of it.
        timeout: Duration = seconds(5),
    }
}

settings! {
    /// What runs on the active member only.
    Resource {
        /// Its name.
        name: String = String::new(),
        /// "process" (tidegate starts and supervises it; it must stay in the foreground), "lsb" (an init script), "ocf" (a
        /// resource agent) or "systemd" (a unit, which must not be enabled).
        kind: ResourceKind = ResourceKind::Process,
        /// Program and arguments of a process; script and arguments of "lsb"; the agent of "ocf"; the unit of "systemd".
        command: Vec<String> = Vec::new(),
        /// Each "KEY=VALUE": a process's environment, an agent's parameters without their prefix `OCF_RESKEY_`.
        options: Vec<String> = Vec::new(),
        /// Whose rights a process gets. tidegate's own, unless told otherwise.
        user: Option<String> = None,
        /// Where a process is started.
        dir: Option<PathBuf> = None,
        /// Where what a process says goes. To tidegate's own output, unless told otherwise.
        log: Option<PathBuf> = None,
        /// For a start.
        start: Duration = seconds(60),
        /// For a stop. A process is killed after it; for the others it is a failure, and the member asks to be fenced.
        stop: Duration = seconds(10),
    }
}
