//! The only reader of the machine's clocks.

use crate::units::Now;
use rustix::time::ClockId;
use rustix::time::clock_gettime;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// Reads both clocks: about 50 ns.
#[must_use]
pub fn now() -> Now {
    beside(mono())
}

/// Reads the wall's clock beside an instant that was just read.
#[must_use]
pub fn beside(mono: Instant) -> Now {
    Now { mono, wall: SystemTime::now() }
}

/// Reads the monotonic clock alone, where no date is needed.
#[must_use]
pub fn mono() -> Instant {
    Instant::now()
}

/// Reads the clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`): a lease runs out meanwhile, too. Not to be
/// compared with [`mono`].
#[must_use]
pub fn boot() -> Instant {
    static BEGAN: OnceLock<(Instant, Duration)> = OnceLock::new();
    let (base, began) = BEGAN.get_or_init(|| (Instant::now(), since_boot()));
    *base + since_boot().saturating_sub(*began)
}

/// How long the machine has been running, sleep included.
#[must_use]
pub fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_leases_goes_forward() {
        let first = boot();
        let due = Instant::now() + Duration::from_secs(10);
        while boot() <= first {
            assert!(Instant::now() < due, "it stands still");
        }
    }
}
