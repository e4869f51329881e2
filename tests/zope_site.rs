//! tidegate, as its binary, in front of a real Zope on a real ZEO server: what visitors and operators see.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::task::JoinSet;

use self::harness::Options;
use self::harness::Stand;
use self::harness::free_address;
use self::harness::http;
use self::harness::http::Reply;

#[expect(dead_code, reason = "the harness's own tests and the demonstration use more of it")]
#[path = "zope/harness.rs"]
mod harness;
#[path = "zope_site/outage.rs"]
mod outage;

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running tidegate; killed when dropped.
struct Edge {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
    socket: PathBuf,
}

impl Edge {
    /// Starts it in front of `stand`, with `upstream` for its sets.
    async fn start(stand: &Stand, upstream: &str) -> anyhow::Result<Self> {
        let address = free_address()?;
        let config = stand.dir().join("tidegate.toml");
        let socket = stand.dir().join("admin.sock");
        fs::write(&config, Self::file(address, &socket, upstream))?;
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .context("start tidegate")?;
        let edge = Self { child, address, config, socket };
        until("tidegate is ready", async || Ok(edge.command(&["status"]).status.success())).await?;
        Ok(edge)
    }

    fn file(address: SocketAddr, socket: &Path, upstream: &str) -> String {
        let check = "check = { path = \"/ok\", every = \"200ms\", timeout = \"2s\", rise = 1, fall = 2 }";
        let check = if upstream.contains("check =") { "" } else { check };
        format!(
            "version = 1\n[server]\nlisten = [\"{address}\"]\ndrain = \"10s\"\n\
             [site.\"www.example.org\"]\ndefault = true\nzope = \"/\"\nupstream = \"zope\"\n\
             [upstream.zope]\n{check}\n{upstream}\n\
             [limit.per-client]\nrate = \"off\"\n[admin]\nsocket = \"{}\"\n[log]\naccess = \"off\"\nlevel = \"warn\"\n",
            socket.display()
        )
    }

    /// Writes another configuration for it, to be put in force by a reload.
    fn configure(&self, upstream: &str) -> anyhow::Result<()> {
        Ok(fs::write(&self.config, Self::file(self.address, &self.socket, upstream))?)
    }

    /// In front of both Zopes of `stand`, in one set.
    async fn of_both(stand: &Stand) -> anyhow::Result<Self> {
        let servers: Vec<String> = stand.zope_addresses().iter().map(|zope| format!("\"{zope}\"")).collect();
        Self::start(stand, &format!("servers = [{}]", servers.join(", "))).await
    }

    /// A verb of its command line, spoken to its socket.
    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(words).arg("--socket").arg(&self.socket).output().expect("tidegate can be run")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        ensure!(sent.success(), "kill -s {name}");
        Ok(())
    }

    /// The sum of a metric over all its labels that hold `label`.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let page =
            Command::new("curl").args(["-s", "--unix-socket"]).arg(&self.socket).arg("http://admin/metrics").output();
        let page = String::from_utf8(page.expect("curl runs").stdout).expect("metrics are text");
        let values = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        http::get(self.address, path).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        http::send(self.address, request.body(Full::<Bytes>::default())?).await
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start() -> anyhow::Result<Stand> {
    Stand::start(Options::default(), |line| println!("{line}")).await
}

/// Asks until it is so, or the deadline is over.
async fn until(what: &str, so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        while !so().await? {
            beat.tick().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, asking).await.with_context(|| format!("waited in vain until {what}"))?
}

fn is_hit(reply: &Reply) -> bool {
    reply.header("cache-status").is_some_and(|status| status.contains("; hit"))
}

/// What reached one of the Zopes, as `METHOD PATH STATUS SECONDS`, with the paths that visitors used.
fn seen(stand: &Stand, at: usize, what: &str) -> usize {
    let visible = |line: &String| match (line.split_once(" /VirtualHostBase/"), line.split_once("/VirtualHostRoot")) {
        (Some((method, _)), Some((_, rest))) => format!("{method} {rest}"),
        _ => line.clone(),
    };
    stand.requests(at).iter().map(visible).filter(|line| line.starts_with(what)).count()
}

/// The same, for both.
fn reached(stand: &Stand, what: &str) -> usize {
    seen(stand, 0, what) + seen(stand, 1, what)
}

/// Visitors who ask for one page after another until they are told to stop; what went wrong is told.
struct Visitors {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Vec<String>)>,
}

