//! What a purge by tag costs with much in the cache: `cargo bench --bench purge -- [ENTRIES]`.
//!
//! Stores a million responses with 20 tags each, purges one tag, looks for what should be gone, sweeps, and sends a million
//! purges of tags that nothing has.

use http::StatusCode;
use hyper::body::Bytes;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tidegate::cache;
use tidegate::cache::Cache;
use tidegate::cache::Stored;
use tidegate::cache::StoredBody;
use tidegate::cache::Tagged;
use tidegate::semantics::accept::AcceptClass;
use tidegate::semantics::freshness::Freshness;
use tidegate::semantics::key::KeyBuf;
use tidegate::semantics::key::Parts;
use tidegate::semantics::pack::Packed;
use tidegate::semantics::tags::Mode;
use tidegate::semantics::tags::Tag;
use tidegate::semantics::vary::Selection;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const TAGS: usize = 20;
/// So many different tags there are; each is on about ENTRIES * TAGS / KINDS responses.
const KINDS: usize = 100_000;

fn main() {
    let entries = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(1_000_000_usize);
    let cache = Cache::new(cache::Settings { memory: 8 << 30, object_max: 1 << 20, variants: 4 });
    let before = resident_mib();
    let began = Instant::now();
    for at in 0..entries {
        cache.put(&key(at), &stored(at, cache.ledger().sequence()));
    }
    println!("{entries} responses with {TAGS} tags stored in {:.1} s", began.elapsed().as_secs_f64());
    println!("memory: {} MiB, of which tags {} MiB", resident_mib() - before, entries * TAGS * 8 / (1 << 20));
    let hit = look_up(&cache, entries);
    println!("a look-up when no purge has come: {hit:.0} ns");

    let began = Instant::now();
    cache.ledger().purge_tags(&[tag(7)], Mode::Hard, began);
    println!("purge of one tag: {:.1} us", began.elapsed().as_secs_f64() * 1e6);
    let (mut stale, mut gone, mut lost) = (0, 0, 0);
    let began = Instant::now();
    for at in 0..entries {
        match (cache.get(&key(at)).is_some(), tags_of(at).any(|kind| kind == 7)) {
            (true, true) => stale += 1,
            (false, true) => gone += 1,
            (false, false) => lost += 1,
            (true, false) => {}
        }
    }
    let each = began.elapsed().as_secs_f64() * 1e9 / f(entries);
    println!(
        "after it: {gone} gone, {stale} stale hits, {lost} lost besides; the first look-up after it: {each:.0} ns"
    );

    let began = Instant::now();
    cache.ledger().purge_tags(&[tag(8)], Mode::Hard, began);
    let dropped = cache.sweep();
    println!("a sweep: {:.2} s, {dropped} dropped", began.elapsed().as_secs_f64());

    let before = resident_mib();
    let began = Instant::now();
    let (mut most, mut sweeps) = (0, 0);
    for at in 0..1_000_000 {
        cache.ledger().purge_tags(&[tag(KINDS + at)], Mode::Hard, began);
        if at % 1000 == 0 {
            most = most.max(cache.ledger().view().records);
        }
        if cache.begins_sweep() {
            cache.sweep();
            sweeps += 1;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let left = (0..entries).filter(|at| cache.get(&key(*at)).is_some()).count();
    let view = cache.ledger().view();
    println!(
        "1000000 purges of unknown tags: {took:.1} s with {sweeps} sweeps; at most {most} records, {} overflows, \
         {left} responses left, memory {:+} MiB",
        view.raised,
        resident_mib() - before,
    );
}

fn look_up(cache: &Cache, entries: usize) -> f64 {
    let keys: Vec<Vec<u8>> = (0..200_000).map(|at| key(at * 7919 % entries)).collect();
    let began = Instant::now();
    for key in &keys {
        black_box(cache.get(key));
    }
    began.elapsed().as_secs_f64() * 1e9 / f(keys.len())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
fn f(count: usize) -> f64 {
    count as f64
}

fn key(at: usize) -> Vec<u8> {
    let path = format!("/folder-{}/document-{at}", at % 1000);
    KeyBuf::new()
        .build(&Parts {
            scheme: "https",
            authority: "www.example.org",
            path: &path,
            query: None,
            accept: AcceptClass::Any,
        })
        .to_vec()
}

fn tags_of(at: usize) -> impl Iterator<Item = usize> {
    (0..TAGS).map(move |number| (at.wrapping_mul(31) + number.wrapping_mul(7919)) % KINDS)
}

fn tag(kind: usize) -> Tag {
    Tag::named(kind.to_string().as_bytes())
}

fn stored(at: usize, born: u64) -> Arc<Stored> {
    let freshness = Freshness::lasting(Duration::from_hours(1), Instant::now());
    Arc::new(Stored {
        status: StatusCode::OK,
        head: Packed::default(),
        body: StoredBody::Whole(Bytes::from_static(b"x")),
        freshness,
        selection: Selection::default(),
        hidden: Packed::default(),
        tagged: Tagged::new(tags_of(at).map(tag).collect(), born),
        coded: None,
        kept: None,
    })
}

fn resident_mib() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096 / (1 << 20)
}
