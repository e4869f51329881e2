//! What looks after upstreams, on the control runtime: a task for each endpoint that checks it, one check at a time, each on
//! a connection of its own that takes no thread's place in the count; others for storages, names, and the whole.

use crate::clock;
use crate::semantics::wire::RequestHead;
use crate::units::OriginAddr;
use crate::units::UpstreamName;
use crate::upstream::CheckKind;
use crate::upstream::Hold;
use crate::upstream::Plan;
use crate::upstream::Secure;
use crate::upstream::body::RequestBody;
use crate::upstream::connect;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::exchange::Exchange;
use crate::upstream::live::Standing;
use crate::upstream::live::Upstream;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::health::State;
use crate::upstream::machine::warmup::Phase;
use crate::upstream::resolve;
use crate::upstream::storage;
use http::HeaderMap;
use http::Method;
use http::header;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// The pause between two looks at an endpoint that is warming up, or for which visitors wait, unless it is checked more often.
const OFTEN: Duration = Duration::from_millis(500);

/// The most of a check's page that is read.
const PAGE_MAX: usize = 64 * 1024;

/// An answer to a check is waited for no longer than this, whatever else bounds it.
const ANSWER_MAX: Duration = Duration::from_mins(10);

/// How often an upstream is looked after as a whole.
const PATROL: Duration = Duration::from_millis(500);

/// What is looked after all the time, each by a task of its own.
#[derive(Default)]
pub struct Probers {
    tasks: HashMap<Job, Task>,
    /// Upstreams that nobody names any more and where something is under way still.
    retiring: HashMap<UpstreamName, JoinHandle<()>>,
}

/// What a task looks after, of which upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    /// Checks an endpoint.
    Endpoint(UpstreamName, OriginAddr),
    /// Asks the storage servers.
    Storage(UpstreamName),
    /// Looks a name up.
    Name(UpstreamName, OriginAddr),
    /// Looks after the upstream as a whole.
    Patrol(UpstreamName),
}

struct Task {
    handle: JoinHandle<()>,
    upstream: Arc<Upstream>,
    /// The very endpoint, for another may have come to its address.
    endpoint: Option<Arc<Endpoint>>,
}

impl Probers {
    /// Looks after all these upstreams from now on, and no others.
    pub fn reconcile(&mut self, upstreams: &[Arc<Upstream>]) {
        let mut wanted: HashMap<Job, (Arc<Upstream>, Option<Arc<Endpoint>>)> = HashMap::new();
        for upstream in upstreams {
            let standing = upstream.standing();
            let name = upstream.name();
            let mut want = |job, endpoint| wanted.insert(job, (Arc::clone(upstream), endpoint));
            want(Job::Patrol(name.clone()), None);
            for member in &standing.members {
                let job = Job::Endpoint(name.clone(), member.endpoint.addr.clone());
                want(job, Some(Arc::clone(&member.endpoint)));
            }
            for host in standing.plan.names() {
                want(Job::Name(name.clone(), host.clone()), None);
            }
            // Who had a storage and has none any more is watched on, and thereby released.
            if !standing.plan.storage.is_empty() || upstream.is_held_by(Hold::Storage) {
                want(Job::Storage(name.clone()), None);
            }
        }
        // One that is back keeps its connections again.
        self.retiring.retain(|name, task| {
            let back = wanted.contains_key(&Job::Patrol(name.clone()));
            if back {
                task.abort();
            }
            !back && !task.is_finished()
        });
        self.tasks.retain(|job, task| {
            let same = |endpoint: &Option<Arc<Endpoint>>| match (endpoint, &task.endpoint) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            let stays = wanted.get(job).is_some_and(|(_, endpoint)| same(endpoint));
            if !stays {
                task.handle.abort();
                if let Job::Patrol(name) = job {
                    self.retiring.insert(name.clone(), tokio::spawn(retire(Arc::clone(&task.upstream))));
                }
            }
            stays
        });
        for (at, (job, (upstream, endpoint))) in wanted.into_iter().enumerate() {
            self.tasks.entry(job).or_insert_with_key(|job| {
                let handle = start(job, Arc::clone(&upstream), endpoint.clone(), at);
                Task { handle, upstream, endpoint }
            });
        }
    }
}