impl Visitors {
    fn of(address: SocketAddr, count: usize, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for visitor in 0..count {
            let stop = Arc::clone(&stop);
            tasks.spawn(async move {
                let (mut good, mut wrong) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match http::get(address, &format!("{path}{visitor}-{good}")).await {
                        Ok(reply) if reply.status == 200 => good += 1,
                        Ok(reply) => wrong.push(format!("{} {}", reply.status, reply.text())),
                        Err(error) => wrong.push(format!("{error:#}")),
                    }
                }
                (good, wrong)
            });
        }
        Self { stop, tasks }
    }

    /// How many requests went well, and what the others got.
    async fn leave(mut self) -> anyhow::Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut all, mut wrong) = (0, Vec::new());
        while let Some(visitor) = self.tasks.join_next().await {
            let (good, bad) = visitor?;
            all += good;
            wrong.extend(bad);
        }
        Ok((all, wrong))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_page_is_served_while_every_zope_is_stopped() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    assert!(!is_hit(&edge.get("/docs/page-1").await?));
    stand.zope(0).freeze()?;
    stand.zope(1).freeze()?;
    let page = edge.get("/docs/page-1").await?;
    assert!(is_hit(&page) && page.status == 200 && page.header("age").is_some(), "{page:?}");
    stand.zope(0).kill()?;
    stand.zope(1).kill()?;
    assert!(is_hit(&edge.get("/docs/page-1").await?));
    until("both are seen to be down", async || Ok(!edge.command(&["status"]).status.success())).await?;
    let page = edge.get("/docs/page-2").await?;
    assert_eq!(page.status, 503);
    assert!(page.header("retry-after").is_some() && page.text().contains("try again"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_goes_through_exactly_once() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    for _ in 0..5 {
        assert_eq!(edge.send("POST", "/counter/add", &[]).await?.status, 303);
    }
    stand.zope(0).kill()?;
    for _ in 0..5 {
        // A connection that cannot be made has sent nothing, so the form goes to the Zope that lives.
        assert_eq!(edge.send("POST", "/counter/add", &[]).await?.status, 303);
    }
    assert_eq!(edge.get("/counter/value").await?.text(), "10\n");
    assert_eq!(reached(&stand, "POST /counter/add 303 "), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_edit_and_its_purge_the_next_visitor_sees_the_new_page() -> anyhow::Result<()> {
    let stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    let zope = stand.zope_addresses()[0];
    let edit = async |at: SocketAddr, text: &str| {
        let form = Request::post("/docs/page-1/edit")
            .header("Authorization", "Basic YWRtaW46YWRtaW4=")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Full::from(format!("text={text}")))?;
        let reply = http::send(at, form).await?;
        ensure!(reply.status == 303, "{reply:?}");
        anyhow::Ok(())
    };
    let host = format!("/VirtualHostBase/http/{}/VirtualHostRoot/docs/page-1", edge.address);
    for (round, path) in ["/docs/page-1".to_owned(), host].iter().enumerate() {
        edge.get("/docs/page-1").await?;
        assert!(is_hit(&edge.get("/docs/page-1").await?));
        let text = format!("edited-{round}");
        // Past the edge, so that it cannot know.
        edit(zope, &text).await?;
        assert!(is_hit(&edge.get("/docs/page-1").await?), "until it is purged it is served");
        assert_eq!(edge.send("PURGE", path, &[]).await?.status, 200, "{path}");
        // ZEO tells the other Zope of the edit a moment later.
        until("the new page is seen", async || {
            let page = edge.get("/docs/page-1").await?;
            edge.send("PURGE", path, &[]).await?;
            Ok(page.text().contains(&text))
        })
        .await?;
        assert_eq!(edge.send("PURGE", "/docs/page-5", &[]).await?.status, 404, "nothing is stored there");
    }
    // RFC 9111 4.4: what an editor is sent back to after a write through the edge is asked for anew, without a purge.
    edge.get("/docs/page-1").await?;
    assert!(is_hit(&edge.get("/docs/page-1").await?));
    edit(edge.address, "through-the-edge").await?;
    assert!(!is_hit(&edge.get("/docs/page-1").await?));
    assert_eq!(reached(&stand, "PURGE"), 0, "no purge reaches a Zope");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_one_visitor_is_never_anothers() -> anyhow::Result<()> {
    let stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    let login = [("Authorization", "Basic ZWRpdG9yOmVkaXRvcg==")];
    for _ in 0..2 {
        assert_eq!(edge.send("GET", "/private", &login).await?.status, 200);
        assert_eq!(edge.get("/private").await?.status, 401, "the next visitor is asked who he is");
        let cookie = edge.get("/cookie").await?;
        assert!(cookie.header("set-cookie").is_some() && !is_hit(&cookie), "{cookie:?}");
    }
    let german = edge.send("GET", "/language", &[("Accept-Language", "de")]).await?.text();
    let english = edge.send("GET", "/language", &[("Accept-Language", "en")]).await?.text();
    assert_ne!(german, english);
    assert_eq!(edge.send("GET", "/language", &[("Accept-Language", "de")]).await?.text(), german);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_zope_dies_and_the_other_takes_all() -> anyhow::Result<()> {
    let mut stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    let visitors = Visitors::of(edge.address, 20, "/echo?");
    until("the load reaches both", async || Ok((0..2).all(|at| seen(&stand, at, "GET /echo") > 20))).await?;
    stand.zope(0).kill()?;
    let before = seen(&stand, 1, "GET /echo");
    until("the other has taken over", async || Ok(seen(&stand, 1, "GET /echo") > before + 100)).await?;
    let (good, wrong) = visitors.leave().await?;
    assert!(good > 100);
    // Four threads: no more than four requests can have been under way on it.
    assert!(wrong.len() <= 4, "{wrong:?}");

    stand.zope(0).restart().await?;
    until("it is up again", async || {
        let status = String::from_utf8(edge.command(&["status"]).stdout)?;
        Ok(!status.contains(" down "))
    })
    .await?;
    let before = seen(&stand, 0, "GET /echo");
    until("it gets requests again", async || {
        edge.get("/echo").await?;
        Ok(seen(&stand, 0, "GET /echo") > before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_are_switched_under_load_without_a_failure() -> anyhow::Result<()> {
    let stand = start().await?;
    let zopes = stand.zope_addresses();
    let sets = format!("active = \"one\"\nset.one = [\"{}\"]\nset.two = [\"{}\"]", zopes[0], zopes[1]);
    let edge = Edge::start(&stand, &sets).await?;
    let visitors = Visitors::of(edge.address, 10, "/echo?");
    let served = |at: usize| seen(&stand, at, "GET /echo");
    for (name, at) in [("two", 1), ("one", 0), ("two", 1)] {
        let before = served(at);
        let done = edge.command(&["use", "zope", name]);
        assert!(done.status.success(), "{done:?}");
        until("the new set serves", async || Ok(served(at) > before + 20)).await?;
    }
    // What was under way on the old set has ended; nothing new comes to it.
    let old = served(0);
    let before = served(1);
    until("more is served", async || Ok(served(1) > before + 20)).await?;
    assert_eq!(served(0), old, "the old set gets nothing new");
    let (_, wrong) = visitors.leave().await?;
    assert!(wrong.is_empty(), "{wrong:?}");
    let refused = edge.command(&["use", "zope", "three"]);
    assert!(!refused.status.success() && String::from_utf8(refused.stderr)?.contains("there are: one, two"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_nothing() -> anyhow::Result<()> {
    let stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    edge.get("/docs/page-3").await?;
    let visitors = Visitors::of(edge.address, 10, "/echo?");
    let mut requests = 0.0;
    for round in 1..=40 {
        edge.signal("HUP")?;
        until("the reload is counted", async || {
            Ok(edge.metric("tidegate_config_reloads_total", "ok") >= f64::from(round))
        })
        .await?;
        let now = edge.metric("tidegate_http_requests_total", "");
        assert!(now >= requests, "counters only grow");
        requests = now;
    }
    let (good, wrong) = visitors.leave().await?;
    assert!(wrong.is_empty() && good > 0, "{wrong:?}");
    assert!(is_hit(&edge.get("/docs/page-3").await?), "what was stored is still stored");

    let mut text = fs::read_to_string(&edge.config)?;
    writeln!(text, "[upstream.zope2]\nthread = 2")?;
    fs::write(&edge.config, text)?;
    let refused = edge.command(&["reload"]);
    let report = String::from_utf8(refused.stderr)?;
    assert!(
        !refused.status.success() && report.contains("did you mean `threads`?") && report.contains("stays in force")
    );
    assert!(edge.metric("tidegate_config_last_reload_success", "") < 0.5);
    assert!(is_hit(&edge.get("/docs/page-3").await?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_finishes_what_is_under_way() -> anyhow::Result<()> {
    let stand = start().await?;
    let mut edge = Edge::of_both(&stand).await?;
    let slow = tokio::spawn(http::get(edge.address, "/slow?seconds=1"));
    until("the slow page is under way", async || Ok(edge.metric("tidegate_upstream_in_flight", "") > 0.5)).await?;
    edge.signal("TERM")?;
    assert_eq!(slow.await??.status, 200);
    let status = tokio::task::spawn_blocking(move || edge.child.wait().map(|status| (status, edge))).await??;
    assert!(status.0.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_cannot_speak_to_virtual_host_monster() -> anyhow::Result<()> {
    let stand = start().await?;
    let edge = Edge::of_both(&stand).await?;
    let page = edge.send("GET", "/echo", &[("Host", "www.example.org")]).await?.text();
    assert!(page.contains("\"http://www.example.org/echo\""), "{page}");
    let before = reached(&stand, "GET /") - reached(&stand, "GET /ok");
    for path in
        ["/_vh_evil/echo", "/x%2F_vh_evil/echo", "/docs/VirtualHostRoot/echo", "/%2e%2e/echo", "/docs/..%2f..%2fecho"]
    {
        assert_eq!(edge.get(path).await?.status, 400, "{path}");
    }
    assert_eq!(reached(&stand, "GET /") - reached(&stand, "GET /ok"), before, "nothing of it reaches a Zope");
    Ok(())
}
