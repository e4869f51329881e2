//! The edge follows the pair: what its voters see becomes a hold, and one swap of the upstreams' sets.
//!
//! [`judge`] says what a view means; the rest carries it to the publisher. While nobody serves, or may be about not to, requests
//! that need Zope wait and what is stored is served stale. Once a member serves, its set is put in force first and the hold ends
//! after it, so that nothing that waited goes to Zopes of the old storage.

use crate::control::publisher::Publisher;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::PairView;
use crate::heartbeat::machine::Phase;
use crate::heartbeat::pair::Pair;
use crate::telemetry::metrics::SwitchCause;
use crate::upstream::Hold;
use std::sync::Arc;
use tracing::info;
use tracing::warn;

/// What edges do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Send to the Zopes of this member's storage.
    Serve(NodeId),
    /// Send nothing.
    Hold,
}

/// What a view means for edges.
#[must_use]
pub fn judge(view: &PairView) -> Course {
    match (view.phase, view.active) {
        (Phase::Steady | Phase::Serving, Some(active)) => Course::Serve(active),
        _ => Course::Hold,
    }
}

/// Follows the pair until its heartbeat ends.
pub async fn follow(pair: Arc<Pair>, publisher: Arc<Publisher>) {
    let mut view = pair.view();
    let mut reloaded = publisher.changed();
    let mut before = None;
    loop {
        let now = *view.borrow_and_update();
        // Before it is put in force, so that a set that this very change puts in force is not taken for a reload.
        reloaded.borrow_and_update();
        if before.replace(now) != Some(now) {
            info!(epoch = now.epoch.0, active = now.active.map(|active| pair.plan().name(active)), phase = ?now.phase, "pair");
        }
        put_in_force(judge(&now), &pair, &publisher);
        reloaded.borrow_and_update();
        tokio::select! {
            changed = view.changed() => if changed.is_err() { break },
            changed = reloaded.changed() => if changed.is_err() { break },
        }
    }
}

fn put_in_force(course: Course, pair: &Pair, publisher: &Publisher) {
    let followers = publisher.followers();
    for (name, upstream) in &publisher.house().snapshots.load_full().upstreams {
        if !followers.contains(name) {
            upstream.hold(Hold::Takeover, false);
            continue;
        }
        let Course::Serve(active) = course else {
            upstream.hold(Hold::Takeover, true);
            continue;
        };
        let member = pair.plan().name(active);
        let has_set = upstream.standing().plan.sets.iter().any(|set| set.name.as_str() == member);
        if has_set && let Err(why) = publisher.use_set(name.as_str(), member, SwitchCause::Heartbeat) {
            warn!(upstream = %name, member, why, "the set of the member that serves could not be put in force");
        }
        upstream.hold(Hold::Takeover, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::machine::Epoch;
    use crate::heartbeat::machine::Refusal;

    #[test]
    fn edges_send_only_while_a_member_serves() {
        let active = Some(NodeId(1));
        for (phase, active, course) in [
            (Phase::Steady, active, Course::Serve(NodeId(1))),
            (Phase::Serving, active, Course::Serve(NodeId(1))),
            (Phase::Steady, None, Course::Hold),
            (Phase::Starting, active, Course::Hold),
            (Phase::Suspect, active, Course::Hold),
            (Phase::TakingOver, active, Course::Hold),
            (Phase::Refused(Refusal::NoProof), active, Course::Hold),
        ] {
            assert_eq!(judge(&PairView { epoch: Epoch(3), active, phase }), course, "{phase:?}");
        }
    }
}
