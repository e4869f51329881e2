//! Whether a `Data.fs` is what ZODB would have written: all that `ZODB.scripts.fstest` checks, and the pointers besides.
//!
//! [`Checker::step`] judges one transaction and moves past it only if it is good, so a step may be tried again after the
//! file has changed under it. What it holds to:
//!
//! 1. The file begins with `FS30`; transactions follow each other without a gap up to its end.
//! 2. Transaction ids increase.
//! 3. A transaction's status is one that ZODB writes. Only the last may be voted for and unfinished: that is no fault but
//!    [`Step::Unfinished`], if all that there is of it is good, for nobody was ever told that it was committed.
//! 4. The records of a transaction fill it exactly, name it by place and by id, and its length is repeated at its end.
//! 5. A record's pointer to the one before, and a back pointer to the one with the data, lead backwards, to a data record
//!    of the same object.
//!
//! That a record skips one of its object's records is legal to read but not what ZODB writes: it is counted in
//! [`Remarks`], as ZODB logs it.

use crate::zodb::filestorage::MAGIC;
use crate::zodb::filestorage::RECORD_HEADER;
use crate::zodb::filestorage::RecordHeader;
use crate::zodb::filestorage::START;
use crate::zodb::filestorage::STATUS_AT;
use crate::zodb::filestorage::Status;
use crate::zodb::filestorage::TRANSACTION_HEADER;
use crate::zodb::filestorage::TransactionHeader;
use crate::zodb::filestorage::WORD;
use crate::zodb::places::Place;
use crate::zodb::places::Places;
use crate::zodb::tid::Oid;
use crate::zodb::tid::Tid;
use std::convert::Infallible;

/// Where the bytes come from.
pub trait Source {
    /// How reading fails.
    type Error;

    /// How many bytes there are.
    fn size(&self) -> u64;

    /// The bytes at `at`, which is never far from where the last call was; `None` if the file ends before them.
    ///
    /// # Errors
    /// They cannot be read.
    fn ahead<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Self::Error>;

    /// The same for a place anywhere.
    ///
    /// # Errors
    /// They cannot be read.
    fn aside<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Self::Error>;
}

/// A file that is in memory.
impl Source for &[u8] {
    type Error = Infallible;

    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn ahead<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Infallible> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..));
        Ok(rest.and_then(|rest| rest.first_chunk()).copied())
    }

    fn aside<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, Infallible> {
        self.ahead(at)
    }
}

/// A place between two transactions, known by the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where it is.
    pub position: u64,
    /// The id of the transaction that ends there; 0 at the start of the file.
    pub tid: Tid,
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A good transaction.
    Good(Tid),
    /// The end of the file, after the last transaction.
    End,
    /// The end of the file, within a transaction that is being written or was never finished.
    Unfinished,
}

/// Why a step did not get on.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble<E> {
    /// The bytes are wrong.
    Fault(Fault),
    /// The bytes could not be read.
    Source(E),
}

/// What is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {what}")]
pub struct Fault {
    /// The position of the transaction or record that is wrong.
    pub at: u64,
    /// Where the transaction begins in which it is.
    pub transaction: u64,
    /// What is wrong.
    pub what: What,
}

