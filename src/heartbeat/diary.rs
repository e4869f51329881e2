//! What the machine notes and reports, in words for people and as JSON for their tools.

use crate::heartbeat::machine::Forecast;
use crate::heartbeat::machine::NodeId;
use crate::heartbeat::machine::Note;
use crate::heartbeat::machine::Outcome;
use crate::heartbeat::machine::PairView;
use crate::heartbeat::machine::Phase;
use crate::heartbeat::machine::ProofKind;
use crate::heartbeat::machine::TakeoverReport;
use crate::heartbeat::plan::Plan;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::SystemTime;

/// A note in words, and whether somebody should look; nothing for what is only counted.
#[must_use]
pub fn words(note: &Note, plan: &Plan) -> Option<(bool, String)> {
    let name = |id: &NodeId| plan.name(*id).to_owned();
    let told = match note {
        Note::Late(who, link, since) => {
            (true, format!("late heartbeat: {} on link {}, last heard {since:?} ago", name(who), link.0 + 1))
        }
        Note::Dead(who) => (true, format!("{} is silent on all links", name(who))),
        Note::Back(who) => (false, format!("{} is heard again", name(who))),
        Note::OneWay(who, link) => {
            (true, format!("link {} carries one way only: we hear {}, it does not hear us", link.0 + 1, name(who)))
        }
        Note::Stalled(by) => (true, format!("this node stood still for {by:?}: silence is timed anew")),
        // Anybody can send these again and again.
        Note::Replayed(_) | Note::OldEpoch(..) => return None,
        Note::Role(from, to) => (false, format!("role: {from:?} -> {to:?}")),
        Note::Refused(refusal) => (true, format!("no takeover: {}; {}", refusal.reason(), refusal.remedy())),
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
        other => (false, format!("{other:?}")),
    };
    Some(told)
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

/// What edges follow, as JSON.
#[must_use]
pub fn view(view: &PairView, plan: &Plan) -> Value {
    let mut shown = json!({
        "epoch": view.epoch.0,
        "active": view.active.map(|active| plan.name(active)),
        "phase": phase_word(view.phase),
    });
    if let Phase::Refused(refusal) = view.phase {
        shown["refused"] = refusal.word().into();
        shown["why"] = refusal.reason().into();
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
