//! Which field of a response tells us how to store it: one that is meant for us wins over one that is meant for all.
//!
//! RFC 9213 2.2: of the targeted fields that we mind, in our order, the first that can be read and is not empty governs
//! alone; Cache-Control and Expires are then ignored.

use crate::semantics::cache_control;
use crate::semantics::cache_control::Directives;
use crate::semantics::cache_control::Scope;
use crate::semantics::names::Names;
use crate::semantics::structured;
use crate::semantics::structured::Item;
use crate::semantics::structured::Member;
use foldhash::fast::FixedState;
use http::HeaderMap;
use http::HeaderName;
use http::header;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::time::Duration;

/// For tidegate and nobody else.
pub const OWN: HeaderName = HeaderName::from_static("tidegate-cache-control");

/// For caches that work for the origin (RFC 9213 3.1).
pub const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Their elder brother (Edge Architecture 1.0), which is no structured field.
pub const SURROGATE: HeaderName = HeaderName::from_static("surrogate-control");

/// All of them.
static TARGETED: Names<&'static str> =
    Names::new(&["tidegate-cache-control", "cdn-cache-control", "surrogate-control"]);

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// [`OWN`].
    Own,
    /// [`CDN`].
    Cdn,
    /// [`SURROGATE`].
    Surrogate,
    /// Cache-Control, or nobody.
    CacheControl,
}

/// What a response says about storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The directives.
    pub directives: Directives,
    /// By which field.
    pub source: Source,
}

impl Policy {
    /// Whether Expires counts beside the directives.
    #[must_use]
    pub fn minds_expires(&self) -> bool {
        self.source == Source::CacheControl
    }
}

/// Reads it.
#[must_use]
pub fn of(response: &HeaderMap) -> Policy {
    if !is_targeted(response) {
        return Policy { directives: cache_control::parse(response), source: Source::CacheControl };
    }
    for (name, source) in [(OWN, Source::Own), (CDN, Source::Cdn)] {
        if response.contains_key(&name)
            && let Some(directives) = targeted(response, &name)
        {
            return Policy { directives, source };
        }
    }
    if response.contains_key(SURROGATE)
        && let Some(directives) = cache_control::parse_surrogate(response, &SURROGATE)
    {
        return Policy { directives, source: Source::Surrogate };
    }
    Policy { directives: cache_control::parse(response), source: Source::CacheControl }
}

/// Whether it has any of the targeted fields. Hardly ever it has: one look at the names is cheaper than three searches.
fn is_targeted(response: &HeaderMap) -> bool {
    response.keys().any(|name| TARGETED.contains(name.as_str()))
}

/// What Cache-Control says, as a number by which it is known again; none where another field governs.
#[must_use]
pub fn said(response: &HeaderMap) -> Option<u64> {
    if is_targeted(response) {
        return None;
    }
    let mut hasher = FixedState::with_seed(0).build_hasher();
    for line in response.get_all(header::CACHE_CONTROL) {
        hasher.write(line.as_bytes());
        // No line holds it, so that two lines are not one.
        hasher.write_u8(b'\n');
    }
    Some(hasher.finish())
}

/// RFC 9213 2.1: a dictionary whose keys are directives. One that is empty, cannot be read or has a known directive of the
/// wrong type is ignored.
fn targeted(response: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let members = structured::dictionary(response, name)?;
    if members.is_empty() {
        return None;
    }
    let mut directives = Directives::default();
    for (key, member) in &members {
        let Member::Item(item) = member else { continue };
        match key.as_str() {
            "max-age" => directives.max_age = Some(seconds(item)?),
            "s-maxage" => directives.s_maxage = Some(seconds(item)?),
            "stale-while-revalidate" => directives.stale_while_revalidate = Some(seconds(item)?),
            "stale-if-error" => directives.stale_if_error = Some(seconds(item)?),
            "no-store" => directives.no_store = flag(item)?,
            "no-cache" => directives.no_cache = scope(item)?,
            "private" => directives.private = scope(item)?,
            "public" => directives.public = flag(item)?,
            "must-revalidate" => directives.must_revalidate = flag(item)?,
            "proxy-revalidate" => directives.proxy_revalidate = flag(item)?,
            "must-understand" => directives.must_understand = flag(item)?,
            _ => {}
        }
    }
    Some(directives)
}

