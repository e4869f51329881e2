//! Start, assemble, and take down in reverse.
//!
//! The calling thread is control: signals, admin, checks, reloads. Each worker thread serves visitors. What keeps tidegate
//! from starting is told whole, and nothing is left half-started.

use crate::acme;
use crate::admission::memory;
use crate::admission::pressure::Gauge;
use crate::admission::pressure::Level;
use crate::cache;
use crate::cache::Cache;
use crate::cache::disk;
use crate::cache::disk::Disk;
use crate::clock;
use crate::config;
use crate::config::Config;
use crate::config::check::leaves_too_little;
use crate::config::pair;
use crate::config::values;
use crate::control::admin::Admin;
use crate::control::failover;
use crate::control::publisher::Publisher;
use crate::control::publisher::Source;
use crate::edge::Edge;
use crate::edge::permits::Permits;
use crate::edge::shedding::Shedding;
use crate::edge::spool::Spool;
use crate::edge::worker;
use crate::heartbeat::guard;
use crate::heartbeat::pair::Pair;
use crate::heartbeat::pair::try_keys;
use crate::privilege;
use crate::privilege::Account;
use crate::service;
use crate::service::Inherited;
use crate::snapshot;
use crate::snapshot::House;
use crate::snapshot::Snapshot;
use crate::snapshot::Snapshots;
use crate::telemetry;
use crate::telemetry::access::AccessLog;
use crate::telemetry::access::AccessSettings;
use crate::telemetry::access::Format;
use crate::telemetry::access::Target;
use crate::telemetry::metrics;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tickets;
use crate::upstream::Registry;
use crate::upstream::Upstream;
use crate::upstream::probe::Probers;
use anyhow::Context;
use anyhow::anyhow;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;
use tracing::warn;

/// How often idle rate buckets are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// The memory of a machine that does not tell.
const SMALL_MACHINE: u64 = 1 << 30;

/// How often the process's memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// How long the access log may take for its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How long the cache on disk has to write what it has not yet.
const LAST_PAGES: Duration = Duration::from_secs(10);

/// A tidegate that is ready to run.
pub struct App {
    config: Config,
    source: Source,
    /// Take the process's signals: HUP, USR1, TERM, INT.
    signals: bool,
    stop: CancellationToken,
    inherited: Inherited,
}

impl App {
    /// From a file.
    ///
    /// # Errors
    /// The report of everything that is wrong with it.
    pub fn from_file(path: PathBuf) -> anyhow::Result<Self> {
        let loaded = config::load(&path).map_err(|report| anyhow!("{report}"))?;
        for warning in &loaded.warnings {
            eprintln!("{warning}");
        }
        Ok(Self::new(loaded.config, Source::File(path)))
    }

