//! How answers are treated beyond what HTTP says of them: what an operator's rule or the verified cache of Plone's pages
//! makes of one, and what must not be stored whatever it says.
//!
//! A rule speaks in the origin's stead, by the field Tidegate-Cache-Control that governs before all others. It never
//! overrules `no-store`, and never the signs by which an answer is known to be somebody's (`semantics::storable`).

use crate::semantics::accept;
use crate::semantics::cache_control::Scope;
use crate::semantics::policy;
use crate::semantics::policy::Source;
use crate::semantics::storable::WhyNotStored;
use crate::semantics::vary::Selection;
use crate::zope::preset::Preset;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use std::time::Duration;

/// How a site treats an answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conduct {
    /// What kind of application it is from.
    pub preset: Preset,
    /// What a rule orders about reuse.
    pub order: Option<Order>,
    /// Keep Plone's private pages that name no user, and ask about them each time.
    pub verify: bool,
    /// How long a 404 or 410 is fresh that says nothing about it; zero: not at all.
    pub missing: Duration,
}

/// How long an answer is reused by an operator's order, whatever it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its freshness lifetime.
    pub ttl: Duration,
    /// How long it may be served stale after that, while it is refreshed and when the upstream fails.
    pub stale: Option<Duration>,
}

/// By whose word an answer is stored that would not be by its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overruled {
    /// By nobody's: its own word counts.
    No,
    /// An operator's rule.
    Rule,
    /// The verified cache.
    Verify,
    /// `cache.missing_ttl`.
    Missing,
}

/// The mark of what we have written, so that it can be told from the origin's own word later.
const MARK: &str = "by-rule";

/// What Plone answers to whoever the proxy has found to be nobody.
const ANONYMOUS: HeaderName = HeaderName::from_static("x-anonymous");

/// The field that says to the origin that a request shows no identity; who asks cannot say so himself.
pub const TELLS_ANONYMOUS: (HeaderName, &[u8]) = (ANONYMOUS, b"True");

/// Views that are about the one who asks, or hold a token for him.
const FORMS: &[&str] = &[
    "login",
    "login_form",
    "@@login",
    "require_login",
    "@@require_login",
    "failsafe_login",
    "@@failsafe-login",
    "login_failed",
    "logout",
    "@@logout",
    "logged_out",
    "mail_password_form",
    "mail_password",
    "@@register",
    "@@mail_password_form",
    "passwordreset",
    "@@personal-preferences",
    "@@change-password",
    "manage_login",
];

impl Overruled {
    /// The word for explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Rule => "rule",
            Self::Verify => "verify",
            Self::Missing => "missing",
        }
    }
}

impl Conduct {
    /// Whether we say anything in the origin's stead, to whatever answer.
    #[must_use]
    pub fn may_speak(&self) -> bool {
        self.order.is_some() || self.verify
    }

    /// Writes into an answer's head what we say in the origin's stead, and takes out what we said before.
    pub fn speak(&self, status: StatusCode, head: &mut HeaderMap) -> Overruled {
        if head.get(policy::OWN).is_some_and(|line| line.as_bytes().ends_with(MARK.as_bytes())) {
            head.remove(policy::OWN);
        }
        let own = policy::of(head);
        if own.directives.no_store {
            return Overruled::No;
        }
        if let Some(order) = self.order
            && matches!(status.as_u16(), 200 | 203 | 301 | 308)
        {
            let stale = order.stale.map_or_else(String::new, |stale| {
                format!(", stale-while-revalidate={0}, stale-if-error={0}", stale.as_secs())
            });
            write(head, &format!("max-age={}{stale}, {MARK}", order.ttl.as_secs()));
            return Overruled::Rule;
        }
        if !self.missing.is_zero() && matches!(status.as_u16(), 404 | 410) && says_nothing(head) {
            write(head, &format!("max-age={}, {MARK}", self.missing.as_secs()));
            return Overruled::Missing;
        }
        let is_private = own.source == Source::CacheControl && own.directives.private == Scope::All;
        if self.verify && is_private && status == StatusCode::OK && names_nobody(head) {
            // Never fresh, so it is asked about each time; whether it may be served when nobody answers, Plone decides.
            let strict = if own.directives.must_revalidate { ", must-revalidate" } else { "" };
            write(head, &format!("max-age=0{strict}, {MARK}"));
            return Overruled::Verify;
        }
        Overruled::No
    }

    /// What speaks against storing an answer to a request for `path` with these headers, whatever it says.
    #[must_use]
    pub fn objection(&self, path: &str, request: &HeaderMap, answer: &HeaderMap) -> Option<WhyNotStored> {
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if self.preset != Preset::Plain && FORMS.contains(&last) {
            return Some(WhyNotStored::Form);
        }
        // Who asked for a page and was given JSON would pass it on to others who ask for a page.
        let varies = answer.get_all(header::VARY).iter().any(|line| says(line, b"accept") || line.as_bytes() == b"*");
        let json =
            answer.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().windows(4).any(|part| part == b"json"));
        (json && !varies && accept::wants_page(request)).then_some(WhyNotStored::JsonForPage)
    }
}

