//! Bodies that many readers share: whole ones in memory, and ones that are still arriving.
//!
//! A [`Fill`] has one writer and any number of readers, each at its own pace. While it *keeps*, every segment stays
//! (bounded by the object limit and the budget for fills in flight), so that it can be stored at the end and joined at
//! any time. When a bound is passed it only *relays*: segments that every reader has had are let go, nobody new may
//! join, and the writer waits for the slowest reader. A body that ends early is an error to every reader and never
//! looks complete.
//!
//! All fills together hold no more than their budget. Three quarters are for what is kept and read ahead. The rest is for those
//! who find nothing left of that: each has one piece at a time, for which it stands in line, and asks its origin for no more
//! meanwhile. So there is always progress: a piece is given back when its readers have taken it, and readers who take nothing
//! are ended by their time-outs.

use crate::cache::entry::PIECE;
use crate::cache::entry::allocated;
use bytes::Bytes;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

/// How much a relaying fill holds for its slowest reader before the origin has to wait, while there is room.
const RELAY_WINDOW: u64 = 256 * 1024;

/// The size of the segments that a stored body is cut into; a smaller body is one segment.
const SEGMENT: usize = 1024 * 1024;

/// The body of a shared response.
#[derive(Clone, Debug)]
pub enum StoredBody {
    /// All of it in one piece.
    Whole(Bytes),
    /// All of it in pieces of up to 1 MiB.
    Segments(Arc<[Bytes]>, u64),
    /// Still arriving from the origin.
    Filling(Arc<Fill>),
}

/// The bytes of all fills that are under way, and their bound.
pub struct FillBudget {
    books: Mutex<Books>,
    limit: u64,
    lender: Lender,
    /// Those who wait for room for one piece, the first first.
    line: Mutex<BTreeMap<u64, Waker>>,
    /// How many stand in line, or are about to.
    queued: AtomicUsize,
    tickets: AtomicU64,
}

#[derive(Clone, Copy)]
struct Books {
    used: u64,
    /// What others have lent: never less than is used, but for a piece of whoever is alone.
    lent: u64,
}

/// Has the memory while fills do not need it: asked for so many bytes it makes them free, and gives how many that are.
pub type Lender = Box<dyn Fn(u64) -> u64 + Send + Sync>;

/// A body that arrives while others read it.
pub struct Fill {
    state: Mutex<State>,
    /// What `Content-Length` promised, if the origin said so.
    promised: Option<u64>,
    object_max: u64,
    /// How much it holds for its slowest reader when it only relays.
    window: u64,
    budget: Arc<FillBudget>,
}

struct State {
    segments: VecDeque<Bytes>,
    /// The index of the first segment in `segments`: how many were let go.
    first: usize,
    /// The bytes in `segments`.
    held: u64,
    /// The bytes that have arrived in all.
    arrived: u64,
    mode: Mode,
    end: Option<End>,
    readers: Vec<Option<Reader>>,
    /// The writer, if it waits for a reader.
    writer: Option<Waker>,
    /// The writer's place in the budget's line, if it waits for others.
    ticket: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Keep,
    Relay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Truncated,
}

struct Reader {
    next: usize,
    waker: Option<Waker>,
}

/// The writing end of a [`Fill`]. Dropped before [`FillWriter::finish`], it tells every reader that the body is truncated.
pub struct FillWriter {
    fill: Arc<Fill>,
    finished: bool,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Go on.
    Accepted,
    /// Nobody reads it now, but it is kept: go on for a while.
    Unread,
    /// No reader is left and the body is too large to keep: stop fetching.
    Abandoned,
}

/// One reader of a [`StoredBody`].
pub enum BodyReader {
    /// Nothing (more) to read.
    Done,
    /// One piece.
    Whole(Bytes),
    /// The pieces and the next one's index.
    Segments(Arc<[Bytes]>, usize),
    /// Follows a fill.
    Filling(FillReader),
    /// Follows a fill, but for the bytes before a part of it, and ends with that part.
    Part {
        /// The whole.
        reader: FillReader,
        /// The bytes still to be left out.
        skip: u64,
        /// The bytes still to be read.
        left: u64,
    },
}

/// A reader's place in a [`Fill`].
pub struct FillReader {
    fill: Arc<Fill>,
    slot: usize,
}

