//! The local copy of the storage, read without opening it for writing: its last whole transaction, from the end of the `Data.fs`,
//! and up to where it has been verified.

use crate::verify;
use crate::verify::Begin;
use crate::verify::VerifyError;
use crate::zodb::Tid;
use crate::zodb::check::Mark;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// How many transactions are verified of a copy of which nothing has been verified yet when it is to be served at once.
const TAIL: u64 = 1000;

/// The copy, and up to where it is known to be good.
#[derive(Clone, Debug)]
pub struct Verifier {
    path: PathBuf,
    good: Arc<Mutex<Option<Mark>>>,
}

impl Verifier {
    /// Nothing is known of it yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, good: Arc::default() }
    }

    /// Verifies what has come since the last time, and at first, or when it was packed, the whole. Blocks, for as long as the
    /// disk takes.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn follow(&self) -> Result<Tid, VerifyError> {
        self.verify(Begin::Start)
    }

    /// Verifies what has come since the last time, and of a copy of which nothing is known its last `TAIL` transactions:
    /// visitors wait for this. Blocks.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn finish(&self) -> Result<Tid, VerifyError> {
        self.verify(Begin::Last(TAIL))
    }

    fn verify(&self, unknown: Begin) -> Result<Tid, VerifyError> {
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = match verify::verify(&self.path, good.map_or(unknown, Begin::After)) {
            Err(VerifyError::Moved { .. }) => verify::verify(&self.path, unknown)?,
            other => other?,
        };
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some(verified.end);
        Ok(verified.end.tid)
    }
}

/// The identifier of the last whole transaction of a `Data.fs`; 0 when it has none.
///
/// ZODB writes the length of a transaction at its end once more, and the status `c` until it is finished. A tail that is being
/// written is passed over, at most [`TAIL_MAX`] bytes of it.
///
/// # Errors
/// When it cannot be read, or its end is no transaction.
pub fn last_tid(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    if &magic != b"FS30" {
        return Err(io::Error::other("it is no Data.fs"));
    }
    let mut end = file.seek(SeekFrom::End(0))?;
    let stop = end.saturating_sub(TAIL_MAX);
    while end > START {
        if let Some((start, header)) = transaction_before(&mut file, end)? {
            if header[16] != b'c' {
                return Ok(header.first_chunk().map_or(0, |tid| u64::from_be_bytes(*tid)));
            }
            end = start;
            continue;
        }
        // Something is being appended: its end is not yet there. Look for the end of the one before, byte by byte.
        end -= 1;
        if end < stop {
            return Err(io::Error::other("it does not end in a transaction"));
        }
    }
    Ok(0)
}

/// Start and header of the transaction that ends at `end`, if one does.
fn transaction_before(file: &mut File, end: u64) -> io::Result<Option<(u64, [u8; 23])>> {
    let mut word = [0; 8];
    file.seek(SeekFrom::Start(end.saturating_sub(8)))?;
    file.read_exact(&mut word)?;
    let length = u64::from_be_bytes(word);
    let Some(start) = end.checked_sub(8).and_then(|at| at.checked_sub(length)) else { return Ok(None) };
    if length < 23 || start < START {
        return Ok(None);
    }
    let mut header = [0; 23];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut header)?;
    let same = header[8..16] == word && matches!(header[16], b' ' | b'p' | b'u' | b'c');
    Ok(same.then_some((start, header)))
}

const START: u64 = 4;

/// So many bytes of an unfinished transaction are passed over.
pub const TAIL_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transaction(tid: u64, status: u8, data: &[u8]) -> Vec<u8> {
        let length = 23 + data.len() as u64;
        let mut bytes = tid.to_be_bytes().to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(status);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    }

    fn told(bytes: &[u8]) -> io::Result<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        last_tid(file.path())
    }

    #[test]
    fn the_last_whole_transaction_counts_whatever_is_being_appended() {
        let mut file = b"FS30".to_vec();
        assert_eq!(told(&file).unwrap(), 0);
        file.extend(transaction(7, b' ', b"some records"));
        assert_eq!(told(&file).unwrap(), 7);
        file.extend(transaction(8, b'u', b""));
        assert_eq!(told(&file).unwrap(), 8);
        let voted = transaction(9, b'c', b"voted, not finished");
        for end in 0..=voted.len() {
            assert_eq!(told(&[&file[..], &voted[..end]].concat()).unwrap(), 8, "{end}");
        }
    }

    #[test]
    fn what_is_no_data_fs_is_an_error() {
        assert!(told(b"").is_err() && told(b"FS2").is_err() && told(b"hello world").is_err());
        assert!(last_tid(Path::new("/no/Data.fs")).is_err());
    }

    #[test]
    fn a_copy_is_verified_as_it_grows_and_damage_in_what_is_new_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = [b"FS30".to_vec(), transaction(7, b' ', b"")].concat();
        std::fs::write(file.path(), &bytes).unwrap();
        let verifier = Verifier::new(file.path().to_owned());
        assert_eq!(verifier.finish().unwrap(), Tid(7));
        bytes.extend(transaction(8, b' ', b""));
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(verifier.follow().unwrap(), Tid(8));
        // An older transaction after a newer one.
        let damaged = [&bytes[..], &transaction(3, b' ', b"")].concat();
        std::fs::write(file.path(), damaged).unwrap();
        assert!(matches!(verifier.finish(), Err(VerifyError::Damaged { .. })));
        // Packed: other transactions stand where it was verified.
        std::fs::write(file.path(), [b"FS30".to_vec(), transaction(9, b'p', b"")].concat()).unwrap();
        assert_eq!(verifier.finish().unwrap(), Tid(9));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = told(&[b"FS30", &bytes[..]].concat());
        }
    }
}
