//! What is counted and remembered for operators: metrics, `tidegate pair status`.

use crate::heartbeat::diary;
use crate::heartbeat::machine::LinkId;
use crate::heartbeat::machine::Loss;
use crate::heartbeat::machine::Machine;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Outcome;
use crate::heartbeat::machine::Phase;
use crate::heartbeat::machine::Refusal;
use crate::heartbeat::machine::Refused;
use crate::heartbeat::machine::Standing;
use crate::heartbeat::machine::TakeoverReport;
use crate::heartbeat::machine::message::Reject;
use crate::heartbeat::machine::names::LINKS_MAX;
use crate::heartbeat::machine::names::VOTERS_MAX;
use crate::heartbeat::plan::Plan;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::PairFacts;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// What a link to a voter was like.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Option<Instant>,
    gap_max: Duration,
}

/// What is counted.
pub struct Tally {
    /// Why the last order was not followed.
    pub order_refused: Option<Refused>,
    /// Datagrams that could not be sent.
    pub unsent: u64,
    /// Lines and errands that were lost because too many waited.
    pub untold: u64,
    metrics: Arc<Metrics>,
    began: Instant,
    shown: Option<Instant>,
    seen: [[Seen; LINKS_MAX]; VOTERS_MAX],
    rejected: BTreeMap<&'static str, u64>,
    standing: Standing,
    late: u64,
    stalls: u64,
    takeovers: u64,
    fenced: u64,
    fence_failed: u64,
    conflicts: Arc<AtomicU64>,
    reports: VecDeque<Value>,
}

