//! Uploads are taken in whole before a thread of Zope is: a visitor with a slow line occupies a buffer here, not a fourth of
//! the site.
//!
//! Up to `IN_MEMORY` bytes of each stay in memory, what is before them goes to an unlinked temporary file. Both have a common
//! bound. They are copied: a piece of one byte would keep all of the buffer that it came in. Where no file can be made, what
//! does not fit into memory is passed on as it comes: an upload that takes a thread for long is better than one that fails.

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

    /// Claims so many bytes in all, if it has fewer; says no when all claims together would be over `most`.
    fn cover(&mut self, bytes: u64, most: u64) -> bool {
        self.grow(bytes.saturating_sub(self.bytes), most)
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
    /// What came first, if that is not all in memory.
    file: Option<File>,
    /// Bytes left in `file`.
    in_file: u64,
    /// What came after that.
    gathered: BytesMut,
    /// What has not been taken in.
    rest: Option<RequestBody>,
    /// Filled when it cannot be read again.
    fault: Arc<OnceLock<ClientFault>>,
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
            file: None,
            in_file: 0,
            gathered: BytesMut::new(),
            rest: None,
            fault: Arc::clone(&fault),
            memory: Claim::new(&self.memory),
            disk: Claim::new(&self.disk),
        };
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| client_fault(&fault))?;
            let Ok(data) = frame.into_data() else { continue };
            let len = (held.gathered.len() + data.len()) as u64;
            let fits = len <= IN_MEMORY && held.memory.cover(len, IN_MEMORY_ALL);
            held.gathered.extend_from_slice(&data);
            if fits {
                continue;
            }
            if !held.disk.grow(len, most) {
                return Err(full());
            }
            if let Err(error) = held.write_out(dir).await {
                if held.file.is_some() {
                    // It could be made but not written: the disk is full.
                    self.complain(dir, &error, "uploads are refused: there is no room for them in server.spool");
                    return Err(full());
                }
                self.complain(dir, &error, PASSED_ON);
                held.rest = Some(body);
                return Ok(held.into_body());
            }
        }
        if let Some(file) = &mut held.file {
            file.rewind().await.map_err(|error| self.lost(dir, &error))?;
        }
        Ok(held.into_body())
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
    /// Writes what was gathered to the file, which is made for the first of it.
    async fn write_out(&mut self, dir: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(dir.to_owned()).await?),
        };
        file.write_all(&self.gathered).await?;
        // tokio's file writes in the background; an error would else be told to the next write, or to nobody.
        file.flush().await?;
        self.in_file += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    fn into_body(self) -> RequestBody {
        let fault = Arc::clone(&self.fault);
        RequestBody::Stream { body: self.boxed_unsync(), fault }
    }

    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let Some(file) = &mut self.file else { return Poll::Ready(Ok(Bytes::new())) };
        let mut piece = BytesMut::zeroed(PIECE.min(usize::try_from(self.in_file).unwrap_or(PIECE)));
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        piece.truncate(read);
        if read == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the spool file is too short")));
        }
        self.in_file = self.in_file.saturating_sub(read as u64);
        Poll::Ready(Ok(piece.freeze()))
    }

    /// Bytes left of what was taken in.
    fn left(&self) -> u64 {
        self.in_file + self.gathered.len() as u64
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The file has no name, so to close it is to free all of its blocks: a sixth of a second for each gigabyte.
        if let Some(file) = self.file.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let piece = if this.in_file > 0 {
            match ready!(this.poll_file(cx)) {
                Ok(piece) => piece,
                Err(error) => {
                    let _ = this.fault.set(ClientFault::Lost);
                    warn!(error = chain(&error), "an upload is lost: what was written to server.spool cannot be read");
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        } else if !this.gathered.is_empty() {
            std::mem::take(&mut this.gathered).freeze()
        } else {
            let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
            return Pin::new(rest).poll_frame(cx);
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0 && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left();
        match &self.rest {
            None => SizeHint::with_exact(left),
            Some(rest) => {
                let mut hint = SizeHint::new();
                let rest = rest.size_hint();
                hint.set_lower(left + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(left + upper);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that comes in these pieces.
    struct Pieces(std::vec::IntoIter<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Box<dyn Error + Send + Sync>;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn upload(pieces: Vec<Bytes>) -> RequestBody {
        RequestBody::Stream { body: Pieces(pieces.into_iter()).boxed_unsync(), fault: Arc::default() }
    }

    /// A buffer of which a piece is one byte.
    struct Buffer {
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &[b'x'; 8192]
        }
    }

    #[tokio::test]
    async fn an_upload_by_drops_keeps_none_of_the_buffers_that_the_drops_came_in() {
        let (spool, alive) = (Spool::default(), Arc::new(()));
        let drops = (0..1000).map(|_| Bytes::from_owner(Buffer { _alive: Arc::clone(&alive) }).slice(..1)).collect();
        let dir = tempfile::tempdir().unwrap();
        let taken = spool.take_in(upload(drops), dir.path(), 0).await.unwrap_or(RequestBody::Empty);
        assert_eq!((taken.size_hint().exact(), Arc::strong_count(&alive)), (Some(1000), 1));
        assert_eq!(taken.collect().await.unwrap().to_bytes(), "x".repeat(1000));
    }

    #[tokio::test]
    async fn an_upload_that_cannot_be_read_again_is_told_from_a_failing_origin() {
        let held = Held {
            file: Some(File::from_std(tempfile::tempfile().unwrap())),
            in_file: 10,
            gathered: BytesMut::new(),
            rest: None,
            fault: Arc::default(),
            memory: Claim::new(&Arc::default()),
            disk: Claim::new(&Arc::default()),
        };
        let body = held.into_body();
        let fault = body.fault().unwrap();
        assert!(body.collect().await.is_err());
        let error = FetchError::Client(*fault.get().unwrap());
        assert_eq!((error.status().as_u16(), error.why()), (500, "spool"));
    }

    #[tokio::test]
    async fn an_upload_comes_out_as_it_went_in_and_leaves_nothing_behind() {
        let spool = Spool::default();
        let dir = tempfile::tempdir().unwrap();
        for size in [1, 1000, 50_000, 70_000, 200_000] {
            let whole: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]).collect();
            let pieces = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            let taken = spool.take_in(upload(pieces), dir.path(), 300_000).await.unwrap_or(RequestBody::Empty);
            assert!(spool.memory.load(Ordering::Relaxed) <= IN_MEMORY, "{size}");
            assert_eq!(taken.size_hint().exact(), Some(300_000), "{size}");
            assert!(taken.collect().await.unwrap().to_bytes() == whole, "{size}");
        }
        assert_eq!((spool.memory.load(Ordering::Relaxed), spool.disk.load(Ordering::Relaxed)), (0, 0));
    }
}
