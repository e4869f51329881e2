//! Getting a thread of an endpoint and giving it back: the line's shell.

use crate::clock;
use crate::upstream::asker::Asker;
use crate::upstream::desk::Desk;
use crate::upstream::desk::Waiter;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::queue::Arrival;
use crate::upstream::machine::queue::Ask;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Granted;
use crate::upstream::machine::queue::Refused;
use crate::upstream::machine::queue::Ticket;
use crate::upstream::machine::stuck::Stage;
use crate::upstream::machine::wait::Verdict;
use crate::upstream::machine::wait::Wait;
use crate::upstream::request::Handle;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;

/// A thread of an endpoint, given back when dropped.
pub struct Lease {
    upstream: Arc<Upstream>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The count of set swaps at which it was granted.
    pub epoch: u64,
    /// How long it was waited for.
    pub waited: Duration,
    /// Whether the endpoint has answered: a journey that ends without an answer says nothing about how it works.
    pub answered: bool,
    /// When it was granted.
    pub granted: Instant,
    /// When it ended, if that is known without looking at the clock.
    ended: Option<Instant>,
    /// Its number among what is under way.
    number: u64,
}

/// Resolves when nobody waits for the answer any more: who still stands in line then leaves it.
pub type Gone<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

/// What somebody who waited is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    endpoint: EndpointId,
    epoch: u64,
    number: u64,
}

/// Why there is no thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRefusal {
    /// Too many wait already.
    Full {
        /// When it may be better.
        retry_after: Duration,
    },
    /// Too many of this client's requests wait already.
    PerClient {
        /// When it may be better.
        retry_after: Duration,
    },
    /// By the time that requests take, the turn would come too late.
    TooLong {
        /// When it may be better.
        retry_after: Duration,
    },
    /// It took too long.
    Timeout {
        /// When it may be better.
        retry_after: Duration,
    },
    /// Nobody waits for the answer any more.
    ClientGone,
    /// No endpoint of the serving set is open, or the upstream is held, for longer than was worth waiting.
    NoEndpoint {
        /// When the next checks will be through.
        retry_after: Duration,
    },
}

impl QueueRefusal {
    /// The word for logs and metrics.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Full { .. } => "queue_full",
            Self::PerClient { .. } => "queue_per_client",
            Self::TooLong { .. } => "queue_shed",
            Self::Timeout { .. } => "queue_timeout",
            Self::ClientGone => "client_gone",
            Self::NoEndpoint { .. } => "no_endpoint",
        }
    }

    /// The word in the queue's own metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let why = self.why();
        why.strip_prefix("queue_").unwrap_or(why)
    }

    /// When it may be better.
    #[must_use]
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Full { retry_after }
            | Self::PerClient { retry_after }
            | Self::TooLong { retry_after }
            | Self::Timeout { retry_after }
            | Self::NoEndpoint { retry_after } => retry_after.max(Duration::from_secs(1)),
            Self::ClientGone => Duration::from_secs(1),
        }
    }
}

impl Upstream {
    /// Waits for its turn since `began`, unless `gone`.
    ///
    /// Cancel-safe: dropped, it leaves the line or gives the thread back.
    ///
    /// # Errors
    /// [`QueueRefusal`], with the time after which it may be different.
    pub(super) async fn wait(
        self: &Arc<Self>,
        mut place: Place<'_>,
        began: Instant,
        gone: Option<Gone<'_>>,
    ) -> Result<Lease, QueueRefusal> {
        let turn = place.keep(gone).await;
        place.told = true;
        let now = clock::mono();
        let lease = turn.and_then(|turn| {
            place.served = true;
            self.lease(turn, began, now)
        });
        if place.wait.is_parked() {
            let result = match lease {
                Ok(_) => "served",
                Err(QueueRefusal::ClientGone) => "client_gone",
                Err(_) => "timeout",
            };
            self.counters.hold_ended(result, now.saturating_duration_since(began));
        }
        lease
    }