/// Closes what an upstream that the configuration names no more still has open, until nothing is under way there: nobody else
/// looks after it.
async fn retire(upstream: Arc<Upstream>) {
    while !upstream.close_all() {
        tokio::time::sleep(PATROL).await;
    }
}

fn start(job: &Job, upstream: Arc<Upstream>, endpoint: Option<Arc<Endpoint>>, at: usize) -> JoinHandle<()> {
    // A few milliseconds apart, so that not all Zopes are asked in one moment.
    let delay = Duration::from_millis(20) * u32::try_from(at % 50).unwrap_or(0);
    match (job, endpoint) {
        (Job::Endpoint(..), Some(endpoint)) => tokio::spawn(watch(upstream, endpoint, delay)),
        (Job::Storage(_), _) => {
            let metrics = Arc::clone(upstream.metrics());
            tokio::spawn(storage::watch(upstream, metrics))
        }
        (Job::Name(_, name), _) => tokio::spawn(resolve::watch(upstream, name.clone())),
        (Job::Patrol(_) | Job::Endpoint(..), _) => tokio::spawn(async move {
            let mut beat = tokio::time::interval(PATROL);
            loop {
                beat.tick().await;
                upstream.patrol();
            }
        }),
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        for task in self.tasks.values().map(|task| &task.handle).chain(self.retiring.values()) {
            task.abort();
        }
    }
}

/// Checks one endpoint for ever. The rules are read anew each time, so a reload counts from the next check on.
async fn watch(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>, delay: Duration) {
    tokio::time::sleep(delay).await;
    // The checks that are still to come soon, for requests broke.
    let mut soon = 0_u32;
    loop {
        let standing = upstream.standing();
        let plan = &standing.plan;
        endpoint.pool.sweep(plan.idle);
        let began = clock::mono();
        if plan.check.kind == CheckKind::Off {
            upstream.try_unchecked();
        } else {
            examine(&upstream, &endpoint, &standing).await;
        }
        let phase = endpoint.condition().phase;
        if matches!(phase, Phase::Cold { .. }) {
            let slowest = warm_up(&endpoint, plan).await;
            upstream.warm(&endpoint, slowest);
        } else if phase != Phase::Warm {
            upstream.warm(&endpoint, None);
        }
        let took = clock::mono().saturating_duration_since(began);
        let mut fallen = pin!(endpoint.fallen.notified());
        // From here on no fall is missed; one that has happened already is seen.
        fallen.as_mut().enable();
        // While nobody serves visitors wait, and a moment earlier counts.
        let awaited = endpoint.condition().health.state() == State::Down && !upstream.anyone_open();
        let often = awaited || soon > 0 || phase != Phase::Warm;
        soon = soon.saturating_sub(1);
        let pause = if often { plan.check.every.min(OFTEN) } else { plan.check.every };
        let doubted = async {
            endpoint.doubted.notified().await;
            // As many as break, it is not checked all the time.
            tokio::time::sleep_until((began + OFTEN).into()).await;
        };
        // All are cancel-safe: a doubt that is forgotten is followed by a check. Requests may find out first that it is down.
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(took).max(Duration::from_millis(10))) => {}
            () = fallen => {}
            () = doubted => soon = plan.check.fall.saturating_sub(1),
        }
    }
}

