//! The service address: up on the active member, down on every other.
//!
//! `ip` gives an interface the address by netlink and tells the network ([`announcer`]). It goes on telling, and answers at once
//! when another machine claims the address: such a claim is a split-brain alarm. Whoever lets the address go has said his last
//! word before: each is said under the lock under which leave to speak is withdrawn. Connections to it are reset when it goes,
//! and those that the other member had, when it comes (see [`clients`]). `exec` runs a program, for clouds without broadcasts.
//! `none` does nothing: clients know both members, edges hear of the event.

pub mod announcer;

use crate::heartbeat::clients;
use crate::heartbeat::clients::Clients;
use crate::heartbeat::command::Ended;
use crate::heartbeat::command::Order;
use crate::heartbeat::device;
use crate::heartbeat::netlink;
use crate::heartbeat::netlink::Change;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;
use tracing::error;
use tracing::info;
use tracing::warn;

/// How the service address is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    None,
    /// An address on an interface of this machine.
    Ip {
        /// The address with its prefix.
        address: IpNet,
        /// The interface.
        device: String,
    },
    /// A program, called with `up` or `down` as its last argument.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// For one call.
        timeout: Duration,
    },
}

/// Why the address is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The interface, or the kernel's refusal.
    #[error("{what} {address} on {device}")]
    Ip {
        /// What was being done.
        what: &'static str,
        /// The address.
        address: IpNet,
        /// The interface.
        device: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("{0}")]
    Exec(String),
}

/// The service address of this member.
pub struct Address {
    mode: Mode,
    /// Whether it was taken, and not let go since.
    taken: bool,
    leave: Leave,
    conflicts: Arc<AtomicU64>,
    clients: Arc<Clients>,
}

impl Address {
    /// Nothing is known yet about whether it is up. `clients`: those of the other member.
    #[must_use]
    pub fn new(mode: Mode, conflicts: Arc<AtomicU64>, clients: Arc<Clients>) -> Self {
        Self { mode, taken: false, leave: Leave::default(), conflicts, clients }
    }

    /// Takes the address, and begins to tell the network.
    ///
    /// # Errors
    /// Why it is not up.
    pub async fn up(&mut self) -> Result<(), AddressError> {
        match &self.mode {
            Mode::None => {}
            Mode::Exec { argv, timeout } => exec(argv, "up", *timeout).await?,
            Mode::Ip { address, device } => {
                change(Change::Add, *address, device)?;
                self.leave.withdraw();
                self.leave = Leave::given();
                tickle(address.addr(), self.leave.clone(), &self.clients);
                announce(*address, device, self.leave.clone(), Arc::clone(&self.conflicts));
            }
        }
        self.taken = true;
        Ok(())
    }

    /// Makes sure of it once more, if it was taken and not let go since: another machine claims it. The network is told by the
    /// announcer, which hears such claims itself.
    ///
    /// # Errors
    /// Why it may not be up.
    pub async fn insist(&mut self) -> Result<(), AddressError> {
        if !self.taken {
            return Ok(());
        }
        match &self.mode {
            Mode::None => Ok(()),
            Mode::Exec { argv, timeout } => exec(argv, "up", *timeout).await,
            Mode::Ip { address, device } => change(Change::Add, *address, device),
        }
    }

    /// Lets the address go; that it was not up is no error. Connections to it are reset.
    ///
    /// # Errors
    /// Why it may still be up.
    pub async fn down(&mut self) -> Result<(), AddressError> {
        self.taken = false;
        self.leave.withdraw();
        match &self.mode {
            Mode::None => Ok(()),
            Mode::Exec { argv, timeout } => exec(argv, "down", *timeout).await,
            Mode::Ip { address, device } => {
                // While the address is still ours, so that clients hear of it.
                if let Err(error) = netlink::reset_connections(address.addr()) {
                    warn!(%address, %error, "connections to the service address could not be reset");
                }
                change(Change::Remove, *address, device)
            }
        }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.leave.withdraw();
    }
}

/// Leave to speak for the address.
#[derive(Clone, Debug, Default)]
struct Leave(Arc<Mutex<bool>>);

