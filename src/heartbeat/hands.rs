//! What does what the machine wants, and takes time: fencing, address, resources, checks, probes. Everything ends in an input to
//! the machine, whatever happens.
//!
//! Address and resources are one body: one thing at a time, in the order in which it was wanted. A self-fence breaks off what the
//! body is doing, for it may hang just there. Fencing runs beside it.

use crate::clock;
use crate::heartbeat::address;
use crate::heartbeat::address::Address;
use crate::heartbeat::clients::Clients;
use crate::heartbeat::copy;
use crate::heartbeat::copy::Verifier;
use crate::heartbeat::fence;
use crate::heartbeat::machine::Epoch;
use crate::heartbeat::machine::Failure;
use crate::heartbeat::machine::Fenced;
use crate::heartbeat::machine::Input;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Power;
use crate::heartbeat::monitor::Commits;
use crate::heartbeat::monitor::Depth;
use crate::heartbeat::monitor::Monitor;
use crate::heartbeat::monitor::Seen;
use crate::heartbeat::netlink;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::resource::Exit;
use crate::heartbeat::resource::Groups;
use crate::heartbeat::resource::Keeper;
use crate::heartbeat::runner::Event;
use crate::heartbeat::runner::Inbox;
use crate::telemetry::chain;
use crate::zodb::Tid;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::info;
use tracing::warn;

/// Something for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Bring the address up, and announce it.
    Raise(Epoch),
    /// Announce it again.
    Announce,
    /// Let it go.
    Drop(Epoch),
    /// Start the resources.
    Start(Epoch),
    /// Stop them.
    Stop(Epoch),
    /// All of it, now.
    SelfFence(Epoch),
}

/// Something that is wanted, and when: what was wanted before a self-fence is not done after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub deed: Deed,
    /// How many self-fences there had been.
    pub generation: u64,
}

/// What the hands are told, beside the body.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Put a node off by the devices of a level.
    Fence {
        /// For which epoch.
        epoch: Epoch,
        /// Which attempt.
        attempt: u32,
        /// From 0.
        level: u8,
    },
    /// Check the local copy.
    Verify(Epoch),
    /// A line for the diary, already in words.
    Diary(Diary),
}

/// A line for the diary. Written here and not by the heartbeat's thread, which must not wait for a reader of standard error.
#[derive(Clone, Debug)]
pub struct Diary {
    /// Whether somebody should look.
    pub warn: bool,
    /// What.
    pub text: String,
}

/// Where the runner puts what it wants done.
#[derive(Clone, Debug)]
pub struct Hands {
    /// To the body.
    pub body: mpsc::Sender<Wanted>,
    /// To the rest.
    pub errands: mpsc::Sender<Errand>,
    /// Counts self-fences: each breaks off what the body is doing.
    pub generation: Arc<watch::Sender<u64>>,
}

/// What the hands hold before they begin.
pub struct Ready {
    plan: Arc<Plan>,
    inbox: Inbox,
    body: mpsc::Receiver<Wanted>,
    errands: mpsc::Receiver<Errand>,
    generation: watch::Receiver<u64>,
    groups: Arc<Groups>,
    conflicts: Arc<AtomicU64>,
    clients: Arc<Clients>,
}

/// Hands that have nothing to do yet. `conflicts` counts claims of others to the service address; `clients` are those of the
/// other member.
#[must_use]
pub fn prepare(
    plan: Arc<Plan>,
    inbox: Inbox,
    groups: Arc<Groups>,
    conflicts: Arc<AtomicU64>,
    clients: Arc<Clients>,
) -> (Hands, Ready) {
    let (body_tx, body) = mpsc::channel(WANTED_MAX);
    let (errands_tx, errands) = mpsc::channel(ERRANDS_MAX);
    let (generation_tx, generation) = watch::channel(0);
    let hands = Hands { body: body_tx, errands: errands_tx, generation: Arc::new(generation_tx) };
    (hands, Ready { plan, inbox, body, errands, generation, groups, conflicts, clients })
}

