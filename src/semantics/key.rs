//! The key under which a response is stored: every part that selects it, each with its length in front, so that no two
//! lists of parts make the same key.

use crate::semantics::accept::AcceptClass;

/// A buffer in which keys are built, used again for each request.
#[derive(Debug, Default)]
pub struct KeyBuf {
    bytes: Vec<u8>,
}

/// The parts of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// `http` or `https`, as visitors see it.
    pub scheme: &'a str,
    /// Host and port, as visitors see them.
    pub authority: &'a str,
    /// The normalised path.
    pub path: &'a str,
    /// The query, where there is one, even if it is empty.
    pub query: Option<&'a str>,
    /// The kind of answer that is wanted.
    pub accept: AcceptClass,
}

impl KeyBuf {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(256) }
    }

    /// Builds the key of a GET.
    pub fn build(&mut self, parts: &Parts<'_>) -> &[u8] {
        self.bytes.clear();
        // No part is so long that its length would begin with this byte.
        if parts.accept == AcceptClass::Json {
            self.bytes.push(JSON);
        }
        self.part(parts.scheme);
        self.part(parts.authority);
        self.part(parts.path);
        if let Some(query) = parts.query {
            self.part(query);
        }
        &self.bytes
    }

    fn part(&mut self, part: &str) {
        // Targets are bounded to 64 KiB long before they get here.
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(part.as_bytes());
    }
}

/// How a key for JSON begins.
const JSON: u8 = 1;

/// Reads a key back.
#[must_use]
pub fn parts(key: &[u8]) -> Option<Parts<'_>> {
    let (accept, key) = match key.split_first() {
        Some((&JSON, rest)) => (AcceptClass::Json, rest),
        _ => (AcceptClass::Any, key),
    };
    let (scheme, rest) = part(key)?;
    let (authority, rest) = part(rest)?;
    let (path, rest) = part(rest)?;
    if rest.is_empty() {
        return Some(Parts { scheme, authority, path, query: None, accept });
    }
    let (query, rest) = part(rest)?;
    rest.is_empty().then_some(Parts { scheme, authority, path, query: Some(query), accept })
}

fn part(key: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = key.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (part, rest) = rest.split_at_checked(len)?;
    Some((std::str::from_utf8(part).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_that_only_look_alike_have_keys_of_their_own() {
        let mut buffer = KeyBuf::new();
        let mut key = |authority, path, query| {
            let accept = AcceptClass::Any;
            buffer.build(&Parts { scheme: "http", authority, path, query, accept }).to_vec()
        };
        assert_ne!(key("a", "b/c", None), key("a/b", "c", None));
        assert_ne!(key("a", "/b", Some("")), key("a", "/b", None), "`/b?` and `/b` are two URLs");
        assert_ne!(key("a", "/b?c", None), key("a", "/b", Some("c")));
    }

    proptest! {
        #[test]
        fn a_key_can_be_read_back(scheme in "https?", authority in ".*", path in ".*", query in proptest::option::of(".*"), json: bool) {
            let mut buffer = KeyBuf::new();
            let accept = if json { AcceptClass::Json } else { AcceptClass::Any };
            let made = Parts { scheme: &scheme, authority: &authority, path: &path, query: query.as_deref(), accept };
            let key = buffer.build(&made).to_vec();
            prop_assert_eq!(parts(&key), Some(made));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(key in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parts(&key);
        }
    }
}
