//! A client's socket, watched: each read and write is noted in the connection's [`Activity`].

use crate::clock;
use crate::edge::activity::Abuse;
use crate::edge::activity::Activity;
use crate::edge::frames::Frames;
use socket2::SockRef;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// Pieces of up to so many bytes in all are joined before they are written: the copy costs some hundredths of a microsecond, to
/// have the kernel gather them a quarter of one.
const JOINED_MAX: usize = 2048;

/// A stream that can be cut off: what it still has to send is forgotten, and the other side hears of it at once.
pub trait Abrupt {
    /// From now on closing it is a reset (RFC 9293 3.10.5), and no farewell that waits until all is sent.
    fn cut(&self);
}

impl Abrupt for TcpStream {
    fn cut(&self) {
        // Where it fails the connection has an end of its own.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl<S: Abrupt> Abrupt for Box<S> {
    fn cut(&self) {
        (**self).cut();
    }
}

/// A stream with bytes that were read ahead of it, and an eye on both directions.
pub struct Watched<S: Abrupt> {
    stream: S,
    /// Read before the protocol was known; served first.
    ahead: Vec<u8>,
    activity: Arc<Activity>,
    /// What an HTTP/2 client sends besides requests.
    frames: Option<Box<Frames>>,
}

/// The client is cut off.
#[derive(Debug, thiserror::Error)]
#[error("the client is cut off: {0:?}")]
struct CutOff(Abuse);

impl<S: Abrupt> Watched<S> {
    /// Watches `stream`; `ahead` was already read from it.
    pub fn new(stream: S, ahead: Vec<u8>, activity: Arc<Activity>) -> Self {
        let frames = activity.is_multiplexed().then(|| Box::new(Frames::new(clock::mono())));
        Self { stream, ahead, activity, frames }
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.activity.write_blocked(clock::mono),
            Poll::Ready(written) => {
                let bytes = written.as_ref().map_or(0, |bytes| *bytes);
                self.activity.write_moved(bytes, clock::mono);
                if let Some(frames) = &mut self.frames {
                    frames.wrote(bytes);
                }
            }
        }
    }

    /// Looks at what was read. An error ends the connection, whatever hyper is doing with it.
    fn look(&mut self, read: &[u8]) -> io::Result<()> {
        if !read.is_empty() {
            self.activity.heard(clock::mono);
            if self.frames.as_mut().is_some_and(|frames| frames.read(read, clock::mono)) {
                self.activity.abused(Abuse::Frames);
            }
        }
        match self.activity.abuse() {
            Some(abuse) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, CutOff(abuse))),
            None => Ok(()),
        }
    }
}

impl<S: Abrupt> Drop for Watched<S> {
    fn drop(&mut self) {
        // Else the kernel would keep what the client does not take, without a bound of ours, for as long as he likes.
        if self.activity.is_given_up() {
            self.stream.cut();
        }
    }
}

impl<S: Abrupt + AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let take = this.ahead.len().min(buf.remaining());
            let before = buf.filled().len();
            buf.put_slice(&this.ahead[..take]);
            this.ahead.drain(..take);
            if this.ahead.is_empty() {
                this.ahead = Vec::new();
                // What has come besides goes into the same buffer: hyper would make its own twice as large for a second read.
                if let Poll::Ready(more) = Pin::new(&mut this.stream).poll_read(cx, buf) {
                    more?;
                }
            }
            return Poll::Ready(this.look(&buf.filled()[before..]));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.look(&buf.filled()[before..]))
    }
}

impl<S: Abrupt + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = bufs.iter().map(|piece| piece.len()).sum();
        let written = if bufs.len() > 1 && total <= JOINED_MAX {
            let (mut joined, mut end) = ([0; JOINED_MAX], 0);
            for piece in bufs {
                joined[end..end + piece.len()].copy_from_slice(piece);
                end += piece.len();
            }
            Pin::new(&mut this.stream).poll_write(cx, &joined[..end])
        } else {
            Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
        };
        this.note(&written);
        written
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
