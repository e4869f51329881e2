//! Whether a response may be stored for others (RFC 9111 3), stricter where Zope's habits ask for it.

use crate::semantics::cache_control;
use crate::semantics::cache_control::Directives;
use crate::semantics::cache_control::Scope;
use crate::semantics::freshness;
use crate::semantics::freshness::Bounds;
use crate::semantics::freshness::Freshness;
use crate::semantics::freshness::Times;
use crate::semantics::policy;
use crate::semantics::policy::Policy;
use crate::semantics::vary;
use crate::semantics::vary::Vary;
use http::HeaderMap;
use http::HeaderName;
use http::StatusCode;
use http::header;
use std::time::Duration;

/// May it be stored?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storable {
    /// Yes, on these terms.
    Yes(Terms),
    /// No.
    No(WhyNotStored),
}

/// How a response may be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it may be reused.
    pub freshness: Freshness,
    /// The request fields that select it.
    pub vary: Vec<HeaderName>,
    /// Fields that are for the one who asked, or not without asking again: they are not stored (RFC 9111 5.2.2.4, 5.2.2.7).
    pub withheld: Vec<HeaderName>,
}

/// Why a response is not stored. The words are label values of `tidegate_cache_uncacheable_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNotStored {
    /// Its status is none that is stored.
    Status,
    /// `no-store`, in the response or the request.
    NoStore,
    /// `private`.
    Private,
    /// It sets a cookie.
    SetCookie,
    /// `Vary: *`, or too many fields.
    VaryStar,
    /// `Vary: Cookie` or `Authorization`: it is about somebody.
    VaryIdentity,
    /// Plone's entity tag names a user.
    EtagUser,
    /// It says nothing about its freshness, and guessing is off.
    NoFreshness,
    /// It is never fresh and has nothing to ask with.
    NeverFresh,
    /// It is larger than an object may be.
    Size,
    /// Only the end of the connection ends it, so that nobody could tell if it were cut off.
    Undelimited,
    /// It is a form of login or the like: about the one who asked.
    Form,
    /// JSON for one who asked for a page, without a word in Vary.
    JsonForPage,
    /// It was asked for with Authorization, and does not say that others may have it.
    Authorization,
}

impl WhyNotStored {
    /// Whether an answer that said it could be shared showed signs of being somebody's.
    #[must_use]
    pub fn is_tripwire(self) -> bool {
        matches!(self, Self::EtagUser | Self::SetCookie | Self::VaryIdentity | Self::JsonForPage)
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::SetCookie => "set_cookie",
            Self::VaryStar => "vary_star",
            Self::VaryIdentity => "vary_cookie",
            Self::EtagUser => "etag_user",
            Self::NoFreshness => "no_freshness",
            Self::NeverFresh => "never_fresh",
            Self::Size => "size",
            Self::Undelimited => "undelimited",
            Self::Form => "form",
            Self::JsonForPage => "json_for_page",
            Self::Authorization => "authorization",
        }
    }
}

/// Judges a whole answer to a GET without Range or body, by which nobody shows who he is: nothing else is ever fetched to be
/// shared, but for [`is_for_all`]. `object_max` bounds the body if its length is announced.
#[must_use]
pub fn judge(
    status: StatusCode,
    response: &HeaderMap,
    request_no_store: bool,
    bounds: &Bounds,
    object_max: u64,
    times: Times,
) -> Storable {
    let policy = policy::of(response);
    let directives = &policy.directives;
    if !may_be_stored(status, directives, bounds.trust_origin) {
        return Storable::No(WhyNotStored::Status);
    }
    if request_no_store {
        return Storable::No(WhyNotStored::NoStore);
    }
    if let Some(why) = forbidden(directives) {
        return Storable::No(why);
    }
    let withheld = withheld(response);
    let sets_cookie = response.contains_key(header::SET_COOKIE) && !withheld.contains(&header::SET_COOKIE);
    if sets_cookie && !bounds.trust_origin {
        return Storable::No(WhyNotStored::SetCookie);
    }
    let fields = match vary::parse(response) {
        Vary::Star => return Storable::No(WhyNotStored::VaryStar),
        Vary::Fields(fields) => fields,
    };
    if fields.contains(&header::COOKIE) || fields.contains(&header::AUTHORIZATION) {
        return Storable::No(WhyNotStored::VaryIdentity);
    }
    if response.get(header::ETAG).is_some_and(|tag| names_a_user(tag.as_bytes())) {
        return Storable::No(WhyNotStored::EtagUser);
    }
    if announced(response).is_some_and(|len| len > object_max) {
        return Storable::No(WhyNotStored::Size);
    }
    let freshness = freshness::assess(status, response, &policy, bounds, times);
    if let Some(why) = useless(status, response, &freshness) {
        return Storable::No(why);
    }
    Storable::Yes(Terms { freshness, vary: fields, withheld })
}