    /// Asks the queue for a thread of an endpoint that is open, if possible not of `avoid`: it is given at once, or a place in
    /// the line.
    ///
    /// # Errors
    /// [`QueueRefusal`], with the time after which it may be different.
    pub(super) fn ask<'a>(
        self: &'a Arc<Self>,
        asker: &Asker,
        request: Handle<'_>,
        avoid: Option<EndpointId>,
        now: Instant,
    ) -> Result<Asked<'a>, QueueRefusal> {
        let mut desk = lock(&self.desk);
        let way = || asker.way.and_then(|way| desk.ways.get(&way)).copied();
        // What hangs is no place to wait at, whoever has written there.
        let pinned = desk.pins.of(asker.who, now).or_else(way).filter(|pinned| !desk.is_stuck(*pinned));
        let ask = Ask { client: asker.client, class: asker.class, avoid, pinned, hash: asker.hash };
        let hold = desk.hold_left(now);
        let parked = desk.is_out();
        if desk.queue.is_paused() && hold.is_none() {
            return Err(self.refusal(Refused::NoEndpoint));
        }
        match desk.queue.arrive(ask, hold.is_some()) {
            Arrival::Granted(endpoint) => {
                let number = desk.begin(endpoint, request(), now);
                let turn = Turn { endpoint, epoch: desk.epoch, number };
                drop(desk);
                self.lease(turn, now, now).map(Asked::Granted)
            }
            Arrival::Waiting(ticket) if parked && hold.is_none() => {
                // What is open hangs, and has for longer than is worth waiting.
                desk.queue.leave(ticket);
                Err(self.refusal(Refused::NoEndpoint))
            }
            Arrival::Waiting(ticket) => {
                let (sender, turn) = oneshot::channel();
                desk.waiting.insert(ticket, Waiter { turn: sender, since: now, request: request() });
                let wait = Wait::begin(now, desk.rules, desk.service(now));
                let (began, told, served) = (now, false, false);
                let place = Place { upstream: self, ticket, turn, wait, began, told, served };
                Ok(Asked::Waiting(place))
            }
            Arrival::Refused(refused) => Err(self.refusal(refused)),
        }
    }

    fn lease(self: &Arc<Self>, turn: Turn, began: Instant, granted: Instant) -> Result<Lease, QueueRefusal> {
        let waited = granted.saturating_duration_since(began);
        // The table only grows, so an endpoint that was granted is in it.
        let endpoint = self.endpoint(turn.endpoint).ok_or_else(|| self.refusal(Refused::NoEndpoint))?;
        let (upstream, epoch, number) = (Arc::clone(self), turn.epoch, turn.number);
        Ok(Lease { upstream, endpoint, epoch, waited, answered: false, granted, ended: None, number })
    }

    /// Whether somebody who waits may do so for longer, now that his time has come.
    pub(super) fn may_wait_on(&self, wait: &mut Wait) -> Result<(), QueueRefusal> {
        let desk = lock(&self.desk);
        let now = clock::mono();
        match wait.judge(now, desk.rules, desk.service(now)) {
            Verdict::Wait => Ok(()),
            Verdict::TooLong => Err(QueueRefusal::Timeout { retry_after: desk.queue.service().unwrap_or_default() }),
            Verdict::NobodyServes => Err(self.refusal(Refused::NoEndpoint)),
        }
    }

    fn refusal(&self, refused: Refused) -> QueueRefusal {
        match refused {
            Refused::Full(retry_after) => QueueRefusal::Full { retry_after },
            Refused::PerClient(retry_after) => QueueRefusal::PerClient { retry_after },
            Refused::TooLong(retry_after) => QueueRefusal::TooLong { retry_after },
            Refused::NoEndpoint => {
                let check = &self.standing().plan.check;
                QueueRefusal::NoEndpoint { retry_after: check.every * check.rise.max(1) }
            }
        }
    }
}

impl Desk {
    /// Hands threads to those who waited for them; who has left meanwhile passes his on.
    pub(super) fn tell(&mut self, granted: Vec<Granted>) {
        let mut granted = VecDeque::from(granted);
        while let Some(Granted { ticket, endpoint }) = granted.pop_front() {
            let Some(Waiter { turn: waiting, request, .. }) = self.waiting.remove(&ticket) else {
                granted.extend(self.queue.give_back(endpoint));
                continue;
            };
            let now = clock::mono();
            let turn = Turn { endpoint, epoch: self.epoch, number: self.begin(endpoint, request, now) };
            if waiting.send(turn).is_err() {
                granted.extend(self.take_back(turn, now));
            }
        }
    }
}

