use super::*;
use crate::telemetry::access::AccessSettings;
use crate::telemetry::access::Format;
use crate::telemetry::access::Target;
use crate::telemetry::metrics::sheet::Kind;
use crate::telemetry::metrics::table::TABLE;
use http::Method;
use http::StatusCode;
use http::Version;
use std::collections::BTreeSet;
use std::time::Instant;

fn site(text: &str) -> SiteName {
    SiteName::parse(text).unwrap()
}

fn names() -> (UpstreamName, SetName, OriginAddr) {
    let upstream = UpstreamName::parse("zope").unwrap();
    (upstream, SetName::parse("primary").unwrap(), OriginAddr::parse("zope1a:8080").unwrap())
}

fn facts(method: &Method) -> RequestFacts<'_> {
    RequestFacts {
        method,
        status: StatusCode::OK,
        version: Version::HTTP_11,
        visitor: Visitor::Anonymous,
        cache: CacheWord::Hit,
        duration: Duration::from_micros(30),
        sent: 1024,
    }
}

/// Counts something of an upstream.
fn busy_upstream(metrics: &Metrics) -> (Arc<UpstreamMetrics>, Arc<EndpointMetrics>) {
    let (upstream, set, addr) = names();
    let zope = metrics.upstream(&upstream);
    zope.duration(Duration::from_millis(80));
    zope.first_byte(Duration::from_millis(70));
    zope.connected(Duration::from_millis(1));
    zope.error("reset");
    zope.retry("connect");
    zope.retry_budget_exhausted();
    zope.queue_length(Visitor::Anonymous, 3);
    zope.queue_waited(Visitor::Anonymous, Duration::from_millis(2));
    zope.queue_rejected("full");
    zope.holds(vec!["storage"]);
    zope.hold_ended("served", Duration::from_secs(1));
    zope.names([NameFacts {
        name: "zope.internal:8080".to_owned(),
        up: Some(false),
        failing: Some(Duration::from_secs(7)),
        addresses: 2,
        lookups: vec![("ok", 3), ("timeout", 1)],
    }]);
    zope.sets([set.clone(), SetName::parse("standby").unwrap()], &set);
    metrics.set_switched(&upstream, &SetName::parse("standby").unwrap(), SwitchCause::Admin);
    let endpoint = metrics.endpoint(&upstream, &set, &addr);
    endpoint.response(StatusCode::NOT_FOUND);
    endpoint.in_flight(2, 4);
    endpoint.state(EndpointState::Up);
    endpoint.state(EndpointState::Down);
    endpoint.check("ok", Duration::from_millis(3));
    (zope, endpoint)
}

