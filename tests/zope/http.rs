//! A plain HTTP/1.1 client: one request, one connection, the whole answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::Request;
use hyper::StatusCode;
use hyper::header;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A request with its body at hand.
pub type Ask = Request<Full<Bytes>>;

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// A header field's first value, if it is plain text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks for one page.
///
/// # Errors
/// As [`send`].
pub async fn get(address: SocketAddr, target: &str) -> anyhow::Result<Reply> {
    let ask = Request::get(target).body(Full::default()).with_context(|| format!("ask for {target}"))?;
    send(address, ask).await
}

/// Sends one request; Host is the address, unless the request names one.
///
/// # Errors
/// No connection, no answer in half a minute, or none that is HTTP.
pub async fn send(address: SocketAddr, mut ask: Ask) -> anyhow::Result<Reply> {
    if !ask.headers().contains_key(header::HOST) {
        ask.headers_mut().insert(header::HOST, HeaderValue::try_from(address.to_string())?);
    }
    let what = format!("{} {} at {address}", ask.method(), ask.uri());
    tokio::time::timeout(ANSWER_MAX, exchange(address, ask)).await.context("no answer in time").flatten().context(what)
}

async fn exchange(address: SocketAddr, ask: Ask) -> anyhow::Result<Reply> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let (head, body) = sender.send_request(ask).await.context("send")?.into_parts();
        let body = body.collect().await.context("read the body")?.to_bytes();
        drop(sender);
        anyhow::Ok(Reply { status: head.status, headers: head.headers, body })
    };
    // The connection is driven here rather than in a task of its own, so it ends with this call.
    let (answer, _ended) = tokio::join!(answered, connection);
    answer
}

const ANSWER_MAX: Duration = Duration::from_secs(30);