/// The ways in which a file can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// No byte at all.
    #[error("the file is empty")]
    Empty,
    /// Another kind of file.
    #[error("the file does not begin with `FS30`: it is no FileStorage")]
    Magic,
    /// It has become shorter than what was read of it.
    #[error("the file ends before this, and was longer")]
    Shrunk,
    /// A part of a header at the end.
    #[error("the file ends within a transaction's header, after {0} of 23 bytes")]
    HeaderCutOff(u64),
    /// Ids must increase.
    #[error("transaction {tid} does not come after {last}, which stands before it")]
    Order {
        /// The id.
        tid: Tid,
        /// The one before.
        last: Tid,
    },
    /// More was announced than there is.
    #[error("the transaction is announced with {announced} bytes, of which the file has {present}")]
    CutOff {
        /// The length in its header, and the eight bytes after it.
        announced: u64,
        /// What is left of the file.
        present: u64,
    },
    /// Unfinished, but others follow.
    #[error("the transaction was never finished (status `c`), and yet others follow it")]
    Unfinished,
    /// No status.
    #[error("0x{0:02x} is no status of a transaction")]
    Status(u8),
    /// The texts are longer than the transaction.
    #[error("the transaction's header has {head} bytes, the whole transaction {len}")]
    Head {
        /// The header with its texts.
        head: u64,
        /// The transaction.
        len: u64,
    },
    /// The record does not fit into its transaction.
    #[error("the record goes beyond its transaction, which ends at {0}")]
    RecordBeyond(u64),
    /// The record says that it begins elsewhere.
    #[error("the record says that its transaction begins at {says}; it begins at {begins}")]
    Place {
        /// What it says.
        says: u64,
        /// What is so.
        begins: u64,
    },
    /// The record names another transaction.
    #[error("the record names transaction {says}; it stands in {stands}")]
    Tid {
        /// What it says.
        says: Tid,
        /// What is so.
        stands: Tid,
    },
    /// There are no versions.
    #[error("the record has a version's name of {0} bytes; there are no versions")]
    Version(u16),
    /// The pointer to the record before.
    #[error("the record of object {oid} names as the one before it {pointer}, which {why}")]
    Previous {
        /// The object.
        oid: Oid,
        /// Where it points.
        pointer: u64,
        /// What is wrong with it.
        why: Astray,
    },
    /// The pointer to the data.
    #[error("the record of object {oid} names as the one with its data {pointer}, which {why}")]
    Back {
        /// The object.
        oid: Oid,
        /// Where it points.
        pointer: u64,
        /// What is wrong with it.
        why: Astray,
    },
    /// The length at the end differs.
    #[error("the transaction's length is {len} at its beginning and {says} at its end")]
    Trailer {
        /// At the beginning.
        len: u64,
        /// At the end.
        says: u64,
    },
}

/// How a pointer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Astray {
    /// Forwards or to itself.
    #[error("is not before it")]
    Forwards,
    /// Into the middle of something.
    #[error("is no data record")]
    NoRecord,
    /// To somebody else's.
    #[error("is a record of object {0}")]
    Other(Oid),
}

impl What {
    /// One word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Magic => "magic",
            Self::Shrunk => "shrunk",
            Self::HeaderCutOff(_) => "header_cut_off",
            Self::Order { .. } => "order",
            Self::CutOff { .. } => "cut_off",
            Self::Unfinished => "unfinished",
            Self::Status(_) => "status",
            Self::Head { .. } => "head",
            Self::RecordBeyond(_) => "record_beyond",
            Self::Place { .. } => "place",
            Self::Tid { .. } => "tid",
            Self::Version(_) => "version",
            Self::Previous { .. } => "previous",
            Self::Back { .. } => "back",
            Self::Trailer { .. } => "trailer",
        }
    }
}

/// What is odd and no fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Records whose pointer skips a record of their object.
    pub skipping: u64,
    /// Where the first of them is.
    pub first: u64,
}

/// Walks a file.
pub struct Checker {
    mark: Mark,
    transactions: u64,
    records: u64,
    remarks: Remarks,
    /// Where each object's last record is. Unknown when the walk did not begin at the start.
    places: Option<Places>,
}

/// The transaction that is being judged.
#[derive(Clone, Copy)]
struct Under {
    at: u64,
    tid: Tid,
    end: u64,
}

impl Checker {
    /// From the start of the file; remembers records in about `memory` bytes, so that their pointers need not be followed.
    ///
    /// # Errors
    /// An empty file, or one of another kind.
    pub fn whole<S: Source>(source: &mut S, memory: usize) -> Result<Self, Trouble<S::Error>> {
        let found = source.ahead::<4>(0).map_err(Trouble::Source)?;
        let wrong = |what| Err(Trouble::Fault(Fault { at: 0, transaction: 0, what }));
        match found {
            Some(MAGIC) => Ok(Self { places: Some(Places::new(memory)), ..Self::after(Mark::START) }),
            None if source.size() == 0 => wrong(What::Empty),
            _ => wrong(What::Magic),
        }
    }

    /// From a place that was reached before, or found by [`tail`].
    #[must_use]
    pub fn after(mark: Mark) -> Self {
        Self { mark, transactions: 0, records: 0, remarks: Remarks::default(), places: None }
    }

    /// How far it is: everything before is good.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The good transactions so far.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Their records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What was odd.
    #[must_use]
    pub fn remarks(&self) -> Remarks {
        self.remarks
    }

