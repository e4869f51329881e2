//! Asking a ZEO server how it is: an end-to-end question, for a TCP connection to a frozen server still succeeds.
//!
//! [`wire`] is pure: frames, and the two codings of messages as far as a probe needs them. [`probe()`] asks, with one deadline
//! for all of it, and never writes anything: the role is asked by registering for writing, which changes no data. What an
//! odd server sends is an error, never a panic, and never more than [`wire::FRAME_MAX`] bytes.

pub mod commits;
pub mod probe;
pub mod wire;

pub use commits::Commits;
pub use probe::Report;
pub use probe::Role;
pub use probe::Sick;
pub use probe::Storage;
pub use probe::probe;
pub use probe::ruok;
