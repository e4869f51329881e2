//! Which messages are passed on at all: methods, versions, transfer codings, upgrades (RFC 9110, 9112, 9113).
//!
//! hyper has parsed the message; what it lets through although it could be read in two ways is refused here. Framing
//! fields are never forwarded: hyper writes new ones.

use crate::semantics::cache_control::contains_token;
use crate::semantics::present::Present;
use http::HeaderMap;
use http::HeaderName;
use http::Method;
use http::StatusCode;
use http::Version;
use http::header;

/// A request that is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client sees.
    pub status: StatusCode,
    /// The word for logs and metrics.
    pub why: &'static str,
}

/// HTTP's own methods, and `WebDAV`'s, which Zope speaks (RFC 4918, 3253, 5323).
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "PURGE",
];

/// What follows a CONNECT may be meant for a tunnel and not for us (RFC 9110 9.3.6).
pub const CONNECT: Refused = Refused { status: StatusCode::METHOD_NOT_ALLOWED, why: "connect" };

impl Refused {
    /// A refusal with 400.
    #[must_use]
    pub const fn bad(why: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why }
    }

    /// Whether what follows on the connection cannot be trusted to be a request: this one could be read in two ways.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        self.status == StatusCode::BAD_REQUEST || *self == CONNECT
    }
}

/// Judges a request's method, version and framing; `present`: which fields it has.
///
/// # Errors
/// What it is refused for.
pub fn request(method: &Method, version: Version, headers: &HeaderMap, present: Present) -> Result<(), Refused> {
    if *method == Method::CONNECT {
        return Err(CONNECT);
    }
    if *method == Method::TRACE {
        return Err(Refused { status: StatusCode::METHOD_NOT_ALLOWED, why: "method" });
    }
    if !present.has(Present::FRAMING) && !present.has(Present::UPGRADE) {
        return Ok(());
    }
    let framed = Framed::of(headers);
    // RFC 9112 6.1: no transfer coding in HTTP/1.0, and of the codings only chunked, once.
    if framed.chunked == Said::Wrong || framed.chunked != Said::Nothing && version != Version::HTTP_11 {
        return Err(Refused::bad("transfer_encoding"));
    }
    // hyper sees to that in HTTP/1, but not in all cases in HTTP/2.
    if framed.length == Said::Wrong {
        return Err(Refused::bad("content_length"));
    }
    if let Some(expectation) = headers.get(header::EXPECT)
        && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refused { status: StatusCode::EXPECTATION_FAILED, why: "expect" });
    }
    if headers.contains_key(header::UPGRADE) && version == Version::HTTP_11 && asks_for_h2c(headers) {
        return Err(Refused::bad("upgrade_h2c"));
    }
    Ok(())
}

/// Judges whether a method is one that Zope knows: it would take any other for the name of an attribute, and look for it.
///
/// # Errors
/// RFC 9110 9.1: 501 for a method that is not known.
pub fn known(method: &Method) -> Result<(), Refused> {
    if METHODS.contains(&method.as_str()) {
        return Ok(());
    }
    Err(Refused { status: StatusCode::NOT_IMPLEMENTED, why: "method" })
}

/// Whether the request asks to change to the WebSocket protocol (RFC 6455 4.1).
#[must_use]
pub fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.get_all(header::CONNECTION).iter().any(|line| contains_token(line.as_bytes(), b"upgrade"))
}

/// Upgrading to cleartext HTTP/2 past a proxy is how requests are smuggled; RFC 9113 has abolished it.
fn asks_for_h2c(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|line| contains_token(line.as_bytes(), b"h2c"))
}

/// What a message says of its own framing. An answer's fields go no further than this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// Whether Transfer-Encoding says `chunked`, and nothing else.
    pub chunked: Said<()>,
    /// The bytes that Content-Length tells (RFC 9110 8.6: digits, and in one line).
    pub length: Said<u64>,
}

/// What a field says that is to be said once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Said<T> {
    /// Nothing.
    #[default]
    Nothing,
    /// This.
    Once(T),
    /// What can be read in two ways, or not at all.
    Wrong,
}

impl Framed {
    /// What these fields say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut framed = Self::default();
        headers.get_all(header::TRANSFER_ENCODING).iter().for_each(|line| framed.coding(line.as_bytes()));
        headers.get_all(header::CONTENT_LENGTH).iter().for_each(|line| framed.length(line.as_bytes()));
        framed
    }

    /// Notes a line of Transfer-Encoding.
    pub fn coding(&mut self, line: &[u8]) {
        let chunked = self.chunked == Said::Nothing && line.trim_ascii().eq_ignore_ascii_case(b"chunked");
        self.chunked = if chunked { Said::Once(()) } else { Said::Wrong };
    }

    /// Notes a line of Content-Length.
    pub fn length(&mut self, line: &[u8]) {
        let once = digits(line).filter(|_| self.length == Said::Nothing);
        self.length = once.map_or(Said::Wrong, Said::Once);
    }

    /// Whether the body's end can be told from a connection that broke (RFC 9112 6.3): its length or its chunks say where it
    /// is, or there is none.
    #[must_use]
    pub fn is_delimited(&self, status: StatusCode) -> bool {
        self.length != Said::Nothing || self.chunked != Said::Nothing || matches!(status.as_u16(), 204 | 304)
    }
}

