//! Collapsed forwarding: equal misses become one request to the origin.
//!
//! A [`Flight`] is one fetch under way for one key. The first to ask becomes its [`Leader`]; all later ones follow and
//! learn how it landed: with a response that may be shared (perhaps still arriving), with one that may not, or not at all.
//! A leader that is dropped without a word has failed, so no follower ever waits for nobody.

use crate::cache::entry::Stored;
use http::StatusCode;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

const SHARDS: usize = 32;

/// How a fetch landed.
#[derive(Clone, Debug)]
pub enum Landing {
    /// Not yet.
    Airborne,
    /// With a response for everybody.
    Shared(Arc<Stored>),
    /// With a response for its leader alone: everyone else asks for himself, at once and side by side.
    Private,
    /// Without a response, perhaps for a reason that holds for all: one of the waiting may try once more.
    Failed(Option<Failure>),
}

/// Why a fetch gave no response, for those who waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What a client is answered.
    pub status: StatusCode,
    /// The word for logs and metrics.
    pub why: &'static str,
    /// When to come back, if that can help.
    pub retry_after: Option<Duration>,
}

/// The flights for one key: mostly one, more while variants of one URL are being fetched.
type ByKey = HashMap<Box<[u8]>, Vec<Named>>;

/// A flight, and the variant it is for, where that is known.
struct Named {
    variant: Option<Box<[u8]>>,
    flight: Arc<Flight>,
}

/// All fetches under way, by key.
pub struct Flights {
    shards: Vec<Mutex<ByKey>>,
    hasher: RandomState,
}

/// One fetch under way.
#[derive(Debug)]
pub struct Flight {
    landing: watch::Sender<Landing>,
    purged: AtomicBool,
    in_line: AtomicBool,
}

/// The duty to land a flight; dropped, the flight has failed.
pub struct Leader {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    key: Box<[u8]>,
    landed: bool,
}

/// What [`Flights::join`] made of the caller.
pub enum Joined {
    /// The first: fetch, and land the flight.
    Leader(Leader),
    /// Somebody is at it: wait for the landing.
    Follower(Arc<Flight>),
}

impl Flights {
    /// No flight yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, hasher: RandomState::new() })
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, ByKey> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        // The sections under this lock are map operations that leave it whole even if one panics.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight for `key`, or starts it. Those who followed one that brought another variant than theirs join, or
    /// start, the one for their `variant`.
    #[must_use]
    pub fn join(self: &Arc<Self>, key: &[u8], variant: Option<&[u8]>) -> Joined {
        let mut shard = self.shard(key);
        let known = shard.get(key).and_then(|flights| flights.iter().find(|named| named.variant.as_deref() == variant));
        if let Some(named) = known {
            return Joined::Follower(Arc::clone(&named.flight));
        }
        let flight = Arc::new(Flight::default());
        let named = Named { variant: variant.map(Into::into), flight: Arc::clone(&flight) };
        shard.entry(key.into()).or_default().push(named);
        Joined::Leader(Leader { flights: Arc::clone(self), flight, key: key.into(), landed: false })
    }

    /// Whether a fetch for `key` is under way.
    #[must_use]
    pub fn is_under_way(&self, key: &[u8]) -> bool {
        self.shard(key).contains_key(key)
    }

    /// Notes that `key` was purged: what is being fetched now may be older than the purge and must not be stored, and
    /// whoever asks from now on starts anew.
    pub fn purge(&self, key: &[u8]) {
        for named in self.shard(key).remove(key).into_iter().flatten() {
            named.flight.purged.store(true, Ordering::Release);
        }
    }

    /// Notes that what this flight brings was purged: nobody joins it any more. A later flight for `key` goes on.
    pub fn bar(&self, key: &[u8], flight: &Arc<Flight>) {
        flight.purged.store(true, Ordering::Release);
        self.leave(key, flight);
    }

