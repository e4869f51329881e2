//! How long a response is fresh, how old it is, and how long it may be served stale (RFC 9111 4.2, RFC 5861).

use crate::semantics::cache_control;
use crate::semantics::cache_control::Scope;
use crate::semantics::cache_status;
use crate::semantics::date;
use crate::semantics::policy::Policy;
use crate::units::Now;
use http::HeaderMap;
use http::StatusCode;
use http::header;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// The operator's bounds on reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most that a heuristic lifetime may be; zero: no heuristics (RFC 9111 4.2.2).
    pub heuristic_max: Duration,
    /// How long a response that allows it may at most be served stale while it is refreshed.
    pub grace_revalidate: Duration,
    /// How long a response may be served stale when the origin fails, unless it says less.
    pub grace_error: Duration,
    /// Serve stale even what says must-revalidate. Deviation from RFC 9111 4.2.4, by the operator's word only.
    pub override_must_revalidate: bool,
    /// The most that anything but 200, 203, 301 and 308 may be fresh: Zope sends errors with the headers of success.
    pub error_ttl_max: Duration,
    /// Believe the origin in what RFC 9111 allows and Zope should not be believed in: any final status, Set-Cookie.
    pub trust_origin: bool,
}

/// What reuse has to know of a stored response.
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The freshness lifetime.
    pub lifetime: Duration,
    /// The corrected initial age (RFC 9111 4.2.3), at `received`.
    pub initial_age: Duration,
    /// When the response came.
    pub received: Instant,
    /// Not to be reused without asking (`no-cache`).
    pub always_ask: bool,
    /// How long after the lifetime it may be served while it is refreshed.
    pub while_revalidate: Duration,
    /// How long after the lifetime it may be served when the origin fails.
    pub if_error: Duration,
    /// Whether the lifetime was guessed.
    pub heuristic: bool,
    /// Whether the response named a lifetime at all.
    pub explicit: bool,
    /// Whether it must never be served stale, whatever the request allows.
    pub strict: bool,
    /// When the origin last failed to say whether it is still good.
    pub failed: Option<Instant>,
}

/// When the request was sent and its answer came, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the request was sent.
    pub asked: Instant,
    /// When the answer's head came.
    pub answered: Now,
}

impl Freshness {
    /// Of a response that came at `received`, fresh as it was, is fresh for `lifetime` by its own word, and may not be served
    /// after that.
    #[must_use]
    pub fn lasting(lifetime: Duration, received: Instant) -> Self {
        Self {
            lifetime,
            initial_age: Duration::ZERO,
            received,
            always_ask: false,
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            heuristic: false,
            explicit: true,
            strict: false,
            failed: None,
        }
    }

    /// The current age (RFC 9111 4.2.3).
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received)
    }

    /// Whether it may be reused without asking (RFC 9111 4.2).
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        !self.always_ask && self.age(now) < self.lifetime
    }

    /// Seconds left, negative when stale.
    #[must_use]
    pub fn ttl(&self, now: Instant) -> i64 {
        cache_status::ttl(self.lifetime, self.age(now))
    }

    /// How long it has been stale.
    #[must_use]
    pub fn staleness(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }
}

/// Assesses a response.
#[must_use]
pub fn assess(status: StatusCode, headers: &HeaderMap, policy: &Policy, bounds: &Bounds, times: Times) -> Freshness {
    let Policy { directives, .. } = policy;
    let explicit = explicit_lifetime(headers, policy, times.answered.wall);
    // RFC 9111 4.2.2: of other statuses only what is marked as cacheable, as `public` does.
    let guessable = is_heuristically_cacheable(status) || directives.public;
    let guessed =
        (explicit.is_none() && guessable).then(|| heuristic_lifetime(headers, bounds, times.answered.wall)).flatten();
    let mut lifetime = explicit.or(guessed).unwrap_or(Duration::ZERO);
    if !is_success_or_permanent(status) {
        lifetime = lifetime.min(bounds.error_ttl_max);
    }
    // With names, no-cache is about those fields only (RFC 9111 5.2.2.4); they are not stored.
    let must_ask = directives.no_cache == Scope::All;
    // RFC 9111 4.2.4: none of these may be served stale; s-maxage implies proxy-revalidate (5.2.2.10).
    let strict = directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    let forbidden = must_ask || strict && !bounds.override_must_revalidate;
    let window = |own: Duration, ceiling: Duration| if forbidden { Duration::ZERO } else { own.min(ceiling) };
    Freshness {
        lifetime,
        initial_age: initial_age(headers, times),
        received: times.answered.mono,
        always_ask: must_ask,
        while_revalidate: window(directives.stale_while_revalidate.unwrap_or_default(), bounds.grace_revalidate),
        if_error: window(directives.stale_if_error.unwrap_or(Duration::MAX), bounds.grace_error),
        heuristic: guessed.is_some(),
        explicit: explicit.is_some(),
        strict: forbidden,
        failed: None,
    }
}

fn is_success_or_permanent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 301 | 308)
}

/// RFC 9111 4.2.1, in its order: s-maxage, max-age, Expires.
fn explicit_lifetime(headers: &HeaderMap, policy: &Policy, now: SystemTime) -> Option<Duration> {
    if let Some(shared) = policy.directives.s_maxage {
        return Some(shared);
    }
    if let Some(age) = policy.directives.max_age {
        return Some(age);
    }
    // RFC 9213 2.2: where a targeted field governs, Expires is ignored.
    if !policy.minds_expires() || !headers.contains_key(header::EXPIRES) {
        return None;
    }
    // RFC 9111 5.3: an invalid Expires, above all "0", lies in the past.
    let Some(expires) = date::of(headers, &header::EXPIRES) else { return Some(Duration::ZERO) };
    let date = date::of(headers, &header::DATE).unwrap_or(now);
    Some(expires.duration_since(date).unwrap_or(Duration::ZERO))
}

