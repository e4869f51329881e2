//! The origin behind all servers, and the floor below them: a bare hyper server in a process of its own, one thread.
//!
//! It is this program started again. It ends when its standard input does, so it cannot outlive the one who started it.

use crate::machine;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// The word that makes this program an origin.
pub const VERB: &str = "--origin";

const TAG: &str = "\"tidegate-bench\"";

/// A running origin; dropping it ends it.
pub struct Origin(Child);

impl Origin {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program again as `verb` says, listening on `addr`; a relay asks at `origin`.
pub fn start(verb: &str, addr: SocketAddr, origin: Option<SocketAddr>) -> Result<Origin, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let words = [verb.to_owned(), addr.to_string()].into_iter().chain(origin.map(|origin| origin.to_string()));
    let child = Command::new(program).args(words).stdin(Stdio::piped()).spawn();
    let origin = Origin(child.map_err(|error| format!("start {verb}: {error}"))?);
    machine::until(|| machine::ask(addr, "/1k", None).is_ok())
        .then_some(origin)
        .ok_or_else(|| format!("{verb} does not serve"))
}

/// How many requests the origin at `addr` has seen.
pub fn asked(addr: SocketAddr) -> Result<u64, String> {
    machine::ask(addr, "/asked", None)?.etag.and_then(|tag| tag.parse().ok()).ok_or("the origin does not count".into())
}

/// What is ready to be sent.
struct Shelf {
    small: Bytes,
    large: Bytes,
    asked: AtomicU64,
}

/// Serves until standard input ends.
pub fn serve(addr: SocketAddr) -> ExitCode {
    let shelf = Arc::new(Shelf {
        small: Bytes::from(vec![b'x'; 1024]),
        large: Bytes::from(vec![b'x'; 65536]),
        asked: AtomicU64::new(0),
    });
    run(accept(addr, shelf))
}

/// Runs one of our own servers on this thread, until standard input ends.
pub fn run(server: impl Future<Output = ()>) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    std::thread::spawn(|| {
        // Whether it ends or breaks, nobody needs us any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    LocalSet::new().block_on(&runtime, server);
    ExitCode::FAILURE
}

async fn accept(addr: SocketAddr, shelf: Arc<Shelf>) {
    let Ok(listener) = TcpListener::bind(addr).await else { return };
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let shelf = Arc::clone(&shelf);
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &shelf))));
            // A client that breaks off is no matter here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, shelf: &Shelf) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/asked" {
        let mut response = Response::new(Full::default());
        let count = HeaderValue::from(shelf.asked.load(Ordering::Relaxed));
        response.headers_mut().insert(header::ETAG, count);
        return response;
    }
    shelf.asked.fetch_add(1, Ordering::Relaxed);
    let (body, policy) = match path {
        "/64k" => (&shelf.large, "public, max-age=3600"),
        "/pass" => (&shelf.small, "private, no-store"),
        _ => (&shelf.small, "public, max-age=3600"),
    };
    let fresh = request.headers().get(header::IF_NONE_MATCH).is_some_and(|tag| tag == TAG);
    let mut response = Response::new(if fresh { Full::default() } else { Full::new(body.clone()) });
    if fresh {
        *response.status_mut() = hyper::StatusCode::NOT_MODIFIED;
    }
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static(policy));
    head.insert(header::ETAG, HeaderValue::from_static(TAG));
    response
}
