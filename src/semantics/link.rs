//! Link fields (RFC 8288), as far as a cache needs them: under which URL of its own site an answer says that it belongs.

use crate::semantics::obsolete;
use http::HeaderMap;
use http::Uri;
use http::header;

/// The URL that an answer to a request for `path` names as its canonical one (RFC 6596), if it lies on the same origin:
/// `scheme`, and `place`, an authority without a port that goes without saying.
#[must_use]
pub fn canonical(answer: &HeaderMap, scheme: &str, place: &str, path: &str) -> Option<Uri> {
    let lines = answer.get_all(header::LINK).iter().filter_map(|line| line.to_str().ok());
    let link = lines.flat_map(Links).find(Link::is_canonical)?;
    obsolete::resolve(link.target, scheme, place, path)
}

/// The links of one line.
struct Links<'l>(&'l str);

struct Link<'l> {
    target: &'l str,
    /// What follows the target, up to the next link.
    parameters: &'l str,
}

impl<'l> Iterator for Links<'l> {
    type Item = Link<'l>;

    fn next(&mut self) -> Option<Link<'l>> {
        let (_, rest) = self.0.split_once('<')?;
        let (target, rest) = rest.split_once('>')?;
        let (parameters, rest) = split_at_bare(rest, b',');
        self.0 = rest;
        Some(Link { target: target.trim(), parameters })
    }
}

impl Link<'_> {
    fn is_canonical(&self) -> bool {
        let mut canonical = false;
        let (_, mut rest) = split_at_bare(self.parameters, b';');
        while let Some(more) = rest.strip_prefix(';') {
            let (parameter, after) = split_at_bare(more, b';');
            rest = after;
            let Some((name, value)) = parameter.split_once('=') else { continue };
            if name.trim().eq_ignore_ascii_case("anchor") {
                // RFC 8288 3.2: it is about something else.
                return false;
            }
            // RFC 8288 3.3: of several `rel`, the first counts; it may name several types.
            if name.trim().eq_ignore_ascii_case("rel") && !canonical {
                let types = value.trim().trim_matches('"');
                canonical = types.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("canonical"));
            }
        }
        canonical
    }
}

/// What comes before the first `separator` outside of quotes, and the rest with it.
fn split_at_bare(text: &str, separator: u8) -> (&str, &str) {
    let mut quoted = false;
    let end = text.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == separator && !quoted
    });
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn an_answer_belongs_to_the_url_that_it_names_on_its_own_origin() {
        for (line, expected) in [
            ("<http://www.example.org/a/@@download/file/a.pdf>; rel=\"canonical\"", Some("/a/@@download/file/a.pdf")),
            ("</a>; rel=canonical", Some("/a")),
            ("</s.css>; rel=preload; as=style, </a>;rel=\"alternate CANONICAL\"", Some("/a")),
            ("</x>; title=\"a, <b>; rel=canonical\", </a>; rel=canonical", Some("/a")),
            ("<http://www.example.org:80/a>; rel=canonical", Some("/a")),
            ("<https://www.example.org/a>; rel=canonical", None),
            ("<http://other.example/a>; rel=canonical", None),
            ("</a>; rel=next", None),
            ("</a>; rel=canonical; anchor=\"#part\"", None),
            ("</a", None),
            ("", None),
        ] {
            let answer: HeaderMap = [(header::LINK, HeaderValue::from_static(line))].into_iter().collect();
            let found = canonical(&answer, "http", "www.example.org", "/docs/a").map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in ".*|(<[^>]{0,5}>?[;,\"]?(rel=canonical)?){0,5}") {
            if let Ok(value) = HeaderValue::from_str(&line) {
                let answer: HeaderMap = [(header::LINK, value)].into_iter().collect();
                let _ = canonical(&answer, "http", "www.example.org", "/a");
            }
        }
    }
}
