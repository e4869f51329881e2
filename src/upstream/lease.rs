//! Getting a thread of an endpoint and giving it back: the line's shell.

use crate::clock;
use crate::upstream::asker::Asker;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::live::Desk;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::queue::Arrival;
use crate::upstream::machine::queue::Ask;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::queue::Granted;
use crate::upstream::machine::queue::Refused;
use crate::upstream::machine::queue::Ticket;
use std::collections::VecDeque;
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
    granted: Instant,
}

/// What somebody who waited is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    endpoint: EndpointId,
    epoch: u64,
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
            Self::NoEndpoint { .. } => "no_endpoint",
        }
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
        }
    }
}

impl Upstream {
    /// A thread of an endpoint that is open, if possible not of `avoid`. Waits in line while none is free.
    ///
    /// Cancel-safe: dropped, it leaves the line or gives the thread back.
    ///
    /// # Errors
    /// [`QueueRefusal`], with the time after which it may be different.
    pub async fn acquire(self: &Arc<Self>, asker: &Asker, avoid: Option<EndpointId>) -> Result<Lease, QueueRefusal> {
        let began = clock::mono();
        let (mut place, patience) = {
            let mut desk = lock(&self.desk);
            let ask = Ask {
                client: asker.client,
                class: asker.class,
                avoid,
                pinned: desk.pins.of(asker.who, began),
                hash: asker.hash,
            };
            let hold = desk.hold_left(began);
            if desk.queue.is_paused() && hold.is_none() {
                return Err(self.refusal(Refused::NoEndpoint));
            }
            match desk.queue.arrive(ask, hold.is_some()) {
                Arrival::Granted(endpoint) => {
                    let turn = Turn { endpoint, epoch: desk.epoch };
                    drop(desk);
                    return self.lease(turn, began, began);
                }
                Arrival::Waiting(ticket) => {
                    let (sender, turn) = oneshot::channel();
                    desk.waiting.insert(ticket, sender);
                    let patience = hold.map_or(desk.patience, |hold| hold.max(desk.patience));
                    (Place { upstream: self, ticket, turn }, patience)
                }
                Arrival::Refused(refused) => return Err(self.refusal(refused)),
            }
        };
        match tokio::time::timeout(patience, &mut place.turn).await {
            Ok(Ok(turn)) => self.lease(turn, began, clock::mono()),
            Ok(Err(_)) => Err(self.refusal(Refused::NoEndpoint)),
            Err(_) if self.is_out() => Err(self.refusal(Refused::NoEndpoint)),
            Err(_) => {
                let retry_after = lock(&self.desk).queue.service().unwrap_or_default();
                Err(QueueRefusal::Timeout { retry_after })
            }
        }
    }

    fn lease(self: &Arc<Self>, turn: Turn, began: Instant, granted: Instant) -> Result<Lease, QueueRefusal> {
        let waited = granted.saturating_duration_since(began);
        // The table only grows, so an endpoint that was granted is in it.
        let endpoint = self.endpoint(turn.endpoint).ok_or_else(|| self.refusal(Refused::NoEndpoint))?;
        Ok(Lease { upstream: Arc::clone(self), endpoint, epoch: turn.epoch, waited, granted })
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
            let turn = Turn { endpoint, epoch: self.epoch };
            let told = self.waiting.remove(&ticket).is_some_and(|waiting| waiting.send(turn).is_ok());
            if !told {
                granted.extend(self.queue.give_back(endpoint));
            }
        }
    }
}

/// Somebody's place in the line; dropped, he leaves it.
struct Place<'a> {
    upstream: &'a Upstream,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut desk = lock(&self.upstream.desk);
        desk.waiting.remove(&self.ticket);
        if desk.queue.leave(self.ticket) {
            return;
        }
        // Not in the line: a turn was sent. If it was received, the lease holds the thread and nothing is in the channel.
        if let Ok(turn) = self.turn.try_recv() {
            let granted = desk.queue.give_back(turn.endpoint);
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
}

impl Drop for Lease {
    fn drop(&mut self) {
        let took = clock::mono().saturating_duration_since(self.granted);
        self.upstream.counters.duration(took);
        let mut desk = lock(&self.upstream.desk);
        let granted = desk.queue.release(self.endpoint.id, took);
        desk.tell(granted);
    }
}
