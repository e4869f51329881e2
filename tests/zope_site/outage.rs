//! The storage dies, a Zope is full, a Zope freezes: what visitors get meanwhile.

use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::Edge;
use crate::harness::Options;
use crate::harness::Stand;
use crate::harness::http;
use crate::is_hit;
use crate::start;
use crate::until;

/// A request that was made: what it was for, when, how long it took, what came of it.
struct Made {
    path: &'static str,
    begun: Instant,
    took: Duration,
    status: Result<u16, String>,
}

/// Fifty requests a second: stored pages, pages that have become stale, pages that need the storage.
const PATHS: [&str; 5] = ["/docs/page-1", "/news", "/docs/page-2", "/storage/ping", "/news"];

fn p99(made: &[&Made]) -> Duration {
    let mut took: Vec<Duration> = made.iter().map(|made| made.took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_storage_dies_for_ten_seconds_under_load_and_no_visitor_sees_an_error() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let servers: Vec<String> = stand.zope_addresses().iter().map(|zope| format!("\"{zope}\"")).collect();
    let zeo = stand.zeo().address();
    let lines = format!(
        "servers = [{}]\nstorage = [\"{zeo}\"]\nstorage_clients = 2\nqueue = {{ hold = \"60s\", wait = \"30s\" }}",
        servers.join(", ")
    );
    let edge = Edge::start(&stand, &lines).await?;
    for path in PATHS {
        for _ in 0..4 {
            ensure!(edge.get(path).await?.status == 200, "{path}");
        }
    }
    let (mut asking, address) = (JoinSet::new(), edge.address);
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    let start = Instant::now();
    let (mut killed, mut back, mut at) = (None, None, 0);
    // Three seconds of peace, ten without the storage, three after it came back.
    while back.is_none_or(|back: Instant| back.elapsed() < Duration::from_secs(3)) {
        beat.tick().await;
        if killed.is_none() && start.elapsed() >= Duration::from_secs(3) {
            stand.zeo().kill()?;
            killed = Some(Instant::now());
        }
        if back.is_none() && killed.is_some_and(|killed: Instant| killed.elapsed() >= Duration::from_secs(10)) {
            stand.zeo().launch()?;
            back = Some(Instant::now());
        }
        let path = PATHS[at % PATHS.len()];
        at += 1;
        asking.spawn(async move {
            let begun = Instant::now();
            let reply = http::get(address, path).await;
            let status = reply.map(|reply| reply.status.as_u16()).map_err(|error| format!("{error:#}"));
            Made { path, begun, took: begun.elapsed(), status }
        });
    }
    let made = asking.join_all().await;
    let (Some(killed), Some(back)) = (killed, back) else { anyhow::bail!("it was killed") };
    let failed = |made: &&Made| made.status != Ok(200);
    let told = |made: &Made| format!("{} {:?} after {:?}", made.path, made.status, made.took);
    let stored: Vec<&Made> = made.iter().filter(|made| made.path != "/storage/ping").collect();
    let wrong: Vec<String> = stored.iter().copied().filter(failed).map(told).collect();
    assert!(wrong.is_empty(), "stored pages: {wrong:?}");
    let without: Vec<&Made> = stored.iter().copied().filter(|made| (killed..back).contains(&made.begun)).collect();
    let parked = |made: &&Made| made.path == "/storage/ping" && (killed..back).contains(&made.begun);
    let waited: Vec<&Made> = made.iter().filter(parked).collect();
    let wrong: Vec<String> = waited.iter().copied().filter(failed).map(told).collect();
    println!(
        "{} requests; without the storage {} stored pages, p99 {:?}; {} pages that need it, {} of them failed, the longest took {:?}",
        made.len(),
        without.len(),
        p99(&without),
        waited.len(),
        wrong.len(),
        waited.iter().map(|made| made.took).max().unwrap_or_default()
    );
    assert!(wrong.is_empty() && waited.len() > 50, "who waited for the storage: {wrong:?}");
    // 50 ms on a machine that has nothing else to do.
    assert!(p99(&without) < Duration::from_secs(1), "{:?}", p99(&without));
    assert!(edge.metric("tidegate_hold_released_total", "served") > 20.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zope_whose_threads_are_all_taken_is_busy_and_a_frozen_one_is_down() -> anyhow::Result<()> {
    let mut stand = Stand::start(Options { zopes: 1, threads: 2 }, |line| println!("{line}")).await?;
    let zope = stand.zope(0).address();
    let check = "check = { path = \"/ok\", every = \"500ms\", timeout = \"4s\", rise = 1, fall = 2 }";
    let edge = Edge::start(&stand, &format!("threads = 2\nservers = [\"{zope}\"]\n{check}")).await?;
    let mut slow = JoinSet::new();
    // Two pages, for equal requests would become one.
    for path in ["/slow?seconds=60", "/slow?seconds=61"] {
        slow.spawn(http::get(edge.address, path));
    }
    until("both threads are taken", async || Ok(edge.metric("tidegate_upstream_in_flight", "") > 1.5)).await?;
    until("it was asked for a sign of life ten times", async || {
        let status = String::from_utf8(edge.command(&["status"]).stdout)?;
        ensure!(status.contains(" busy "), "{status}");
        Ok(edge.metric("tidegate_upstream_checks_total", "\"busy\"") > 9.5)
    })
    .await?;
    assert!(edge.metric("tidegate_upstream_state_changes_total", "down") < 0.5);
    let frozen = Instant::now();
    stand.zope(0).freeze()?;
    until("it is down", async || Ok(edge.metric("tidegate_upstream_state", "\"down\"") > 0.5)).await?;
    println!("down {:?} after it froze; `fall` times `timeout` is 8 s", frozen.elapsed());
    assert!(frozen.elapsed() < Duration::from_secs(20));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_lost_commits_is_refused_until_the_whole_one_is_back_or_an_operator_takes_it()
-> anyhow::Result<()> {
    let mut stand = Stand::start(Options { zopes: 1, threads: 4 }, |line| println!("{line}")).await?;
    let data = stand.dir().join("zeo").join("Data.fs");
    let (behind, whole) = (stand.dir().join("behind.fs"), stand.dir().join("whole.fs"));
    // What a replica would have that has not got the last commit.
    fs::copy(&data, &behind)?;
    let (zope, zeo) = (stand.zope(0).address(), stand.zeo().address());
    let lines = format!("servers = [\"{zope}\"]\nstorage = [\"{zeo}\"]\nqueue = {{ hold = \"60s\", wait = \"60s\" }}");
    let edge = Edge::start(&stand, &lines).await?;
    let last = || edge.metric("tidegate_zeo_last_transaction_timestamp_seconds", "");
    until("the storage was asked", async || Ok(last() > 0.0)).await?;
    let before = last();
    ensure!(edge.send("POST", "/counter/add", &[]).await?.status.as_u16() < 400);
    until("the commit was seen", async || Ok(last() > before)).await?;
    let committed = last();
    ensure!(edge.get("/docs/page-1").await?.status == 200);

    let held = || edge.metric("tidegate_hold_active", "storage") > 0.5;
    let parked = || edge.metric("tidegate_hold_requests", "") > 0.5;
    let exchange = |stand: &mut Stand, copy: &Path| -> anyhow::Result<()> {
        stand.zeo().kill()?;
        // The index belongs to the file that was there.
        let _ = fs::remove_file(data.with_extension("fs.index"));
        fs::copy(copy, &data)?;
        stand.zeo().launch()
    };
    stand.zeo().kill()?;
    fs::copy(&data, &whole)?;
    exchange(&mut stand, &behind)?;
    stand.zeo().ready().await?;
    let refused = async || {
        let status = String::from_utf8(edge.command(&["status"]).stdout)?;
        Ok(held()
            && last() > 0.0
            && last() < committed
            && status.contains("HELD by storage")
            && status.contains("lacks"))
    };
    until("the storage that lost a commit runs and is refused", refused).await?;
    let stored = edge.get("/docs/page-1").await?;
    assert!(stored.status == 200 && is_hit(&stored), "{stored:?}");
    let address = edge.address;
    let waits = tokio::spawn(async move { http::get(address, "/counter/value").await });
    until("a page that needs the storage waits", async || Ok(parked())).await?;

    exchange(&mut stand, &whole)?;
    let answer = waits.await??;
    assert_eq!((answer.status.as_u16(), answer.text().trim()), (200, "1"), "the commit is there");
    assert!(!held());

    exchange(&mut stand, &behind)?;
    stand.zeo().ready().await?;
    until("it is refused again", refused).await?;
    // Zope refuses a storage that knows less than itself, too; it has to be started anew for it.
    stand.zope(0).restart().await?;
    let waits = tokio::spawn(async move { http::get(address, "/counter/value").await });
    until("a page that needs the storage waits", async || Ok(parked())).await?;
    ensure!(edge.command(&["release", "zope"]).status.success());
    let answer = waits.await??;
    assert_eq!((answer.status.as_u16(), answer.text().trim()), (200, "0"), "the operator has taken what there is");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_storages_the_one_that_lags_is_refused_when_it_is_the_only_one_left_unless_it_may_lag_so_far()
-> anyhow::Result<()> {
    let mut stand = Stand::start(Options { zopes: 1, threads: 4 }, |line| println!("{line}")).await?;
    // A replica that has not got the last commit, and takes writes all the same.
    let mut lagging = stand.another_zeo(&stand.dir().join("zeo").join("Data.fs"))?;
    let (zope, zeo) = (stand.zope(0).address(), stand.zeo().address());
    let second = lagging.address();
    let lines = |lag: &str| {
        format!(
            "servers = [\"{zope}\"]\nstorage = [\"{zeo}\", \"{second}\"]\nstorage_lag = \"{lag}\"\n\
             queue = {{ hold = \"60s\", wait = \"60s\" }}"
        )
    };
    let edge = Edge::start(&stand, &lines("1s")).await?;
    let last = |server| edge.metric("tidegate_zeo_last_transaction_timestamp_seconds", &format!("\"{server}\""));
    until("the storage was asked", async || Ok(last(zeo) > 0.0)).await?;
    let before = last(zeo);
    ensure!(edge.send("POST", "/counter/add", &[]).await?.status.as_u16() < 400);
    until("the commit was seen", async || Ok(last(zeo) > before)).await?;
    lagging.launch()?;
    lagging.ready().await?;
    until("both are asked", async || Ok(last(second) > 0.0)).await?;
    assert!(last(second) < last(zeo) - 1.0, "it lags");
    let held = || edge.metric("tidegate_hold_active", "storage") > 0.5;
    assert!(!held(), "while the whole one serves, the other does no harm");
    ensure!(edge.get("/counter/value").await?.text().trim() == "1");

    stand.zeo().kill()?;
    let refused = async || {
        let status = String::from_utf8(edge.command(&["status"]).stdout)?;
        Ok(held() && status.contains("HELD by storage") && status.contains("lacks"))
    };
    until("the one that lags is refused", refused).await?;
    stand.zeo().restart().await?;
    until("the whole one is back", async || Ok(!held())).await?;
    ensure!(edge.get("/counter/value").await?.text().trim() == "1");

    stand.zeo().kill()?;
    until("it is refused again", refused).await?;
    // What it lacks is as old as the site that the tests share.
    edge.configure(&lines("87600h"))?;
    ensure!(edge.command(&["reload"]).status.success());
    until("within the operator's bound it is taken", async || Ok(!held())).await
}
