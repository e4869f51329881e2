//! The only reader of the machine's clocks.

use crate::units::Now;
use std::time::Instant;
use std::time::SystemTime;

/// Reads both clocks: about 50 ns.
#[must_use]
pub fn now() -> Now {
    Now { mono: mono(), wall: SystemTime::now() }
}

/// Reads the monotonic clock alone, where no date is needed.
#[must_use]
pub fn mono() -> Instant {
    Instant::now()
}
