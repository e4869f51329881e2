//! How a row of the table becomes text: the only place that speaks to prometheus-client's encoder.

use crate::telemetry::access::Told;
use crate::telemetry::metrics::Book;
use crate::telemetry::metrics::DiskFacts;
use crate::telemetry::metrics::NameFacts;
use crate::telemetry::metrics::Tier;
use crate::telemetry::metrics::ZeoFacts;
use crate::telemetry::metrics::cells::Distribution;
use crate::telemetry::metrics::cells::Words;
use crate::telemetry::metrics::cells::lock;
use crate::telemetry::metrics::site::SiteMetrics;
use crate::telemetry::metrics::table::TABLE;
use crate::telemetry::metrics::upstream::EndpointMetrics;
use crate::telemetry::metrics::upstream::UpstreamMetrics;
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// One row of the table.
pub(super) struct Row {
    /// The name as it is shown, with the ending `_total` of a counter.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels, in the order in which `write` gives the values.
    pub labels: &'static [&'static str],
    /// What it means. The registry adds the full stop.
    pub help: &'static str,
    /// Gives the values.
    pub write: fn(&Book, &mut Out<'_>) -> fmt::Result,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A registry with a metric for each row, that reads from `book`.
pub(super) fn registry(book: &Arc<Book>) -> Registry {
    let mut registry = Registry::default();
    for row in TABLE.iter().copied().flatten() {
        // The encoder puts the ending back.
        let name = row.name.strip_suffix("_total").unwrap_or(row.name);
        registry.register(name, row.help, Bound { row, book: Arc::clone(book) });
    }
    registry
}

/// A row and the book that it reads.
struct Bound {
    row: &'static Row,
    book: Arc<Book>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row.name)
    }
}

impl EncodeMetric for Bound {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        (self.row.write)(&self.book, &mut Out { encoder, names: self.row.labels })
    }

    fn metric_type(&self) -> MetricType {
        match self.row.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

/// Where a row's values go. Label values come in the order of the row's label names.
pub(super) struct Out<'a> {
    encoder: MetricEncoder<'a>,
    names: &'static [&'static str],
}