    /// From a configuration at hand.
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        Self::new(config, Source::Arguments)
    }

    fn new(config: Config, source: Source) -> Self {
        Self { config, source, signals: true, stop: CancellationToken::new(), inherited: Inherited::default() }
    }

    /// Takes over the sockets that the service manager has opened, then becomes `server.user`. To be called before there is
    /// a second thread.
    ///
    /// # Errors
    /// What keeps it from becoming him.
    pub fn into_service(mut self) -> anyhow::Result<Self> {
        self.inherited = Inherited::take_over().context("take over the sockets of the service manager")?;
        if let Some(user) = &self.config.server.user {
            let account = Account::find(user, self.config.server.group.as_deref())?;
            if let values::Switchable::On(socket) = &self.config.admin.socket
                && let Some(directory) = socket.parent()
            {
                account.provide(directory, 0o755)?;
            }
            if self.config.heartbeat.node.is_some() {
                account.provide(&self.config.heartbeat.state_dir, 0o700)?;
            }
            if let Some(directory) = &self.config.cache.disk {
                account.provide(directory, 0o700)?;
            }
            if self.config.tls.acme.email.is_some() {
                account.provide(&self.config.tls.acme.store, 0o700)?;
            }
            account.assume()?;
        }
        Ok(self)
    }

    /// Leaves the process's signals alone: for a program that runs tidegate inside itself.
    #[must_use]
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// Ends it like SIGTERM.
    #[must_use]
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The configuration it starts with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs until it is told to stop; `started` is called once visitors are served.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn run(self, metrics: Arc<Metrics>, started: impl FnOnce(&Arc<Publisher>)) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("tidegate-control")
            .build()
            .context("start the control runtime")?;
        runtime.block_on(self.control(metrics, started))
    }

    async fn control(mut self, metrics: Arc<Metrics>, started: impl FnOnce(&Arc<Publisher>)) -> anyhow::Result<()> {
        // Before anybody can see that we are here: a HUP that nobody takes ends the process.
        let signals = if self.signals { Some(Signals::take()?) } else { None };
        let access = open_access_log(&self.config)?;
        metrics.watch_access_log(&access);
        let house = Arc::new(House {
            snapshots: Arc::new(Snapshots::new(Snapshot::empty())),
            metrics: Arc::clone(&metrics),
            access,
            cache: Arc::new(Cache::new(cache_settings(&self.config))),
            upstreams: Registry::new(metrics),
            limits: Mutex::default(),
            tickets: Tickets::new().context("make TLS ticket keys")?,
            live: Arc::default(),
        });
        open_disk(&self.config, &house.cache);
        let permits = Permits::new();
        let workers = workers(&self.config);
        let admin = open_admin(&self.config).await?;
        let publisher = Publisher::start(
            Arc::clone(&house),
            Arc::clone(&permits),
            self.source.clone(),
            self.config.clone(),
            workers,
            std::mem::take(&mut self.inherited),
        )
        .map_err(|problems| anyhow!("{}", problems.join("\n")))?;
        show_live_state(&publisher);
        let follower = join_pair(&self.config, &publisher)?;

        let abandon = CancellationToken::new();
        let edge = Arc::new(Edge {
            snapshots: Arc::clone(&house.snapshots),
            cache: Arc::clone(&house.cache),
            metrics: Arc::clone(&house.metrics),
            access: house.access.clone(),
            permits,
            spool: Spool::default(),
            shedding: Arc::new(Shedding::new(&self.stop)),
        });
        let crew = start_workers(workers, &edge, &publisher, &self.stop, &abandon)?;
        let admin_stop = CancellationToken::new();
        let metrics_at: Vec<String> = admin.tcp_addrs().iter().map(ToString::to_string).collect();
        let admin = tokio::spawn(admin.serve(Arc::clone(&publisher), admin_stop.clone()));
        let places: Vec<String> = publisher
            .places()
            .iter()
            .map(|(tls, addr)| format!("{}://{addr}", if *tls { "https" } else { "http" }))
            .collect();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = places.join(" "),
            workers,
            metrics = metrics_at.join(" "),
            "serving"
        );
        if self.signals {
            // A member of the pair has to be.
            if privilege::is_root() && self.config.heartbeat.member().is_none() {
                warn!("tidegate serves as root; set server.user to somebody who may do less");
            }
            for addr in publisher.unwanted_sockets() {
                warn!(%addr, "the service manager has opened a socket that is in no server.listen; nobody is heard there");
            }
            service::ready(&publisher.summary());
        }
        started(&publisher);

        self.watch(signals, &publisher, &edge.shedding).await?;
        if let Some(pair) = publisher.pair() {
            pair.stop().await;
        }
        // It ends with the heartbeat.
        drop(follower);
        take_down(&publisher, crew, &abandon).await;
        admin_stop.cancel();
        if let Some(disk) = house.cache.disk().cloned() {
            // Whatever becomes of it, the next start sees what it can trust.
            let _ = tokio::task::spawn_blocking(move || disk.close(LAST_PAGES)).await;
        }
        // It ends with its token; a panic in it concerns nobody any more.
        let _ = admin.await;
        if !house.access.close(LAST_LINES) {
            warn!("the last access lines could not be written in time");
        }
        info!("stopped");
        Ok(())
    }

    /// Signals, checks and housekeeping, until the end.
    async fn watch(
        &self,
        mut signals: Option<Signals>,
        publisher: &Arc<Publisher>,
        shedding: &Arc<Shedding>,
    ) -> anyhow::Result<()> {
        let mut probers = Probers::default();
        let mut acme = acme::Agent::default();
        let mut changed = publisher.changed();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut memory = MemoryWatch::new(shedding);
        let mut memory_due = tokio::time::interval(MEMORY_EVERY);
        let mut alive = service::watchdog_pause().filter(|_| self.signals).map(tokio::time::interval);
        loop {
            let (house, snapshot) = (publisher.house(), publisher.house().snapshots.load_full());
            acme.follow(snapshot.acme.as_ref(), &house.live, &house.metrics);
            let upstreams: Vec<Arc<Upstream>> = snapshot.upstreams.values().cloned().collect();
            drop(snapshot);
            probers.reconcile(&upstreams);
            let event = tokio::select! {
                event = next_signal(signals.as_mut()) => event,
                () = self.stop.cancelled() => Event::Stop,
                _ = changed.changed() => Event::Changed,
                _ = housekeeping.tick() => Event::Housekeeping,
                _ = memory_due.tick() => Event::Memory,
                () = tick(alive.as_mut()) => Event::Alive,
            };
            match event {
                Event::Stop => break,
                Event::Changed => {}
                Event::Alive => service::alive(),
                Event::Memory => memory.look(publisher.house()),
                Event::Housekeeping => {
                    for limit in &publisher.house().snapshots.load_full().limits {
                        limit.forget_idle();
                    }
                }
                Event::Reopen => {
                    publisher.house().access.reopen();
                    info!("logs reopened");
                }
                Event::Reload => {
                    let publisher = Arc::clone(publisher);
                    // What came of it is in the diary and the metrics; a second HUP waits for the first.
                    tokio::spawn(async move { publisher.reload().await });
                }
            }
        }
        if self.signals {
            service::stopping();
        }
        self.stop.cancel();
        Ok(())
    }
}

