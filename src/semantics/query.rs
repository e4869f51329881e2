//! Queries in one spelling, so that what means the same is stored once: variables that only trackers read are dropped, the
//! others sorted by name.
//!
//! What is dropped is not sent to the origin with a fetch for the cache either: nothing that is not in the key may change an
//! answer that others get.

use std::borrow::Cow;

/// How queries are respelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Respelling {
    /// Sort by name.
    pub sort: bool,
    /// Names to drop; a `*` at the end stands for any ending.
    pub drop: Vec<String>,
}

impl Respelling {
    /// The one spelling; `None` when nothing is left of it.
    #[must_use]
    pub fn apply<'q>(&self, query: &'q str) -> Option<Cow<'q, str>> {
        let drops = |pair: &str| !pair.is_empty() && self.drop.iter().any(|name| is_named(pair, name));
        let keeps = |pair: &&str| !drops(pair);
        let all_kept = self.drop.is_empty() || query.split('&').all(|pair| keeps(&pair));
        let sorted = !self.sort || query.split('&').map(name).is_sorted();
        if all_kept && sorted {
            return Some(Cow::Borrowed(query));
        }
        let mut pairs: Vec<&str> = query.split('&').filter(keeps).collect();
        if pairs.is_empty() {
            return None;
        }
        if self.sort && !pairs.iter().any(|pair| makes_records(pair)) {
            // By name, and equal names stay in their order, for they make a list in Zope.
            pairs.sort_by_key(|pair| name(pair));
        }
        Some(Cow::Owned(pairs.join("&")))
    }
}

/// Names with a colon (also encoded) tell Zope how to read them: `a.x:records` makes a list of records, whose order is that of
/// different names. A query with such a one is not sorted.
fn makes_records(pair: &str) -> bool {
    pair.contains(':') || pair.contains("%3a") || pair.contains("%3A")
}

fn name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

fn is_named(pair: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name(pair).starts_with(beginning),
        None => name(pair) == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usual() -> Respelling {
        Respelling { sort: true, drop: vec!["utm_*".to_owned(), "fbclid".to_owned()] }
    }

    #[test]
    fn what_means_the_same_is_spelled_the_same() {
        for (query, expected) in [
            ("b=1&a=2", Some("a=2&b=1")),
            ("a=2&b=1", Some("a=2&b=1")),
            ("a=2&a=1", Some("a=2&a=1")),
            ("b=1&a=2&utm_source=x", Some("a=2&b=1")),
            ("utm_source=x&fbclid=y", None),
            ("fbclid", None),
            ("fbclids=1", Some("fbclids=1")),
            ("", Some("")),
            ("b&a", Some("a&b")),
            ("b.x:records=1&a.y:records=2", Some("b.x:records=1&a.y:records=2")),
            ("b.x%3Arecords=1&a=2&utm_x=1", Some("b.x%3Arecords=1&a=2")),
        ] {
            assert_eq!(usual().apply(query).as_deref(), expected, "{query}");
        }
        assert_eq!(Respelling::default().apply("b=1&a=2&fbclid=3").as_deref(), Some("b=1&a=2&fbclid=3"));
    }

    proptest! {
        #[test]
        fn respelling_twice_changes_nothing_and_loses_no_variable(query in "(a|b|utm_x|c:list|%3A|=|&|1){0,30}") {
            let Some(once) = usual().apply(&query) else { return Ok(()) };
            prop_assert_eq!(usual().apply(&once), Some(once.clone()));
            let kept = |query: &str| {
                let mut pairs: Vec<String> =
                    query.split('&').filter(|pair| !is_named(pair, "utm_*") && *pair != "fbclid").map(str::to_owned).collect();
                pairs.sort();
                pairs
            };
            prop_assert_eq!(kept(&query), kept(&once));
        }
    }
}