/// The body ended before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the origin's body ended early")]
pub struct Truncated;

impl FillBudget {
    /// A budget of `limit` bytes for all fills together, which `lender` has as long as they are not needed.
    #[must_use]
    pub fn new(limit: u64, lender: Lender) -> Arc<Self> {
        let (books, line) = (Mutex::new(Books { used: 0, lent: 0 }), Mutex::default());
        let (queued, tickets) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Self { books, limit, lender, line, queued, tickets })
    }

    /// The bytes held by fills now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.books().used
    }

    /// Gives back to the lender what fills have not needed of late: all but what they hold and some pieces more.
    #[must_use]
    pub fn give_back(&self) -> u64 {
        let mut books = self.books();
        let kept = books.used.saturating_add(2 * self.grain());
        let back = books.lent.saturating_sub(kept);
        books.lent -= back;
        back
    }

    /// So many bytes are lent at a time.
    fn grain(&self) -> u64 {
        (self.limit / 16).max(1)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Two numbers, changed without anything that could panic between.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of the budget, for bytes that are read in one go; `None` if there is no room for them.
    #[must_use]
    pub fn share(&self, bytes: u64) -> Option<Share<'_>> {
        self.take(bytes, self.soft()).then_some(Share { budget: self, bytes })
    }

    /// What may be used for more than one piece at a time.
    fn soft(&self) -> u64 {
        self.limit - self.limit / 4
    }

    /// Takes so many bytes if no more than `most` are used then. Whoever is alone has one piece, however large.
    fn take(&self, bytes: u64, most: u64) -> bool {
        loop {
            let missing = {
                let mut books = self.books();
                let after = books.used.saturating_add(bytes);
                if books.used > 0 && after > most {
                    return false;
                }
                if after <= books.lent {
                    books.used = after;
                    return true;
                }
                after - books.lent
            };
            // Not under the lock: the lender has one of his own, under which he is given back what is not needed.
            let lent = (self.lender)(missing.next_multiple_of(self.grain()));
            let mut books = self.books();
            books.lent += lent;
            if lent < missing {
                let alone = books.used == 0;
                books.used += if alone { bytes } else { 0 };
                return alone;
            }
        }
    }

    /// Takes one piece in turn; says whether it has. Whoever has not is woken when it is his turn and there may be room.
    fn take_in_turn(&self, bytes: u64, ticket: &mut Option<u64>, waker: &Waker) -> bool {
        let mine = *ticket.get_or_insert_with(|| {
            // Before looking for room: who gives some back from now on looks for those who wait.
            self.queued.fetch_add(1, Ordering::SeqCst);
            self.tickets.fetch_add(1, Ordering::Relaxed)
        });
        let mut line = self.line();
        let first = line.first_key_value().is_none_or(|(first, _)| *first >= mine);
        if first && self.take(bytes, self.limit) {
            drop(line);
            self.leave(ticket);
            return true;
        }
        line.insert(mine, waker.clone());
        false
    }

    /// Leaves the line; there may be room for the next.
    fn leave(&self, ticket: &mut Option<u64>) {
        let Some(mine) = ticket.take() else { return };
        self.line().remove(&mine);
        self.queued.fetch_sub(1, Ordering::SeqCst);
        self.wake_first();
    }

    fn sub(&self, bytes: u64) {
        self.books().used -= bytes;
        self.wake_first();
    }

    fn wake_first(&self) {
        if self.queued.load(Ordering::SeqCst) > 0
            && let Some((_, first)) = self.line().first_key_value()
        {
            first.wake_by_ref();
        }
    }

    fn line(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        // A map is whole whoever panicked beside it.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share of the budget, until it is dropped.
pub struct Share<'b> {
    budget: &'b FillBudget,
    bytes: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.sub(self.bytes);
    }
}