/// Takes part in the pair, if the configuration says so, and lets the upstreams follow it.
fn join_pair(config: &Config, publisher: &Arc<Publisher>) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    if config.heartbeat.node.is_none() {
        return Ok(None);
    }
    // What is wrong with it has been told when the file was read.
    let plan = pair::plan(&config.heartbeat).0.context("the pair's settings do not fit each other")?;
    let program = std::env::current_exe().context("find this program")?;
    let pair = Pair::start(plan, Arc::clone(&publisher.house().metrics), &program)
        .map_err(|error| anyhow!("{}", telemetry::chain(&error)))?;
    publisher.joined(Arc::clone(&pair));
    Ok(Some(tokio::spawn(failover::follow(pair, Arc::clone(publisher)))))
}

/// What keeps a checked configuration from being served by whoever asks, on this machine, as far as that can be seen without
/// trying: a user who does not exist, the pair's key, and all files of which the snapshot is made.
#[must_use]
pub fn lacking(config: &Config) -> Vec<String> {
    let server = &config.server;
    let account = server.user.as_ref().and_then(|user| Account::find(user, server.group.as_deref()).err());
    let key = config.heartbeat.node.as_ref().and_then(|_| try_keys(&config.heartbeat.key_file).err());
    let told =
        account.iter().map(|error| telemetry::chain(error)).chain(key.iter().map(|error| telemetry::chain(error)));
    told.chain(snapshot::lacking(config)).collect()
}

/// Guards the process groups of a heartbeat that may hang; the body of the hidden verb `guard`.
///
/// # Errors
/// What the system said.
pub fn guard() -> std::io::Result<()> {
    guard::run()
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

enum Event {
    Stop,
    Reload,
    Reopen,
    Changed,
    Alive,
    Housekeeping,
    Memory,
}

/// Looks at the process's memory and lets go of what it has to.
struct MemoryWatch {
    shedding: Arc<Shedding>,
    gauge: Gauge,
    /// The setting that `most` was made from.
    setting: Option<values::Switchable<values::Memory>>,
    most: Option<u64>,
}

impl MemoryWatch {
    fn new(shedding: &Arc<Shedding>) -> Self {
        Self { shedding: Arc::clone(shedding), gauge: Gauge::default(), setting: None, most: None }
    }

    fn look(&mut self, house: &Arc<House>) {
        let setting = house.snapshots.load().server.limits.memory.clone();
        if self.setting.as_ref() != Some(&setting) {
            self.most = match &setting {
                values::Switchable::On(share) => memory::limit().map(|limit| share.of(limit)),
                values::Switchable::Off => None,
            };
            let cache = house.cache.settings().memory;
            if let Some(most) = self.most.filter(|most| leaves_too_little(cache, *most)) {
                warn!(
                    cache,
                    most, "cache.memory leaves little of server.limits.memory; make one smaller or the other larger"
                );
            }
            self.setting = Some(setting);
        }
        let used = self.most.and_then(|_| memory::used());
        let (most, used) = self.most.zip(used).unwrap_or((u64::MAX, 0));
        let step = self.gauge.read(used, most, clock::mono());
        self.shedding.set(step.level);
        house.metrics.memory(self.most, step.level as u8);
        if step.changed {
            match step.level {
                Level::Calm => info!(used, most, "memory is enough again"),
                Level::Tight => warn!(used, most, "memory is short: connections that idle are closed"),
                Level::Full => {
                    warn!(used, most, "memory is out: only what is stored is served, to whoever is connected");
                }
            }
        }
        if step.close_idle {
            self.shedding.close_idle();
        }
        if step.shrink {
            let cache = Arc::clone(&house.cache);
            // What it takes depends on the cache's size; nobody waits for it.
            tokio::task::spawn_blocking(move || {
                let forgotten = cache.shrink();
                info!(forgotten, "the cache was made smaller");
            });
        }
    }
}

struct Signals {
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("take signals");
        Ok(Self {
            hangup: take(SignalKind::hangup())?,
            user: take(SignalKind::user_defined1())?,
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }
}

async fn next_signal(signals: Option<&mut Signals>) -> Event {
    let Some(signals) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = signals.hangup.recv() => Event::Reload,
        _ = signals.user.recv() => Event::Reopen,
        _ = signals.terminate.recv() => Event::Stop,
        _ = signals.interrupt.recv() => Event::Stop,
    }
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers as usize,
    }
}