impl Ready {
    /// Works until the runner has gone.
    pub async fn work(self) {
        let Self { plan, inbox, body, errands, generation, groups, conflicts, clients } = self;
        let mut helpers = tokio::task::JoinSet::new();
        let (exits_tx, exits) = mpsc::channel(EXITS_MAX);
        let keeper = Keeper::new(plan.resources.clone(), groups, exits_tx);
        let address = Address::new(plan.address.clone(), Arc::clone(&conflicts), clients);
        helpers.spawn(tell_exits(exits, inbox.clone()));
        helpers.spawn(tell_conflicts(conflicts, inbox.clone()));
        if let address::Mode::Ip { address, .. } = &plan.address {
            helpers.spawn(tell_clients(address.addr(), inbox.clone()));
        }
        let began = Arc::new(Notify::new());
        for (member, monitor) in [NodeId(0), NodeId(1)].into_iter().zip(&plan.monitors) {
            if let Some(monitor) = monitor.clone() {
                let began = if member == plan.settings.me { Arc::clone(&began) } else { Arc::default() };
                helpers.spawn(probe(member, monitor, Arc::clone(&plan), inbox.clone(), began));
            }
        }
        let copy = plan.data.clone().filter(|_| plan.settings.me.is_member());
        let verifier = copy.clone().map(Verifier::new);
        if let Some(verifier) = verifier.clone() {
            helpers.spawn(verify_copy(verifier));
        }
        match copy {
            Some(data) => drop(helpers.spawn(watch_copy(data, inbox.clone()))),
            // Nobody is to ask how far this copy is: it is as far as any.
            None => inbox.tell(Input::Copy(Tid(0))),
        }
        helpers.spawn(run_errands(errands, Arc::clone(&plan), verifier, inbox.clone()));
        Body { keeper, address, inbox, generation, began }.work(body).await;
        // The helpers have nobody left to tell; dropping the set ends them.
    }
}

struct Body {
    keeper: Keeper,
    address: Address,
    inbox: Inbox,
    generation: watch::Receiver<u64>,
    /// The storage was started.
    began: Arc<Notify>,
}

impl Body {
    async fn work(mut self, mut wanted: mpsc::Receiver<Wanted>) {
        let mut generation = self.generation.clone();
        while let Some(Wanted { deed, generation: wanted_in }) = wanted.recv().await {
            if matches!(deed, Deed::SelfFence(_)) {
                self.perform(deed).await;
                continue;
            }
            let broken_off = async {
                // Fails only when the runner has gone, and then nothing is broken off.
                let _ = generation.wait_for(|now| *now > wanted_in).await;
            };
            tokio::select! {
                biased;
                () = broken_off => info!(?deed, "broken off: this member stops itself"),
                () = self.perform(deed) => {}
            }
        }
        // The runner has gone without stopping what runs: so do we.
        let _ = self.address.down().await;
        let _ = self.keeper.stop().await;
    }

    async fn perform(&mut self, deed: Deed) {
        let began = clock::mono();
        let input = match deed {
            Deed::Raise(epoch) => {
                let result = self.address.up().await.map_err(|error| Failure(chain(&error)));
                Input::AddressDone { epoch, raised: true, result }
            }
            Deed::Announce => {
                if let Err(error) = self.address.insist().await {
                    warn!(error = chain(&error), "the service address could not be announced again");
                }
                return;
            }
            Deed::Drop(epoch) => {
                let result = self.address.down().await.map_err(|error| Failure(chain(&error)));
                Input::AddressDone { epoch, raised: false, result }
            }
            Deed::Start(epoch) => {
                let result = self.keeper.start().await.map_err(|error| Failure(error.to_string()));
                Input::ResourceDone { epoch, started: true, result }
            }
            Deed::Stop(epoch) => {
                let result = self.keeper.stop().await.map_err(|error| Failure(error.to_string()));
                Input::ResourceDone { epoch, started: false, result }
            }
            Deed::SelfFence(epoch) => {
                // The runner has killed the process groups already.
                let address = self.address.down().await.map_err(|error| chain(&error));
                let stopped = self.keeper.stop().await.map_err(|error| error.to_string());
                Input::ResourceDone { epoch, started: false, result: address.and(stopped).map_err(Failure) }
            }
        };
        let took = clock::mono().saturating_duration_since(began);
        info!(?deed, ?took, "done");
        self.inbox.tell(input);
        if matches!(deed, Deed::Start(_)) {
            self.began.notify_one();
        }
    }
}

