//! The layout of a `Data.fs`, as `ZODB/FileStorage/format.py` documents it.
//!
//! The file is `FS30` and transactions. A transaction is a header, user, description, extension, data records, and once more
//! its length. A data record is a header and either its data or, when their length is 0, a pointer to the record that has
//! them (0: the object's creation was undone). All numbers are big-endian; positions count from the start of the file.

use crate::zodb::tid::Oid;
use crate::zodb::tid::Tid;

/// What the file begins with.
pub const MAGIC: [u8; 4] = *b"FS30";

/// Where the first transaction begins.
pub const START: u64 = MAGIC.len() as u64;

/// The bytes of a transaction's header, without user, description and extension.
pub const TRANSACTION_HEADER: usize = 23;

/// Where a transaction's status is in its header.
pub const STATUS_AT: usize = 16;

/// The bytes of a data record's header.
pub const RECORD_HEADER: usize = 42;

/// The bytes of the length that closes a transaction, and of a back pointer.
pub const WORD: u64 = 8;

/// What has become of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `' '`: finished.
    Done,
    /// `'p'`: finished, and packed since.
    Packed,
    /// `'u'`: undone in place, by software of long ago; its records do not count.
    Undone,
    /// `'c'`: voted for and not finished. Only the last one may be so; ZODB cuts it off when it opens the file.
    Voted,
    /// None that ZODB knows.
    Other(u8),
}

impl From<u8> for Status {
    fn from(byte: u8) -> Self {
        match byte {
            b' ' => Self::Done,
            b'p' => Self::Packed,
            b'u' => Self::Undone,
            b'c' => Self::Voted,
            other => Self::Other(other),
        }
    }
}

/// The header of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionHeader {
    /// Its id.
    pub tid: Tid,
    /// Its length without the eight bytes that repeat it at its end.
    pub len: u64,
    /// What has become of it.
    pub status: Status,
    /// The lengths of user, description and extension together.
    pub texts: u64,
}

/// The header of a data record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Whose record it is.
    pub oid: Oid,
    /// The transaction it belongs to.
    pub tid: Tid,
    /// Where the object's record before this one is; 0 if there is none.
    pub prev: u64,
    /// Where its transaction begins.
    pub transaction: u64,
    /// The length of a version's name; versions have not been supported for long, so it must be 0.
    pub version: u16,
    /// The length of its data; 0 if a back pointer follows.
    pub len: u64,
}

impl TransactionHeader {
    /// Reads one.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8; TRANSACTION_HEADER]) -> Self {
        let texts = [17, 19, 21].map(|at| u64::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])));
        Self {
            tid: Tid(word(bytes, 0)),
            len: word(bytes, 8),
            status: bytes[STATUS_AT].into(),
            texts: texts.iter().sum(),
        }
    }

    /// The bytes before its first record.
    #[must_use]
    pub fn head(&self) -> u64 {
        TRANSACTION_HEADER as u64 + self.texts
    }
}

impl RecordHeader {
    /// Reads one.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8; RECORD_HEADER]) -> Self {
        Self {
            oid: Oid(word(bytes, 0)),
            tid: Tid(word(bytes, 8)),
            prev: word(bytes, 16),
            transaction: word(bytes, 24),
            version: u16::from_be_bytes([bytes[32], bytes[33]]),
            len: word(bytes, 34),
        }
    }

    /// The bytes after the header: its data, or a back pointer.
    #[must_use]
    pub fn rest(&self) -> u64 {
        if self.len == 0 { WORD } else { self.len }
    }
}

/// The number at `at`, which every caller has in a fixed header.
#[inline]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_python_packs_them() {
        // struct.pack('>8sQcHHH', b'\4\r4\xaa\xd2q\xfbU', 300, b'p', 1, 2, 3)
        let mut header = *b"\x04\x0d\x34\xaa\xd2\x71\xfb\x55\0\0\0\0\0\0\x01\x2cp\0\x01\0\x02\0\x03";
        let read = TransactionHeader::parse(&header);
        let made = TransactionHeader { tid: Tid(0x040d_34aa_d271_fb55), len: 300, status: Status::Packed, texts: 6 };
        assert_eq!(read, made);
        assert_eq!(read.head(), 29);
        header[STATUS_AT] = b'x';
        assert_eq!(TransactionHeader::parse(&header).status, Status::Other(b'x'));

        // struct.pack('>8s8sQQHQ', p64(9), b'\4\r4\xaa\xd2q\xfbU', 4, 258, 0, 0)
        let record = *b"\0\0\0\0\0\0\0\x09\x04\x0d\x34\xaa\xd2\x71\xfb\x55\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\0\0\0";
        let read = RecordHeader::parse(&record);
        assert_eq!((read.oid, read.prev, read.transaction, read.version, read.rest()), (Oid(9), 4, 258, 0, 8));
    }
}
