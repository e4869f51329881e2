//! What an origin tells us and visitors need not know, or must not act upon.
//!
//! It is taken out of the head that visitors get and kept aside, for a later 304 is judged with it.

use crate::semantics::cache_control;
use crate::semantics::names::Names;
use crate::semantics::pack::Packed;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

/// Fields that are addressed to us: CDN-Cache-Control is not among them, for there may be a CDN in front of us.
/// Plone's word about which of its rules made the others is for operators (`tidegate explain`, metrics).
static OURS: Names<&'static str> =
    Names::new(&["tidegate-cache-control", "surrogate-control", "x-cache-rule", "x-cache-operation", "x-ramcache"]);

/// Takes out of `head` what visitors do not get, and gives it. With `hide_shared`, s-maxage goes no further: a shared cache
/// in front of us hears of no purge.
pub fn conceal(head: &mut HeaderMap, hide_shared: bool) -> Packed {
    let mut hidden = Vec::new();
    let ours: Vec<HeaderName> = head.keys().filter(|name| OURS.contains(name.as_str())).cloned().collect();
    for name in ours {
        take(head, &mut hidden, &name);
    }
    if hide_shared
        && let Some(line) = cache_control::without_shared(head)
        && let Ok(line) = HeaderValue::from_bytes(&line)
    {
        take(head, &mut hidden, &header::CACHE_CONTROL);
        head.insert(header::CACHE_CONTROL, line);
    }
    if hidden.is_empty() { Packed::default() } else { Packed::of(hidden.iter().map(|(name, value)| (name, value))) }
}

fn take(head: &mut HeaderMap, hidden: &mut Vec<(HeaderName, HeaderValue)>, name: &HeaderName) {
    hidden.extend(head.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    head.remove(name);
}

/// The head as the origin sent it.
#[must_use]
pub fn reveal(head: &Packed, hidden: &Packed) -> HeaderMap {
    let mut whole = head.open(0);
    for (name, _) in hidden.lines() {
        whole.remove(name);
    }
    for (name, value) in hidden.lines() {
        whole.append(name, value);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use crate::semantics::policy;

    #[test]
    fn what_is_addressed_to_us_goes_no_further() {
        assert!(OURS.contains(policy::OWN.as_str()) && OURS.contains(policy::SURROGATE.as_str()));
        assert!(!OURS.contains(policy::CDN.as_str()));
    }

    #[test]
    fn what_is_hidden_is_not_lost() {
        let said = headers(&[
            ("cache-control", "max-age=0"),
            ("cache-control", "s-maxage=60"),
            ("surrogate-control", "max-age=5"),
            ("tidegate-cache-control", "max-age=6"),
            ("x-ramcache", "plone.app.caching.operations.ramcache"),
            ("cdn-cache-control", "max-age=7"),
        ]);
        let mut head = said.clone();
        let hidden = conceal(&mut head, true);
        assert_eq!(head, headers(&[("cache-control", "max-age=0, s-maxage=0"), ("cdn-cache-control", "max-age=7")]));
        assert_eq!(reveal(&Packed::of(&head), &hidden), said);
        let mut head = said.clone();
        conceal(&mut head, false);
        assert_eq!(head.get_all("cache-control").iter().count(), 2);
        let mut plain = headers(&[("cache-control", "max-age=60")]);
        assert!(conceal(&mut plain, true).is_empty());
    }
}
