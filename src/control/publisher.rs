//! The only writer of the snapshot.
//!
//! Reload, operator and (later) heartbeat all come through here, one at a time. A change is compiled whole, its listeners
//! are bound, its certificates read; only then is it published with one pointer exchange. If anything is wrong, all of it
//! is told and what was in force stays in force.

use crate::clock;
use crate::config;
use crate::config::Config;
use crate::config::start;
use crate::edge::explain;
use crate::edge::explain::Explanation;
use crate::edge::explain::Wish;
use crate::edge::listener;
use crate::edge::listener::Place;
use crate::edge::permits::Permits;
use crate::edge::purge;
use crate::edge::purge::Done;
use crate::edge::purge::Wanted;
use crate::edge::worker::Door;
use crate::edge::worker::Doors;
use crate::heartbeat::pair::Pair;
use crate::semantics::tags::Mode;
use crate::service;
use crate::service::Inherited;
use crate::snapshot;
use crate::snapshot::Choices;
use crate::snapshot::Compiled;
use crate::snapshot::House;
use crate::telemetry;
use crate::telemetry::metrics::SwitchCause;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::UpstreamName;
use crate::units::format_duration;
use crate::upstream::Hold;
use crate::upstream::Upstream;
use crate::zope::purge::What;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::watch;
use tracing::error;
use tracing::info;
use tracing::warn;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, read again at each reload.
    File(PathBuf),
    /// The command line; a reload has nothing to read.
    Arguments,
}

/// The writer of the snapshot and the keeper of the doors.
pub struct Publisher {
    house: Arc<House>,
    source: Source,
    /// What it was started with: of some settings that is what counts.
    started: Config,
    workers: usize,
    inherited: Inherited,
    doors: watch::Sender<Doors>,
    changed: watch::Sender<()>,
    state: Mutex<State>,
    permits: Arc<Permits>,
    began: Instant,
    stopping: AtomicBool,
    pair: OnceLock<Arc<Pair>>,
}

/// What only the publisher knows.
struct State {
    compiled: Compiled,
    choices: Choices,
}

impl Publisher {
    /// Compiles and publishes the first configuration.
    ///
    /// # Errors
    /// Everything that keeps it from being served, one line each.
    pub fn start(
        house: Arc<House>,
        permits: Arc<Permits>,
        source: Source,
        config: Config,
        workers: usize,
        inherited: Inherited,
    ) -> Result<Arc<Self>, Vec<String>> {
        let doors = watch::Sender::new(Doors::default());
        let changed = watch::Sender::new(());
        let nothing = snapshot::compile(Config::default(), &house)?;
        let state = Mutex::new(State { compiled: nothing, choices: Choices::default() });
        let publisher = Arc::new(Self {
            house,
            source,
            started: config.clone(),
            workers,
            inherited,
            doors,
            changed,
            state,
            permits,
            began: clock::mono(),
            stopping: AtomicBool::new(false),
            pair: OnceLock::new(),
        });
        publisher.install(&mut publisher.state(), config)?;
        Ok(publisher)
    }

