//! The operator's rules for some requests of a site.

use crate::admission::acl::Networks;
use crate::config::settings;
use crate::config::values::QueueClass;
use crate::semantics::pattern::Pattern;
use crate::upstream::Class;
use crate::zope::conduct::Order;
use crate::zope::session::Identity;
use http::Method;
use std::net::IpAddr;

/// One rule.
pub struct Rule {
    /// How it is named in explanations: `rule 1 (/intranet/**)`.
    pub name: String,
    /// Whether such requests are answered from the cache.
    pub cache: bool,
    /// How long answers are reused.
    pub order: Option<Order>,
    /// When such requests leave the queue.
    pub class: Option<Class>,
    paths: Vec<Pattern>,
    methods: Vec<String>,
    anonymous: Option<bool>,
    allow: Option<Networks>,
}

impl Rule {
    /// The `at`th rule of a site, counted from 0.
    pub(super) fn new(at: usize, rule: &settings::Rule) -> Self {
        let paths: Vec<&str> = rule.path.iter().map(Pattern::as_str).collect();
        let paths = if paths.is_empty() { "all paths".to_owned() } else { paths.join(", ") };
        Self {
            name: format!("rule {} ({paths})", at + 1),
            cache: rule.cache,
            order: rule.ttl.map(|ttl| Order { ttl, stale: rule.stale }),
            class: rule.class.map(|class| match class {
                QueueClass::Editor => Class::Editor,
                QueueClass::Anonymous => Class::Anonymous,
                QueueClass::Background => Class::Background,
            }),
            paths: rule.path.clone(),
            methods: rule.method.iter().map(|method| method.to_ascii_uppercase()).collect(),
            anonymous: rule.anonymous,
            allow: (!rule.allow.is_empty()).then(|| rule.allow.iter().copied().collect()),
        }
    }

    /// Whether it is about such a request.
    #[must_use]
    pub fn matches(&self, method: &Method, path: &str, identity: Identity) -> bool {
        let nobody = identity == Identity::Anonymous;
        self.anonymous.is_none_or(|anonymous| anonymous == nobody)
            && (self.methods.is_empty() || self.methods.iter().any(|wanted| wanted == method.as_str()))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)))
    }

    /// Whether a client at this address may send such a request.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_matches_by_all_that_it_names() {
        let settings = settings::Rule {
            path: vec![Pattern::glob("/a/**").unwrap(), Pattern::glob("**/@@search").unwrap()],
            method: vec!["get".to_owned()],
            anonymous: Some(true),
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..settings::Rule::default()
        };
        let rule = Rule::new(0, &settings);
        assert_eq!(rule.name, "rule 1 (/a/**, **/@@search)");
        for (method, path, identity, expected) in [
            (Method::GET, "/a/b", Identity::Anonymous, true),
            (Method::GET, "/x/@@search", Identity::Anonymous, true),
            (Method::POST, "/a/b", Identity::Anonymous, false),
            (Method::GET, "/b", Identity::Anonymous, false),
            (Method::GET, "/a/b", Identity::Cookie, false),
        ] {
            assert_eq!(rule.matches(&method, path, identity), expected, "{method} {path}");
        }
        assert!(rule.admits("10.1.1.1".parse().unwrap()) && !rule.admits("192.0.2.1".parse().unwrap()));
        assert!(Rule::new(0, &settings::Rule::default()).matches(&Method::PUT, "/", Identity::Authorization));
    }
}
