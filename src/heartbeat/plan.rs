//! What an operator decided about the pair, as its parts need it.

use crate::heartbeat::address;
use crate::heartbeat::fence::Device;
use crate::heartbeat::machine::ClusterName;
use crate::heartbeat::machine::NodeName;
use crate::heartbeat::machine::Settings;
use crate::heartbeat::monitor::Monitor;
use crate::heartbeat::resource;
use crate::heartbeat::resource::Resource;
use crate::heartbeat::watchdog;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The pair, as this node takes part in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the machine goes by.
    pub settings: Settings,
    /// The pair's name.
    pub cluster: ClusterName,
    /// All voters, in the order of the roster.
    pub nodes: Vec<Node>,
    /// The file with the keys.
    pub key_file: PathBuf,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// The local copy of the storage.
    pub data: Option<PathBuf>,
    /// How the members' storages are asked.
    pub monitors: [Option<Monitor>; 2],
    /// How often.
    pub probe_every: Duration,
    /// How long an answer may take.
    pub probe_timeout: Duration,
    /// The devices that put the other member off, by level.
    pub fence: Vec<Vec<Device>>,
    /// The service address.
    pub address: address::Mode,
    /// What runs on the active member.
    pub resources: Vec<Resource>,
    /// Whether there must be a watchdog.
    pub watchdog: watchdog::Need,
    /// Its device.
    pub watchdog_device: PathBuf,
    /// The longest that it may wait.
    pub watchdog_max: Duration,
}

/// A voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its addresses, one for each link.
    pub links: Vec<SocketAddr>,
}

impl Plan {
    /// Whether SIGKILL reaches everything that could acknowledge a write, so that a lease that ended proves something.
    #[must_use]
    pub fn can_be_killed(&self) -> bool {
        self.resources.iter().all(|resource| matches!(resource.kind, resource::Kind::Process(_)))
    }

    /// The users whose rights the processes get.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let user = |resource: &Resource| match &resource.kind {
            resource::Kind::Process(process) => process.user.clone(),
            _ => None,
        };
        self.resources.iter().filter_map(user).collect()
    }

    /// The name of a voter, for people.
    #[must_use]
    pub fn name(&self, id: crate::heartbeat::machine::NodeId) -> &str {
        self.nodes.get(usize::from(id.0)).map_or("?", |node| node.name.as_str())
    }
}

/// The plan of the member `a` of a pair with one witness, two links and a fence device for each member.
#[cfg(test)]
pub(super) fn sample() -> Plan {
    let text = "version = 1\n[heartbeat]\nnode = \"a\"\nmembers = [\"a\", \"b\"]\nwitnesses = [\"w\"]\ndata = \"/srv/Data.fs\"\n\
        at.a = { links = [\"10.0.0.1:694\", \"10.1.0.1:694\"], storage = \"10.0.0.1:8100\" }\n\
        at.b = { links = [\"10.0.0.2:694\", \"10.1.0.2:694\"], storage = \"10.0.0.2:8100\" }\n\
        at.w = { links = [\"10.0.0.3:694\"] }\n\
        resource = [{ name = \"zeo\", command = [\"runzeo\"] }]\n\
        fence = [{ node = \"a\", command = [\"f\"] }, { node = \"b\", command = [\"f\"] }]\n";
    let loaded = crate::config::parse("pair.toml", text).unwrap_or_else(|report| panic!("{report}"));
    crate::config::pair::plan(&loaded.config.heartbeat).0.expect("a plan")
}
