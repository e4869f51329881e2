//! The cache on disk: `cargo bench --bench disk -- [MIB] [DIR]`. What a stored response costs to write, how long a start takes to
//! know them again, and what one costs that is read from there beside one from memory. The files are mostly in the kernel's
//! memory, so it is our own work that is measured.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use rustix::time::ClockId;
use rustix::time::clock_gettime;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tidegate::cache;
use tidegate::cache::Cache;
use tidegate::cache::Stored;
use tidegate::cache::StoredBody;
use tidegate::cache::Tagged;
use tidegate::cache::disk::Disk;
use tidegate::cache::disk::Phase;
use tidegate::cache::disk::Settings;
use tidegate::cache::disk::Terms;
use tidegate::cache::entry::Kept;
use tidegate::clock;
use tidegate::semantics::coding::Offer;
use tidegate::semantics::freshness::Freshness;
use tidegate::semantics::pack::Packed;
use tidegate::semantics::tags::Tag;
use tidegate::semantics::vary::Selection;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BODY: usize = 8192;
const UNDER: u64 = 1;
const MEMORY: u64 = 256 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let mib: u64 = arguments.next().map_or(1024, |mib| mib.parse().expect("MiB"));
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("tidegate-bench-disk");
    let count = (mib << 20) / (BODY as u64 + 1100);
    println!("{count} responses of 8 KiB and ten fields, memory {} MiB, in {}", MEMORY >> 20, dir.display());
    let cache = new_cache();
    let disk = open(&dir, &cache);
    let (began, used) = (Instant::now(), cpu());
    for number in 0..count {
        cache.put(&key(number), &response(number));
        if number % 1024 == 0 {
            // About as fast as it is written.
            wait(&disk, |disk| disk.view().waiting == 0);
        }
    }
    wait(&disk, |disk| disk.view().waiting == 0);
    let (with, took) = (cpu() - used, began.elapsed());
    let used = cpu();
    let without = new_cache();
    (0..count).for_each(|number| without.put(&key(number), &response(number)));
    let bare = cpu() - used;
    drop(without);
    let view = disk.view();
    let kib = f(view.written >> 10);
    println!("written: {} MiB in {took:.1?}", view.written >> 20);
    println!("CPU beyond memory: {:.2} us for each KiB written", (with - bare) / kib);
    println!("plain writes of as many bytes: {:.2} us for each KiB", plain(&dir, view.written) / kib);
    disk.close(Duration::from_secs(600));
    // The directory is free when nobody knows of it any more.
    drop((disk, cache));

    let cache = new_cache();
    let (began, used) = (Instant::now(), cpu());
    let disk = open(&dir, &cache);
    let serving = began.elapsed();
    wait(&disk, |disk| disk.phase() == Phase::Ready);
    println!(
        "a start: serves after {serving:.1?}, knows all {} after {:.2?}, {:.0} ms of CPU",
        disk.view().entries,
        began.elapsed(),
        (cpu() - used) / 1000.0
    );

    let terms = Terms { under: UNDER, codings: Offer::default() };
    let some: Vec<u64> = (0..20_000).map(|at| at * 7919 % count).collect();
    let (used, mut there) = (cpu(), 0);
    for number in &some {
        let key = key(*number);
        // What leaves memory before its turn to be written has come is not there: here something comes without a pause.
        if let Ok(shelf) = disk.read(&cache, &key, &terms) {
            cache.restore(&key, black_box(&shelf));
            there += 1;
        }
    }
    let from_disk = (cpu() - used) / f(there);
    assert!(there * 100 > some.len() as u64 * 95, "only {there} of {} are there", some.len());
    let keys: Vec<Vec<u8>> = some.iter().map(|number| key(*number)).collect();
    let used = cpu();
    let found = keys.iter().filter(|key| black_box(cache.get(key)).is_some()).count();
    let from_memory = (cpu() - used) / f(some.len() as u64);
    println!("read from disk into memory: {from_disk:.1} us; found in memory: {from_memory:.2} us ({found} are)");
    disk.abandon();
    std::fs::remove_dir_all(&dir).expect("it is ours");
}

fn new_cache() -> Arc<Cache> {
    Arc::new(Cache::new(cache::Settings { memory: MEMORY, object_max: 1 << 20, variants: 4 }))
}

fn open(dir: &std::path::Path, cache: &Arc<Cache>) -> Arc<Disk> {
    let settings = Settings { path: dir.to_owned(), size: 16 << 30, index: MEMORY / 4 };
    Disk::open(&settings, 1, cache).expect("a directory of ours")
}

fn wait(disk: &Disk, so: impl Fn(&Disk) -> bool) {
    let due = Instant::now() + Duration::from_secs(600);
    while !so(disk) {
        assert!(Instant::now() < due, "it does not come to pass");
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

/// What as many bytes cost that are only written.
fn plain(dir: &std::path::Path, bytes: u64) -> f64 {
    let path = dir.join("plain.new");
    let mut file = File::create(&path).expect("a file");
    let record = vec![b'x'; BODY + 1100];
    let used = cpu();
    for _ in 0..bytes / record.len() as u64 {
        file.write_all(&record).expect("there is room");
    }
    let took = cpu() - used;
    std::fs::remove_file(path).expect("it is there");
    took
}

fn key(number: u64) -> Vec<u8> {
    format!("https www.example.org /folder/page-{number}").into_bytes()
}

fn response(number: u64) -> Arc<Stored> {
    let mut head = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/html;charset=utf-8"),
        ("cache-control", "max-age=0, s-maxage=86400, must-revalidate"),
        ("etag", "\"|Plone|en|abcdef\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("x-frame-options", "SAMEORIGIN"),
        ("content-language", "en"),
        ("vary", "Accept-Encoding"),
    ] {
        head.insert(http::HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let tags = (0..6).map(|tag| Tag::from_value(1 + number * 6 + tag)).collect();
    Arc::new(Stored {
        status: StatusCode::OK,
        head: Packed::of(&head),
        body: StoredBody::Whole(Bytes::from(vec![u8::try_from(number % 251).expect("below 251"); BODY])),
        freshness: Freshness::lasting(Duration::from_secs(86_400), clock::mono()),
        selection: Selection::default(),
        hidden: Packed::default(),
        tagged: Tagged::new(tags, 0),
        coded: None,
        kept: Some(Arc::new(Kept::under_terms(UNDER))),
    })
}

/// The CPU time of all our threads, in microseconds.
fn cpu() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("it goes forward").as_secs_f64() * 1e6
}

fn f(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("the bench is small"))
}
