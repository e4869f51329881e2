//! One worker: a thread with a runtime of its own that accepts, serves and, at the end, drains connections.
//!
//! Workers share the cache, the upstreams and the counters, and nothing else.

use crate::admission::acl;
use crate::admission::pressure::Level;
use crate::clock;
use crate::config::settings::Limits as Configured;
use crate::config::values::ProxyProtocol;
use crate::edge::Edge;
use crate::edge::activity::Activity;
use crate::edge::activity::Bounds;
use crate::edge::activity::Closed;
use crate::edge::connection;
use crate::edge::connection::Ended;
use crate::edge::connection::Limits;
use crate::edge::connection::Protocol;
use crate::edge::descriptors;
use crate::edge::doorstep::Stream;
use crate::edge::intake::Approach;
use crate::edge::listener::Place;
use crate::edge::permits::Full;
use crate::edge::permits::Permit;
use crate::edge::pipeline::Session;
use crate::edge::socket::Abrupt;
use crate::telemetry::metrics::Carrier;
use crate::telemetry::metrics::Handshake;
use crate::telemetry::metrics::ListenerMetrics;
use crate::telemetry::metrics::Metrics;
use crate::tls;
use rustls::HandshakeKind;
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::warn;

/// How long to leave the listener alone when the process has no file descriptor left: first so long, then twice that ...
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// ... up to this.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often the diary hears of it.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// One bound place: a socket for each worker, taken once.
pub struct Door {
    /// The place as configured.
    pub place: Place,
    /// The address that was bound: the same, or with the port the kernel chose.
    pub local: SocketAddr,
    sockets: Mutex<Vec<Option<StdListener>>>,
    /// The counters of its connections: they are in use for as long as it is.
    counters: [OnceLock<Arc<ListenerMetrics>>; Carrier::COUNT],
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
        let sockets = Mutex::new(sockets.into_iter().map(Some).collect());
        Ok(Self { place, local, sockets, counters: Default::default() })
    }

    fn counters(&self, metrics: &Metrics, carrier: Carrier) -> &ListenerMetrics {
        // An index of an enum whose words were counted to make the table.
        self.counters[carrier.index()].get_or_init(|| metrics.listener(self.local, carrier))
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
    let wanted = edge.snapshots.load().server.limits.connections as usize;
    if worker == 0 && descriptors::for_clients() < wanted {
        let room = descriptors::for_clients();
        warn!(connections = room, wanted, "the limit of open files allows fewer connections: raise it (LimitNOFILE=)");
    }
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
                    let accepting = Accepting { edge: Arc::clone(&edge), door: Arc::clone(door) };
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
}

impl Accepting {
    async fn run(self, listener: TcpListener, closing: CancellationToken, connections: TaskTracker) {
        let mut pause = ACCEPT_PAUSE;
        let mut complain_at: Option<Instant> = None;
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
                    let now = clock::mono();
                    if complain_at.is_none_or(|at| now >= at) {
                        complain_at = Some(now + COMPLAIN_EVERY);
                        warn!(listener = %self.door.local, %error, "cannot accept; is the limit of open files too low?");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                    continue;
                }
            }
            pause = ACCEPT_PAUSE;
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, connections: &TaskTracker) {
        let snapshot = self.edge.snapshots.load();
        let server = &snapshot.server;
        let limits = &server.limits;
        if server.deny.contains(peer.ip()) {
            return self.edge.metrics.connection_rejected("denied");
        }
        if self.edge.shedding.level() == Level::Full {
            return self.edge.metrics.connection_rejected("memory");
        }
        let trusted = acl::contains(&server.trusted, peer.ip());
        let announced = match (server.proxy_protocol, trusted) {
            (ProxyProtocol::Required, false) => return self.edge.metrics.connection_rejected("proxy_header"),
            (ProxyProtocol::Off, _) | (_, false) => None,
            (mode, true) => Some(mode),
        };
        let all_max = (limits.connections as usize).min(descriptors::for_clients());
        // A trusted proxy brings the connections of many clients.
        let client_max = if trusted { usize::MAX } else { limits.per_client as usize };
        match self.edge.permits.take(peer.ip(), all_max, client_max) {
            Ok(permit) => {
                // In a box, for it is handed on several times, and each time would have room in the connection's task.
                let visit = Box::new(Visit {
                    edge: Arc::clone(&self.edge),
                    door: Arc::clone(&self.door),
                    peer,
                    handshake: limits.handshake,
                    h2c: server.h2c,
                    limits: protocol_limits(limits),
                    end: self.edge.shedding.end(),
                    permit,
                });
                let tls = if self.door.place.tls { snapshot.tls.clone() } else { None };
                connections.spawn(visit.begin(stream, announced, tls));
            }
            Err(full) => self.edge.metrics.connection_rejected(full.as_str()),
        }
    }
}

