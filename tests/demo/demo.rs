//! `cargo run --example demo`: tidegate in front of a real Zope site, on this machine, to be played with.
//!
//! Starts a ZEO server and two Zopes (Python 3.11 or later is all that is needed; the rest is installed under the target
//! directory the first time), writes a configuration for them, runs tidegate with it, and prints what to try. A server
//! that is killed comes back after ten seconds. Ctrl-C, SIGTERM or `--for SECONDS` end everything.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use anyhow::anyhow;
use clap::Parser;
use tidegate::app::App;
use tidegate::telemetry::log::Diary;
use tidegate::telemetry::log::LogFormat;
use tidegate::telemetry::log::Verbosity;
use tidegate::telemetry::metrics::Metrics;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::harness::Options;
use self::harness::Stand;

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../zope/harness.rs"]
mod harness;

/// The command line: an example's build makes no other program.
const TIDEGATE: &str = if cfg!(debug_assertions) { "cargo run -q --" } else { "cargo run -q --release --" };

/// tidegate in front of a real Zope site, on this machine.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// End when the site has run for so many seconds; without it, on Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The port of the loopback to serve the site on; without it 8080, or another if that is taken.
    #[arg(long)]
    port: Option<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut end = End::new()?;

    println!("1. A Zope site: one storage server, two Zopes");
    let mut stand = tokio::select! {
        () = end.come() => return Ok(()),
        stand = Stand::start(Options::default(), |line| println!("   {line}")) => stand?,
    };

    let listen = listen_address(arguments.port)?;
    let config = stand.dir().join("tidegate.toml");
    fs::write(&config, configuration(listen, &stand)).context("write the configuration")?;
    println!("2. tidegate, with the configuration {}", config.display());
    let edge = start_edge(&config).await?;
    println!("   it serves http://{listen}/");

    println!("3. Try, in another terminal:\n{}", suggestions(listen, &mut stand));
    match arguments.seconds {
        Some(seconds) => println!("4. Running for {seconds} s, or until Ctrl-C"),
        None => println!("4. Running; Ctrl-C ends everything"),
    }
    end.at = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let outcome = keep_up(&mut stand, end).await;
    println!("5. Ending");
    edge.stop().await?;
    drop(stand);
    outcome
}

/// tidegate running inside this process.
struct Edge {
    stop: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Edge {
    /// Lets requests under way finish, and ends.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined.map_err(|_| anyhow!("tidegate panicked"))?
    }
}

/// Starts tidegate with a configuration file; it serves when this returns.
async fn start_edge(config: &Path) -> anyhow::Result<Edge> {
    let app = App::from_file(config.to_owned())?.without_signals();
    let metrics = Metrics::new();
    Diary::open(Verbosity::Warn, LogFormat::Text, tidegate::clock::mono)?;
    let stop = app.stopper();
    let (started, serving) = oneshot::channel();
    let thread = thread::spawn(move || {
        // Who waits for it may have been told to end meanwhile.
        let tell = |_: &_| started.send(()).unwrap_or(());
        app.run(metrics, tell)
    });
    if serving.await.is_err() {
        // It ended before it served: its error says why.
        return match thread.join() {
            Ok(outcome) => Err(outcome.err().unwrap_or_else(|| anyhow!("tidegate ended at once"))),
            Err(_) => Err(anyhow!("tidegate panicked")),
        };
    }
    Ok(Edge { stop, thread })
}

fn configuration(listen: SocketAddr, stand: &Stand) -> String {
    let servers: Vec<String> = stand.zope_addresses().iter().map(|address| format!("\"{address}\"")).collect();
    let dir = stand.dir().display();
    format!(
        r#"version = 1

[server]
listen = ["{listen}"]
drain = "2s"

[site.demo]
default = true                  # whatever name the visitor uses
zope = "/"                      # visitors see the root of the Zope
upstream = "zope"

[upstream.zope]
threads = 4                     # as waitress has; never more requests at one Zope
servers = [{servers}]
check = {{ kind = "http", path = "/ok", every = "1s", timeout = "800ms" }}

[limit.per-client]
rate = "off"                    # you may hammer it from one address

[admin]
socket = "{dir}/admin.sock"

[log]
access_file = "{dir}/access.log"
"#,
        servers = servers.join(", "),
    )
}

