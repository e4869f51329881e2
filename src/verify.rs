//! Verifying a `Data.fs`: the shell around `zodb::check` that reads the file.
//!
//! Safe on a file in use: it is opened for reading and never locked; what is appended after the start is not looked at; a
//! fault counts only if the same place is still wrong when it has been read again a moment later, for a storage server
//! writes its last transaction, and may take it back, while we read. A pack replaces the file: the one that was opened is
//! judged to its end.
//!
//! The kernel is told to fetch the file in order, so a disk streams; of what is in memory then, only headers are copied
//! where data are long. Data are not looked at.

use crate::zodb::Checker;
use crate::zodb::Fault;
use crate::zodb::Tid;
use crate::zodb::check;
use crate::zodb::check::Mark;
use crate::zodb::check::Remarks;
use crate::zodb::check::Source;
use crate::zodb::check::Step;
use crate::zodb::check::Trouble;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the start of the file.
    Start,
    /// Before the last so many transactions; at the start if the file does not end with a whole one.
    Last(u64),
    /// Where an earlier verification ended.
    After(Mark),
}

/// What was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where the walk began.
    pub begin: Mark,
    /// Everything from there to here is good; its id is that of the last finished transaction.
    pub end: Mark,
    /// The good transactions.
    pub transactions: u64,
    /// Their records.
    pub records: u64,
    /// What is odd and no fault.
    pub remarks: Remarks,
    /// The size of the file when it was looked at.
    pub size: u64,
    /// Whether after `end` there is a transaction that is being written, or was never finished.
    pub unfinished: bool,
}

/// Why a file is not good.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It could not be read: a bad sector, or a network file system that has gone.
    #[error("read {} at {at}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It is damaged.
    #[error("{fault}")]
    Damaged {
        /// What is wrong, and where.
        fault: Fault,
        /// What is good before it.
        good: Box<Verified>,
    },
    /// At the given place no transaction with the given id ends: the file was packed or replaced.
    #[error(
        "no transaction {} ends at {}: the file was packed or replaced since; verify it from the start",
        mark.tid,
        mark.position
    )]
    Moved {
        /// The place.
        mark: Mark,
    },
}

/// Verifies the file from `begin` to its end. Blocks: reads at the speed of the disk, and waits a moment before it gives up.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(path: &Path, begin: Begin) -> Result<Verified, VerifyError> {
    let open = |cause| VerifyError::Open { path: path.to_owned(), cause };
    let read = |(at, cause)| VerifyError::Read { path: path.to_owned(), at, cause };
    let file = File::open(path).map_err(open)?;
    let mut source = Window::new(file).map_err(open)?;
    let mut checker = match begin {
        Begin::Start => start(&mut source, path)?,
        Begin::After(mark) if mark.holds(&mut source).map_err(read)? => Checker::after(mark),
        Begin::After(mark) => return Err(VerifyError::Moved { mark }),
        Begin::Last(count) => match tail(&mut source, count).map_err(read)? {
            Some(mark) => Checker::after(mark),
            None => start(&mut source, path)?,
        },
    };
    let from = checker.mark();
    let seen = |checker: &Checker, source: &Window, unfinished| Verified {
        begin: from,
        end: checker.mark(),
        transactions: checker.transactions(),
        records: checker.records(),
        remarks: checker.remarks(),
        size: source.size,
        unfinished,
    };
    let mut doubts = 0;
    loop {
        match checker.step(&mut source) {
            Ok(Step::Good(_)) => doubts = 0,
            Ok(Step::End) => return Ok(seen(&checker, &source, false)),
            Ok(Step::Unfinished) => return Ok(seen(&checker, &source, true)),
            Err(Trouble::Source(trouble)) => return Err(read(trouble)),
            Err(Trouble::Fault(_)) if doubts < DOUBTS => {
                doubts += 1;
                source.again().map_err(open)?;
            }
            Err(Trouble::Fault(fault)) => {
                return Err(VerifyError::Damaged { fault, good: Box::new(seen(&checker, &source, false)) });
            }
        }
    }
}

