//! What the service manager and we tell each other: sockets that it has opened for us, and how we are doing.
//!
//! Without a service manager nothing is told and nothing is inherited. What cannot be told is of no consequence to visitors
//! and is only noted.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tracing::debug;

/// Listening sockets that were opened before us, each taken once.
#[derive(Default)]
pub struct Inherited(Mutex<Vec<TcpListener>>);

impl Inherited {
    /// Takes over what the environment names (`LISTEN_FDS`). It is called once, before there are threads.
    ///
    /// # Errors
    /// When one of them is no TCP socket.
    pub fn take_over() -> io::Result<Self> {
        let mut named = ListenFd::from_env();
        let sockets: io::Result<Vec<Option<TcpListener>>> =
            (0..named.len()).map(|at| named.take_tcp_listener(at)).collect();
        let sockets: Vec<TcpListener> = sockets?.into_iter().flatten().collect();
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        Ok(Self(Mutex::new(sockets)))
    }

    /// The socket that listens at `addr`, if there is one.
    #[must_use]
    pub fn take(&self, addr: SocketAddr) -> Option<TcpListener> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sockets.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == addr))?;
        Some(sockets.swap_remove(at))
    }

    /// Where the others listen, which nobody wanted.
    #[must_use]
    pub fn unwanted(&self) -> Vec<SocketAddr> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// Visitors are served.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the service manager was not told of the reload"),
    }
}

/// We are about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// We are alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the service manager wants to hear that we are alive: twice in the time after which it would end us.
#[must_use]
pub fn watchdog_pause() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 2).filter(|pause| !pause.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager could not be told");
    }
}
