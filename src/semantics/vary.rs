//! Which requests a stored response answers (RFC 9110 12.5.5, RFC 9111 4.1).

use http::HeaderMap;
use http::HeaderName;
use http::header;
use std::fmt;

/// More nominated fields than this count as `Vary: *`.
const FIELDS_MAX: usize = 16;

/// What the Vary field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    /// The request fields that selected the response, sorted; often none.
    Fields(Vec<HeaderName>),
    /// `*`, or something unreadable: it answers no other request.
    Star,
}

/// The requests that a stored response answers: those whose nominated fields have the same values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    fields: Box<[(HeaderName, Box<[u8]>)]>,
}

/// Reads all Vary lines of a response.
#[must_use]
pub fn parse(response: &HeaderMap) -> Vary {
    let mut fields = Vec::new();
    for line in response.get_all(header::VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
        {
            match HeaderName::from_bytes(name) {
                Ok(name) if name.as_str() != "*" => fields.push(name),
                _ => return Vary::Star,
            }
        }
    }
    fields.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    fields.dedup();
    if fields.len() > FIELDS_MAX { Vary::Star } else { Vary::Fields(fields) }
}

impl Selection {
    /// The selection by `fields` of a request with these headers.
    #[must_use]
    pub fn of(fields: &[HeaderName], request: &HeaderMap) -> Self {
        Self { fields: fields.iter().map(|name| (name.clone(), normalised(name, request).into())).collect() }
    }

    /// Whether a request with these headers is answered.
    #[must_use]
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|(name, value)| *normalised(name, request) == **value)
    }

    /// The selection by the same fields of another request.
    #[must_use]
    pub fn for_request(&self, request: &HeaderMap) -> Self {
        let select = |name: &HeaderName| (name.clone(), normalised(name, request).into());
        Self { fields: self.fields.iter().map(|(name, _)| select(name)).collect() }
    }

    /// The selection by the same fields of another request, in bytes: equal for requests that one response answers.
    #[must_use]
    pub fn variant(&self, request: &HeaderMap) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, _) in &self.fields {
            let value = normalised(name, request);
            for part in [name.as_str().as_bytes(), &value] {
                // Heads are bounded far below 4 GiB.
                bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
        bytes
    }

    /// Whether a request with these headers would be answered but for this one field.
    #[must_use]
    pub fn matches_but_for(&self, field: &HeaderName, request: &HeaderMap) -> bool {
        let (by_it, others): (Vec<_>, Vec<_>) = self.fields.iter().partition(|(name, _)| name == field);
        !by_it.is_empty() && others.iter().all(|(name, value)| *normalised(name, request) == **value)
    }

    /// The nominated fields, each with its values in one spelling.
    #[must_use]
    pub fn fields(&self) -> &[(HeaderName, Box<[u8]>)] {
        &self.fields
    }

    /// A selection of which the fields are known, as [`Selection::fields`] gave them.
    #[must_use]
    pub fn restored(fields: Vec<(HeaderName, Box<[u8]>)>) -> Self {
        Self { fields: fields.into() }
    }

    /// Whether every request is answered.
    #[must_use]
    pub fn is_universal(&self) -> bool {
        self.fields.is_empty()
    }

    /// The bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 56).sum()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let ahead = if at > 0 { "; " } else { "" };
            match &**value {
                [0] => write!(f, "{ahead}{name} absent")?,
                value => write!(f, "{ahead}{name}: {}", String::from_utf8_lossy(value))?,
            }
        }
        Ok(())
    }
}

/// The values of a field in one spelling: lines joined, white space around commas dropped (RFC 9111 4.1 allows both). An
/// absent field differs from an empty one by a byte that no value has.
fn normalised(name: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    if !request.contains_key(name) {
        return vec![0];
    }
    if name == header::ACCEPT_ENCODING {
        return encodings(request);
    }
    // RFC 9110 12.5.4: language ranges are matched in any case.
    let lower = name == header::ACCEPT_LANGUAGE;
    let mut joined = Vec::new();
    for line in request.get_all(name) {
        for item in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if !joined.is_empty() {
                joined.push(b',');
            }
            if lower {
                joined.extend(item.iter().filter(|byte| !matches!(byte, b' ' | b'\t')).map(u8::to_ascii_lowercase));
            } else {
                joined.extend_from_slice(item);
            }
        }
    }
    joined
}

/// Accept-Encoding as the codings that an origin may choose from, so that browsers' spellings share what is stored.
fn encodings(request: &HeaderMap) -> Vec<u8> {
    let mut known = [false; 4];
    for line in request.get_all(header::ACCEPT_ENCODING) {
        for item in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or(&[]);
            let refused = parts.any(|part| matches!(part, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"));
            let at = [&b"br"[..], b"gzip", b"zstd", b"*"].iter().position(|known| known.eq_ignore_ascii_case(coding));
            if let Some(at) = at {
                known[at] = !refused;
            }
        }
    }
    [&b"br,"[..], b"gzip,", b"zstd,", b"*,"]
        .iter()
        .zip(known)
        .filter(|(_, on)| *on)
        .flat_map(|(name, _)| *name)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn every_line_counts_and_a_star_anywhere_answers_nobody_else() {
        let names = |lines: &[(&'static str, &str)]| match parse(&headers(lines)) {
            Vary::Fields(fields) => fields.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(" "),
            Vary::Star => "*".to_owned(),
        };
        assert_eq!(names(&[]), "");
        assert_eq!(
            names(&[("vary", "Accept-Encoding"), ("vary", "accept , ACCEPT-encoding")]),
            "accept accept-encoding"
        );
        assert_eq!(names(&[("vary", "a"), ("vary", "b, *")]), "*");
        assert_eq!(names(&[("vary", "a b")]), "*", "unreadable is the same as unknown");
    }

    #[test]
    fn requests_that_differ_only_in_spelling_share() {
        let name = HeaderName::from_static;
        for (field, one, other, same) in [
            ("accept-language", "de, en", "de,en", true),
            ("accept-language", "de", "en", false),
            ("accept-language", "DE , en; Q=0.5", "de,en;q=0.5", true),
            // Deviation from RFC 9110 12.5.4, which gives no meaning to the order: Plone does.
            ("accept-language", "de, en", "en, de", false),
            ("accept-encoding", "gzip, deflate, br", "br,gzip", true),
            ("accept-encoding", "gzip;q=0, br", "br", true),
            ("accept-encoding", "identity", "", true),
        ] {
            let selection = Selection::of(&[name(field)], &headers(&[(field, one)]));
            assert_eq!(selection.matches(&headers(&[(field, other)])), same, "{field}: {one} / {other}");
        }
        let absent = Selection::of(&[name("accept")], &headers(&[]));
        assert!(!absent.matches(&headers(&[("accept", "")])), "absent and empty may mean different things");
    }

    proptest! {
        #[test]
        fn a_response_always_answers_its_own_request(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [header::ACCEPT_ENCODING, header::ACCEPT] {
                    let mut request = HeaderMap::new();
                    request.append(name.clone(), value.clone());
                    prop_assert!(Selection::of(&[name], &request).matches(&request));
                }
            }
        }
    }
}