/// Digits and nothing else, of a number that can be counted.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// What a request to the origin asked for, as far as it bears on which answers are proper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// It had a Range field.
    pub range: bool,
    /// It had a condition.
    pub condition: bool,
    /// It asked for a WebSocket.
    pub websocket: bool,
}

impl Asked {
    /// What a request with these fields asks for.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let present = Present::of(headers);
        let has = |name: HeaderName| present.has(Present::CONDITION) && headers.contains_key(name);
        Self {
            range: present.has(Present::RANGE),
            condition: has(header::IF_NONE_MATCH) || has(header::IF_MODIFIED_SINCE),
            websocket: present.has(Present::UPGRADE) && wants_websocket(headers),
        }
    }
}

/// Judges an origin's answer: what could be read in two ways, or was never asked for, is no answer.
///
/// # Errors
/// The word for the log; the client gets a 502.
pub fn response(status: StatusCode, framed: Framed, asked: Asked) -> Result<(), &'static str> {
    match framed {
        Framed { chunked: Said::Wrong, .. } => return Err("transfer_encoding"),
        Framed { chunked: Said::Once(()), length: Said::Once(_) | Said::Wrong } => return Err("length_and_chunked"),
        Framed { length: Said::Wrong, .. } => return Err("content_length"),
        _ => {}
    }
    match status.as_u16() {
        101 if !asked.websocket => Err("unrequested_101"),
        102..200 | 100 => Err("informational"),
        206 if !asked.range => Err("unrequested_206"),
        304 if !asked.condition => Err("unrequested_304"),
        600.. => Err("status"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;

    #[test]
    fn a_request_that_can_be_read_in_two_ways_is_refused() {
        let te = "transfer-encoding";
        let cases: &[(&str, Version, &[(&'static str, &str)], u16)] = &[
            ("GET", Version::HTTP_11, &[], 0),
            ("POST", Version::HTTP_11, &[(te, "chunked")], 0),
            ("POST", Version::HTTP_11, &[(te, "Chunked")], 0),
            ("POST", Version::HTTP_10, &[(te, "chunked")], 400),
            ("POST", Version::HTTP_11, &[(te, "identity, chunked")], 400),
            ("POST", Version::HTTP_11, &[(te, "gzip, chunked")], 400),
            ("POST", Version::HTTP_11, &[(te, "chunked, chunked")], 400),
            ("POST", Version::HTTP_11, &[(te, ",chunked")], 400),
            ("POST", Version::HTTP_11, &[(te, "x"), (te, "chunked")], 400),
            ("POST", Version::HTTP_11, &[("content-length", "5"), ("content-length", "5")], 400),
            ("POST", Version::HTTP_2, &[("content-length", "")], 400),
            ("POST", Version::HTTP_2, &[("content-length", "+5")], 400),
            ("POST", Version::HTTP_2, &[("content-length", "5")], 0),
            ("POST", Version::HTTP_11, &[("expect", "100-continue")], 0),
            ("POST", Version::HTTP_11, &[("expect", "a-miracle")], 417),
            ("GET", Version::HTTP_11, &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")], 400),
            ("GET", Version::HTTP_11, &[("upgrade", "websocket"), ("connection", "upgrade")], 0),
            ("CONNECT", Version::HTTP_11, &[], 405),
            ("TRACE", Version::HTTP_11, &[], 405),
            ("BREW", Version::HTTP_11, &[], 0),
            ("PROPFIND", Version::HTTP_11, &[], 0),
        ];
        for (method, version, lines, expected) in cases {
            let fields = headers(lines);
            let verdict = request(&method.parse().unwrap(), *version, &fields, Present::of(&fields));
            assert_eq!(verdict.map_or_else(|refused| refused.status.as_u16(), |()| 0), *expected, "{method} {lines:?}");
        }
    }

    #[test]
    fn of_methods_those_of_zope_are_known() {
        for (method, expected) in [("GET", true), ("PROPFIND", true), ("PURGE", true), ("BREW", false), ("get", false)]
        {
            assert_eq!(known(&method.parse().unwrap()).is_ok(), expected, "{method}");
        }
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_none() {
        let all = Asked { range: true, condition: true, websocket: true };
        let cases: &[(u16, &[(&'static str, &str)], Asked, bool)] = &[
            (200, &[("content-length", "5")], Asked::default(), true),
            (200, &[("content-length", "5, 5")], Asked::default(), false),
            (200, &[("content-length", "")], Asked::default(), false),
            (200, &[("transfer-encoding", "foo")], Asked::default(), false),
            (200, &[("transfer-encoding", "chunked, identity")], Asked::default(), false),
            (200, &[("transfer-encoding", "chunked"), ("content-length", "5")], Asked::default(), false),
            (101, &[], Asked::default(), false),
            (206, &[], Asked::default(), false),
            (304, &[], Asked::default(), false),
            (101, &[], all, true),
            (206, &[], all, true),
            (304, &[], all, true),
            (103, &[], all, false),
            (999, &[], all, false),
        ];
        for (status, lines, asked, good) in cases {
            let verdict = response(StatusCode::from_u16(*status).unwrap(), Framed::of(&headers(lines)), *asked);
            assert_eq!(verdict.is_ok(), *good, "{status} {lines:?} {verdict:?}");
        }
    }
}
