//! What runs only on the active member: processes that tidegate supervises itself, init scripts (LSB), resource agents (OCF),
//! systemd units. Started in order, stopped in reverse.
//!
//! A stop that failed or took too long is an error of its own kind for whoever asked: such a member must be fenced. A process
//! that was stopped by SIGSTOP does not hear SIGTERM, so a stop always ends with SIGKILL to the whole process group; it is never
//! thawed first, for it might acknowledge a write then. [`Groups::kill`] is the self-fence: one system call for each group, from
//! any thread, without waiting for anything. What was being started meanwhile does not outlive it: a start belongs to the count
//! of self-fences at which it was wanted, and both are looked at under one lock.

use crate::clock;
use crate::heartbeat::command::Ended;
use crate::heartbeat::command::Order;
use crate::heartbeat::command::ended;
use crate::heartbeat::command::kill_group;
use crate::heartbeat::guard::Guard;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::sync::watch;

/// One thing that runs on the active member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, for people and for `OCF_RESOURCE_INSTANCE`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// For a start.
    pub start_timeout: Duration,
    /// For a stop; a process is killed when it is over.
    pub stop_timeout: Duration,
}

/// What kinds of resources there are.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A process that tidegate starts and supervises.
    Process(Process),
    /// An init script: `SCRIPT [ARGUMENTS] start|stop|status`.
    Lsb {
        /// Script and arguments.
        argv: Vec<String>,
    },
    /// A resource agent: `AGENT start|stop|monitor`.
    Ocf {
        /// The agent.
        agent: PathBuf,
        /// Its parameters, without `OCF_RESKEY_`.
        parameters: Vec<(String, String)>,
    },
    /// A unit of systemd.
    Systemd {
        /// The unit.
        unit: String,
    },
}

/// A process that tidegate starts and supervises. It must stay in the foreground.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables, beside those of tidegate.
    pub env: Vec<(String, String)>,
    /// Whose rights it gets; tidegate's own when it is not given.
    pub user: Option<String>,
    /// Where it is started.
    pub dir: Option<PathBuf>,
    /// Where what it says goes; to tidegate's own outputs when it is not given.
    pub log: Option<PathBuf>,
}

impl std::fmt::Debug for Kind {
    /// Without parameters and environments: passwords may be in there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {:?}", process.argv),
            Self::Lsb { argv } => write!(f, "lsb {argv:?}"),
            Self::Ocf { agent, .. } => write!(f, "ocf {}", agent.display()),
            Self::Systemd { unit } => write!(f, "systemd {unit}"),
        }
    }
}

/// How a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running,
    /// It does not, and left nothing behind that says otherwise.
    Stopped,
    /// It is broken, or nobody can tell.
    Failed,
}

/// A supervised process has ended without being told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub resource: String,
    /// How.
    pub how: Ended,
}

