//! Forgetting what an unsafe request has made obsolete.

use crate::clock;
use crate::edge::errand::Errand;
use crate::edge::purge;
use crate::semantics::obsolete;
use crate::semantics::tags;
use crate::semantics::tags::Mode;
use crate::semantics::target;
use crate::zope::purge::moved;
use http::HeaderMap;
use http::Method;

/// RFC 9111 4.4: after an unsafe request that did not fail, what was stored for its target is obsolete, and what its answer
/// names on the same origin. Where objects were moved, renamed or deleted, so is what lies below: Plone purges only their
/// new places.
pub fn after(errand: &Errand, method: &Method, answer: &HeaderMap) {
    let (cache, site, now) = (&errand.edge.cache, &errand.site, clock::mono());
    purge::object(cache, site, &errand.path, None, Mode::Hard, now);
    for uri in obsolete::named(answer, errand.scheme, &errand.place, &errand.path) {
        if let Ok(target) = target::parse(&uri, usize::MAX) {
            purge::object(cache, site, &target.path, target.query.as_deref(), Mode::Hard, now);
        }
    }
    if let Some(folder) = moved(method, &errand.path) {
        // A pattern is needed only for what lies too deep for a tag; if too many wait, the object itself is forgotten.
        let _ = purge::subtree(cache, site, folder, Mode::Hard, now);
    }
    let mut groups = tags::invalidated(answer, (errand.scheme, &errand.place));
    if !groups.is_empty() {
        // Answers with more tags than are kept have every tag.
        groups.push(tags::Tag::ANY);
        cache.ledger().purge_tags(&groups, Mode::Hard, now);
    }
    purge::settle(cache);
}
