//! When to renew, and when to try again: functions of times and of a random number from 0 to 1.

use std::time::Duration;
use std::time::SystemTime;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest: authorities count failures, and an hour is what they count them by.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// How often an authority is asked at most for its suggestion, and how often at least.
const ASKED: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

/// Without a suggestion: when two thirds of its life are over.
#[must_use]
pub fn by_life(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
    not_before + life / 3 * 2
}

/// With a suggested window (RFC 9773 4.2): at a random moment of it, and at once if that has passed. If it is later than
/// the suggestion is to be asked for again, then that is what is due.
#[must_use]
pub fn by_window((start, end): (SystemTime, SystemTime), again: Duration, now: SystemTime, random: f64) -> SystemTime {
    let width = end.duration_since(start).unwrap_or(Duration::ZERO);
    let chosen = start + width.mul_f64(random.clamp(0.0, 1.0));
    chosen.min(now + again.clamp(ASKED.0, ASKED.1))
}

/// The pause after so many failures in a row: twice as long each time, and up to a quarter more at random.
#[must_use]
pub fn pause(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + random.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_certificate_is_renewed_in_its_window_or_when_a_third_of_its_life_is_left() {
        let day = |days: u32| SystemTime::UNIX_EPOCH + DAY * days;
        assert_eq!(by_life(day(100), day(190)), day(160));
        assert_eq!(by_life(day(190), day(100)), day(190), "nonsense is renewed at once");
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        for (window, now, random, expected) in [
            ((day(10), day(12)), day(1), 0.5, day(1) + hours(6)),
            ((day(10), day(12)), day(11), 0.5, day(11)),
            ((day(10), day(12)), day(11), 0.75, day(11) + hours(6)),
            ((day(10), day(12)), day(20), 0.9, day(10) + (DAY * 2).mul_f64(0.9)),
            ((day(12), day(10)), day(13), 0.5, day(12)),
        ] {
            assert_eq!(by_window(window, hours(6), now, random), expected);
        }
        assert_eq!(by_window((day(9), day(9)), Duration::ZERO, day(1), 0.0), day(1) + ASKED.0);
        assert_eq!(by_window((day(9), day(9)), DAY * 9, day(1), 0.0), day(2));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(1, 0.0), FIRST_PAUSE);
        assert_eq!(pause(3, 0.0), FIRST_PAUSE * 4);
        assert_eq!(pause(1, 1.0), Duration::from_secs(75));
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE);
    }
}
