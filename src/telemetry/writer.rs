//! The bounded buffer between those who tell and the one who writes, and the writer's thread: of the access log, and of the diary.
//!
//! Lines gather in one buffer under a lock that is held for a copy and nothing else. The writer is woken by the first line,
//! may wait a moment for company, and swaps the buffer for an empty one: under load one system call carries many lines and
//! nobody who tells has to wake anybody. Nobody waits for whoever reads what is written: without room a line is dropped, and
//! counted.
//!
//! A write that fails loses its lines (they are counted) and the next one is tried all the same: a full disk may be emptied.
//! When a line was torn by it, the next begins on a new one.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use tracing::warn;

/// How often the operator hears of trouble, at most.
const TROUBLE_EVERY: Duration = Duration::from_mins(1);

/// Bytes that the queue may hold for each line it may hold: long lines count for more than one.
const BYTES_PER_LINE: usize = 1024;

/// What is kept of a buffer that was large once.
const BUFFER_KEPT: usize = 1024 * 1024;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// For people, and for its thread: `access log`.
    pub name: &'static str,
    /// How many lines may wait for the writer, at most a KiB for each.
    pub lines_max: usize,
    /// How long the writer waits for company for the first line: the delay that somebody who watches will see.
    pub gather: Duration,
}

/// What became of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Written.
    pub written: u64,
    /// Dropped, for the queue was full or the log closed.
    pub dropped: u64,
    /// Lost, for the target was broken.
    pub failed: u64,
}

/// The buffer, shared by all who tell and the one who writes.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    lines_max: u64,
    /// There is something to write, or the log shall be reopened or closed.
    work: Condvar,
    /// Something was written, or the writer has ended.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    gathered: Vec<u8>,
    lines: u64,
    reopen: bool,
    closing: bool,
    /// Lines that the writer has taken and not yet counted.
    taken: u64,
    /// Reopenings that were asked for, and that were tried.
    reopens: (u64, u64),
    ended: bool,
    told: Told,
}

impl State {
    /// Lines that were taken in and are now neither waiting nor being written.
    fn accounted(&self) -> u64 {
        self.told.written + self.told.failed
    }

    fn accepted(&self) -> u64 {
        self.accounted() + self.taken + self.lines
    }
}

/// Starts the writer of a log. `now` is only asked to tell troubles no more than once a minute.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(output: Output, log: Log, now: fn() -> Instant) -> io::Result<Arc<Queue>> {
    let queue = Arc::new(Queue::new(log.lines_max));
    let writer = Writer { queue: Arc::clone(&queue), output, log, now, trouble: None, dropped: 0 };
    thread::Builder::new().name(log.name.replace(' ', "-")).spawn(move || writer.run())?;
    Ok(queue)
}

impl Queue {
    fn new(lines_max: usize) -> Self {
        let lines_max = u64::try_from(lines_max.max(1)).unwrap_or(u64::MAX);
        Self { state: Mutex::default(), lines_max, work: Condvar::new(), settled: Condvar::new() }
    }