impl Tally {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, plan: &Plan, conflicts: Arc<AtomicU64>, now: Instant) -> Self {
        let standing = if plan.settings.me.is_member() { Standing::Booting } else { Standing::Witness };
        // Shown from the beginning, so that a rate can be seen to rise.
        let rejected = REASONS.into_iter().map(|reason| (reason, 0)).collect();
        Self {
            order_refused: None,
            unsent: 0,
            untold: 0,
            metrics,
            began: now,
            shown: None,
            seen: Default::default(),
            rejected,
            standing,
            late: 0,
            stalls: 0,
            takeovers: 0,
            fenced: 0,
            fence_failed: 0,
            conflicts,
            reports: VecDeque::new(),
        }
    }

    /// A heartbeat was heard.
    pub fn heard(&mut self, from: NodeId, link: LinkId, now: Instant) {
        let links = self.seen.get_mut(usize::from(from.0));
        let Some(seen) = links.and_then(|links| links.get_mut(usize::from(link.0))) else { return };
        if let Some(last) = seen.last.replace(now) {
            seen.gap_max = seen.gap_max.max(now.saturating_duration_since(last));
        }
    }

    /// A datagram was dropped.
    pub fn rejected(&mut self, reject: Reject) {
        let reason = match reject {
            Reject::Garbage => "garbage",
            Reject::Version(_) => "version",
            Reject::Cluster => "cluster",
            Reject::Key => "key",
            Reject::Roster => "roster",
            Reject::Field => "field",
        };
        *self.rejected.entry(reason).or_default() += 1;
    }

    /// The machine noted something.
    pub fn note(&mut self, note: &Note, now: Instant) {
        match note {
            Note::Late(..) => self.late += 1,
            Note::Stalled(_) => {
                self.stalls += 1;
                // What was not read meanwhile says nothing of the links.
                for seen in self.seen.iter_mut().flatten().filter(|seen| seen.last.is_some()) {
                    seen.last = Some(now);
                }
            }
            Note::Role(_, to) => self.standing = *to,
            Note::FenceEnded(_, fenced) if fenced.off => self.fenced += 1,
            Note::FenceEnded(..) => self.fence_failed += 1,
            Note::OrderRefused(_, refused) => self.order_refused = Some(refused.clone()),
            _ => {}
        }
        self.shown = None;
    }

    /// A takeover of this member has ended.
    pub fn report(&mut self, report: &TakeoverReport, line: Value) {
        self.takeovers += u64::from(report.serving.is_some());
        self.reports.push_front(line);
        self.reports.truncate(REPORTS);
    }

    /// Datagrams that were dropped, by reason: before they were read, or by the machine.
    fn dropped(&self, machine: &Machine) -> BTreeMap<&'static str, u64> {
        let counts = machine.counts();
        let judged = [
            ("replayed", counts.replayed),
            ("unproven", counts.unproven),
            ("misdirected", counts.misdirected),
            ("old_epoch", counts.old_epoch),
        ];
        self.rejected.iter().map(|(reason, count)| (*reason, *count)).chain(judged).collect()
    }

    /// What this node does.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self.standing {
            Standing::Witness => "witness",
            Standing::Booting => "booting",
            Standing::Standby => "standby",
            Standing::Bidding => "bidding",
            Standing::Taking => "taking",
            Standing::Active => "active",
            Standing::Stopping => "stopping",
            Standing::StopFailed => "stop-failed",
        }
    }

    /// Brings the metrics up to date, now and then and after everything that was noted.
    pub fn show(&mut self, machine: &Machine, plan: &Plan, now: Instant) {
        if self.shown.is_some_and(|shown| now < shown + SHOW_EVERY) {
            return;
        }
        self.shown = Some(now);
        let view = machine.view();
        let since = |at: Option<Instant>| now.saturating_duration_since(at.unwrap_or(self.began)).as_secs_f64();
        let seen = self.others(plan).map(|(id, link, seen)| (plan.name(id).to_owned(), link, since(seen.last)));
        self.metrics.pair(PairFacts {
            role: self.role(),
            phase: diary::phase_word(view.phase),
            epoch: view.epoch.0,
            refused: if let Phase::Refused(refusal) = view.phase { Some(refusal.word()) } else { None },
            seen: seen.collect(),
            takeovers: self.takeovers,
            fencing: [("ok", self.fenced), ("failed", self.fence_failed)],
            late: self.late,
            rejected: self.dropped(machine).into_iter().collect(),
            conflicts: self.conflicts.load(Ordering::Relaxed),
            maintenance: machine.in_maintenance(),
            stalls: self.stalls,
        });
    }

    fn others<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (NodeId, u8, Seen)> + 'a {
        let own = plan.nodes.get(usize::from(plan.settings.me.0)).map_or(0, |node| node.links.len());
        let others = plan.settings.roster.ids().filter(|id| *id != plan.settings.me);
        others.flat_map(move |id| {
            let links = plan.nodes.get(usize::from(id.0)).map_or(0, |node| node.links.len().min(own).min(LINKS_MAX));
            (0..links).map(move |link| (id, u8::try_from(link).unwrap_or(0), self.seen[usize::from(id.0)][link]))
        })
    }

    /// Everything, for operators.
    #[must_use]
    pub fn status(&self, machine: &Machine, plan: &Plan, now: Instant) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let links: Vec<Value> = self
            .others(plan)
            .map(|(id, link, seen)| {
                json!({
                    "node": plan.name(id),
                    "link": link + 1,
                    "last_heard_ms": seen.last.map(|last| ms(now.saturating_duration_since(last))),
                    "gap_max_ms": ms(seen.gap_max),
                })
            })
            .collect();
        let told = machine.status(now);
        let own = told.copy.filter(|_| told.me.is_member()).map(|tid| (told.me, tid));
        let heard = told.voters.iter().filter(|voter| voter.id.is_member() && voter.heard.is_some());
        let copies: Vec<Value> = own
            .into_iter()
            .chain(heard.map(|voter| (voter.id, voter.tid)))
            .map(|(id, tid)| {
                let lag = tid.behind(told.known.tid).as_secs_f64();
                json!({ "node": plan.name(id), "tid": tid.to_string(), "behind_seconds": lag })
            })
            .collect();
        let died = told.view.active.map(|active| {
            let loss = Loss { killed: vec![active], cut: Vec::new() };
            let forecast = machine.forecast(&loss);
            let refused = matches!(told.view.phase, Phase::Refused(_));
            if forecast.outcome == Outcome::Refused(Refusal::NoProof) && !refused && !told.me.is_member() {
                "only a fence device could prove it, and those are known to the members: `tidegate pair status` there"
                    .to_owned()
            } else {
                diary::forecast(&forecast, plan)
            }
        });
        json!({
            "node": plan.name(plan.settings.me),
            "role": self.role(),
            "pair": diary::view(&machine.view(), machine.refused().as_ref(), plan),
            "lease_left_ms": told.lease_left.map(ms),
            "self_fence_armed": told.armed,
            "maintenance": told.maintenance,
            "copies": copies,
            "if_the_active_died_now": died,
            "up_ms": ms(now.saturating_duration_since(self.began)),
            "links": links,
            "timing_ms": {
                "interval": ms(plan.settings.interval),
                "dead": ms(plan.settings.dead),
                "lease": ms(plan.settings.lease),
            },
            "rejected": self.dropped(machine),
            "late": self.late,
            "stalls": self.stalls,
            "takeovers": self.takeovers,
            "fencing": { "ok": self.fenced, "failed": self.fence_failed },
            "address_conflicts": self.conflicts.load(Ordering::Relaxed),
            "unsent": self.unsent,
            "reports": self.reports,
        })
    }
}

/// Why datagrams are dropped before they are read.
const REASONS: [&str; 6] = ["garbage", "version", "cluster", "key", "roster", "field"];
const SHOW_EVERY: Duration = Duration::from_millis(500);
const REPORTS: usize = 16;