    /// Judges the next transaction.
    ///
    /// # Errors
    /// It is wrong, or cannot be read.
    pub fn step<S: Source>(&mut self, source: &mut S) -> Result<Step, Trouble<S::Error>> {
        let at = self.mark.position;
        let fault = |what| Err(Trouble::Fault(Fault { at, transaction: at, what }));
        let left = match source.size().checked_sub(at) {
            Some(0) => return Ok(Step::End),
            Some(left) => left,
            None => return fault(What::Shrunk),
        };
        let Some(bytes) = source.ahead(at).map_err(Trouble::Source)? else { return self.header_cut_off(source, left) };
        let header = TransactionHeader::parse(&bytes);
        if header.tid <= self.mark.tid {
            return fault(What::Order { tid: header.tid, last: self.mark.tid });
        }
        let announced = header.len.saturating_add(WORD);
        let whole = announced <= left;
        match header.status {
            Status::Voted if announced < left => return fault(What::Unfinished),
            Status::Voted => {}
            _ if !whole => return fault(What::CutOff { announced, present: left }),
            Status::Other(byte) => return fault(What::Status(byte)),
            Status::Done | Status::Packed | Status::Undone => {}
        }
        if header.head() > header.len {
            return fault(What::Head { head: header.head(), len: header.len });
        }
        // `left` bounds a whole transaction; of one that is cut off, the end only stops the walk.
        let under = Under { at, tid: header.tid, end: at.saturating_add(header.len) };
        let mut records = 0;
        if header.status != Status::Undone {
            records = self.records_of(source, under, at + header.head())?;
        }
        if whole {
            match source.ahead(under.end).map_err(Trouble::Source)?.map(u64::from_be_bytes) {
                Some(says) if says == header.len => {}
                Some(says) => return fault(What::Trailer { len: header.len, says }),
                None => return fault(What::Shrunk),
            }
        }
        if header.status == Status::Voted {
            return Ok(Step::Unfinished);
        }
        self.mark = Mark { position: under.end + WORD, tid: header.tid };
        self.transactions += 1;
        self.records += records;
        Ok(Step::Good(header.tid))
    }

    /// Only a part of a header is left: of an unfinished transaction, if it gets as far as to say so.
    fn header_cut_off<S: Source>(&self, source: &mut S, left: u64) -> Result<Step, Trouble<S::Error>> {
        let at = self.mark.position;
        if let Some(start) = source.ahead::<{ STATUS_AT + 1 }>(at).map_err(Trouble::Source)?
            && Status::from(start[STATUS_AT]) == Status::Voted
            && start[..8] > self.mark.tid.0.to_be_bytes()[..]
        {
            return Ok(Step::Unfinished);
        }
        Err(Trouble::Fault(Fault { at, transaction: at, what: What::HeaderCutOff(left) }))
    }

    fn records_of<S: Source>(&mut self, source: &mut S, under: Under, first: u64) -> Result<u64, Trouble<S::Error>> {
        let mut at = first;
        let mut records = 0;
        while at < under.end {
            let beyond = Fault { at, transaction: under.at, what: What::RecordBeyond(under.end) };
            if under.end - at < RECORD_HEADER as u64 {
                return Err(Trouble::Fault(beyond));
            }
            // The file ends here only if the transaction is unfinished: how far it goes was compared with the size.
            let Some(bytes) = source.ahead(at).map_err(Trouble::Source)? else { break };
            let record = RecordHeader::parse(&bytes);
            let data = at + RECORD_HEADER as u64;
            self.judge(source, under, at, &record)?;
            if under.end - data < record.rest() {
                return Err(Trouble::Fault(beyond));
            }
            if record.len == 0 {
                let Some(word) = source.ahead(data).map_err(Trouble::Source)? else { break };
                let pointer = u64::from_be_bytes(word);
                if pointer != 0
                    && let Some(why) = astray(source, at, pointer, record.oid).map_err(Trouble::Source)?
                {
                    let what = What::Back { oid: record.oid, pointer, why };
                    return Err(Trouble::Fault(Fault { at, transaction: under.at, what }));
                }
            }
            at = data + record.rest();
            records += 1;
        }
        Ok(records)
    }

