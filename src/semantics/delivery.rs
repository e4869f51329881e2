//! In what shape a stored response answers a request: whole, as 304, in part, or not at all (RFC 9110 13.2.2, 14.2).

use crate::semantics::conditional;
use crate::semantics::conditional::Conditional;
use crate::semantics::range;
use crate::semantics::range::Ranges;
use crate::semantics::range::Span;
use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::header;

/// The shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As it is stored; for HEAD without its body.
    Full,
    /// 304.
    NotModified,
    /// 206 with one part.
    Part(Span),
    /// 206 with several parts.
    Parts(Vec<Span>),
    /// 416.
    Unsatisfiable,
    /// None: only the origin may say that the request's condition is not met.
    AskOrigin,
}

/// The shape for a request with the fields `asked` of a stored response whose body has `len` bytes, if that is known.
#[must_use]
pub fn shape(method: &Method, asked: &HeaderMap, status: StatusCode, stored: &HeaderMap, len: Option<u64>) -> Shape {
    match conditional::evaluate(asked, status, stored) {
        Conditional::NotModified => return Shape::NotModified,
        Conditional::AskOrigin => return Shape::AskOrigin,
        Conditional::Full => {}
    }
    // RFC 9110 14.2: Range is about GET, and counts last, if without it the answer were a 200.
    if method != Method::GET || status != StatusCode::OK || !asked.contains_key(header::RANGE) {
        return Shape::Full;
    }
    let Some(len) = len else { return Shape::Full };
    match range::select(asked, stored, len) {
        Ranges::Whole => Shape::Full,
        Ranges::Unsatisfiable => Shape::Unsatisfiable,
        Ranges::Spans(spans) => match spans[..] {
            [span] => Shape::Part(span),
            _ => Shape::Parts(spans),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use http::HeaderValue;

    #[test]
    fn conditions_come_before_ranges_and_ranges_before_the_whole() {
        let headers = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
            lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
        };
        let stored = headers(&[("etag", "\"a\"")]);
        let part = Shape::Part(Span { first: 0, last: 1 });
        for (method, lines, status, len, expected) in [
            (Method::GET, &[("range", "bytes=0-1")][..], 200, Some(9), part.clone()),
            (Method::HEAD, &[("range", "bytes=0-1")], 200, Some(9), Shape::Full),
            (Method::GET, &[("range", "bytes=0-1")], 404, Some(9), Shape::Full),
            (Method::GET, &[("range", "bytes=0-1")], 200, None, Shape::Full),
            (Method::GET, &[("range", "bytes=9-")], 200, Some(9), Shape::Unsatisfiable),
            (Method::GET, &[("range", "bytes=0-1"), ("if-none-match", "\"a\"")], 200, Some(9), Shape::NotModified),
            (Method::GET, &[("range", "bytes=0-1"), ("if-match", "\"b\"")], 200, Some(9), Shape::AskOrigin),
            (Method::GET, &[("range", "bytes=0-1"), ("if-range", "\"b\"")], 200, Some(9), Shape::Full),
            (Method::GET, &[("if-match", "\"b\"")], 404, Some(9), Shape::Full),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(shape(&method, &headers(lines), status, &stored, len), expected, "{method} {lines:?}");
        }
    }
}
