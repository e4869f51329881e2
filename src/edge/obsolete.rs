//! Forgetting what an unsafe request has made obsolete.

use crate::edge::errand::Errand;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::obsolete;
use crate::semantics::target;
use http::HeaderMap;

/// RFC 9111 4.4: after an unsafe request that did not fail, what was stored for its target is obsolete, and what its answer
/// names on the same origin.
pub fn after(errand: &Errand, answer: &HeaderMap) {
    let mut buffer = KeyBuf::new();
    let mut forget = |path: &str, query: Option<&str>| {
        let parts = Parts { scheme: errand.scheme, authority: &errand.place, path, query };
        errand.edge.cache.purge(buffer.build(&parts));
    };
    forget(&errand.path, errand.query.as_deref());
    for uri in obsolete::named(answer, errand.scheme, &errand.place, &errand.path) {
        if let Ok(target) = target::parse(&uri, usize::MAX) {
            forget(&target.path, target.query.as_deref());
        }
    }
}
