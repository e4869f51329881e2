//! Before a connection is served: whose it is, when a proxy in front of us tells.

use crate::edge::socket::Abrupt;
use crate::semantics::proxy_header;
use crate::semantics::proxy_header::Ahead;
use std::io;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// Why a connection is not served whose proxy should have told whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unannounced {
    /// It left before.
    Left,
    /// It took too long.
    TimedOut,
    /// It told nothing, or nonsense.
    Bad(&'static str),
}

/// A stream with bytes that were read ahead of it.
pub struct Stream<S> {
    stream: S,
    ahead: Vec<u8>,
}

impl<S> Stream<S> {
    /// Nothing was read yet.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }
}

impl<S: Abrupt> Abrupt for Stream<S> {
    fn cut(&self) {
        self.stream.cut();
    }
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// Reads what the proxy tells, which may be nothing unless it is `required`; gives the client it speaks for.
    ///
    /// # Errors
    /// [`Unannounced`].
    pub async fn announced(&mut self, required: bool, within: Duration) -> Result<Option<SocketAddr>, Unannounced> {
        tokio::time::timeout(within, self.read_header(required)).await.map_err(|_| Unannounced::TimedOut)?
    }

    async fn read_header(&mut self, required: bool) -> Result<Option<SocketAddr>, Unannounced> {
        let mut bytes = Vec::new();
        let mut piece = [0; 512];
        loop {
            match proxy_header::parse(&bytes) {
                Ahead::Header { len, source } => {
                    self.ahead = bytes.split_off(len);
                    return Ok(source);
                }
                Ahead::None if required => return Err(Unannounced::Bad("there is no header")),
                Ahead::None => {
                    self.ahead = bytes;
                    return Ok(None);
                }
                Ahead::Bad(why) => return Err(Unannounced::Bad(why)),
                // A header has ended before HEADER_MAX, so this does, too.
                Ahead::More => match self.stream.read(&mut piece).await {
                    Ok(read) if read > 0 => bytes.extend_from_slice(&piece[..read]),
                    _ => return Err(Unannounced::Left),
                },
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let take = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..take]);
        this.ahead.drain(..take);
        if this.ahead.is_empty() {
            this.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
