//! Endpoints that are given by a name: every address that the name has is one, for as long as it has it.
//!
//! 1. What a name last meant holds until it means something else: a name server that fails takes no endpoint away.
//! 2. An address is an endpoint once, whatever names lead to it.

use crate::units::OriginAddr;
use crate::units::SetName;
use crate::upstream::SetPlan;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

/// The most addresses of a name that count.
pub const ADDRESSES_MAX: usize = 64;

/// The shortest and the longest time between two look-ups, whatever the name server says.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// An endpoint at its place in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The set.
    pub set: SetName,
    /// Its address.
    pub addr: OriginAddr,
    /// Its share of the load.
    pub weight: u32,
    /// Used only while no other is open.
    pub backup: bool,
    /// The name that led to it.
    pub name: Option<OriginAddr>,
}

/// All endpoints of these sets, with what the names in them mean at present.
#[must_use]
pub fn expand(sets: &[SetPlan], known: &BTreeMap<OriginAddr, Vec<OriginAddr>>) -> Vec<Placed> {
    let mut all = Vec::new();
    for set in sets {
        let mut seen = BTreeSet::new();
        for server in &set.servers {
            let place = |addr: &OriginAddr, name| Placed {
                set: set.name.clone(),
                addr: addr.clone(),
                weight: server.weight,
                backup: server.backup,
                name,
            };
            if !server.by_name {
                all.extend(seen.insert(server.addr.clone()).then(|| place(&server.addr, None)));
                continue;
            }
            for addr in known.get(&server.addr).into_iter().flatten() {
                all.extend(seen.insert(addr.clone()).then(|| place(addr, Some(server.addr.clone()))));
            }
        }
    }
    all
}

/// The endpoints that `name` means when it has these addresses; always in one order.
#[must_use]
pub fn endpoints(name: &OriginAddr, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<OriginAddr> {
    let addresses: BTreeSet<IpAddr> = addresses.into_iter().map(|address| address.to_canonical()).collect();
    addresses.into_iter().take(ADDRESSES_MAX).map(|address| name.at(address)).collect()
}

/// Why a look-up gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No name server gave an answer of use.
    Failed,
    /// None answered in time.
    Timeout,
    /// There is no such name, or it has no address.
    Absent,
}

impl Failure {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Absent => "absent",
        }
    }
}

/// What looking a name up has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    failing: Option<Failing>,
    answers: u64,
    failures: BTreeMap<Failure, u64>,
}

/// A name that has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Instant,
    /// Why.
    pub why: Failure,
    /// What was said last.
    pub error: String,
}

/// What an operator has not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It fails.
    Fails,
    /// It fails for another reason than before.
    FailsOtherwise,
    /// It answers again, after so long.
    Answers(Duration),
}

impl Lookups {
    /// A look-up gave addresses.
    pub fn answered(&mut self, now: Instant) -> Option<News> {
        self.answers += 1;
        let failing = self.failing.take()?;
        Some(News::Answers(now.saturating_duration_since(failing.since)))
    }

    /// A look-up gave none.
    pub fn failed(&mut self, why: Failure, error: String, now: Instant) -> Option<News> {
        *self.failures.entry(why).or_default() += 1;
        let before = self.failing.take();
        let news = match &before {
            None => Some(News::Fails),
            Some(before) => (before.why != why).then_some(News::FailsOtherwise),
        };
        self.failing = Some(Failing { since: before.map_or(now, |before| before.since), why, error });
        news
    }

    /// Why it has no answer, if the last look-up failed.
    #[must_use]
    pub fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Whether the last look-up gave addresses; nothing before the first has ended.
    #[must_use]
    pub fn answers(&self) -> Option<bool> {
        (self.failing.is_some() || self.answers > 0).then_some(self.failing.is_none())
    }

    /// How often each result was seen.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let failures = self.failures.iter().map(|(why, count)| (why.as_str(), *count));
        std::iter::once(("ok", self.answers)).chain(failures).collect()
    }
}

/// When to look again: by the answer's lifetime, or soon after so many failures in a row.
#[must_use]
pub fn pause(lifetime: Option<Duration>, failures: u32) -> Duration {
    let (least, most) = PAUSES;
    match lifetime {
        Some(lifetime) => lifetime.clamp(least, most),
        None => (least * 2_u32.saturating_pow(failures.min(5))).min(Duration::from_secs(30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::ServerPlan;

    fn addr(text: &str) -> OriginAddr {
        OriginAddr::parse(text).unwrap()
    }

    #[test]
    fn every_address_of_a_name_is_an_endpoint_and_each_address_is_one_once() {
        let name = addr("zope.internal:8080");
        let server = |addr: OriginAddr, by_name| ServerPlan { addr, weight: 3, backup: false, by_name };
        let set = SetPlan {
            name: SetName::parse("main").unwrap(),
            servers: vec![server(addr("10.0.0.2:8080"), false), server(name.clone(), true)],
        };
        let shown = |known: &BTreeMap<OriginAddr, Vec<OriginAddr>>| {
            let placed = expand(std::slice::from_ref(&set), known);
            placed.into_iter().map(|one| (one.addr.to_string(), one.name.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(shown(&BTreeMap::new()), [("10.0.0.2:8080".to_owned(), false)], "nothing is known of the name yet");
        let addresses = ["10.0.0.3", "::1", "10.0.0.2", "10.0.0.3", "::ffff:10.0.0.1"];
        let found = endpoints(&name, addresses.map(|text| text.parse().unwrap()));
        let known = BTreeMap::from([(name, found)]);
        let expected =
            [("10.0.0.2:8080", false), ("10.0.0.1:8080", true), ("10.0.0.3:8080", true), ("[::1]:8080", true)];
        assert_eq!(shown(&known), expected.map(|(addr, by_name)| (addr.to_owned(), by_name)));
    }

    #[test]
    fn a_name_of_ever_so_many_addresses_is_bounded() {
        let many = (0..1000_u32).map(|at| IpAddr::from(at.to_be_bytes()));
        assert_eq!(endpoints(&addr("a:1"), many).len(), ADDRESSES_MAX);
    }

    #[test]
    fn what_becomes_of_a_name_is_news_only_when_it_changes() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut name = Lookups::default();
        assert_eq!((name.answers(), name.answered(at(0)), name.answers()), (None, None, Some(true)));
        let steps = [
            (10, Failure::Failed, Some(News::Fails)),
            (11, Failure::Failed, None),
            (12, Failure::Absent, Some(News::FailsOtherwise)),
            (13, Failure::Absent, None),
        ];
        for (second, why, news) in steps {
            assert_eq!(name.failed(why, format!("said at {second}"), at(second)), news, "{second}");
        }
        let failing = name.failing().expect("it fails");
        assert_eq!((failing.since, failing.error.as_str()), (at(10), "said at 13"));
        assert_eq!(name.answers(), Some(false));
        assert_eq!(name.answered(at(15)), Some(News::Answers(Duration::from_secs(5))));
        assert_eq!(name.failing(), None);
        assert_eq!(name.answered(at(16)), None);
        assert_eq!(name.counts(), [("ok", 3), ("failed", 2), ("absent", 2)]);
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_answer_has_expired() {
        let seconds = Duration::from_secs;
        for (lifetime, failures, expected) in
            [(Some(0), 0, 1), (Some(60), 0, 60), (Some(86_400), 0, 300), (None, 1, 2), (None, 3, 8), (None, 99, 30)]
        {
            assert_eq!(pause(lifetime.map(seconds), failures), seconds(expected), "{lifetime:?} {failures}");
        }
    }
}
