//! A running member or witness: started, asked, ordered, and taken down.

use crate::clock;
use crate::heartbeat::clients::Clients;
use crate::heartbeat::diary;
use crate::heartbeat::guard::Guard;
use crate::heartbeat::hands;
use crate::heartbeat::journal::Found;
use crate::heartbeat::journal::Journal;
use crate::heartbeat::journal::JournalError;
use crate::heartbeat::links::LinkError;
use crate::heartbeat::links::Links;
use crate::heartbeat::machine;
use crate::heartbeat::machine::Began;
use crate::heartbeat::machine::BootId;
use crate::heartbeat::machine::Input;
use crate::heartbeat::machine::Machine;
use crate::heartbeat::machine::Mode;
use crate::heartbeat::machine::Order;
use crate::heartbeat::machine::PairView;
use crate::heartbeat::machine::Saved;
use crate::heartbeat::machine::message::BadKey;
use crate::heartbeat::machine::message::KeyRing;
use crate::heartbeat::plan::Plan;
use crate::heartbeat::realtime;
use crate::heartbeat::resource::Groups;
use crate::heartbeat::runner;
use crate::heartbeat::runner::Event;
use crate::heartbeat::runner::Inbox;
use crate::heartbeat::runner::Runner;
use crate::heartbeat::tally::Tally;
use crate::heartbeat::watchdog;
use crate::heartbeat::watchdog::Watchdog;
use crate::heartbeat::watchdog::WatchdogError;
use crate::telemetry::metrics::Metrics;
use aws_lc_rs::rand;
use serde_json::Value;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tracing::info;
use tracing::warn;