/// Whether the answer to a request with Authorization says that others may have it (RFC 9111 3.5).
#[must_use]
pub fn is_for_all(response: &HeaderMap) -> bool {
    let Policy { directives, .. } = policy::of(response);
    directives.public || directives.must_revalidate || directives.s_maxage.is_some()
}

/// Why an answer is not stored, where its directives alone say so.
#[must_use]
pub fn plainly(response: &HeaderMap) -> Option<WhyNotStored> {
    let Policy { directives, .. } = policy::of(response);
    forbidden(&directives)
}

/// Why nothing that says so is stored.
fn forbidden(directives: &Directives) -> Option<WhyNotStored> {
    // RFC 9111 5.2.2.3: who understands the status ignores a no-store that comes with must-understand.
    if directives.no_store && !directives.must_understand {
        return Some(WhyNotStored::NoStore);
    }
    (directives.private == Scope::All).then_some(WhyNotStored::Private)
}

/// Statuses that are whole answers to a GET and no refusal of the one who asked. Never 401, 403 and 407: Plone sends them
/// with `public`. Never 5xx: a passing fault is not content. 206 and 304 are parts.
///
/// Deviation from RFC 9111 3, which lets a cache store any final status with explicit freshness, unless `trust`.
fn may_be_stored(status: StatusCode, directives: &Directives, trust: bool) -> bool {
    let usual = matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 302 | 303 | 307 | 308 | 404 | 405 | 410 | 414);
    // RFC 9111 3: with must-understand the cache has to know what the status means.
    let any = trust && !directives.must_understand && matches!(status.as_u16(), 200..=205 | 207..=303 | 305..=599);
    usual || any
}

/// The fields that a qualified no-cache or private names.
#[must_use]
pub fn withheld(response: &HeaderMap) -> Vec<HeaderName> {
    let Policy { directives, .. } = policy::of(response);
    if directives.no_cache != Scope::Fields && directives.private != Scope::Fields {
        return Vec::new();
    }
    let named = |name: &str| cache_control::named_fields(response, name.as_bytes());
    named("no-cache").into_iter().chain(named("private")).collect()
}

/// What can never be reused is not worth its room.
fn useless(status: StatusCode, response: &HeaderMap, freshness: &Freshness) -> Option<WhyNotStored> {
    let has_validator = response.contains_key(header::ETAG) || response.contains_key(header::LAST_MODIFIED);
    if !freshness.explicit && !freshness.heuristic && !freshness.always_ask {
        return Some(WhyNotStored::NoFreshness);
    }
    let ever_fresh = freshness.lifetime > freshness.initial_age && !freshness.always_ask;
    let askable = has_validator && status == StatusCode::OK;
    let stale_use =
        freshness.while_revalidate.max(freshness.if_error) > Duration::ZERO && freshness.lifetime > Duration::ZERO;
    (!ever_fresh && !askable && !stale_use).then_some(WhyNotStored::NeverFresh)
}

/// Plone's entity tag is `"|user|counter|..."`; an anonymous one begins with `"||`. Other tags say nothing of users.
fn names_a_user(tag: &[u8]) -> bool {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.starts_with(b"\"|") && !tag.starts_with(b"\"||")
}