fn start(source: &mut Window, path: &Path) -> Result<Checker, VerifyError> {
    Checker::whole(source, MEMORY).map_err(|trouble| match trouble {
        Trouble::Source((at, cause)) => VerifyError::Read { path: path.to_owned(), at, cause },
        Trouble::Fault(fault) => {
            let none = Mark { position: 0, tid: Tid(0) };
            let good = Verified {
                begin: none,
                end: none,
                transactions: 0,
                records: 0,
                remarks: Remarks::default(),
                size: source.size,
                unfinished: false,
            };
            VerifyError::Damaged { fault, good: Box::new(good) }
        }
    })
}

/// The mark before the last `count` transactions; a transaction that is being written is given a moment to be finished.
fn tail(source: &mut Window, count: u64) -> Result<Option<Mark>, (u64, io::Error)> {
    for _ in 0..DOUBTS {
        if let Some(mark) = check::tail(source, count)? {
            return Ok(Some(mark));
        }
        source.again().map_err(|cause| (0, cause))?;
    }
    check::tail(source, count)
}

/// A file, seen through a window that moves forward: wide where records are short, narrow where they are long.
struct Window {
    file: File,
    size: u64,
    bytes: Box<[u8]>,
    from: u64,
    filled: usize,
    width: usize,
    /// Up to where the kernel was told to fetch.
    called: u64,
}

impl Window {
    fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let bytes = vec![0; WIDE].into_boxed_slice();
        Ok(Self { file, size, bytes, from: 0, filled: 0, width: NARROW, called: 0 })
    }

    /// Waits a moment, and looks anew.
    fn again(&mut self) -> io::Result<()> {
        std::thread::sleep(MOMENT);
        self.size = self.file.metadata()?.len();
        self.filled = 0;
        Ok(())
    }

    #[cold]
    fn refill(&mut self, at: u64) -> Result<(), (u64, io::Error)> {
        self.call(at);
        let gap = at.saturating_sub(self.from + self.filled as u64);
        self.width = if gap < self.width as u64 / 2 { (2 * self.width).min(WIDE) } else { NARROW };
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(WIDE);
        (self.from, self.filled) = (at, 0);
        let want = &mut self.bytes[..left.min(self.width)];
        self.filled = fill(&self.file, want, at)?;
        Ok(())
    }

    /// Tells the kernel what will be read next. Only a hint: it may be refused.
    fn call(&mut self, at: u64) {
        self.called = self.called.max(at);
        while self.called < (at + CALLED).min(self.size) {
            let _ = rustix::fs::fadvise(&self.file, self.called, NonZeroU64::new(CALL), rustix::fs::Advice::WillNeed);
            self.called += CALL;
        }
    }
}

impl Source for Window {
    type Error = (u64, io::Error);

    fn size(&self) -> u64 {
        self.size
    }

    #[inline]
    fn ahead<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Self::Error> {
        let within = |window: &Self| {
            let skip = usize::try_from(at.checked_sub(window.from)?).ok()?;
            window.bytes[..window.filled].get(skip..)?.first_chunk().copied()
        };
        if let Some(bytes) = within(self) {
            return Ok(Some(bytes));
        }
        self.refill(at)?;
        Ok(within(self))
    }

    fn aside<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Self::Error> {
        let mut bytes = [0; N];
        let inside = at.checked_add(N as u64).is_some_and(|end| end <= self.size);
        Ok((inside && fill(&self.file, &mut bytes, at)? == N).then_some(bytes))
    }
}

/// Reads as much of `bytes` as the file has.
fn fill(file: &File, bytes: &mut [u8], at: u64) -> Result<usize, (u64, io::Error)> {
    let mut filled = 0;
    while filled < bytes.len() {
        let here = at + filled as u64;
        match file.read_at(&mut bytes[filled..], here) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err((here, cause)),
        }
    }
    Ok(filled)
}