impl StoredBody {
    /// A body of these bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let len = bytes.len();
        if len <= SEGMENT {
            return Self::Whole(bytes);
        }
        let pieces = (0..len).step_by(SEGMENT).map(|at| bytes.slice(at..len.min(at + SEGMENT)));
        Self::Segments(pieces.collect(), len as u64)
    }

    /// The length in bytes, if it is known yet.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Segments(_, len) => Some(*len),
            Self::Filling(fill) => fill.promised,
        }
    }

    /// The bytes that it takes when it is complete.
    #[must_use]
    pub fn weight(&self) -> usize {
        let piece = |bytes: &Bytes| allocated(bytes.len()) + PIECE;
        match self {
            Self::Whole(bytes) => piece(bytes),
            Self::Segments(segments, _) => segments.iter().map(|segment| piece(segment) + size_of::<Bytes>()).sum(),
            // It is counted among the bodies in flight.
            Self::Filling(_) => 0,
        }
    }

    /// Whether the body is known to have no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// A new reader from the beginning; `None` when a fill can no longer be joined.
    #[must_use]
    pub fn reader(&self) -> Option<BodyReader> {
        Some(match self {
            Self::Whole(bytes) if bytes.is_empty() => BodyReader::Done,
            Self::Whole(bytes) => BodyReader::Whole(bytes.clone()),
            Self::Segments(segments, _) => BodyReader::Segments(Arc::clone(segments), 0),
            Self::Filling(fill) => BodyReader::Filling(Fill::join(fill)?),
        })
    }
}

impl StoredBody {
    /// A reader of `len` bytes from the byte `first` on, which must lie within the body; `None` when a fill can no longer be
    /// joined.
    #[must_use]
    pub fn part(&self, first: u64, len: u64) -> Option<BodyReader> {
        if let Self::Filling(fill) = self {
            return Some(BodyReader::Part { reader: Fill::join(fill)?, skip: first, left: len });
        }
        let mut pieces = Vec::new();
        self.pieces(first, len, &mut pieces);
        Some(BodyReader::Segments(pieces.into(), 0))
    }

    /// Appends the pieces of a complete body that hold `len` bytes from the byte `first` on, without copying them; says
    /// whether it is complete.
    pub fn pieces(&self, first: u64, len: u64, pieces: &mut Vec<Bytes>) -> bool {
        let segments = match self {
            Self::Whole(bytes) => std::slice::from_ref(bytes),
            Self::Segments(segments, _) => &segments[..],
            Self::Filling(_) => return false,
        };
        let (mut skip, mut left) = (first, len);
        for segment in segments {
            if left == 0 {
                break;
            }
            let piece = cut(segment, &mut skip, &mut left);
            if !piece.is_empty() {
                pieces.push(piece);
            }
        }
        true
    }
}

/// What of `bytes` lies behind `skip` and within `left`, both of which are counted down.
fn cut(bytes: &Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let size = bytes.len() as u64;
    let from = size.min(*skip);
    *skip -= from;
    let to = from + (size - from).min(*left);
    *left -= to - from;
    // Both are at most the length, which is a usize.
    let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.slice(at(from)..at(to))
}

impl Fill {
    /// Starts a fill of at most `object_max` kept bytes; `promised` is the origin's `Content-Length`.
    ///
    /// A body that is known to be larger than `object_max` relays from the start.
    #[must_use]
    pub fn start(promised: Option<u64>, object_max: u64, budget: Arc<FillBudget>) -> FillWriter {
        let mode = if promised.is_some_and(|len| len > object_max) { Mode::Relay } else { Mode::Keep };
        Self::in_mode(mode, promised, (object_max, RELAY_WINDOW), budget)
    }

    /// Starts a fill that only relays, and reads `window` bytes ahead of its reader while there is room.
    #[must_use]
    pub fn relay(promised: Option<u64>, window: u64, budget: Arc<FillBudget>) -> FillWriter {
        Self::in_mode(Mode::Relay, promised, (0, window), budget)
    }

    fn in_mode(
        mode: Mode,
        promised: Option<u64>,
        (object_max, window): (u64, u64),
        budget: Arc<FillBudget>,
    ) -> FillWriter {
        let state = State {
            segments: VecDeque::new(),
            first: 0,
            held: 0,
            arrived: 0,
            mode,
            end: None,
            readers: Vec::new(),
            writer: None,
            ticket: None,
        };
        let fill = Arc::new(Self { state: Mutex::new(state), promised, object_max, window, budget });
        FillWriter { fill, finished: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a reader panicked between two of these short sections; the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins from the first byte; `None` once the beginning has been let go.
    fn join(fill: &Arc<Self>) -> Option<FillReader> {
        let mut state = fill.lock();
        if state.first > 0 {
            return None;
        }
        let slot = state.readers.iter().position(Option::is_none).unwrap_or(state.readers.len());
        if slot == state.readers.len() {
            state.readers.push(None);
        }
        state.readers[slot] = Some(Reader { next: 0, waker: None });
        Some(FillReader { fill: Arc::clone(fill), slot })
    }
}

impl std::fmt::Debug for FillBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FillBudget").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fill").field("promised", &self.promised).finish_non_exhaustive()
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let held = self.lock().held;
        self.budget.sub(held);
    }
}

