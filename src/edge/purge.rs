//! Forgetting: PURGE from those who may.

use crate::admission::acl;
use crate::cache::Cache;
use crate::edge::Edge;
use crate::edge::body::OutBody;
use crate::edge::deliver;
use crate::edge::intake::Question;
use crate::edge::refusal::Refusal;
use crate::semantics::host::Authority;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::target;
use crate::snapshot::Found;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::zope::purge;
use crate::zope::purge::Purge;
use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use std::sync::Arc;
use std::time::Instant;

/// Answers a PURGE at once; it never reaches an origin, for Zope would answer it like a GET.
pub fn answer<B>(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<B>,
    question: &Question<'_>,
    now: Instant,
) -> Response<OutBody> {
    if !acl::contains(&snapshot.cache.purge, question.client.0) {
        edge.metrics.purge("url", "denied", 0);
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "purge_denied");
        return deliver::own(edge, request, question, refusal.response(), "purge_denied", now);
    }
    let query = question.target.query.as_deref();
    let named = snapshot.site(question.authority.host()).is_some();
    let sites: Vec<&Arc<Site>> = if named { vec![question.site] } else { snapshot.sites().iter().collect() };
    let found = match purge::parse(&question.target.path) {
        Some(Purge::Url { host, root, path, .. }) => by_host(&edge.cache, snapshot, &host, &root, &path, query),
        Some(Purge::Path(path)) => by_path(&edge.cache, &sites, &path, query),
        None => 0,
    };
    edge.metrics.purge("url", if found > 0 { "purged" } else { "not_found" }, found);
    // plone.cachepurging takes anything but 200 and 404 for a failure and repeats it at once, five times.
    let (status, page) = if found > 0 { (StatusCode::OK, "purged\n") } else { (StatusCode::NOT_FOUND, "not stored\n") };
    let mut response = Response::new(Bytes::from_static(page.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert("x-cache", http::HeaderValue::from_static(page.trim_ascii_end()));
    deliver::own(edge, request, question, response, "purge", now)
}

/// Forgets the URL that an operator named.
///
/// # Errors
/// When it is no URL of a site of ours; the text is for the operator.
pub fn by_url(cache: &Cache, snapshot: &Snapshot, url: &str) -> Result<u64, String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host; write it like https://HOST/PATH"))?;
    let authority =
        Authority::parse(authority.as_str().as_bytes()).map_err(|_| format!("`{url}` has no proper host"))?;
    let target =
        target::parse(&uri, usize::MAX).map_err(|refused| format!("`{url}` has no proper path: {}", refused.why))?;
    match snapshot.site(authority.host()) {
        Some(Found::Site(site) | Found::Alias(site)) => {
            Ok(by_path(cache, &[site], &target.path, target.query.as_deref()))
        }
        None => Err(format!("there is no site for the host `{}`", authority.host())),
    }
}

/// A form of VirtualHostMonster: the site is named by its host, or if that is none of ours by its root.
fn by_host(cache: &Cache, snapshot: &Snapshot, host: &str, root: &str, path: &str, query: Option<&str>) -> u64 {
    if let Some(Found::Site(site) | Found::Alias(site)) = snapshot.site(host) {
        return visitors_path(cache, site, path, query);
    }
    let same_root = |site: &&Arc<Site>| site.zope.as_ref().is_some_and(|zope| zope.root() == root);
    snapshot.sites().iter().filter(same_root).map(|site| visitors_path(cache, site, path, query)).sum()
}

/// A bare path: a visitor's, or the physical one of the ZODB.
fn by_path(cache: &Cache, sites: &[&Arc<Site>], path: &str, query: Option<&str>) -> u64 {
    let of_site = |site: &&Arc<Site>| {
        let physical = site.zope.as_ref().filter(|zope| zope.root() != "/");
        let below = physical.and_then(|zope| purge::below(zope.root(), path));
        below.map_or(0, |below| visitors_path(cache, site, below, query)) + visitors_path(cache, site, path, query)
    };
    sites.iter().map(of_site).sum()
}

/// A visitors' path under every name its site has been seen by.
fn visitors_path(cache: &Cache, site: &Site, path: &str, query: Option<&str>) -> u64 {
    let mut buffer = KeyBuf::new();
    let forget = |(scheme, authority): (&'static str, Box<str>)| {
        u64::from(cache.purge(buffer.build(&Parts { scheme, authority: &authority, path, query })))
    };
    cache.places(&site.name).into_iter().map(forget).sum()
}
