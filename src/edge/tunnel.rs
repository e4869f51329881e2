//! WebSocket: after the origin's 101, and not before, bytes pass both ways until one side ends or both are silent.

use crate::clock;
use crate::edge::body::OutBody;
use crate::upstream::Fetched;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tracing::debug;

/// A tunnel in which nothing has moved for so long is closed.
const SILENCE_MAX: Duration = Duration::from_mins(5);

/// When the origin has closed its side, the client has so long to say the rest: nobody hears it, and the thread is counted as
/// taken for as long.
const FAREWELL: Duration = Duration::from_secs(5);

/// The bytes that are held for each direction.
const BUFFER: usize = 16 * 1024;

/// Puts the fields back that ask for the change of protocol: they were dropped with the others of this hop.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Answers the client's 101 and moves bytes from then on, keeping the origin's thread for as long.
#[must_use]
pub fn open(client: OnUpgrade, fetched: Fetched) -> Response<OutBody> {
    let (mut headers, origin) = fetched.into_tunnel();
    ask(&mut headers);
    if let Some((origin, ahead, lease)) = origin {
        tokio::spawn(async move {
            match client.await.map(TokioIo::new) {
                Ok(mut client) => {
                    if client.write_all(&ahead).await.is_ok() {
                        pump(client, origin).await;
                    }
                }
                Err(error) => debug!(endpoint = %lease.endpoint.addr, %error, "tunnel did not open"),
            }
            drop(lease);
        });
    }
    let mut response = Response::new(OutBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

async fn pump<C, O>(client: C, origin: O)
where
    C: AsyncRead + AsyncWrite,
    O: AsyncRead + AsyncWrite,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (origin_read, origin_write) = tokio::io::split(origin);
    let last = std::sync::Mutex::new(clock::mono());
    let mut up = std::pin::pin!(copy(client_read, origin_write, &last));
    let mut down = std::pin::pin!(copy(origin_read, client_write, &last));
    // Both are waited for by reference: neither loses what it holds.
    let both = async {
        tokio::select! {
            () = &mut up => down.await,
            () = &mut down => drop(tokio::time::timeout(FAREWELL, up).await),
        }
    };
    let mut both = std::pin::pin!(both);
    loop {
        let due = touched(&last) + SILENCE_MAX;
        tokio::select! {
            () = &mut both => return,
            () = tokio::time::sleep_until(due.into()) => {
                if touched(&last) + SILENCE_MAX <= clock::mono() {
                    return;
                }
            }
        }
    }
}

fn touched(last: &std::sync::Mutex<Instant>) -> Instant {
    *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut from: R, mut to: W, last: &std::sync::Mutex<Instant>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = clock::mono();
    }
    // The other direction may go on; its reader sees this end.
    let _ = to.shutdown().await;
}