impl State {
    fn release_passed(&mut self, budget: &FillBudget) {
        if self.mode == Mode::Keep {
            return;
        }
        let slowest = self.readers.iter().flatten().map(|reader| reader.next).min().unwrap_or(usize::MAX);
        while self.first < slowest
            && let Some(segment) = self.segments.pop_front()
        {
            self.first += 1;
            self.held -= segment.len() as u64;
            budget.sub(segment.len() as u64);
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
    }

    /// Hands over a piece for which there is room.
    fn push(&mut self, bytes: Option<Bytes>) {
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return };
        self.held += bytes.len() as u64;
        self.arrived += bytes.len() as u64;
        self.segments.push_back(bytes);
        self.wake_readers();
    }

    fn wake_readers(&mut self) {
        for reader in self.readers.iter_mut().flatten() {
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
    }
}

impl FillWriter {
    /// The fill, for those who will read it.
    #[must_use]
    pub fn fill(&self) -> Arc<Fill> {
        Arc::clone(&self.fill)
    }

    /// Hands the next piece to the readers, when there is room for it: a relaying fill waits while it is too far ahead of its
    /// slowest reader, or all fills together hold too much.
    ///
    /// Not cancel-safe: the piece is lost, and its readers would miss it, so a writer is dropped then.
    pub async fn write(&self, bytes: Bytes) -> Write {
        let mut bytes = Some(bytes);
        std::future::poll_fn(|cx| self.poll_write(&mut bytes, cx)).await
    }

