//! What gives way when memory runs short, as all workers see it: the level, and the end of the connections that are open.
//!
//! Every connection listens for one end that it shares with all that were open beside it. To call that end closes those that
//! idle at once and lets the others finish their answer (for HTTP/2: GOAWAY), and costs nothing until it is called. When it is
//! to be called is decided in `admission::pressure`.

use crate::admission::pressure::Level;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// The level, and the end of what is open.
pub struct Shedding {
    level: AtomicU8,
    stop: CancellationToken,
    end: Mutex<CancellationToken>,
}

impl Shedding {
    /// There is enough of everything; all connections end with `stop`.
    #[must_use]
    pub fn new(stop: &CancellationToken) -> Self {
        Self { level: AtomicU8::new(Level::Calm as u8), stop: stop.clone(), end: Mutex::new(stop.child_token()) }
    }

    /// How short memory is.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::of(self.level.load(Ordering::Relaxed))
    }

    /// Memory is so short from now on.
    pub fn set(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// The end of a connection that opens now.
    #[must_use]
    pub fn end(&self) -> CancellationToken {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes what idles, and what is at work when it has answered.
    pub fn close_idle(&self) {
        let next = self.stop.child_token();
        let end = std::mem::replace(&mut *self.end.lock().unwrap_or_else(PoisonError::into_inner), next);
        end.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_ends_and_what_opens_later_goes_on_until_all_ends() {
        let stop = CancellationToken::new();
        let shedding = Shedding::new(&stop);
        let before = shedding.end();
        shedding.close_idle();
        let after = shedding.end();
        assert!(before.is_cancelled() && !after.is_cancelled() && !stop.is_cancelled());
        stop.cancel();
        assert!(after.is_cancelled());
    }
}