/// The announced length of a body.
#[must_use]
pub fn announced(response: &HeaderMap) -> Option<u64> {
    response.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Now;
    use http::HeaderValue;
    use std::time::Instant;
    use std::time::SystemTime;

    const BOUNDS: Bounds = Bounds {
        heuristic_max: Duration::ZERO,
        grace_revalidate: Duration::from_secs(30),
        grace_error: Duration::from_secs(3600),
        override_must_revalidate: false,
        error_ttl_max: Duration::from_secs(60),
        trust_origin: false,
    };

    fn verdict(status: u16, lines: &[(&'static str, &str)]) -> String {
        verdict_by(&BOUNDS, status, lines)
    }

    fn verdict_by(bounds: &Bounds, status: u16, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let mono = Instant::now();
        let times = Times { asked: mono, answered: Now { mono, wall: SystemTime::now() } };
        let verdict = judge(StatusCode::from_u16(status).unwrap(), &headers, false, bounds, 1000, times);
        if let Some(why) = plainly(&headers) {
            let others = [Storable::No(why), Storable::No(WhyNotStored::Status)];
            assert!(others.contains(&verdict), "what is plain is so in full: {lines:?}");
        }
        match verdict {
            Storable::Yes(terms) => format!("{}", terms.freshness.lifetime.as_secs()),
            Storable::No(why) => why.as_str().to_owned(),
        }
    }

    #[test]
    fn nothing_private_is_ever_stored() {
        let fresh = ("cache-control", "public, max-age=60");
        let cases: &[(u16, &[(&'static str, &str)], &str)] = &[
            (200, &[fresh], "60"),
            (200, &[fresh, ("set-cookie", "a=b")], "set_cookie"),
            (200, &[("cache-control", "private, max-age=60")], "private"),
            (200, &[("cache-control", "private=\"x\", max-age=60")], "60"),
            (200, &[("cache-control", "private=\"set-cookie\", max-age=60"), ("set-cookie", "a=b")], "60"),
            (200, &[("cache-control", "private=\"a b\", max-age=60")], "private"),
            (200, &[("cache-control", "no-store, must-understand, max-age=60")], "60"),
            (599, &[("cache-control", "no-store, must-understand, max-age=60")], "status"),
            (200, &[("cache-control", "no-store"), ("tidegate-cache-control", "max-age=60")], "60"),
            (200, &[fresh, ("tidegate-cache-control", "no-store")], "no_store"),
            (200, &[("cache-control", "no-store, max-age=60")], "no_store"),
            (200, &[fresh, ("vary", "*")], "vary_star"),
            (200, &[fresh, ("vary", "accept, Cookie")], "vary_cookie"),
            (200, &[fresh, ("etag", "\"|admin|32|en|Plone Default|0|1795426181.13\"")], "etag_user"),
            (200, &[fresh, ("etag", "\"||32|en|Plone Default|0|1795426181.13\"")], "60"),
            (401, &[fresh], "status"),
            (403, &[fresh], "status"),
            (206, &[fresh], "status"),
            (500, &[fresh], "status"),
            (404, &[("cache-control", "max-age=0, s-maxage=86400, must-revalidate")], "60"),
            (200, &[], "no_freshness"),
            (200, &[("etag", "\"a\"")], "no_freshness"),
            (200, &[("cache-control", "no-cache")], "never_fresh"),
            (200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], "0"),
            (200, &[("cache-control", "max-age=0")], "never_fresh"),
            (200, &[("cache-control", "max-age=0"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], "0"),
            (200, &[fresh, ("content-length", "1001")], "size"),
        ];
        for (status, lines, expected) in cases {
            assert_eq!(verdict(*status, lines), *expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn a_trusted_origin_is_believed_in_what_the_rfc_allows() {
        let trusting = Bounds { trust_origin: true, ..BOUNDS };
        let fresh = ("cache-control", "public, max-age=60");
        let understood = ("cache-control", "no-store, must-understand, max-age=60");
        let cases: &[(u16, &[(&'static str, &str)], &str)] = &[
            (500, &[fresh], "60"),
            (299, &[fresh], "60"),
            (200, &[fresh, ("set-cookie", "a=b")], "60"),
            (206, &[fresh], "status"),
            (304, &[fresh], "status"),
            (599, &[understood], "status"),
            (200, &[fresh, ("vary", "Cookie")], "vary_cookie"),
        ];
        for (status, lines, expected) in cases {
            assert_eq!(verdict_by(&trusting, *status, lines), *expected, "{status} {lines:?}");
        }
    }
}
