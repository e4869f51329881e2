//! In which content coding a stored response is sent (RFC 9110 8.4, 12.5.3), and what its head says then.

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use http::header::GetAll;

/// A content coding that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// zstd, RFC 8878.
    Zstd,
    /// Brotli, RFC 7932.
    Br,
    /// gzip, RFC 1952.
    Gzip,
}

/// The codings that a site offers, the one it likes best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer([Option<Coding>; 3]);

impl Coding {
    /// Its name in `Content-Encoding`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }

    /// How many there are.
    pub const COUNT: usize = 3;

    fn is_named(self, name: &[u8]) -> bool {
        // RFC 9110 8.4.1.3: x-gzip is the same as gzip.
        name.eq_ignore_ascii_case(self.word().as_bytes()) || self == Self::Gzip && name.eq_ignore_ascii_case(b"x-gzip")
    }
}

impl Offer {
    /// An offer of these, each once.
    #[must_use]
    pub fn of(codings: &[Coding]) -> Self {
        let mut offer = Self::default();
        for coding in codings {
            if let Some(free) = offer.0.iter_mut().find(|known| known.is_none_or(|known| known == *coding)) {
                *free = Some(*coding);
            }
        }
        offer
    }

    /// The codings, the one liked best first.
    pub fn iter(self) -> impl Iterator<Item = Coding> {
        self.0.into_iter().flatten()
    }

    /// Whether nothing is offered.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0[0].is_none()
    }

    /// The coding in which a request gets the whole of a response; `None`: as the origin sent it. Parts are always of that:
    /// a client that goes on with a download must not meet another coding half-way.
    #[must_use]
    pub fn choose(self, method: &Method, request: &HeaderMap) -> Option<Coding> {
        let reads = *method == Method::GET || *method == Method::HEAD;
        if !reads || self.is_empty() {
            return None;
        }
        // Looked up once: each look-up of a field costs as much as reading it.
        let lines = request.get_all(header::ACCEPT_ENCODING);
        if lines.iter().next().is_none() || request.contains_key(header::RANGE) {
            return None;
        }
        // What is named first counts.
        let (mut identity, mut any, mut named) = (None, None, [None; Coding::COUNT]);
        for (name, q) in wishes(&lines) {
            if let Some(coding) = self.iter().find(|coding| coding.is_named(name)) {
                named[coding as usize].get_or_insert(q);
            } else if name == b"*" {
                any.get_or_insert(q);
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity.get_or_insert(q);
            }
        }
        let (identity, any) = (identity.unwrap_or(0), any.unwrap_or(0));
        let mut best = None;
        for coding in self.iter() {
            let q = named[coding as usize].unwrap_or(any);
            // Of equals the first that is offered; the origin's own form only where it is liked better.
            if q > 0 && q >= identity && best.is_none_or(|(_, other)| q > other) {
                best = Some((coding, q));
            }
        }
        best.map(|(coding, _)| coding)
    }
}

/// What Accept-Encoding names, each with its weight in thousandths; one that cannot be read has none.
fn wishes<'a>(lines: &GetAll<'a, HeaderValue>) -> impl Iterator<Item = (&'a [u8], u32)> {
    lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or(&[]);
        let q = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        (name, q.map_or(1000, weight))
    })
}

/// RFC 9110 12.4.2: `0`, `1`, and up to three digits after the point.
fn weight(text: &[u8]) -> u32 {
    let (whole, part) = match text {
        [whole] => (*whole, &[][..]),
        [whole, b'.', part @ ..] if part.len() <= 3 => (*whole, part),
        _ => return 0,
    };
    let mut thousandths = 0;
    for at in 0..3 {
        let digit = part.get(at).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return 0;
        }
        thousandths = 10 * thousandths + u32::from(digit - b'0');
    }
    match whole {
        b'0' => thousandths,
        b'1' if thousandths == 0 => 1000,
        _ => 0,
    }
}

/// Whether a stored response of `len` bytes is worth a coding: a whole text, of some size, that nobody has coded yet or
/// forbidden to change.
#[must_use]
pub fn is_worth(status: StatusCode, head: &HeaderMap, len: u64, min: u64) -> bool {
    status == StatusCode::OK
        && len >= min
        && is_text(head)
        // RFC 9111 5.2.2.6. Whatever is stored is the same for all, so it holds no secret (BREACH), though it may say private.
        && !names(head, &header::CACHE_CONTROL, "no-transform")
        && [header::CONTENT_ENCODING, header::CONTENT_RANGE].iter().all(|name| !head.contains_key(name))
        // They are about the bytes as the origin sent them (RFC 9530).
        && ["content-md5", "digest", "content-digest", "repr-digest"].iter().all(|name| !head.contains_key(*name))
}

fn names(head: &HeaderMap, field: &header::HeaderName, word: &str) -> bool {
    let items = head.get_all(field).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).any(|item| item.eq_ignore_ascii_case(word.as_bytes()))
}