/// Negative counts as nothing.
fn seconds(item: &Item) -> Option<Duration> {
    const SECONDS_MAX: u64 = 1 << 31;
    match item {
        Item::Integer(number) => Some(Duration::from_secs(u64::try_from(*number).unwrap_or(0).min(SECONDS_MAX))),
        _ => None,
    }
}

fn flag(item: &Item) -> Option<bool> {
    match item {
        Item::Boolean(truth) => Some(*truth),
        _ => None,
    }
}

/// A list of field names narrows the directive in Cache-Control; here we take it for the whole, which is the safe side.
fn scope(item: &Item) -> Option<Scope> {
    match item {
        Item::Boolean(true) | Item::String(_) | Item::Token(_) => Some(Scope::All),
        Item::Boolean(false) => Some(Scope::No),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers as fields;
    use http::HeaderValue;

    #[test]
    fn what_is_said_is_known_again_and_nothing_else_is() {
        let said = |lines: &[(&'static str, &str)]| said(&fields(lines));
        let private = said(&[("cache-control", "private"), ("date", "today")]);
        assert!(private.is_some());
        assert_eq!(private, said(&[("date", "tomorrow"), ("cache-control", "private")]));
        for other in [
            &[("cache-control", "public")][..],
            &[],
            &[("cache-control", "private, no-store")],
            &[("cache-control", "private"), ("cache-control", "no-store")],
        ] {
            assert_ne!(private, said(other), "{other:?}");
        }
        assert_eq!(said(&[("cache-control", "private"), ("surrogate-control", "max-age=60")]), None);
    }

    fn read(lines: &[(&'static str, &'static str)]) -> (Source, Option<u64>, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let policy = of(&headers);
        let age = policy.directives.s_maxage.or(policy.directives.max_age).map(|age| age.as_secs());
        (policy.source, age, policy.directives.no_store)
    }

    #[test]
    fn the_nearest_address_governs_alone() {
        use Source::CacheControl;
        use Source::Cdn;
        use Source::Own;
        use Source::Surrogate;
        let (cc, cdn, own, surrogate) =
            ("cache-control", "cdn-cache-control", "tidegate-cache-control", "surrogate-control");
        let all = (cc, "no-store");
        for (lines, expected) in [
            (&[all][..], (CacheControl, None, true)),
            (&[all, (cdn, "max-age=60")], (Cdn, Some(60), false)),
            (&[all, (cdn, "max-age=60"), (own, "max-age=5")], (Own, Some(5), false)),
            (&[all, (surrogate, "max-age=60")], (Surrogate, Some(60), false)),
            (&[all, (surrogate, "max-age=60"), (cdn, "no-store")], (Cdn, None, true)),
            (&[all, (cdn, "")], (CacheControl, None, true)),
            (&[all, (cdn, "max-age=60, &&&")], (CacheControl, None, true)),
            (&[all, (cdn, "max-age=\"60\"")], (CacheControl, None, true)),
            (&[all, (cdn, "max-age=60, foobar")], (Cdn, Some(60), false)),
            (&[all, (cdn, "max-age=-5")], (Cdn, Some(0), false)),
            (&[all, (cdn, "max-age=99999999999")], (Cdn, Some(1 << 31), false)),
            (&[all, (cdn, "max-age=99"), (cdn, "max-age=1")], (Cdn, Some(1), false)),
            (&[all, (surrogate, "content=\"ESI/1.0\"")], (CacheControl, None, true)),
        ] {
            assert_eq!(read(lines), expected, "{lines:?}");
        }
    }
}
