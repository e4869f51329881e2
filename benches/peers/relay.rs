//! The floor below every proxy that is built on hyper: a bare server, a bare client, kept connections, and no decisions.
//!
//! What it costs is hyper's and the kernel's; what tidegate costs beyond it is tidegate's. One thread, as the others have.

use crate::origin;
use http_body_util::Empty;
use hyper::Request;
use hyper::Response;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::client::conn::http1::SendRequest;
use hyper::header;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// The word that makes this program a relay.
pub const VERB: &str = "--relay";

type Sender = SendRequest<Empty<Bytes>>;

/// Kept connections to the origin.
struct Pool {
    origin: SocketAddr,
    idle: RefCell<Vec<Sender>>,
}

/// Relays from `addr` to `origin` until standard input ends.
pub fn serve(addr: SocketAddr, origin: SocketAddr) -> ExitCode {
    let pool = Rc::new(Pool { origin, idle: RefCell::default() });
    origin::run(accept(addr, pool))
}

async fn accept(addr: SocketAddr, pool: Rc<Pool>) {
    let Ok(listener) = TcpListener::bind(addr).await else { return };
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let pool = Rc::clone(&pool);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| relay(request, Rc::clone(&pool)));
            // A client that breaks off is no matter here.
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Sends a request on as it is; the connection is kept when the head of the answer is there, for the next request on it
/// waits until its body has been read.
async fn relay(mut request: Request<Incoming>, pool: Rc<Pool>) -> io::Result<Response<Incoming>> {
    // It is for our own hop.
    request.headers_mut().remove(header::CONNECTION);
    let mut sender = pool.take().await?;
    let response = sender.send_request(request.map(|_| Empty::new())).await.map_err(io::Error::other)?;
    pool.idle.borrow_mut().push(sender);
    Ok(response)
}

impl Pool {
    /// A kept connection, or a new one.
    async fn take(&self) -> io::Result<Sender> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let Some(mut sender) = kept else { return open(self.origin).await };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
    }
}

async fn open(origin: SocketAddr) -> io::Result<Sender> {
    let stream = TcpStream::connect(origin).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = client::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // What breaks is told to the request that was on it.
        let _ = connection.await;
    });
    Ok(sender)
}
