//! The only writer of the snapshot.
//!
//! Reload, operator and (later) heartbeat all come through here, one at a time. A change is compiled whole, its listeners
//! are bound, its certificates read; only then is it published with one pointer exchange. If anything is wrong, all of it
//! is told and what was in force stays in force.

use crate::clock;
use crate::config;
use crate::config::Config;
use crate::edge::listener;
use crate::edge::listener::Place;
use crate::edge::worker::Door;
use crate::edge::worker::Doors;
use crate::snapshot;
use crate::snapshot::Choices;
use crate::snapshot::House;
use crate::snapshot::Snapshot;
use crate::telemetry;
use crate::telemetry::metrics::SwitchCause;
use crate::units::SetName;
use crate::units::UpstreamName;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
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
    workers: usize,
    doors: watch::Sender<Doors>,
    state: Mutex<State>,
}

/// What only the publisher knows.
struct State {
    config: Config,
    choices: Choices,
}

impl Publisher {
    /// Compiles and publishes the first configuration.
    ///
    /// # Errors
    /// Everything that keeps it from being served, one line each.
    pub fn start(house: Arc<House>, source: Source, config: Config, workers: usize) -> Result<Arc<Self>, Vec<String>> {
        let (doors, _) = watch::channel(Doors::default());
        let state = Mutex::new(State { config: config.clone(), choices: Choices::default() });
        let publisher = Arc::new(Self { house, source, workers, doors, state });
        publisher.install(&mut publisher.state(), config)?;
        Ok(publisher)
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
        let publisher = Arc::clone(self);
        // Files are read and names resolved: not on the control runtime's thread.
        let done = tokio::task::spawn_blocking(move || publisher.reload_file(&path)).await;
        done.unwrap_or_else(|panic| Err(format!("the reload broke off: {panic}; the running configuration stays in force")))
    }

    fn reload_file(&self, path: &std::path::Path) -> Result<String, String> {
        let loaded = match config::load(path) {
            Ok(loaded) => loaded,
            Err(report) => return Err(self.refused(&report.to_string())),
        };
        for warning in &loaded.warnings {
            warn!(%warning, "configuration");
        }
        let mut state = self.state();
        match self.install(&mut state, loaded.config) {
            Ok(()) => {
                self.house.metrics.reload(true, clock::now().wall);
                info!(file = %path.display(), "configuration reloaded");
                Ok("the new configuration is in force".to_owned())
            }
            Err(problems) => Err(self.refused(&format!("error: {}", problems.join("\nerror: ")))),
        }
    }

    fn refused(&self, report: &str) -> String {
        self.house.metrics.reload(false, clock::now().wall);
        error!(report, "configuration refused; the running one stays in force");
        format!("{report}\nthe running configuration stays in force")
    }

    /// Lets `set` of `upstream` serve from now on, in one exchange.
    ///
    /// # Errors
    /// When there is no such upstream or set; the text names those that there are.
    pub fn use_set(&self, upstream: &str, set: &str) -> Result<String, String> {
        let mut state = self.state();
        let snapshot = self.house.snapshots.load_full();
        let known = |names: Vec<&str>| names.join(", ");
        let name = UpstreamName::parse(upstream).map_err(|error| error.to_string())?;
        let Some(found) = snapshot.upstreams.get(&name) else {
            let names = snapshot.upstreams.keys().map(UpstreamName::as_str).collect();
            return Err(format!("there is no upstream `{upstream}`; there are: {}", known(names)));
        };
        let wanted = SetName::parse(set).map_err(|error| error.to_string())?;
        if !found.plan.sets.iter().any(|set| set.name == wanted) {
            let names = found.plan.sets.iter().map(|set| set.name.as_str()).collect();
            return Err(format!("upstream `{upstream}` has no set `{set}`; there are: {}", known(names)));
        }
        if found.plan.active == wanted {
            return Ok(format!("upstream `{upstream}` already uses set `{set}`"));
        }
        let from = found.plan.active.clone();
        state.choices.choose(name.clone(), wanted.clone(), &state.config.clone());
        self.publish(&state).map_err(|problems| problems.join("\n"))?;
        self.house.metrics.set_switched(&name, &wanted, SwitchCause::Admin);
        info!(upstream, %from, to = set, "upstream set switched");
        Ok(format!("upstream `{upstream}` now uses set `{set}`; requests under way on `{from}` finish there"))
    }

    /// Forgets the stored variants of one URL, or everything for `all`.
    ///
    /// # Errors
    /// When the URL is not one of a site of ours.
    pub fn purge_url(&self, url: &str) -> Result<String, String> {
        if url == "all" {
            self.house.cache.purge_all();
            info!("everything purged");
            return Ok("everything is forgotten".to_owned());
        }
        let snapshot = self.house.snapshots.load_full();
        let found = snapshot.purge_url(&self.house.cache, url)?;
        Ok(if found { "it is forgotten".to_owned() } else { "nothing was stored under it".to_owned() })
    }

    /// Publishes `config` if all of it can be served.
    fn install(&self, state: &mut State, config: Config) -> Result<(), Vec<String>> {
        let mut choices = state.choices.clone();
        choices.keep_for(&state.config, &config);
        let snapshot = snapshot::compile(&config, &choices, &self.house, clock::now())?;
        let doors = self.open_doors(&snapshot)?;
        self.house.snapshots.store(snapshot);
        self.doors.send_replace(doors);
        *state = State { config, choices };
        Ok(())
    }

    /// Publishes the configuration that is in force with other choices.
    fn publish(&self, state: &State) -> Result<(), Vec<String>> {
        let snapshot = snapshot::compile(&state.config, &state.choices, &self.house, clock::now())?;
        self.house.snapshots.store(snapshot);
        Ok(())
    }

    /// Keeps the doors that stay, binds the new ones; the old ones close when they are no longer in the list.
    fn open_doors(&self, snapshot: &Snapshot) -> Result<Doors, Vec<String>> {
        let wanted: BTreeSet<Place> = snapshot.server.places.iter().copied().collect();
        let mut doors: Vec<Arc<Door>> = Vec::new();
        let mut problems = Vec::new();
        for place in wanted {
            if let Some(door) = self.doors.borrow().iter().find(|door| door.place == place) {
                doors.push(Arc::clone(door));
                continue;
            }
            let bound = listener::bind(place, self.workers)
                .map_err(|error| telemetry::chain(&error))
                .and_then(|sockets| Door::new(place, sockets).map_err(|error| telemetry::chain(&error)));
            match bound {
                Ok(door) => doors.push(Arc::new(door)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Arc::new(doors)) } else { Err(problems) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A publish that panicked has published nothing, so the state is that of the snapshot in force.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where visitors are expected, for the diary.
    #[must_use]
    pub fn places(&self) -> String {
        let mut text = String::new();
        for door in self.doors.borrow().iter() {
            let scheme = if door.place.tls { "https" } else { "http" };
            let gap = if text.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{gap}{scheme}://{}", door.local);
        }
        text
    }
}