impl Desk {
    /// Takes a turn back that nobody used.
    fn take_back(&mut self, turn: Turn, now: Instant) -> Vec<Granted> {
        drop(self.end(turn.endpoint, turn.number, false, now));
        self.queue.give_back(turn.endpoint)
    }
}

/// What came of asking.
pub(super) enum Asked<'a> {
    Granted(Lease),
    Waiting(Place<'a>),
}

/// Somebody's place in the line; dropped, he leaves it.
pub(super) struct Place<'a> {
    upstream: &'a Upstream,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
    /// How long it is worth waiting.
    wait: Wait,
    began: Instant,
    /// He was told what became of it; dropped before that, he has left.
    told: bool,
    /// His turn came, and the lease is his.
    served: bool,
}

impl Place<'_> {
    /// Keeps the place for as long as it is worth.
    async fn keep(&mut self, mut gone: Option<Gone<'_>>) -> Result<Turn, QueueRefusal> {
        loop {
            let gone: Option<Gone<'_>> = match &mut gone {
                Some(gone) => Some(gone.as_mut()),
                None => None,
            };
            match tokio::time::timeout_at(self.wait.until().into(), self.turn(gone)).await {
                Ok(Some(Ok(turn))) => return Ok(turn),
                Ok(Some(Err(_))) => return Err(self.upstream.refusal(Refused::NoEndpoint)),
                Ok(None) => return Err(QueueRefusal::ClientGone),
                Err(_) => self.upstream.may_wait_on(&mut self.wait)?,
            }
        }
    }

    /// His turn, or nothing when `gone`. Cancel-safe: a turn that was sent stays in the channel until it is taken.
    async fn turn(&mut self, gone: Option<Gone<'_>>) -> Option<Result<Turn, oneshot::error::RecvError>> {
        let Some(gone) = gone else { return Some((&mut self.turn).await) };
        tokio::select! {
            biased;
            turn = &mut self.turn => Some(turn),
            () = gone => None,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        if !self.told {
            let counters = &self.upstream.counters;
            counters.queue_rejected(QueueRefusal::ClientGone.reason());
            if self.wait.is_parked() {
                counters.hold_ended("client_gone", clock::mono().saturating_duration_since(self.began));
            }
        }
        let mut desk = lock(&self.upstream.desk);
        desk.waiting.remove(&self.ticket);
        if desk.queue.leave(self.ticket) {
            return;
        }
        // Not in the line: a turn was sent. If it was received, the lease holds the thread and nothing is in the channel.
        if let Ok(turn) = self.turn.try_recv() {
            let granted = desk.take_back(turn, clock::mono());
            desk.tell(granted);
        }
    }
}

impl Lease {
    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The head of the answer came at `now`, and the rest, which `stage` names, takes its time: the endpoint is not stuck with it.
    pub fn heard(&self, stage: Stage, now: Instant) {
        let mut desk = lock(&self.upstream.desk);
        desk.hear(self.endpoint.id, self.number, stage, now);
        let stuck = desk.is_stuck(self.endpoint.id);
        drop(desk);
        if stuck {
            self.upstream.recovered();
        }
    }

    /// Nobody waits for the answer any more.
    pub fn abandoned(&self) {
        lock(&self.upstream.desk).abandon(self.endpoint.id, self.number);
    }

    /// Gives the thread back at `now`.
    pub fn end(mut self, now: Instant) {
        self.ended = Some(now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(clock::mono);
        let took = now.saturating_duration_since(self.granted);
        self.upstream.counters.duration(took);
        let mut desk = lock(&self.upstream.desk);
        let ended = desk.end(self.endpoint.id, self.number, self.answered, now);
        // What was not answered says nothing about how long answers take.
        let id = self.endpoint.id;
        let granted = if self.answered { desk.queue.release(id, took) } else { desk.queue.give_back(id) };
        desk.tell(granted);
        let stuck = desk.is_stuck(self.endpoint.id);
        drop(desk);
        // With it may go what the request alone still held.
        drop(ended);
        if stuck {
            self.upstream.recovered();
        }
    }
}

#[cfg(test)]
mod tests;
