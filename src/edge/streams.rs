//! The streams of an HTTP/2 connection, each a task of its own, and the end of one whose client takes nothing (RFC 9113 10.5).
//!
//! A client that never opens its window makes hyper wait for ever, with the answer in hand. Nobody asks the body meanwhile,
//! so the body cannot notice; and to close the whole connection would punish a reader who has paused one download. So the
//! stream's task is watched from outside: when it has been the client's turn for too long, the task is dropped, which resets
//! the stream.

use crate::clock;
use crate::edge::activity::Activity;
use crate::edge::activity::Turn;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;
use tokio::time::Sleep;

/// Starts the streams of one connection.
#[derive(Clone)]
pub struct Streams {
    activity: Arc<Activity>,
    /// How long a client may not take what it asked for.
    patience: Duration,
}

impl Streams {
    /// For the connection of `activity`.
    #[must_use]
    pub fn new(activity: Arc<Activity>, patience: Duration) -> Self {
        Self { activity, patience }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper calls the service and starts the stream in one breath, so the last turn that began is this stream's.
        let turn = self.activity.take_turn();
        let activity = Arc::clone(&self.activity);
        let patience = self.patience;
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let mut timer: Option<Pin<Box<Sleep>>> = None;
            std::future::poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let Some(since) = turn.as_ref().and_then(|turn| turn.of_client()) else { return Poll::Pending };
                ready!(poll_due(&mut timer, since + patience, cx));
                activity.stalled();
                Poll::Ready(())
            })
            .await;
        });
    }
}

/// Ready when `due` has come.
fn poll_due(timer: &mut Option<Pin<Box<Sleep>>>, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
    loop {
        ready!(timer.as_mut().poll(cx));
        if clock::mono() >= due {
            return Poll::Ready(());
        }
        timer.as_mut().reset(due.into());
    }
}

impl Turn {
    /// It is the client's turn since then: it has been given something, and has not taken it yet.
    pub fn clients(&self) {
        self.set(Some(clock::mono()));
    }

    /// It is our turn, or the origin's.
    pub fn ours(&self) {
        self.set(None);
    }
}