/// Whether an answer leaves open whether and how long it may be kept.
fn says_nothing(head: &HeaderMap) -> bool {
    let fields = [header::CACHE_CONTROL, header::EXPIRES, header::PRAGMA, policy::OWN, policy::CDN, policy::SURROGATE];
    !fields.iter().any(|field| head.contains_key(field))
}

/// The request fields that select an answer, by what it names itself. X-Anonymous is ours, and the same for all who share.
/// What Plone has made for one visitor, in its eyes, may be in his language without a word about it.
pub fn select(overruled: Overruled, vary: &mut Vec<HeaderName>) {
    vary.retain(|name| *name != ANONYMOUS);
    if overruled != Overruled::No && !vary.contains(&header::ACCEPT_LANGUAGE) {
        vary.push(header::ACCEPT_LANGUAGE);
        vary.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    }
}

/// Whether the origin is asked if a stored variant answers a request that it was not stored for: where it was we who told
/// the two apart, by language and nothing else, and its entity tag names the language that it is in, as the third part of
/// Plone's does unless an operator has left that out.
#[must_use]
pub fn may_serve_more(head: &HeaderMap, selection: &Selection, request: &HeaderMap) -> bool {
    let ours = selection.matches_but_for(&header::ACCEPT_LANGUAGE, request)
        && !head.get_all(header::VARY).iter().any(|line| says(line, b"accept-language"));
    ours && names_language(head)
}

/// `"||32|en|Plone Default|0|1795426181.13"` is in English.
fn names_language(head: &HeaderMap) -> bool {
    let third = head.get(header::ETAG).and_then(|tag| tag.as_bytes().split(|byte| *byte == b'|').nth(3));
    let Some(third) = third else { return false };
    let mut parts = third.split(|byte| matches!(byte, b'-' | b'_'));
    let is_language =
        parts.next().is_some_and(|code| matches!(code.len(), 2 | 3) && code.iter().all(u8::is_ascii_lowercase));
    is_language && parts.all(|part| matches!(part.len(), 2..=8) && part.iter().all(u8::is_ascii_alphanumeric))
}

fn write(head: &mut HeaderMap, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        head.insert(policy::OWN, value);
    }
}

/// Plone's entity tag of a page that was rendered for nobody begins so. Any other, also one that is made of the time because
/// a message waits, or one whose parts the operator has put in another order, is not trusted.
fn names_nobody(head: &HeaderMap) -> bool {
    let Some(tag) = head.get(header::ETAG) else { return false };
    let tag = tag.as_bytes();
    tag.strip_prefix(b"W/").unwrap_or(tag).starts_with(b"\"||")
}