    /// Takes in one line, or drops it when there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.closing || state.lines >= self.lines_max || state.gathered.len() + line.len() > self.bytes_max() {
            state.told.dropped += 1;
            return;
        }
        state.gathered.extend_from_slice(line);
        state.lines += 1;
        // The writer sleeps before the first line, and gathers until the buffer is half full.
        let wake = state.lines == 1 || state.lines == self.lines_max.div_ceil(2);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// Counts a line that never came to be.
    pub fn drop_one(&self) {
        self.state().told.dropped += 1;
    }

    /// Opens the file again under its name; what was told before goes to the old one.
    pub fn reopen(&self) {
        let mut state = self.state();
        state.reopen = true;
        state.reopens.0 += 1;
        drop(state);
        self.work.notify_one();
    }

    /// Waits until all that was told before is written or lost, `within` at most; says whether it is.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let state = self.state();
        let (lines, reopens) = (state.accepted(), state.reopens.0);
        let open = |state: &mut State| (state.accounted() < lines || state.reopens.1 < reopens) && !state.ended;
        let (state, _) = self.settled.wait_timeout_while(state, within, open).unwrap_or_else(PoisonError::into_inner);
        state.accounted() >= lines
    }

    /// Writes what is left and ends the writer; waits for it, `within` at most, and says whether that was enough.
    #[must_use]
    pub fn close(&self, within: Duration) -> bool {
        let mut state = self.state();
        state.closing = true;
        self.work.notify_one();
        let open = |state: &mut State| !state.ended;
        let (state, _) = self.settled.wait_timeout_while(state, within, open).unwrap_or_else(PoisonError::into_inner);
        state.ended
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.state().told
    }

    fn bytes_max(&self) -> usize {
        usize::try_from(self.lines_max).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_LINE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that happens under this lock can panic but an allocation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer has taken from the queue.
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    reopen: bool,
    last: bool,
    dropped: u64,
}

struct Writer {
    queue: Arc<Queue>,
    output: Output,
    log: Log,
    now: fn() -> Instant,
    /// When the operator last heard of trouble.
    trouble: Option<Instant>,
    /// The dropped lines that the operator has heard of.
    dropped: u64,
}

impl Writer {
    fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            let mut batch = self.next(spare);
            let result = self.output.write(&batch.bytes);
            let failed = result.as_ref().err().map_or(0, |torn| torn.lines.min(batch.lines));
            let reopened = if batch.reopen { self.output.reopen() } else { Ok(()) };
            self.settle(batch.lines - failed, failed, batch.reopen, batch.last);
            self.tell(result.err().map(|torn| torn.cause), reopened.err(), batch.dropped);
            if batch.last {
                return;
            }
            batch.bytes.clear();
            batch.bytes.shrink_to(BUFFER_KEPT);
            spare = batch.bytes;
        }
    }

    /// Waits until there is something to do, and takes all of it.
    fn next(&self, spare: Vec<u8>) -> Batch {
        let queue = &self.queue;
        let idle = |state: &mut State| state.lines == 0 && !state.reopen && !state.closing;
        let state = queue.work.wait_while(queue.state(), idle).unwrap_or_else(PoisonError::into_inner);
        let half = queue.lines_max.div_ceil(2);
        let early = |state: &mut State| state.lines < half && !state.reopen && !state.closing;
        let gathered = queue.work.wait_timeout_while(state, self.log.gather, early);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let bytes = mem::replace(&mut state.gathered, spare);
        let lines = mem::take(&mut state.lines);
        state.taken = lines;
        let reopen = mem::take(&mut state.reopen);
        Batch { bytes, lines, reopen, last: state.closing, dropped: state.told.dropped }
    }

    fn settle(&self, written: u64, failed: u64, reopened: bool, ended: bool) {
        let mut state = self.queue.state();
        state.told.written += written;
        state.told.failed += failed;
        state.taken = 0;
        if reopened {
            state.reopens.1 = state.reopens.0;
        }
        state.ended = ended;
        drop(state);
        self.queue.settled.notify_all();
    }

    /// Tells the operator of trouble, but not of each one.
    fn tell(&mut self, write: Option<io::Error>, reopen: Option<io::Error>, dropped: u64) {
        let lost = dropped.saturating_sub(self.dropped);
        if write.is_none() && reopen.is_none() && lost == 0 {
            return;
        }
        if !is_due(&mut self.trouble, (self.now)()) {
            return;
        }
        self.dropped = dropped;
        let log = self.log.name;
        if let Some(error) = write {
            warn!(%error, "{log} cannot be written; its lines are lost");
        }
        if let Some(error) = reopen {
            warn!(%error, "{log} cannot be reopened; the old file stays in use");
        }
        if lost > 0 {
            warn!(lines = lost, "lines of the {log} were dropped: what reads them is slower than they come");
        }
    }
}