    fn poll_write(&self, bytes: &mut Option<Bytes>, cx: &mut Context<'_>) -> Poll<Write> {
        let mut guard = self.fill.lock();
        let (state, budget) = (&mut *guard, &self.fill.budget);
        let len = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if state.mode == Mode::Keep {
            if state.arrived + len <= self.fill.object_max && (len == 0 || budget.take(len, budget.soft())) {
                state.push(bytes.take());
                let read = state.readers.iter().any(Option::is_some);
                return Poll::Ready(if read { Write::Accepted } else { Write::Unread });
            }
            state.mode = Mode::Relay;
            state.release_passed(budget);
        }
        if state.readers.iter().all(Option::is_none) {
            budget.leave(&mut state.ticket);
            return Poll::Ready(Write::Abandoned);
        }
        let alone = state.held == 0;
        let more = state.held + len <= self.fill.window && budget.take(len, budget.soft());
        if len == 0 || more || alone && budget.take_in_turn(len, &mut state.ticket, cx.waker()) {
            budget.leave(&mut state.ticket);
            state.push(bytes.take());
            return Poll::Ready(Write::Accepted);
        }
        // Its own readers may make room, or leave; if it has nothing for them, others have to.
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The body as it will be once `last` has been written: if all was kept, and what was promised is met by it. So it can
    /// be stored before a reader has its last byte: whoever asks again then finds it.
    #[must_use]
    pub fn whole(&self, last: &Bytes) -> Option<StoredBody> {
        let state = self.fill.lock();
        let len = state.arrived + last.len() as u64;
        let kept = state.mode == Mode::Keep && state.first == 0 && len <= self.fill.object_max;
        let met = self.fill.promised.is_none_or(|promised| promised == len);
        (kept && met).then(|| compact(state.segments.iter().chain([last]), len))
    }

    /// Whether `last` brings all that was promised.
    #[must_use]
    pub fn ends_with(&self, last: &Bytes) -> bool {
        self.fill.promised.is_some_and(|promised| promised == self.fill.lock().arrived + last.len() as u64)
    }

    /// Ends the body as complete.
    ///
    /// # Errors
    /// [`Truncated`] when fewer or more bytes came than `Content-Length` promised; readers see the same.
    pub fn finish(mut self) -> Result<(), Truncated> {
        self.finished = true;
        let mut state = self.fill.lock();
        let kept = self.fill.promised.is_none_or(|promised| promised == state.arrived);
        state.end = Some(if kept { End::Complete } else { End::Truncated });
        state.wake_readers();
        drop(state);
        if kept { Ok(()) } else { Err(Truncated) }
    }
}

impl Drop for FillWriter {
    fn drop(&mut self) {
        let mut state = self.fill.lock();
        self.fill.budget.leave(&mut state.ticket);
        if self.finished {
            return;
        }
        state.end = Some(End::Truncated);
        state.wake_readers();
    }
}

/// Copies the pieces into memory of exactly their size, so that what is counted is what is held.
fn compact<'a>(pieces: impl Iterator<Item = &'a Bytes>, len: u64) -> StoredBody {
    let mut segments: Vec<Bytes> = Vec::new();
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    let mut segment = BytesMut::with_capacity(left.min(SEGMENT));
    for piece in pieces {
        let mut piece = &piece[..];
        while !piece.is_empty() {
            let room = SEGMENT - segment.len();
            let (now, later) = piece.split_at(piece.len().min(room));
            segment.extend_from_slice(now);
            piece = later;
            left -= now.len();
            if segment.len() == SEGMENT && left > 0 {
                let next = BytesMut::with_capacity(left.min(SEGMENT));
                segments.push(std::mem::replace(&mut segment, next).freeze());
            }
        }
    }
    if segments.is_empty() {
        return StoredBody::Whole(segment.freeze());
    }
    segments.push(segment.freeze());
    StoredBody::Segments(segments.into(), len)
}

impl BodyReader {
    /// The next piece, `None` at the clean end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        match self {
            Self::Done => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Done;
                Poll::Ready(Some(Ok(bytes)))
            }
            Self::Segments(segments, next) => {
                let piece = segments.get(*next).cloned();
                *next += 1;
                Poll::Ready(piece.map(Ok))
            }
            Self::Filling(reader) => Pin::new(reader).poll_next(cx),
            Self::Part { reader, skip, left } => loop {
                if *left == 0 {
                    // The place among the fill's readers is given back at once.
                    *self = Self::Done;
                    return Poll::Ready(None);
                }
                match ready!(Pin::new(&mut *reader).poll_next(cx)) {
                    Some(Ok(bytes)) => {
                        let piece = cut(&bytes, skip, left);
                        if !piece.is_empty() {
                            return Poll::Ready(Some(Ok(piece)));
                        }
                    }
                    Some(Err(truncated)) => return Poll::Ready(Some(Err(truncated))),
                    None => return Poll::Ready(Some(Err(Truncated))),
                }
            },
        }
    }

    /// Whether nothing is left to read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Segments(segments, next) => *next >= segments.len(),
            Self::Part { left, .. } => *left == 0,
            Self::Whole(_) | Self::Filling(_) => false,
        }
    }
}