impl Out<'_> {
    pub fn counter(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.labelled(labels, |encoder| encoder.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    pub fn counter_f64(&mut self, value: f64) -> fmt::Result {
        self.labelled(&[], |encoder| encoder.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    pub fn gauge(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.labelled(labels, |encoder| encoder.encode_gauge(&value))
    }

    pub fn gauge_f64(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.labelled(labels, |encoder| encoder.encode_gauge(&value))
    }

    /// A value that the system may not tell.
    pub fn known(&mut self, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.gauge(&[], value))
    }

    pub fn histogram(&mut self, labels: &[&str], seen: &Distribution) -> fmt::Result {
        self.labelled(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(seen.seconds(), seen.count(), &seen.buckets(), None)
        })
    }

    /// A histogram, unless nothing was seen yet.
    pub fn seen(&mut self, labels: &[&str], seen: &Distribution) -> fmt::Result {
        if seen.count() == 0 { Ok(()) } else { self.histogram(labels, seen) }
    }

    pub fn words(&mut self, words: &Words<&'static str>) -> fmt::Result {
        words.value().iter().try_for_each(|(word, count)| self.counter(&[word], *count))
    }

    pub fn per_site(&mut self, book: &Book, value: impl Fn(&SiteMetrics) -> u64) -> fmt::Result {
        book.sites.all().iter().try_for_each(|(name, site)| self.counter(&[name.as_str()], value(site)))
    }

    pub fn per_site_words(&mut self, book: &Book, words: impl Fn(&SiteMetrics) -> &Words<&'static str>) -> fmt::Result {
        for (name, site) in book.sites.all() {
            for (word, count) in words(&site).value() {
                self.counter(&[name.as_str(), word], count)?;
            }
        }
        Ok(())
    }

    pub fn per_upstream_words(
        &mut self,
        book: &Book,
        words: impl Fn(&UpstreamMetrics) -> &Words<&'static str>,
    ) -> fmt::Result {
        for (name, upstream) in book.upstreams.all() {
            for (word, count) in words(&upstream).value() {
                self.counter(&[name.as_str(), word], count)?;
            }
        }
        Ok(())
    }

    pub fn per_upstream_seen(&mut self, book: &Book, seen: impl Fn(&UpstreamMetrics) -> Distribution) -> fmt::Result {
        book.upstreams.all().iter().try_for_each(|(name, upstream)| self.seen(&[name.as_str()], &seen(upstream)))
    }

    /// A gauge of each endpoint that is in use.
    pub fn per_endpoint(&mut self, book: &Book, value: impl Fn(&EndpointMetrics) -> u64) -> fmt::Result {
        for ((upstream, set, addr), endpoint) in book.endpoints.in_use() {
            self.gauge(&[upstream.as_str(), set.as_str(), &addr.to_string()], value(&endpoint))?;
        }
        Ok(())
    }

    /// Something of each name among the endpoints of each upstream in use; it gets the labels of both.
    pub fn per_name(
        &mut self,
        book: &Book,
        write: impl Fn(&mut Self, &[&str; 2], &NameFacts) -> fmt::Result,
    ) -> fmt::Result {
        for (upstream, counters) in book.upstreams.in_use() {
            let names = lock(&counters.names).clone();
            names.iter().try_for_each(|name| write(self, &[upstream.as_str(), &name.name], name))?;
        }
        Ok(())
    }

    pub fn gauges_of_zeo(&mut self, book: &Book, value: impl Fn(&ZeoFacts) -> u64) -> fmt::Result {
        let servers = lock(&book.zeo).clone();
        let told = servers.iter().filter_map(|(server, facts)| Some((server, facts.as_ref()?)));
        told.into_iter().try_for_each(|(server, facts)| self.gauge(&[server], value(facts)))
    }

    pub fn counters_of_zeo(&mut self, book: &Book, value: impl Fn(&ZeoFacts) -> u64) -> fmt::Result {
        let servers = lock(&book.zeo).clone();
        let told = servers.iter().filter_map(|(server, facts)| Some((server, facts.as_ref()?)));
        told.into_iter().try_for_each(|(server, facts)| self.counter(&[server], value(facts)))
    }

    pub fn per_tier(&mut self, book: &Book, value: impl Fn(&Tier) -> u64) -> fmt::Result {
        let tiers = lock(&book.tiers).clone();
        tiers.iter().try_for_each(|tier| self.gauge(&[tier.name], value(tier)))
    }

    pub fn counter_per_tier(&mut self, book: &Book, value: impl Fn(&Tier) -> u64) -> fmt::Result {
        let tiers = lock(&book.tiers).clone();
        tiers.iter().try_for_each(|tier| self.counter(&[tier.name], value(tier)))
    }

    pub fn disk_gauge(&mut self, book: &Book, value: impl Fn(&DiskFacts) -> u64) -> fmt::Result {
        let facts = lock(&book.disk).clone();
        facts.map_or(Ok(()), |facts| self.gauge(&[], value(&facts)))
    }

    pub fn disk_counter(&mut self, book: &Book, value: impl Fn(&DiskFacts) -> u64) -> fmt::Result {
        let facts = lock(&book.disk).clone();
        facts.map_or(Ok(()), |facts| self.counter(&[], value(&facts)))
    }

    pub fn told(&mut self, book: &Book, value: impl Fn(&Told) -> u64) -> fmt::Result {
        let log = lock(&book.access).clone();
        log.map_or(Ok(()), |log| self.counter(&[], value(&log.told())))
    }

    pub fn told_of_diary(&mut self, book: &Book, value: impl Fn(&Told) -> u64) -> fmt::Result {
        let diary = lock(&book.diary).clone();
        self.counter(&[], value(&diary.map(|diary| diary.told()).unwrap_or_default()))
    }

    fn labelled(&mut self, values: &[&str], write: impl Fn(&mut MetricEncoder<'_>) -> fmt::Result) -> fmt::Result {
        if self.names.is_empty() {
            return write(&mut self.encoder);
        }
        let labels: Vec<(&str, &str)> = self.names.iter().copied().zip(values.iter().copied()).collect();
        write(&mut self.encoder.encode_family(&labels)?)
    }
}

/// Seconds since 1970, zero for what was before.
pub(super) fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
