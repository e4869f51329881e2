//! Writes the bytes of a `Data.fs` as ZODB does, for tests and benchmarks. Tests against files that ZODB itself wrote are in
//! `tests/verify.rs`; this one writes what they cannot: any size in a moment, any damage at a known place.

use std::collections::HashMap;

/// A file in the making.
pub struct Writer {
    /// What is written so far.
    pub bytes: Vec<u8>,
    /// Where what is in `bytes` begins in the file: a benchmark hands them on and clears them.
    pub base: u64,
    tid: u64,
    last: HashMap<u64, u64>,
}

/// What a record holds.
pub enum Data<'a> {
    /// Its own data.
    Own(&'a [u8]),
    /// That of the record at a position; 0 for a creation undone.
    Back(u64),
}

impl Writer {
    pub fn new() -> Self {
        Self { bytes: b"FS30".to_vec(), base: 0, tid: 0x040d_34aa_0000_0000, last: HashMap::new() }
    }

    pub fn position(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Where the object's last record is.
    pub fn place(&self, oid: u64) -> u64 {
        self.last.get(&oid).copied().unwrap_or(0)
    }

    /// Appends a transaction with these records; gives the position where it begins.
    pub fn transaction(&mut self, status: u8, description: &[u8], records: &[(u64, Data<'_>)]) -> u64 {
        self.tid += 1 << 24;
        let (begins, from) = (self.position(), self.bytes.len());
        let mut head = Vec::new();
        head.extend_from_slice(&self.tid.to_be_bytes());
        head.extend_from_slice(&[0; 8]);
        head.push(status);
        head.extend_from_slice(&[0, 0]);
        head.extend_from_slice(&u16::try_from(description.len()).expect("a short text").to_be_bytes());
        head.extend_from_slice(&[0, 0]);
        head.extend_from_slice(description);
        self.bytes.extend_from_slice(&head);
        let mut places = Vec::new();
        for (oid, data) in records {
            places.push((*oid, self.position()));
            self.bytes.extend_from_slice(&oid.to_be_bytes());
            self.bytes.extend_from_slice(&self.tid.to_be_bytes());
            self.bytes.extend_from_slice(&self.place(*oid).to_be_bytes());
            self.bytes.extend_from_slice(&begins.to_be_bytes());
            self.bytes.extend_from_slice(&[0, 0]);
            let own = if let Data::Own(own) = data { own } else { &[][..] };
            self.bytes.extend_from_slice(&(own.len() as u64).to_be_bytes());
            self.bytes.extend_from_slice(own);
            if let Data::Back(pointer) = data {
                self.bytes.extend_from_slice(&pointer.to_be_bytes());
            }
        }
        let len = (self.bytes.len() - from) as u64;
        self.bytes[from + 8..from + 16].copy_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.last.extend(places);
        begins
    }
}
