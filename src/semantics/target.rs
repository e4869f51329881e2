//! The request target, read once as Zope will read it (RFC 9112 3.2, RFC 3986 6.2.2).
//!
//! Zope decodes a path once and then resolves dot segments, wherever they came from; so do we, before routing, cache key
//! and VirtualHostMonster prefix. What has no one meaning is refused.

use crate::semantics::framing::Refused;
use http::StatusCode;
use http::Uri;
use std::borrow::Cow;

/// Path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Begins with `/`; holds no dot segment, no empty segment but the last, and only needed percent-encodings.
    pub path: Cow<'a, str>,
    /// As the client wrote it, without `?`; bytes outside visible ASCII are percent-encoded.
    pub query: Option<Cow<'a, str>>,
}

/// Reads the target of a request whose method is not `OPTIONS *`.
///
/// # Errors
/// 414 when longer than `max` bytes; 400 when it is no path, or one with two meanings.
pub fn parse(uri: &Uri, max: usize) -> Result<Target<'_>, Refused> {
    let whole = uri.path_and_query().ok_or(Refused::bad("target"))?.as_str();
    if whole.len() > max {
        return Err(Refused { status: StatusCode::URI_TOO_LONG, why: "target_length" });
    }
    if let Some(scheme) = uri.scheme_str()
        && scheme != "http"
        && scheme != "https"
    {
        return Err(Refused::bad("target_scheme"));
    }
    // `GET x` is parsed as an authority with an empty path; with a scheme an empty path means `/` (RFC 9110 4.2.3). HTTP/2's
    // `:path` comes with a scheme, and may be anything at all (RFC 9113 8.3.1 wants what HTTP/1.1 wants).
    let empty = uri.scheme().is_some() && (whole.is_empty() || whole.starts_with('?'));
    if !empty && !whole.starts_with('/') {
        return Err(Refused::bad("target"));
    }
    let (path, query) = match whole.split_once('?') {
        Some((path, query)) => (path, Some(encode_query(query))),
        None => (whole, None),
    };
    Ok(Target { path: normalise(if path.is_empty() { "/" } else { path })?, query })
}

/// The path in the one spelling that we route, store and forward.
///
/// # Errors
/// 400 for a broken percent-encoding, an encoded NUL, a backslash, an encoded slash beside dots, and dots that lead out of
/// the root.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, Refused> {
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let mut segments: Vec<String> = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    let mut folder = false;
    while let Some(raw) = rest.next() {
        let last = rest.peek().is_none();
        let segment = respell(raw)?;
        match segment.as_str() {
            "" | "." => folder = last,
            ".." => {
                segments.pop().ok_or(Refused::bad("target_above_root"))?;
                folder = last;
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if folder || segments.is_empty() {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

/// Whether a path is already in its one spelling: the usual case, in one pass without a copy.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b' ';
    let plain = path.iter().all(|byte| {
        // A dot after a slash may begin a dot segment, or not: the slow way finds out.
        let dotted = before == b'/' && matches!(byte, b'.' | b'/');
        before = *byte;
        !dotted && is_path_byte(*byte)
    });
    plain && path.first() == Some(&b'/')
}

/// RFC 3986 3.3: what may stand in a path as it is.
fn is_path_byte(byte: u8) -> bool {
    PATH_BYTES[usize::from(byte)]
}

/// One look for each byte of each path.
static PATH_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let (marks, mut at) = (b"-._~!$&'()*+,;=:@/", 0);
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] |= byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// One segment: unreserved characters decoded, all others that need it encoded in upper case.
fn respell(raw: &str) -> Result<String, Refused> {
    let mut spelled = String::with_capacity(raw.len());
    let mut decoded: Vec<u8> = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let byte = hex(bytes.next()).zip(hex(bytes.next())).map(|(high, low)| high * 16 + low);
            let byte = byte.ok_or(Refused::bad("target_encoding"))?;
            decoded.push(byte);
            if is_unreserved(byte) {
                spelled.push(char::from(byte));
            } else {
                push_encoded(byte, &mut spelled);
            }
        } else {
            decoded.push(byte);
            if is_path_byte(byte) {
                spelled.push(char::from(byte));
            } else {
                push_encoded(byte, &mut spelled);
            }
        }
    }
    if decoded.iter().any(|byte| *byte == 0 || *byte == b'\\') {
        return Err(Refused::bad("target_character"));
    }
    // Zope splits again after decoding, so `..%2f` is a dot segment to it.
    if decoded.contains(&b'/') && decoded.split(|byte| *byte == b'/').any(|part| part == b".." || part == b".") {
        return Err(Refused::bad("target_encoded_slash"));
    }
    Ok(spelled)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Appends `byte`, percent-encoded (RFC 3986 2.1).
pub fn push_encoded(byte: u8, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// A query is the application's: only bytes that may not stand in a request line are encoded.
fn encode_query(query: &str) -> Cow<'_, str> {
    if query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Cow::Borrowed(query);
    }
    let mut encoded = String::with_capacity(query.len() + 8);
    for byte in query.bytes() {
        if byte.is_ascii_graphic() {
            encoded.push(char::from(byte));
        } else {
            push_encoded(byte, &mut encoded);
        }
    }
    Cow::Owned(encoded)
}

