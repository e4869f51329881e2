//! Transaction ids and object ids.

use std::fmt;
use std::time::Duration;

/// A transaction id: a time stamp, and strictly increasing within a storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u64);

/// An object id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub u64);

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:016x}", self.0)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:016x}", self.0)
    }
}

impl Tid {
    /// Reads what `Display` wrote, with or without `0x`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(digits, 16).ok().map(Self))?
    }

    /// The time it stands for, in UTC: minutes since 1900 in mixed radix (12 months of 31 days) in the upper half, the
    /// second as a fraction of a minute in the lower.
    #[must_use]
    pub fn time(self) -> String {
        let minutes = self.0 >> 32;
        let (minute, hours) = (minutes % 60, minutes / 60);
        let (hour, days) = (hours % 24, hours / 24);
        let (day, months) = (days % 31 + 1, days / 31);
        let (month, year) = (months % 12 + 1, months / 12 + 1900);
        let second = ((self.0 & 0xffff_ffff) * 60) >> 32;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }

    /// The same in nanoseconds since the first of January 1900, where its calendar begins.
    #[must_use]
    pub fn nanoseconds(self) -> u64 {
        const MINUTE: u64 = 60_000_000_000;
        let minutes = self.0 >> 32;
        let (minute, hours) = (minutes % 60, minutes / 60);
        let (hour, days) = (hours % 24, hours / 24);
        let (day, months) = (days % 31, days / 31);
        let (month, year) = (months % 12, months / 12 + 1900);
        // Days of a civil date, years beginning in March so that the leap day comes last.
        let (shifted, march) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let whole = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + (153 * march + 2) / 5 + day;
        let fraction = (u128::from(self.0 & 0xffff_ffff) * u128::from(MINUTE)) >> 32;
        let minutes = (whole.saturating_sub(DAYS_TO_1900) * 24 + hour) * 60 + minute;
        minutes.saturating_mul(MINUTE).saturating_add(u64::try_from(fraction).unwrap_or(0))
    }

    /// The same in seconds since 1970; 0 for what was before.
    #[must_use]
    pub fn seconds(self) -> f64 {
        Duration::from_nanos(self.nanoseconds().saturating_sub(FROM_1900_TO_1970)).as_secs_f64()
    }

    /// How far it is behind another in time: nothing when it is not older, and at least a microsecond when it is.
    #[must_use]
    pub fn behind(self, other: Self) -> Duration {
        if self >= other {
            return Duration::ZERO;
        }
        let nanoseconds = other.nanoseconds().saturating_sub(self.nanoseconds());
        Duration::from_nanos(nanoseconds).max(Duration::from_micros(1))
    }
}

/// Days from the first of March of the year 0 to the first of January 1900.
const DAYS_TO_1900: u64 = 693_901;

const FROM_1900_TO_1970: u64 = 25_567 * 86_400 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tid_is_a_time() {
        // persistent.TimeStamp.TimeStamp(2026, 11, 23, 17, 5, 31.5).raw()
        for (tid, time) in [(0x040d_3681_8666_6666, "2026-11-23 17:05:31 UTC"), (0, "1900-01-01 00:00:00 UTC")] {
            assert_eq!(Tid(tid).time(), time);
        }
    }

    #[test]
    fn the_time_of_a_transaction_is_read_from_its_identifier() {
        // As persistent's TimeStamp gives them: 2026-11-23 09:14:49.323 and 2022-03-04 13:22:30.
        let told =
            [(0x040d_34aa_d271_fb55_u64, 1_795_425_289.323_103), (0x03e6_a5c2_8000_0000, 1_646_400_150.0), (0, 0.0)];
        for (tid, seconds) in told {
            let read = Tid(tid).seconds();
            assert!((read - seconds).abs() < 0.001, "{tid:#x} is {seconds}, read as {read}");
        }
    }

    #[test]
    fn a_lag_is_counted_by_the_calendar_and_is_never_none() {
        const SECOND: u64 = 1_000_000_000;
        let tid = |(year, month, day, hour, minute): (u64, u64, u64, u64, u64)| {
            Tid(((((year * 12 + month) * 31 + day) * 24 + hour) * 60 + minute) << 32)
        };
        for (early, late, minutes) in [
            ((126, 10, 25, 23, 59), (126, 10, 26, 0, 0), 1),
            ((126, 1, 27, 0, 0), (126, 2, 0, 0, 0), 24 * 60),
            ((124, 1, 27, 0, 0), (124, 2, 0, 0, 0), 2 * 24 * 60),
            ((0, 1, 27, 0, 0), (0, 2, 0, 0, 0), 24 * 60),
            ((125, 11, 30, 23, 0), (126, 0, 0, 0, 0), 60),
            ((124, 11, 30, 23, 0), (125, 0, 0, 0, 0), 60),
        ] {
            assert_eq!(tid(early).behind(tid(late)), Duration::from_secs(minutes * 60), "{early:?} {late:?}");
            assert_eq!(tid(late).behind(tid(early)), Duration::ZERO);
        }
        assert_eq!(tid((0, 0, 0, 0, 0)).nanoseconds(), 0);
        let whole = tid((126, 0, 0, 0, 0));
        assert_eq!(Tid(whole.0 | 1 << 31).nanoseconds() - whole.nanoseconds(), 30 * SECOND);
        assert_eq!(Tid(1).behind(Tid(2)), Duration::from_micros(1), "a different transaction is never no lag");
    }

    proptest! {
        #[test]
        fn a_tid_reads_back_and_has_a_time_whatever_it_is(tid: u64, text in ".{0,20}") {
            prop_assert_eq!(Tid::parse(&Tid(tid).to_string()), Some(Tid(tid)));
            prop_assert!(Tid(tid).time().ends_with(" UTC"));
            let _ = (Tid::parse(&text), Tid(tid).seconds(), Tid(tid).behind(Tid(u64::MAX)));
        }
    }
}
