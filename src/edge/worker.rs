//! One worker: a thread with a runtime of its own that accepts, serves and, at the end, drains connections.
//!
//! Workers share the cache, the upstreams and the counters, and nothing else.

use crate::clock;
use crate::edge::Edge;
use crate::edge::activity::Activity;
use crate::edge::activity::Closed;
use crate::edge::connection;
use crate::edge::connection::Ended;
use crate::edge::connection::Protocol;
use crate::edge::listener::Place;
use crate::edge::permits::Permit;
use crate::edge::pipeline::Session;
use crate::snapshot::Snapshot;
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::warn;

/// How long to leave the listener alone when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One bound place: a socket for each worker, taken once.
pub struct Door {
    /// The place as configured.
    pub place: Place,
    /// The address that was bound: the same, or with the port the kernel chose.
    pub local: SocketAddr,
    sockets: Mutex<Vec<Option<StdListener>>>,
}

/// All places where connections are accepted now.
pub type Doors = Arc<Vec<Arc<Door>>>;

impl Door {
    /// A door of `sockets`, one per worker.
    ///
    /// # Errors
    /// When the kernel does not tell the bound address.
    pub fn new(place: Place, sockets: Vec<StdListener>) -> io::Result<Self> {
        let local = sockets.first().map_or(Ok(place.addr), StdListener::local_addr)?;
        Ok(Self { place, local, sockets: Mutex::new(sockets.into_iter().map(Some).collect()) })
    }

    fn take(&self, worker: usize) -> Option<StdListener> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).get_mut(worker).and_then(Option::take)
    }
}

/// Accepts from the current doors until `stop`; then lets what is under way finish, until `abandon`.
pub async fn run(
    worker: usize,
    edge: Arc<Edge>,
    mut doors: watch::Receiver<Doors>,
    stop: CancellationToken,
    abandon: CancellationToken,
) {
    let connections = TaskTracker::new();
    let mut open: BTreeMap<(Place, SocketAddr), CancellationToken> = BTreeMap::new();
    loop {
        let wanted = Arc::clone(&doors.borrow_and_update());
        open.retain(|key, closing| {
            let stays = wanted.iter().any(|door| (door.place, door.local) == *key);
            if !stays {
                closing.cancel();
            }
            stays
        });
        for door in wanted.iter() {
            let Some(socket) = door.take(worker) else { continue };
            match TcpListener::from_std(socket) {
                Ok(listener) => {
                    let closing = stop.child_token();
                    open.insert((door.place, door.local), closing.clone());
                    let accepting = Accepting { edge: Arc::clone(&edge), door: Arc::clone(door), stop: stop.clone() };
                    tokio::spawn(accepting.run(listener, closing, connections.clone()));
                }
                Err(error) => warn!(listener = %door.local, %error, "listener is lost to this worker"),
            }
        }
        drop(wanted);
        tokio::select! {
            () = stop.cancelled() => break,
            changed = doors.changed() => if changed.is_err() { break },
        }
    }
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = abandon.cancelled() => {}
    }
}

/// The accept loop of one listener on one worker.
struct Accepting {
    edge: Arc<Edge>,
    door: Arc<Door>,
    stop: CancellationToken,
}

impl Accepting {
    async fn run(self, listener: TcpListener, closing: CancellationToken, connections: TaskTracker) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &connections),
                Err(error) if is_about_the_connection(&error) => {}
                Err(error) => {
                    self.edge.metrics.connection_rejected("accept");
                    warn!(listener = %self.door.local, %error, "cannot accept; is the limit of open files too low?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, connections: &TaskTracker) {
        let snapshot = self.edge.snapshots.load();
        let limits = &snapshot.server.limits;
        match self.edge.permits.take(peer.ip(), limits.connections, limits.per_client) {
            Ok(permit) => {
                let tls = if self.door.place.tls { snapshot.tls.clone() } else { None };
                let visit = Visit {
                    edge: Arc::clone(&self.edge),
                    door: Arc::clone(&self.door),
                    peer,
                    stop: self.stop.clone(),
                    _permit: permit,
                };
                drop(snapshot);
                connections.spawn(visit.serve(stream, tls));
            }
            Err(full) => self.edge.metrics.connection_rejected(full.as_str()),
        }
    }
}

/// Errors that concern the one connection that was to be accepted, not the listener.
fn is_about_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

/// One accepted connection.
struct Visit {
    edge: Arc<Edge>,
    door: Arc<Door>,
    peer: SocketAddr,
    stop: CancellationToken,
    _permit: Permit,
}

impl Visit {
    async fn serve(self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(peer = %self.peer, %error, "connection was gone before it was served");
            return;
        }
        let snapshot = self.edge.snapshots.load_full();
        match tls {
            Some(config) => self.serve_tls(stream, config, &snapshot).await,
            None if snapshot.server.h2c => self.serve_sniffed(stream, &snapshot).await,
            None => self.serve_http(stream, Vec::new(), Protocol::Http1, &snapshot).await,
        }
    }

    async fn serve_tls(self, stream: TcpStream, config: Arc<ServerConfig>, snapshot: &Snapshot) {
        let began = clock::mono();
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(snapshot.server.limits.handshake, handshake).await {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let version = session.protocol_version();
                let h2 = session.alpn_protocol() == Some(b"h2");
                self.edge.metrics.tls_handshake(version, Some(clock::mono().saturating_duration_since(began)));
                let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
                self.serve_http(stream, Vec::new(), protocol, snapshot).await;
            }
            Ok(Err(error)) => {
                self.edge.metrics.tls_handshake(None, None);
                debug!(peer = %self.peer, %error, "TLS handshake failed");
            }
            Err(_) => self.timed_out("handshake"),
        }
    }

    async fn serve_sniffed(self, mut stream: TcpStream, snapshot: &Snapshot) {
        match connection::sniff(&mut stream, snapshot.server.limits.protocol.bounds.first_byte).await {
            Ok(Some((protocol, ahead))) => self.serve_http(stream, ahead, protocol, snapshot).await,
            Ok(None) => {}
            Err(closed) => self.timed_out(closed.as_str()),
        }
    }

    async fn serve_http<S>(&self, stream: S, ahead: Vec<u8>, protocol: Protocol, snapshot: &Snapshot)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new(clock::mono(), protocol == Protocol::Http2));
        let listener = self.edge.metrics.listener(self.door.local, self.door.place.tls, protocol);
        let session = Session::new(&self.edge, self.peer, self.door.local, self.door.place.tls, &activity);
        listener.opened();
        let limits = &snapshot.server.limits.protocol;
        let ended = connection::serve(stream, ahead, protocol, activity, limits, session, &self.stop).await;
        listener.closed();
        match ended {
            Ended::Normally | Ended::TimedOut(Closed::Idle) => {}
            Ended::TimedOut(why) => self.timed_out(why.as_str()),
            Ended::Protocol(error) => {
                self.edge.metrics.protocol_error(protocol_error(&error));
                debug!(peer = %self.peer, %error, "connection broke");
            }
        }
    }

    fn timed_out(&self, phase: &'static str) {
        self.edge.metrics.connection_timeout(phase);
        debug!(peer = %self.peer, phase, "connection timed out");
    }
}

/// The kind of a broken connection, for metrics.
fn protocol_error(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        "head_too_large"
    } else if error.is_parse() {
        "parse"
    } else if error.is_incomplete_message() {
        "incomplete"
    } else if error.is_body_write_aborted() || error.is_user() {
        "answer_broken_off"
    } else if error.is_timeout() {
        "timeout"
    } else {
        "connection"
    }
}
