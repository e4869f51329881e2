//! The pure decisions about upstreams: who gets a thread, who is alive, who is warm.

pub mod health;
pub mod pins;
pub mod queue;
pub mod warmup;
