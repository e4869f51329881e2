//! No-Vary-Search: which parameters of a query do not change an answer, as the answer itself says it (a draft of the HTTP
//! working group). URLs that differ only in those are one.

use crate::semantics::structured;
use crate::semantics::structured::Item;
use crate::semantics::structured::Member;
use http::HeaderMap;
use http::HeaderName;

/// The field.
pub const FIELD: HeaderName = HeaderName::from_static("no-vary-search");

/// What a path's answers say of its queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The order of the parameters' names does not matter.
    any_order: bool,
    ignored: Ignored,
}

/// Parameters that do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ignored {
    /// These.
    Only(Vec<String>),
    /// All but these.
    AllBut(Vec<String>),
}

/// Reads it. A field that cannot be read, or says what goes without saying, is none.
#[must_use]
pub fn parse(response: &HeaderMap) -> Option<Rule> {
    if !response.contains_key(FIELD) {
        return None;
    }
    let members = structured::dictionary(response, &FIELD)?;
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, member)| member);
    let any_order = match member("key-order") {
        None => false,
        Some(Member::Item(Item::Boolean(any))) => *any,
        Some(_) => return None,
    };
    let ignored = match (member("params"), member("except")) {
        (Some(Member::Item(Item::Boolean(true))), None) => Ignored::AllBut(Vec::new()),
        (Some(Member::Item(Item::Boolean(true))), Some(Member::Inner(names))) => Ignored::AllBut(strings(names)?),
        (Some(Member::Inner(names)), None) => Ignored::Only(strings(names)?),
        (None | Some(Member::Item(Item::Boolean(false))), None) => Ignored::Only(Vec::new()),
        _ => return None,
    };
    let rule = Rule { any_order, ignored };
    (rule != Rule { any_order: false, ignored: Ignored::Only(Vec::new()) }).then_some(rule)
}

fn strings(items: &[Item]) -> Option<Vec<String>> {
    let string = |item: &Item| match item {
        Item::String(text) => Some(text.clone()),
        _ => None,
    };
    items.iter().map(string).collect()
}

impl Rule {
    /// What is left of a query that matters; `None` if that is nothing. Values are compared as they are written: what
    /// differs in spelling only is fetched twice, which harms nobody.
    #[must_use]
    pub fn canonical(&self, query: &str) -> Option<String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let named = pairs.map(|pair| (decoded(pair.split('=').next().unwrap_or(pair)), pair));
        let mut left: Vec<(Vec<u8>, &str)> = named.filter(|(name, _)| self.matters(name)).collect();
        if self.any_order {
            // Stable: of equal names the order does matter.
            left.sort_by(|one, other| one.0.cmp(&other.0));
        }
        let pairs: Vec<&str> = left.into_iter().map(|(_, pair)| pair).collect();
        (!pairs.is_empty()).then(|| pairs.join("&"))
    }

    fn matters(&self, name: &[u8]) -> bool {
        let among = |names: &[String]| names.iter().any(|known| known.as_bytes() == name);
        match &self.ignored {
            Ignored::Only(names) => !among(names),
            Ignored::AllBut(names) => among(names),
        }
    }
}

/// A name as forms are decoded: `+` is a space, `%` escapes are bytes, what is no escape stands for itself.
fn decoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = &after[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn rule(line: &str) -> Option<Rule> {
        parse(&[(FIELD, HeaderValue::from_str(line).unwrap())].into_iter().collect())
    }

    #[test]
    fn queries_are_told_apart_by_what_matters() {
        for (line, query, expected) in [
            ("params", "a=1&b=2", Some(None)),
            ("params, except=(\"id\")", "utm=x&id=7&y", Some(Some("id=7"))),
            ("params=(\"utm source\" \"x\")", "id=7&utm+source=a&utm%20source=b&x", Some(Some("id=7"))),
            ("key-order", "b=1&a=2&a=1", Some(Some("a=2&a=1&b=1"))),
            ("key-order, params=(\"b\")", "c=1&&b=1&a=2", Some(Some("a=2&c=1"))),
            ("params=(\"b\")", "c=1&a=2", Some(Some("c=1&a=2"))),
            ("params=?0", "a", None),
            ("key-order=?0", "a", None),
            ("params=1", "a", None),
            ("params=(a)", "a", None),
            ("except=(\"a\")", "a", None),
            ("params=(\"a\"), except=(\"b\")", "a", None),
            ("params, except=\"a\"", "a", None),
            ("&&", "a", None),
        ] {
            let found = rule(line).map(|rule| rule.canonical(query));
            assert_eq!(found.as_ref().map(Option::as_deref), expected, "{line} of {query}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_query_is_its_own(query in "[a-c=&%2+]{0,30}", line in 0..4_usize) {
            let lines = ["key-order", "params=(\"a\" \"b b\")", "params, except=(\"a\")", "key-order, params=(\"c\")"];
            let rule = rule(lines[line]).unwrap();
            if let Some(canonical) = rule.canonical(&query) {
                prop_assert_eq!(rule.canonical(&canonical), Some(canonical));
            }
        }
    }
}