/// Whether the operator has heard of no trouble for a while; if so, he hears of it now.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.saturating_duration_since(last) >= TROUBLE_EVERY);
    if due {
        *last = Some(now);
    }
    due
}

/// A write that ended in the middle.
struct Torn {
    /// The lines that are not, or not wholly, written.
    lines: u64,
    cause: io::Error,
}

/// Where lines go.
#[derive(Debug)]
pub struct Output {
    /// The name of a file that can be opened again.
    path: Option<PathBuf>,
    file: File,
    /// The last write ended in the middle of a line.
    torn: bool,
}

impl Output {
    /// A file that is appended to, and made when it is not there (mode 0640).
    ///
    /// # Errors
    /// What the system said.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Some(path.to_owned()), file: append_to(path)?, torn: false })
    }

    /// What is open already, such as standard output: by a descriptor of our own, without a line buffer.
    ///
    /// # Errors
    /// What the system said.
    pub fn copy_of(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self { path: None, file: File::from(stream.as_fd().try_clone_to_owned()?), torn: false })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = append_to(path)?;
            self.torn = false;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Torn> {
        if self.torn && !bytes.is_empty() {
            self.file.write_all(b"\n").map_err(|cause| Torn::at(bytes, cause))?;
            self.torn = false;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let cause = match self.file.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    self.torn = rest.get(count.saturating_sub(1)) != Some(&b'\n');
                    rest = rest.get(count..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return Err(Torn::at(rest, cause));
        }
        Ok(())
    }
}

impl Torn {
    /// `rest` was not written.
    fn at(rest: &[u8], cause: io::Error) -> Self {
        let lines = rest.split(|byte| *byte == b'\n').count() - 1;
        Self { lines: u64::try_from(lines).unwrap_or(u64::MAX), cause }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_full_queue_drops_and_counts_and_waits_for_nobody() {
        let queue = Queue::new(3);
        for _ in 0..5 {
            queue.push(b"line\n");
        }
        queue.push(&[b'x'; 4000]);
        queue.drop_one();
        let state = queue.state();
        assert_eq!((state.lines, state.gathered.len(), state.told.dropped), (3, 15, 4));
    }

    #[test]
    fn long_lines_count_for_more_than_one() {
        let queue = Queue::new(4);
        let line = [b'x'; 1500];
        (0..4).for_each(|_| queue.push(&line));
        assert_eq!(queue.told().dropped, 2);
        assert_eq!(queue.state().lines, 2);
    }

    #[test]
    fn trouble_is_told_once_a_minute() {
        let start = Instant::now();
        let mut last = None;
        for (seconds, due) in [(0, true), (1, false), (59, false), (60, true), (61, false), (200, true)] {
            assert_eq!(is_due(&mut last, start + Duration::from_secs(seconds)), due, "{seconds}");
        }
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let file = File::from(OwnedFd::from(ours));
        let mut output = Output { path: None, file, torn: false };
        let line = [vec![b'a'; 99_999], vec![b'\n']].concat();
        let batch = line.repeat(20);
        // A socket that nobody reads takes a part only.
        let torn = output.write(&batch).err().unwrap();
        assert!(torn.lines > 0 && torn.lines <= 20);
        assert!(output.write(b"lost\n").is_err());
        let mut received = Vec::new();
        // It ends with WouldBlock.
        let _ = theirs.read_to_end(&mut received);
        let torn_off = received.last() != Some(&b'\n');
        assert!(output.write(b"next\n").is_ok());
        let _ = theirs.read_to_end(&mut received);
        assert!(received.ends_with(b"\nnext\n"));
        let whole = received.split(|byte| *byte == b'\n').filter(|found| found.len() == 99_999).count();
        assert_eq!(u64::try_from(whole).unwrap() + torn.lines, 20, "each line is whole or counted as lost");
        assert!(torn_off || torn.lines < 20);
    }
}
