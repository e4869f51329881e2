//! Asking the origin whether what is stored is still good, and what its yes may change (RFC 9111 4.3).

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

/// The fields that a 304 may not change, whatever it says: how the body is coded and framed (RFC 9111 3.2), and Vary as it was
/// when the variant was chosen.
static FIXED: [HeaderName; 11] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    header::ACCEPT_RANGES,
    header::VARY,
    header::VIA,
    header::AGE,
];

/// The fields that only the 304 of an origin that is believed may change. Deviation from RFC 9111 4.3.4: nothing that says what
/// the content is, because Zope has sent 304s with the type of an error page; and no cookie, for others will see it.
static BELIEVED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_DISPOSITION,
    header::SET_COOKIE,
    HeaderName::from_static("set-cookie2"),
];

/// The most bytes of a list of entity tags.
const TAGS_BYTES_MAX: usize = 4096;

/// Makes a request conditional upon what is stored: both validators where both are known (RFC 9111 4.3.1). Entity tags are
/// opaque bytes: Plone's hold spaces.
pub fn make_conditional(stored: &HeaderMap, request: &mut HeaderMap) {
    if let Some(tag) = stored.get(header::ETAG) {
        request.insert(header::IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = stored.get(header::LAST_MODIFIED) {
        request.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
}

/// Asks about other variants as well (RFC 9111 4.3.1): which of them would be the answer, the origin says by its entity tag.
/// In one line, for not every origin reads a second one; what would make it too long is left out.
pub fn ask_about(tags: impl Iterator<Item = HeaderValue>, request: &mut HeaderMap) {
    let mut list = request.get(header::IF_NONE_MATCH).map_or_else(Vec::new, |tag| tag.as_bytes().to_vec());
    for tag in tags {
        if list.len() + tag.len() > TAGS_BYTES_MAX {
            break;
        }
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(tag.as_bytes());
    }
    if let Ok(list) = HeaderValue::from_bytes(&list)
        && !list.is_empty()
    {
        request.insert(header::IF_NONE_MATCH, list);
    }
}

/// Whether anything stored can be asked with.
#[must_use]
pub fn can_ask(stored: &HeaderMap) -> bool {
    stored.contains_key(header::ETAG) || stored.contains_key(header::LAST_MODIFIED)
}

/// Whether a 304 speaks of what is stored (RFC 9111 4.3.4): its validators, if it has any, must be those we asked with.
#[must_use]
pub fn speaks_of(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match (not_modified.get(header::ETAG), stored.get(header::ETAG)) {
        (Some(new), Some(old)) => opaque(new.as_bytes()) == opaque(old.as_bytes()),
        (Some(_), None) => false,
        (None, _) => match (not_modified.get(header::LAST_MODIFIED), stored.get(header::LAST_MODIFIED)) {
            (Some(new), Some(old)) => new == old,
            (Some(_), None) => stored.contains_key(header::ETAG),
            (None, _) => true,
        },
    }
}

/// The stored head after a 304; `trust` if its origin is believed. One without Cache-Control and Expires keeps the stored
/// lifetime: Plone's have neither.
#[must_use]
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap, trust: bool) -> HeaderMap {
    let mut head = stored.clone();
    // A new Expires without Cache-Control must not be outweighed by the stored Cache-Control, and the other way round.
    if not_modified.contains_key(header::CACHE_CONTROL) || not_modified.contains_key(header::EXPIRES) {
        head.remove(header::CACHE_CONTROL);
        head.remove(header::EXPIRES);
    }
    let changes = |name: &&HeaderName| !FIXED.contains(name) && (trust || !BELIEVED.contains(name));
    for name in not_modified.keys().filter(changes) {
        head.remove(name);
        for value in not_modified.get_all(name) {
            head.append(name.clone(), value.clone());
        }
    }
    head.remove(header::AGE);
    if let Some(age) = not_modified.get(header::AGE) {
        head.insert(header::AGE, age.clone());
    }
    head
}

/// An entity tag without its weakness mark.
#[must_use]
pub fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;

    #[test]
    fn a_304_never_changes_what_the_content_is() {
        let stored = headers(&[("content-type", "image/png"), ("content-length", "9"), ("cache-control", "max-age=5")]);
        let answer = headers(&[("content-type", "text/html"), ("content-length", "0"), ("cache-control", "max-age=7")]);
        let head = freshen(&stored, &answer, false);
        assert_eq!(head["content-type"], "image/png");
        assert_eq!(head["content-length"], "9");
        assert_eq!(head["cache-control"], "max-age=7");
        let answer = headers(&[("x-frame-options", "deny"), ("set-cookie", "a=b"), ("vary", "cookie")]);
        let head = freshen(&stored, &answer, false);
        assert_eq!(head["x-frame-options"], "deny");
        assert!(!head.contains_key("set-cookie") && !head.contains_key("vary"));
    }

    #[test]
    fn the_304_of_an_origin_that_is_believed_changes_all_but_how_the_body_is_coded() {
        let stored = headers(&[("content-type", "text/plain"), ("content-encoding", "gzip"), ("vary", "a")]);
        let answer =
            headers(&[("content-type", "text/html"), ("content-encoding", "br"), ("set-cookie", "a=b"), ("vary", "b")]);
        let head = freshen(&stored, &answer, true);
        for (name, value) in
            [("content-type", "text/html"), ("content-encoding", "gzip"), ("set-cookie", "a=b"), ("vary", "a")]
        {
            assert_eq!(head[name], value);
        }
    }

    #[test]
    fn a_plone_304_without_cache_control_keeps_the_lifetime() {
        let tag = "\"||32|en|Plone Default|0|1795426181.13\"";
        let stored = headers(&[("etag", tag), ("cache-control", "max-age=0, s-maxage=60"), ("age", "9")]);
        let head = freshen(&stored, &headers(&[("etag", tag), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")]), false);
        assert_eq!(head["cache-control"], "max-age=0, s-maxage=60");
        assert_eq!(head["date"], "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(!head.contains_key("age"), "the age begins anew");
    }

    #[test]
    fn a_304_about_something_else_is_not_believed() {
        let stored = headers(&[("etag", "\"a b\""), ("last-modified", "x")]);
        for (answer, expected) in [
            (&[][..], true),
            (&[("etag", "\"a b\"")], true),
            (&[("etag", "W/\"a b\"")], true),
            (&[("etag", "\"c\"")], false),
            (&[("last-modified", "y")], false),
        ] {
            assert_eq!(speaks_of(&stored, &headers(answer)), expected, "{answer:?}");
        }
        assert!(!speaks_of(&headers(&[("last-modified", "x")]), &headers(&[("etag", "\"c\"")])));
    }
}
