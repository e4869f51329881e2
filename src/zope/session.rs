//! Who is anonymous: a request that shows no identity that Zope or Plone would act upon.

use crate::zope::preset::Preset;
use http::HeaderMap;
use http::header;

/// Whether a request shows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It does not; cookies that mean nothing to Zope do not count.
    Anonymous,
    /// By an Authorization field, and by no cookie.
    Authorization,
    /// By a cookie: somebody is logged in, has a session, or is about to be shown a message of his own.
    Cookie,
}

/// Cookies that are somebody's, by the beginning of their names: Plone's and Zope's logins (`__ac`, `__ac_name` ...), Volto's
/// token, Zope's sessions, and the message that Plone shows once to whoever caused it.
const IDENTITY_PREFIXES: &[&[u8]] = &[b"__ac", b"auth_token", b"_ZopeId", b"statusmessages", b"tree-s", b"__cp"];

/// Of these, the cookies that stay the same from login to logout.
const LOGIN_PREFIXES: &[&[u8]] = &[b"__ac", b"auth_token"];

/// Views to which Zope and Plone send who has to log in.
const LOGINS: &[&str] = &["require_login", "@@require_login", "login", "@@login", "login_form", "failsafe_login_form"];

/// Cookies that are nobody's, by the beginning of their names: those of widely used analytics, advertising and consent banners.
const NOISE_PREFIXES: &[&[u8]] = &[
    b"_ga",
    b"_gid",
    b"_gat",
    b"_gcl_",
    b"_fbp",
    b"_fbc",
    b"_pk_",
    b"_hj",
    b"__utm",
    b"_clck",
    b"_clsk",
    b"mtm_",
    b"matomo_",
    b"cookieconsent",
    b"CookieConsent",
    b"cookie_consent",
    b"klaro",
    b"OptanonConsent",
    b"ajs_",
    b"amplitude_",
    b"hubspotutk",
    b"__hs",
];

/// Looks for an identity in a request; `extra` names further cookies. With `any_cookie` every cookie shows one, except those of
/// analytics and `own`, which is ours: so it is with an application of which nothing is known.
#[must_use]
pub fn identity(headers: &HeaderMap, any_cookie: bool, extra: &[String], own: Option<&str>) -> Identity {
    let shown = headers.get_all(header::COOKIE).iter().any(|line| {
        names(line.as_bytes()).any(|name| {
            IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || any_cookie && !is_noise(name, own)
                || extra.iter().any(|extra| extra.as_bytes() == name)
        })
    });
    if shown {
        Identity::Cookie
    } else if headers.contains_key(header::AUTHORIZATION) {
        Identity::Authorization
    } else {
        Identity::Anonymous
    }
}

fn is_noise(name: &[u8], own: Option<&str>) -> bool {
    own.is_some_and(|own| own.as_bytes() == name) || NOISE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What tells one login from another: the Authorization field, or the first login cookie with its value.
#[must_use]
pub fn login(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(field) = headers.get(header::AUTHORIZATION) {
        return Some(field.as_bytes());
    }
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut pairs = pairs.map(<[u8]>::trim_ascii);
    pairs.find(|pair| LOGIN_PREFIXES.iter().any(|prefix| pair.starts_with(prefix)))
}

/// Whether an answer sends the client to a login: Zope refuses so what a visitor may not do. `answer` is a redirection.
#[must_use]
pub fn is_sent_to_login(preset: Preset, answer: &HeaderMap) -> bool {
    let Some(location) = answer.get(header::LOCATION).and_then(|location| location.to_str().ok()) else { return false };
    let path = location.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    preset != Preset::Plain && path.rsplit('/').next().is_some_and(|last| LOGINS.contains(&last))
}

/// The names of the cookies in a line. Python's cookie parser takes commas and semicolons for separators alike and minds
/// quotes loosely; so every place where it could begin a name counts as one.
fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b';' | b',' | b' ' | b'\t' | b'"')).filter_map(|pair| {
        let name = pair.split(|byte| *byte == b'=').next()?.trim_ascii();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn of(lines: &[&str]) -> Identity {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
        }
        identity(&headers, false, &["shop".to_owned()], None)
    }

    #[test]
    fn of_an_unknown_application_only_noise_is_nobodys() {
        for (line, expected) in [
            ("_ga=GA1.2.3", Identity::Anonymous),
            ("JSESSIONID=1", Identity::Cookie),
            ("_ga=1; sid=2", Identity::Cookie),
            ("way=1; _ga=2", Identity::Anonymous),
            ("", Identity::Anonymous),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, HeaderValue::from_static(line));
            assert_eq!(identity(&headers, true, &[], Some("way")), expected, "{line}");
        }
    }

    #[test]
    fn logins_are_told_apart_by_what_stays_the_same() {
        let of = |lines: &[(&'static str, &'static str)]| {
            let fields = lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            let headers: HeaderMap = fields.collect();
            login(&headers).map(|login| String::from_utf8_lossy(login).into_owned())
        };
        assert_eq!(of(&[("cookie", "statusmessages=x; __ac=me; a=b")]), Some("__ac=me".to_owned()));
        assert_eq!(of(&[("cookie", "a=b"), ("authorization", "Basic x")]), Some("Basic x".to_owned()));
        assert_eq!(of(&[("cookie", "a=__ac")]), None);
    }

    #[test]
    fn a_login_is_seen_wherever_it_stands_and_noise_is_not_one() {
        for line in [
            "__ac=x",
            "a=b; __ac=\"x y\"",
            "a=b;__ac_name=x",
            "a=b,__ac=x",
            "statusmessages=",
            "_ZopeId=1",
            "auth_token=e",
            "a=\"b; __ac=x\"",
            "__ac",
            "shop=1",
            "  __ac = x",
            "a=b;; ;__ac=",
        ] {
            assert_eq!(of(&[line]), Identity::Cookie, "{line}");
        }
        assert_eq!(of(&["a=b", "__ac=x"]), Identity::Cookie, "in any line");
        for line in ["", "_ga=GA1.2.3; _gid=1", "I18N_LANGUAGE=de", "x__ac=1", "shopping=1", "a=__acx"] {
            assert_eq!(of(&[line]), Identity::Anonymous, "{line}");
        }
    }

    #[test]
    fn a_refusal_that_looks_like_a_redirection_is_known() {
        let sent = |preset, location: &'static str| {
            let answer: HeaderMap = [(header::LOCATION, HeaderValue::from_static(location))].into_iter().collect();
            is_sent_to_login(preset, &answer)
        };
        for (location, expected) in [
            ("http://www.example.org/acl_users/credentials_cookie_auth/require_login?came_from=/docs/draft", true),
            ("https://www.example.org/login", true),
            ("/docs/login_form/#x", true),
            ("http://www.example.org/docs/page", false),
            ("http://www.example.org/", false),
            ("http://www.example.org/docs?back=/login", false),
            ("", false),
        ] {
            assert_eq!(sent(Preset::PloneClassic, location), expected, "{location}");
            assert!(!sent(Preset::Plain, location), "nothing is known of its logins");
        }
        assert!(!is_sent_to_login(Preset::Zope, &HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn a_login_among_any_cookies_is_seen(before in "[^\\x00-\\x1f\\x7f]{0,40}", after in "[^\\x00-\\x1f\\x7f]{0,40}") {
            prop_assert_eq!(of(&[&format!("{before}; __ac=x; {after}")]), Identity::Cookie);
        }
    }
}
