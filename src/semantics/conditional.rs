//! A client's conditions, answered from what is stored (RFC 9110 13).

use crate::semantics::date;
use crate::semantics::validator::opaque;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header;

/// What the client's conditions make of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// Send it whole.
    Full,
    /// The client has it already: 304.
    NotModified,
    /// The condition is not met by what is stored, and only the origin may say so.
    AskOrigin,
}

/// Judges a GET or HEAD, in the order of RFC 9110 13.2.2. If-Match and If-Unmodified-Since are the origin's business (RFC
/// 9111 4.3.2): where what is stored meets them, the origin would say the same; where not, it is asked.
#[must_use]
pub fn evaluate(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> Conditional {
    // RFC 9110 13.2.1: conditions bear on successful answers only.
    if !status.is_success() {
        return Conditional::Full;
    }
    if is_for_origin(request) && !meets(request, stored) {
        return Conditional::AskOrigin;
    }
    if request.contains_key(header::IF_NONE_MATCH) {
        let tag = stored.get(header::ETAG).map(|tag| opaque(tag.as_bytes()));
        let known = request.get_all(header::IF_NONE_MATCH).iter().any(|line| lists(line.as_bytes(), tag));
        return if known { Conditional::NotModified } else { Conditional::Full };
    }
    let Some(since) = date::of(request, &header::IF_MODIFIED_SINCE) else { return Conditional::Full };
    // RFC 9111 4.3.2: without Last-Modified, Date stands in.
    let modified = date::of(stored, &header::LAST_MODIFIED).or_else(|| date::of(stored, &header::DATE));
    if modified.is_some_and(|modified| modified <= since) { Conditional::NotModified } else { Conditional::Full }
}

/// Whether a request has a condition that is the origin's to judge.
#[must_use]
pub fn is_for_origin(request: &HeaderMap) -> bool {
    request.contains_key(header::IF_MATCH) || request.contains_key(header::IF_UNMODIFIED_SINCE)
}

/// RFC 9110 13.1.1 and 13.1.4, the former before the latter.
fn meets(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(header::IF_MATCH) {
        // By strong comparison: a weak tag matches nothing.
        let tag = stored.get(header::ETAG).map(HeaderValue::as_bytes).filter(|tag| !tag.starts_with(b"W/"));
        return request.get_all(header::IF_MATCH).iter().any(|line| lists_strongly(line.as_bytes(), tag));
    }
    // A date that cannot be read is no condition, but let the origin say so.
    let since = date::of(request, &header::IF_UNMODIFIED_SINCE);
    let modified = date::of(stored, &header::LAST_MODIFIED);
    matches!((modified, since), (Some(modified), Some(since)) if modified <= since)
}

fn lists_strongly(line: &[u8], tag: Option<&[u8]>) -> bool {
    // A weak member could only be told from a strong one by its mark; where there is one, the origin decides.
    !line.starts_with(b"W/") && !line.windows(3).any(|part| part == b" W/" || part == b",W/") && lists(line, tag)
}

/// Whether a line of If-None-Match lists `tag` by weak comparison, or is `*`. Tags are opaque: what stands between quotes
/// counts, commas and spaces included; a tag without quotes (Zope's HEAD makes such) ends at a comma.
fn lists(line: &[u8], tag: Option<&[u8]>) -> bool {
    let mut rest = line.trim_ascii();
    if rest == b"*" {
        return true;
    }
    let Some(tag) = tag else { return false };
    while !rest.is_empty() {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(b"W/").unwrap_or(rest);
        let end = match rest.strip_prefix(b"\"") {
            Some(inner) => inner.iter().position(|byte| *byte == b'"').map_or(rest.len(), |at| at + 2),
            None => rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len()),
        };
        let (item, after) = rest.split_at(end);
        if item.trim_ascii_end() == tag {
            return true;
        }
        let comma = after.iter().position(|byte| *byte == b',').map_or(after.len(), |at| at + 1);
        rest = &after[comma..];
    }
    false
}

/// Whether a field of the stored head belongs into a 304 (RFC 9110 15.4.5): what a cache in between needs, no content
/// metadata.
#[must_use]
pub fn belongs_in_304(name: &HeaderName) -> bool {
    *name != header::CONTENT_LENGTH
        && *name != header::CONTENT_TYPE
        && *name != header::CONTENT_ENCODING
        && *name != header::CONTENT_LANGUAGE
        && *name != header::CONTENT_RANGE
        && *name != header::LAST_MODIFIED
        && *name != header::ACCEPT_RANGES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use proptest::prelude::*;

    #[test]
    fn entity_tags_are_opaque_and_compared_weakly() {
        let plone = "\"||32|en|Plone Default|0|1795426181.133915\"";
        for (asked, stored, known) in [
            (plone, plone, true),
            ("W/\"a\"", "\"a\"", true),
            ("\"x\", \"a,b\" , \"c\"", "\"a,b\"", true),
            ("\"x\",\"c\"", "W/\"c\"", true),
            ("\"x\"", "\"y\"", false),
            ("*", "\"y\"", true),
            ("ts95426243.0612485, \"y\"", "\"y\"", true),
            ("ts95426243.0612485", "ts95426243.0612485", true),
            ("\"a", "\"a", true),
            ("\"a", "\"a\"", false),
            ("", "\"a\"", false),
        ] {
            let request = headers(&[("if-none-match", asked), ("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")]);
            let stored = headers(&[("etag", stored), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
            let expected = if known { Conditional::NotModified } else { Conditional::Full };
            assert_eq!(evaluate(&request, StatusCode::OK, &stored), expected, "{asked}");
        }
    }

    #[test]
    fn dates_count_only_without_tags() {
        let stored = headers(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (since, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Conditional::NotModified),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Conditional::Full),
            ("yesterday", Conditional::Full),
        ] {
            assert_eq!(evaluate(&headers(&[("if-modified-since", since)]), StatusCode::OK, &stored), expected);
        }
        let asked = headers(&[("if-none-match", "\"a\""), ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(evaluate(&asked, StatusCode::OK, &stored), Conditional::Full);
        assert_eq!(evaluate(&headers(&[("if-none-match", "*")]), StatusCode::NOT_FOUND, &stored), Conditional::Full);
    }

    #[test]
    fn what_is_stored_meets_a_condition_or_the_origin_is_asked() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (lines, expected) in [
            (&[("if-match", "\"x\", \"a\"")][..], Conditional::Full),
            (&[("if-match", "*")], Conditional::Full),
            (&[("if-match", "\"b\"")], Conditional::AskOrigin),
            (&[("if-match", "W/\"a\"")], Conditional::AskOrigin),
            (&[("if-match", "\"x\", W/\"a\"")], Conditional::AskOrigin),
            (&[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Conditional::Full),
            (&[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], Conditional::AskOrigin),
            (&[("if-unmodified-since", "yesterday")], Conditional::AskOrigin),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], Conditional::NotModified),
            (&[("if-match", "\"a\""), ("if-unmodified-since", "Sun, 06 Nov 1904 08:49:36 GMT")], Conditional::Full),
        ] {
            assert_eq!(evaluate(&headers(lines), StatusCode::OK, &stored), expected, "{lines:?}");
        }
        let weak = headers(&[("etag", "W/\"a\"")]);
        assert_eq!(evaluate(&headers(&[("if-match", "\"a\"")]), StatusCode::OK, &weak), Conditional::AskOrigin);
    }

    proptest! {
        #[test]
        fn any_list_of_tags_is_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = lists(&line, Some(b"\"a\""));
        }
    }
}
