//! The storage behind an upstream's Zopes: while no ZEO server takes writes, a Zope hangs with every request that needs the
//! database, for minutes, and with each a thread; its health page says 200 all along. So the storage is asked itself, and
//! while it is gone the upstream is held.

use crate::clock;
use crate::telemetry::chain;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::ZeoFacts;
use crate::units::OriginAddr;
use crate::upstream::Hold;
use crate::upstream::live::Upstream;
use crate::zeo;
use crate::zeo::Report;
use crate::zeo::Role;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;
use tracing::warn;

/// The storage's name in ZEO, unless told otherwise.
const STORAGE: &str = "1";

/// Asks the storage servers of `upstream` for ever, and holds it while none takes writes.
pub async fn watch(upstream: Arc<Upstream>, metrics: Arc<Metrics>) {
    let mut failed = 0;
    loop {
        let standing = upstream.standing();
        let plan = &standing.plan;
        let began = clock::mono();
        let mut writable = false;
        let mut why = "none is named".to_owned();
        for server in &plan.storage {
            match ask(server, plan.check.timeout).await {
                Ok(report) => {
                    writable |= report.role == Role::Writable;
                    why = format!("{server} is read-only");
                    show(&metrics, server, Some(&report));
                }
                Err(sick) => {
                    why = format!("{server}: {}", chain(&sick));
                    show(&metrics, server, None);
                }
            }
        }
        failed = if writable || plan.storage.is_empty() { 0 } else { failed + 1 };
        if failed == plan.check.fall {
            warn!(upstream = %upstream.name(), why, "no storage server takes writes: requests wait, what is stored is served stale");
        } else if failed == 0 && upstream.is_held_by(Hold::Storage) {
            info!(upstream = %upstream.name(), "the storage is back");
        }
        upstream.hold(Hold::Storage, failed >= plan.check.fall);
        // While it is away it is looked for more often: visitors wait.
        let pause = if failed > 0 { plan.check.every.min(Duration::from_millis(500)) } else { plan.check.every };
        let took = clock::mono().saturating_duration_since(began);
        tokio::time::sleep(pause.saturating_sub(took).max(Duration::from_millis(10))).await;
    }
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