impl Leave {
    fn given() -> Self {
        Self(Arc::new(Mutex::new(true)))
    }

    /// When this returns, the last word has been said.
    fn withdraw(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn holds(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says a word, which must not wait for anything, unless leave was withdrawn.
    fn say(&self, word: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *holds { word() } else { Ok(()) }
    }
}

fn change(change: Change, address: IpNet, device: &str) -> Result<(), AddressError> {
    let index = device::index(device);
    let done = index.and_then(|index| netlink::change_address(change, index, address.addr(), address.prefix_len()));
    let what = match change {
        Change::Add => "put up",
        Change::Remove => "take down",
    };
    done.map_err(|source| AddressError::Ip { what, address, device: device.to_owned(), source })
}

async fn exec(argv: &[String], verb: &str, within: Duration) -> Result<(), AddressError> {
    let ran = Order::new(argv.iter().cloned().chain([verb.to_owned()])).run(within).await;
    if ran.ended == Ended::Exit(0) {
        return Ok(());
    }
    Err(AddressError::Exec(format!("{} {verb}: {}", argv.join(" "), ran.words())))
}

fn announce(address: IpNet, device: &str, leave: Leave, conflicts: Arc<AtomicU64>) {
    let device = device.to_owned();
    let work = move || {
        if let Err(error) = announcer::run(address.addr(), &device, &leave, &conflicts) {
            error!(%address, device, %error, "the service address is not announced: clients find it when they ask again");
        }
    };
    if let Err(error) = thread::Builder::new().name("tidegate-address".to_owned()).spawn(work) {
        error!(%error, "no thread to announce the service address");
    }
}

/// Makes the other member's clients notice that it is gone. More than once, for their way to us changes in these moments.
fn tickle(address: IpAddr, leave: Leave, known: &Clients) {
    let connections = known.all();
    if connections.is_empty() {
        return;
    }
    let work = move || {
        info!(%address, clients = connections.len(), "connections to the other member are reset");
        for pause in TICKLES {
            thread::sleep(pause);
            if !leave.holds() {
                return;
            }
            if let Err(error) = clients::tickle(address, &connections) {
                warn!(%address, %error, "clients of the other member may wait for their next keep-alive");
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("tidegate-tickle".to_owned()).spawn(work) {
        warn!(%error, "no thread to reset connections to the other member");
    }
}

/// Pauses before each round of tickles: after the first announcements, and again for who heard the later ones.
const TICKLES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(300), Duration::from_millis(700), Duration::from_secs(2)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_an_address_that_was_let_go() {
        let leave = Leave::given();
        let (announcer, mut said) = (leave.clone(), 0);
        let mut speak = || {
            announcer.say(|| {
                said += 1;
                Ok(())
            })
        };
        speak().unwrap();
        leave.withdraw();
        speak().unwrap();
        assert_eq!((said, announcer.holds()), (1, false));
    }

    #[tokio::test]
    async fn a_program_moves_the_address_where_the_network_allows_no_other_way() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("where");
        let argv = ["sh", "-c", &format!("echo $1 >> {}; [ $1 = up ]", mark.display()), "move"].map(str::to_owned);
        let mode = Mode::Exec { argv: argv.into(), timeout: Duration::from_secs(20) };
        let mut address = Address::new(mode, Arc::default(), Arc::default());
        address.insist().await.unwrap();
        address.up().await.unwrap();
        address.insist().await.unwrap();
        let told = address.down().await.unwrap_err().to_string();
        assert!(told.ends_with("move down: exit 1"), "{told}");
        address.insist().await.unwrap();
        assert_eq!(std::fs::read_to_string(mark).unwrap(), "up\nup\ndown\n", "what was let go is not insisted upon");
    }

    #[tokio::test]
    async fn an_interface_that_is_not_there_is_named() {
        let mode = Mode::Ip { address: "192.0.2.9/24".parse().unwrap(), device: "nonesuch0".to_owned() };
        let told = Address::new(mode, Arc::default(), Arc::default()).up().await.unwrap_err().to_string();
        assert_eq!(told, "put up 192.0.2.9/24 on nonesuch0");
    }
}