/// The bounds of a connection, taken from the snapshot so that it is not kept for as long as the connection lasts.
fn protocol_limits(limits: &Configured) -> Limits {
    Limits {
        bounds: Bounds {
            first_byte: limits.first_byte,
            head: limits.head,
            idle: limits.idle,
            write_idle: limits.write_idle,
        },
        header_bytes: limits.header_bytes.as_usize(),
        headers: limits.headers as usize,
        h2_streams: limits.h2_streams,
        rate_min: limits.rate_min.0,
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
    handshake: Duration,
    h2c: bool,
    limits: Limits,
    end: CancellationToken,
    permit: Permit,
}

impl Abrupt for TlsStream<Stream<TcpStream>> {
    fn cut(&self) {
        self.get_ref().0.cut();
    }
}

impl Visit {
    async fn begin(
        mut self: Box<Self>,
        stream: TcpStream,
        announced: Option<ProxyProtocol>,
        tls: Option<Arc<ServerConfig>>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(peer = %self.peer, %error, "connection was gone before it was served");
            return;
        }
        let mut stream = Stream::new(stream);
        if let Some(mode) = announced
            && let Err(why) = Box::pin(self.learn_client(&mut stream, mode)).await
        {
            self.edge.metrics.connection_rejected(why);
            return;
        }
        self.serve(stream, tls).await;
    }

    /// Learns from the proxy in front of us whose connection this is.
    async fn learn_client(&mut self, stream: &mut Stream<TcpStream>, mode: ProxyProtocol) -> Result<(), &'static str> {
        let told = stream.announced(mode == ProxyProtocol::Required, self.limits.bounds.first_byte).await;
        let source = told.map_err(|why| {
            debug!(proxy = %self.peer, ?why, "the proxy does not tell whose connection it brings");
            "proxy_header"
        })?;
        let Some(source) = source else { return Ok(()) };
        let snapshot = self.edge.snapshots.load();
        if snapshot.server.deny.contains(source.ip()) {
            return Err("denied");
        }
        let most = snapshot.server.limits.per_client as usize;
        self.permit.turns_out_to_be_of(source.ip(), most).map_err(Full::as_str)?;
        self.peer = source;
        Ok(())
    }

    async fn serve(self: Box<Self>, mut stream: Stream<TcpStream>, tls: Option<Arc<ServerConfig>>) {
        // Each way and each step of it has an allocation of its own that ends with it, so that a connection that idles has the
        // room for what it is doing, and not for all that it might have done.
        match tls {
            Some(config) => {
                let Some((stream, protocol)) = Box::pin(self.shake_hands(stream, config)).await else { return };
                Box::pin(self.serve_http(stream, Vec::new(), protocol)).await;
            }
            // A TLS listener without certificates is refused by `check`; speaking HTTP on it would be worse than nothing.
            None if self.door.place.tls => {}
            None if self.h2c => {
                let Some((protocol, ahead)) = Box::pin(self.sniff(&mut stream)).await else { return };
                Box::pin(self.serve_http(stream, ahead, protocol)).await;
            }
            None => Box::pin(self.serve_http(stream, Vec::new(), Protocol::Http1)).await,
        }
    }

    /// The TLS session, unless that is all that was wanted, and what is spoken in it.
    async fn shake_hands(
        &self,
        stream: Stream<TcpStream>,
        config: Arc<ServerConfig>,
    ) -> Option<(Box<TlsStream<Stream<TcpStream>>>, Protocol)> {
        let began = clock::mono();
        let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
        match tokio::time::timeout(self.handshake, handshake).await {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
                let took = clock::mono().saturating_duration_since(began);
                let done = Handshake::Done { version: session.protocol_version(), resumed, took };
                self.edge.metrics.tls_handshake(done);
                if session.alpn_protocol() == Some(tls::ACME_TLS) {
                    // RFC 8737 3: the handshake was all that the authority wanted.
                    return None;
                }
                let h2 = session.alpn_protocol() == Some(b"h2");
                let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
                Some((Box::new(stream), protocol))
            }
            Ok(Err(error)) => {
                self.edge.metrics.tls_handshake(Handshake::Failed);
                debug!(peer = %self.peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                self.edge.metrics.tls_handshake(Handshake::TimedOut);
                self.timed_out("handshake");
                None
            }
        }
    }

    /// What is spoken on a connection in cleartext, with the bytes by which that was known.
    async fn sniff(&self, stream: &mut Stream<TcpStream>) -> Option<(Protocol, Vec<u8>)> {
        let sniffed = connection::sniff(stream, self.limits.bounds.first_byte).await;
        sniffed.unwrap_or_else(|closed| {
            self.timed_out(closed.as_str());
            None
        })
    }

    async fn serve_http<S>(&self, stream: S, ahead: Vec<u8>, protocol: Protocol)
    where
        S: Abrupt + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let http2 = protocol == Protocol::Http2;
        let tls = self.door.place.tls;
        let activity = Arc::new(Activity::new(clock::mono(), http2, self.limits.rate_min));
        let listener = self.door.counters(&self.edge.metrics, Carrier::of(tls, http2));
        let closing = self.end.child_token();
        let approach = Approach { peer: self.peer.ip().to_canonical(), tls, http2 };
        let session = Session::new(&self.edge, approach, &activity, &closing);
        listener.opened();
        let watched = Arc::clone(&activity);
        let ended = connection::serve(stream, ahead, protocol, activity, &self.limits, session, &closing).await;
        listener.closed();
        (0..watched.streams_stalled()).for_each(|_| self.timed_out("stream_stalled"));
        match ended {
            Ended::Normally | Ended::TimedOut(Closed::Idle) => {}
            Ended::TimedOut(why) => self.timed_out(why.as_str()),
            Ended::CutOff(abuse) => {
                self.edge.metrics.protocol_error(abuse.as_str());
                debug!(peer = %self.peer, why = abuse.as_str(), "client was cut off");
            }
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
