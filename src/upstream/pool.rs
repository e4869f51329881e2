//! Idle connections to one endpoint, kept for the next request.
//!
//! Zope's waitress closes the connection after each 304 and each 500; a connection that is closed when it is wanted is
//! nothing unusual and no sign of sickness.

use crate::clock;
use crate::upstream::exchange::Connection;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::ThreadId;
use std::time::Duration;
use std::time::Instant;

/// Idle connections, the last used on top.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Box<Connection>,
    /// The worker whose event loop watches the connection: its own requests need no message from another thread.
    thread: ThreadId,
    since: Instant,
}

impl Pool {
    /// A connection that has been idle for less than `patience`, of this worker if there is one.
    pub fn take(&self, patience: Duration, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            return None;
        }
        let here = std::thread::current().id();
        loop {
            let at = idle.iter().rposition(|one| one.thread == here).or(idle.len().checked_sub(1))?;
            let mut one = idle.remove(at);
            if one.is_good(now, patience) {
                return Some(one.connection);
            }
        }
    }

    /// Keeps a connection that is idle since `now`; the oldest goes if there are `max` already.
    pub fn put(&self, connection: Box<Connection>, max: usize, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= max && !idle.is_empty() {
            idle.remove(0);
        }
        idle.push(Idle { connection, thread: std::thread::current().id(), since: now });
    }

    /// Closes what is closed or has been idle for `patience`.
    pub fn sweep(&self, patience: Duration) {
        let now = clock::mono();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|one| one.is_good(now, patience));
    }

    /// Closes all.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Idle {
    fn is_good(&mut self, now: Instant, patience: Duration) -> bool {
        now.saturating_duration_since(self.since) < patience && self.connection.is_quiet()
    }
}