/// RFC 9111 4.2.2: a tenth of the time since the last modification, within the operator's bound.
fn heuristic_lifetime(headers: &HeaderMap, bounds: &Bounds, now: SystemTime) -> Option<Duration> {
    if bounds.heuristic_max.is_zero() {
        return None;
    }
    let modified = date::of(headers, &header::LAST_MODIFIED)?;
    let date = date::of(headers, &header::DATE).unwrap_or(now);
    Some((date.duration_since(modified).ok()? / 10).min(bounds.heuristic_max))
}

/// RFC 9110 15.1.
#[must_use]
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// RFC 9111 4.2.3: the larger of what the clocks say and what the Age field says plus the time on the way.
fn initial_age(headers: &HeaderMap, times: Times) -> Duration {
    let apparent = date::of(headers, &header::DATE)
        .and_then(|date| times.answered.wall.duration_since(date).ok())
        .unwrap_or(Duration::ZERO);
    let delay = times.answered.mono.saturating_duration_since(times.asked);
    let corrected = age_value(headers) + delay;
    apparent.max(corrected)
}

/// RFC 9111 5.1: the first value counts; what is no number counts for nothing.
fn age_value(headers: &HeaderMap) -> Duration {
    let Some(line) = headers.get(header::AGE) else { return Duration::ZERO };
    let first = line.as_bytes().split(|byte| *byte == b',').next().unwrap_or(&[]);
    cache_control::seconds(first.trim_ascii()).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use crate::semantics::policy;

    const BOUNDS: Bounds = Bounds {
        heuristic_max: Duration::ZERO,
        grace_revalidate: Duration::from_secs(30),
        grace_error: Duration::from_secs(3600),
        override_must_revalidate: false,
        error_ttl_max: Duration::from_secs(60),
        trust_origin: false,
    };

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    fn of(status: u16, lines: &[(&'static str, &str)], bounds: &Bounds) -> Freshness {
        let headers = headers(lines);
        let mono = Instant::now();
        let times = Times { asked: mono, answered: Now { mono, wall: wall() } };
        assess(StatusCode::from_u16(status).unwrap(), &headers, &policy::of(&headers), bounds, times)
    }

    #[test]
    fn lifetimes_are_taken_in_the_order_of_rfc_9111() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        let cases: &[(&[(&'static str, &str)], u64)] = &[
            (&[("cache-control", "max-age=10, s-maxage=20"), expires, date], 20),
            (&[("cache-control", "max-age=10"), expires, date], 10),
            (&[expires, date], 60),
            (&[expires], 60),
            (&[("expires", "0"), date], 0),
            (&[("expires", "Sat, 1 Jan 2000 00:00:00 GMT, x")], 0),
            (&[date], 0),
            (&[("cache-control", "max-age=x"), expires, date], 0),
        ];
        for (lines, seconds) in cases {
            assert_eq!(of(200, lines, &BOUNDS).lifetime, Duration::from_secs(*seconds), "{lines:?}");
        }
    }

    #[test]
    fn a_plone_404_with_a_days_lifetime_is_capped() {
        let lines = [("cache-control", "max-age=0, s-maxage=86400, must-revalidate")];
        assert_eq!(of(404, &lines, &BOUNDS).lifetime, Duration::from_secs(60));
        assert_eq!(of(200, &lines, &BOUNDS).lifetime, Duration::from_secs(86_400));
    }

    #[test]
    fn age_is_the_worse_of_clock_and_field() {
        for (lines, seconds) in [
            (&[("age", "7")][..], 7),
            (&[("age", "7, 9")], 7),
            (&[("age", "-7")], 0),
            (&[("age", "7"), ("date", "Sun, 06 Nov 1994 08:49:17 GMT")], 20),
            (&[("date", "Sun, 06 Nov 1994 09:49:17 GMT")], 0),
        ] {
            assert_eq!(of(200, lines, &BOUNDS).initial_age, Duration::from_secs(seconds), "{lines:?}");
        }
    }

    #[test]
    fn what_must_be_revalidated_is_never_stale_unless_the_operator_says_so() {
        let loose = Bounds { override_must_revalidate: true, ..BOUNDS };
        for (value, strict_error, loose_error) in [
            ("max-age=1", 3600, 3600),
            ("max-age=1, stale-if-error=5", 5, 5),
            ("max-age=1, must-revalidate", 0, 3600),
            ("max-age=1, proxy-revalidate", 0, 3600),
            ("s-maxage=1", 0, 3600),
            ("max-age=1, no-cache", 0, 0),
        ] {
            let lines = [("cache-control", value)];
            assert_eq!(of(200, &lines, &BOUNDS).if_error, Duration::from_secs(strict_error), "{value}");
            assert_eq!(of(200, &lines, &loose).if_error, Duration::from_secs(loose_error), "{value}");
        }
    }

    #[test]
    fn guessing_is_off_unless_bounded() {
        let lines = [("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT")];
        assert_eq!(of(200, &lines, &BOUNDS).lifetime, Duration::ZERO);
        let guess = Bounds { heuristic_max: Duration::from_secs(5), ..BOUNDS };
        assert_eq!(of(200, &lines, &guess).lifetime, Duration::from_secs(5));
        assert_eq!(of(302, &lines, &guess).lifetime, Duration::ZERO);
        let marked = [("last-modified", "Sun, 06 Nov 1994 08:48:37 GMT"), ("cache-control", "public")];
        assert_eq!(of(302, &marked, &guess).lifetime, Duration::from_secs(5), "RFC 9111 4.2.2");
    }
}