impl FillReader {
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        let mut guard = self.fill.lock();
        let state = &mut *guard;
        let Some(Some(reader)) = state.readers.get_mut(self.slot) else { return Poll::Ready(Some(Err(Truncated))) };
        if let Some(bytes) = state.segments.get(reader.next - state.first) {
            let bytes = bytes.clone();
            reader.next += 1;
            state.release_passed(&self.fill.budget);
            return Poll::Ready(Some(Ok(bytes)));
        }
        match state.end {
            Some(End::Complete) => Poll::Ready(None),
            Some(End::Truncated) => Poll::Ready(Some(Err(Truncated))),
            None => {
                reader.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        let mut guard = self.fill.lock();
        let state = &mut *guard;
        if let Some(slot) = state.readers.get_mut(self.slot) {
            *slot = None;
        }
        state.release_passed(&self.fill.budget);
        // The last reader of a relayed body has gone: the writer must learn that it is abandoned.
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lends whatever is asked for.
    fn of_its_own() -> Lender {
        Box::new(|bytes| bytes)
    }

    fn fill(promised: Option<u64>, object_max: u64) -> (FillWriter, Arc<FillBudget>) {
        let budget = FillBudget::new(u64::MAX / 2, of_its_own());
        (Fill::start(promised, object_max, Arc::clone(&budget)), budget)
    }

    async fn read_all(mut reader: BodyReader) -> Result<Vec<u8>, Truncated> {
        let mut all = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| reader.poll_next(cx)).await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_late_reader_gets_the_body_from_its_first_byte() {
        let (writer, budget) = fill(None, 1000);
        let early = tokio::spawn(read_all(StoredBody::Filling(writer.fill()).reader().unwrap()));
        writer.write(Bytes::from_static(b"one ")).await;
        let late = tokio::spawn(read_all(StoredBody::Filling(writer.fill()).reader().unwrap()));
        writer.write(Bytes::from_static(b"two")).await;
        let stored = writer.whole(&Bytes::new()).expect("small enough to keep");
        writer.finish().unwrap();
        for reader in [early, late] {
            assert_eq!(reader.await.unwrap().unwrap(), b"one two");
        }
        assert_eq!(read_all(stored.reader().unwrap()).await.unwrap(), b"one two");
        assert_eq!(budget.used(), 0, "the budget is given back");
    }

    #[tokio::test]
    async fn a_body_that_ends_early_never_looks_complete() {
        let (writer, _) = fill(Some(10), 1000);
        let reader = StoredBody::Filling(writer.fill()).reader().unwrap();
        writer.write(Bytes::from_static(b"short")).await;
        assert!(writer.whole(&Bytes::new()).is_none() && !writer.ends_with(&Bytes::from_static(b"hort")));
        assert!(writer.whole(&Bytes::from_static(b"still")).is_some(), "the last piece counts");
        assert_eq!(writer.finish().unwrap_err(), Truncated);
        assert_eq!(read_all(reader).await, Err(Truncated));

        let (writer, _) = fill(None, 1000);
        let reader = StoredBody::Filling(writer.fill()).reader().unwrap();
        drop(writer);
        assert_eq!(read_all(reader).await, Err(Truncated));
    }

    #[tokio::test]
    async fn a_body_too_large_to_keep_reaches_its_readers_whole_within_the_window() {
        let (writer, budget) = fill(None, 1000);
        let reader = tokio::spawn(read_all(StoredBody::Filling(writer.fill()).reader().unwrap()));
        let mut sent = 0;
        for _ in 0..200 {
            assert_eq!(writer.write(Bytes::from(vec![7; 10_000])).await, Write::Accepted);
            sent += 10_000;
            assert!(budget.used() <= RELAY_WINDOW, "{}", budget.used());
        }
        assert!(writer.whole(&Bytes::new()).is_none(), "nothing to store");
        writer.finish().unwrap();
        assert_eq!(reader.await.unwrap().unwrap().len(), sent);
    }

    #[tokio::test]
    async fn a_large_body_nobody_reads_any_more_is_abandoned() {
        let (writer, _) = fill(Some(5000), 1000);
        let reader = StoredBody::Filling(writer.fill()).reader().unwrap();
        assert_eq!(writer.write(Bytes::from(vec![7; 500])).await, Write::Accepted);
        drop(reader);
        assert_eq!(writer.write(Bytes::from(vec![7; 500])).await, Write::Abandoned);
        let (small, _) = fill(Some(500), 1000);
        assert_eq!(small.write(Bytes::from(vec![7; 250])).await, Write::Unread, "for the cache it goes on for a while");
        assert!(StoredBody::Filling(writer.fill()).reader().is_none(), "its beginning is gone");
    }

    #[tokio::test]
    async fn a_part_can_be_read_of_what_is_stored_and_of_what_arrives() {
        let body: Vec<u8> = (0..2 * SEGMENT + 10).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (writer, _) = fill(Some(body.len() as u64), u64::MAX);
        let arriving = StoredBody::Filling(writer.fill());
        let spans = [(0, 1), (5, 10), (SEGMENT as u64 - 1, 3), (0, body.len() as u64), (2 * SEGMENT as u64 + 9, 1)];
        let early: Vec<_> =
            spans.iter().map(|(first, len)| tokio::spawn(read_all(arriving.part(*first, *len).unwrap()))).collect();
        for piece in body.chunks(70_001) {
            writer.write(Bytes::copy_from_slice(piece)).await;
        }
        let stored = writer.whole(&Bytes::new()).unwrap();
        writer.finish().unwrap();
        for ((first, len), early) in spans.into_iter().zip(early) {
            let expected = &body[usize::try_from(first).unwrap()..][..usize::try_from(len).unwrap()];
            assert_eq!(read_all(stored.part(first, len).unwrap()).await.unwrap(), expected);
            assert_eq!(early.await.unwrap().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn all_fills_together_hold_no_more_than_their_budget_and_each_of_them_arrives() {
        const LIMIT: u64 = 256 * 1024;
        const PIECE: usize = 8 * 1024;
        let budget = FillBudget::new(LIMIT, of_its_own());
        let most = Arc::new(AtomicU64::new(0));
        let mut all = Vec::new();
        for number in 0..200_usize {
            let promised = if number % 3 == 0 { Some(40 * PIECE as u64) } else { None };
            let writer = match number % 4 {
                0 => Fill::relay(promised, LIMIT, Arc::clone(&budget)),
                _ => Fill::start(promised, 20 * PIECE as u64, Arc::clone(&budget)),
            };
            let reader = StoredBody::Filling(writer.fill()).reader().unwrap();
            let (budget, most) = (Arc::clone(&budget), Arc::clone(&most));
            let writing = tokio::spawn(async move {
                for piece in 0..40_u8 {
                    assert_eq!(writer.write(Bytes::from(vec![piece; PIECE])).await, Write::Accepted);
                    most.fetch_max(budget.used(), Ordering::Relaxed);
                }
                writer.finish().unwrap();
            });
            let reading = tokio::spawn(async move {
                let mut reader = reader;
                let mut read = Vec::new();
                while let Some(piece) = std::future::poll_fn(|cx| reader.poll_next(cx)).await {
                    read.extend_from_slice(&piece.unwrap());
                    // Each at its own pace.
                    for _ in 0..number % 7 {
                        tokio::task::yield_now().await;
                    }
                }
                assert!(read.chunks(PIECE).zip(0..40_u8).all(|(piece, at)| piece == vec![at; PIECE]));
                read.len()
            });
            all.push((writing, reading));
        }
        for (writing, reading) in all {
            writing.await.unwrap();
            assert_eq!(reading.await.unwrap(), 40 * PIECE);
        }
        assert!((LIMIT / 4 * 3..=LIMIT).contains(&most.load(Ordering::Relaxed)), "{most:?}");
        assert_eq!((budget.used(), budget.queued.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_when_others_read_leave_or_are_dropped() {
        let budget = FillBudget::new(4000, of_its_own());
        let open = || {
            let writer = Fill::relay(None, 4000, Arc::clone(&budget));
            let reader = StoredBody::Filling(writer.fill()).reader().unwrap();
            (writer, reader)
        };
        let piece = || Bytes::from(vec![7; 1000]);
        let full: Vec<_> = (0..4).map(|_| open()).collect();
        for (writer, _) in &full {
            assert_eq!(writer.write(piece()).await, Write::Accepted);
        }
        let late: Vec<_> = (0..5).map(|_| open()).collect();
        let mut writing: Vec<_> = late.iter().map(|(writer, _)| Box::pin(writer.write(piece()))).collect();
        let mut done = |at: usize| {
            let mut cx = Context::from_waker(Waker::noop());
            writing[at].as_mut().poll(&mut cx).is_ready()
        };
        assert!((0..5).all(|at| !done(at)), "there is no room");
        let mut full = full.into_iter();
        let (_writer, mut reader) = full.next().unwrap();
        assert!(std::future::poll_fn(|cx| reader.poll_next(cx)).await.is_some());
        assert!(!done(1), "it is not his turn");
        assert!(done(0) && !done(1), "one reads, one writes");
        let (_other, reader) = full.next().unwrap();
        drop(reader);
        assert!(done(1) && !done(2), "a reader leaves");
        drop(full.next());
        assert!(done(2) && !done(3), "a body breaks off");
        drop(full);
        assert!(done(3) && !done(4));
    }

    #[test]
    fn stored_bodies_hold_exactly_their_bytes() {
        for len in [0_usize, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT] {
            let body: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let pieces: VecDeque<Bytes> = body.chunks(70_001).map(Bytes::copy_from_slice).collect();
            let stored = compact(pieces.iter(), len as u64);
            assert_eq!(stored.len(), Some(len as u64));
            let joined: Vec<u8> = match stored {
                StoredBody::Whole(bytes) => bytes.to_vec(),
                StoredBody::Segments(segments, _) => segments.concat(),
                StoredBody::Filling(_) => unreachable!(),
            };
            assert_eq!(joined, body);
        }
    }
}