async fn tell_exits(mut exits: mpsc::Receiver<Exit>, inbox: Inbox) {
    while let Some(exit) = exits.recv().await {
        warn!(resource = exit.resource, how = ?exit.how, "a resource ended by itself");
        inbox.tell(Input::ResourceExited);
    }
}

async fn tell_conflicts(conflicts: Arc<AtomicU64>, inbox: Inbox) {
    let mut told = 0;
    let mut beat = tokio::time::interval(CONFLICTS_EVERY);
    loop {
        beat.tick().await;
        let now = conflicts.load(std::sync::atomic::Ordering::Relaxed);
        if now != told {
            told = now;
            inbox.tell(Input::AddressConflict);
        }
    }
}

/// Lists the clients of the service address for ever, for the other member; there are some only where the address is up.
async fn tell_clients(address: IpAddr, inbox: Inbox) {
    let mut beat = tokio::time::interval(CLIENTS_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        beat.tick().await;
        match tokio::task::spawn_blocking(move || netlink::connections(address)).await {
            Ok(Ok(clients)) if clients.is_empty() => {}
            // When the thread has gone there is nobody to tell.
            Ok(Ok(clients)) => drop(inbox.send(Event::Clients(clients))),
            Ok(Err(error)) if !std::mem::replace(&mut told, true) => {
                warn!(%address, %error, "connections cannot be listed: after a takeover clients may wait for their next keep-alive");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Asks a member's storage for ever. While it is bad, its recovery is asked for in full. One question does not wait for the
/// answer to the one before: a storage that hangs is found sick after one time-out and a few intervals. `began`: the storage
/// was started here, and is asked in quick succession until it answers.
async fn probe(target: NodeId, monitor: Monitor, plan: Arc<Plan>, inbox: Inbox, began: Arc<Notify>) {
    let at_a_time = monitor.at_a_time();
    let mut asked = tokio::task::JoinSet::new();
    let (mut last, mut due, mut hurry) = (None, clock::mono(), None);
    let mut commits = Commits::default();
    loop {
        let free = asked.len() < at_a_time;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()), if free => {
                let depth = if last == Some(true) { Depth::Alive } else { Depth::Writable };
                let (monitor, within) = (monitor.clone(), plan.probe_timeout);
                asked.spawn(async move { monitor.ask(depth, within).await });
                let now = clock::mono();
                let pause = if hurry.is_some_and(|until| now < until) { plan.probe_every.min(HURRY) } else { plan.probe_every };
                due = now + pause;
            }
            () = began.notified() => {
                due = clock::mono();
                hurry = Some(due + plan.settings.serve_timeout);
            }
            Some(Ok(seen)) = asked.join_next() => {
                let seen = seen.and_then(|seen| not_stuck(seen, &monitor, &mut commits));
                let good = seen.is_ok();
                if last.replace(good) != Some(good) {
                    match &seen {
                        Ok(_) => info!(member = plan.name(target), "its storage serves"),
                        Err(why) => info!(member = plan.name(target), why, "its storage does not serve"),
                    }
                }
                hurry = hurry.filter(|_| !good);
                inbox.tell(Input::Probe { target, good });
            }
        }
    }
}

/// A storage that answers serves, unless nobody can write.
fn not_stuck(seen: Seen, monitor: &Monitor, commits: &mut Commits) -> Result<Seen, String> {
    let waited = commits.learn(seen.awaited, clock::mono());
    match monitor.commit_max().filter(|max| waited >= *max) {
        Some(_) => Err(format!("one commit has kept others waiting for {waited:.1?}")),
        None => Ok(seen),
    }
}

async fn watch_copy(data: PathBuf, inbox: Inbox) {
    let mut beat = tokio::time::interval(COPY_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Ok(0);
    loop {
        beat.tick().await;
        let path = data.clone();
        let read = tokio::task::spawn_blocking(move || copy::last_tid(&path).map_err(|error| error.to_string()));
        let Ok(read) = read.await else { continue };
        if read == last {
            continue;
        }
        match &read {
            Ok(tid) => inbox.tell(Input::Copy(Tid(*tid))),
            Err(error) => warn!(data = %data.display(), error, "the last transaction of the copy cannot be read"),
        }
        last = read;
    }
}

async fn run_errands(mut errands: mpsc::Receiver<Errand>, plan: Arc<Plan>, verifier: Option<Verifier>, inbox: Inbox) {
    let mut running = tokio::task::JoinSet::new();
    while let Some(errand) = errands.recv().await {
        while running.try_join_next().is_some() {}
        match errand {
            Errand::Diary(Diary { warn: true, text }) => warn!("{text}"),
            Errand::Diary(Diary { text, .. }) => info!("{text}"),
            Errand::Verify(epoch) => {
                running.spawn(verify(epoch, verifier.clone(), inbox.clone()));
            }
            Errand::Fence { epoch, attempt, level } => {
                let devices = plan.fence.get(usize::from(level)).cloned().unwrap_or_default();
                let inbox = inbox.clone();
                running.spawn(async move {
                    let outcome = match fence::off(&devices).await {
                        Ok(()) => Fenced { off: true, status: Power::Off },
                        Err(why) => {
                            warn!(level = level + 1, why, "fencing failed");
                            Fenced { off: false, status: Power::Unknown }
                        }
                    };
                    inbox.tell(Input::FenceDone { epoch, attempt, outcome });
                });
            }
        }
    }
}

/// Verifies the copy in the background, so that little is left to verify when it is to be served.
async fn verify_copy(verifier: Verifier) {
    let mut beat = tokio::time::interval(VERIFY_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        beat.tick().await;
        let work = verifier.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || work.follow()).await else { continue };
        let why = found.err().map(|error| chain(&error));
        if let Some(why) = &why
            && last.as_ref() != Some(why)
        {
            warn!(why, "the copy is not good: it would not be served");
        }
        last = why;
    }
}

/// Checks the copy before it is served.
async fn verify(epoch: Epoch, verifier: Option<Verifier>, inbox: Inbox) {
    let result = match verifier {
        None => Ok(Tid(0)),
        Some(verifier) => match tokio::task::spawn_blocking(move || verifier.finish()).await {
            Ok(Ok(tid)) => Ok(tid),
            Ok(Err(error)) => Err(Failure(chain(&error))),
            Err(panic) => Err(Failure(panic.to_string())),
        },
    };
    inbox.tell(Input::Verified { epoch, result });
}

/// The machine wants little at a time; more than this would be a bug of it.
const WANTED_MAX: usize = 64;
const ERRANDS_MAX: usize = 256;
const EXITS_MAX: usize = 16;
const CONFLICTS_EVERY: Duration = Duration::from_millis(50);
/// Clients stay for days.
const CLIENTS_EVERY: Duration = Duration::from_secs(1);
/// Between questions to a storage that was just started: visitors wait.
const HURRY: Duration = Duration::from_millis(25);
const COPY_EVERY: Duration = Duration::from_millis(100);
const VERIFY_EVERY: Duration = Duration::from_secs(2);
