//! Verification beside ZODB's own fstest, on the same file in one run: `cargo bench --bench verify`.
//!
//! fstest runs in the Python environment that the Zope tests make (`cargo test --test zope_harness` makes it), and its time
//! is taken inside Python, without the interpreter's start. The file is in the page cache for both, and what is compared is
//! CPU time, for a busy machine gives each of them as little of the clock's as it likes; the clock's is shown beside it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;
use tidegate::verify::Begin;
use tidegate::verify::Verified;
use tidegate::verify::verify;

#[path = "../tests/datafs/writer.rs"]
mod writer;

use writer::Data;
use writer::Writer;

const SIZE: u64 = 256 << 20;
const ROUNDS: usize = 5;

/// What records are like: `(per hundred, from, to)` bytes of data.
const PROFILES: &[(&str, &[(u64, usize, usize)])] = &[
    ("small records (60 to 400 bytes)", &[(100, 60, 400)]),
    ("mixed records (mean 800 bytes)", &[(70, 60, 400), (28, 400, 3000), (2, 4000, 20_000)]),
    ("large records (16 to 64 KiB)", &[(100, 16 << 10, 64 << 10)]),
];

fn main() {
    let target = target_dir();
    let python = target.join("zope/venv/bin/python");
    assert!(python.exists(), "{} is missing: `cargo test --test zope_harness` makes it", python.display());
    let dir = tempfile::tempdir_in(&target).expect("a directory");
    for (name, profile) in PROFILES {
        let path = dir.path().join("Data.fs");
        write(&path, profile);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut seen = None;
        for _ in 0..ROUNDS {
            let (began, cpu) = (Instant::now(), on_cpu());
            let verified = verify(&path, Begin::Start).expect("a good file");
            ours.push((on_cpu().saturating_sub(cpu), began.elapsed()));
            seen = Some(verified);
            theirs.push(fstest(&python, &path));
        }
        let Verified { records, transactions, size, .. } = seen.expect("a round");
        let ((ours, ours_wall), (theirs, theirs_wall)) = (median(ours), median(theirs));
        println!(
            "{name}: {} MiB, {transactions} transactions, {records} records: tidegate {:.0} ms ({:.0} MiB/s, {:.0} ns a \
             record), fstest {:.0} ms, ratio {:.1}; by the clock {:.0} ms and {:.0} ms, ratio {:.1}",
            size >> 20,
            ours.as_secs_f64() * 1e3,
            mib(size) / ours.as_secs_f64(),
            ours.as_secs_f64() * 1e9 / f64::from(u32::try_from(records).expect("not so many")),
            theirs.as_secs_f64() * 1e3,
            theirs.as_secs_f64() / ours.as_secs_f64(),
            ours_wall.as_secs_f64() * 1e3,
            theirs_wall.as_secs_f64() * 1e3,
            theirs_wall.as_secs_f64() / ours_wall.as_secs_f64()
        );
    }
}

fn mib(size: u64) -> f64 {
    f64::from(u32::try_from(size >> 20).expect("a small file"))
}

/// The CPU time of this thread so far.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds"))
}

/// By CPU time.
fn median(mut times: Vec<(Duration, Duration)>) -> (Duration, Duration) {
    times.sort();
    times[times.len() / 2]
}

fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("the running program");
    program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).expect("Cargo's target directory").to_owned()
}

/// Six records a transaction, one of them of a new object, every fiftieth an undo.
fn write(path: &Path, profile: &[(u64, usize, usize)]) {
    let mut file = File::create(path).expect("the file");
    let mut writer = Writer::new();
    let body = vec![b'.'; 1 << 17];
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut objects = 1;
    while writer.position() < SIZE {
        let mut records = Vec::new();
        for at in 0..6 {
            let oid = if at == 0 { objects } else { random(objects) };
            let mut share = random(100);
            let (_, from, to) = profile
                .iter()
                .find(|(part, ..)| {
                    let found = share < *part;
                    share = share.saturating_sub(*part);
                    found
                })
                .expect("the shares make a hundred");
            let len = from + usize::try_from(random((to - from) as u64)).expect("a length");
            let place = writer.place(oid);
            let undo = random(50) == 0 && place != 0;
            records.push((oid, if undo { Data::Back(place) } else { Data::Own(&body[..len]) }));
        }
        objects += 1;
        writer.transaction(b' ', b"/site/news", &records);
        if writer.bytes.len() > 4 << 20 {
            file.write_all(&writer.bytes).expect("room for the file");
            writer.base += writer.bytes.len() as u64;
            writer.bytes.clear();
        }
    }
    file.write_all(&writer.bytes).expect("room for the file");
}

fn fstest(python: &Path, path: &Path) -> (Duration, Duration) {
    let program = "import sys, time
from ZODB.scripts.fstest import check
began, cpu = time.perf_counter(), time.process_time()
check(sys.argv[1])
print(time.process_time() - cpu, time.perf_counter() - began)";
    let output = Command::new(python).args(["-c", program]).arg(path).output().expect("Python runs");
    assert!(output.status.success(), "fstest: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().expect("seconds"));
    let (cpu, wall) = printed.trim().split_once(' ').expect("two times");
    (seconds(cpu), seconds(wall))
}
