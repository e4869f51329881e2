//! The storage behind an upstream's Zopes: while no ZEO server takes writes, a Zope hangs with every request that needs the
//! database, for minutes, and with each a thread; its health page says 200 all along. So the storage is asked itself, and
//! while it is gone, or lacks what was seen before, the upstream is held.

use crate::clock;
use crate::telemetry::chain;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::ZeoFacts;
use crate::units::OriginAddr;
use crate::units::UpstreamName;
use crate::upstream::Hold;
use crate::upstream::Plan;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::storage::Rules;
use crate::upstream::machine::storage::Told;
use crate::upstream::machine::storage::Verdict;
use crate::upstream::view::StorageView;
use crate::zeo;
use crate::zeo::Report;
use crate::zeo::Role;
use crate::zodb::Tid;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;
use tracing::warn;

/// The storage's name in ZEO, unless told otherwise.
const STORAGE: &str = "1";

/// Asks the storage servers of `upstream` for ever, and holds it while they cannot be relied on.
pub async fn watch(upstream: Arc<Upstream>, metrics: Arc<Metrics>) {
    let mut failed = 0;
    let mut before = None;
    loop {
        let standing = upstream.standing();
        let plan = &standing.plan;
        let began = clock::mono();
        let (told, mut seen) = ask_all(plan, &metrics).await;
        let rules = Rules { lag: plan.storage_lag, clients: u64::from(plan.storage_clients) };
        let verdict = lock(&upstream.storage).judge(&told, rules, clock::mono());
        note(&mut seen, &verdict, upstream.name());
        let states: Vec<String> = seen.iter().map(|one| format!("{} {}", one.address, one.state)).collect();
        *lock(&upstream.storage_seen) = seen;
        failed = if plan.storage.is_empty() {
            0
        } else {
            match verdict {
                Verdict::Good => 0,
                Verdict::Gone => failed + 1,
                // This is no matter of a lost answer.
                Verdict::Behind { .. } | Verdict::Lonely { .. } => failed.max(plan.check.fall - 1) + 1,
            }
        };
        let held = failed >= plan.check.fall;
        let kind = Some(std::mem::discriminant(&verdict));
        if kind != before || failed == plan.check.fall {
            tell(&upstream, &verdict, &states.join(", "), held);
        }
        before = kind;
        upstream.hold(Hold::Storage, held);
        // While it is away it is looked for more often: visitors wait.
        let pause = if failed > 0 { plan.check.every.min(Duration::from_millis(500)) } else { plan.check.every };
        let took = clock::mono().saturating_duration_since(began);
        tokio::time::sleep(pause.saturating_sub(took).max(Duration::from_millis(10))).await;
    }
}

/// Says of the server that takes writes why it is not used all the same, and what would help.
fn note(seen: &mut [StorageView], verdict: &Verdict, upstream: &UpstreamName) {
    let (server, why) = match verdict {
        Verdict::Behind { server, lag } => (
            server,
            format!("refused, lacks {lag:.1?} of what was seen (`tidegate release {upstream}` takes it as it is)"),
        ),
        Verdict::Lonely { server, missing } => (server, format!("waiting for {missing} of its clients")),
        Verdict::Good | Verdict::Gone => return,
    };
    for one in seen.iter_mut().filter(|one| one.address == *server) {
        one.state = format!("{}: {why}", one.state);
    }
}

/// Writes the diary.
fn tell(upstream: &Upstream, verdict: &Verdict, states: &str, held: bool) {
    let upstream_name = upstream.name();
    match verdict {
        Verdict::Good if upstream.is_held_by(Hold::Storage) => {
            info!(upstream = %upstream_name, states, "the storage is back");
        }
        Verdict::Gone if held => {
            warn!(upstream = %upstream_name, states, "no storage server takes writes: requests wait, what is stored is served stale");
        }
        Verdict::Behind { server, lag } => warn!(
            upstream = %upstream_name, server, ?lag,
            "the storage lacks transactions that were seen before and is refused; `tidegate release` accepts it as it is"
        ),
        Verdict::Lonely { missing, .. } => {
            info!(upstream = %upstream_name, missing, "the storage is back; its clients are awaited");
        }
        Verdict::Good | Verdict::Gone => {}
    }
}

/// What all servers say, for the decision and for operators.
async fn ask_all(plan: &Plan, metrics: &Metrics) -> (Vec<Told>, Vec<StorageView>) {
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    for server in &plan.storage {
        let address = server.to_string();
        match ask(server, plan.check.timeout).await {
            Ok(report) => {
                let writable = report.role == Role::Writable;
                let clients = report.storages.get(STORAGE).map_or(0, |storage| storage.connections);
                let last = Tid(report.last_tid).nanoseconds();
                told.push(Told { server: address.clone(), writable, last, clients });
                let state = if writable { "writable" } else { "read-only" };
                let last_tid = Some(format!("{:016x}", report.last_tid));
                seen.push(StorageView { address, state: state.to_owned(), last_tid, clients: Some(clients) });
                show(metrics, server, Some(&report));
            }
            Err(sick) => {
                seen.push(StorageView { address, state: chain(&sick), last_tid: None, clients: None });
                show(metrics, server, None);
            }
        }
    }
    (told, seen)
}

async fn ask(server: &OriginAddr, within: Duration) -> Result<Report, zeo::Sick> {
    zeo::probe(&server.to_string(), STORAGE, clock::mono() + within).await
}

fn show(metrics: &Metrics, server: &OriginAddr, report: Option<&Report>) {
    let told = report.and_then(|report| Some((report, report.storages.get(STORAGE)?)));
    let facts = told.map(|(report, storage)| ZeoFacts {
        writable: report.role == Role::Writable,
        last_tid: report.last_tid,
        clients: storage.connections,
        waiting: storage.waiting,
        commits: storage.commits,
        conflicts: storage.conflicts,
    });
    metrics.zeo(&server.to_string(), facts);
}

impl Upstream {
    /// An operator takes the storage as it is, whatever it lacks.
    pub fn accept_storage(&self) {
        lock(&self.storage).accept();
    }
}
