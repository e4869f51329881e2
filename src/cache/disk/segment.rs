//! Segments: files to which records are appended, and beside each a file with the purges that came while it was written.
//!
//! Segments are dropped from the oldest on, whole. A purge concerns only what was written before it, so its record may go with
//! its segment. The two are separate files because a damaged record of a response costs that response, while a damaged record
//! of a purge costs everything that it may have concerned.

use crate::cache::disk::home::private;
use crate::cache::disk::record;
use crate::cache::disk::record::HEAD;
use crate::cache::disk::record::Head;
use crate::cache::disk::record::Kind;
use crate::cache::disk::record::META_MAX;
use crate::cache::disk::record::PREFACE;
use crate::cache::disk::record::Preface;
use crate::cache::disk::record::Purged;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// How much is read at once when a segment is gone through: a record's head and meta mostly fit.
const GLANCE: usize = 4096;

/// A segment that can be read.
#[derive(Debug)]
pub struct Segment {
    /// Its number.
    pub number: u32,
    /// Nothing in it was proved before this sequence.
    pub sequence: u64,
    file: File,
    len: AtomicU64,
    /// The bytes of the file of purges.
    purges: AtomicU64,
}

/// The one segment that is written, with its purges.
#[derive(Debug)]
pub struct Purges {
    file: File,
    len: u64,
}

/// What was found where a record should be.
enum Next {
    /// A record's head and meta, and where.
    Record(u64, Head, Vec<u8>),
    /// A record whose meta does not fit its head.
    Damaged(Head),
    /// The end of the file, perhaps within a record: whoever wrote it was killed.
    End,
    /// Bytes that are no record's head.
    Lost,
}

/// What is in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that were damaged.
    pub records: u64,
    /// The rest of the file could not be read.
    pub rest: bool,
}

/// The number of the segment that this file is of.
#[must_use]
pub fn number(path: &Path) -> Option<u32> {
    let end = path.extension()?;
    (end == "seg" || end == "purges").then_some(())?;
    let name = path.file_stem()?.to_str()?;
    (name.len() == 8).then(|| u32::from_str_radix(name, 16).ok()).flatten().filter(|number| *number > 0)
}

fn file_of(home: &Path, number: u32) -> PathBuf {
    home.join(format!("{number:08x}.seg"))
}

fn purges_of(home: &Path, number: u32) -> PathBuf {
    home.join(format!("{number:08x}.purges"))
}

