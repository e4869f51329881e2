//! Forgetting: PURGE from those who may, and orders of the operator.
//!
//! One URL is removed at once, under every name by which its site is seen. What else an order names (other spellings and
//! queries, tags, subtrees) goes into the ledger in constant time; a pattern also starts a sweep, which nobody waits for.

use crate::cache::Cache;
use crate::cache::ledger;
use crate::cache::ledger::Busy;
use crate::cache::ledger::Reach;
use crate::clock;
use crate::edge::Edge;
use crate::edge::intake::Question;
use crate::edge::refusal::PURGE_DENIED;
use crate::edge::refusal::Refusal;
use crate::semantics::accept::AcceptClass;
use crate::semantics::host::Authority;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::pattern::Pattern;
use crate::semantics::tags;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use crate::semantics::target;
use crate::snapshot::Site;
use crate::snapshot::Snapshot;
use crate::zope::purge;
use crate::zope::purge::Order;
use crate::zope::purge::Purge;
use crate::zope::purge::What;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::header;
use std::sync::Arc;
use std::time::Instant;

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// So many URLs were forgotten at once.
    Found(u64),
    /// It is noted, and holds from now on; how many it concerns is not known.
    Noted,
}

/// Where an order counts.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The snapshot that knows the sites.
    pub snapshot: &'a Snapshot,
    /// The one site that was named.
    pub site: Option<&'a Arc<Site>>,
    /// The query that was named.
    pub query: Option<&'a str>,
    /// When.
    pub now: Instant,
}

/// Carries out a PURGE; gives the answer and the word for it. It never reaches an origin, for Zope would answer it like a GET.
pub fn answer<B>(
    edge: &Arc<Edge>,
    snapshot: &Arc<Snapshot>,
    request: &Request<B>,
    question: &Question<'_>,
    now: Instant,
) -> (Response<Bytes>, &'static str) {
    let policy = &snapshot.cache;
    if !snapshot.may_purge(question.client) && !shows_token(snapshot, request.headers()) {
        edge.metrics.purge(
            "url",
            policy.purge_mode.as_str(),
            "denied",
            0,
            clock::mono().saturating_duration_since(now),
        );
        let refusal = Refusal::new(StatusCode::FORBIDDEN, PURGE_DENIED);
        return (refusal.response(), refusal.why);
    }
    let query = question.target.query.as_deref().and_then(|query| policy.query.apply(query));
    let query = query.as_deref();
    let site = snapshot.named(question.authority.host());
    let scope = Scope { snapshot, site, query, now };
    // plone.cachepurging takes anything but 200 and 404 for a failure and repeats it at once, five times.
    let (status, page) = match purge::order(&question.target.path, request.headers(), policy.tags.list()) {
        Err(bad) => (StatusCode::BAD_REQUEST, format!("{bad}\n")),
        Ok(order) => match obey(edge, &order, &scope) {
            Ok(Done::Found(0)) => (StatusCode::NOT_FOUND, "not stored\n".to_owned()),
            Ok(_) => (StatusCode::OK, "purged\n".to_owned()),
            Err(busy) => (StatusCode::SERVICE_UNAVAILABLE, format!("{busy}\n")),
        },
    };
    let x_cache = if status == StatusCode::OK { "purged" } else { "not stored" };
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert("x-cache", HeaderValue::from_static(x_cache));
    (response, "purge")
}

/// Whether the request shows a token that may purge: `Authorization: Bearer TOKEN`, or `X-Purge-Token: TOKEN`.
fn shows_token(snapshot: &Snapshot, headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|field| field.as_bytes().strip_prefix(b"Bearer "));
    let own = headers.get("x-purge-token").map(HeaderValue::as_bytes);
    bearer.into_iter().chain(own).any(|token| snapshot.cache.purge_tokens.admit(token.trim_ascii()))
}

fn obey(edge: &Arc<Edge>, order: &Order, scope: &Scope<'_>) -> Result<Done, Busy> {
    let mode = order.mode.unwrap_or(scope.snapshot.cache.purge_mode);
    let done = carry_out(&edge.cache, &order.what, mode, scope);
    let (result, found) = match done {
        Ok(Done::Found(0)) => ("not_found", 0),
        Ok(Done::Found(found)) => ("purged", found),
        Ok(Done::Noted) => ("noted", 0),
        Err(Busy) => ("busy", 0),
    };
    let took = clock::mono().saturating_duration_since(scope.now);
    edge.metrics.purge(order.what.kind(), mode.as_str(), result, found, took);
    settle(&edge.cache);
    done
}

