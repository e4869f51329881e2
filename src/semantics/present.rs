//! Which of the fields that we ask about a request has, by what they are about: one look at its names, in place of a search for
//! each of them, for most requests have hardly any.

use http::HeaderMap;
use http::HeaderName;

/// The kinds of fields that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    /// How the request is framed, and what it expects of the next hop.
    pub const FRAMING: Self = Self(1);
    /// Fields of this hop.
    pub const CONNECTION: Self = Self(1 << 1);
    /// The wish for another protocol.
    pub const UPGRADE: Self = Self(1 << 2);
    /// Who asks.
    pub const IDENTITY: Self = Self(1 << 3);
    /// What kind of answer is wanted.
    pub const ACCEPT: Self = Self(1 << 4);
    /// In which coding.
    pub const CODING: Self = Self(1 << 5);
    /// Directives for caches.
    pub const DIRECTIVES: Self = Self(1 << 6);
    /// Conditions.
    pub const CONDITION: Self = Self(1 << 7);
    /// A part is wanted.
    pub const RANGE: Self = Self(1 << 8);

    /// Those of these fields.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), |all, name| Self(all.0 | Self::kind(name).0))
    }

    /// The kind of a field, if it is of any: told by its length first, for it is asked of every field of every request.
    fn kind(name: &HeaderName) -> Self {
        let name = name.as_str();
        match name.len() {
            5 if name == "range" => Self::RANGE,
            6 if name == "accept" => Self::ACCEPT,
            6 if name == "cookie" => Self::IDENTITY,
            6 if name == "expect" => Self::FRAMING,
            6 if name == "pragma" => Self::DIRECTIVES,
            7 if name == "upgrade" => Self::UPGRADE,
            8 if name == "if-match" => Self::CONDITION,
            10 if name == "connection" => Self::CONNECTION,
            13 if name == "authorization" => Self::IDENTITY,
            13 if name == "cache-control" => Self::DIRECTIVES,
            13 if name == "if-none-match" => Self::CONDITION,
            14 if name == "content-length" => Self::FRAMING,
            15 if name == "accept-encoding" => Self::CODING,
            17 if name == "transfer-encoding" => Self::FRAMING,
            17 if name == "if-modified-since" => Self::CONDITION,
            19 if name == "if-unmodified-since" => Self::CONDITION,
            _ => Self::default(),
        }
    }

    /// Whether there is any of this kind.
    #[must_use]
    pub fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use http::header;

    const FIELDS: [(HeaderName, Present); 16] = [
        (header::ACCEPT, Present::ACCEPT),
        (header::ACCEPT_ENCODING, Present::CODING),
        (header::COOKIE, Present::IDENTITY),
        (header::AUTHORIZATION, Present::IDENTITY),
        (header::CONNECTION, Present::CONNECTION),
        (header::UPGRADE, Present::UPGRADE),
        (header::TRANSFER_ENCODING, Present::FRAMING),
        (header::CONTENT_LENGTH, Present::FRAMING),
        (header::EXPECT, Present::FRAMING),
        (header::CACHE_CONTROL, Present::DIRECTIVES),
        (header::PRAGMA, Present::DIRECTIVES),
        (header::IF_NONE_MATCH, Present::CONDITION),
        (header::IF_MODIFIED_SINCE, Present::CONDITION),
        (header::IF_MATCH, Present::CONDITION),
        (header::IF_UNMODIFIED_SINCE, Present::CONDITION),
        (header::RANGE, Present::RANGE),
    ];

    #[test]
    fn each_field_is_found_whatever_stands_beside_it() {
        assert_eq!(Present::of(&headers(&[("host", "a"), ("x-cookie", "b"), ("user-agent", "c")])), Present::default());
        for (field, kind) in &FIELDS {
            let mut request = headers(&[("host", "a"), ("user-agent", "b")]);
            request.insert(field, http::HeaderValue::from_static("x"));
            assert_eq!(Present::of(&request), *kind, "{field}");
        }
        let several = Present::of(&headers(&[("range", "x"), ("accept", "y")]));
        assert!(several.has(Present::RANGE) && several.has(Present::ACCEPT) && !several.has(Present::IDENTITY));
    }
}
