//! Parts of a whole (RFC 9110 14): which bytes a Range field asks for, and how several are put into one answer.

use crate::semantics::date;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use std::time::Duration;

/// More ranges than this in one request are a way to make us work (RFC 9110 17.15); the whole is sent instead.
const SPANS_MAX: usize = 16;

/// Bytes of a whole, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

/// What a Range field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Nothing that we do: the field is ignored, the whole is sent (RFC 9110 14.2).
    Whole,
    /// These, at least one, in the order asked for unless some overlapped.
    Spans(Vec<Span>),
    /// None of the whole's bytes: 416.
    Unsatisfiable,
}

/// A range as it is written.
#[derive(Clone, Copy)]
enum Spec {
    From(u64, u64),
    Suffix(u64),
}

impl Span {
    /// The number of its bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.last - self.first + 1
    }

    /// The value of Content-Range.
    #[must_use]
    pub fn content_range(self, whole: u64) -> HeaderValue {
        let text = format!("bytes {}-{}/{whole}", self.first, self.last);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
    }
}

/// The value of Content-Range in a 416.
#[must_use]
pub fn unsatisfied(whole: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{whole}")).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

/// What the request asks for of a whole of `whole` bytes, if it asks for parts at all (a GET does, nothing else) and
/// If-Range lets it.
#[must_use]
pub fn select(request: &HeaderMap, stored: &HeaderMap, whole: u64) -> Ranges {
    let Some(specs) = specs(request) else { return Ranges::Whole };
    if !if_range(request, stored) {
        return Ranges::Whole;
    }
    let spans: Vec<Span> = specs.iter().filter_map(|spec| spec.within(whole)).collect();
    if spans.is_empty() {
        return Ranges::Unsatisfiable;
    }
    let spans = apart(spans);
    if spans.len() > 1 && spans.iter().map(|span| span.size()).sum::<u64>() >= whole {
        return Ranges::Whole;
    }
    Ranges::Spans(spans)
}

/// The length of the whole of which a 206 with one part brings some (RFC 9110 14.4), if it says.
#[must_use]
pub fn whole_of(part: &HeaderMap) -> Option<u64> {
    let line = part.get(header::CONTENT_RANGE)?.as_bytes();
    let (unit, range) = line.split_at_checked(6)?;
    let at = range.iter().position(|byte| *byte == b'/')?;
    unit.eq_ignore_ascii_case(b"bytes ").then(|| number(range[at + 1..].trim_ascii())).flatten()
}

/// Whether the request asks for a part that does not begin with the first byte: whoever fetched the whole for it would make
/// it wait for what it does not want.
#[must_use]
pub fn begins_later(request: &HeaderMap) -> bool {
    specs(request).is_some_and(|specs| !specs.iter().any(|spec| matches!(spec, Spec::From(0, _))))
}

/// The ranges of the one Range field. RFC 9110 14.2: an unknown unit or a malformed list is ignored.
fn specs(request: &HeaderMap) -> Option<Vec<Spec>> {
    let mut lines = request.get_all(header::RANGE).iter();
    let line = lines.next()?.as_bytes();
    if lines.next().is_some() {
        return None;
    }
    let (unit, set) = line.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut specs = Vec::new();
    for spec in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty()) {
        if specs.len() == SPANS_MAX {
            return None;
        }
        specs.push(Spec::parse(spec)?);
    }
    (!specs.is_empty()).then_some(specs)
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Self> {
        let at = text.iter().position(|byte| *byte == b'-')?;
        let (first, last) = (&text[..at], &text[at + 1..]);
        if first.is_empty() {
            return number(last).map(Self::Suffix);
        }
        let first = number(first)?;
        let last = if last.is_empty() { u64::MAX } else { number(last)? };
        (first <= last).then_some(Self::From(first, last))
    }

    fn within(self, whole: u64) -> Option<Span> {
        let end = whole.checked_sub(1)?;
        match self {
            Self::From(first, last) => (first <= end).then_some(Span { first, last: last.min(end) }),
            Self::Suffix(0) => None,
            Self::Suffix(len) => Some(Span { first: whole.saturating_sub(len), last: end }),
        }
    }
}

/// Digits only; what is too large to count is as good as endless.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Spans that overlap or touch are put together, for no byte is sent twice (RFC 9110 15.3.7.2).
fn apart(spans: Vec<Span>) -> Vec<Span> {
    let mut sorted = spans.clone();
    sorted.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match merged.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => before.last = before.last.max(span.last),
            _ => merged.push(span),
        }
    }
    if merged.len() == spans.len() { spans } else { merged }
}

/// RFC 9110 13.1.5: a tag by strong comparison, a date by equality and only if it is a strong validator, that is at least a
/// second older than the response.
fn if_range(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let mut lines = request.get_all(header::IF_RANGE).iter();
    let Some(wanted) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    if let Some(wanted) = date::parse(wanted.as_bytes()) {
        let modified = date::of(stored, &header::LAST_MODIFIED);
        let strong = date::of(stored, &header::DATE)
            .is_some_and(|date| date.duration_since(wanted).is_ok_and(|age| age >= Duration::from_secs(1)));
        return modified == Some(wanted) && strong;
    }
    let is_weak = wanted.as_bytes().starts_with(b"W/");
    !is_weak && stored.get(header::ETAG).is_some_and(|tag| tag.as_bytes() == wanted.as_bytes())
}