    /// Notes a purge of everything.
    pub fn purge_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for named in shard.drain().flat_map(|(_, flights)| flights) {
                named.flight.purged.store(true, Ordering::Release);
            }
        }
    }

    fn leave(&self, key: &[u8], flight: &Arc<Flight>) {
        let mut shard = self.shard(key);
        let Some(flights) = shard.get_mut(key) else { return };
        flights.retain(|named| !Arc::ptr_eq(&named.flight, flight));
        if flights.is_empty() {
            shard.remove(key);
        }
    }
}

impl Default for Flight {
    fn default() -> Self {
        Self { landing: watch::Sender::new(Landing::Airborne), purged: false.into(), in_line: false.into() }
    }
}

impl Flight {
    /// Whether it stands in line for an origin: nothing has been sent yet.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        self.in_line.load(Ordering::Relaxed)
    }

    /// Waits until the flight has landed.
    pub async fn landed(&self) -> Landing {
        let mut landing = self.landing.subscribe();
        match landing.wait_for(|landing| !matches!(landing, Landing::Airborne)).await {
            Ok(landing) => landing.clone(),
            Err(_) => Landing::Failed(None),
        }
    }
}

impl Leader {
    /// The key this flight is for.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What those who wait for it know it by.
    #[must_use]
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Where is noted whether the fetch stands in line for an origin.
    #[must_use]
    pub fn in_line(&self) -> &AtomicBool {
        &self.flight.in_line
    }

    /// Waits until nobody follows.
    pub async fn deserted(&self) {
        self.flight.landing.closed().await;
    }

    /// Lands with a response that everybody may have. The flight stays known until the leader is dropped, so that those
    /// who come while the body arrives join it.
    pub fn share(&mut self, response: Arc<Stored>) {
        self.landed = true;
        self.flight.landing.send_replace(Landing::Shared(response));
    }

    /// Lands with a response for the leader alone.
    pub fn keep_private(mut self) {
        self.landed = true;
        // Out of the map first: whoever comes now must not find a flight that has nothing for him.
        self.flights.leave(&self.key, &self.flight);
        self.flight.landing.send_replace(Landing::Private);
    }

    /// Lands without a response, and tells those who wait why.
    pub fn fail(mut self, failure: Failure) {
        self.landed = true;
        // Out of the map first: whoever comes now tries anew.
        self.flights.leave(&self.key, &self.flight);
        self.flight.landing.send_replace(Landing::Failed(Some(failure)));
    }