/// The percent-decoded bytes of a path segment; broken encodings stay as they are.
#[must_use]
pub fn decode(segment: &str) -> Vec<u8> {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = hex(bytes.get(at + 1).copied()).zip(hex(bytes.get(at + 2).copied()));
        if let (b'%', Some((high, low))) = (byte, pair) {
            decoded.push(high * 16 + low);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a/b/"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%41%7e%2f", "/A~%2F"),
            ("/a%20b", "/a%20b"),
            ("/a b\"", "/a%20b%22"),
            ("/\u{e4}", "/%C3%A4"),
            ("/a;v=1/@@view/++api++", "/a;v=1/@@view/++api++"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a/%252e%252e/b", "/a/%252e%252e/b"),
        ] {
            assert_eq!(normalise(raw).map(Cow::into_owned), Ok(expected.to_owned()), "{raw}");
        }
        for raw in [
            "/..",
            "/a/../..",
            "/%2e%2e",
            "/a%00",
            "/a\\b",
            "/a%5cb",
            "/a/..%2fb",
            "/%2e%2e%2fb",
            "/a%2f.",
            "/%",
            "/%4",
            "/%zz",
        ] {
            assert!(normalise(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn only_paths_and_absolute_forms_are_targets() {
        let read = |uri: &str| {
            let uri: Uri = uri.parse().unwrap();
            parse(&uri, 50).map(|target| format!("{}|{}", target.path, target.query.unwrap_or("-".into())))
        };
        assert_eq!(read("/a?b=%zz&c").unwrap(), "/a|b=%zz&c");
        assert_eq!(read("/a?").unwrap(), "/a|");
        assert_eq!(read("http://host").unwrap(), "/|-");
        assert_eq!(read("https://host/a").unwrap(), "/a|-");
        assert_eq!(read("x").unwrap_err().why, "target");
        assert_eq!(read("ftp://host/a").unwrap_err().why, "target_scheme");
        assert_eq!(read(&format!("/{}", "a".repeat(50))).unwrap_err().status, 414);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "(/|\\.|%2e|%2E|%2f|a|%|[^/?#]){0,40}") {
            let path = format!("/{path}");
            if let Ok(normal) = normalise(&path) {
                prop_assert_eq!(&normalise(&normal).unwrap(), &normal);
            }
        }

        #[test]
        fn no_dot_segment_is_left_under_one_decoding(path in "(/|\\.|%2e|%2E|%2f|%5c|a|%41){0,40}") {
            let path = format!("/{path}");
            if let Ok(normal) = normalise(&path) {
                let decoded = decode(&normal);
                prop_assert!(!decoded.split(|byte| *byte == b'/').any(|part| part == b"." || part == b".."));
                prop_assert!(!decoded.contains(&b'\\') && !decoded.contains(&0));
            }
        }
    }
}
