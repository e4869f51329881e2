//! What to do with what is stored (RFC 9111 4), as one decision.

use crate::semantics::cache_control::Directives;
use crate::semantics::cache_control::Scope;
use crate::semantics::freshness::Freshness;
use std::time::Duration;
use std::time::Instant;

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Fresh,
    /// Serve it, stale, and refresh it meanwhile (RFC 5861 3).
    StaleWhileRevalidate,
    /// Serve it, stale, for the request takes it so (RFC 9111 5.2.1.2).
    MaxStale,
    /// Serve it, stale, for the origin has just failed (RFC 5861 4) and is left in peace for a moment.
    StaleIfError,
    /// It is stale: ask the origin first.
    Stale,
    /// The request wants it newer than it is: ask the origin first.
    Request,
}

impl Reuse {
    /// Whether what is stored is served as it is.
    #[must_use]
    pub fn serves(self) -> bool {
        !matches!(self, Self::Stale | Self::Request)
    }

    /// The word for what is served although it is not fresh.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::StaleWhileRevalidate => Some("stale-while-revalidate"),
            Self::MaxStale => Some("max-stale"),
            Self::StaleIfError => Some("stale-if-error"),
            Self::Fresh | Self::Stale | Self::Request => None,
        }
    }
}

/// How long an origin that failed is not asked again about what may be served stale: as long as its health is checked by
/// default, so that a page that cannot be rendered costs a rendering every few seconds and not one for each visitor.
pub const ERROR_PAUSE: Duration = Duration::from_secs(5);

/// Decides for a request with `directives`.
///
/// Deviation from RFC 9111 5.2.1 unless `honour`: a visitor's `no-cache`, `max-age`, `min-fresh` and `max-stale` are not
/// minded. They are advice to a cache; in front of Zope they would let any visitor order renderings.
#[must_use]
pub fn decide(stored: &Freshness, directives: &Directives, honour: bool, now: Instant) -> Reuse {
    let age = stored.age(now);
    if honour && wants_newer(stored, directives, age) {
        return Reuse::Request;
    }
    if stored.always_ask {
        return Reuse::Stale;
    }
    if age < stored.lifetime {
        return Reuse::Fresh;
    }
    let while_revalidate = age.saturating_sub(stored.lifetime) < stored.while_revalidate;
    let failed = stored.failed.is_some_and(|failed| now < failed + ERROR_PAUSE);
    if failed && (while_revalidate || may_replace_an_error(stored, wished(directives, honour), now)) {
        return Reuse::StaleIfError;
    }
    if while_revalidate {
        return Reuse::StaleWhileRevalidate;
    }
    // RFC 9111 4.2.4: not even then if the response forbids it.
    let accepted = directives.max_stale.filter(|_| honour && !stored.strict);
    if accepted.is_some_and(|most| age.saturating_sub(stored.lifetime) <= most) {
        return Reuse::MaxStale;
    }
    Reuse::Stale
}

/// RFC 9111 5.2.1.1, 5.2.1.3, 5.2.1.4.
fn wants_newer(stored: &Freshness, directives: &Directives, age: Duration) -> bool {
    directives.no_cache != Scope::No
        || directives.max_age.is_some_and(|most| age > most)
        || directives.min_fresh.is_some_and(|least| stored.lifetime.saturating_sub(age) < least)
}

/// How stale the request itself takes an answer when the origin fails: `stale-if-error`, if visitors are minded.
#[must_use]
pub fn wished(directives: &Directives, honour: bool) -> Duration {
    directives.stale_if_error.filter(|_| honour).unwrap_or_default()
}

