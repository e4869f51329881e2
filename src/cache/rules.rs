//! What answers have said about the queries of their paths (No-Vary-Search), so that requests find what is stored under
//! another spelling of theirs.
//!
//! A rule is learned from what is stored. Forgetting one, or not learning one for want of room, costs a fetch.

use crate::semantics::key;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::no_vary_search::Rule;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// The most paths of which rules are remembered.
const RULES_MAX: usize = 10_000;

/// The rules by path: a key without its query.
#[derive(Debug, Default)]
pub struct Rules {
    /// Whether there is any: mostly there is none, and then nobody looks further.
    any: AtomicBool,
    paths: RwLock<HashMap<Box<[u8]>, Arc<Rule>>>,
}

impl Rules {
    /// Notes what the newest answer for `key` said, or that it said nothing.
    pub fn learn(&self, key: &[u8], rule: Option<Rule>) {
        let Some(path) = base(key) else { return };
        let rule = match rule {
            Some(rule) => rule,
            None if !self.any.load(Ordering::Relaxed) => return,
            None => {
                // A map is whole whoever panicked beside it.
                self.paths.write().unwrap_or_else(PoisonError::into_inner).remove(&*path);
                return;
            }
        };
        let mut paths = self.paths.write().unwrap_or_else(PoisonError::into_inner);
        if paths.len() < RULES_MAX || paths.contains_key(&*path) {
            paths.insert(path.into(), Arc::new(rule));
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Notes what an answer of an earlier run said, unless a newer one has said something.
    pub fn learn_if_new(&self, key: &[u8], rule: Rule) {
        let known = |path: &[u8]| self.paths.read().unwrap_or_else(PoisonError::into_inner).contains_key(path);
        if base(key).is_some_and(|path| !known(&path)) {
            self.learn(key, Some(rule));
        }
    }

    /// The key under which what `key` names is stored, if that is another one.
    #[must_use]
    pub fn canonical(&self, key: &[u8]) -> Option<Vec<u8>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let parts = key::parts(key)?;
        let query = parts.query?;
        let path = base(key)?;
        let rule = self.paths.read().unwrap_or_else(PoisonError::into_inner).get(&*path).cloned()?;
        let canonical = rule.canonical(query);
        if canonical.as_deref() == Some(query) {
            return None;
        }
        Some(KeyBuf::new().build(&Parts { query: canonical.as_deref(), ..parts }).to_vec())
    }
}

fn base(key: &[u8]) -> Option<Vec<u8>> {
    let parts = key::parts(key)?;
    Some(KeyBuf::new().build(&Parts { query: None, ..parts }).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::accept::AcceptClass;
    use crate::semantics::no_vary_search;
    use http::HeaderValue;

    fn key(path: &str, query: Option<&str>) -> Vec<u8> {
        KeyBuf::new().build(&Parts { scheme: "http", authority: "a", path, query, accept: AcceptClass::Any }).to_vec()
    }

    fn rule(line: &'static str) -> Option<Rule> {
        no_vary_search::parse(&[(no_vary_search::FIELD, HeaderValue::from_static(line))].into_iter().collect())
    }

    #[test]
    fn a_rule_holds_for_its_path_until_an_answer_says_otherwise() {
        let rules = Rules::default();
        assert_eq!(rules.canonical(&key("/", Some("x"))), None);
        rules.learn(&key("/", Some("utm=1")), rule("params=(\"utm\")"));
        assert_eq!(rules.canonical(&key("/", Some("utm=2"))), Some(key("/", None)));
        assert_eq!(rules.canonical(&key("/", Some("utm=2&a"))), Some(key("/", Some("a"))));
        assert_eq!(rules.canonical(&key("/", Some("a"))), None, "it is that already");
        assert_eq!(rules.canonical(&key("/", None)), None);
        assert_eq!(rules.canonical(&key("/b", Some("utm=2"))), None);
        rules.learn(&key("/", None), None);
        assert_eq!(rules.canonical(&key("/", Some("utm=2"))), None);
    }

    #[test]
    fn there_is_a_bound() {
        let rules = Rules::default();
        for number in 0..RULES_MAX + 10 {
            rules.learn(&key(&format!("/{number}"), None), rule("params"));
        }
        assert_eq!(rules.paths.read().unwrap().len(), RULES_MAX);
    }
}