/// What is worth trying, each with a command that can be copied.
fn suggestions(site: SocketAddr, stand: &mut Stand) -> String {
    let heads = "| grep -iE '^(HTTP|Age|Cache-Status|X-Zope)'";
    let pid = |pid: Option<u32>| pid.map_or_else(String::new, |pid| pid.to_string());
    let (zope, zeo) = (pid(stand.zope(0).pid()), pid(stand.zeo().pid()));
    let dir = stand.dir().display();
    let list = [
        ("a page, twice: the second time from the cache", format!("curl -si http://{site}/docs/page-1 {heads}")),
        ("have it forgotten, as Plone would", format!("curl -X PURGE http://{site}/docs/page-1")),
        ("look again, edit it, and look once more", {
            let edit = format!("curl -si -u admin:admin -d text=changed http://{site}/docs/page-1/edit {heads}");
            format!("curl -si http://{site}/docs/page-1 {heads}; {edit}; curl -s http://{site}/docs/page-1")
        }),
        ("a form that writes to the ZODB; never stored", format!("curl -sL -d '' http://{site}/counter/add")),
        ("a page for members: 401, and not kept for the next", format!("curl -si http://{site}/private {heads}")),
        ("the same with a login", format!("curl -si -u editor:editor http://{site}/private {heads}")),
        ("an image with validators", format!("curl -sio /dev/null -D- http://{site}/images/cached.png")),
        ("one URL in two languages", format!("curl -s -H 'Accept-Language: de' http://{site}/language")),
        ("ten visitors, one slow page, one rendering", {
            let fetch = format!("curl -s -o /dev/null 'http://{site}/slow?seconds=2&maxage=30'");
            format!("time (for i in $(seq 10); do {fetch} & done; wait)")
        }),
        ("what tidegate is doing", format!("{TIDEGATE} status --socket {dir}/admin.sock")),
        ("why a page is kept, or not", {
            format!("{TIDEGATE} explain --socket {dir}/admin.sock http://{site}/docs/page-1")
        }),
        ("kill a Zope, and go on reading", format!("kill -9 {zope}; curl -si http://{site}/news {heads}")),
        (
            "kill the storage, and go on reading",
            format!("kill -9 {zeo}; curl -sio /dev/null -D- http://{site}/images/cached.png {heads}"),
        ),
        ("what reached the Zopes", format!("tail -n 5 {dir}/zope*/requests")),
    ];
    let mut text = String::new();
    for (what, command) in list {
        let _ = writeln!(text, "   - {what}\n       {command}");
    }
    text
}

/// Brings back what is killed, after a while, until the end has come.
async fn keep_up(stand: &mut Stand, mut end: End) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    let mut gone_since: Option<Instant> = None;
    loop {
        tokio::select! {
            () = end.come() => return Ok(()),
            _ = beat.tick() => {}
        }
        let Some(server) = stand.servers().find_map(|server| match server.ended() {
            Ok(None) => None,
            Ok(Some(_)) | Err(_) => Some(server),
        }) else {
            continue;
        };
        let Some(since) = gone_since else {
            println!("   {} has ended; it comes back in {} s", server.name(), BACK_AFTER.as_secs());
            gone_since = Some(Instant::now());
            continue;
        };
        if since.elapsed() < BACK_AFTER {
            continue;
        }
        gone_since = None;
        tokio::select! {
            () = end.come() => return Ok(()),
            back = server.restart() => back?,
        }
        println!("   {} is back, process {}", server.name(), server.pid().unwrap_or_default());
    }
}

/// When to end: a signal, or the time that was asked for, which counts from when the site runs.
struct End {
    interrupt: Signal,
    terminate: Signal,
    at: Option<Instant>,
}

impl End {
    fn new() -> anyhow::Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        Ok(Self { interrupt, terminate, at: None })
    }

    async fn come(&mut self) {
        let time = async {
            match self.at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = time => {}
        }
    }
}

fn listen_address(port: Option<u16>) -> anyhow::Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(8080)));
    if port.is_some() || TcpListener::bind(usual).is_ok() {
        return Ok(usual);
    }
    harness::free_address()
}

/// Long enough to see what it is like without.
const BACK_AFTER: Duration = Duration::from_secs(10);