/// Whether it may be served although the origin failed (RFC 5861 4; RFC 9111 4.2.4), to a request that takes it so stale.
#[must_use]
pub fn may_replace_an_error(stored: &Freshness, wished: Duration, now: Instant) -> bool {
    // RFC 5861 4, RFC 9111 4.2.4: the request has no say where the response forbids it.
    let wished = if stored.strict { Duration::ZERO } else { wished };
    stored.is_fresh(now) || !stored.always_ask && stored.staleness(now) < stored.if_error.max(wished)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(lifetime: u64, while_revalidate: u64, if_error: u64) -> (Freshness, Instant) {
        let received = Instant::now();
        let seconds = Duration::from_secs;
        let freshness = Freshness {
            while_revalidate: seconds(while_revalidate),
            if_error: seconds(if_error),
            ..Freshness::lasting(seconds(lifetime), received)
        };
        (freshness, received)
    }

    #[test]
    fn a_response_goes_from_fresh_over_grace_to_stale() {
        let (stored, began) = stored(10, 5, 100);
        let none = Directives::default();
        for (second, expected, on_error) in [
            (0, Reuse::Fresh, true),
            (9, Reuse::Fresh, true),
            (10, Reuse::StaleWhileRevalidate, true),
            (14, Reuse::StaleWhileRevalidate, true),
            (15, Reuse::Stale, true),
            (109, Reuse::Stale, true),
            (110, Reuse::Stale, false),
        ] {
            let now = began + Duration::from_secs(second);
            assert_eq!(decide(&stored, &none, true, now), expected, "{second}");
            assert_eq!(may_replace_an_error(&stored, Duration::ZERO, now), on_error, "{second}");
        }
    }

    #[test]
    fn visitors_order_no_renderings_unless_the_operator_lets_them() {
        let (stored, began) = stored(10, 0, 0);
        let now = began + Duration::from_secs(5);
        let secs = |seconds| Some(Duration::from_secs(seconds));
        for directives in [
            Directives { no_cache: Scope::All, ..Directives::default() },
            Directives { max_age: secs(4), ..Directives::default() },
            Directives { min_fresh: secs(6), ..Directives::default() },
        ] {
            assert_eq!(decide(&stored, &directives, false, now), Reuse::Fresh);
            assert_eq!(decide(&stored, &directives, true, now), Reuse::Request);
        }
    }

    #[test]
    fn a_request_may_take_stale_unless_the_response_forbids_it() {
        let (mut stored, began) = stored(10, 0, 0);
        let now = began + Duration::from_secs(15);
        let takes = |seconds| Directives { max_stale: Some(Duration::from_secs(seconds)), ..Directives::default() };
        assert_eq!(decide(&stored, &takes(5), true, now), Reuse::MaxStale);
        assert_eq!(decide(&stored, &takes(4), true, now), Reuse::Stale);
        assert_eq!(decide(&stored, &takes(5), false, now), Reuse::Stale);
        stored.strict = true;
        assert_eq!(decide(&stored, &takes(5), true, now), Reuse::Stale);
    }

    #[test]
    fn an_origin_that_failed_is_left_in_peace_while_stale_may_be_served() {
        let (mut stored, began) = stored(10, 0, 100);
        let at = |second| began + Duration::from_secs(second);
        stored.failed = Some(at(20));
        let none = Directives::default();
        assert_eq!(decide(&stored, &none, false, at(24)), Reuse::StaleIfError);
        assert_eq!(decide(&stored, &none, false, at(25)), Reuse::Stale);
        stored.failed = Some(at(109));
        assert_eq!(decide(&stored, &none, false, at(110)), Reuse::Stale, "it is too old to be served");
    }

    #[test]
    fn a_request_may_take_what_is_staler_when_the_origin_fails() {
        let (mut stored, began) = stored(10, 0, 0);
        let now = began + Duration::from_secs(15);
        let takes =
            |seconds| Directives { stale_if_error: Some(Duration::from_secs(seconds)), ..Directives::default() };
        for (seconds, honour, expected) in [(6, true, true), (5, true, false), (6, false, false)] {
            let wished = wished(&takes(seconds), honour);
            assert_eq!(may_replace_an_error(&stored, wished, now), expected, "{seconds} {honour}");
        }
        stored.failed = Some(now);
        assert_eq!(decide(&stored, &takes(6), true, now), Reuse::StaleIfError);
        stored.strict = true;
        assert!(!may_replace_an_error(&stored, Duration::MAX, now), "the response forbids it");
    }

    #[test]
    fn no_cache_is_always_asked_about() {
        let (mut stored, began) = stored(10, 5, 100);
        stored.always_ask = true;
        assert_eq!(decide(&stored, &Directives::default(), false, began), Reuse::Stale);
        assert!(!may_replace_an_error(&stored, Duration::MAX, began));
    }
}