/// What is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// It could not be started.
    #[error("start {name}: {why}")]
    Start {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// It is not known to be stopped.
    #[error("stop {name}: {why}")]
    Stop {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
}

/// The exit code of an init script's `status`.
#[must_use]
pub fn lsb_status(ended: &Ended) -> Status {
    match ended {
        Ended::Exit(0) => Status::Running,
        // 1 and 2: dead, with a pid file or lock file left behind; the process is gone all the same.
        Ended::Exit(1..=3) => Status::Stopped,
        _ => Status::Failed,
    }
}

/// The exit code of a resource agent's `monitor`.
#[must_use]
pub fn ocf_monitor(ended: &Ended) -> Status {
    match ended {
        // 190: running, degraded.
        Ended::Exit(0 | 8 | 190 | 191) => Status::Running,
        Ended::Exit(7) => Status::Stopped,
        _ => Status::Failed,
    }
}

/// The exit code of `systemctl is-active`.
#[must_use]
pub fn systemd_active(ended: &Ended) -> Status {
    match ended {
        Ended::Exit(0) => Status::Running,
        // 3: not active, which includes failed; 4: there is no such unit.
        Ended::Exit(3) => Status::Stopped,
        _ => Status::Failed,
    }
}

/// The process groups that run now, for the self-fence.
#[derive(Debug, Default)]
pub struct Groups {
    running: Mutex<Running>,
    guard: Option<Arc<Guard>>,
}

#[derive(Debug, Default)]
struct Running {
    groups: Vec<u32>,
    kills: u64,
}

impl Groups {
    /// Groups that a guard knows of, too.
    #[must_use]
    pub fn guarded(guard: Option<Arc<Guard>>) -> Self {
        Self { running: Mutex::default(), guard }
    }

    /// A group has begun that was wanted after so many kills. After another one it is killed on the spot.
    fn began(&self, group: u32, kills: u64) {
        let mut running = self.lock();
        running.groups.push(group);
        if running.kills != kills {
            kill_group(group, Signal::KILL);
        }
        drop(running);
        if let Some(guard) = &self.guard {
            guard.group(group);
        }
    }

    fn ended(&self, group: u32) {
        self.lock().groups.retain(|other| *other != group);
        if let Some(guard) = &self.guard {
            guard.gone(group);
        }
    }

    /// Kills all of them at once, whatever state they are in, and what is being started; says how often that was done.
    pub fn kill(&self) -> u64 {
        let mut running = self.lock();
        running.kills += 1;
        for group in &running.groups {
            kill_group(*group, Signal::KILL);
        }
        running.kills
    }

    /// The groups that run.
    #[must_use]
    pub fn list(&self) -> Vec<u32> {
        self.lock().groups.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of users, each asked for before it is needed: where users live in a directory, asking may take long or come to
/// nothing just when a storage is to be started.
#[derive(Debug)]
pub struct Users {
    /// What is asked: `id`.
    program: String,
    known: Mutex<BTreeMap<String, Ids>>,
}

/// The numbers of a user and of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user's.
    pub user: u32,
    /// Its group's.
    pub group: u32,
}

impl Default for Users {
    fn default() -> Self {
        Self { program: "id".to_owned(), known: Mutex::default() }
    }
}

impl Users {
    /// What is known of a user, or what the system says of it within `within`.
    ///
    /// # Errors
    /// There is no such user, or the answer took too long.
    pub async fn find(&self, name: &str, within: Duration) -> Result<Ids, String> {
        let known = self.lock().get(name).copied();
        if let Some(ids) = known { Ok(ids) } else { self.learn(name, within).await }
    }

    /// Asks the system for a user, as `id` knows it, for users may live elsewhere than in /etc/passwd, and remembers the answer.
    ///
    /// # Errors
    /// There is no such user, or the answer took too long; what was known of it stays.
    pub async fn learn(&self, name: &str, within: Duration) -> Result<Ids, String> {
        let due = clock::mono() + within;
        let (user, group) = (self.ask("-u", name, due).await?, self.ask("-g", name, due).await?);
        let ids = Ids { user, group };
        self.lock().insert(name.to_owned(), ids);
        Ok(ids)
    }

    async fn ask(&self, which: &str, name: &str, due: Instant) -> Result<u32, String> {
        let left = due.saturating_duration_since(clock::mono());
        let ran = Order::new([&self.program, which, "--", name]).run(left).await;
        match (&ran.ended, ran.said.parse()) {
            (Ended::Exit(0), Ok(number)) => Ok(number),
            (Ended::Exit(_), _) => Err(format!("there is no user {name}: {}", ran.said)),
            _ => Err(format!("nobody knows whether there is a user {name}: id {}", ran.words())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Ids>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts, stops and watches the resources of this member.
pub struct Keeper {
    resources: Vec<Resource>,
    users: Arc<Users>,
    running: Vec<Option<Supervised>>,
    groups: Arc<Groups>,
    exits: mpsc::Sender<Exit>,
}

/// A supervised process.
struct Supervised {
    group: u32,
    ended: watch::Receiver<Option<Ended>>,
    /// Its end is wanted: nobody needs to hear of it.
    wanted: watch::Sender<bool>,
}

impl Keeper {
    /// Nothing runs yet. Ends that nobody asked for are told to `exits`.
    #[must_use]
    pub fn new(resources: Vec<Resource>, users: Arc<Users>, groups: Arc<Groups>, exits: mpsc::Sender<Exit>) -> Self {
        let running = resources.iter().map(|_| None).collect();
        Self { resources, users, running, groups, exits }
    }

    /// Starts all, in order, up to the first that fails. `kills`: how often [`Groups::kill`] had been done when it was wanted.
    ///
    /// # Errors
    /// Which failed, and why. What was started before it runs on.
    pub async fn start(&mut self, kills: u64) -> Result<(), ResourceError> {
        for at in 0..self.resources.len() {
            let name = self.resources[at].name.clone();
            self.start_one(at, kills).await.map_err(|why| ResourceError::Start { name, why })?;
        }
        Ok(())
    }

    /// Stops all, in reverse order, even when one of them fails.
    ///
    /// # Errors
    /// The first that is not known to be stopped: this member must not be believed.
    pub async fn stop(&mut self) -> Result<(), ResourceError> {
        let mut first = None;
        for at in (0..self.resources.len()).rev() {
            let name = self.resources[at].name.clone();
            if let Err(why) = self.stop_one(at).await {
                first.get_or_insert(ResourceError::Stop { name, why });
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// How each of them is.
    pub async fn status(&self) -> Vec<(String, Status)> {
        let mut told = Vec::new();
        for at in 0..self.resources.len() {
            told.push((self.resources[at].name.clone(), self.status_one(at).await));
        }
        told
    }

    async fn start_one(&mut self, at: usize, kills: u64) -> Result<(), String> {
        let resource = self.resources[at].clone();
        let order = match &resource.kind {
            Kind::Process(process) => {
                if self.running[at].as_ref().is_some_and(|running| running.ended.borrow().is_none()) {
                    return Ok(());
                }
                let ids = match &process.user {
                    Some(user) => Some(self.users.find(user, resource.start_timeout).await?),
                    None => None,
                };
                let running = self.launch(&resource.name, process, ids, kills).map_err(|error| error.to_string())?;
                self.running[at] = Some(running);
                return Ok(());
            }
            kind => verb(kind, &resource.name, "start"),
        };
        let ran = order.run(resource.start_timeout).await;
        if ran.ended == Ended::Exit(0) { Ok(()) } else { Err(ran.words()) }
    }

    async fn stop_one(&mut self, at: usize) -> Result<(), String> {
        let resource = self.resources[at].clone();
        if let Kind::Process(_) = resource.kind {
            // It is forgotten when it has ended, and not before: this may be broken off.
            let Some(running) = &mut self.running[at] else { return Ok(()) };
            running.stop(resource.stop_timeout).await?;
            self.running[at] = None;
            return Ok(());
        }
        let ran = verb(&resource.kind, &resource.name, "stop").run(resource.stop_timeout).await;
        if ran.ended != Ended::Exit(0) {
            return Err(ran.words());
        }
        match self.status_one(at).await {
            Status::Stopped => Ok(()),
            status => Err(format!("the stop was reported as done, but then it was {status:?}").to_lowercase()),
        }
    }

    async fn status_one(&self, at: usize) -> Status {
        let resource = &self.resources[at];
        let within = resource.start_timeout;
        match &resource.kind {
            Kind::Process(_) => match &self.running[at] {
                None => Status::Stopped,
                Some(running) if running.ended.borrow().is_none() => Status::Running,
                Some(_) => Status::Failed,
            },
            kind @ Kind::Lsb { .. } => lsb_status(&verb(kind, &resource.name, "status").run(within).await.ended),
            kind @ Kind::Ocf { .. } => ocf_monitor(&verb(kind, &resource.name, "monitor").run(within).await.ended),
            kind @ Kind::Systemd { .. } => {
                systemd_active(&verb(kind, &resource.name, "is-active").run(within).await.ended)
            }
        }
    }

    fn launch(&self, name: &str, process: &Process, ids: Option<Ids>, kills: u64) -> io::Result<Supervised> {
        let mut child = command(process, ids)?.spawn()?;
        let group = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        self.groups.began(group, kills);
        let (tell, ended_rx) = watch::channel(None);
        let (wanted, wanted_rx) = watch::channel(false);
        let (groups, exits, name) = (Arc::clone(&self.groups), self.exits.clone(), name.to_owned());
        tokio::spawn(async move {
            let how = child.wait().await.map_or_else(|error| Ended::NotStarted(error.to_string()), ended);
            // What it left behind is no service any more.
            kill_group(group, Signal::KILL);
            groups.ended(group);
            // Told before the end is shown, so that whoever wanted it hears nothing.
            if !*wanted_rx.borrow() {
                let _ = exits.send(Exit { resource: name, how: how.clone() }).await;
            }
            tell.send_replace(Some(how));
        });
        Ok(Supervised { group, ended: ended_rx, wanted })
    }
}

impl Supervised {
    async fn stop(&mut self, within: Duration) -> Result<(), String> {
        self.wanted.send_replace(true);
        if !is_stuck(self.group).await {
            kill_group(self.group, Signal::TERM);
            if self.ends(within).await {
                return Ok(());
            }
        }
        kill_group(self.group, Signal::KILL);
        if self.ends(KILLED_WITHIN).await {
            return Ok(());
        }
        Err("it does not even end on SIGKILL".to_owned())
    }

    async fn ends(&mut self, within: Duration) -> bool {
        tokio::time::timeout(within, self.ended.wait_for(Option::is_some)).await.is_ok()
    }
}

/// Whether a process cannot hear SIGTERM now: it is stopped, or sits in the kernel. Waiting for it would be in vain. Each process
/// is in the kernel for a moment when it reads a disk or starts another, so that counts when it is seen each time.
async fn is_stuck(process: u32) -> bool {
    for _ in 0..LOOKS {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        match state {
            Some('T' | 't') => return true,
            Some('D') => tokio::time::sleep(LOOK_AGAIN).await,
            _ => return false,
        }
    }
    true
}

fn command(process: &Process, ids: Option<Ids>) -> io::Result<Command> {
    let (program, arguments) =
        process.argv.split_first().ok_or_else(|| io::Error::other("there is no program to start"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(process.env.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).process_group(0);
    if let Some(dir) = &process.dir {
        command.current_dir(dir);
    }
    if let Some(path) = &process.log {
        let log = File::options().create(true).append(true).open(path)?;
        command.stdout(log.try_clone()?).stderr(log);
    }
    if let Some(Ids { user, group }) = ids {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// What is run for a verb of a resource that is no process of ours.
fn verb(kind: &Kind, name: &str, verb: &str) -> Order {
    match kind {
        Kind::Process(_) => Order::default(),
        Kind::Lsb { argv } => Order::new(argv.iter().cloned().chain([verb.to_owned()])),
        Kind::Ocf { agent, parameters } => {
            let mut order = Order::new([agent.display().to_string(), verb.to_owned()]);
            let provider = agent.parent().and_then(|dir| dir.file_name()).unwrap_or_default();
            let kind = agent.file_name().unwrap_or_default();
            let known = [
                ("OCF_ROOT", "/usr/lib/ocf".to_owned()),
                ("OCF_RA_VERSION_MAJOR", "1".to_owned()),
                ("OCF_RA_VERSION_MINOR", "0".to_owned()),
                ("OCF_RESOURCE_INSTANCE", name.to_owned()),
                ("OCF_RESOURCE_TYPE", kind.to_string_lossy().into_owned()),
                ("OCF_RESOURCE_PROVIDER", provider.to_string_lossy().into_owned()),
                ("OCF_CHECK_LEVEL", "0".to_owned()),
            ];
            order.env = known.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            order.env.extend(parameters.iter().map(|(key, value)| (format!("OCF_RESKEY_{key}"), value.clone())));
            order
        }
        Kind::Systemd { unit } => Order::new(["systemctl", verb, unit]),
    }
}

/// How often a process is looked at that sits in the kernel, before that counts, and how long after each time.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The kernel may take so long to end what was killed.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