/// How much is read at once: at most what stays in a core's own cache, at least some headers.
const WIDE: usize = 64 * 1024;
const NARROW: usize = 1024;

/// How far ahead the kernel is told what will be read, and how much at once: it fetches no more for one hint.
const CALLED: u64 = 4 * 1024 * 1024;
const CALL: u64 = 128 * 1024;

/// How much memory the places of records may take: 30 million objects. Beyond, pointers are followed in the file.
const MEMORY: usize = 256 * 1024 * 1024;

/// How often a fault is looked at again, and after what time.
const DOUBTS: u32 = 3;
const MOMENT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zodb::check::What;
    use crate::zodb::writer::Data;
    use crate::zodb::writer::Writer;
    use std::io::Write;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn long_history() -> Writer {
        let mut writer = Writer::new();
        for round in 0..50_u64 {
            // Larger and smaller than the window.
            let body = vec![b'x'; if round % 10 == 3 { 10 * WIDE } else { 3000 }];
            let back = writer.place(2);
            writer.transaction(
                b' ',
                b"",
                &[(1, Data::Own(&body)), (2, Data::Back(back)), (3 + round, Data::Own(b"n"))],
            );
        }
        writer
    }

    #[test]
    fn a_verification_can_be_continued_where_the_last_one_ended_and_only_there() {
        let mut writer = long_history();
        let mut file = written(&writer.bytes);
        let whole = verify(file.path(), Begin::Start).unwrap();
        assert_eq!((whole.transactions, whole.records, whole.end.position), (50, 150, writer.position()));
        let last = verify(file.path(), Begin::Last(7)).unwrap();
        assert_eq!((last.transactions, last.records, last.end), (7, 21, whole.end));

        let added = writer.transaction(b' ', b"", &[(1, Data::Own(b"new"))]);
        file.write_all(&writer.bytes[usize::try_from(added).unwrap()..]).unwrap();
        let more = verify(file.path(), Begin::After(whole.end)).unwrap();
        assert_eq!((more.begin, more.transactions, more.size), (whole.end, 1, writer.position()));

        let replaced = written(&Writer::new().bytes);
        assert!(matches!(verify(replaced.path(), Begin::After(whole.end)), Err(VerifyError::Moved { .. })));
    }

    #[test]
    fn damage_far_into_the_file_is_located_and_what_is_good_before_it_is_told() {
        let mut writer = long_history();
        let at = writer.place(1);
        writer.bytes[usize::try_from(at).unwrap() + 23] ^= 1;
        let file = written(&writer.bytes);
        match verify(file.path(), Begin::Start) {
            Err(VerifyError::Damaged { fault, good }) => {
                assert!(matches!(fault.what, What::Previous { .. }), "{fault}");
                assert_eq!((fault.at, good.transactions, good.end.position), (at, 49, fault.transaction));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(verify(Path::new("/nowhere/Data.fs"), Begin::Start), Err(VerifyError::Open { .. })));
    }

    #[test]
    fn a_transaction_that_is_taken_back_and_written_anew_while_we_read_is_no_fault() {
        let mut writer = long_history();
        let begins = writer.transaction(b' ', b"", &[(1, Data::Own(b"second try"))]);
        let good = writer.bytes.clone();
        let middle = usize::try_from(begins).unwrap() + 30;
        writer.bytes[middle..].fill(0);
        let file = written(&writer.bytes);
        let path = file.path().to_owned();
        let verifying = std::thread::spawn(move || verify(&path, Begin::Start));
        let rest = &good[middle..];
        // Whether it is mended before the first look or after it: it is good in the end.
        std::fs::File::options().write(true).open(file.path()).unwrap().write_all_at(rest, middle as u64).unwrap();
        assert_eq!(verifying.join().unwrap().unwrap().transactions, 51);
    }
}