/// The parts of a multipart/byteranges answer (RFC 9110 14.6): before each span its head, and the closing line at the end.
#[must_use]
pub fn part_heads(boundary: &str, stored: &HeaderMap, spans: &[Span], whole: u64) -> (Vec<Bytes>, Bytes) {
    let heads = spans.iter().map(|span| {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(kind) = stored.get(header::CONTENT_TYPE) {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(kind.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Range: ");
        head.extend_from_slice(span.content_range(whole).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        Bytes::from(head)
    });
    (heads.collect(), Bytes::from(format!("\r\n--{boundary}--\r\n")))
}

/// The Content-Type of such an answer.
#[must_use]
pub fn multipart(boundary: &str) -> HeaderValue {
    HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"))
        .unwrap_or_else(|_| HeaderValue::from_static("multipart/byteranges"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use proptest::prelude::*;

    fn shown(ranges: &Ranges) -> String {
        match ranges {
            Ranges::Whole => "whole".to_owned(),
            Ranges::Unsatisfiable => "416".to_owned(),
            Ranges::Spans(spans) => {
                spans.iter().map(|span| format!("{}-{}", span.first, span.last)).collect::<Vec<_>>().join(",")
            }
        }
    }

    #[test]
    fn ranges_are_cut_to_the_whole_and_put_together_where_they_overlap() {
        for (range, whole, expected) in [
            ("bytes=0-1", 10, "0-1"),
            ("bytes=1-", 10, "1-9"),
            ("bytes=-1", 10, "9-9"),
            ("bytes=-20", 10, "0-9"),
            ("bytes=5-99999999999999999999999", 10, "5-9"),
            ("BYTES=0-0", 10, "0-0"),
            ("bytes=0-0, 4-5 ,", 10, "0-0,4-5"),
            ("bytes=4-5,0-0", 10, "4-5,0-0"),
            ("bytes=0-4,2-6", 10, "0-6"),
            ("bytes=0-1,2-3", 10, "0-3"),
            ("bytes=0-3,5-9", 10, "0-3,5-9"),
            ("bytes=0-4,6-,-5", 10, "0-9"),
            ("bytes=10-", 10, "416"),
            ("bytes=-0", 10, "416"),
            ("bytes=0-", 0, "416"),
            ("bytes=20-, 0-0", 10, "0-0"),
            ("bytes=1-0", 10, "whole"),
            ("bytes=a-b", 10, "whole"),
            ("bytes=", 10, "whole"),
            ("bytes", 10, "whole"),
            ("lines=0-1", 10, "whole"),
            (
                "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16,18-18,20-20,22-22,24-24,26-26,28-28,30-30,32-32",
                99,
                "whole",
            ),
        ] {
            let asked = headers(&[("range", range)]);
            assert_eq!(shown(&select(&asked, &HeaderMap::new(), whole)), expected, "{range} of {whole}");
        }
        let twice = headers(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]);
        assert_eq!(select(&twice, &HeaderMap::new(), 10), Ranges::Whole);
    }

    #[test]
    fn if_range_wants_a_strong_validator() {
        let (old, new) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        for (wanted, tag, modified, date, expected) in [
            ("\"a\"", "\"a\"", old, new, "0-1"),
            ("\"b\"", "\"a\"", old, new, "whole"),
            ("W/\"a\"", "W/\"a\"", old, new, "whole"),
            ("\"a\"", "W/\"a\"", old, new, "whole"),
            (old, "\"a\"", old, new, "0-1"),
            (old, "\"a\"", old, old, "whole"),
            (new, "\"a\"", old, new, "whole"),
        ] {
            let asked = headers(&[("range", "bytes=0-1"), ("if-range", wanted)]);
            let stored = headers(&[("etag", tag), ("last-modified", modified), ("date", date)]);
            assert_eq!(shown(&select(&asked, &stored, 10)), expected, "{wanted} {tag} {modified} {date}");
        }
    }

    #[test]
    fn only_ranges_that_begin_later_are_not_worth_the_whole() {
        for (range, later) in
            [("bytes=0-", false), ("bytes=0-1,5-6", false), ("bytes=5-", true), ("bytes=-5", true), ("x", false)]
        {
            assert_eq!(begins_later(&headers(&[("range", range)])), later, "{range}");
        }
    }

    proptest! {
        #[test]
        fn every_span_lies_within_the_whole_and_no_byte_comes_twice(set in "[0-9,\\- ]{0,40}", whole in 0_u64..200) {
            let asked = headers(&[("range", &format!("bytes={set}"))]);
            if let Ranges::Spans(mut spans) = select(&asked, &HeaderMap::new(), whole) {
                prop_assert!(spans.iter().all(|span| span.first <= span.last && span.last < whole));
                spans.sort_unstable();
                prop_assert!(spans.windows(2).all(|pair| pair[0].last < pair[1].first));
            }
        }
    }
}