/// Starts a sweep if one is due; nobody waits for it.
pub fn settle(cache: &Arc<Cache>) {
    if cache.begins_sweep() {
        let cache = Arc::clone(cache);
        tokio::task::spawn_blocking(move || cache.sweep());
    }
}

/// Does what an order says.
///
/// # Errors
/// [`Busy`] when too many patterns wait.
pub fn carry_out(cache: &Cache, what: &What, mode: Mode, scope: &Scope<'_>) -> Result<Done, Busy> {
    let now = scope.now;
    match what {
        What::Url(url) => {
            let places = scope.places(url);
            Ok(Done::Found(places.iter().map(|(site, path)| object(cache, site, path, scope.query, mode, now)).sum()))
        }
        What::Prefix(url) => {
            let places = scope.places(url);
            places.iter().try_for_each(|(site, path)| subtree(cache, site, path, mode, now))?;
            Ok(if places.is_empty() { Done::Found(0) } else { Done::Noted })
        }
        What::Glob(pattern) => by_pattern(cache, pattern, false, mode, scope),
        What::Regex(pattern) => by_pattern(cache, pattern, true, mode, scope),
        What::Tags(names) => {
            let mut tags: Vec<Tag> = names.iter().map(|name| Tag::named(name.as_bytes())).collect();
            for (scheme, place) in scope.sites().iter().flat_map(|site| cache.places(&site.name)) {
                tags.extend(names.iter().map(|name| Tag::group(scheme, &place, name.as_bytes())));
            }
            // Answers with more tags than are kept have every tag.
            tags.push(Tag::ANY);
            cache.purge_order(&ledger::Order::Tags(tags), mode, now)?;
            Ok(Done::Noted)
        }
        What::Site => {
            let Some(site) = scope.site.or_else(|| scope.snapshot.default_site()) else { return Ok(Done::Found(0)) };
            cache.purge_order(&ledger::Order::Tags(vec![Tag::site(site.name.as_str())]), mode, now)?;
            Ok(Done::Noted)
        }
        What::All if mode == Mode::Hard => {
            cache.purge_order(&ledger::Order::All, mode, now)?;
            Ok(Done::Noted)
        }
        What::All => {
            let all = Reach { site: None, pattern: None, with_query: false };
            cache.purge_order(&ledger::Order::Reach(all), mode, now)?;
            Ok(Done::Noted)
        }
    }
}

impl<'a> Scope<'a> {
    /// The sites that are meant: the named one, or all.
    fn sites(&self) -> Vec<&'a Arc<Site>> {
        self.site.map_or_else(|| self.snapshot.sites().iter().collect(), |site| vec![site])
    }

    /// Sites and visitors' paths that a URL may stand for.
    fn places(&self, url: &Purge) -> Vec<(&'a Arc<Site>, String)> {
        match url {
            Purge::Nothing => Vec::new(),
            // A form of VirtualHostMonster: the site is named by its host, or if that is none of ours by its root.
            Purge::Url { host, root, path, .. } => {
                if let Some(site) = self.snapshot.named(host) {
                    return vec![(site, path.clone())];
                }
                let same_root = |site: &&Arc<Site>| site.zope.as_ref().is_some_and(|zope| zope.root() == root);
                self.snapshot.sites().iter().filter(same_root).map(|site| (site, path.clone())).collect()
            }
            // A bare path: a visitor's, or the physical one of the ZODB.
            Purge::Path(path) => self.sites().into_iter().flat_map(|site| both(site, path)).collect(),
        }
    }
}

fn both<'a>(site: &'a Arc<Site>, path: &str) -> Vec<(&'a Arc<Site>, String)> {
    let physical = site.zope.as_ref().filter(|zope| zope.root() != "/");
    let below = physical.and_then(|zope| purge::below(zope.root(), path));
    below.into_iter().chain([path]).map(|path| (site, path.to_owned())).collect()
}

/// Forgets one object of a site in all its spellings, and without a query in the order with any.
pub fn object(cache: &Cache, site: &Site, path: &str, query: Option<&str>, mode: Mode, now: Instant) -> u64 {
    let mut buffer = KeyBuf::new();
    let places = cache.places(&site.name);
    let mut found = 0;
    for spelling in site.preset.spellings(path) {
        for (scheme, authority) in &places {
            for accept in AcceptClass::ALL {
                let key = buffer.build(&Parts { scheme, authority, path: &spelling, query, accept });
                found += u64::from(cache.forget(key, mode, now));
            }
        }
    }
    if query.is_none() && !places.is_empty() {
        let object = site.preset.object(path);
        by_tags(cache, vec![Tag::object(site.name.as_str(), object)], mode, now);
        if site.preset.is_plone() && !object.contains("/@@images") {
            // Scales that are named by a hash are not named by Plone's purger. Pages elsewhere may still show them.
            let scales = format!("{object}/@@images");
            by_tags(cache, vec![Tag::below(site.name.as_str(), &scales)], Mode::Soft, now);
        }
    }
    found
}

