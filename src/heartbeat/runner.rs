//! The heartbeat's thread: reads datagrams and completions, asks the machine, does what it wants.
//!
//! Nothing here waits for a disk, a program or a reader of our output: that is done by the `hands` and by the journal's thread,
//! and what came of it arrives in the [`Inbox`]. The one thing done on the spot is the self-fence's SIGKILL.

use crate::clock;
use crate::heartbeat::clients;
use crate::heartbeat::clients::Clients;
use crate::heartbeat::clients::Connection;
use crate::heartbeat::diary;
use crate::heartbeat::guard::Guard;
use crate::heartbeat::hands::Deed;
use crate::heartbeat::hands::Diary;
use crate::heartbeat::hands::Errand;
use crate::heartbeat::hands::Hands;
use crate::heartbeat::journal::Journal;
use crate::heartbeat::links::Links;
use crate::heartbeat::machine::Action;
use crate::heartbeat::machine::Beat;
use crate::heartbeat::machine::Failure;
use crate::heartbeat::machine::Input;
use crate::heartbeat::machine::LinkId;
use crate::heartbeat::machine::Machine;
use crate::heartbeat::machine::Mode;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Order;
use crate::heartbeat::machine::PairView;
use crate::heartbeat::machine::ProofKind;
use crate::heartbeat::machine::Refused;
use crate::heartbeat::machine::message;
use crate::heartbeat::machine::message::DATAGRAM;
use crate::heartbeat::machine::message::KeyRing;
use crate::heartbeat::machine::message::Reject;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::resource::Groups;
use crate::heartbeat::tally::Tally;
use crate::heartbeat::watchdog::Watchdog;
use crate::telemetry::chain;
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::sync::watch;

/// Where the thread hears of everything but datagrams.
#[derive(Clone, Debug)]
pub struct Inbox {
    events: SyncSender<Event>,
    waker: Arc<UnixDatagram>,
}

/// Something that is no datagram.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are inputs, and there is room for few")]
pub enum Event {
    /// For the machine.
    Input(Input),
    /// The clients of the service address, for the other member.
    Clients(Vec<Connection>),
    /// An operator's order, and who he is; whether it is followed is answered at once, how it ends is seen in the status.
    Order(Order, String, oneshot::Sender<Result<(), Refused>>),
    /// How is it?
    Status(oneshot::Sender<Value>),
    /// End.
    Stop,
}

/// The thread's receiving end.
#[derive(Debug)]
pub struct Mailbox {
    events: Receiver<Event>,
    bell: UnixDatagram,
}

/// Something for the journal's thread.
#[derive(Debug)]
pub enum Writing {
    /// Replace the record.
    Save(u64, Vec<u8>),
    /// A line for its diary.
    Note(String),
}

impl Inbox {
    /// An inbox and its other end.
    ///
    /// # Errors
    /// What the system said.
    pub fn new() -> io::Result<(Self, Mailbox)> {
        let (waker, bell) = UnixDatagram::pair()?;
        waker.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let (events_tx, events) = std::sync::mpsc::sync_channel(EVENTS_MAX);
        Ok((Self { events: events_tx, waker: Arc::new(waker) }, Mailbox { events, bell }))
    }

    /// Tells the machine something.
    pub fn tell(&self, input: Input) {
        // When the thread has gone there is nobody to tell.
        let _ = self.send(Event::Input(input));
    }

    /// Puts an event in. Waits for room, which there is as soon as the thread looks; `false` when it has gone.
    #[must_use]
    pub fn send(&self, event: Event) -> bool {
        let sent = self.events.send(event).is_ok();
        // A bell that is full rings already.
        let _ = self.waker.send(b"!");
        sent
    }
}

/// The heartbeat's thread.
pub struct Runner {
    /// What decides.
    pub machine: Machine,
    /// What it wanted when it was made.
    pub first: Vec<Action>,
    /// What was decided before.
    pub plan: Arc<Plan>,
    /// The sockets.
    pub links: Links,
    /// The keys.
    pub keys: KeyRing,
    /// What it hears.
    pub mailbox: Mailbox,
    /// What works for it.
    pub hands: Hands,
    /// Who writes for it.
    pub journal: SyncSender<Writing>,
    /// What it kills.
    pub groups: Arc<Groups>,
    /// Who kills when it cannot.
    pub guard: Option<Arc<Guard>>,
    /// What resets the machine when nobody can.
    pub watchdog: Option<Watchdog>,
    /// Who follows.
    pub view: watch::Sender<PairView>,
    /// The clients of the other member.
    pub clients: Arc<Clients>,
    /// What is counted.
    pub tally: Tally,
    /// Who gave the last order.
    pub ordered_by: String,
}

/// What one turn leaves to do.
struct Turn {
    actions: Vec<Action>,
    /// What failed on the spot, for the machine.
    back: VecDeque<Input>,
}

