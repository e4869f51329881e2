//! The table of all metrics: a row for each, with its name, its labels, its meaning, and where its values come from.
//!
//! Histograms count seconds over the bounds of `cells::BOUNDS`.

use crate::telemetry::metrics::Book;
use crate::telemetry::metrics::cells::lock;
use crate::telemetry::metrics::pair::PHASES;
use crate::telemetry::metrics::pair::PairFacts;
use crate::telemetry::metrics::pair::ROLES;
use crate::telemetry::metrics::process;
use crate::telemetry::metrics::process::Process;
use crate::telemetry::metrics::sheet::Kind;
use crate::telemetry::metrics::sheet::Row;
use crate::telemetry::metrics::sheet::since_1970;
use crate::telemetry::metrics::site::SiteMetrics;
use crate::telemetry::metrics::words::CodeClass;
use crate::telemetry::metrics::words::Decision;
use crate::telemetry::metrics::words::EndpointState;
use crate::telemetry::metrics::words::Visitor;
use crate::zodb::Tid;
use std::sync::atomic::Ordering;

/// All rows.
pub(super) const TABLE: &[&[Row]] = &[HTTP, CACHE, CONNECTIONS, UPSTREAM, ZEO, PAIR, ADMISSION, HOUSE, PROCESS];

/// The classes that have a line of their own.
const QUEUED: [Visitor; 3] = [Visitor::Editor, Visitor::Anonymous, Visitor::Background];