/// Checks one endpoint once. One whose threads are all taken could answer no page in time: it is only asked for a sign of
/// life, and has time to finish if it gives one.
async fn examine(upstream: &Upstream, endpoint: &Endpoint, standing: &Standing) {
    let plan = &standing.plan;
    let began = clock::mono();
    let mut within = plan.check.timeout;
    let mut alive = false;
    let up = endpoint.condition().health.state() == State::Up;
    if up && upstream.is_full(endpoint.id) && plan.check.kind != CheckKind::Tcp {
        within /= 2;
        alive = tokio::time::timeout(within, pulse(endpoint)).await.unwrap_or(false);
    }
    let result = if alive { None } else { Some(tokio::time::timeout(within, check(endpoint, plan)).await) };
    let word = match &result {
        None => "busy",
        Some(Ok(Ok(()))) => "ok",
        Some(Ok(Err(_))) => "failed",
        Some(Err(_)) => "timeout",
    };
    let took = clock::mono().saturating_duration_since(began);
    for member in standing.members.iter().filter(|member| member.endpoint.id == endpoint.id) {
        member.counters.check(word, took);
    }
    let progressing = endpoint.progressed();
    let evidence = match result.map(|checked| checked.unwrap_or_else(|_| Err("no answer in time".to_owned()))) {
        Some(Ok(())) => Evidence::CheckGood,
        Some(Err(why)) => {
            endpoint.note_error(format!("check: {why}"));
            Evidence::CheckFailed { progressing }
        }
        None => Evidence::CheckFailed { progressing: true },
    };
    upstream.learn(endpoint, evidence);
}

/// Whether the endpoint gives a sign of life though all its threads are taken: it is asked whether it would take a body
/// (RFC 9110 10.1.1), which waitress answers without a thread. A process that is frozen does not; nor do servers that know
/// nothing of it, and one that speaks TLS is not asked.
async fn pulse(endpoint: &Endpoint) -> bool {
    if endpoint.addr.tls() {
        return false;
    }
    let Ok(mut stream) = connect::tcp(&endpoint.addr, Duration::MAX).await else { return false };
    let host = endpoint.addr.authority();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tidegate-check\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut answer = [0; 12];
    // The body never comes, so there is no request.
    stream.write_all(head.as_bytes()).await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
}

/// Fetches each warm-up path once, one after the other; gives the slowest page's time, or nothing when one failed.
async fn warm_up(endpoint: &Endpoint, plan: &Plan) -> Option<Duration> {
    let mut slowest = Duration::ZERO;
    for path in &plan.warmup.paths {
        let began = clock::mono();
        let page =
            tokio::time::timeout(plan.warmup.at_most, get(endpoint, path, plan.secure.as_ref(), plan.timeouts.connect))
                .await;
        if let Err(why) = page.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            endpoint.note_error(format!("warm-up {path}: {why}"));
            return None;
        }
        slowest = slowest.max(clock::mono().saturating_duration_since(began));
    }
    Some(slowest)
}

async fn check(endpoint: &Endpoint, plan: &Plan) -> Result<(), String> {
    let check = &plan.check;
    let path = match &check.kind {
        CheckKind::Off => return Ok(()),
        CheckKind::Tcp => {
            return connect::tcp(&endpoint.addr, check.timeout)
                .await
                .map(drop)
                .map_err(|e| crate::telemetry::chain(&e));
        }
        CheckKind::Http { path } => path,
    };
    get(endpoint, path, plan.secure.as_ref(), check.timeout).await
}

/// Gets a page on a connection of its own. The caller bounds the time.
async fn get(endpoint: &Endpoint, path: &str, secure: Option<&Secure>, connect: Duration) -> Result<(), String> {
    let opened = connect::open(&endpoint.addr, secure, connect).await;
    let connection = opened.map_err(|error| crate::telemetry::chain(&error))?;
    let mut head = RequestHead::new(Method::GET, path, &endpoint.addr.authority(), &HeaderMap::new())
        .map_err(|error| format!("check path `{path}`: {error}"))?;
    head.add(&header::USER_AGENT, b"tidegate-check");
    head.add(&header::CONNECTION, b"close");
    let mut exchange = Exchange::begin(connection, &head, RequestBody::Empty);
    let due = clock::mono() + ANSWER_MAX;
    let answer = poll_fn(|cx| exchange.poll_answer(due, cx)).await.map_err(|error| crate::telemetry::chain(&error))?;
    // The page is read so that waitress does not log a broken connection; one that is too long has proved enough.
    let mut read = 0;
    while read < PAGE_MAX
        && let Some(Ok(data)) = poll_fn(|cx| exchange.poll_data(cx)).await
    {
        read += data.len();
    }
    if answer.status.as_u16() < 500 { Ok(()) } else { Err(format!("status {}", answer.status.as_u16())) }
}
