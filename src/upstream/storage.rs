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
use crate::zeo::Commits;
use crate::zeo::Report;
use crate::zeo::Role;
use crate::zodb::Tid;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;
use tracing::warn;

/// The storage's name in ZEO, unless told otherwise.
const STORAGE: &str = "1";

/// The servers of which the metrics tell, until nobody asks them any more.
struct Shown {
    metrics: Arc<Metrics>,
    servers: BTreeSet<String>,
}

impl Shown {
    /// These are asked, and no others.
    fn keep(&mut self, servers: &[OriginAddr]) {
        let asked: BTreeSet<String> = servers.iter().map(ToString::to_string).collect();
        for gone in self.servers.difference(&asked) {
            self.metrics.zeo_gone(gone);
        }
        self.servers = asked;
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.keep(&[]);
    }
}

/// Asks the storage servers of `upstream` for ever, and holds it while they cannot be relied on.
pub async fn watch(upstream: Arc<Upstream>, metrics: Arc<Metrics>) {
    let mut failed = 0;
    let mut before = None;
    let mut commits = BTreeMap::new();
    let mut blocked = false;
    let mut shown = Shown { metrics: Arc::clone(&metrics), servers: BTreeSet::new() };
    loop {
        let standing = upstream.standing();
        let plan = &standing.plan;
        shown.keep(&plan.storage);
        let began = clock::mono();
        let (told, mut seen) = ask_all(plan, &metrics, &mut commits).await;
        let rules = Rules { lag: plan.storage_lag, clients: u64::from(plan.storage_clients) };
        let verdict = lock(&upstream.storage).judge(&told, rules, clock::mono());
        note(&mut seen, &verdict, upstream.name());
        let blocks = seen.iter().find(|one| is_blocked(one, plan.storage_commit_max));
        if blocks.is_some() != std::mem::replace(&mut blocked, blocks.is_some()) {
            tell_blocked(upstream.name(), blocks);
        }
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

/// Whether one commit has kept the others waiting for longer than it may.
fn is_blocked(server: &StorageView, max: Option<Duration>) -> bool {
    max.is_some_and(|max| server.commit_wait_ms.is_some_and(|wait| Duration::from_millis(wait) >= max))
}

fn tell_blocked(upstream: &UpstreamName, server: Option<&StorageView>) {
    let Some(StorageView { address, state, .. }) = server else {
        info!(%upstream, "commits end again");
        return;
    };
    warn!(
        %upstream, server = address, state,
        "a commit does not end: whoever writes waits, and so do his Zope's threads; restart the Zope that hangs with it, or the storage"
    );
}

/// What all servers say, for the decision and for operators.
async fn ask_all(
    plan: &Plan,
    metrics: &Metrics,
    commits: &mut BTreeMap<String, Commits>,
) -> (Vec<Told>, Vec<StorageView>) {
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    commits.retain(|server, _| plan.storage.iter().any(|one| one.to_string() == *server));
    for server in &plan.storage {
        let address = server.to_string();
        match ask(server, plan.check.timeout).await {
            Ok(report) => {
                let writable = report.role == Role::Writable;
                let storage = report.storages.get(STORAGE).cloned().unwrap_or_default();
                let clients = storage.connections;
                let wait = commits.entry(address.clone()).or_default().learn(storage.awaited(), clock::mono());
                let last = Tid(report.last_tid).nanoseconds();
                told.push(Told { server: address.clone(), writable, last, clients });
                let mut state = if writable { "writable" } else { "read-only" }.to_owned();
                if !wait.is_zero() {
                    state = format!("{state}, {} wait for one commit for {wait:.0?}", storage.waiting);
                }
                let last_tid = Some(format!("{:016x}", report.last_tid));
                let commit_wait_ms = u64::try_from(wait.as_millis()).ok();
                seen.push(StorageView { address, state, last_tid, clients: Some(clients), commit_wait_ms });
                let facts = ZeoFacts {
                    writable,
                    last_tid: report.last_tid,
                    clients,
                    waiting: storage.waiting,
                    commit_wait: wait,
                    commits: storage.commits,
                    conflicts: storage.conflicts,
                };
                metrics.zeo(&server.to_string(), report.storages.contains_key(STORAGE).then_some(facts));
            }
            Err(sick) => {
                let state = chain(&sick);
                seen.push(StorageView { address, state, last_tid: None, clients: None, commit_wait_ms: None });
                metrics.zeo(&server.to_string(), None);
            }
        }
    }
    (told, seen)
}

async fn ask(server: &OriginAddr, within: Duration) -> Result<Report, zeo::Sick> {
    zeo::probe(&server.to_string(), STORAGE, clock::mono() + within).await
}

impl Upstream {
    /// An operator takes the storage as it is, whatever it lacks.
    pub fn accept_storage(&self) {
        lock(&self.storage).accept();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_nobody_asks_any_more_leaves_the_metrics() {
        let metrics = Metrics::new();
        let servers = ["zeo1:8100", "zeo2:8100"].map(|server| OriginAddr::parse(server).unwrap());
        let mut shown = Shown { metrics: Arc::clone(&metrics), servers: BTreeSet::new() };
        shown.keep(&servers);
        for server in &servers {
            metrics.zeo(&server.to_string(), None);
        }
        let page = || metrics.encode().1;
        let up = |server: &str| page().contains(&format!("tidegate_zeo_up{{server=\"{server}\"}} 0"));
        assert!(up("zeo1:8100") && up("zeo2:8100"));
        shown.keep(&servers[..1]);
        assert!(up("zeo1:8100") && !up("zeo2:8100"), "a reload has taken it away");
        drop(shown);
        assert!(!up("zeo1:8100"), "and then the upstream");
    }
}
