//! Sets of names of fields. Most names that are not in a set are told by their length alone.

use http::HeaderName;
use std::borrow::Cow;

/// A set of names, in lower case.
#[derive(Clone, Debug)]
pub struct Names<N: Clone + 'static> {
    list: Cow<'static, [N]>,
    /// A bit for each length that there is.
    lengths: u64,
}

/// Longer names than can be told apart share the last bit.
const fn bit(len: usize) -> u64 {
    1 << if len < 63 { len } else { 63 }
}

impl Names<&'static str> {
    /// The set of these names.
    #[must_use]
    pub const fn new(list: &'static [&'static str]) -> Self {
        let (mut lengths, mut at) = (0, 0);
        while at < list.len() {
            lengths |= bit(list[at].len());
            at += 1;
        }
        Self { list: Cow::Borrowed(list), lengths }
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.lengths & bit(name.len()) != 0 && self.list.contains(&name)
    }
}

impl From<Vec<HeaderName>> for Names<HeaderName> {
    fn from(list: Vec<HeaderName>) -> Self {
        let lengths = list.iter().fold(0, |all, name| all | bit(name.as_str().len()));
        Self { list: Cow::Owned(list), lengths }
    }
}

impl Names<HeaderName> {
    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, name: &HeaderName) -> bool {
        self.lengths & bit(name.as_str().len()) != 0 && self.list.contains(name)
    }
}

impl<N: Clone> Names<N> {
    /// The names, in their order.
    #[must_use]
    pub fn list(&self) -> &[N] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_length_of_a_name_is_not_yet_one() {
        static FIXED: Names<&'static str> = Names::new(&["age", "via", "x-forwarded-for"]);
        let long = "x".repeat(70);
        let owned = Names::from(vec![HeaderName::from_bytes(long.as_bytes()).unwrap()]);
        for (name, fixed) in [("age", true), ("via", true), ("ttl", false), ("x-forwarded-for", true), ("", false)] {
            assert_eq!(FIXED.contains(name), fixed, "{name}");
        }
        let named = |text: &str| HeaderName::from_bytes(text.as_bytes()).unwrap();
        assert!(!owned.has(&named("age")) && !owned.has(&named(&"y".repeat(70))) && owned.has(&named(&long)));
        assert!(!FIXED.contains(&long));
    }
}
