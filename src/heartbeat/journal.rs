//! What a voter must not forget: one small record, replaced as a whole, on the disk before anything that depends on it is sent.
//!
//! The record is written beside the old one, synced, renamed over it, and the directory is synced: after a crash there is the
//! old one or the new one. Each carries its length and a digest. A record that does not fit them is *torn*: nobody knows which
//! votes were given, so whoever opens it must not vote for what it may have voted on. Knows nothing of what is in the record.

use aws_lc_rs::digest;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// What opening a journal found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was none: this voter is new.
    Nothing,
    /// The record.
    Record(Vec<u8>),
    /// Something that is no whole record.
    Torn(&'static str),
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error("read the journal {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be written, or not synced.
    #[error("write the journal {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The journal of one voter.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// Opens the journal at `path`, and makes its directory when there is none.
    ///
    /// # Errors
    /// When it cannot be read; that it is torn is no error.
    pub fn open(path: &Path) -> Result<(Self, Found), JournalError> {
        let wrong = |source| JournalError::Read { path: path.to_owned(), source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(wrong)?;
        }
        let found = match fs::read(path) {
            Ok(bytes) => read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => return Err(wrong(error)),
        };
        Ok((Self { path: path.to_owned() }, found))
    }

    /// Replaces the record; it is on the disk when this returns.
    ///
    /// # Errors
    /// When it may not be on the disk: what depends on it must not be sent.
    pub fn replace(&self, record: &[u8]) -> Result<(), JournalError> {
        self.write(record).map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }

    /// Appends `line` to the diary beside the journal (`NAME.log`) and syncs it: takeovers, orders of operators. At 1 MiB it
    /// begins anew, and the old one is kept as `NAME.log.1`.
    ///
    /// # Errors
    /// When it may not be on the disk.
    pub fn note(&self, line: &str) -> Result<(), JournalError> {
        let path = self.path.with_extension("log");
        let append = || {
            if fs::metadata(&path).is_ok_and(|found| found.len() > DIARY_MAX) {
                fs::rename(&path, self.path.with_extension("log.1"))?;
            }
            let mut file = File::options().create(true).append(true).open(&path)?;
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_data()
        };
        append().map_err(|source| JournalError::Write { path: path.clone(), source })
    }

    /// The last `count` lines of the diary, oldest first.
    #[must_use]
    pub fn notes(&self, count: usize) -> Vec<String> {
        let text = fs::read_to_string(self.path.with_extension("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn write(&self, record: &[u8]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&frame(record))?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }
}

fn frame(record: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u64::try_from(record.len()).unwrap_or(u64::MAX).to_be_bytes());
    bytes.extend_from_slice(digest::digest(&digest::SHA256, record).as_ref());
    bytes.extend_from_slice(record);
    bytes
}

fn read(bytes: &[u8]) -> Found {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return Found::Torn("it is no journal of tidegate") };
    let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Found::Torn("it ends in its head") };
    let Some((sum, record)) = rest.split_first_chunk::<32>() else { return Found::Torn("it ends in its head") };
    if u64::from_be_bytes(*length) != u64::try_from(record.len()).unwrap_or(u64::MAX) {
        return Found::Torn("its length is not that of its record");
    }
    if digest::digest(&digest::SHA256, record).as_ref() != sum {
        return Found::Torn("its digest is not that of its record");
    }
    Found::Record(record.to_vec())
}

const MAGIC: &[u8] = b"tidegate journal 1\n";
const DIARY_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_found_again_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/journal");
        let (journal, found) = Journal::open(&path).unwrap();
        assert_eq!(found, Found::Nothing);
        journal.replace(b"first, and long").unwrap();
        journal.replace(b"second").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, Found::Record(b"second".to_vec()));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.replace(b"old").unwrap();
        std::fs::write(path.with_extension("new"), &frame(b"new")[..30]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, Found::Record(b"old".to_vec()));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = frame(b"epoch 7");
        for end in 0..whole.len() {
            assert!(matches!(read(&whole[..end]), Found::Torn(_)), "{end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(matches!(read(&changed), Found::Torn(_)), "{at}");
        }
    }

    #[test]
    fn the_diary_grows_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal")).unwrap();
        for line in ["one", "two", "three"] {
            journal.note(line).unwrap();
        }
        assert_eq!(journal.notes(2), ["two", "three"]);
        journal.note(&"x".repeat(usize::try_from(DIARY_MAX).unwrap())).unwrap();
        journal.note("after").unwrap();
        assert_eq!(journal.notes(5), ["after"]);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_that_names_the_file() {
        let told = Journal::open(Path::new("/proc/no/journal")).unwrap_err().to_string();
        assert_eq!(told, "read the journal /proc/no/journal");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_record_comes_back(record: Vec<u8>) {
            prop_assert_eq!(read(&frame(&record)), Found::Record(record));
        }
    }
}
