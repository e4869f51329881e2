//! What kind of answer a request wants. Zope and Plone give JSON instead of a page to who asks for it, and do not always say
//! so in Vary; so the kind is part of the key.

use http::HeaderMap;
use http::header;

/// The kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptClass {
    /// A page, an image, anything.
    #[default]
    Any,
    /// JSON, as programs want it.
    Json,
}

impl AcceptClass {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Any, Self::Json];

    /// Of a request with these headers.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Self {
        if names(request, b"json") { Self::Json } else { Self::Any }
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Json => "json",
        }
    }
}

/// Whether a request asks for a page by name, as browsers do.
#[must_use]
pub fn wants_page(request: &HeaderMap) -> bool {
    names(request, b"text/html")
}

fn names(request: &HeaderMap, word: &[u8]) -> bool {
    let mut lines = request.get_all(header::ACCEPT).iter();
    lines.any(|line| line.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn programs_and_browsers_are_told_apart() {
        for (accept, class, page) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", AcceptClass::Any, true),
            ("image/avif,image/webp,*/*", AcceptClass::Any, false),
            ("*/*", AcceptClass::Any, false),
            ("application/json", AcceptClass::Json, false),
            ("Application/JSON; q=1, TEXT/HTML", AcceptClass::Json, true),
            ("application/ld+json", AcceptClass::Json, false),
            ("js", AcceptClass::Any, false),
            ("", AcceptClass::Any, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!((AcceptClass::of(&headers), wants_page(&headers)), (class, page), "{accept}");
        }
        assert_eq!(AcceptClass::of(&HeaderMap::new()), AcceptClass::Any);
    }
}
