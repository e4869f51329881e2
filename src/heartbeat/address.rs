//! The service address: up on the active member, down on every other.
//!
//! `ip` gives an interface the address by netlink and tells the network ([`announcer`]). It goes on telling, and answers at once
//! when another machine claims the address: such a claim is a split-brain alarm. What takes it
//! from the interface without asking (a network manager, `ip link set down`) has it put up again within a second. Whoever lets it
//! go has said his last word before: each is said, and done, under the lock under which leave to speak is withdrawn. Connections to it are reset when it goes,
//! and those that the other member had, when it comes (see [`clients`]). Several addresses, such as one of each family, are one
//! thing: none is announced before all are up, and when one cannot be put up none stays. `exec` runs a program, for clouds
//! without broadcasts. `none` does nothing: clients know both members, edges hear of the event.

pub mod announcer;

use crate::heartbeat::clients;
use crate::heartbeat::clients::Clients;
use crate::heartbeat::command::Ended;
use crate::heartbeat::command::Order;
use crate::heartbeat::device;
use crate::heartbeat::netlink;
use crate::heartbeat::netlink::Change;
use crate::telemetry::chain;
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
    /// Addresses on interfaces of this machine: all of them, or none.
    Ip(Vec<Placed>),
    /// A program, called with `up` or `down` as its last argument.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// For one call.
        timeout: Duration,
    },
}

/// An address, and the interface that it is put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The address with its prefix.
    pub address: IpNet,
    /// The interface.
    pub device: String,
}

/// Why the address is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The interface, or the kernel's refusal.
    #[error("{what} {} on {}", place.address, place.device)]
    Ip {
        /// What was being done.
        what: &'static str,
        /// With which address.
        place: Placed,
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
            Mode::Ip(places) => {
                self.leave.withdraw();
                if let Err(error) = places.iter().try_for_each(|place| change(Change::Add, place).map(drop)) {
                    self.taken = false;
                    // One of several would draw clients to where nothing serves.
                    if let Err(error) = release(places) {
                        warn!(
                            error = chain(&error),
                            "not all of the service addresses could be put up, and one stays up"
                        );
                    }
                    return Err(error);
                }
                self.leave = Leave::given();
                tickle(addresses(places), self.leave.clone(), &self.clients);
                for place in places {
                    announce(place.clone(), self.leave.clone(), Arc::clone(&self.conflicts));
                }
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
            Mode::Ip(places) => all(places.iter().map(|place| change(Change::Add, place))),
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
            Mode::Ip(places) => release(places),
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
    fn say<T: Default>(&self, word: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *holds { word() } else { Ok(T::default()) }
    }
}

/// The addresses of all places.
#[must_use]
pub fn addresses(places: &[Placed]) -> Vec<IpAddr> {
    places.iter().map(|place| place.address.addr()).collect()
}

/// Whether anything had to be changed.
fn change_quietly(change: Change, place: &Placed) -> io::Result<bool> {
    let address = place.address;
    netlink::change_address(change, device::index(&place.device)?, address.addr(), address.prefix_len())
}

fn change(change: Change, place: &Placed) -> Result<bool, AddressError> {
    let what = match change {
        Change::Add => "put up",
        Change::Remove => "take down",
    };
    change_quietly(change, place).map_err(|source| AddressError::Ip { what, place: place.clone(), source })
}

/// Takes all of them down, in reverse order: with the first IPv4 address of a network the kernel may take the others of it.
fn release(places: &[Placed]) -> Result<(), AddressError> {
    // While they are still ours, so that clients hear of it.
    if let Err(error) = netlink::reset_connections(&addresses(places)) {
        warn!(%error, "connections to the service address could not be reset");
    }
    all(places.iter().rev().map(|place| change(Change::Remove, place)))
}

/// Everything is done, whatever fails. The first error is returned, the others are in the diary.
fn all(done: impl Iterator<Item = Result<bool, AddressError>>) -> Result<(), AddressError> {
    let mut first = Ok(());
    for error in done.filter_map(Result::err) {
        if first.is_ok() {
            first = Err(error);
        } else {
            warn!(error = chain(&error), "a service address is not where it should be");
        }
    }
    first
}

async fn exec(argv: &[String], verb: &str, within: Duration) -> Result<(), AddressError> {
    let ran = Order::new(argv.iter().cloned().chain([verb.to_owned()])).run(within).await;
    if ran.ended == Ended::Exit(0) {
        return Ok(());
    }
    Err(AddressError::Exec(format!("{} {verb}: {}", argv.join(" "), ran.words())))
}

/// Announces an address while there is leave to. An interface that goes down ends that, and one that comes back is told anew.
fn announce(place: Placed, leave: Leave, conflicts: Arc<AtomicU64>) {
    let work = move || {
        let (Placed { address, device }, mut told) = (&place, String::new());
        let assure = || change_quietly(Change::Add, &place);
        while let Err(error) = announcer::run(address.addr(), device, assure, &leave, &conflicts) {
            let why = error.to_string();
            if why != told {
                error!(%address, device, why, "the service address is not announced, or not up: tried again each second");
                told = why;
            }
            thread::sleep(TRY_AGAIN);
        }
    };
    if let Err(error) = thread::Builder::new().name("tidegate-address".to_owned()).spawn(work) {
        error!(%error, "no thread to announce the service address");
    }
}

/// Makes the other member's clients notice that it is gone. More than once, for their way to us changes in these moments.
fn tickle(addresses: Vec<IpAddr>, leave: Leave, known: &Clients) {
    let connections = known.all();
    if connections.is_empty() {
        return;
    }
    let work = move || {
        info!(clients = connections.len(), "connections to the other member are reset");
        for pause in TICKLES {
            thread::sleep(pause);
            if !leave.holds() {
                return;
            }
            for address in &addresses {
                if let Err(error) = clients::tickle(*address, &connections) {
                    warn!(%address, %error, "clients of the other member may wait for their next keep-alive");
                }
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("tidegate-tickle".to_owned()).spawn(work) {
        warn!(%error, "no thread to reset connections to the other member");
    }
}

/// After an interface went down, or was not seen to send: before it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Pauses before each round of tickles: after the first announcements, and again for who heard the later ones.
const TICKLES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(300), Duration::from_millis(700), Duration::from_secs(2)];

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(address: &str, device: &str) -> Placed {
        Placed { address: address.parse().unwrap(), device: device.to_owned() }
    }

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
        let mode = Mode::Ip(vec![placed("192.0.2.9/24", "nonesuch0")]);
        let told = Address::new(mode, Arc::default(), Arc::default()).up().await.unwrap_err().to_string();
        assert_eq!(told, "put up 192.0.2.9/24 on nonesuch0");
    }
}
