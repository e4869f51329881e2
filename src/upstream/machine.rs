//! The pure decisions about upstreams: who gets a thread, and who is alive.

pub mod health;
pub mod queue;
