//! What does what the machine wants, and takes time: fencing, address, resources, checks, probes. Everything ends in an input to
//! the machine, whatever happens.
//!
//! Address and resources are one body: one thing at a time, in the order in which it was wanted. A self-fence breaks off what the
//! body is doing, for it may hang just there. Fencing runs beside it, up to the end of its permit.
//!
//! The body may be far behind the machine: this node stood still, a program hangs. So before each deed it looks at what was
//! decided last ([`Decided`]): what was wanted before a self-fence is not done after it, and once the role of an epoch is given
//! up, nothing is raised, announced or started for it any more, however late that comes.

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
use crate::heartbeat::monitor::Depth;
use crate::heartbeat::monitor::Monitor;
use crate::heartbeat::monitor::Questions;
use crate::heartbeat::monitor::Seen;
use crate::heartbeat::netlink;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::resource::Exit;
use crate::heartbeat::resource::Groups;
use crate::heartbeat::resource::Keeper;
use crate::heartbeat::resource::Users;
use crate::heartbeat::runner::Event;
use crate::heartbeat::runner::Inbox;
use crate::telemetry::chain;
use crate::zeo::Commits;
use crate::zodb::Tid;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::time::Instant;
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
    /// Make sure of it: another machine claims it.
    Announce(Epoch),
    /// Let it go.
    Drop(Epoch),
    /// Start the resources.
    Start(Epoch),
    /// Stop them.
    Stop(Epoch),
    /// All of it, now.
    SelfFence(Epoch),
}

/// Something that is wanted, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub deed: Deed,
    /// How many self-fences there had been.
    pub fences: u64,
}

/// What the machine has decided up to now. It is known to the hands before the deeds that follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// How many self-fences there have been.
    pub fences: u64,
    /// The highest epoch whose role was given up.
    pub ended: Epoch,
}

impl Decided {
    /// The machine wants this.
    #[must_use]
    pub fn and(self, deed: Deed) -> Self {
        match deed {
            Deed::Drop(epoch) | Deed::SelfFence(epoch) => Self { ended: self.ended.max(epoch), ..self },
            Deed::Raise(_) | Deed::Announce(_) | Deed::Start(_) | Deed::Stop(_) => self,
        }
    }

