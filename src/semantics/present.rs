//! Which of the fields that we ask about a request has, by what they are about: one look at its names, in place of a search for
//! each of them, for most requests have hardly any.

use http::HeaderMap;
use http::HeaderName;
use http::header;

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
        let bits = headers.keys().filter_map(|name| Some(FIELDS.iter().find(|(field, _)| field == name)?.1.0));
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// Whether there is any of this kind.
    #[must_use]
    pub fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;

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