    /// Runs `store` unless the key was purged since the flight began; a purge during `store` waits for it.
    pub fn store_unless_purged(&self, store: impl FnOnce()) -> bool {
        let shard = self.flights.shard(&self.key);
        let current = !self.flight.purged.load(Ordering::Acquire);
        if current {
            store();
        }
        drop(shard);
        current
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flights.leave(&self.key, &self.flight);
        if !self.landed {
            self.flight.landing.send_replace(Landing::Failed(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(flights: &Arc<Flights>, key: &[u8]) -> Leader {
        match flights.join(key, None) {
            Joined::Leader(leader) => leader,
            Joined::Follower(_) => panic!("somebody else leads"),
        }
    }

    fn follower(flights: &Arc<Flights>, key: &[u8]) -> Arc<Flight> {
        match flights.join(key, None) {
            Joined::Follower(flight) => flight,
            Joined::Leader(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn no_follower_waits_for_a_leader_that_is_gone() {
        let flights = Flights::new();
        let first = leader(&flights, b"k");
        let waiting = follower(&flights, b"k");
        drop(first);
        assert!(matches!(waiting.landed().await, Landing::Failed(None)));
        let second = leader(&flights, b"k");
        let waiting = follower(&flights, b"k");
        let failure = Failure { status: StatusCode::BAD_GATEWAY, why: "reset", retry_after: None };
        second.fail(failure);
        assert!(matches!(waiting.landed().await, Landing::Failed(Some(told)) if told == failure));
        leader(&flights, b"k").keep_private();
    }

    #[tokio::test]
    async fn a_private_answer_sends_the_others_on_their_own_ways() {
        let flights = Flights::new();
        let first = leader(&flights, b"k");
        let waiting = follower(&flights, b"k");
        first.keep_private();
        assert!(matches!(waiting.landed().await, Landing::Private));
        drop(leader(&flights, b"k"));
    }

    #[test]
    fn variants_of_one_url_fly_beside_each_other_and_are_purged_together() {
        let flights = Flights::new();
        let first = leader(&flights, b"k");
        let Joined::Leader(other) = flights.join(b"k", Some(b"de")) else { panic!("nobody leads") };
        assert!(matches!(flights.join(b"k", Some(b"de")), Joined::Follower(_)));
        drop(first);
        assert!(flights.is_under_way(b"k"));
        flights.purge(b"k");
        assert!(!other.store_unless_purged(|| panic!("stored")));
        drop(other);
        assert!(!flights.is_under_way(b"k"));
    }

    #[test]
    fn what_was_fetched_before_a_purge_is_not_stored_after_it() {
        let flights = Flights::new();
        let before = leader(&flights, b"k");
        flights.purge(b"k");
        let after = leader(&flights, b"k");
        assert!(!before.store_unless_purged(|| panic!("stored")));
        drop(before);
        let mut stored = false;
        assert!(after.store_unless_purged(|| stored = true) && stored);
        follower(&flights, b"k");
        flights.purge_all();
        assert!(!after.store_unless_purged(|| panic!("stored")));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Join,
        Store,
        Private,
        Fail,
        Vanish,
        Purge,
    }

    const STEPS: [Step; 6] = [Step::Join, Step::Store, Step::Private, Step::Fail, Step::Vanish, Step::Purge];

    /// Whether a follower would be told something now.
    fn has_landed(flight: &Flight) -> bool {
        !matches!(*flight.landing.borrow(), Landing::Airborne)
    }

    /// Each step is one critical section of a shard's lock, so these are all orders that threads can produce for one key;
    /// leaders act in the order in which they came, or the latest first.
    #[test]
    fn no_order_of_events_makes_two_lead_or_one_follow_nobody() {
        let depth = 6;
        for number in 0..STEPS.len().pow(depth) * 2 {
            let (number, newest) = (number / 2, number % 2 == 1);
            let flights = Flights::new();
            let mut leaders: Vec<(Leader, bool)> = Vec::new();
            let mut followers: Vec<(Arc<Flight>, Arc<Flight>)> = Vec::new();
            for digit in 0..depth {
                let acting = if newest { leaders.len().checked_sub(1) } else { leaders.first().map(|_| 0) };
                match (STEPS[number / STEPS.len().pow(digit) % STEPS.len()], acting) {
                    (Step::Join, _) => match flights.join(b"k", None) {
                        Joined::Leader(leader) => {
                            assert!(leaders.iter().all(|(_, purged)| *purged), "two lead");
                            leaders.push((leader, false));
                        }
                        Joined::Follower(flight) => {
                            let (leader, _) = leaders.iter().find(|(_, purged)| !purged).expect("somebody leads");
                            followers.push((flight, Arc::clone(&leader.flight)));
                        }
                    },
                    (Step::Purge, _) => {
                        flights.purge(b"k");
                        for (_, purged) in &mut leaders {
                            *purged = true;
                        }
                    }
                    (Step::Store, Some(at)) => {
                        let (leader, purged) = &leaders[at];
                        assert_eq!(leader.store_unless_purged(|| ()), !purged, "stored is what no purge has overtaken");
                    }
                    (Step::Private, Some(at)) => leaders.remove(at).0.keep_private(),
                    (Step::Fail, Some(at)) => {
                        leaders.remove(at).0.fail(Failure {
                            status: StatusCode::BAD_GATEWAY,
                            why: "x",
                            retry_after: None,
                        });
                    }
                    (Step::Vanish, Some(at)) => drop(leaders.remove(at)),
                    (_, None) => {}
                }
                for (flight, led) in &followers {
                    assert!(Arc::ptr_eq(flight, led), "he follows the one who leads");
                    let under_way = leaders.iter().any(|(leader, _)| Arc::ptr_eq(&leader.flight, flight));
                    assert_eq!(has_landed(flight), !under_way, "he is told as soon as there is something to tell");
                }
            }
        }
    }
}