    /// Whether it is still to be done, when its turn has come.
    #[must_use]
    pub fn wants(self, deed: Deed) -> bool {
        match deed {
            Deed::Raise(epoch) | Deed::Announce(epoch) | Deed::Start(epoch) => epoch > self.ended,
            Deed::Drop(_) | Deed::Stop(_) | Deed::SelfFence(_) => true,
        }
    }
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
        /// Nothing may be done after that.
        due: Instant,
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
#[derive(Debug)]
pub struct Hands {
    /// To the body.
    pub body: mpsc::Sender<Wanted>,
    /// To the rest.
    pub errands: mpsc::Sender<Errand>,
    /// What was decided last.
    pub decided: watch::Sender<Decided>,
}

impl Hands {
    /// Wants something of the body. `killed`: how often the process groups were killed, if that was done for it.
    ///
    /// # Errors
    /// Too much is waiting.
    pub fn want(&self, deed: Deed, killed: Option<u64>) -> Result<(), Deed> {
        self.decided.send_modify(|decided| {
            *decided = Decided { fences: killed.unwrap_or(decided.fences), ..decided.and(deed) };
        });
        let fences = self.decided.borrow().fences;
        self.body.try_send(Wanted { deed, fences }).map_err(|_| deed)
    }
}

/// What the hands hold before they begin.
pub struct Ready {
    plan: Arc<Plan>,
    inbox: Inbox,
    body: mpsc::Receiver<Wanted>,
    errands: mpsc::Receiver<Errand>,
    decided: watch::Receiver<Decided>,
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
    let (decided_tx, decided) = watch::channel(Decided::default());
    let hands = Hands { body: body_tx, errands: errands_tx, decided: decided_tx };
    (hands, Ready { plan, inbox, body, errands, decided, groups, conflicts, clients })
}

impl Ready {
    /// Works until the runner has gone.
    pub async fn work(self) {
        let Self { plan, inbox, body, errands, decided, groups, conflicts, clients } = self;
        let mut helpers = tokio::task::JoinSet::new();
        let (exits_tx, exits) = mpsc::channel(EXITS_MAX);
        let users = Arc::new(Users::default());
        helpers.spawn(learn_users(plan.users(), Arc::clone(&users)));
        let keeper = Keeper::new(plan.resources.clone(), users, groups, exits_tx);
        let address = Address::new(plan.address.clone(), Arc::clone(&conflicts), clients);
        helpers.spawn(tell_exits(exits, inbox.clone()));
        helpers.spawn(tell_conflicts(conflicts, inbox.clone()));
        if let address::Mode::Ip(places) = &plan.address {
            helpers.spawn(tell_clients(address::addresses(places), inbox.clone()));
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
        Body { keeper, address, inbox, decided, began }.work(body).await;
        // The helpers have nobody left to tell; dropping the set ends them.
    }
}

struct Body {
    keeper: Keeper,
    address: Address,
    inbox: Inbox,
    decided: watch::Receiver<Decided>,
    /// The storage was started.
    began: Arc<Notify>,
}

impl Body {
    async fn work(mut self, mut wanted: mpsc::Receiver<Wanted>) {
        let mut decided = self.decided.clone();
        while let Some(wanted) = wanted.recv().await {
            let deed = wanted.deed;
            let broken_off = async {
                // When the runner has gone nothing is broken off.
                if !matches!(deed, Deed::SelfFence(_))
                    && decided.wait_for(|now| now.fences != wanted.fences).await.is_ok()
                {
                    return;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = broken_off => info!(?deed, "broken off: this member stops itself"),
                () = self.perform(wanted) => {}
            }
        }
        // The runner has gone without stopping what runs: so do we.
        let _ = self.address.down().await;
        let _ = self.keeper.stop().await;
    }

    async fn perform(&mut self, wanted: Wanted) {
        let (deed, began) = (wanted.deed, clock::mono());
        if !self.decided.borrow().wants(deed) {
            info!(?deed, "not done: the role was given up meanwhile");
            return;
        }
        let input = match deed {
            Deed::Raise(epoch) => {
                let result = self.address.up().await.map_err(|error| Failure(chain(&error)));
                Input::AddressDone { epoch, raised: true, result }
            }
            Deed::Announce(_) => {
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
                let result = self.keeper.start(wanted.fences).await.map_err(|error| Failure(error.to_string()));
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

/// Learns the users of the storage for ever, before they are needed: one that is unknown is asked for again soon, the others as
/// often as somebody may change them.
async fn learn_users(names: Vec<String>, users: Arc<Users>) {
    let mut told = false;
    while !names.is_empty() {
        let mut missing = None;
        for name in &names {
            missing = users.learn(name, USER_WITHIN).await.err().or(missing);
        }
        if let Some(why) = missing.as_ref().filter(|_| !std::mem::replace(&mut told, true)) {
            warn!(why, "a user of the storage cannot be looked up");
        }
        told &= missing.is_some();
        tokio::time::sleep(if missing.is_some() { USER_AGAIN } else { USERS_EVERY }).await;
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
async fn tell_clients(addresses: Vec<IpAddr>, inbox: Inbox) {
    let addresses: Arc<[IpAddr]> = addresses.into();
    let mut beat = tokio::time::interval(CLIENTS_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        beat.tick().await;
        let addresses = Arc::clone(&addresses);
        match tokio::task::spawn_blocking(move || netlink::connections(&addresses)).await {
            Ok(Ok(clients)) if clients.is_empty() => {}
            // When the thread has gone there is nobody to tell.
            Ok(Ok(clients)) => drop(inbox.send(Event::Clients(clients))),
            Ok(Err(error)) if !std::mem::replace(&mut told, true) => {
                warn!(%error, "connections cannot be listed: after a takeover clients may wait for their next keep-alive");
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
    let (mut commits, mut questions) = (Commits::default(), Questions::default());
    loop {
        let free = asked.len() < at_a_time;
        tokio::select! {
            biased;
            () = began.notified() => {
                due = clock::mono();
                hurry = Some(due + plan.settings.serve_timeout);
                // What was asked before was asked of another process.
                asked = tokio::task::JoinSet::new();
                (commits, questions) = (Commits::default(), Questions::default());
            }
            () = tokio::time::sleep_until(due.into()), if free => {
                let depth = if last == Some(true) { Depth::Alive } else { Depth::Writable };
                let (monitor, within) = (monitor.clone(), plan.probe_timeout);
                let now = clock::mono();
                asked.spawn(async move { (now, monitor.ask(depth, within).await) });
                let pause = if hurry.is_some_and(|until| now < until) { plan.probe_every.min(HURRY) } else { plan.probe_every };
                due = now + pause;
            }
            Some(Ok((asked_at, seen))) = asked.join_next() => {
                let seen = seen.and_then(|seen| not_stuck(seen, &monitor, &mut commits));
                let good = seen.is_ok();
                let late = clock::mono() >= asked_at + plan.probe_timeout;
                if !questions.tells(asked_at, good, late) {
                    continue;
                }
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
            Errand::Fence { epoch, attempt, level, due } => {
                let devices = plan.fence.get(usize::from(level)).cloned().unwrap_or_default();
                let inbox = inbox.clone();
                running.spawn(async move {
                    let outcome = match fence::off(&devices, due).await {
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
/// For an answer of the system about a user, when nobody waits for it.
const USER_WITHIN: Duration = Duration::from_secs(20);
const USER_AGAIN: Duration = Duration::from_secs(10);
const USERS_EVERY: Duration = Duration::from_secs(600);
const CONFLICTS_EVERY: Duration = Duration::from_millis(50);
/// Clients stay for days.
const CLIENTS_EVERY: Duration = Duration::from_secs(1);
/// Between questions to a storage that was just started: visitors wait.
const HURRY: Duration = Duration::from_millis(25);
const COPY_EVERY: Duration = Duration::from_millis(100);
const VERIFY_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::resource::Kind;
    use crate::heartbeat::resource::Process;
    use crate::heartbeat::resource::Resource;
    use std::collections::VecDeque;

    const LONG: Duration = Duration::from_secs(30);

    /// A member as far as deeds are concerned: what its machine has decided, what its hands have not done yet, what there is.
    #[derive(Clone, Debug, Default)]
    struct Member {
        epoch: u64,
        holds: bool,
        decided: Decided,
        waiting: VecDeque<Deed>,
        address: bool,
        running: bool,
    }

    impl Member {
        /// All that its machine might want next. It is worse than ours: it announces what it gives up, and takes the role
        /// again before anything is done.
        fn choices(&self) -> Vec<Vec<Deed>> {
            let epoch = Epoch(self.epoch);
            if self.holds {
                return vec![
                    vec![Deed::Start(epoch)],
                    vec![Deed::Announce(epoch)],
                    vec![Deed::Stop(epoch)],
                    vec![Deed::Stop(epoch), Deed::Drop(epoch)],
                    vec![Deed::SelfFence(epoch), Deed::Drop(epoch)],
                ];
            }
            vec![vec![Deed::Announce(epoch)], vec![Deed::Raise(Epoch(self.epoch + 1))]]
        }

        fn decide(&mut self, deeds: &[Deed]) {
            for deed in deeds {
                self.decided = self.decided.and(*deed);
                self.waiting.push_back(*deed);
                match deed {
                    Deed::Raise(epoch) => (self.epoch, self.holds) = (epoch.0, true),
                    Deed::Drop(_) => self.holds = false,
                    // The runner kills on the spot.
                    Deed::SelfFence(_) => self.running = false,
                    _ => {}
                }
            }
        }

        /// The hands do what has waited longest, if `wants` says so; what is wrong then.
        fn perform(&mut self, wants: fn(Decided, Deed) -> bool) -> Option<String> {
            let deed = self.waiting.pop_front()?;
            if wants(self.decided, deed) {
                match deed {
                    Deed::Raise(_) | Deed::Announce(_) => self.address = true,
                    Deed::Drop(_) => self.address = false,
                    Deed::Start(_) => self.running = true,
                    Deed::Stop(_) => self.running = false,
                    Deed::SelfFence(_) => (self.address, self.running) = (false, false),
                }
                let (Deed::Raise(of) | Deed::Announce(of) | Deed::Start(of)) = deed else { return None };
                if !self.holds || of.0 != self.epoch {
                    return Some(format!("{deed:?} was done, and the role was given up: {self:?}"));
                }
            }
            let at_rest = self.waiting.is_empty() && !self.holds;
            (at_rest && (self.address || self.running)).then(|| format!("without the role: {self:?}"))
        }
    }

    /// Goes through all that a machine may decide in so many steps, with hands that are behind it by any number of deeds.
    fn explore(member: &Member, steps: u32, wants: fn(Decided, Deed) -> bool) -> Option<String> {
        let mut behind = member.clone();
        if !behind.waiting.is_empty()
            && let Some(wrong) = behind.perform(wants).or_else(|| explore(&behind, steps, wants))
        {
            return Some(wrong);
        }
        let choices = if steps > 0 { member.choices() } else { Vec::new() };
        choices.iter().find_map(|deeds| {
            let mut member = member.clone();
            member.decide(deeds);
            explore(&member, steps - 1, wants)
        })
    }

    #[test]
    fn hands_that_are_behind_do_nothing_for_a_role_that_was_given_up() {
        assert_eq!(explore(&Member::default(), 6, Decided::wants), None);
        // Planted: hands that do whatever they were told, sooner or later.
        let wrong = explore(&Member::default(), 6, |_, _| true).expect("it is noticed");
        assert!(wrong.contains("was done"), "{wrong}");
    }

    /// A body with a program for its address and a process for its storage, both of which write down what they do.
    fn body(dir: &std::path::Path, decided: watch::Receiver<Decided>, groups: Arc<Groups>) -> Body {
        let (inbox, mailbox) = Inbox::new().unwrap();
        // Nobody listens here.
        drop(mailbox);
        let log = dir.join("log");
        let sh = |text: String| ["sh", "-c", &text, "program"].map(str::to_owned).to_vec();
        let mode = address::Mode::Exec { argv: sh(format!("echo $1 >> {}", log.display())), timeout: LONG };
        let argv = sh(format!("echo started >> {}; exec sleep 1000", log.display()));
        let kind = Kind::Process(Process { argv, ..Process::default() });
        let storage = Resource { name: "zeo".to_owned(), kind, start_timeout: LONG, stop_timeout: LONG };
        let keeper = Keeper::new(vec![storage], Arc::default(), groups, mpsc::channel(1).0);
        let address = Address::new(mode, Arc::default(), Arc::default());
        Body { keeper, address, inbox, decided, began: Arc::default() }
    }

    /// What a body writes down that begins when all of it was wanted; a self-fence kills as the runner does.
    async fn done(deeds: &[Deed]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (body_tx, wanted) = mpsc::channel(WANTED_MAX);
        let (decided_tx, decided) = watch::channel(Decided::default());
        let hands = Hands { body: body_tx, errands: mpsc::channel(1).0, decided: decided_tx };
        let groups = Arc::new(Groups::default());
        for deed in deeds {
            let killed = matches!(deed, Deed::SelfFence(_)).then(|| groups.kill());
            hands.want(*deed, killed).unwrap();
        }
        let body = body(dir.path(), decided, Arc::clone(&groups));
        drop(hands);
        tokio::time::timeout(LONG, body.work(wanted)).await.unwrap();
        assert!(groups.list().is_empty());
        std::fs::read_to_string(dir.path().join("log")).unwrap().replace('\n', " ")
    }

    #[tokio::test]
    async fn an_address_that_was_let_go_is_not_put_up_by_what_was_wanted_before_or_comes_late() {
        let (four, five, six) = (Epoch(4), Epoch(5), Epoch(6));
        let mut deeds = vec![Deed::Raise(five), Deed::Start(five), Deed::Drop(five)];
        deeds.extend([Deed::Announce(five), Deed::Start(five), Deed::Raise(four)]);
        // The last is the end of all.
        assert_eq!(done(&deeds).await, "down down ");
        deeds.extend([Deed::Raise(six), Deed::Announce(six)]);
        assert_eq!(done(&deeds).await, "down up up down ");
        // What waited before a self-fence is broken off, and is part of it.
        deeds.extend([Deed::Start(six), Deed::SelfFence(six), Deed::Drop(six), Deed::Announce(six)]);
        assert_eq!(done(&deeds).await, "down down down ");
    }
}