fn is_text(head: &HeaderMap) -> bool {
    let Some(kind) = head.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if let Some(text) = kind.strip_prefix("text/") {
        return text != "event-stream";
    }
    kind == "image/svg+xml"
        || kind.strip_prefix("application/").is_some_and(|kind| {
            matches!(kind, "javascript" | "json" | "xml" | "wasm" | "x-javascript")
                || kind.ends_with("+json")
                || kind.ends_with("+xml")
        })
}

/// Says that Accept-Encoding selects (RFC 9110 12.5.5).
pub fn vary(head: &mut HeaderMap) {
    if !names(head, &header::VARY, "accept-encoding") && !names(head, &header::VARY, "*") {
        head.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Makes of a head that of the same response in `coding`, with `len` bytes; of a 304 without a length.
pub fn recode(head: &mut HeaderMap, coding: Coding, len: Option<u64>) {
    if let Some(len) = len {
        head.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.word()));
        head.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
    head.remove(header::ACCEPT_RANGES);
    // RFC 9110 8.8.3.3: a strong entity tag is of one coding. A weak one says the same of both, and a client that comes with
    // it is answered 304 whatever it accepts then.
    if let Some(tag) = head.get(header::ETAG)
        && !tag.as_bytes().starts_with(b"W/")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        head.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use proptest::prelude::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    #[test]
    fn the_clients_weights_count_and_among_equals_our_order() {
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, br;q=0.9, zstd;q=0.5", "gzip"),
            ("br;q=0.001", "br"),
            ("zstd;q=0, br;q=0.0, gzip;q=0.000", ""),
            ("*", "zstd"),
            ("*;q=0.5, gzip", "gzip"),
            ("zstd;q=0, *", "br"),
            ("identity, gzip;q=0.5", ""),
            ("identity;q=0.5, gzip;q=0.5", "gzip"),
            ("X-GZIP", "gzip"),
            ("gzip ; Q=1.0", "gzip"),
            ("gzip;q=1.001, br;q=x, zstd;q=", ""),
            ("gzip;q=0.1234", ""),
            ("deflate", ""),
            ("", ""),
        ] {
            let chosen = Offer::of(&ALL).choose(&Method::GET, &headers(&[("accept-encoding", accept)]));
            assert_eq!(chosen.map_or("", Coding::word), expected, "{accept}");
        }
        let asked = headers(&[("accept-encoding", "gzip, br")]);
        assert_eq!(Offer::of(&[Coding::Gzip, Coding::Br]).choose(&Method::HEAD, &asked), Some(Coding::Gzip));
        assert_eq!(Offer::of(&[]).choose(&Method::GET, &asked), None);
        assert_eq!(Offer::of(&ALL).choose(&Method::GET, &headers(&[])), None);
        let part = headers(&[("accept-encoding", "gzip"), ("range", "bytes=0-1")]);
        assert_eq!(Offer::of(&ALL).choose(&Method::GET, &part), None, "parts are of what the origin sent");
    }

    #[test]
    fn only_whole_texts_that_may_be_changed_are_worth_it() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (lines, status, len, expected) in [
            (&[html][..], 200, 1024, true),
            (&[html], 200, 1023, false),
            (&[html], 404, 9999, false),
            (&[("content-type", "application/ld+json")], 200, 9999, true),
            (&[("content-type", "image/svg+xml")], 200, 9999, true),
            (&[("content-type", "image/png")], 200, 9999, false),
            (&[("content-type", "text/event-stream")], 200, 9999, false),
            (&[], 200, 9999, false),
            (&[html, ("content-encoding", "gzip")], 200, 9999, false),
            (&[html, ("cache-control", "public, No-Transform")], 200, 9999, false),
            (&[html, ("cache-control", "max-age=0, private")], 200, 9999, true),
            (&[html, ("content-digest", "sha-256=:YQ==:")], 200, 9999, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_worth(status, &headers(lines), len, 1024), expected, "{lines:?} {status} {len}");
        }
    }

    #[test]
    fn a_coded_head_is_that_of_another_representation() {
        let mut head = headers(&[("etag", "\"|a b|\""), ("content-length", "9"), ("accept-ranges", "bytes")]);
        vary(&mut head);
        vary(&mut head);
        let mut not_modified = head.clone();
        recode(&mut head, Coding::Br, Some(5));
        let expected = headers(&[
            ("etag", "W/\"|a b|\""),
            ("content-length", "5"),
            ("vary", "Accept-Encoding"),
            ("content-encoding", "br"),
        ]);
        assert_eq!(head, expected);
        recode(&mut head, Coding::Br, Some(5));
        assert_eq!(head, expected, "a weak tag stays as it is");
        recode(&mut not_modified, Coding::Br, None);
        assert!(!not_modified.contains_key("content-encoding") && not_modified["etag"] == "W/\"|a b|\"");
        let mut starred = headers(&[("vary", "accept, *")]);
        vary(&mut starred);
        assert_eq!(starred.get_all("vary").iter().count(), 1);
    }

    proptest! {
        #[test]
        fn any_wish_is_read_without_a_panic(wish in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&wish) {
                let mut request = HeaderMap::new();
                request.append(header::ACCEPT_ENCODING, value);
                let _ = Offer::of(&ALL).choose(&Method::GET, &request);
            }
        }
    }
}
