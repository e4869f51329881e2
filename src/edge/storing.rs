//! What becomes of an answer to a fetch for the cache: the one judgement that the data path acts on and that
//! `tidegate explain` tells. A function of its inputs.

use crate::semantics::freshness::Times;
use crate::semantics::range;
use crate::semantics::storable;
use crate::semantics::storable::Storable;
use crate::semantics::storable::WhyNotStored;
use crate::snapshot::CachePolicy;
use crate::snapshot::Site;
use crate::snapshot::rules::Rule;
use crate::zope::conduct;
use crate::zope::conduct::Overruled;
use http::HeaderMap;
use http::StatusCode;
use http::header;

/// The question that was answered.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The site.
    pub site: &'a Site,
    /// The rule that matched.
    pub rule: Option<&'a Rule>,
    /// What holds for the whole cache.
    pub policy: &'a CachePolicy,
    /// The visitors' path.
    pub path: &'a str,
    /// The headers of the client for whom it was asked.
    pub headers: &'a HeaderMap,
    /// Whether he wants nothing of it stored.
    pub no_store: bool,
}

/// Whether the whole would be stored of which this answer, asked for past the cache, is a part: then it is worth fetching,
/// for who asks for one part of something large asks for others soon.
#[must_use]
pub fn is_part_of_storable(asked: &Asked<'_>, status: StatusCode, part: &HeaderMap, times: Times) -> bool {
    let Some(len) = range::whole_of(part).filter(|_| status == StatusCode::PARTIAL_CONTENT) else { return false };
    let mut whole = part.clone();
    whole.remove(header::CONTENT_RANGE);
    whole.insert(header::CONTENT_LENGTH, len.into());
    matches!(judge(asked, StatusCode::OK, &mut whole, true, times), (Storable::Yes(_), _))
}

/// Whether nobody speaks in the origin's stead: then what it says is all there is to judge.
#[must_use]
pub fn speaks_itself(site: &Site, rule: Option<&Rule>) -> bool {
    !site.conduct(rule).may_speak()
}

/// Why an answer is not stored, where that is so plain that [`judge`] would have nothing to weigh: nobody speaks in the
/// origin's stead.
#[must_use]
pub fn plainly(site: &Site, rule: Option<&Rule>, head: &HeaderMap) -> Option<&'static str> {
    if speaks_itself(site, rule) { storable::plainly(head).map(WhyNotStored::as_str) } else { None }
}

/// Judges the answer. What we say in the origin's stead is written into `head`. `delimited` is false if only the end of the
/// connection ends its body.
#[must_use]
pub fn judge(
    asked: &Asked<'_>,
    status: StatusCode,
    head: &mut HeaderMap,
    delimited: bool,
    times: Times,
) -> (Storable, Overruled) {
    let treatment = asked.site.conduct(asked.rule);
    let overruled = treatment.speak(status, head);
    let policy = asked.policy;
    let verdict = storable::judge(status, head, asked.no_store, &policy.bounds, policy.object_max, times);
    let verdict = match verdict {
        // RFC 9112 8: a body that only the end of the connection ends looks complete wherever it breaks off.
        Storable::Yes(_) if !delimited => Storable::No(WhyNotStored::Undelimited),
        Storable::Yes(_) if asked.headers.contains_key(header::AUTHORIZATION) && !storable::is_for_all(head) => {
            Storable::No(WhyNotStored::Authorization)
        }
        Storable::Yes(mut terms) => {
            conduct::select(overruled, &mut terms.vary);
            let objection = treatment.objection(asked.path, asked.headers, head);
            objection.map_or(Storable::Yes(terms), Storable::No)
        }
        no @ Storable::No(_) => no,
    };
    (verdict, overruled)
}
