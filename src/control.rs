//! Control: everything that decides what the data path is served by, and tells operators of it.

pub mod admin;
pub mod client;
pub mod failover;
pub mod import;
pub mod pair;
pub mod publisher;
pub mod status;