    /// Judges what a record says of itself, and its pointer to the record before.
    #[inline]
    fn judge<S: Source>(
        &mut self,
        source: &mut S,
        under: Under,
        at: u64,
        record: &RecordHeader,
    ) -> Result<(), Trouble<S::Error>> {
        let fault = |what| Err(Trouble::Fault(Fault { at, transaction: under.at, what }));
        if record.transaction != under.at {
            return fault(What::Place { says: record.transaction, begins: under.at });
        }
        if record.tid != under.tid {
            return fault(What::Tid { says: record.tid, stands: under.tid });
        }
        if record.version != 0 {
            return fault(What::Version(record.version));
        }
        let known = self.places.as_mut().map_or(Place::Forgotten, |places| places.swap(record.oid, at));
        match known {
            Place::At(before) if before == record.prev => return Ok(()),
            Place::Nowhere | Place::Forgotten if record.prev == 0 => return Ok(()),
            _ => {}
        }
        if record.prev != 0
            && let Some(why) = astray(source, at, record.prev, record.oid).map_err(Trouble::Source)?
        {
            return fault(What::Previous { oid: record.oid, pointer: record.prev, why });
        }
        // An object's second record in one transaction points to where the first does.
        let skips = matches!(known, Place::At(before) if before < under.at) || known == Place::Nowhere;
        if skips {
            self.remarks.skipping += 1;
            if self.remarks.first == 0 {
                self.remarks.first = at;
            }
        }
        Ok(())
    }
}

impl Mark {
    /// The start of a file.
    pub const START: Self = Self { position: START, tid: Tid(0) };

    /// Whether the file still has there what it had when the place was reached; not after a pack, or in another file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn holds<S: Source>(self, source: &mut S) -> Result<bool, S::Error> {
        if self == Self::START {
            return Ok(source.aside(0)? == Some(MAGIC));
        }
        Ok(before(source, self.position)?.is_some_and(|(_, header)| header.tid == self.tid))
    }
}

/// The place from which the last `count` transactions of the file can be checked, found backwards by the lengths at their
/// ends; `None` if the file does not end with a whole transaction.
///
/// # Errors
/// The file cannot be read.
pub fn tail<S: Source>(source: &mut S, count: u64) -> Result<Option<Mark>, S::Error> {
    let mut position = source.size();
    let mut later = None;
    let mut left = count;
    loop {
        if position == START {
            return Ok(Mark::START.holds(source)?.then_some(Mark::START));
        }
        let Some((start, header)) = before(source, position)? else { return Ok(None) };
        if later.is_some_and(|later| header.tid >= later) {
            return Ok(None);
        }
        if left == 0 {
            return Ok(Some(Mark { position, tid: header.tid }));
        }
        left -= 1;
        position = start;
        later = Some(header.tid);
    }
}

/// The transaction that ends at `end`, if one does.
fn before<S: Source>(source: &mut S, end: u64) -> Result<Option<(u64, TransactionHeader)>, S::Error> {
    let Some(trailer) = end.checked_sub(WORD).filter(|at| *at > START) else { return Ok(None) };
    let Some(len) = source.aside(trailer)?.map(u64::from_be_bytes) else { return Ok(None) };
    let Some(start) = trailer.checked_sub(len).filter(|start| *start >= START) else { return Ok(None) };
    let Some(bytes) = source.aside(start)? else { return Ok(None) };
    let header = TransactionHeader::parse(&bytes);
    let finished = matches!(header.status, Status::Done | Status::Packed | Status::Undone);
    let fits = header.len == len && header.head() <= len && finished;
    Ok(fits.then_some((start, header)))
}

/// What is wrong with the pointer of a record at `at`; `None` if it leads to a data record of `oid`: to a header whose
/// transaction stands where it says, has the same id, and encloses it.
#[cold]
fn astray<S: Source>(source: &mut S, at: u64, pointer: u64, oid: Oid) -> Result<Option<Astray>, S::Error> {
    if pointer >= at {
        return Ok(Some(Astray::Forwards));
    }
    let Some(bytes) = source.aside(pointer)? else { return Ok(Some(Astray::NoRecord)) };
    let record = RecordHeader::parse(&bytes);
    let first = record.transaction.saturating_add(TRANSACTION_HEADER as u64);
    if record.version != 0 || record.transaction < START || first > pointer {
        return Ok(Some(Astray::NoRecord));
    }
    let Some(bytes) = source.aside(record.transaction)? else { return Ok(Some(Astray::NoRecord)) };
    let header = TransactionHeader::parse(&bytes);
    let end = record.transaction.saturating_add(header.len);
    let record_end = pointer.saturating_add(RECORD_HEADER as u64).saturating_add(record.rest());
    if header.tid != record.tid || record_end > end {
        return Ok(Some(Astray::NoRecord));
    }
    Ok((record.oid != oid).then_some(Astray::Other(record.oid)))
}

#[cfg(test)]
mod tests;