fn start_workers(
    count: usize,
    edge: &Arc<Edge>,
    publisher: &Arc<Publisher>,
    stop: &CancellationToken,
    abandon: &CancellationToken,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let start = |worker: usize| {
        let (edge, doors) = (Arc::clone(edge), publisher.doors());
        let (stop, abandon) = (stop.clone(), abandon.clone());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a worker's runtime")?;
        let work = move || runtime.block_on(worker::run(worker, edge, doors, stop, abandon));
        thread::Builder::new().name(format!("tidegate-{worker}")).spawn(work).context("start a worker's thread")
    };
    (0..count).map(start).collect()
}

/// Lets what is under way finish, for as long as the configuration allows.
async fn take_down(publisher: &Arc<Publisher>, crew: Vec<JoinHandle<()>>, abandon: &CancellationToken) {
    publisher.stop();
    let drain = publisher.drain_time();
    info!(connections = publisher.connections(), ?drain, "stopping");
    let joined = tokio::task::spawn_blocking(move || crew.into_iter().all(|worker| worker.join().is_ok()));
    let mut joined = std::pin::pin!(joined);
    if tokio::time::timeout(drain, &mut joined).await.is_err() {
        warn!(connections = publisher.connections(), "drain time is over; connections are broken off");
        abandon.cancel();
        // Workers end at once now.
        let _ = joined.await;
    }
}

async fn open_admin(config: &Config) -> anyhow::Result<Admin> {
    let socket = match &config.admin.socket {
        values::Switchable::On(path) => Some((path.as_path(), config.admin.socket_mode.0)),
        values::Switchable::Off => None,
    };
    Admin::open(socket, &config.admin.listen).await.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| telemetry::chain(error)).collect();
        anyhow!("{}", lines.join("\n"))
    })
}

fn open_access_log(config: &Config) -> anyhow::Result<AccessLog> {
    let path = &config.log.access_file;
    let settings = AccessSettings {
        format: match config.log.access {
            values::AccessFormat::Json => Format::Json,
            values::AccessFormat::Combined => Format::Combined,
            values::AccessFormat::Off => Format::Off,
        },
        target: if path.as_os_str() == "-" { Target::Stdout } else { Target::File(path.clone()) },
        queue: config.log.queue as usize,
    };
    Ok(AccessLog::start(&settings, clock::mono)?)
}

/// Opens the part of the cache on the disk, if there shall be one. A site lives without it.
fn open_disk(config: &Config, cache: &Arc<Cache>) {
    let Some(path) = config.cache.disk.clone() else { return };
    let settings =
        disk::Settings { path, size: config.cache.disk_size.0, index: cache_memory(config) / disk::INDEX_PART };
    if let Err(error) = Disk::open(&settings, disk::this_boot(), cache) {
        error!(
            error = telemetry::chain(&error),
            "there is no cache on disk; what is stored will not survive a restart"
        );
    }
}

fn cache_memory(config: &Config) -> u64 {
    config.cache.memory.of(memory::limit().unwrap_or(SMALL_MACHINE))
}

fn cache_settings(config: &Config) -> cache::Settings {
    let mut memory = cache_memory(config);
    if config.cache.disk.is_some() {
        memory -= memory / disk::INDEX_PART;
    }
    cache::Settings { memory, object_max: config.cache.object_max.0, variants: config.cache.variants as usize }
}

/// Brings what is kept elsewhere into the metrics before each scrape.
fn show_live_state(publisher: &Arc<Publisher>) {
    let weak = Arc::downgrade(publisher);
    publisher.house().metrics.on_scrape(move |metrics| {
        let Some(publisher) = weak.upgrade() else { return };
        let house = publisher.house();
        let snapshot = house.snapshots.load_full();
        metrics.certificates(snapshot.certificates.iter().cloned().chain(house.live.until()).collect());
        metrics.cache_tiers(vec![tier(&house.cache.tier())]);
        let ledger = house.cache.ledger().view();
        metrics.purge_ledger(metrics::PurgeLedger {
            sequence: ledger.sequence,
            records: ledger.records as u64,
            patterns: ledger.patterns as u64,
            dropped: house.cache.dropped(),
            overflows: ledger.raised,
        });
        metrics.cache_disk(house.cache.disk().map(|disk| disk.view()));
        for upstream in house.snapshots.load_full().upstreams.values() {
            upstream.show_gauges();
        }
        metrics.forget_the_gone(clock::mono());
    });
}

fn tier(tier: &cache::store::Tier) -> metrics::Tier {
    metrics::Tier {
        name: tier.name,
        objects: tier.objects,
        bytes: tier.bytes,
        capacity: tier.capacity,
        evictions: tier.evictions,
        refusals: tier.refusals,
    }
}