const HTTP: &[Row] = &[
    Row {
        name: "tidegate_http_requests_total",
        kind: Kind::Counter,
        labels: &["site", "method", "code_class", "class", "protocol"],
        help: "Requests whose response has ended",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for (kind, count) in site.requests() {
                    let (method, code) = (kind.method.as_str(), kind.code.as_str());
                    let labels = [name.as_str(), method, code, kind.visitor.as_str(), kind.protocol.as_str()];
                    out.counter(&labels, count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_http_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["site", "cache"],
        help: "From the end of a request's head to the end of its response, by how the response came about",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for (class, seen) in site.durations() {
                    out.histogram(&[name.as_str(), class.as_str()], &seen)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_http_response_bytes_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Bytes of response bodies sent to clients",
        write: |book, out| out.per_site(book, SiteMetrics::sent),
    },
    Row {
        name: "tidegate_http_request_body_bytes_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Bytes of request bodies received from clients",
        write: |book, out| out.per_site(book, SiteMetrics::received),
    },
    Row {
        name: "tidegate_http_client_aborts_total",
        kind: Kind::Counter,
        labels: &["site", "phase"],
        help: "Clients that left before their response was complete",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for (phase, count) in site.aborts.value() {
                    out.counter(&[name.as_str(), phase.as_str()], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_http_refusals_total",
        kind: Kind::Counter,
        labels: &["site", "reason"],
        help: "Requests that we refused ourselves; the site is empty when none could be told",
        write: |book, out| {
            for (reason, count) in book.refusals.value() {
                out.counter(&["", reason], count)?;
            }
            out.per_site_words(book, |site| &site.refusals)
        },
    },
    Row {
        name: "tidegate_headers_stripped_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Header fields taken out of requests because no client may set them",
        write: |book, out| out.per_site(book, |site| site.stripped.value()),
    },
    Row {
        name: "tidegate_acl_denied_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Requests from networks that the site does not allow",
        write: |book, out| out.per_site(book, |site| site.denied.value()),
    },
];

const CACHE: &[Row] = &[
    Row {
        name: "tidegate_cache_requests_total",
        kind: Kind::Counter,
        labels: &["site", "status"],
        help: "Requests by what the cache had to do with them, in the words of RFC 9211",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for (word, count) in site.cache_requests() {
                    out.counter(&[name.as_str(), word.as_str()], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_cache_uncacheable_total",
        kind: Kind::Counter,
        labels: &["site", "reason"],
        help: "Responses that were not stored",
        write: |book, out| out.per_site_words(book, |site| &site.uncacheable),
    },
    Row {
        name: "tidegate_cache_revalidations_total",
        kind: Kind::Counter,
        labels: &["site", "result"],
        help: "Questions to the origin whether what is stored is still good",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for (result, count) in site.revalidations.value() {
                    out.counter(&[name.as_str(), result.as_str()], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_cache_collapsed_requests_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Requests that waited for the fetch of an equal one",
        write: |book, out| out.per_site(book, |site| site.collapsed.value()),
    },
    Row {
        name: "tidegate_cache_collapse_wait_seconds",
        kind: Kind::Histogram,
        labels: &["site"],
        help: "How long requests waited for the fetch of an equal one",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                out.seen(&[name.as_str()], &site.collapse_wait.value())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_cache_variants_overflow_total",
        kind: Kind::Counter,
        labels: &["site"],
        help: "Variants dropped because their URL had too many",
        write: |book, out| out.per_site(book, |site| site.variants_overflow.value()),
    },
    Row {
        name: "tidegate_cache_origin_rules_total",
        kind: Kind::Counter,
        labels: &["site", "rule", "result"],
        help: "Answers by the rule that Plone names in X-Cache-Rule, and whether they were stored",
        write: |book, out| {
            for (name, site) in book.sites.all() {
                for ((rule, result), count) in site.origin_rules.value() {
                    out.counter(&[name.as_str(), &rule, result], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_cache_leak_tripwire_total",
        kind: Kind::Counter,
        labels: &["site", "signal"],
        help: "Responses that called themselves public and showed signs of belonging to one user; they were not stored",
        write: |book, out| out.per_site_words(book, |site| &site.tripwire),
    },
    Row {
        name: "tidegate_cache_objects",
        kind: Kind::Gauge,
        labels: &["tier"],
        help: "URLs with stored responses",
        write: |book, out| out.per_tier(book, |tier| tier.objects),
    },
    Row {
        name: "tidegate_cache_bytes",
        kind: Kind::Gauge,
        labels: &["tier"],
        help: "Bytes that stored responses take, everything counted",
        write: |book, out| out.per_tier(book, |tier| tier.bytes),
    },
    Row {
        name: "tidegate_cache_capacity_bytes",
        kind: Kind::Gauge,
        labels: &["tier"],
        help: "Bytes that stored responses may take",
        write: |book, out| out.per_tier(book, |tier| tier.capacity),
    },
    Row {
        name: "tidegate_cache_evictions_total",
        kind: Kind::Counter,
        labels: &["tier"],
        help: "URLs evicted for want of room",
        write: |book, out| out.counter_per_tier(book, |tier| tier.evictions),
    },
    Row {
        name: "tidegate_cache_admissions_rejected_total",
        kind: Kind::Counter,
        labels: &["tier"],
        help: "URLs that were not stored because all that is stored is asked for more",
        write: |book, out| out.counter_per_tier(book, |tier| tier.refusals),
    },
    Row {
        name: "tidegate_cache_disk_up",
        kind: Kind::Gauge,
        labels: &[],
        help: "Whether the cache on disk is in use: 0 since it has failed",
        write: |book, out| out.disk_gauge(book, |disk| u64::from(disk.phase != "failed")),
    },
    Row {
        name: "tidegate_cache_disk_objects",
        kind: Kind::Gauge,
        labels: &[],
        help: "URLs that may be found on the disk",
        write: |book, out| out.disk_gauge(book, |disk| disk.entries),
    },
    Row {
        name: "tidegate_cache_disk_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of all files of the cache on disk",
        write: |book, out| out.disk_gauge(book, |disk| disk.bytes),
    },
    Row {
        name: "tidegate_cache_disk_capacity_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes that they may have",
        write: |book, out| out.disk_gauge(book, |disk| disk.capacity),
    },
    Row {
        name: "tidegate_cache_disk_reads_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Misses of memory that looked on the disk: hit, or why nothing of it was used",
        write: |book, out| {
            let facts = lock(&book.disk).clone();
            let reads = facts.map(|facts| facts.reads).unwrap_or_default();
            reads.iter().try_for_each(|(result, count)| out.counter(&[result], *count))
        },
    },
    Row {
        name: "tidegate_cache_disk_records_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Records of stored responses written to the disk",
        write: |book, out| out.disk_counter(book, |disk| disk.records),
    },
    Row {
        name: "tidegate_cache_disk_written_bytes_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Bytes written to the disk, those of purges included",
        write: |book, out| out.disk_counter(book, |disk| disk.written),
    },
    Row {
        name: "tidegate_cache_disk_waiting",
        kind: Kind::Gauge,
        labels: &[],
        help: "URLs and purges that wait to be written to the disk",
        write: |book, out| out.disk_gauge(book, |disk| disk.waiting),
    },
    Row {
        name: "tidegate_cache_disk_skipped_total",
        kind: Kind::Counter,
        labels: &[],
        help: "URLs not written to the disk because too many waited",
        write: |book, out| out.disk_counter(book, |disk| disk.skipped),
    },
    Row {
        name: "tidegate_cache_disk_errors_total",
        kind: Kind::Counter,
        labels: &[],
        help: "How often the disk failed; after the first time it is not used any more",
        write: |book, out| out.disk_counter(book, |disk| disk.errors),
    },
    Row {
        name: "tidegate_purge_requests_total",
        kind: Kind::Counter,
        labels: &["kind", "mode", "result"],
        help: "Orders to forget stored responses",
        write: |book, out| {
            let purges = book.purges.value();
            purges.iter().try_for_each(|((kind, mode, result), count)| out.counter(&[kind, mode, result], *count))
        },
    },
    Row {
        name: "tidegate_purge_objects_total",
        kind: Kind::Counter,
        labels: &[],
        help: "URLs whose stored responses were forgotten on such orders",
        write: |book, out| out.counter(&[], book.purged.value() + lock(&book.ledger).dropped),
    },
    Row {
        name: "tidegate_purge_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How long such orders took",
        write: |book, out| out.seen(&[], &book.purge_duration.value()),
    },
    Row {
        name: "tidegate_purge_log_sequence",
        kind: Kind::Gauge,
        labels: &[],
        help: "Purges by tag, place or pattern since the start",
        write: |book, out| out.gauge(&[], lock(&book.ledger).sequence),
    },
    Row {
        name: "tidegate_purge_records",
        kind: Kind::Gauge,
        labels: &["kind"],
        help: "Purges that look-ups are compared with",
        write: |book, out| {
            let ledger = *lock(&book.ledger);
            out.gauge(&["tag"], ledger.records)?;
            out.gauge(&["pattern"], ledger.patterns)
        },
    },
    Row {
        name: "tidegate_purge_overflows_total",
        kind: Kind::Counter,
        labels: &[],
        help: "How often everything was forgotten because purges came faster than they could be carried out",
        write: |book, out| out.counter(&[], lock(&book.ledger).overflows),
    },
];

const CONNECTIONS: &[Row] = &[
    Row {
        name: "tidegate_connections_current",
        kind: Kind::Gauge,
        labels: &["listener", "protocol"],
        help: "Client connections being served",
        write: |book, out| {
            for ((local, carrier), listener) in book.listeners.all() {
                out.gauge(&[&local.to_string(), carrier.as_str()], listener.current())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_connections_total",
        kind: Kind::Counter,
        labels: &["listener", "protocol"],
        help: "Client connections served",
        write: |book, out| {
            for ((local, carrier), listener) in book.listeners.all() {
                out.counter(&[&local.to_string(), carrier.as_str()], listener.opened.value())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_connections_rejected_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Client connections turned away",
        write: |book, out| out.words(&book.rejected),
    },
    Row {
        name: "tidegate_memory_limit_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory that this process may take before it sheds; 0 when that is off",
        write: |book, out| out.gauge(&[], book.memory_most.load(Ordering::Relaxed)),
    },
    Row {
        name: "tidegate_memory_pressure",
        kind: Kind::Gauge,
        labels: &[],
        help: "How short memory is: 0 enough, 1 idle connections are closed, 2 only what is stored is served",
        write: |book, out| out.gauge(&[], u64::from(book.memory_level.load(Ordering::Relaxed))),
    },
    Row {
        name: "tidegate_connection_timeouts_total",
        kind: Kind::Counter,
        labels: &["phase"],
        help: "Client connections closed because the client was too slow",
        write: |book, out| out.words(&book.timeouts),
    },
    Row {
        name: "tidegate_protocol_errors_total",
        kind: Kind::Counter,
        labels: &["kind"],
        help: "Connections on which the other side broke the protocol",
        write: |book, out| out.words(&book.protocol_errors),
    },
    Row {
        name: "tidegate_tls_handshakes_total",
        kind: Kind::Counter,
        labels: &["version", "resumed", "result"],
        help: "TLS handshakes with clients",
        write: |book, out| {
            let handshakes = book.handshakes.value();
            handshakes
                .iter()
                .try_for_each(|((version, resumed, result), count)| out.counter(&[version, resumed, result], *count))
        },
    },
    Row {
        name: "tidegate_tls_handshake_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How long TLS handshakes took that succeeded",
        write: |book, out| out.seen(&[], &book.handshake_duration.value()),
    },
    Row {
        name: "tidegate_acme_orders_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Certificates that were ordered from an authority",
        write: |book, out| out.words(&book.acme_orders),
    },
    Row {
        name: "tidegate_tls_certificate_not_after_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["certificate"],
        help: "When the certificate ends, in seconds since 1970",
        write: |book, out| {
            let certificates = lock(&book.certificates).clone();
            certificates.iter().try_for_each(|(name, until)| out.gauge_f64(&[name], since_1970(*until)))
        },
    },
];

const UPSTREAM: &[Row] = &[
    Row {
        name: "tidegate_upstream_requests_total",
        kind: Kind::Counter,
        labels: &["upstream", "set", "backend", "code_class"],
        help: "Responses of endpoints",
        write: |book, out| {
            for ((upstream, set, addr), endpoint) in book.endpoints.all() {
                let addr = addr.to_string();
                for (code, count) in CodeClass::ALL.iter().zip(&endpoint.responses) {
                    if count.value() > 0 {
                        let labels = [upstream.as_str(), set.as_str(), &addr, code.as_str()];
                        out.counter(&labels, count.value())?;
                    }
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_duration_seconds",
        kind: Kind::Histogram,
        labels: &["upstream"],
        help: "From the sending of a request to the end of its response, without the queue",
        write: |book, out| out.per_upstream_seen(book, |upstream| upstream.duration.value()),
    },
    Row {
        name: "tidegate_upstream_first_byte_seconds",
        kind: Kind::Histogram,
        labels: &["upstream"],
        help: "From the sending of a request to the head of its response",
        write: |book, out| out.per_upstream_seen(book, |upstream| upstream.first_byte.value()),
    },
    Row {
        name: "tidegate_upstream_connect_seconds",
        kind: Kind::Histogram,
        labels: &["upstream"],
        help: "How long it took to connect",
        write: |book, out| out.per_upstream_seen(book, |upstream| upstream.connect.value()),
    },
    Row {
        name: "tidegate_upstream_errors_total",
        kind: Kind::Counter,
        labels: &["upstream", "reason"],
        help: "Requests that got no usable response",
        write: |book, out| out.per_upstream_words(book, |upstream| &upstream.errors),
    },
    Row {
        name: "tidegate_upstream_retries_total",
        kind: Kind::Counter,
        labels: &["upstream", "reason"],
        help: "Requests that were sent again",
        write: |book, out| out.per_upstream_words(book, |upstream| &upstream.retries),
    },
    Row {
        name: "tidegate_upstream_retry_budget_exhausted_total",
        kind: Kind::Counter,
        labels: &["upstream"],
        help: "Requests that were not sent again because too many had been",
        write: |book, out| {
            for (name, upstream) in book.upstreams.all() {
                out.counter(&[name.as_str()], upstream.retry_budget_exhausted.value())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_in_flight",
        kind: Kind::Gauge,
        labels: &["upstream", "set", "backend"],
        help: "Requests that are with the endpoint now",
        write: |book, out| out.per_endpoint(book, |endpoint| endpoint.in_flight.value()),
    },
    Row {
        name: "tidegate_upstream_limit",
        kind: Kind::Gauge,
        labels: &["upstream", "set", "backend"],
        help: "Requests that may be with the endpoint at a time",
        write: |book, out| out.per_endpoint(book, |endpoint| endpoint.limit.value()),
    },
    Row {
        name: "tidegate_upstream_state",
        kind: Kind::Gauge,
        labels: &["upstream", "set", "backend", "state"],
        help: "1 for the state that the endpoint is in",
        write: |book, out| {
            for ((upstream, set, addr), endpoint) in book.endpoints.in_use() {
                let Some(now) = *lock(&endpoint.state) else { continue };
                let addr = addr.to_string();
                for state in EndpointState::ALL {
                    let labels = [upstream.as_str(), set.as_str(), &addr, state.as_str()];
                    out.gauge(&labels, u64::from(*state == now))?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_state_changes_total",
        kind: Kind::Counter,
        labels: &["upstream", "set", "backend", "state"],
        help: "How often the endpoint came into the state",
        write: |book, out| {
            for ((upstream, set, addr), endpoint) in book.endpoints.all() {
                let addr = addr.to_string();
                for (state, count) in endpoint.changes.value() {
                    out.counter(&[upstream.as_str(), set.as_str(), &addr, state.as_str()], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_checks_total",
        kind: Kind::Counter,
        labels: &["upstream", "set", "backend", "result"],
        help: "Health checks of the endpoint",
        write: |book, out| {
            for ((upstream, set, addr), endpoint) in book.endpoints.all() {
                let addr = addr.to_string();
                for (result, count) in endpoint.checks.value() {
                    out.counter(&[upstream.as_str(), set.as_str(), &addr, result], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_check_duration_seconds",
        kind: Kind::Histogram,
        labels: &["upstream", "set", "backend"],
        help: "How long health checks of the endpoint took",
        write: |book, out| {
            for ((upstream, set, addr), endpoint) in book.endpoints.all() {
                let labels = [upstream.as_str(), set.as_str(), &addr.to_string()];
                out.seen(&labels, &endpoint.check_duration.value())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_active_set",
        kind: Kind::Gauge,
        labels: &["upstream", "set"],
        help: "1 for the set that serves",
        write: |book, out| {
            for (name, upstream) in book.upstreams.in_use() {
                let (known, active) = {
                    let sets = lock(&upstream.sets);
                    (sets.known.clone(), sets.active.clone())
                };
                for set in known {
                    let serves = u64::from(active.as_ref() == Some(&set));
                    out.gauge(&[name.as_str(), set.as_str()], serves)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_set_switches_total",
        kind: Kind::Counter,
        labels: &["upstream", "set", "cause"],
        help: "How often the set began to serve in place of another",
        write: |book, out| {
            for (name, upstream) in book.upstreams.all() {
                let switches = lock(&upstream.sets).switches.clone();
                for ((set, cause), count) in switches {
                    out.counter(&[name.as_str(), set.as_str(), cause.as_str()], count)?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_upstream_name_up",
        kind: Kind::Gauge,
        labels: &["upstream", "name"],
        help: "Whether the last look-up of an endpoint's name gave addresses",
        write: |book, out| {
            out.per_name(book, |out, labels, name| name.up.map_or(Ok(()), |up| out.gauge(labels, u64::from(up))))
        },
    },
    Row {
        name: "tidegate_upstream_name_failing_seconds",
        kind: Kind::Gauge,
        labels: &["upstream", "name"],
        help: "How long look-ups of an endpoint's name have failed; 0 while they give addresses",
        write: |book, out| {
            out.per_name(book, |out, labels, name| {
                out.gauge_f64(labels, name.failing.map_or(0.0, |failing| failing.as_secs_f64()))
            })
        },
    },
    Row {
        name: "tidegate_upstream_name_addresses",
        kind: Kind::Gauge,
        labels: &["upstream", "name"],
        help: "Addresses that are in use for an endpoint's name",
        write: |book, out| {
            out.per_name(book, |out, labels, name| out.gauge(labels, u64::try_from(name.addresses).unwrap_or(u64::MAX)))
        },
    },
    Row {
        name: "tidegate_upstream_name_lookups_total",
        kind: Kind::Counter,
        labels: &["upstream", "name", "result"],
        help: "Look-ups of an endpoint's name",
        write: |book, out| {
            out.per_name(book, |out, labels, name| {
                name.lookups.iter().try_for_each(|(result, count)| out.counter(&[labels[0], labels[1], result], *count))
            })
        },
    },
    Row {
        name: "tidegate_queue_length",
        kind: Kind::Gauge,
        labels: &["upstream", "class"],
        help: "Requests that wait for an endpoint",
        write: |book, out| {
            for (name, upstream) in book.upstreams.in_use() {
                for class in QUEUED {
                    out.gauge(&[name.as_str(), class.as_str()], upstream.queue_length[class.index()].value())?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_hold_requests",
        kind: Kind::Gauge,
        labels: &["upstream"],
        help: "Requests that wait because the upstream is held",
        write: |book, out| {
            for (name, upstream) in book.upstreams.in_use() {
                out.gauge(&[name.as_str()], upstream.held.value())?;
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_hold_active",
        kind: Kind::Gauge,
        labels: &["upstream", "reason"],
        help: "Whether the upstream is held for this reason",
        write: |book, out| {
            for (name, upstream) in book.upstreams.in_use() {
                let reasons = lock(&upstream.holds).clone();
                for reason in ["operator", "storage", "takeover"] {
                    out.gauge(&[name.as_str(), reason], u64::from(reasons.contains(&reason)))?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_hold_seconds",
        kind: Kind::Histogram,
        labels: &["upstream"],
        help: "How long requests waited that came while nothing was sent",
        write: |book, out| out.per_upstream_seen(book, |upstream| upstream.hold_time.value()),
    },
    Row {
        name: "tidegate_hold_released_total",
        kind: Kind::Counter,
        labels: &["upstream", "result"],
        help: "What requests got in the end that came while nothing was sent",
        write: |book, out| out.per_upstream_words(book, |upstream| &upstream.hold_released),
    },
    Row {
        name: "tidegate_queue_wait_seconds",
        kind: Kind::Histogram,
        labels: &["upstream", "class"],
        help: "How long requests waited that got an endpoint",
        write: |book, out| {
            for (name, upstream) in book.upstreams.all() {
                for class in QUEUED {
                    out.seen(&[name.as_str(), class.as_str()], &upstream.queue_wait[class.index()].value())?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_queue_rejected_total",
        kind: Kind::Counter,
        labels: &["upstream", "reason"],
        help: "Requests that got no endpoint",
        write: |book, out| out.per_upstream_words(book, |upstream| &upstream.queue_rejected),
    },
];

const ZEO: &[Row] = &[
    Row {
        name: "tidegate_zeo_up",
        kind: Kind::Gauge,
        labels: &["server"],
        help: "Whether the ZEO server answers and takes writes",
        write: |book, out| {
            let servers = lock(&book.zeo).clone();
            servers.iter().try_for_each(|(server, facts)| {
                out.gauge(&[server], u64::from(facts.is_some_and(|facts| facts.writable)))
            })
        },
    },
    Row {
        name: "tidegate_zeo_clients",
        kind: Kind::Gauge,
        labels: &["server"],
        help: "Clients of the ZEO server",
        write: |book, out| out.gauges_of_zeo(book, |facts| facts.clients),
    },
    Row {
        name: "tidegate_zeo_waiting",
        kind: Kind::Gauge,
        labels: &["server"],
        help: "Clients that wait for the ZEO server's commit lock",
        write: |book, out| out.gauges_of_zeo(book, |facts| facts.waiting),
    },
    Row {
        name: "tidegate_zeo_commit_wait_seconds",
        kind: Kind::Gauge,
        labels: &["server"],
        help: "How long clients of the ZEO server have been seen to wait for the same commit",
        write: |book, out| {
            let servers = lock(&book.zeo).clone();
            let told = servers.iter().filter_map(|(server, facts)| Some((server, (*facts)?)));
            told.into_iter().try_for_each(|(server, facts)| out.gauge_f64(&[server], facts.commit_wait.as_secs_f64()))
        },
    },
    Row {
        name: "tidegate_zeo_commits_total",
        kind: Kind::Counter,
        labels: &["server"],
        help: "Transactions committed since the ZEO server's start",
        write: |book, out| out.counters_of_zeo(book, |facts| facts.commits),
    },
    Row {
        name: "tidegate_zeo_conflicts_total",
        kind: Kind::Counter,
        labels: &["server"],
        help: "Write conflicts since the ZEO server's start",
        write: |book, out| out.counters_of_zeo(book, |facts| facts.conflicts),
    },
    Row {
        name: "tidegate_zeo_last_transaction_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["server"],
        help: "When the ZEO server's last transaction was, in seconds since 1970",
        write: |book, out| {
            let servers = lock(&book.zeo).clone();
            let told = servers.iter().filter_map(|(server, facts)| Some((server, (*facts)?)));
            told.into_iter().try_for_each(|(server, facts)| out.gauge_f64(&[server], Tid(facts.last_tid).seconds()))
        },
    },
];

const PAIR: &[Row] = &[
    Row {
        name: "tidegate_heartbeat_state",
        kind: Kind::Gauge,
        labels: &["role"],
        help: "1 for what this node of the storage pair does",
        write: |book, out| {
            of_pair(book, |pair| ROLES.iter().try_for_each(|role| out.gauge(&[role], u64::from(*role == pair.role))))
        },
    },
    Row {
        name: "tidegate_heartbeat_phase",
        kind: Kind::Gauge,
        labels: &["phase"],
        help: "1 for what edges do about the storage pair",
        write: |book, out| {
            of_pair(book, |pair| {
                PHASES.iter().try_for_each(|phase| out.gauge(&[phase], u64::from(*phase == pair.phase)))
            })
        },
    },
    Row {
        name: "tidegate_heartbeat_epoch",
        kind: Kind::Gauge,
        labels: &[],
        help: "The highest epoch of the storage pair",
        write: |book, out| of_pair(book, |pair| out.gauge(&[], pair.epoch)),
    },
    Row {
        name: "tidegate_heartbeat_refused",
        kind: Kind::Gauge,
        labels: &["reason"],
        help: "1 while no member serves and none takes over by itself, for this reason",
        write: |book, out| of_pair(book, |pair| pair.refused.map_or(Ok(()), |reason| out.gauge(&[reason], 1))),
    },
    Row {
        name: "tidegate_heartbeat_peer_last_seen_seconds",
        kind: Kind::Gauge,
        labels: &["peer", "link"],
        help: "Since the other voter was last heard on this link",
        write: |book, out| {
            of_pair(book, |pair| {
                let mut seen = pair.seen.iter();
                seen.try_for_each(|(peer, link, ago)| out.gauge_f64(&[peer, &(link + 1).to_string()], *ago))
            })
        },
    },
    Row {
        name: "tidegate_heartbeat_late_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Heartbeats that came later than `timing.warn`",
        write: |book, out| of_pair(book, |pair| out.counter(&[], pair.late)),
    },
    Row {
        name: "tidegate_heartbeat_maintenance",
        kind: Kind::Gauge,
        labels: &[],
        help: "Whether the pair is in maintenance: nothing is done by itself",
        write: |book, out| of_pair(book, |pair| out.gauge(&[], u64::from(pair.maintenance))),
    },
    Row {
        name: "tidegate_heartbeat_stalls_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Times that this node stood still for longer than a heartbeat",
        write: |book, out| of_pair(book, |pair| out.counter(&[], pair.stalls)),
    },
    Row {
        name: "tidegate_heartbeat_takeovers_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Takeovers by this node",
        write: |book, out| of_pair(book, |pair| out.counter(&[], pair.takeovers)),
    },
    Row {
        name: "tidegate_heartbeat_fencing_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "Attempts to put the other member off",
        write: |book, out| {
            of_pair(book, |pair| pair.fencing.iter().try_for_each(|(result, count)| out.counter(&[result], *count)))
        },
    },
    Row {
        name: "tidegate_heartbeat_datagrams_rejected_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Datagrams that were dropped",
        write: |book, out| {
            of_pair(book, |pair| pair.rejected.iter().try_for_each(|(reason, count)| out.counter(&[reason], *count)))
        },
    },
    Row {
        name: "tidegate_heartbeat_address_conflicts_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Claims of another machine to the service address",
        write: |book, out| of_pair(book, |pair| out.counter(&[], pair.conflicts)),
    },
];

/// Nothing is shown where there is no pair.
fn of_pair(book: &Book, mut write: impl FnMut(&PairFacts) -> std::fmt::Result) -> std::fmt::Result {
    let facts = lock(&book.pair).clone();
    facts.map_or(Ok(()), |facts| write(&facts))
}

const ADMISSION: &[Row] = &[
    Row {
        name: "tidegate_limit_decisions_total",
        kind: Kind::Counter,
        labels: &["limit", "decision"],
        help: "What the limit said to requests",
        write: |book, out| {
            for (name, limit) in book.limits.all() {
                for decision in Decision::ALL {
                    out.counter(&[name.as_str(), decision.as_str()], limit.decided(*decision))?;
                }
            }
            Ok(())
        },
    },
    Row {
        name: "tidegate_limit_keys",
        kind: Kind::Gauge,
        labels: &["limit"],
        help: "Clients that the limit remembers",
        write: |book, out| {
            for (name, limit) in book.limits.in_use() {
                out.gauge(&[name.as_str()], limit.keys.value())?;
            }
            Ok(())
        },
    },
];

const HOUSE: &[Row] = &[
    Row {
        name: "tidegate_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        help: "1, with the version of this program",
        write: |_, out| out.gauge(&[env!("CARGO_PKG_VERSION")], 1),
    },
    Row {
        name: "tidegate_config_reloads_total",
        kind: Kind::Counter,
        labels: &["result"],
        help: "How often the configuration was read again",
        write: |book, out| out.words(&book.reloads),
    },
    Row {
        name: "tidegate_config_last_reload_success",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 when the configuration that was read last is in force",
        write: |book, out| {
            let last = *lock(&book.reload_last);
            last.map_or(Ok(()), |(ok, _)| out.gauge(&[], u64::from(ok)))
        },
    },
    Row {
        name: "tidegate_config_last_reload_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the configuration was read last, in seconds since 1970",
        write: |book, out| {
            let last = *lock(&book.reload_last);
            last.map_or(Ok(()), |(_, at)| out.gauge_f64(&[], since_1970(at)))
        },
    },
    Row {
        name: "tidegate_log_written_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Access lines that were written",
        write: |book, out| out.told(book, |told| told.written),
    },
    Row {
        name: "tidegate_log_dropped_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Access lines that found no room in the queue",
        write: |book, out| out.told(book, |told| told.dropped),
    },
    Row {
        name: "tidegate_log_failed_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Access lines whose writing failed",
        write: |book, out| out.told(book, |told| told.failed),
    },
    Row {
        name: "tidegate_diary_lost_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Lines of the diary that nobody read from standard error in time, or that could not be written",
        write: |book, out| out.told_of_diary(book, |told| told.dropped + told.failed),
    },
    Row {
        name: "tidegate_panics_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Bugs that ended a task; please report them",
        write: |book, out| out.counter(&[], book.panics.value()),
    },
];

const PROCESS: &[Row] = &[
    Row {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "User and system time in seconds",
        write: |_, out| Process::read().cpu_seconds.map_or(Ok(()), |value| out.counter_f64(value)),
    },
    Row {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Resident memory",
        write: |_, out| out.known(Process::read().resident_bytes),
    },
    Row {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Virtual memory",
        write: |_, out| out.known(Process::read().virtual_bytes),
    },
    Row {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open file descriptors",
        write: |_, out| out.known(process::open_fds()),
    },
    Row {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "How many file descriptors may be open",
        write: |_, out| out.known(Process::read().max_fds),
    },
    Row {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: &[],
        help: "Threads",
        write: |_, out| out.known(Process::read().threads),
    },
    Row {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the process was started, in seconds since 1970",
        write: |_, out| Process::read().start_seconds.map_or(Ok(()), |value| out.gauge_f64(&[], value)),
    },
];