fn says(line: &HeaderValue, word: &[u8]) -> bool {
    line.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

/// The path of a scale of an image in Plone: their number is without end, and each costs a thread for long.
#[must_use]
pub fn is_scale(path: &str) -> bool {
    path.contains("/@@images/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;

    const PAGE: (&str, &str) = ("cache-control", "max-age=0, must-revalidate, private");
    const NOBODY: (&str, &str) = ("etag", "\"||32|en|Plone Default|0|1795426181.13\"");
    const PLAIN: Conduct =
        Conduct { preset: Preset::PloneClassic, order: None, verify: false, missing: Duration::ZERO };
    const VERIFY: Conduct = Conduct { verify: true, ..PLAIN };

    fn spoken(conduct: &Conduct, status: u16, lines: &[(&'static str, &str)]) -> String {
        let mut head = headers(lines);
        let overruled = conduct.speak(StatusCode::from_u16(status).unwrap(), &mut head);
        let field = head.get(policy::OWN).map_or("-", |line| line.to_str().unwrap());
        format!("{} {field}", overruled.as_str())
    }

    #[test]
    fn only_pages_proved_to_be_nobodys_are_verified() {
        for (status, lines, expected) in [
            (200, &[PAGE, NOBODY][..], "verify max-age=0, must-revalidate, by-rule"),
            (200, &[("cache-control", "private, max-age=0"), NOBODY], "verify max-age=0, by-rule"),
            (200, &[PAGE, ("etag", "\"|admin|32|en|Plone Default|0|1795426181.13\"")], "no -"),
            (200, &[PAGE, ("etag", "\"1795426181.13|0.234\"")], "no -"),
            (200, &[PAGE], "no -"),
            (404, &[PAGE, NOBODY], "no -"),
            (302, &[PAGE, NOBODY], "no -"),
            (200, &[("cache-control", "private, no-store"), NOBODY], "no -"),
            (200, &[("cache-control", "max-age=60"), NOBODY], "no -"),
            (200, &[PAGE, NOBODY, ("tidegate-cache-control", "private")], "no private"),
        ] {
            assert_eq!(spoken(&VERIFY, status, lines), expected, "{status} {lines:?}");
            assert!(spoken(&PLAIN, status, lines).starts_with("no "), "it is opt-in");
        }
    }

    #[test]
    fn what_is_missing_is_kept_only_if_nothing_is_said_about_it() {
        let missing = Conduct { missing: Duration::from_secs(10), ..PLAIN };
        for (status, lines, expected) in [
            (404, &[][..], "missing max-age=10, by-rule"),
            (410, &[("etag", "\"a\"")], "missing max-age=10, by-rule"),
            (404, &[("cache-control", "no-cache")], "no -"),
            (404, &[("cache-control", "max-age=5")], "no -"),
            (404, &[("expires", "0")], "no -"),
            (404, &[("surrogate-control", "no-store")], "no -"),
            (200, &[], "no -"),
            (401, &[], "no -"),
            (500, &[], "no -"),
        ] {
            assert_eq!(spoken(&missing, status, lines), expected, "{status} {lines:?}");
            assert!(spoken(&PLAIN, status, lines).starts_with("no "), "it is opt-in");
        }
    }

    #[test]
    fn a_rule_has_the_word_except_about_no_store_and_errors() {
        let seconds = Duration::from_secs;
        let rule = Conduct { order: Some(Order { ttl: seconds(60), stale: Some(seconds(600)) }), ..PLAIN };
        let long = "rule max-age=60, stale-while-revalidate=600, stale-if-error=600, by-rule";
        for (status, lines, expected) in [
            (200, &[PAGE][..], long),
            (200, &[], long),
            (200, &[("tidegate-cache-control", "max-age=5")], long),
            (200, &[("tidegate-cache-control", "max-age=5, by-rule")], long),
            (200, &[("cache-control", "no-store")], "no -"),
            (404, &[PAGE], "no -"),
            (500, &[], "no -"),
        ] {
            assert_eq!(spoken(&rule, status, lines), expected, "{status} {lines:?}");
        }
        let short = Conduct { order: Some(Order { ttl: seconds(5), stale: None }), ..PLAIN };
        assert_eq!(spoken(&short, 200, &[]), "rule max-age=5, by-rule");
        assert_eq!(
            spoken(&PLAIN, 200, &[("tidegate-cache-control", "max-age=5, by-rule")]),
            "no -",
            "a rule that is gone"
        );
    }

    #[test]
    fn forms_and_json_for_pages_are_never_stored() {
        let browser = headers(&[("accept", "text/html,*/*")]);
        let json = headers(&[("content-type", "application/json")]);
        let page = headers(&[("content-type", "text/html")]);
        for (path, request, answer, expected) in [
            ("/", &browser, &page, None),
            ("/", &browser, &json, Some(WhyNotStored::JsonForPage)),
            ("/", &HeaderMap::new(), &json, None),
            ("/", &browser, &headers(&[("content-type", "application/json"), ("vary", "Accept")]), None),
            ("/a/login", &browser, &page, Some(WhyNotStored::Form)),
            ("/@@login/", &browser, &page, Some(WhyNotStored::Form)),
            ("/blogin", &browser, &page, None),
        ] {
            assert_eq!(PLAIN.objection(path, request, answer), expected, "{path}");
        }
        let plain = Conduct { preset: Preset::Plain, ..PLAIN };
        assert_eq!(plain.objection("/login", &browser, &page), None);
    }

    #[test]
    fn only_entity_tags_that_name_the_language_are_offered_to_those_who_want_another() {
        let german = headers(&[("accept-language", "de"), ("accept", "text/html")]);
        let english = headers(&[("accept-language", "en"), ("accept", "text/html")]);
        let by_language = Selection::of(&[header::ACCEPT_LANGUAGE], &german);
        for (tag, expected) in [
            ("\"||32|en|Plone Default|0|1795426181.13\"", true),
            ("W/\"||32|pt-br|Plone Default|0\"", true),
            ("\"||32|Plone Default|0|1795426181.13\"", false),
            ("\"||en|32|Plone Default\"", false),
            ("\"||32\"", false),
        ] {
            assert_eq!(may_serve_more(&headers(&[("etag", tag)]), &by_language, &english), expected, "{tag}");
            let said = headers(&[("etag", tag), ("vary", "Accept-Language")]);
            assert!(!may_serve_more(&said, &by_language, &english), "the origin tells them apart itself");
        }
        let head = headers(&[("etag", "\"||32|en|Plone\"")]);
        assert!(!may_serve_more(&head, &Selection::default(), &english));
        let both = Selection::of(&[header::ACCEPT, header::ACCEPT_LANGUAGE], &german);
        assert!(may_serve_more(&head, &both, &english));
        let json = headers(&[("accept-language", "en"), ("accept", "application/json")]);
        assert!(!may_serve_more(&head, &both, &json), "they differ in more than that");
    }

    #[test]
    fn what_all_who_share_have_in_common_selects_nothing() {
        let select = |overruled, names: &[&'static str]| {
            let mut vary: Vec<HeaderName> = names.iter().map(|name| HeaderName::from_static(name)).collect();
            super::select(overruled, &mut vary);
            vary.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(select(Overruled::No, &["accept", "x-anonymous"]), "accept");
        assert_eq!(select(Overruled::Verify, &["x-anonymous"]), "accept-language");
        assert_eq!(select(Overruled::Rule, &["user-agent"]), "accept-language user-agent");
    }
}