/// What keeps a voter from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key file cannot be read.
    #[error("read the pair's keys {} (make it with `openssl rand -hex 32`, mode 0600, the same on every voter)", path.display())]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("the pair's keys {} have mode {mode:04o}; others could forge heartbeats: chmod 0600", path.display())]
    KeyMode {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is in it is no key.
    #[error("line {line} of the pair's keys {} is not written in hex", path.display())]
    KeyHex {
        /// Where.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
    /// Or not a good one.
    #[error("the pair's keys {}", path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: BadKey,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The watchdog.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// The machine does not give us what we need.
    #[error("{what} for the heartbeat")]
    System {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running voter.
pub struct Pair {
    inbox: Inbox,
    view: watch::Receiver<PairView>,
    plan: Arc<Plan>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pair {
    /// Starts the threads of this voter. `program`: this program, for the guard.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(plan: Plan, metrics: Arc<Metrics>, program: &Path) -> Result<Arc<Self>, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let plan = Arc::new(plan);
        let me = plan.settings.me;
        let keys = read_keys(&plan.key_file)?;
        let (journal, found) = Journal::open(&plan.state_dir.join("pair.journal"))?;
        let own = plan.nodes.get(usize::from(me.0)).map(|node| node.links.clone()).unwrap_or_default();
        let links = Links::open(&own)?;
        let guard = start_guard(&plan, program).map_err(system("start a guard"))?;
        let watchdog = arm_watchdog(&plan)?;
        let armed = me.is_member() && guard.is_some() && (plan.can_be_killed() || watchdog.is_some());
        let (inbox, mailbox) = Inbox::new().map_err(system("make a socket"))?;
        let groups = Arc::new(Groups::guarded(guard.clone()));
        let conflicts = Arc::new(AtomicU64::new(0));
        let clients = Arc::new(Clients::default());
        let (hands, ready) = hands::prepare(
            Arc::clone(&plan),
            inbox.clone(),
            Arc::clone(&groups),
            Arc::clone(&conflicts),
            Arc::clone(&clients),
        );
        let (writings_tx, writings) = std::sync::mpsc::sync_channel(WRITINGS_MAX);
        let now = clock::boot();
        let mut first = Vec::new();
        let wall = clock::now().wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let birth = Began { boot: boot_id(), at: now, wall };
        let machine = Machine::new(plan.settings.clone(), birth, &memory(&found), &mut first);
        let (view_tx, view) = watch::channel(machine.view());
        let tally = Tally::new(metrics, &plan, conflicts, now);
        let runner = Runner {
            machine,
            first,
            plan: Arc::clone(&plan),
            links,
            keys,
            mailbox,
            hands,
            journal: writings_tx,
            groups,
            guard,
            watchdog,
            view: view_tx,
            clients,
            tally,
            ordered_by: String::new(),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start a runtime"))?;
        let (thread_tx, thread_rx) = oneshot::channel();
        let heart = move || {
            // Nobody minds when it is not wanted.
            let _ = thread_tx.send(realtime::thread_id());
            runner.run();
        };
        let begin = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work).map_err(system("start a thread"))
        };
        let writer = {
            let inbox = inbox.clone();
            move || runner::keep_journal(&journal, &writings, &inbox)
        };
        let body = move || {
            runtime.block_on(async {
                tokio::spawn(hurry(thread_rx));
                ready.work().await;
            });
        };
        let threads = vec![
            begin("tidegate-writer", Box::new(writer))?,
            begin("tidegate-hands", Box::new(body))?,
            begin("tidegate-heart", Box::new(heart))?,
        ];
        inbox.tell(Input::SelfFenceArmed(armed));
        info!(node = plan.name(me), self_fence_armed = armed, "heartbeat begins");
        Ok(Arc::new(Self { inbox, view, plan, threads: Mutex::new(threads) }))
    }

    /// What edges follow, now and after each change.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<PairView> {
        self.view.clone()
    }

    /// What was decided.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Everything, for operators.
    ///
    /// # Errors
    /// When the heartbeat's thread has gone.
    pub async fn status(&self) -> Result<Value, String> {
        let (answer, told) = oneshot::channel();
        let _ = self.inbox.send(Event::Status(answer));
        told.await.map_err(|_| GONE.to_owned())
    }

    /// Gives an order of `who`; that it is followed, or why not.
    ///
    /// # Errors
    /// Why not, with a remedy.
    pub async fn order(&self, order: Order, who: &str) -> Result<(), String> {
        let (answer, told) = oneshot::channel();
        let _ = self.inbox.send(Event::Order(order, who.to_owned(), answer));
        let told = told.await.map_err(|_| GONE.to_owned())?;
        told.map_err(|refused| diary::refused(&refused, &self.plan))
    }

    /// Gives the role up if this node has it, and ends the heartbeat: the other member takes over without a wait.
    pub async fn stop(&self) {
        let me = self.plan.settings.me;
        if me.is_member() {
            let _ = self.order(Order::Shutdown, "this process ends").await;
            let longest = self.plan.settings.stop_timeout + self.plan.settings.address_timeout;
            let due = clock::mono() + longest;
            while clock::mono() < due {
                let role = self.status().await.ok().and_then(|status| status["role"].as_str().map(str::to_owned));
                if matches!(role.as_deref(), None | Some("standby" | "booting")) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // The others hear of the release.
            tokio::time::sleep(self.plan.settings.interval * 2).await;
        }
        let _ = self.inbox.send(Event::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads.into_iter().rev() {
                // A thread that panicked has been counted and told.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

/// What the journal remembers.
fn memory(found: &Found) -> machine::Journal {
    match found {
        Found::Record(bytes) => {
            if let Some(saved) = Saved::from_bytes(bytes) {
                return machine::Journal::Found(saved);
            }
            warn!("the journal's record is of another version: a vote may be forgotten, none is given for now");
            machine::Journal::Lost
        }
        Found::Nothing => {
            info!("there is no journal yet: this voter is new, and votes when it has heard the others");
            machine::Journal::Lost
        }
        Found::Torn(why) => {
            warn!(why, "the journal is torn: a vote may be forgotten, none is given before the others have told");
            machine::Journal::Lost
        }
    }
}

fn boot_id() -> BootId {
    let mut bytes = [0; 8];
    // The system's random numbers do not fail; if they did, the time would do: it is only to differ.
    if rand::fill(&mut bytes).is_err() {
        let since = clock::now().wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
    }
    BootId(u64::from_be_bytes(bytes).max(1))
}

/// Whether the pair's keys can be used by whoever asks.
///
/// # Errors
/// Why they cannot.
pub fn try_keys(path: &Path) -> Result<(), StartError> {
    read_keys(path).map(drop)
}

/// Reads the keys: one a line, in hex; empty lines and `#` are passed over.
fn read_keys(path: &Path) -> Result<KeyRing, StartError> {
    let unreadable = |source| StartError::KeyFile { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StartError::KeyMode { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let key = unhex(line).ok_or(StartError::KeyHex { path: path.to_owned(), line: at + 1 })?;
        keys.push(key);
    }
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    KeyRing::new(&keys).map_err(|source| StartError::Key { path: path.to_owned(), source })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

fn start_guard(plan: &Plan, program: &Path) -> io::Result<Option<Arc<Guard>>> {
    let wanted = plan.settings.me.is_member() && plan.settings.self_fence == Mode::Act;
    if wanted { Guard::start(program).map(|guard| Some(Arc::new(guard))) } else { Ok(None) }
}

fn arm_watchdog(plan: &Plan) -> Result<Option<Watchdog>, WatchdogError> {
    let path = &plan.watchdog_device;
    let waits = watchdog::timeout(path);
    match plan.watchdog {
        watchdog::Need::Required if plan.settings.me.is_member() => {
            Watchdog::arm(path, waits, plan.watchdog_max).map(Some)
        }
        watchdog::Need::Observe => {
            info!(device = %path.display(), exists = path.exists(), ?waits, "the watchdog is only looked at");
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Real time for the heartbeat's thread, and memory that stays.
async fn hurry(thread: oneshot::Receiver<i32>) {
    let Ok(thread) = thread.await else { return };
    if let Err(why) = realtime::real_time(thread).await {
        warn!(why, "on a busy machine heartbeats may be late");
    }
    if let Err(why) = realtime::lock_memory() {
        warn!(why, "on a machine that swaps heartbeats may be late");
    }
}

/// The machine writes rarely; a disk that lets so many wait is no disk.
const WRITINGS_MAX: usize = 64;
const GONE: &str = "the heartbeat has ended; see the diary";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::chain;

    #[test]
    fn a_journal_torn_anywhere_remembers_nothing_so_no_vote_is_given_that_it_may_hold() {
        use crate::heartbeat::machine::Epoch;
        use crate::heartbeat::machine::NodeId;
        use crate::heartbeat::machine::Vote;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.journal");
        let vote = Some(Vote { epoch: Epoch(7), candidate: NodeId(1) });
        let saved = Saved { seen: Epoch(7), floor: Epoch(7), vote, ..Saved::default() };
        let open = || memory(&Journal::open(&path).unwrap().1);
        Journal::open(&path).unwrap().0.replace(&saved.to_bytes()).unwrap();
        assert_eq!(open(), machine::Journal::Found(saved));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            for torn in [&whole[..at], &changed] {
                fs::write(&path, torn).unwrap();
                assert_eq!(open(), machine::Journal::Lost, "torn at {at}");
            }
        }
        // Whole, and of another version.
        let mut other = saved.to_bytes();
        other[0] += 1;
        Journal::open(&path).unwrap().0.replace(&other).unwrap();
        assert_eq!(open(), machine::Journal::Lost);
    }

    fn keys(text: &str, mode: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read_keys(&path).map_or_else(|error| chain(&error), |_| "good".to_owned())
    }

    #[test]
    fn keys_are_hex_lines_that_nobody_else_can_read() {
        let key = "00112233445566778899aabbccddeeff";
        assert_eq!(keys(&format!("# new\n{key}\n\n{key} # old\n"), 0o600), "good");
        for (text, mode, expected) in [
            (key, 0o640, "have mode 0640"),
            ("secret", 0o600, "line 1 of the pair's keys"),
            ("", 0o600, "there is no key"),
            ("0011", 0o600, "16 are the least"),
        ] {
            let told = keys(text, mode);
            assert!(told.contains(expected), "{told}");
        }
        let told = read_keys(Path::new("/no/pair.key")).map_or_else(|error| chain(&error), |_| String::new());
        assert!(told.contains("openssl rand -hex 32"), "{told}");
    }
}
