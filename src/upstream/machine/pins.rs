//! Who has written where: for a while a client is served by the endpoint that took his change, since the other ZEO clients
//! may not have heard of it yet.
//!
//! Bounded: past `PINS_MAX` clients the oldest pin goes.

use crate::upstream::machine::queue::ClientKey;
use crate::upstream::machine::queue::EndpointId;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

/// The most pins at a time: about 64 bytes each.
const PINS_MAX: usize = 10_000;

/// All pins of an upstream.
#[derive(Debug, Default)]
pub struct Pins {
    by_client: HashMap<ClientKey, (EndpointId, Instant)>,
    /// By the time they end, as long as `lasting` stays the same; a pin that was renewed is in it twice.
    order: VecDeque<(Instant, ClientKey)>,
}

impl Pins {
    /// `client` has written at `endpoint` at `now`.
    pub fn pin(&mut self, client: ClientKey, endpoint: EndpointId, now: Instant, lasting: Duration) {
        if lasting.is_zero() {
            return;
        }
        self.forget(now);
        let until = now + lasting;
        self.by_client.insert(client, (endpoint, until));
        self.order.push_back((until, client));
    }

    /// Where `client` is served at `now`.
    #[must_use]
    pub fn of(&self, client: ClientKey, now: Instant) -> Option<EndpointId> {
        if self.by_client.is_empty() {
            return None;
        }
        self.by_client.get(&client).filter(|(_, until)| *until > now).map(|(endpoint, _)| *endpoint)
    }

    /// Nobody is served at `endpoint` any more.
    pub fn forget_endpoint(&mut self, endpoint: EndpointId) {
        self.by_client.retain(|_, (pinned, _)| *pinned != endpoint);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, client)) = self.order.front().copied() {
            if until > now && self.order.len() < PINS_MAX {
                break;
            }
            self.order.pop_front();
            if self.by_client.get(&client).is_some_and(|(_, latest)| *latest <= until) {
                self.by_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_lasts_its_time_from_the_last_write() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (client, here, there) = (ClientKey(1), EndpointId(0), EndpointId(1));
        let mut pins = Pins::default();
        pins.pin(client, here, at(0), Duration::from_secs(5));
        pins.pin(client, there, at(3), Duration::from_secs(5));
        assert_eq!(pins.of(client, at(4)), Some(there));
        assert_eq!(pins.of(ClientKey(2), at(4)), None);
        pins.pin(ClientKey(2), here, at(6), Duration::from_secs(5));
        assert_eq!([pins.of(client, at(7)), pins.of(client, at(8))], [Some(there), None]);
        pins.pin(client, here, at(20), Duration::ZERO);
        assert_eq!(pins.of(client, at(20)), None, "switched off");
        let mut off = Pins::default();
        off.pin(client, here, at(0), Duration::ZERO);
        assert!(off.by_client.is_empty() && off.order.is_empty(), "nothing is remembered");
    }

    #[test]
    fn ever_new_writers_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut pins = Pins::default();
        for client in 0..3 * PINS_MAX as u64 {
            pins.pin(ClientKey(client), EndpointId(0), now, Duration::from_secs(5));
        }
        assert!(pins.by_client.len() <= PINS_MAX && pins.order.len() <= PINS_MAX);
    }

    #[test]
    fn who_was_pinned_to_an_endpoint_that_is_gone_is_free() {
        let now = Instant::now();
        let mut pins = Pins::default();
        for (client, endpoint) in [(1, 0), (2, 1)] {
            pins.pin(ClientKey(client), EndpointId(endpoint), now, Duration::from_secs(5));
        }
        pins.forget_endpoint(EndpointId(0));
        assert_eq!([1, 2].map(|client| pins.of(ClientKey(client), now)), [None, Some(EndpointId(1))]);
    }
}
