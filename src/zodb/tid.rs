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

    /// The same in seconds since 1970; 0 for what was before.
    #[must_use]
    pub fn seconds(self) -> f64 {
        let minutes = self.0 >> 32;
        let (minute, hours) = (minutes % 60, minutes / 60);
        let (hour, days) = (hours % 24, hours / 24);
        let (day, months) = (days % 31, days / 31);
        let (month, year) = (months % 12, months / 12 + 1900);
        // Days since 1970 of a civil date, years beginning in March so that the leap day comes last.
        let (shifted, march) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let whole = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + (153 * march + 2) / 5 + day;
        let seconds = (whole.saturating_sub(719_468) * 1440 + hour * 60 + minute) * 60;
        Duration::from_secs(seconds).as_secs_f64() + f64::from((self.0 & 0xffff_ffff) as u32) * 60.0 / 4_294_967_296.0
    }
}

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

    proptest! {
        #[test]
        fn a_tid_reads_back_and_has_a_time_whatever_it_is(tid: u64, text in ".{0,20}") {
            prop_assert_eq!(Tid::parse(&Tid(tid).to_string()), Some(Tid(tid)));
            prop_assert!(Tid(tid).time().ends_with(" UTC"));
            let _ = Tid::parse(&text);
        }
    }
}
