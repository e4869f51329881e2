//! Uploads are taken in whole before a thread of Zope is: a visitor with a slow line occupies a buffer here, not a fourth of
//! the site.
//!
//! The first `IN_MEMORY` bytes stay in memory, the rest goes to an unlinked temporary file. Both have a common bound. Where
//! no file can be made, what does not fit into memory is passed on as it comes: an upload that takes a thread for long is
//! better than one that fails.

use crate::clock;
use crate::edge::refusal::Refusal;
use crate::telemetry::chain;
use crate::upstream::ClientFault;
use crate::upstream::FetchError;
use crate::upstream::RequestBody;
use bytes::Bytes;
use bytes::BytesMut;
use http::StatusCode;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio::io::AsyncSeekExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tracing::warn;

/// How much of one upload stays in memory.
const IN_MEMORY: u64 = 64 * 1024;

/// How much of all uploads together stays in memory.
const IN_MEMORY_ALL: u64 = 64 * 1024 * 1024;

/// The diary is told of trouble no more often than this.
const COMPLAINTS: Duration = Duration::from_mins(1);

const PASSED_ON: &str =
    "uploads cannot be taken in whole and take a thread meanwhile: set server.spool to a directory that can be written";

/// The size of the pieces that are read from a file.
const PIECE: usize = 64 * 1024;

/// The uploads that are being taken in, and their bounds.
#[derive(Debug, Default)]
pub struct Spool {
    memory: Arc<AtomicU64>,
    disk: Arc<AtomicU64>,
    /// When the diary was last told that there is trouble.
    complained: Mutex<Option<Instant>>,
}

/// Bytes that count against a bound until this is dropped.
#[derive(Debug)]
struct Claim {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Claim {
    fn new(of: &Arc<AtomicU64>) -> Self {
        Self { of: Arc::clone(of), bytes: 0 }
    }

    /// Claims `bytes` more; says no when all claims together would be over `most`.
    fn grow(&mut self, bytes: u64, most: u64) -> bool {
        if self.of.fetch_add(bytes, Ordering::Relaxed) + bytes > most {
            self.of.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An upload that has been taken in, or as much of it as could be.
struct Held {
    pieces: VecDeque<Bytes>,
    file: Option<File>,
    /// Bytes left in `pieces` and `file`.
    left: u64,
    /// What has not been taken in.
    rest: Option<RequestBody>,
    memory: Claim,
    disk: Claim,
}

impl Spool {
    /// Takes `body` in, with at most `most` bytes of all uploads on disk in `dir`.
    ///
    /// # Errors
    /// What the client did wrong; 503 when there is no room.
    pub async fn take_in(&self, body: RequestBody, dir: &Path, most: u64) -> Result<RequestBody, Refusal> {
        let Some(fault) = body.fault() else { return Ok(body) };
        let mut held = Held {
            pieces: VecDeque::new(),
            file: None,
            left: 0,
            rest: None,
            memory: Claim::new(&self.memory),
            disk: Claim::new(&self.disk),
        };
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| client_fault(&fault))?;
            let Ok(data) = frame.into_data() else { continue };
            let len = data.len() as u64;
            let small = held.file.is_none() && held.left + len <= IN_MEMORY;
            if small && held.memory.grow(len, IN_MEMORY_ALL) {
                held.pieces.push_back(data);
                held.left += len;
                continue;
            }
            if !held.disk.grow(len, most) {
                return Err(full());
            }
            if let Err(error) = held.append_to_file(&data, dir).await {
                if held.file.is_some() {
                    // It could be made but not written: the disk is full.
                    self.complain(dir, &error, "uploads are refused: there is no room for them in server.spool");
                    return Err(full());
                }
                self.complain(dir, &error, PASSED_ON);
                held.pieces.push_back(data);
                held.left += len;
                held.rest = Some(body);
                return Ok(held.into_body(fault));
            }
            held.left += len;
        }
        if let Some(file) = &mut held.file {
            file.rewind().await.map_err(|error| self.lost(dir, &error))?;
        }
        Ok(held.into_body(fault))
    }

    /// Tells the diary, but not of each upload.
    fn complain(&self, dir: &Path, error: &io::Error, what: &str) {
        let now = clock::mono();
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINTS) {
            *last = Some(now);
            drop(last);
            let error = chain(error);
            warn!(dir = %dir.display(), error, "{what}");
        }
    }

    fn lost(&self, dir: &Path, error: &io::Error) -> Refusal {
        self.complain(dir, error, "an upload is lost: what was written to server.spool cannot be read");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "spool").closing()
    }
}

fn full() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "spool_full").retry_after(Some(Duration::from_secs(10))).closing()
}

/// The client broke off before anything was sent to an origin.
fn client_fault(fault: &OnceLock<ClientFault>) -> Refusal {
    let error = FetchError::Client(fault.get().copied().unwrap_or(ClientFault::Broken));
    Refusal::new(error.status(), error.why()).closing()
}

async fn open(dir: PathBuf) -> io::Result<File> {
    let opened = tokio::task::spawn_blocking(move || tempfile::tempfile_in(dir)).await;
    opened.map_err(io::Error::other)?.map(File::from_std)
}

impl Held {
    /// Adds `data` to the file, which is made for the first of it.
    async fn append_to_file(&mut self, data: &[u8], dir: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(dir.to_owned()).await?),
        };
        file.write_all(data).await?;
        // tokio's file writes in the background; an error would else be told to the next write, or to nobody.
        file.flush().await
    }

    fn into_body(self, fault: Arc<OnceLock<ClientFault>>) -> RequestBody {
        RequestBody::Stream { body: self.boxed_unsync(), fault }
    }

    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let Some(file) = &mut self.file else { return Poll::Ready(Ok(Bytes::new())) };
        let mut piece = BytesMut::zeroed(PIECE.min(usize::try_from(self.left).unwrap_or(PIECE)));
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        piece.truncate(read);
        if read == 0 && self.left > 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the spool file is too short")));
        }
        Poll::Ready(Ok(piece.freeze()))
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let piece = match this.pieces.pop_front() {
            Some(piece) => piece,
            None if this.left > 0 => match ready!(this.poll_file(cx)) {
                Ok(piece) => piece,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            },
            None => {
                let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
                return Pin::new(rest).poll_frame(cx);
            }
        };
        this.left = this.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            None => SizeHint::with_exact(self.left),
            Some(rest) => {
                let mut hint = SizeHint::new();
                let rest = rest.size_hint();
                hint.set_lower(self.left + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(self.left + upper);
                }
                hint
            }
        }
    }
}