impl Runner {
    /// Runs until it is told to stop.
    pub fn run(mut self) {
        let mut turn = Turn { actions: Vec::new(), back: VecDeque::new() };
        for action in std::mem::take(&mut self.first) {
            self.act(action, clock::boot(), &mut turn);
        }
        loop {
            let now = clock::boot();
            self.read_datagrams(now, &mut turn);
            if self.read_mailbox(now, &mut turn) {
                break;
            }
            if self.machine.next_deadline().is_some_and(|due| due <= now) {
                self.handle(Input::Tick, now, &mut turn);
            }
            self.tally.show(&self.machine, &self.plan, now);
            let due = self.machine.next_deadline();
            let left = due.map_or(GLANCE, |due| due.saturating_duration_since(clock::boot()));
            if let Err(error) = self.links.wait(self.mailbox.bell.as_fd(), left.min(GLANCE)) {
                self.say(true, format!("waiting for heartbeats failed: {error}"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if let Some(Err(error)) = self.watchdog.take().map(Watchdog::disarm) {
            self.say(true, format!("the watchdog could not be disarmed, and will reset the machine: {error}"));
        }
    }

    fn read_datagrams(&mut self, now: Instant, turn: &mut Turn) {
        // One byte more than a datagram may have, so that a longer one is seen to be longer.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..DATAGRAMS_A_TURN {
            let Some((link, _, length)) = self.links.receive(&mut buffer) else { break };
            if clients::is_list(&buffer[..length]) {
                match clients::decode(&buffer[..length], &self.keys, &self.plan.cluster) {
                    Some(part) => self.clients.learn(part),
                    None => self.tally.rejected(Reject::Garbage),
                }
                continue;
            }
            let decoded =
                message::decode(&buffer[..length], &self.keys, &self.plan.cluster, &self.plan.settings.roster);
            match decoded {
                Ok(beat) => {
                    let link = LinkId(u8::try_from(link).unwrap_or(u8::MAX));
                    self.tally.heard(beat.from, link, now);
                    self.handle(Input::Heard { link, beat }, now, turn);
                }
                Err(reject) => self.tally.rejected(reject),
            }
        }
    }

    /// Whether it is to end.
    fn read_mailbox(&mut self, now: Instant, turn: &mut Turn) -> bool {
        let mut rung = [0; 8];
        while self.mailbox.bell.recv(&mut rung).is_ok() {}
        for _ in 0..EVENTS_MAX {
            match self.mailbox.events.try_recv() {
                Ok(Event::Input(input)) => self.handle(input, now, turn),
                Ok(Event::Clients(connections)) => self.tell_clients(&connections),
                Ok(Event::Order(order, who, answer)) => {
                    self.ordered_by = who;
                    // What an earlier order came to in the end is in the diary, and no answer to this one.
                    self.tally.order_refused = None;
                    self.handle(Input::Operator(order), now, turn);
                    // The one who asked may have gone.
                    let _ = answer.send(self.tally.order_refused.take().map_or(Ok(()), Err));
                }
                Ok(Event::Status(answer)) => {
                    let mut status = self.tally.status(&self.machine, &self.plan, now);
                    status["clients_of_the_other"] = self.clients.all().len().into();
                    let _ = answer.send(status);
                }
                Ok(Event::Stop) => return true,
                Err(_) => break,
            }
        }
        false
    }

    fn handle(&mut self, input: Input, now: Instant, turn: &mut Turn) {
        turn.back.push_back(input);
        while let Some(input) = turn.back.pop_front() {
            self.machine.handle(input, now, &mut turn.actions);
            for action in std::mem::take(&mut turn.actions) {
                self.act(action, now, turn);
            }
        }
    }

    fn act(&mut self, action: Action, now: Instant, turn: &mut Turn) {
        match action {
            Action::Send { to, link, beat } => self.send(to, link, &beat),
            Action::SaveEpoch { ticket, saved } => {
                let writing = Writing::Save(ticket, saved.to_bytes().to_vec());
                if let Err(error) = self.journal.try_send(writing) {
                    let result = Err(Failure(format!("the journal's thread: {}", full(&error))));
                    turn.back.push_back(Input::EpochSaved { ticket, result });
                }
            }
            Action::Fence { epoch, attempt, level, .. } => {
                let due = now + self.plan.settings.fence_timeout;
                self.errand(Errand::Fence { epoch, attempt, level, due });
            }
            Action::RaiseAddress(epoch, _) => self.want(Deed::Raise(epoch), None),
            Action::DropAddress(epoch) => self.want(Deed::Drop(epoch), None),
            Action::AnnounceAddress(epoch) => self.want(Deed::Announce(epoch), None),
            Action::StartResources(epoch, _) => self.want(Deed::Start(epoch), None),
            Action::StopResources(epoch) => self.want(Deed::Stop(epoch), None),
            Action::SelfFence(epoch, why) => {
                let killed = self.groups.kill();
                self.want(Deed::SelfFence(epoch), Some(killed));
                self.say(true, format!("this member stops itself in epoch {epoch}: {why:?}"));
            }
            Action::VerifyCopy(epoch) => self.errand(Errand::Verify(epoch)),
            Action::FeedWatchdog => self.feed(turn),
            Action::Publish(view) => {
                self.view.send_replace(view);
            }
            Action::Report(report) => {
                let mut line = diary::report(&report, &self.plan, clock::now().wall);
                if report.proof == Some(ProofKind::Operator) {
                    line["ordered_by"] = self.ordered_by.as_str().into();
                }
                self.tally.report(&report, line.clone());
                // Its loss is one line less for people.
                let _ = self.journal.try_send(Writing::Note(line.to_string()));
                self.say(false, format!("takeover: {line}"));
            }
            Action::Note(note) => self.note(&note, now),
        }
    }

    fn send(&mut self, to: NodeId, link: LinkId, beat: &Beat) {
        let node = self.plan.nodes.get(usize::from(to.0));
        let Some(addr) = node.and_then(|node| node.links.get(usize::from(link.0))) else { return };
        let datagram = message::encode(beat, &self.keys, &self.plan.cluster, &self.plan.settings.roster);
        if self.links.send(usize::from(link.0), *addr, &datagram).is_err() {
            self.tally.unsent += 1;
        }
    }

    fn tell_clients(&mut self, connections: &[Connection]) {
        let peer = self.plan.nodes.get(usize::from(self.plan.settings.me.peer().0));
        let Some(peer) = peer.filter(|_| self.plan.settings.me.is_member()) else { return };
        for datagram in clients::encode(connections, &self.keys, &self.plan.cluster) {
            for (link, addr) in peer.links.iter().enumerate() {
                if self.links.send(link, *addr, &datagram).is_err() {
                    self.tally.unsent += 1;
                }
            }
        }
    }

    fn feed(&mut self, turn: &mut Turn) {
        let settings = &self.plan.settings;
        if let Some(guard) = self.guard.as_ref().filter(|_| settings.self_fence == Mode::Act)
            && !guard.feed(settings.lease.saturating_sub(settings.margin))
        {
            self.guard = None;
            self.say(true, "the guard does not hear: the self-fence is not armed any more".to_owned());
            turn.back.push_back(Input::SelfFenceArmed(false));
        }
        if let Some(Err(error)) = self.watchdog.as_mut().map(Watchdog::feed) {
            self.watchdog = None;
            self.say(true, format!("the watchdog cannot be fed: {error}"));
            turn.back.push_back(Input::SelfFenceArmed(false));
        }
    }

    fn note(&mut self, note: &Note, now: Instant) {
        self.tally.note(note, now);
        let (warn, mut text) = diary::words(note, &self.plan);
        if matches!(note, Note::Ordered(_) | Note::OrderRefused(..)) {
            // The audit: written before any vote that follows from it.
            let line =
                serde_json::json!({ "at": diary::date(clock::now().wall), "order": text, "by": self.ordered_by });
            text = format!("{text} (by {})", self.ordered_by);
            let _ = self.journal.try_send(Writing::Note(line.to_string()));
        }
        self.say(warn, text);
    }

    fn want(&mut self, deed: Deed, killed: Option<u64>) {
        if let Err(deed) = self.hands.want(deed, killed) {
            // The machine's own time-out makes the best of it.
            self.say(true, format!("{deed:?} could not be ordered: too much is waiting"));
        }
    }

    fn errand(&mut self, errand: Errand) {
        if self.hands.errands.try_send(errand).is_err() {
            self.tally.untold += 1;
        }
    }

    fn say(&mut self, warn: bool, text: String) {
        self.errand(Errand::Diary(Diary { warn, text }));
    }
}

fn full(error: &TrySendError<Writing>) -> &'static str {
    match error {
        TrySendError::Full(_) => "the disk is too slow",
        TrySendError::Disconnected(_) => "it has ended",
    }
}

/// Writes the journal, until the runner has gone.
pub fn keep_journal(journal: &Journal, writings: &Receiver<Writing>, inbox: &Inbox) {
    for writing in writings {
        match writing {
            Writing::Save(ticket, record) => {
                let result = journal.replace(&record).map_err(|error| Failure(chain(&error)));
                inbox.tell(Input::EpochSaved { ticket, result });
            }
            Writing::Note(line) => {
                if let Err(error) = journal.note(&line) {
                    tracing::warn!(error = chain(&error), "a line for the pair's diary is lost");
                }
            }
        }
    }
}

/// Events that may wait; there is one for each thing under way, and probes.
const EVENTS_MAX: usize = 1024;

/// Datagrams read before the clock is looked at again: a flood of forgeries must not stop the heart.
const DATAGRAMS_A_TURN: usize = 64;

/// The longest datagram.
const LONGEST: usize = if clients::LONGEST > DATAGRAM { clients::LONGEST } else { DATAGRAM };

/// The longest sleep.
const GLANCE: Duration = Duration::from_millis(500);