/// Counts something everywhere.
fn busy() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let www = metrics.site(&site("www.example.org"));
    www.request(&facts(&Method::GET));
    www.receive(10);
    www.collapsed();
    www.collapse_waited(Duration::from_millis(20));
    www.uncacheable("set_cookie");
    www.revalidation(Revalidation::NotModified);
    www.client_abort(AbortPhase::Body);
    www.tripwire("etag_user");
    www.origin_rule("plone.content.itemView", true);
    www.refused("rate");
    www.headers_stripped(2);
    www.acl_denied();
    www.variants_overflow();
    let zope = busy_upstream(&metrics);
    let limit = metrics.limit(&LimitName::parse("per-client").unwrap());
    limit.decision(Decision::Reject);
    limit.keys(5);
    metrics.listener("[::1]:443".parse().unwrap(), Carrier::H2).opened();
    metrics.connection_rejected("per_ip");
    metrics.connection_timeout("head");
    metrics.protocol_error("parse");
    metrics.refused("host");
    let done =
        Handshake::Done { version: Some(ProtocolVersion::TLSv1_3), resumed: true, took: Duration::from_millis(4) };
    metrics.tls_handshake(done);
    metrics.tls_handshake(Handshake::Failed);
    metrics.certificates(vec![("www.example.org".to_owned(), SystemTime::UNIX_EPOCH + Duration::from_secs(9))]);
    metrics.acme_order("ok");
    metrics.purge("url", "hard", "found", 1, Duration::from_millis(1));
    metrics.reload(true, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
    metrics.panicked();
    let zeo = ZeoFacts {
        writable: true,
        last_tid: 5,
        clients: 1,
        waiting: 2,
        commit_wait: Duration::from_millis(1_500),
        commits: 3,
        conflicts: 4,
    };
    metrics.zeo("zeo1:8100", Some(zeo));
    metrics.pair(PairFacts {
        role: "active",
        phase: "steady",
        epoch: 3,
        refused: Some("no_majority"),
        seen: vec![("zeo-b".to_owned(), 0, 0.5)],
        fencing: [("ok", 1), ("failed", 0)],
        rejected: vec![("key", 1)],
        ..PairFacts::default()
    });
    metrics.watch_access_log(&AccessLog::off());
    // The handles stay in use, or their gauges would not be shown.
    let held = (zope, limit);
    metrics.on_scrape(move |metrics| {
        let _ = &held;
        metrics.cache_disk(Some(DiskFacts {
            phase: "ready",
            bytes: 1,
            capacity: 2,
            entries: 3,
            reads: vec![("hit", 4)],
            records: 5,
            written: 6,
            waiting: 7,
            skipped: 8,
            errors: 9,
        }));
        metrics.cache_tiers(vec![Tier {
            name: "memory",
            objects: 1,
            bytes: 2,
            capacity: 3,
            evictions: 4,
            refusals: 5,
        }]);
    });
    metrics
}

