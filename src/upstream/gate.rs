//! A door for one kind of requests, of which only so many may be under way at once.
//!
//! Who may not enter waits, in about the order in which they came. How many may be inside is asked whenever one enters or
//! leaves, so that it can change while some wait.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

/// The door.
#[derive(Default)]
pub struct Gate {
    inside: AtomicUsize,
    waiting: AtomicUsize,
    left: Notify,
}

/// The right to be inside, given back when dropped.
pub struct Pass<'a>(&'a Gate);

/// Somebody who waits at the door.
struct Waiting<'a>(&'a Gate);

impl Gate {
    /// Enters when fewer than `most` says are inside. Cancel-safe: who is dropped has not entered.
    pub async fn enter(&self, most: impl Fn() -> usize) -> Pass<'_> {
        if let Some(pass) = self.try_enter(most()) {
            return pass;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // From here on no leaving is missed.
            left.as_mut().enable();
            let most = most();
            if let Some(pass) = self.try_enter(most) {
                // One leaves and calls one; where more may be inside than before, more have to be called.
                if self.inside.load(Ordering::Acquire) < most {
                    self.left.notify_one();
                }
                return pass;
            }
            left.await;
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn try_enter(&self, most: usize) -> Option<Pass<'_>> {
        let one_more = |inside: usize| (inside < most).then_some(inside + 1);
        self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Pass(self))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_one();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    #[tokio::test]
    async fn no_more_than_allowed_are_inside_and_whoever_leaves_lets_the_next_in() {
        let gate = Gate::default();
        let first = gate.enter(|| 2).await;
        let second = gate.enter(|| 2).await;
        let mut third = pin!(gate.enter(|| 2));
        let mut fourth = pin!(gate.enter(|| 2));
        poll_fn(|cx| {
            assert!(third.as_mut().poll(cx).is_pending() && fourth.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(gate.waiting(), 2);
        drop(first);
        let third = third.await;
        assert_eq!(gate.waiting(), 1);
        drop(second);
        drop(fourth.await);
        drop(third);
        assert_eq!((gate.waiting(), gate.inside.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn when_more_may_be_inside_than_before_those_who_wait_enter_as_soon_as_one_leaves() {
        let (gate, most) = (Gate::default(), AtomicUsize::new(1));
        let enter = || Box::pin(gate.enter(|| most.load(Ordering::Relaxed)));
        let inside = enter().await;
        let mut waiting: Vec<_> = (0..4).map(|_| enter()).collect();
        poll_fn(|cx| {
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(cx).is_pending()));
            Poll::Ready(())
        })
        .await;
        most.store(3, Ordering::Relaxed);
        drop(inside);
        let entered = poll_fn(|cx| {
            // Each is polled once, as those are who were woken.
            let polled = waiting.iter_mut().map(|one| one.as_mut().poll(cx));
            Poll::Ready(
                polled
                    .filter_map(|polled| if let Poll::Ready(pass) = polled { Some(pass) } else { None })
                    .collect::<Vec<_>>(),
            )
        })
        .await;
        assert_eq!((entered.len(), gate.inside.load(Ordering::Relaxed)), (3, 3));
    }

    #[tokio::test]
    async fn whoever_goes_away_at_the_door_takes_nobodys_turn() {
        let gate = Gate::default();
        let inside = gate.enter(|| 1).await;
        let mut stays = {
            let mut goes = Box::pin(gate.enter(|| 1));
            let mut stays = Box::pin(gate.enter(|| 1));
            poll_fn(|cx| {
                assert!(goes.as_mut().poll(cx).is_pending() && stays.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            // It is the first one's turn when it goes.
            drop(inside);
            drop(goes);
            stays
        };
        drop(stays.as_mut().await);
        drop(gate.enter(|| 1).await);
    }
}
