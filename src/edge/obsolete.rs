//! Forgetting what an unsafe request has made obsolete.

use crate::clock;
use crate::edge::errand::Errand;
use crate::edge::purge;
use crate::semantics::obsolete;
use crate::semantics::tags;
use crate::semantics::tags::Mode;
use crate::semantics::target;
use crate::zope::purge::moved;
use crate::zope::session;
use http::HeaderMap;
use http::Method;
use http::StatusCode;

/// RFC 9111 4.4: after an unsafe request that did not fail, what was stored for its target is obsolete, and what its answer
/// names on the same origin. Where objects were moved, renamed or deleted, so is what lies below: Plone purges only their
/// new places.
///
/// Anybody can send a POST. What one without an identity makes obsolete is asked about before it is served again, and not
/// thrown away, so that it costs an origin no more than a question; and it makes nothing obsolete but what it names.
pub fn after(errand: &Errand, method: &Method, status: StatusCode, answer: &HeaderMap) {
    if !obsolete::is_cause(method, status)
        || status.is_redirection() && session::is_sent_to_login(errand.site.preset, answer)
    {
        return;
    }
    let (cache, site, now) = (&errand.edge.cache, &errand.site, clock::mono());
    let mode = if errand.anonymous { Mode::Soft } else { Mode::Hard };
    purge::object(cache, site, &errand.path, None, mode, now);
    for uri in obsolete::named(answer, errand.scheme, errand.place(), &errand.path) {
        if let Ok(target) = target::parse(&uri, usize::MAX) {
            purge::object(cache, site, &target.path, target.query.as_deref(), mode, now);
        }
    }
    if let Some(folder) = moved(method, &errand.path).filter(|_| !errand.anonymous) {
        // A pattern is needed only for what lies too deep for a tag; if too many wait, the object itself is forgotten.
        let _ = purge::subtree(cache, site, folder, Mode::Hard, now);
    }
    let mut groups = tags::invalidated(answer, (errand.scheme, errand.place()));
    if !groups.is_empty() {
        // Answers with more tags than are kept have every tag.
        groups.push(tags::Tag::ANY);
        purge::by_tags(cache, groups, Mode::Hard, now);
    }
    purge::settle(cache);
}
