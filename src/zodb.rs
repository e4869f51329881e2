//! What is in a ZODB's files. Pure: it parses and judges bytes that others read, and writes nothing.
//!
//! [`tid`] and [`filestorage`] are the layout of a `Data.fs`; [`check`] walks one, transaction by transaction, through a
//! [`check::Source`] that the shell (`crate::verify`) gives it. Whatever the bytes are, the answer is a value with a place
//! and a reason, never a panic. It does not look into pickles.

pub mod check;
pub mod filestorage;
mod places;
pub mod tid;

#[cfg(test)]
#[path = "../tests/datafs/writer.rs"]
pub(crate) mod writer;

pub use check::Checker;
pub use check::Fault;
pub use tid::Oid;
pub use tid::Tid;
