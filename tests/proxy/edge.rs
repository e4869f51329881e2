//! tidegate within the test's process.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tidegate::app::App;
use tidegate::control::publisher::Publisher;
use tidegate::telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::client::Reply;
use crate::origin::DEADLINE;
use crate::origin::Origin;

/// A running tidegate, stopped when dropped.
pub struct Edge {
    pub dir: TempDir,
    pub publisher: Arc<Publisher>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// What a test changes of the configuration that most of them have: lines for each table.
#[derive(Default)]
pub struct Change<'a> {
    pub listen: &'a str,
    pub server: &'a str,
    pub limits: &'a str,
    pub cache: &'a str,
    pub site: &'a str,
    pub upstream: &'a str,
    pub log: &'a str,
    pub more: &'a str,
}

impl Change<'_> {
    fn file(&self, dir: &TempDir, servers: &[SocketAddr]) -> String {
        let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        let listen = if self.listen.is_empty() { "\"127.0.0.1:0\"" } else { self.listen };
        let mut text = String::new();
        let socket = dir.path().join("admin.sock");
        let log = if self.log.is_empty() { "access = \"off\"" } else { self.log };
        let Self { server, limits, cache, site, upstream, more, .. } = self;
        writeln!(text, "version = 1\n[server]\nlisten = [{listen}]\nworkers = 2\ndrain = \"5s\"\n{server}")
            .expect("text");
        writeln!(text, "[server.limits]\n{limits}\n[cache]\n{cache}\n[log]\n{log}").expect("text");
        writeln!(text, "[admin]\nsocket = \"{}\"", socket.display()).expect("text");
        writeln!(text, "[site.\"www.example.org\"]\nupstream = \"zope\"\n{site}").expect("text");
        let servers =
            if upstream.contains("set") { String::new() } else { format!("servers = [{}]", servers.join(", ")) };
        let check = if upstream.contains("check") { "" } else { "check = { kind = \"off\", every = \"100ms\" }" };
        writeln!(text, "[upstream.zope]\n{servers}\n{check}\n{upstream}").expect("text");
        if !more.contains("limit.per-client") {
            text.push_str("[limit.per-client]\nrate = \"off\"\n");
        }
        text.push_str(more);
        text
    }
}

impl Edge {
    /// In front of `origin`, as most tests want it.
    pub fn of(origin: &Origin) -> Self {
        Self::with(&[origin.address], &Change::default())
    }

    /// In front of these endpoints.
    pub fn with(servers: &[SocketAddr], change: &Change<'_>) -> Self {
        let dir = TempDir::new().expect("a directory");
        Self::in_dir(dir, servers, change)
    }

    /// The same, with files of the test's own beside its configuration.
    pub fn in_dir(dir: TempDir, servers: &[SocketAddr], change: &Change<'_>) -> Self {
        fs::write(dir.path().join("tidegate.toml"), change.file(&dir, servers)).expect("a file");
        let app = App::from_file(dir.path().join("tidegate.toml")).expect("a good configuration").without_signals();
        let stop = app.stopper();
        let (sender, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            let told = app.run(Metrics::new(), |publisher| sender.send(Arc::clone(publisher)).expect("the test waits"));
            told.expect("it runs");
        });
        let publisher = started.recv_timeout(DEADLINE).expect("tidegate starts");
        Self { dir, publisher, stop, thread: Some(thread) }
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    /// Puts another configuration in force, as SIGHUP does.
    pub fn reload(&self, servers: &[SocketAddr], change: &Change<'_>) -> Result<String, String> {
        fs::write(self.config(), change.file(&self.dir, servers)).expect("a file");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.publisher.reload())
    }

    pub fn place(&self, tls: bool) -> SocketAddr {
        self.publisher.places().iter().find(|(is_tls, _)| *is_tls == tls).expect("a listener").1
    }

    pub fn client(&self) -> Client {
        Client::to(self.place(false))
    }

    /// One page on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        self.client().get(path)
    }

    /// One page on a connection of its own, with more header lines.
    pub fn ask(&self, path: &str, more: &str) -> Reply {
        self.client().ask(path, more).reply()
    }

    /// Waits until it is so, and fails at the deadline.
    pub fn wait_until(&self, so: impl Fn(&Self) -> bool) {
        let began = std::time::Instant::now();
        while !so(self) {
            assert!(began.elapsed() < DEADLINE, "it does not come to pass");
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The value of the first metric line that begins so.
    pub fn metric(&self, begins: &str) -> f64 {
        let (_, page) = self.publisher.house().metrics.encode();
        let line = page.lines().find(|line| line.starts_with(begins));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().expect("a number"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "tidegate panicked");
        }
    }
}
