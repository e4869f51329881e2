//! What a successful unsafe request makes obsolete (RFC 9111 4.4): its target, and on the same origin what its answer names
//! in Location and Content-Location.

use crate::semantics::host::Authority;
use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::header;

/// Whether the answer to `method` makes anything obsolete: an unsafe request that was answered without an error.
#[must_use]
pub fn is_cause(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// The URLs that an answer names besides its target, as paths with their queries, if they are of the same scheme and `place`
/// (an authority without a port that goes without saying). `path` is the target's.
#[must_use]
pub fn named(answer: &HeaderMap, scheme: &str, place: &str, path: &str) -> Vec<Uri> {
    [header::LOCATION, header::CONTENT_LOCATION]
        .iter()
        .filter_map(|name| answer.get(name)?.to_str().ok())
        .filter_map(|reference| resolve(reference, scheme, place, path))
        .collect()
}

/// Resolves a reference (RFC 3986 5) as far as a cache needs it; dot segments are left to who makes keys of paths.
pub(crate) fn resolve(reference: &str, scheme: &str, place: &str, path: &str) -> Option<Uri> {
    let reference = reference.trim().split('#').next().unwrap_or("");
    let (other_scheme, rest) = match reference.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => (scheme, Some(rest)),
        _ => (scheme, reference.strip_prefix("//")),
    };
    let target = if let Some(rest) = rest {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let authority = Authority::parse(authority.as_bytes()).ok()?;
        let port = if other_scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        let same_place = place == if authority.port() == Some(port) { authority.host() } else { authority.as_str() };
        if !other_scheme.eq_ignore_ascii_case(scheme) || !same_place {
            return None;
        }
        if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else if reference.is_empty() || reference.starts_with('?') {
        format!("{path}{reference}")
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{folder}{reference}")
    };
    target.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn only_urls_of_the_same_origin_are_named() {
        for (location, expected) in [
            ("http://www.example.org/a?b=c#d", Some("/a?b=c")),
            ("HTTP://WWW.Example.org:80/a", Some("/a")),
            ("//www.example.org/a", Some("/a")),
            ("http://www.example.org", Some("/")),
            ("http://www.example.org?x", Some("/?x")),
            ("/a/b", Some("/a/b")),
            ("b", Some("/folder/b")),
            ("?x", Some("/folder/page?x")),
            ("", Some("/folder/page")),
            ("https://www.example.org/a", None),
            ("http://www.example.org:8080/a", None),
            ("http://other.example/a", None),
            ("http://www.example.org@evil/a", None),
        ] {
            let answer: HeaderMap = [(header::LOCATION, HeaderValue::from_static(location))].into_iter().collect();
            let found = named(&answer, "http", "www.example.org", "/folder/page");
            assert_eq!(found.first().map(ToString::to_string).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn errors_and_safe_requests_make_nothing_obsolete() {
        for (method, status, expected) in [
            (Method::POST, 200, true),
            (Method::DELETE, 204, true),
            (Method::PUT, 302, true),
            (Method::POST, 404, false),
            (Method::POST, 500, false),
            (Method::OPTIONS, 200, false),
            (Method::GET, 200, false),
        ] {
            assert_eq!(is_cause(&method, StatusCode::from_u16(status).unwrap()), expected, "{method} {status}");
        }
    }

    proptest! {
        #[test]
        fn any_location_is_read_without_a_panic(location in ".*", path in "/.*") {
            if let Ok(value) = HeaderValue::from_str(&location) {
                let answer: HeaderMap = [(header::LOCATION, value)].into_iter().collect();
                let _ = named(&answer, "http", "www.example.org", &path);
            }
        }
    }
}
