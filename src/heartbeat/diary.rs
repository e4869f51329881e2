//! What the machine notes and reports, in words for people and as JSON for their tools.

use crate::heartbeat::machine::Forecast;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Order;
use crate::heartbeat::machine::Outcome;
use crate::heartbeat::machine::PairView;
use crate::heartbeat::machine::Phase;
use crate::heartbeat::machine::ProofKind;
use crate::heartbeat::machine::Refused;
use crate::heartbeat::machine::TakeoverReport;
use crate::heartbeat::plan::Plan;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::SystemTime;

/// A note in words, and whether somebody should look.
#[must_use]
pub fn words(note: &Note, plan: &Plan) -> (bool, String) {
    let name = |id: &NodeId| plan.name(*id).to_owned();
    match note {
        Note::Late(who, link, since) => {
            (true, format!("late heartbeat: {} on link {}, last heard {since:?} ago", name(who), link.0 + 1))
        }
        Note::Dead(who) => (true, format!("{} is silent on all links", name(who))),
        Note::Back(who) => (false, format!("{} is heard again", name(who))),
        Note::OneWay(who, link) => {
            (true, format!("link {} carries one way only: we hear {}, it does not hear us", link.0 + 1, name(who)))
        }
        Note::Stalled(by) => (true, format!("this node stood still for {by:?}: silence is timed anew")),
        Note::Role(from, to) => (false, format!("role: {from:?} -> {to:?}")),
        Note::Refused(refused) => (true, format!("no takeover: {}", self::refused(refused, plan))),
        Note::RefusesNoMore => (false, "what stood in the way of a takeover is over".to_owned()),
        Note::Ordered(order) => (false, format!("an operator orders: {}", order_words(*order))),
        Note::OrderRefused(order, refused) => {
            (true, format!("not done: {}: {}", order_words(*order), self::refused(refused, plan)))
        }
        Note::Denied(who, epoch, why) => {
            (false, format!("no vote for {} in epoch {epoch}: {}", name(who), why.reason()))
        }
        Note::SplitBrain(who) => (true, format!("split brain? {} claims the role or the address, too", name(who))),
        Note::WouldFence(who) => (true, format!("observing: would put {} off now", name(who))),
        Note::WouldTakeOver(epoch) => (true, format!("observing: would take over now, as epoch {epoch}")),
        Note::WouldSelfFence(epoch) => (true, format!("observing: would stop the service now, epoch {epoch}")),
        Note::Failed(what, failure) => (true, format!("{what}: {}", failure.0)),
        Note::Voted(vote) => (false, format!("vote in epoch {} for {}", vote.epoch, name(&vote.candidate))),
        Note::ServiceIs(who, service) => (false, format!("the service of {} is {service:?}", name(who)).to_lowercase()),
        Note::FenceEnded(who, fenced) => {
            (!fenced.off, format!("fencing {}: off {}, status {:?}", name(who), fenced.off, fenced.status))
        }
        Note::Proven(epoch, proof) => (false, format!("proof for epoch {epoch}: {}", proof_word(*proof))),
        Note::Restart(count) => (true, format!("the service is restarted here: {count} within `restart_window`")),
    }
}

/// Why somebody refuses, from what it follows, and what would help.
#[must_use]
pub fn refused(refused: &Refused, plan: &Plan) -> String {
    format!("{}; what helps: {}", why(refused, plan), refused.refusal.remedy())
}

fn why(refused: &Refused, plan: &Plan) -> String {
    let reason = format!("{} says: {}", plan.name(refused.by), refused.refusal.reason());
    if refused.facts.is_empty() { reason } else { format!("{reason} ({})", refused.facts.join("; ")) }
}

/// An order, as the command line has it.
fn order_words(order: Order) -> &'static str {
    match order {
        Order::Switchover => "switchover",
        Order::Shutdown => "shutdown",
        Order::Standby => "standby",
        Order::Online => "online",
        Order::Maintenance(true) => "maintenance on",
        Order::Maintenance(false) => "maintenance off",
        Order::ForceTakeover => "takeover --force",
        Order::TrustJournal => "trust-journal",
    }
}

/// A takeover's report, as one line of JSON: when each phase was reached, in milliseconds since the active was last heard.
#[must_use]
pub fn report(report: &TakeoverReport, plan: &Plan, at: SystemTime) -> Value {
    let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    json!({
        "at": date(at),
        "epoch": report.epoch.0,
        "by": plan.name(report.by),
        "proof": report.proof.map(proof_word),
        "silent_ms": ms(Some(report.silent)),
        "since_suspicion_ms": {
            "asked": ms(report.asked),
            "voted": ms(report.voted),
            "proven": ms(report.proven),
            "saved": ms(report.saved),
            "address": ms(report.address),
            "started": ms(report.started),
            "serving": ms(report.serving),
        },
    })
}

/// What would come of a loss, in one sentence.
#[must_use]
pub fn forecast(forecast: &Forecast, plan: &Plan) -> String {
    let comes = match &forecast.outcome {
        Outcome::Stays(active) => format!("{} stays active", plan.name(*active)),
        Outcome::Takeover(heir, proofs, within) => {
            let proofs: Vec<String> = proofs.iter().map(|proof| proof_word(*proof)).collect();
            let (heir, within) = (plan.name(*heir), within.as_secs_f64());
            format!("{heir} takes over within about {within:.1} s and the storage's start, by {}", proofs.join(" or "))
        }
        Outcome::Refused(refusal) => format!("nobody takes over ({})", refusal.word()),
        Outcome::Nobody => "nobody takes over".to_owned(),
    };
    format!("{comes}: {}", forecast.because.join("; "))
}

fn proof_word(proof: ProofKind) -> String {
    format!("{proof:?}").to_lowercase()
}

/// What edges follow, as JSON; `refused`: who refuses, when somebody does.
#[must_use]
pub fn view(view: &PairView, refused: Option<&Refused>, plan: &Plan) -> Value {
    let mut shown = json!({
        "epoch": view.epoch.0,
        "active": view.active.map(|active| plan.name(active)),
        "phase": phase_word(view.phase),
    });
    if let Phase::Refused(refusal) = view.phase {
        shown["refused"] = refusal.word().into();
        let told = refused.filter(|told| told.refusal == refusal);
        shown["why"] = told.map_or_else(|| refusal.reason().to_owned(), |told| why(told, plan)).into();
        shown["remedy"] = refusal.remedy().into();
    }
    shown
}

/// The word for a phase, in metrics and status.
#[must_use]
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Steady => "steady",
        Phase::Suspect => "suspect",
        Phase::TakingOver => "taking-over",
        Phase::Serving => "serving",
        Phase::Refused(_) => "refused",
    }
}

/// A date for people and tools, RFC 9110's.
#[must_use]
pub fn date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}
