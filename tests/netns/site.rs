//! The site on top of the pair: two Zopes that are clients of the service address, visitors of stored pages and of pages that
//! need the storage, and a writer whose acknowledged commits must never be lost.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use super::watch;
use super::watch::Asked;
use super::watch::Watch;
use super::watch::lock;

/// Where the edge answers, on the witness.
const EDGE: &str = "127.0.0.1:8000";

/// Those who visit the site, through the edge.
pub struct Site {
    edge: SocketAddr,
    namespace: String,
    stored: Watch,
    needy: Vec<Watch>,
    writer: Watch,
    ledger: Arc<Ledger>,
}

/// What the writer has handed in.
struct Ledger {
    numbers: Mutex<Numbers>,
    paused: AtomicBool,
}

#[derive(Default)]
struct Numbers {
    last: u32,
    /// Their commit was acknowledged.
    acknowledged: BTreeSet<u32>,
}

impl Site {
    /// Lets visitors in, through the edge in `namespace`; the writer's numbers are above `above`.
    pub fn open(namespace: &str, above: u32) -> anyhow::Result<Self> {
        let edge: SocketAddr = EDGE.parse()?;
        // Fresh for two seconds, then served stale while it is rendered anew.
        let stored = Watch::begin(namespace, Duration::from_millis(50), move || good(edge, "GET /news"));
        let ask = move || good(edge, "GET /storage/ping");
        let needy = (0..NEEDY).map(|_| Watch::begin(namespace, Duration::from_millis(200), ask)).collect();
        let numbers = Mutex::new(Numbers { last: above, ..Numbers::default() });
        let ledger = Arc::new(Ledger { numbers, paused: AtomicBool::new(false) });
        let book = Arc::clone(&ledger);
        let writer = Watch::begin(namespace, Duration::from_millis(100), move || book.hand_in(edge));
        Ok(Self { edge, namespace: namespace.to_owned(), stored, needy, writer, ledger })
    }

    /// Whether everybody got what he asked for since `start`.
    pub fn is_served(&self, start: Instant) -> bool {
        self.everybody().all(|watch| watch.served_since(start))
    }

    fn everybody(&self) -> impl Iterator<Item = &Watch> {
        self.needy.iter().chain([&self.stored, &self.writer])
    }

    /// The writer stops, and what it has begun is over; or it goes on.
    pub fn pause_writer(&self, pause: bool) {
        self.ledger.paused.store(pause, Ordering::Relaxed);
        // It holds the lock while it writes.
        drop(lock(&self.ledger.numbers));
    }

    /// No acknowledged commit is missing, and stored pages were always there; what visitors had to suffer since `start`.
    pub fn account(&self, start: Instant) -> anyhow::Result<String> {
        let expected = lock(&self.ledger.numbers).acknowledged.clone();
        let there = self.numbers()?;
        let lost: Vec<&u32> = expected.difference(&there).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let stored = self.stored.since(start);
        let wrong: Vec<String> = stored.iter().filter_map(|asked| asked.result.clone().err()).collect();
        ensure!(wrong.is_empty() && !stored.is_empty(), "visitors of a stored page: {wrong:?}");
        let needy: Vec<Asked> = self.needy.iter().flat_map(|watch| watch.since(start)).collect();
        let mut told = String::new();
        for (who, asked) in [("stored", stored), ("need storage", needy), ("writes", self.writer.since(start))] {
            let failed: BTreeSet<String> = asked.iter().filter_map(|asked| asked.result.clone().err()).collect();
            let count = asked.iter().filter(|asked| asked.result.is_err()).count();
            let longest = asked.iter().map(Asked::took).max().unwrap_or_default().as_secs_f64();
            let _ = write!(told, "; {who}: {} asked, {count} failed, longest {longest:.2} s", asked.len());
            if !failed.is_empty() {
                let _ = write!(told, " {failed:?}");
            }
        }
        let _ = write!(told, "; {} commits, 0 lost", expected.len());
        Ok(told)
    }

    /// The Zope that answers now.
    pub fn who_answers(&self) -> anyhow::Result<String> {
        let reply = self.get("GET /storage/ping")?;
        let name = reply.head.lines().find_map(|line| line.strip_prefix("x-zope: "));
        let name = name.and_then(|name| name.split('/').next()).with_context(|| format!("{reply:?}"))?;
        Ok(name.to_owned())
    }

    fn numbers(&self) -> anyhow::Result<BTreeSet<u32>> {
        let reply = self.get("GET /ledger")?;
        reply.body.lines().map(|line| line.parse().with_context(|| format!("{line:?} in the ledger"))).collect()
    }

    fn get(&self, request: &'static str) -> anyhow::Result<watch::Reply> {
        let edge = self.edge;
        let reply = watch::run_within(&self.namespace, move || Ok(watch::visit(edge, request)?))?;
        ensure!(reply.status == 200, "{request}: {reply:?}");
        Ok(reply)
    }
}

impl Ledger {
    /// One more number, each once: what is not acknowledged may be there or not.
    fn hand_in(&self, edge: SocketAddr) -> Result<(), String> {
        while self.paused.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut numbers = lock(&self.numbers);
        numbers.last += 1;
        let number = numbers.last;
        good(edge, &format!("POST /ledger/add?number={number}"))?;
        numbers.acknowledged.insert(number);
        Ok(())
    }
}

fn good(edge: SocketAddr, request: &str) -> Result<(), String> {
    match watch::visit(edge, request) {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(format!("status {}", reply.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// Visitors at a time whose page needs the storage.
const NEEDY: usize = 3;

impl Drop for Site {
    fn drop(&mut self) {
        self.pause_writer(false);
    }
}
