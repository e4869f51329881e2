//! What telling of one request costs the one who tells: `cargo bench --bench telemetry`.

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use http::Method;
use http::StatusCode;
use http::Version;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use tidegate::telemetry::access::AccessLog;
use tidegate::telemetry::access::AccessSettings;
use tidegate::telemetry::access::Format;
use tidegate::telemetry::access::Record;
use tidegate::telemetry::access::Target;
use tidegate::telemetry::metrics::CacheWord;
use tidegate::telemetry::metrics::Metrics;
use tidegate::telemetry::metrics::RequestFacts;
use tidegate::telemetry::metrics::Visitor;
use tidegate::units::OriginAddr;
use tidegate::units::SiteName;

fn access_lines(criterion: &mut Criterion) {
    let endpoint = OriginAddr::parse("10.0.0.11:8080").expect("an endpoint");
    let hit = Record {
        time: SystemTime::now(),
        client: "192.0.2.77".parse().expect("an address"),
        method: "GET",
        host: b"www.example.org",
        target: b"/news/2026/a-page-with-a-longer-name?b_start:int=20",
        version: Version::HTTP_11,
        status: 200,
        bytes: 18_432,
        duration: Duration::from_micros(31),
        cache: "hit",
        why: None,
        site: Some("www.example.org"),
        upstream: None,
        endpoint: None,
        queue: None,
        first_byte: None,
        retries: 0,
        referer: Some(b"https://www.example.org/news"),
        user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        tls: Some("TLSv1.3"),
        request_id: None,
    };
    let miss = Record {
        cache: "uri-miss",
        upstream: Some("zope"),
        endpoint: Some(&endpoint),
        queue: Some(Duration::ZERO),
        first_byte: Some(Duration::from_millis(80)),
        ..hit
    };
    let umlauts = Record { target: "/Übersicht/\"größer\"".as_bytes(), ..hit };
    for (format, word) in [(Format::Json, "json"), (Format::Combined, "combined")] {
        let target = Target::File(PathBuf::from("/dev/null"));
        let log = AccessLog::start(&AccessSettings { format, target, queue: 8192 }, Instant::now).expect("a log");
        for (record, kind) in [(&hit, "hit"), (&miss, "miss"), (&umlauts, "umlauts")] {
            criterion.bench_function(&format!("access line {word} {kind}"), |bench| {
                bench.iter(|| log.write(black_box(record)));
            });
        }
        let told = log.told();
        eprintln!("{word}: {} written, {} dropped", told.written, told.dropped);
        assert!(log.close(Duration::from_secs(10)), "the log is closed in time");
    }
}

fn request_metrics(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let site = metrics.site(&SiteName::parse("www.example.org").expect("a name"));
    let facts = RequestFacts {
        method: &Method::GET,
        status: StatusCode::OK,
        version: Version::HTTP_11,
        visitor: Visitor::Anonymous,
        cache: CacheWord::Hit,
        duration: Duration::from_micros(31),
        sent: 18_432,
    };
    criterion.bench_function("request metrics, alone", |bench| bench.iter(|| site.request(black_box(&facts))));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                site.request(black_box(&facts));
            }
        });
        let name = "request metrics, beside another thread";
        criterion.bench_function(name, |bench| bench.iter(|| site.request(black_box(&facts))));
        stop.store(true, Ordering::Relaxed);
    });
    criterion.bench_function("scrape", |bench| bench.iter(|| metrics.encode()));
}

fn short() -> Criterion {
    let criterion = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300));
    criterion.measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = access_lines, request_metrics }
criterion_main!(benches);
