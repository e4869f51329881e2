//! What a hit costs us, step by step, without sockets: `cargo bench --bench hit`.

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use http::Request;
use http::StatusCode;
use http_body_util::Empty;
use hyper::body::Bytes;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tidegate::cache;
use tidegate::cache::Cache;
use tidegate::cache::Stored;
use tidegate::cache::StoredBody;
use tidegate::cache::Tagged;
use tidegate::clock;
use tidegate::config;
use tidegate::edge::Edge;
use tidegate::edge::deliver;
use tidegate::edge::intake;
use tidegate::edge::intake::Approach;
use tidegate::edge::intake::Judged;
use tidegate::edge::intake::Question;
use tidegate::edge::permits::Permits;
use tidegate::edge::shedding::Shedding;
use tidegate::edge::spool::Spool;
use tidegate::semantics::cache_status::CacheStatus;
use tidegate::semantics::freshness::Freshness;
use tidegate::semantics::key::KeyBuf;
use tidegate::semantics::pack::Packed;
use tidegate::semantics::vary::Selection;
use tidegate::snapshot;
use tidegate::snapshot::Choices;
use tidegate::snapshot::House;
use tidegate::snapshot::Snapshot;
use tidegate::snapshot::Snapshots;
use tidegate::telemetry::access::AccessLog;
use tidegate::telemetry::metrics::Metrics;
use tidegate::tls::Tickets;
use tidegate::upstream::Registry;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const CONFIG: &str = r#"
version = 1
[limit.per-client]
rate = "1000000000/s"
burst = 1000000
[site."www.example.org"]
zope = "/Plone"
upstream = ["127.0.0.1:8080"]
"#;

fn edge() -> Arc<Edge> {
    let settings = cache::Settings { memory: 64 << 20, object_max: 1 << 20, variants: 16 };
    let house = House {
        snapshots: Arc::new(Snapshots::new(Snapshot::empty())),
        metrics: Metrics::new(),
        access: AccessLog::off(),
        cache: Arc::new(Cache::new(settings)),
        upstreams: Registry::new(Metrics::new()),
        limits: Mutex::default(),
        tickets: Tickets::new().expect("the system gives randomness"),
        live: Arc::default(),
    };
    let loaded = config::parse("bench", CONFIG).expect("the configuration is good");
    let compiled = snapshot::compile(loaded.config, &house).expect("there is nothing to fail");
    house.snapshots.store(compiled.put_in_force(&Choices::default(), &house));
    Arc::new(Edge {
        snapshots: house.snapshots,
        cache: house.cache,
        metrics: house.metrics,
        access: house.access,
        spool: Spool::default(),
        permits: Permits::new(),
        shedding: Arc::new(Shedding::new(&CancellationToken::new())),
    })
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("/news/2026/november?page=2")
        .header("host", "www.example.org")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "de,en-US;q=0.7,en;q=0.3")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("cookie", "_ga=GA1.1.123456789.1234567890; _ga_ABC=GS1.1.1")
        .body(Empty::new())
        .expect("a request")
}

fn stored() -> Arc<Stored> {
    let now = clock::now();
    let mut head = http::HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "max-age=3600"),
        ("etag", "\"||32|en|Plone Default|0|1795426181.133915\""),
        ("last-modified", "Tue, 24 Nov 2026 11:00:00 GMT"),
        ("server", "waitress"),
    ] {
        head.insert(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    let head = deliver::prepare(head, now);
    let freshness = Freshness::lasting(Duration::from_secs(3600), now.mono);
    let body = StoredBody::Whole(Bytes::from(vec![b'x'; 1024]));
    Arc::new(Stored {
        status: StatusCode::OK,
        head,
        body,
        freshness,
        selection: Selection::default(),
        hidden: Packed::default(),
        tagged: Tagged::new(Vec::new(), 0),
        coded: None,
        kept: None,
    })
}

fn judge<'r>(snapshot: &'r Snapshot, request: &'r Request<Empty<Bytes>>) -> Question<'r> {
    let approach = Approach { peer: [192, 0, 2, 1].into(), tls: true, http2: false };
    match intake::judge(snapshot, approach, request) {
        Judged::Question(question) => question,
        _ => panic!("the request is good"),
    }
}

fn hit(criterion: &mut Criterion) {
    let edge = edge();
    let snapshot = edge.snapshots.load_full();
    let request = request();
    let question = judge(&snapshot, &request);
    let stored = stored();
    let mut buffer = KeyBuf::new();
    edge.cache.put(question.key(&mut buffer), &stored);
    let now = clock::mono();
    criterion.bench_function("key", |bencher| bencher.iter(|| black_box(question.key(&mut buffer).len())));
    criterion.bench_function("clock", |bencher| bencher.iter(clock::mono));
    criterion.bench_function("lookup", |bencher| {
        bencher.iter(|| {
            let key = question.key(&mut buffer);
            black_box(edge.cache.get(key).is_some_and(|shelf| shelf.select(request.headers()).is_some()))
        });
    });
    criterion.bench_function("deliver", |bencher| {
        let status = CacheStatus::hit(100);
        bencher
            .iter(|| black_box(deliver::hit(&edge, &snapshot, &request, &question, &stored, &status, now).is_some()));
    });
}

fn judging(criterion: &mut Criterion) {
    let edge = edge();
    let snapshot = edge.snapshots.load_full();
    let request = request();
    criterion.bench_function("judge", |bencher| bencher.iter(|| black_box(judge(&snapshot, &request).client)));
}

criterion_group!(benches, hit, judging);
criterion_main!(benches);
