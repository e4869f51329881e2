//! How long an origin's answer, or a body, may keep us waiting: at a time, and in all for what it brings.
//!
//! Only waiting counts. While nobody asks the body for more, because the other side is slow, its sender is not to blame.

use crate::clock;
use crate::semantics::pace::Pace;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;
use tokio::time::Sleep;

/// The patience with one body.
pub struct Patience {
    pause: Duration,
    pace: Pace,
    /// Since when nothing comes although it was asked for.
    since: Option<Instant>,
    alarm: Alarm,
}

/// A timer for one wait after the other. It is made at the first, and reset only when it fires: a wait that ends in time
/// costs no timer.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// For a body that may pause for `pause`, and keeps `pace` otherwise.
    #[must_use]
    pub fn new(pause: Duration, pace: Pace) -> Self {
        Self { pause, pace, since: None, alarm: Alarm::default() }
    }

    /// A piece came.
    pub fn moved(&mut self, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.pace.waited(clock::mono().saturating_duration_since(since));
        }
        self.pace.moved(bytes);
    }

    /// Nothing comes: ready when that has lasted too long.
    pub fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(clock::mono);
        self.alarm.poll_due(since + self.pause.min(self.pace.left()), cx)
    }
}

impl Alarm {
    /// Ready when it is `due` or later.
    pub fn poll_due(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            // A timer of an earlier wait fires early, and is set again; one that is due later than now must not sleep on.
            if timer.deadline() > due.into() {
                timer.as_mut().reset(due.into());
            }
            ready!(timer.as_mut().poll(cx));
            if clock::mono() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due.into());
        }
    }
}
