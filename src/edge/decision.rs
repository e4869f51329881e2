//! What the cache answers to a request that may be answered from it: one decision, on which the data path acts and which
//! `tidegate explain` tells. A function of what is stored, the request and the time.

use crate::cache::Shelf;
use crate::cache::Stored;
use crate::edge::intake::WhyPass;
use crate::semantics::cache_control;
use crate::semantics::cache_control::Directives;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::cache_status::Why;
use crate::semantics::conditional;
use crate::semantics::conditional::Conditional;
use crate::semantics::present::Present;
use crate::semantics::range;
use crate::semantics::reuse;
use crate::semantics::reuse::Reuse;
use http::HeaderMap;
use http::header;
use std::sync::Arc;
use std::time::Instant;

/// What there is for a request.
pub struct Look<'s> {
    /// The stored response that answers such requests.
    pub found: Option<&'s Arc<Stored>>,
    /// What may be done with it.
    pub reuse: Option<Reuse>,
    directives: Directives,
    shelved: bool,
    unmet: bool,
    /// Whether it shows Authorization: what is fetched for it is nobody else's until the answer says so.
    authorized: bool,
    now: Instant,
    present: Present,
}

/// What is done if nothing stored is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Nothing: the request wants only what is stored (RFC 9111 5.2.1.7).
    Nothing,
    /// It goes to the origin alone, past the cache.
    Alone(CacheStatus),
    /// It is fetched for all who ask the same; with Authorization for who asks, and for all if the answer is for them.
    Fetch(CacheStatus),
}

impl<'s> Look<'s> {
    /// Looks at what is stored under the request's key.
    #[must_use]
    pub fn at(shelf: Option<&'s Shelf>, headers: &HeaderMap, present: Present, honour: bool, now: Instant) -> Self {
        let directives = if present.has(Present::DIRECTIVES) {
            cache_control::parse_request(headers)
        } else {
            Directives::default()
        };
        let found = shelf.and_then(|shelf| shelf.select(headers));
        let reuse = found.map(|stored| reuse::decide(&stored.freshness, &directives, honour, now));
        let authorized = present.has(Present::IDENTITY) && headers.contains_key(header::AUTHORIZATION);
        // What is not fresh is not asked about with what one client shows.
        let (found, reuse) = if authorized && reuse != Some(Reuse::Fresh) { (None, None) } else { (found, reuse) };
        // RFC 9110 13.2.2: a condition that what is stored does not meet is the origin's to judge.
        let unmet = present.has(Present::CONDITION)
            && conditional::is_for_origin(headers)
            && found.is_some_and(|stored| {
                conditional::evaluate(headers, stored.status, &stored.head.open(0)) == Conditional::AskOrigin
            });
        Self { found, reuse, directives, shelved: shelf.is_some(), unmet, authorized, now, present }
    }

    /// The response that is served as it is, with a word if it is not fresh.
    #[must_use]
    pub fn served(&self) -> Option<(&'s Arc<Stored>, CacheStatus)> {
        let (stored, reuse) = (self.found?, self.reuse?);
        if !reuse.serves() || self.unmet {
            return None;
        }
        let status = CacheStatus::hit(stored.freshness.ttl(self.now));
        Some((stored, reuse.word().map_or(status, |word| status.detail(word))))
    }

    /// What is done instead. `at_hand` says whether the whole of it is being fetched, or lies on the disk.
    #[must_use]
    pub fn onward(&self, headers: &HeaderMap, at_hand: impl Fn() -> bool) -> Onward {
        if self.directives.only_if_cached {
            return Onward::Nothing;
        }
        if self.authorized {
            return Onward::Fetch(WhyPass::Identity.status());
        }
        if let Some(status) = self.alone(headers, at_hand) {
            return Onward::Alone(status);
        }
        Onward::Fetch(CacheStatus::forwarded(match self.reuse {
            Some(Reuse::Request) => Why::Request,
            Some(_) => Why::Stale,
            None if self.shelved => Why::VaryMiss,
            None => Why::UriMiss,
        }))
    }

    /// Why it goes alone, if it asks for what a fetch for all does not give.
    fn alone(&self, headers: &HeaderMap, at_hand: impl Fn() -> bool) -> Option<CacheStatus> {
        if self.directives.no_store {
            // RFC 9111 5.2.1.5: nothing of it is stored, and so nobody may wait for it.
            return Some(CacheStatus::forwarded(Why::Request).detail("no-store"));
        }
        // What is stale becomes fresh first, and may meet the condition then.
        let stale = matches!(self.reuse, Some(Reuse::Stale | Reuse::Request));
        if self.present.has(Present::CONDITION) && conditional::is_for_origin(headers) && !stale {
            return Some(WhyPass::Condition.status());
        }
        (self.reuse.is_none() && self.present.has(Present::RANGE) && range::begins_later(headers) && !at_hand())
            .then(|| WhyPass::Range.status())
    }
}
