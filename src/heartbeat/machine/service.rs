//! How the members' services look from here: the last few end-to-end probes of each.

use super::lease::At;
use super::message::Service;

/// The probes of one member's service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Probes {
    /// The last sixteen, the newest in the lowest bit; 1: failed.
    failed: u16,
    /// How many there were, up to sixteen.
    count: u8,
    /// When it last answered.
    pub(super) good_at: Option<At>,
    /// When it was last asked.
    asked_at: Option<At>,
}

impl Probes {
    /// A probe ended.
    pub(super) fn learn(&mut self, good: bool, now: At) {
        self.failed = (self.failed << 1) | u16::from(!good);
        self.count = (self.count + 1).min(16);
        self.asked_at = Some(now);
        if good {
            self.good_at = Some(now);
        }
    }

    /// Begins anew: somebody else serves, or the service was started again.
    pub(super) fn restart(&mut self) {
        *self = Self { good_at: self.good_at, ..Self::default() };
    }

    /// Whether it answered within `span`.
    pub(super) fn good_within(&self, span: At, now: At) -> bool {
        self.good_at.is_some_and(|at| now.saturating_sub(at) < span)
    }

    /// Sick is who failed `failed` of the last `window` probes; nobody is after fewer probes than that.
    pub(super) fn verdict(&self, failed: u8, window: u8) -> Service {
        let looked = self.count.min(window);
        let mask = if looked >= 16 { u16::MAX } else { (1 << looked) - 1 };
        let bad = (self.failed & mask).count_ones();
        match () {
            () if bad >= u32::from(failed) => Service::Sick,
            () if self.count > 0 && bad < u32::from(looked) => Service::Good,
            () => Service::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Service::*;

    #[test]
    fn sick_is_who_failed_often_enough_of_the_last_few() {
        for (probes, expected) in [
            (&[][..], Unknown),
            (&[true], Good),
            (&[false], Unknown),
            (&[false, false], Unknown),
            (&[false, false, false], Sick),
            (&[false, true, false, false], Sick),
            (&[false, false, true, true], Good),
            (&[false, false, false, true, true], Good),
            (&[true, false, true, false], Good),
        ] {
            let mut seen = Probes::default();
            for (at, good) in (0..).zip(probes) {
                seen.learn(*good, at);
            }
            assert_eq!(seen.verdict(3, 4), expected, "{probes:?}");
        }
    }

    #[test]
    fn a_full_window_of_sixteen_is_counted_whole() {
        let mut seen = Probes::default();
        (0..40).for_each(|at| seen.learn(false, at));
        assert_eq!(seen.verdict(16, 16), Sick);
    }
}