/// Removes a segment, its responses first.
///
/// # Errors
/// What the system says.
pub fn remove(home: &Path, number: u32) -> io::Result<()> {
    for path in [file_of(home, number), purges_of(home, number)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Segment {
    /// Begins a segment; the file of its purges is there first.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(home: &Path, number: u32, sequence: u64) -> io::Result<(Self, Purges)> {
        let preface = Preface { segment: number, sequence }.bytes();
        let begin = |path: PathBuf| {
            let file = private().create_new(true).open(path)?;
            file.write_all_at(&preface, 0)?;
            Ok::<_, io::Error>(file)
        };
        let purges = Purges { file: begin(purges_of(home, number))?, len: PREFACE as u64 };
        let file = begin(file_of(home, number))?;
        let (len, beside) = (AtomicU64::new(PREFACE as u64), AtomicU64::new(PREFACE as u64));
        Ok((Self { number, sequence, file, len, purges: beside }, purges))
    }

    /// Opens a segment of an earlier run; `None` if it is none of ours.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(home: &Path, number: u32) -> io::Result<Option<Self>> {
        let file = match File::open(file_of(home, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let beside = fs::metadata(purges_of(home, number))?.len();
        let mut preface = [0; PREFACE];
        let len = file.metadata()?.len();
        if len < PREFACE as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut preface, 0)?;
        let preface = Preface::read(&preface).filter(|preface| preface.segment == number);
        let (len, purges) = (AtomicU64::new(len), AtomicU64::new(beside));
        Ok(preface.map(|preface| Self { number, sequence: preface.sequence, file, len, purges }))
    }

    /// Its bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no record in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == PREFACE as u64
    }

    /// Its bytes, and those of its purges.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len() + self.purges.load(Ordering::Relaxed)
    }

    /// So many more bytes of purges stand beside it.
    pub fn besides(&self, bytes: u64) {
        self.purges.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Appends these pieces; gives where they begin. For its one writer.
    ///
    /// # Errors
    /// What the system says; the segment is not to be written any more then.
    pub fn append<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<u64> {
        let begin = self.len();
        let mut at = begin;
        for piece in pieces {
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        self.len.store(at, Ordering::Relaxed);
        Ok(begin)
    }

    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads `len` bytes; `None` if there are not so many.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        if at.saturating_add(len as u64) > self.len() {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Shows the shelf of each record and where it lies, in the order in which they were written.
    ///
    /// # Errors
    /// What the system says.
    pub fn scan(&self, mut seen: impl FnMut(u32, &Head, &[u8])) -> io::Result<Damage> {
        let mut damage = Damage::default();
        let mut at = PREFACE as u64;
        loop {
            match self.next(at)? {
                Next::End => return Ok(damage),
                Next::Lost => return Ok(Damage { rest: true, ..damage }),
                Next::Damaged(head) => {
                    damage.records += 1;
                    at += head.len();
                }
                Next::Record(place, head, meta) => {
                    if let Ok(place) = u32::try_from(place)
                        && head.kind == Kind::Shelf
                    {
                        seen(place, &head, &meta);
                    }
                    at += head.len();
                }
            }
        }
    }

    fn next(&self, at: u64) -> io::Result<Next> {
        let left = self.len().saturating_sub(at);
        if left < HEAD as u64 {
            return Ok(Next::End);
        }
        let glance = usize::try_from(left).unwrap_or(GLANCE).min(GLANCE);
        let Some(mut bytes) = self.read(at, glance)? else { return Ok(Next::End) };
        let Some(head) = Head::read(&bytes) else { return Ok(Next::Lost) };
        if head.len() > left {
            return Ok(Next::End);
        }
        let end = HEAD + head.meta as usize;
        if end > bytes.len() {
            let Some(whole) = self.read(at, end)? else { return Ok(Next::End) };
            bytes = whole;
        }
        let meta = bytes[HEAD..end].to_vec();
        Ok(if head.fits(&meta) { Next::Record(at, head, meta) } else { Next::Damaged(head) })
    }
}

impl Purges {
    /// Appends these records.
    ///
    /// # Errors
    /// What the system says; the file is not to be written any more then.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all_at(records, self.len)?;
        self.len += records.len() as u64;
        Ok(())
    }

    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The purges beside a segment of an earlier run; `None` if one may be missing among them. A record that is cut off at the end
/// is of a purge that was never answered.
///
/// # Errors
/// What the system says.
pub fn purges(home: &Path, number: u32) -> io::Result<Option<Vec<Purged>>> {
    let mut bytes = Vec::new();
    match File::open(purges_of(home, number)) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(read_purges(&bytes, number))
}

fn read_purges(bytes: &[u8], number: u32) -> Option<Vec<Purged>> {
    if bytes.len() < PREFACE {
        // Whoever began it was killed before he could note one.
        return Some(Vec::new());
    }
    Preface::read(bytes).filter(|preface| preface.segment == number)?;
    let mut rest = &bytes[PREFACE..];
    let mut purges = Vec::new();
    while rest.len() >= HEAD {
        let head = Head::read(rest)?;
        let end = HEAD + head.meta as usize;
        debug_assert!(end <= HEAD + META_MAX);
        let Some(meta) = rest.get(HEAD..end) else { break };
        let fits = head.fits(meta) && head.kind == Kind::Purge;
        purges.push(record::purged(meta).filter(|_| fits)?);
        rest = &rest[end..];
    }
    Some(purges)
}