    /// Notes that this tidegate is going to end: no visitor should be sent here any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it is going to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How long it has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        clock::mono().saturating_duration_since(self.began)
    }

    /// The client connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.permits.open()
    }

    /// What outlives snapshots.
    #[must_use]
    pub fn house(&self) -> &Arc<House> {
        &self.house
    }

    /// The doors that workers accept from, now and after each change.
    #[must_use]
    pub fn doors(&self) -> watch::Receiver<Doors> {
        self.doors.subscribe()
    }

    /// Reads the file again and publishes what it says, or keeps what is in force.
    ///
    /// # Errors
    /// The full report for the operator.
    pub async fn reload(self: &Arc<Self>) -> Result<String, String> {
        let Source::File(path) = self.source.clone() else {
            return Err("this tidegate was started without a file; there is nothing to read again".to_owned());
        };
        service::reloading();
        let publisher = Arc::clone(self);
        // Files are read and names resolved: not on the control runtime's thread.
        let done = tokio::task::spawn_blocking(move || publisher.reload_file(&path)).await;
        service::ready(&self.summary());
        done.unwrap_or_else(|panic| {
            Err(format!("the reload broke off: {panic}; the running configuration stays in force"))
        })
    }

    /// Where the service manager listens for us though nobody wants it.
    #[must_use]
    pub fn unwanted_sockets(&self) -> Vec<SocketAddr> {
        self.inherited.unwanted()
    }

    /// What is served, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let places: Vec<String> = self
            .places()
            .iter()
            .map(|(tls, addr)| format!("{}://{addr}", if *tls { "https" } else { "http" }))
            .collect();
        format!("{} sites at {}", self.house.snapshots.load().sites().len(), places.join(" "))
    }

    fn reload_file(&self, path: &std::path::Path) -> Result<String, String> {
        let loaded = match config::load(path) {
            Ok(loaded) => loaded,
            Err(report) => return Err(self.refused(&report.to_string(), &report.lines())),
        };
        for warning in &loaded.warnings {
            warn!(%warning, "configuration");
        }
        let waiting = start::waiting(&self.started, &loaded.config).join(", ");
        let mut state = self.state();
        match self.install(&mut state, loaded.config) {
            Ok(()) => {
                self.house.metrics.reload(true, clock::now().wall);
                info!(file = %path.display(), "configuration reloaded");
                let mut told = loaded.warnings;
                told.push("the new configuration is in force".to_owned());
                if !waiting.is_empty() {
                    warn!(keys = waiting, "read at the start only: restart tidegate to put this in force");
                    told.push(format!("but not {waiting}: read at the start only; restart tidegate for that"));
                }
                Ok(told.join("\n"))
            }
            Err(problems) => Err(self.refused(&format!("error: {}", problems.join("\nerror: ")), &problems)),
        }
    }

    /// Tells of a configuration that cannot be used: the diary in a line for each problem, whoever asked with the `report`.
    fn refused(&self, report: &str, problems: &[String]) -> String {
        self.house.metrics.reload(false, clock::now().wall);
        for problem in problems {
            error!(%problem, "configuration");
        }
        error!(problems = problems.len(), "configuration refused; the running one stays in force");
        format!("{report}\nthe running configuration stays in force")
    }

    /// Takes an endpoint of `upstream` out of service, or back in.
    ///
    /// # Errors
    /// When there is no such upstream or endpoint; the text names those that there are.
    pub fn drain(&self, upstream: &str, endpoint: &str, out: bool) -> Result<String, String> {
        let addr = OriginAddr::parse(endpoint).map_err(|error| error.to_string())?;
        self.upstream(upstream)?.drain(&addr, out)?;
        Ok(if out {
            format!("{endpoint} gets no new requests; `tidegate status` shows `maint` when it has finished what it has")
        } else {
            format!("{endpoint} is in service again")
        })
    }

    /// Stops sending to `upstream`, or begins again: who comes meanwhile waits, or is served what is stored.
    ///
    /// # Errors
    /// When there is no such upstream; the text names those that there are.
    pub fn hold(&self, upstream: &str, held: bool) -> Result<String, String> {
        let found = self.upstream(upstream)?;
        found.hold(Hold::Operator, held);
        if !held {
            found.accept_storage();
        }
        let wait = found.standing().plan.hold;
        Ok(if held {
            format!("`{upstream}` is held: for {} requests wait, then they are answered 503", format_duration(wait))
        } else {
            format!("`{upstream}` is served again")
        })
    }

    fn upstream(&self, name: &str) -> Result<Arc<Upstream>, String> {
        let snapshot = self.house.snapshots.load_full();
        let wanted = UpstreamName::parse(name).map_err(|error| error.to_string())?;
        snapshot.upstreams.get(&wanted).cloned().ok_or_else(|| {
            let names: Vec<&str> = snapshot.upstreams.keys().map(UpstreamName::as_str).collect();
            format!("there is no upstream `{name}`; there are: {}", names.join(", "))
        })
    }

    /// Lets `set` of `upstream` serve from now on, in one exchange.
    ///
    /// # Errors
    /// When there is no such upstream or set; the text names those that there are.
    pub fn use_set(&self, upstream: &str, set: &str, cause: SwitchCause) -> Result<String, String> {
        let mut state = self.state();
        let found = self.upstream(upstream)?;
        let name = found.name().clone();
        let standing = found.standing();
        let plan = &standing.plan;
        let wanted = SetName::parse(set).map_err(|error| error.to_string())?;
        if !plan.sets.iter().any(|set| set.name == wanted) {
            let names: Vec<&str> = plan.sets.iter().map(|set| set.name.as_str()).collect();
            return Err(format!("upstream `{upstream}` has no set `{set}`; there are: {}", names.join(", ")));
        }
        if plan.active == wanted {
            return Ok(format!("upstream `{upstream}` already uses set `{set}`"));
        }
        state.choices.choose(name.clone(), wanted.clone());
        self.house.snapshots.store(state.compiled.put_in_force(&state.choices, &self.house));
        self.switched(&found, &plan.active, &wanted, cause);
        self.changed.send_replace(());
        let told =
            format!("upstream `{upstream}` now uses set `{set}`; requests under way on `{}` finish there", plan.active);
        if found.anyone_open() {
            return Ok(told);
        }
        let wait = format_duration(plan.hold);
        Ok(format!("{told}\nno endpoint of `{set}` is up: for {wait} requests wait, then they are answered 503"))
    }

    /// Forgets what an operator wants forgotten, and waits until it is done, to tell how much it was.
    ///
    /// # Errors
    /// When it cannot be understood, or is not about a site of ours.
    pub async fn purge(self: &Arc<Self>, wanted: Wanted) -> Result<String, String> {
        let publisher = Arc::clone(self);
        // A sweep visits everything that is stored.
        let done = tokio::task::spawn_blocking(move || publisher.purge_now(&wanted)).await;
        let settled = match self.house.cache.disk().and_then(|disk| disk.settled()) {
            Some(settling) => settling.await,
            None => true,
        };
        match done.unwrap_or_else(|panic| Err(format!("the purge broke off: {panic}"))) {
            Ok(_) if !settled => Err("it is purged, but the disk hangs (cache.disk): a restart may undo it".to_owned()),
            done => done,
        }
    }

    fn purge_now(&self, wanted: &Wanted) -> Result<String, String> {
        let (cache, began) = (&self.house.cache, clock::mono());
        let (what, mode, done) = purge::wanted(cache, &self.house.snapshots.load_full(), wanted, began)?;
        let (result, found) = match done {
            Done::Found(0) => ("not_found", 0),
            Done::Found(found) => ("purged", found),
            Done::Noted => ("noted", cache.sweep()),
        };
        let at_once = if done == Done::Noted { 0 } else { found };
        let took = clock::mono().saturating_duration_since(began);
        self.house.metrics.purge(what.kind(), mode.as_str(), result, at_once, took);
        info!(kind = what.kind(), what = wanted.what, site = wanted.site, mode = mode.as_str(), found, "purged");
        Ok(match (&what, mode) {
            (What::All, Mode::Hard) => "everything is forgotten".to_owned(),
            (_, Mode::Soft) => "it is stale from now on, and is asked for again when somebody wants it".to_owned(),
            (_, Mode::Hard) => match found {
                0 => "nothing was stored under it".to_owned(),
                1 => "1 URL is forgotten".to_owned(),
                many => format!("{many} URLs are forgotten"),
            },
        })
    }

    /// Tells how a request is answered now, and why. May read the disk.
    ///
    /// # Errors
    /// When it is no request; the text is for the operator.
    pub fn explain(&self, wish: &Wish) -> Result<Explanation, String> {
        explain::explain(&self.house.cache, &self.house.snapshots.load_full(), wish, clock::now())
    }

    /// Publishes `config` if all of it can be served: until the last test is passed nothing has changed.
    fn install(&self, state: &mut State, config: Config) -> Result<(), Vec<String>> {
        let mut choices = state.choices.clone();
        choices.keep_for(state.compiled.config(), &config);
        let compiled = snapshot::compile(config, &self.house)?;
        let doors = self.open_doors(&compiled)?;
        let before = self.actives();
        self.house.snapshots.store(compiled.put_in_force(&choices, &self.house));
        for (name, set) in self.actives() {
            if let (Some(before), Ok(upstream)) =
                (before.get(&name).filter(|before| **before != set), self.upstream(name.as_str()))
            {
                self.switched(&upstream, before, &set, SwitchCause::Reload);
            }
        }
        self.doors.send_replace(doors);
        *state = State { compiled, choices };
        self.changed.send_replace(());
        Ok(())
    }

    /// Tells of a switch that has happened.
    fn switched(&self, upstream: &Upstream, from: &SetName, to: &SetName, cause: SwitchCause) {
        self.house.metrics.set_switched(upstream.name(), to, cause);
        let (name, epoch, cause) = (upstream.name(), upstream.epoch(), cause.as_str());
        info!(upstream = %name, %from, %to, cause, epoch, "upstream set switched");
    }

    /// The sets that serve.
    fn actives(&self) -> BTreeMap<UpstreamName, SetName> {
        let snapshot = self.house.snapshots.load_full();
        let set = |upstream: &Arc<Upstream>| upstream.standing().plan.active.clone();
        snapshot.upstreams.iter().map(|(name, upstream)| (name.clone(), set(upstream))).collect()
    }

    /// Keeps the doors that stay, binds the new ones; the old ones close when they are no longer in the list.
    fn open_doors(&self, compiled: &Compiled) -> Result<Doors, Vec<String>> {
        let wanted: BTreeSet<Place> = compiled.places().into_iter().map(|(addr, tls)| Place { addr, tls }).collect();
        let mut doors: Vec<Arc<Door>> = Vec::new();
        let mut problems = Vec::new();
        for place in wanted {
            if let Some(door) = self.doors.borrow().iter().find(|door| door.place == place) {
                doors.push(Arc::clone(door));
                continue;
            }
            let bound = listener::bind(place, self.workers, &self.inherited)
                .map_err(|error| telemetry::chain(&error))
                .and_then(|sockets| Door::new(place, sockets).map_err(|error| telemetry::chain(&error)));
            match bound {
                Ok(door) => doors.push(Arc::new(door)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Arc::new(doors)) } else { Err(problems) }
    }

    /// This node takes part in a pair; said once, at the start.
    pub fn joined(&self, pair: Arc<Pair>) {
        // The first one stays: there is one at most.
        let _ = self.pair.set(pair);
    }

    /// The pair that this node takes part in.
    #[must_use]
    pub fn pair(&self) -> Option<&Arc<Pair>> {
        self.pair.get()
    }

    /// How long what is under way may take when tidegate is told to stop.
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        self.state().compiled.config().server.drain
    }

    /// The upstreams that follow the pair.
    #[must_use]
    pub fn followers(&self) -> BTreeSet<UpstreamName> {
        let state = self.state();
        let upstreams = state.compiled.config().upstream.iter();
        upstreams.filter(|(_, upstream)| upstream.pair).map(|(name, _)| name.clone()).collect()
    }

    /// Tells of each change that was published.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Where visitors are expected now.
    #[must_use]
    pub fn places(&self) -> Vec<(bool, SocketAddr)> {
        self.doors.borrow().iter().map(|door| (door.place.tls, door.local)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A publish that panicked has published nothing, so the state is that of the snapshot in force.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
