//! What HTTP and its caches mean (RFC 9110, 9111, 9112, 5861, 9211, 9213), as functions of their inputs.
//!
//! No IO, clock, lock or log. What comes from outside never panics here: it is understood, or refused with a reason.

pub mod accept;
pub mod cache_control;
pub mod cache_status;
pub mod chunks;
pub mod coding;
pub mod conditional;
pub mod cookie;
pub mod date;
pub mod delivery;
pub mod downstream;
pub mod framing;
pub mod freshness;
pub mod hop;
pub mod host;
pub mod key;
pub mod link;
pub mod names;
pub mod no_vary_search;
pub mod obsolete;
pub mod pace;
pub mod pack;
pub mod pattern;
pub mod policy;
pub mod present;
pub mod proxy_header;
pub mod query;
pub mod range;
pub mod reuse;
pub mod storable;
pub mod structured;
pub mod tags;
pub mod target;
pub mod validator;
pub mod vary;
pub mod wire;

/// Header fields, for tests.
#[cfg(test)]
pub(crate) fn headers(lines: &[(&'static str, &str)]) -> http::HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).expect("a field's value"))
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.iter().map(field) {
        headers.append(name, value);
    }
    headers
}
