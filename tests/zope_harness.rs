//! The stand itself, without tidegate: what the tests of the edge and the demonstration rely on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;

use self::harness::Options;
use self::harness::Stand;
use self::harness::http;
use self::harness::process;

#[expect(dead_code, reason = "the tests of the edge use more of it")]
#[path = "zope/harness.rs"]
mod harness;

#[tokio::test]
async fn a_write_through_one_zope_is_read_through_the_other() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let [one, two] = both(&stand);
    assert_eq!(http::get(two, "/counter/value").await?.text(), "0\n");
    assert_eq!(add(one).await?.status, 303);
    read_until(two, "/counter/value", "1\n").await?;

    stand.zope(0).kill()?;
    assert!(http::get(one, "/ok").await.is_err(), "a killed Zope answers");
    assert_eq!(add(two).await?.status, 303);
    stand.zope(0).restart().await?;
    assert_eq!(http::get(one, "/counter/value").await?.text(), "2\n");

    let seen = stand.requests(0);
    assert!(seen.iter().any(|line| line.starts_with("POST /counter/add 303 ")), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn pages_say_how_they_may_be_kept() -> anyhow::Result<()> {
    let stand = start().await?;
    let [one, _] = both(&stand);
    let page = http::get(one, "/docs/page-1").await?;
    assert_eq!(page.header("cache-control"), Some("max-age=0, s-maxage=300"));
    let tag = page.header("etag").expect("a page has an entity tag");
    let again = Request::get("/docs/page-1").header("If-None-Match", tag).body(Full::default())?;
    assert_eq!(http::send(one, again).await?.status, 304);
    for (path, status) in [("/", 200), ("/docs", 200), ("/private", 401), ("/missing", 404), ("/failure", 500)] {
        assert_eq!(http::get(one, path).await?.status, status, "{path}");
    }
    let rewritten = "/VirtualHostBase/https/www.example.org:443/docs/VirtualHostRoot/page-2";
    assert!(http::get(one, rewritten).await?.text().contains("https://www.example.org/page-2\""));
    Ok(())
}

#[tokio::test]
async fn the_storage_can_be_frozen_killed_and_started_again() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let [one, two] = both(&stand);
    // What a Zope has never loaded it cannot show while its storage is away; so look at both pages first.
    for path in ["/docs", "/storage"] {
        assert_eq!(http::get(one, path).await?.status, 200);
    }
    let zeo = stand.zeo().address();
    assert_eq!(process::ruok(zeo).await?["1"]["connections"], 2);

    stand.zeo().freeze()?;
    let asked = tokio::time::timeout(Duration::from_millis(300), process::ruok(zeo)).await;
    assert!(asked.is_err(), "a frozen server answers");
    stand.zeo().thaw()?;
    process::ruok(zeo).await?;

    stand.zeo().kill()?;
    read_until(one, "/storage", "{\n  \"connected\": false\n}\n").await?;
    assert_eq!(http::get(one, "/docs").await?.status, 200, "a page in Zope's own cache needs no storage");
    stand.zeo().restart().await?;
    // A write to a Zope that is still cut off waits and is then tried again by Zope itself.
    assert_eq!(add(two).await?.status, 303);
    read_until(one, "/counter/value", "1\n").await?;
    stand.zeo().stop().await
}

#[tokio::test]
async fn nothing_is_left_behind() -> anyhow::Result<()> {
    let mut stand = start().await?;
    stand.zope(1).freeze()?;
    let dir = stand.dir().to_owned();
    let pids: Vec<u32> = stand.servers().filter_map(|server| server.pid()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| runs(*pid)));
    drop(stand);
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert!(!dir.exists());
    Ok(())
}

#[test]
fn the_minder_ends_what_we_could_not() -> anyhow::Result<()> {
    let minder = process::Minder::start()?;
    let mut killed = minder.spawn(Command::new("sleep").arg("600"))?;
    // The inner shell outlives the outer one unless the whole group is killed; then it has something to say.
    let mut left = Command::new("sh");
    left.args(["-c", "(sleep 30; echo survived) & wait"]).stdout(Stdio::piped());
    let mut left = minder.spawn(&mut left)?;
    minder.kill(&mut killed)?;
    // The end of our side of the pipe is all that the minder sees of our own end.
    drop(minder);
    let ended = left.wait()?;
    assert!(!ended.success(), "{ended}");
    // Ends when the last of them has closed its output, that is, when all are dead.
    let said = left.stdout.take().map(std::io::read_to_string).transpose()?;
    assert_eq!(said.as_deref(), Some(""));
    Ok(())
}

async fn start() -> anyhow::Result<Stand> {
    Stand::start(Options::default(), |line| println!("{line}")).await
}

fn both(stand: &Stand) -> [SocketAddr; 2] {
    <[SocketAddr; 2]>::try_from(stand.zope_addresses()).expect("two Zopes")
}

async fn add(zope: SocketAddr) -> anyhow::Result<http::Reply> {
    http::send(zope, Request::post("/counter/add").body(Full::<Bytes>::default())?).await
}

/// ZEO tells its other clients of a write a moment after the writer has its answer.
async fn read_until(zope: SocketAddr, path: &str, wanted: &str) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    let seen = async {
        loop {
            beat.tick().await;
            if http::get(zope, path).await?.text() == wanted {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen).await?
}

/// Whether a process runs: not gone, and not merely waiting to be reaped.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
