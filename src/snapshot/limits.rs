//! Rate limits as sites use them: whose requests count together, which count at all, and what happens to those over it.

use crate::admission::acl::Networks;
use crate::admission::rate::Key;
use crate::admission::rate::Prefix;
use crate::admission::rate::Quotas;
use crate::admission::rate::RateLimit;
use crate::config::Config;
use crate::config::check::BUILT_IN_LIMIT;
use crate::config::check::SCALES_LIMIT;
use crate::config::settings;
use crate::config::values::Cost;
use crate::config::values::LimitKey;
use crate::config::values::Over;
use crate::config::values::Rate;
use crate::config::values::Switchable;
use crate::semantics::cookie;
use crate::semantics::pattern::Pattern;
use crate::snapshot::House;
use crate::telemetry::metrics::Decision;
use crate::telemetry::metrics::LimitMetrics;
use crate::units::ClientAddr;
use crate::units::LimitName;
use crate::units::SiteName;
use http::HeaderMap;
use http::Method;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

/// Who has no cookie to be told by counts by his network.
const WITHOUT_COOKIE: Prefix = Prefix { v4_bits: 32, v6_bits: 56 };

/// A rate limit with its counters.
pub struct Limit {
    /// Its name.
    pub name: LimitName,
    /// Its buckets; none when it is off.
    buckets: Option<Arc<RateLimit>>,
    key: LimitKey,
    per_site: bool,
    cost: Cost,
    paths: Vec<Pattern>,
    methods: Vec<String>,
    exempt: Networks,
    over: Over,
    dry_run: bool,
    metrics: Arc<LimitMetrics>,
}

/// A request, as limits see it.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Of which site.
    pub site: &'a SiteName,
    /// Who asks.
    pub client: ClientAddr,
    /// How.
    pub method: &'a Method,
    /// For what, as visitors write it.
    pub path: &'a str,
    /// The rest of what he says.
    pub headers: &'a HeaderMap,
}

/// What limits say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It may go on.
    Go,
    /// It may go on, but leaves the queue last.
    Last,
    /// It may come again after that time, and whether its connection is closed.
    Stop {
        /// When.
        retry_after: Duration,
        /// Whether this connection is of no use any more.
        close: bool,
    },
}

/// A bucket to which a request's cost is charged when it is known.
#[derive(Clone)]
pub struct Meter {
    buckets: Arc<RateLimit>,
    key: Key,
}

impl Meter {
    /// The request took that time of an origin.
    pub fn charge(&self, took: Duration) {
        self.buckets.charge(self.key, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }
}

impl Limit {
    /// Takes one request.
    #[must_use]
    pub fn check(&self, asking: Asking<'_>) -> Said {
        let Some(buckets) = self.buckets.as_ref().filter(|_| self.applies(asking)) else { return Said::Go };
        let Err(wait) = buckets.check(self.key(buckets, asking)) else {
            self.metrics.decision(Decision::Allow);
            return Said::Go;
        };
        if self.dry_run {
            self.metrics.decision(Decision::DryRun);
            return Said::Go;
        }
        if self.over == Over::QueueLast {
            self.metrics.decision(Decision::Delay);
            return Said::Last;
        }
        self.metrics.decision(Decision::Reject);
        Said::Stop { retry_after: wait.retry_after, close: self.over == Over::Close }
    }

    /// The bucket to which the request's cost is to be charged, if this limit counts that.
    #[must_use]
    pub fn meter(&self, asking: Asking<'_>) -> Option<Meter> {
        let buckets = self.buckets.as_ref().filter(|_| self.cost == Cost::OriginTime && self.applies(asking))?;
        Some(Meter { buckets: Arc::clone(buckets), key: self.key(buckets, asking) })
    }

    fn applies(&self, asking: Asking<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == asking.method.as_str()))
            && (self.paths.is_empty() || self.paths.iter().any(|path| path.matches(asking.path)))
            && !self.exempt.contains(asking.client.0)
    }

    fn key(&self, buckets: &RateLimit, asking: Asking<'_>) -> Key {
        let site = self.per_site.then_some(asking.site.as_str());
        match &self.key {
            LimitKey::Network { v4_bits, v6_bits } => {
                buckets.of_network(site, Prefix { v4_bits: *v4_bits, v6_bits: *v6_bits }, asking.client)
            }
            LimitKey::Cookie(name) => match cookie::value(asking.headers, name) {
                Some(value) => buckets.of_value(site, value),
                None => buckets.of_network(site, WITHOUT_COOKIE, asking.client),
            },
            LimitKey::All => buckets.of_value(site, b""),
        }
    }

    /// Forgets idle buckets.
    pub fn forget_idle(&self) {
        if let Some(buckets) = &self.buckets {
            self.metrics.keys(buckets.forget_idle());
        }
    }
}

/// What all of `limits` say together: the first that stops the request has the word.
#[must_use]
pub fn check(limits: &[Arc<Limit>], asking: Asking<'_>) -> Said {
    let mut said = Said::Go;
    for limit in limits {
        match limit.check(asking) {
            Said::Go => {}
            Said::Last => said = Said::Last,
            stop @ Said::Stop { .. } => return stop,
        }
    }
    said
}

/// The limits of `config`, with the buckets that they had as long as their numbers are the same.
pub(super) fn limits(config: &Config, house: &House) -> BTreeMap<LimitName, Arc<Limit>> {
    let mut wanted = config.limit.clone();
    if let Ok(built_in) = LimitName::parse(BUILT_IN_LIMIT) {
        wanted.entry(built_in).or_default();
    }
    if let Ok(built_in) = LimitName::parse(SCALES_LIMIT) {
        wanted.entry(built_in).or_insert_with(|| settings::Limit {
            rate: Switchable::On(Rate { count: 120, per: Duration::from_secs(60) }),
            burst: 240,
            ..settings::Limit::default()
        });
    }
    let mut known = house.limits.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|name, _| wanted.contains_key(name));
    wanted
        .into_iter()
        .map(|(name, settings)| {
            let buckets = quotas(&settings).map(|quotas| {
                let kept = known.get(&name).filter(|limit| limit.quotas() == quotas).cloned();
                let limit = kept.unwrap_or_else(|| Arc::new(RateLimit::new(quotas)));
                known.insert(name.clone(), Arc::clone(&limit));
                limit
            });
            let metrics = house.metrics.limit(&name);
            let limit = Limit {
                name: name.clone(),
                buckets,
                key: settings.key,
                per_site: settings.per_site,
                cost: settings.cost,
                paths: settings.path,
                methods: settings.method.iter().map(|method| method.to_ascii_uppercase()).collect(),
                exempt: settings.exempt.into_iter().collect(),
                over: settings.over,
                dry_run: settings.dry_run,
                metrics,
            };
            (name, Arc::new(limit))
        })
        .collect()
}

/// A unit is a request, or a millisecond of an origin: a hit is charged one of those.
fn quotas(limit: &settings::Limit) -> Option<Quotas> {
    let Switchable::On(rate) = &limit.rate else { return None };
    let units: u32 = match limit.cost {
        Cost::Request => 1,
        Cost::OriginTime => 1000,
    };
    Some(Quotas {
        period: rate.per / rate.count.max(1) / units,
        burst: limit.burst.saturating_mul(units).try_into().ok()?,
    })
}