/// Forgets whatever has one of these tags.
pub fn by_tags(cache: &Cache, tags: Vec<Tag>, mode: Mode, now: Instant) {
    // Only patterns can be too many.
    let _ = cache.purge_order(&ledger::Order::Tags(tags), mode, now);
}

/// Forgets everything at or below a path of a site.
///
/// # Errors
/// [`Busy`], if it lies too deep for a tag.
pub fn subtree(cache: &Cache, site: &Site, path: &str, mode: Mode, now: Instant) -> Result<(), Busy> {
    let object = site.preset.object(path).trim_end_matches('/');
    let name = site.name.as_str();
    if object.is_empty() {
        by_tags(cache, vec![Tag::site(name)], mode, now);
    } else if tags::is_deep(object) {
        // It has no tag of its own; so deep there is little, and the folder above it costs little more.
        let pattern = Pattern::below(object).ok();
        let reach = Reach { site: Some(Tag::site(name)), pattern, with_query: false };
        cache.purge_order(&ledger::Order::Reach(reach), mode, now)?;
    } else {
        by_tags(cache, vec![Tag::below(name, object)], mode, now);
    }
    Ok(())
}

fn by_pattern(cache: &Cache, pattern: &Pattern, with_query: bool, mode: Mode, scope: &Scope<'_>) -> Result<Done, Busy> {
    let site = scope.site.map(|site| Tag::site(site.name.as_str()));
    let reach = Reach { site, pattern: Some(pattern.clone()), with_query };
    cache.purge_order(&ledger::Order::Reach(reach), mode, scope.now)?;
    Ok(Done::Noted)
}

/// An order as an operator gives it: a kind, what it names, and perhaps a site.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `url` unless it is said.
    pub kind: Option<String>,
    /// What it names; a URL or a path for `url` and `prefix`.
    pub what: String,
    /// The site's host.
    pub site: Option<String>,
    /// How thoroughly, if not as configured.
    pub mode: Option<Mode>,
}

/// Does what an operator wants; gives what it was, how, and what came of it.
///
/// # Errors
/// When it cannot be; the text is for the operator.
pub fn wanted(cache: &Cache, snapshot: &Snapshot, wanted: &Wanted, now: Instant) -> Result<(What, Mode, Done), String> {
    let kind = wanted.kind.as_deref().unwrap_or("url");
    let mut host = wanted.site.clone();
    let mut text = wanted.what.clone();
    let mut query = None;
    if matches!(kind, "url" | "prefix") && text.contains("://") {
        let uri: Uri = text.parse().map_err(|error| format!("`{text}` is no URL: {error}"))?;
        let authority =
            uri.authority().ok_or_else(|| format!("`{text}` names no host; write it like https://HOST/PATH"))?;
        let authority =
            Authority::parse(authority.as_str().as_bytes()).map_err(|_| format!("`{text}` has no proper host"))?;
        let target = target::parse(&uri, usize::MAX)
            .map_err(|refused| format!("`{text}` has no proper path: {}", refused.why))?;
        host = Some(authority.host().to_owned());
        query = target.query.as_deref().map(str::to_owned);
        let path = target.path.into_owned();
        text = path;
    } else if matches!(kind, "url" | "prefix")
        && let Some((path, after)) = text.clone().split_once('?')
    {
        query = Some(after.to_owned());
        path.clone_into(&mut text);
    }
    let site = match &host {
        None => None,
        Some(host) => {
            let found = snapshot.site(&host.to_ascii_lowercase()).map(|found| match found {
                crate::snapshot::Found::Site(site) | crate::snapshot::Found::Alias(site) => site,
            });
            Some(found.ok_or_else(|| format!("there is no site for the host `{host}`"))?)
        }
    };
    if kind == "site" && site.is_none() {
        return Err("say which site, by its host name".to_owned());
    }
    let what = What::read(kind, &text).map_err(|bad| bad.to_string())?;
    let mode = wanted.mode.unwrap_or(snapshot.cache.purge_mode);
    let query = query.as_deref().and_then(|query| snapshot.cache.query.apply(query));
    let scope = Scope { snapshot, site, query: query.as_deref(), now };
    let done = carry_out(cache, &what, mode, &scope).map_err(|busy| busy.to_string())?;
    Ok((what, mode, done))
}

#[cfg(test)]
mod tests;
