//! The admin listener: health, readiness, metrics and status to read; set swaps, reloads and purges to order.
//!
//! The unix socket may do everything and is guarded by its mode (0660: owner and group). A TCP address, only when asked
//! for, may read health and metrics and nothing else.

use crate::control::pair;
use crate::control::publisher::Publisher;
use crate::control::status;
use crate::edge::explain::Wish;
use crate::edge::purge::Wanted;
use crate::privilege;
use crate::semantics::tags::Mode;
use crate::telemetry::metrics::SwitchCause;
use crate::upstream::Listed;
use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::net::unix::UCred;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// Admin connections at a time; more wait.
const CONNECTIONS: usize = 64;

/// A request's head must come within this, and an idle connection is closed after it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    Read,
    All,
}

/// An admin listener that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The unix socket.
    #[error("open the admin socket {} ({remedy})", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A TCP address.
    #[error("listen for metrics on {addr}")]
    Tcp {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The bound admin listeners.
#[derive(Default)]
pub struct Admin {
    unix: Option<(UnixListener, PathBuf)>,
    tcp: Vec<TcpListener>,
}

impl Admin {
    /// Opens the unix socket at `socket` with `mode`, unless it is `None`, and each TCP address.
    ///
    /// A socket file that nobody answers on is replaced; one that answers belongs to a running tidegate.
    ///
    /// # Errors
    /// Every listener that could not be opened.
    pub async fn open(socket: Option<(&Path, u32)>, tcp: &[SocketAddr]) -> Result<Self, Vec<AdminError>> {
        let mut admin = Self::default();
        let mut errors = Vec::new();
        if let Some((path, mode)) = socket {
            match open_unix(path, mode).await {
                Ok(listener) => admin.unix = Some((listener, path.to_owned())),
                Err(source) => {
                    errors.push(AdminError::Socket { path: path.to_owned(), remedy: remedy(&source), source });
                }
            }
        }
        for addr in tcp {
            match TcpListener::bind(addr).await {
                Ok(listener) => admin.tcp.push(listener),
                Err(source) => errors.push(AdminError::Tcp { addr: *addr, source }),
            }
        }
        if errors.is_empty() { Ok(admin) } else { Err(errors) }
    }

    /// The TCP addresses that were bound.
    #[must_use]
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop`; removes the socket file at the end.
    pub async fn serve(self, publisher: Arc<Publisher>, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        for listener in self.tcp {
            let desk = Desk::new(&publisher, &room, &stop, Rights::Read);
            tracker.spawn(async move {
                while let Some(stream) = desk.next(listener.accept()).await {
                    // It gives no orders.
                    desk.serve(stream.0, String::new());
                }
            });
        }
        if let Some((listener, path)) = self.unix {
            let desk = Desk::new(&publisher, &room, &stop, Rights::All);
            tracker.spawn(async move {
                while let Some((stream, _)) = desk.next(listener.accept()).await {
                    let who = stream.peer_cred().map_or_else(|_| "somebody".to_owned(), |who| caller(&who));
                    desk.serve(stream, who);
                }
                drop(listener);
                if let Err(error) = std::fs::remove_file(&path) {
                    warn!(socket = %path.display(), %error, "admin socket file stays behind");
                }
            });
        }
        tracker.close();
        tracker.wait().await;
    }
}

async fn open_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another tidegate answers on it"));
        }
        std::fs::remove_file(path)?;
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    // Bound under a name that nobody knows and renamed once its mode is right, so that it is never open to all.
    let hidden = path.with_extension(format!("new-{}", std::process::id()));
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
            "set admin.socket to a path in a directory that tidegate may write, or make that directory"
        }
        io::ErrorKind::AddrInUse => "stop the other tidegate, or give this one its own admin.socket",
        io::ErrorKind::AlreadyExists => "move that file away, or set admin.socket to another path",
        _ => "see the cause",
    }
}

/// One admin listener's way of answering.
struct Desk {
    publisher: Arc<Publisher>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
    rights: Rights,
}

impl Desk {
    fn new(publisher: &Arc<Publisher>, room: &Arc<Semaphore>, stop: &CancellationToken, rights: Rights) -> Self {
        Self { publisher: Arc::clone(publisher), room: Arc::clone(room), stop: stop.clone(), rights }
    }

    /// The next connection; `None` at the end.
    async fn next<T>(&self, accept: impl Future<Output = io::Result<T>>) -> Option<T> {
        let mut accept = std::pin::pin!(accept);
        tokio::select! {
            accepted = &mut accept => match accepted {
                Ok(stream) => Some(stream),
                Err(error) => {
                    warn!(%error, "admin listener is closed");
                    None
                }
            },
            () = self.stop.cancelled() => None,
        }
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, who: String) {
        let (publisher, room, stop, rights) =
            (Arc::clone(&self.publisher), Arc::clone(&self.room), self.stop.clone(), self.rights);
        let who: Arc<str> = who.into();
        tokio::spawn(async move {
            let Ok(_seat) = room.acquire_owned().await else { return };
            let service = service_fn(move |request| {
                let (publisher, who) = (Arc::clone(&publisher), Arc::clone(&who));
                async move { Ok::<_, Infallible>(answer(&publisher, rights, &who, &request).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(16 * 1024);
            tokio::select! {
                // A broken admin connection concerns only the one who broke it.
                _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Who calls, as the system knows him: his user, and whom he logged in as before he became that.
fn caller(who: &UCred) -> String {
    let name = |uid: u32| privilege::name_of(uid).unwrap_or_else(|| format!("user {uid}"));
    let user = name(who.uid());
    let login = who.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    // The highest number is nobody's: a service, or a system that does not keep account.
    let login = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != u32::MAX && *uid != who.uid());
    login.map_or_else(|| user.clone(), |login| format!("{user}, logged in as {}", name(login)))
}

async fn answer(
    publisher: &Arc<Publisher>,
    rights: Rights,
    who: &str,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let argument = |name: &str| query_argument(request.uri().query().unwrap_or(""), name);
    if request.method() == Method::GET {
        return match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match status::not_ready(publisher) {
                None => text(StatusCode::OK, "ready\n"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
            },
            "/metrics" => {
                let (kind, page) = publisher.house().metrics.encode();
                respond(StatusCode::OK, kind, page)
            }
            _ if path.starts_with("/pair") && rights == Rights::All => match pair::told(publisher, path).await {
                Ok(told) => respond(StatusCode::OK, "application/json", told.to_string()),
                Err(why) => text(StatusCode::CONFLICT, &format!("{why}\n")),
            },
            "/status" if rights == Rights::All => {
                let listed = if argument("requests").as_deref() == Some("all") { Listed::All } else { Listed::Long };
                respond(StatusCode::OK, "application/json", status::json_with(publisher, listed).to_string())
            }
            "/explain" if rights == Rights::All => explained(publisher, request.uri().query().unwrap_or("")).await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /metrics and, on the socket, /status and /explain\n",
            ),
        };
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
    }
    if rights != Rights::All {
        return text(StatusCode::FORBIDDEN, "orders are taken on the admin socket only\n");
    }
    match path {
        "/reload" => outcome(publisher.reload().await),
        "/use" => match (argument("upstream"), argument("set")) {
            (Some(upstream), Some(set)) => outcome(publisher.use_set(&upstream, &set, SwitchCause::Admin)),
            _ => text(StatusCode::BAD_REQUEST, "say upstream=NAME&set=NAME\n"),
        },
        "/drain" | "/undrain" => match (argument("upstream"), argument("endpoint")) {
            (Some(upstream), Some(endpoint)) => outcome(publisher.drain(&upstream, &endpoint, path == "/drain")),
            _ => text(StatusCode::BAD_REQUEST, "say upstream=NAME&endpoint=HOST:PORT\n"),
        },
        "/hold" | "/release" => match argument("upstream") {
            Some(upstream) => outcome(publisher.hold(&upstream, path == "/hold")),
            None => text(StatusCode::BAD_REQUEST, "say upstream=NAME\n"),
        },
        "/purge" => match argument("what").or_else(|| argument("url")) {
            Some(what) => outcome(
                publisher
                    .purge(Wanted {
                        kind: argument("kind").or_else(|| (what == "all").then(|| "all".to_owned())),
                        what,
                        site: argument("site"),
                        mode: argument("mode").map(|mode| if mode == "soft" { Mode::Soft } else { Mode::Hard }),
                    })
                    .await,
            ),
            None => text(
                StatusCode::BAD_REQUEST,
                "say what=https://HOST/PATH, or kind=KIND&what=TEXT with url, prefix, glob, regex, tag, site or all\n",
            ),
        },
        _ if path.starts_with("/pair/") => {
            outcome(pair::order(publisher, path, argument("what").or_else(|| argument("force")), who).await)
        }
        "/reopen" => {
            publisher.house().access.reopen();
            text(StatusCode::OK, "log files are opened again\n")
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /reload, /use, /drain, /undrain, /hold, /release, /purge and /reopen\n",
        ),
    }
}

/// How a request is answered, as words or (`form=json`) as an object.
async fn explained(publisher: &Arc<Publisher>, query: &str) -> Response<Full<Bytes>> {
    let wish = Wish {
        url: query_argument(query, "url").unwrap_or_default(),
        method: query_argument(query, "method"),
        headers: query_arguments(query, "header"),
        client: query_argument(query, "client"),
        answer: query_argument(query, "answer"),
    };
    let publisher = Arc::clone(publisher);
    // It may read the disk.
    let told = tokio::task::spawn_blocking(move || publisher.explain(&wish)).await;
    match told.unwrap_or_else(|panic| Err(format!("the explanation broke off: {panic}"))) {
        Ok(told) if query_argument(query, "form").as_deref() == Some("json") => {
            respond(StatusCode::OK, "application/json", told.json().to_string())
        }
        Ok(told) => text(StatusCode::OK, &told.text()),
        Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
    }
}

/// What was done, or why not: the text is for the operator.
fn outcome(result: Result<String, String>) -> Response<Full<Bytes>> {
    match result {
        Ok(done) => text(StatusCode::OK, &format!("{done}\n")),
        Err(why) => text(StatusCode::CONFLICT, &format!("{why}\n")),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The decoded values of all that is called `name` in a query string.
fn query_arguments(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    pairs.filter_map(|(_, raw)| percent_decode(raw)).collect()
}

/// The decoded value of `name` in a query string.
fn query_argument(query: &str, name: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?.1;
    percent_decode(raw)
}

fn percent_decode(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Encodes `value` for a query string, as the admin listener reads it back.
#[must_use]
pub fn percent_encode(value: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_argument_reaches_the_admin_socket_unchanged(value in ".*") {
            let query = format!("a=b&url={}&c=d", percent_encode(&value));
            prop_assert_eq!(query_argument(&query, "url"), Some(value));
        }

        #[test]
        fn any_query_is_read_without_a_panic(query in ".*") {
            let _ = query_argument(&query, "url");
        }
    }
}
