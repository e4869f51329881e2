//! The pure decisions about upstreams: who gets a thread, who goes first, who is alive, warm,
//! stuck, or stands out, what is told of that.

pub mod class;
pub mod health;
pub mod names;
pub mod notices;
pub mod outlier;
pub mod pins;
pub mod queue;
pub mod storage;
pub mod stuck;
pub mod wait;
pub mod warmup;