#[test]
fn every_row_of_the_table_can_be_read() {
    let (kind, page) = busy().encode();
    assert_eq!(kind, CONTENT_TYPE);
    assert!(page.ends_with("# EOF\n"));
    let mut seen = BTreeSet::new();
    for row in TABLE.iter().copied().flatten() {
        assert!(seen.insert(row.name), "{} is there twice", row.name);
        assert_eq!(row.kind == Kind::Counter, row.name.ends_with("_total"), "{}", row.name);
        let sample = match row.kind {
            Kind::Histogram => format!("{}_count", row.name),
            _ => row.name.to_owned(),
        };
        let line = page
            .lines()
            .find(|line| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
        let line = line.unwrap_or_else(|| panic!("{} shows nothing", row.name));
        for label in row.labels {
            assert!(line.contains(&format!("{label}=\"")), "{label} is missing in {line}");
        }
        assert_eq!(line.matches("=\"").count(), row.labels.len(), "{line}");
    }
}

#[test]
fn the_page_says_what_was_counted() {
    let (_, page) = busy().encode();
    for line in [
        "tidegate_http_requests_total{site=\"www.example.org\",method=\"GET\",code_class=\"2xx\",class=\"anonymous\",\
         protocol=\"HTTP/1.1\"} 1",
        "tidegate_http_request_duration_seconds_bucket{le=\"0.001\",site=\"www.example.org\",cache=\"hit\"} 1",
        "tidegate_http_request_duration_seconds_bucket{le=\"+Inf\",site=\"www.example.org\",cache=\"hit\"} 1",
        "tidegate_http_response_bytes_total{site=\"www.example.org\"} 1024",
        "tidegate_cache_requests_total{site=\"www.example.org\",status=\"hit\"} 1",
        "tidegate_cache_requests_total{site=\"www.example.org\",status=\"uri-miss\"} 0",
        "tidegate_upstream_requests_total{upstream=\"zope\",set=\"primary\",backend=\"zope1a:8080\",code_class=\"4xx\"} 1",
        "tidegate_upstream_state{upstream=\"zope\",set=\"primary\",backend=\"zope1a:8080\",state=\"down\"} 1",
        "tidegate_upstream_name_failing_seconds{upstream=\"zope\",name=\"zope.internal:8080\"} 7.0",
        "tidegate_upstream_name_lookups_total{upstream=\"zope\",name=\"zope.internal:8080\",result=\"timeout\"} 1",
        "tidegate_upstream_state{upstream=\"zope\",set=\"primary\",backend=\"zope1a:8080\",state=\"up\"} 0",
        "tidegate_upstream_active_set{upstream=\"zope\",set=\"primary\"} 0",
        "tidegate_upstream_active_set{upstream=\"zope\",set=\"standby\"} 1",
        "tidegate_upstream_set_switches_total{upstream=\"zope\",set=\"standby\",cause=\"admin\"} 1",
        "tidegate_limit_decisions_total{limit=\"per-client\",decision=\"reject\"} 1",
        "tidegate_connections_current{listener=\"[::1]:443\",protocol=\"h2\"} 1",
        "tidegate_tls_handshakes_total{version=\"TLSv1.3\",resumed=\"true\",result=\"ok\"} 1",
        "tidegate_cache_evictions_total{tier=\"memory\"} 4",
        "tidegate_cache_admissions_rejected_total{tier=\"memory\"} 5",
        "tidegate_config_last_reload_timestamp_seconds 7.0",
        "# TYPE tidegate_http_requests counter",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
    }
}

#[test]
fn gauges_of_what_is_gone_are_hidden_and_its_counters_stay_for_some_scrapes() {
    let metrics = Metrics::new();
    metrics.site(&site("old.example.org")).acl_denied();
    assert!(Arc::ptr_eq(&metrics.site(&site("old.example.org")), &metrics.site(&site("old.example.org"))));
    let (upstream, set, addr) = names();
    let endpoint = metrics.endpoint(&upstream, &set, &addr);
    endpoint.in_flight(1, 4);
    endpoint.response(StatusCode::OK);
    assert!(metrics.encode().1.contains("tidegate_upstream_in_flight{"));
    drop(endpoint);
    let (_, page) = metrics.encode();
    assert!(!page.contains("tidegate_upstream_in_flight{"));
    let counted = |page: &str| {
        ["tidegate_upstream_requests_total{", "tidegate_acl_denied_total{site=\"old.example.org\"} 1"]
            .map(|line| page.contains(line))
    };
    assert_eq!(counted(&page), [true; 2]);
    let gone = Instant::now();
    let kept = metrics.site(&site("kept.example.org"));
    kept.acl_denied();
    let after = |time: Duration| {
        metrics.forget_the_gone(gone + time);
        metrics.encode().1
    };
    assert_eq!(counted(&after(Duration::ZERO)), [true; 2]);
    assert_eq!(counted(&after(GONE_FOR / 2)), [true; 2], "the next scrapes see what was counted last");
    let page = after(GONE_FOR);
    assert_eq!(counted(&page), [false; 2], "{page}");
    assert!(page.contains("tidegate_acl_denied_total{site=\"kept.example.org\"} 1"), "{page}");
}

#[test]
fn a_connection_that_ended_is_no_longer_current() {
    let metrics = Metrics::new();
    let listener = metrics.listener("127.0.0.1:80".parse().unwrap(), Carrier::Http);
    listener.opened();
    listener.opened();
    listener.closed();
    let (_, page) = metrics.encode();
    assert!(page.contains("tidegate_connections_current{listener=\"127.0.0.1:80\",protocol=\"http\"} 1\n"));
    assert!(page.contains("tidegate_connections_total{listener=\"127.0.0.1:80\",protocol=\"http\"} 2\n"));
}

#[test]
fn lines_of_the_access_log_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::File(dir.path().join("access.log"));
    let settings = AccessSettings { format: Format::Json, target, queue: 8 };
    let log = AccessLog::start(&settings, Instant::now).unwrap();
    let metrics = Metrics::new();
    metrics.watch_access_log(&log);
    assert!(metrics.encode().1.contains("tidegate_log_written_total 0\n"));
    assert!(log.close(Duration::from_secs(20)));
}
