//! The binary under load while it is told to reload and to switch sets again and again.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::PRIVATE;
use crate::client::Client;
use crate::nowhere;
use crate::origin::DEADLINE;

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An origin that remembers nothing, so that only tidegate's memory can grow.
fn forgetful() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            thread::spawn(move || {
                let mut head = [0; 4096];
                let mut have = 0;
                while let Ok(read @ 1..) = stream.read(&mut head[have..]) {
                    have += read;
                    if head[..have].ends_with(b"\r\n\r\n") {
                        have = 0;
                        if stream.write_all(PRIVATE.as_bytes()).is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Speaks to the admin socket.
fn admin(socket: &Path, method: &str, target: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the admin socket answers");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

fn metric(page: &str, begins: &str) -> f64 {
    let values = page.lines().filter(|line| line.starts_with(begins));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The resident memory of a process, in KiB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

struct Outcome {
    good: u64,
    wrong: Vec<String>,
    seconds: f64,
    before: u64,
    after: u64,
}

/// So many HUPs and as many set swaps while visitors ask for pages without a pause.
fn soak(rounds: u32, visitors: usize) -> Outcome {
    let dir = TempDir::new().expect("a directory");
    let (config, socket, place) = (dir.path().join("tidegate.toml"), dir.path().join("admin.sock"), nowhere());
    let text = format!(
        "version = 1\n[server]\nlisten = [\"{place}\"]\nworkers = 2\n[site.\"www.example.org\"]\nupstream = \"zope\"\n\
         [upstream.zope]\nthreads = 8\nactive = \"a\"\nset.a = [\"{}\"]\nset.b = [\"{}\", \"{}\"]\n\
         [limit.per-client]\nrate = \"off\"\n[admin]\nsocket = \"{}\"\n[log]\naccess = \"off\"\nlevel = \"error\"\n",
        forgetful(),
        forgetful(),
        forgetful(),
        socket.display()
    );
    fs::write(&config, text).expect("a file");
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn();
    let running = Running(child.expect("tidegate can be run"));
    let process = running.0.id();
    let began = Instant::now();
    while TcpStream::connect(place).is_err() || !socket.exists() {
        assert!(began.elapsed() < DEADLINE, "tidegate starts");
        thread::sleep(Duration::from_millis(10));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let visiting: Vec<_> = (0..visitors)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (mut good, mut wrong, mut client) = (0_u64, Vec::new(), Client::to(place));
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.ask("/page", "Cookie: __ac=me\r\n").reply();
                    if reply.status == 200 && reply.whole {
                        good += 1;
                    } else {
                        wrong.push(reply.head);
                    }
                }
                (good, wrong)
            })
        })
        .collect();
    let (mut requests, mut before) = (0.0, 0);
    let began = Instant::now();
    for round in 1..=rounds {
        let sent = Command::new("kill").args(["-s", "HUP", &process.to_string()]).status().expect("kill runs");
        assert!(sent.success());
        admin(&socket, "POST", &format!("/use?upstream=zope&set={}", if round % 2 == 1 { "b" } else { "a" }));
        let asked = Instant::now();
        let page = loop {
            let page = admin(&socket, "GET", "/metrics");
            if metric(&page, "tidegate_config_reloads_total") >= f64::from(round) {
                break page;
            }
            assert!(asked.elapsed() < DEADLINE, "the reload is counted");
        };
        let now = metric(&page, "tidegate_http_requests_total");
        assert!(now >= requests, "counters only grow");
        requests = now;
        if round == rounds.div_ceil(5) {
            before = resident(process);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let (mut good, mut wrong) = (0, Vec::new());
    for visitor in visiting {
        let (one, bad) = visitor.join().expect("every connection stays");
        good += one;
        wrong.extend(bad);
    }
    let page = admin(&socket, "GET", "/metrics");
    let switched = metric(&page, "tidegate_upstream_set_switches_total");
    assert!((switched - f64::from(rounds)).abs() < 0.1, "{switched} swaps of {rounds}");
    Outcome { good, wrong, seconds, before, after: resident(process) }
}

#[test]
fn reloads_and_set_swaps_under_load_fail_nobody() {
    let outcome = soak(30, 4);
    assert!(outcome.wrong.is_empty() && outcome.good > 30, "{:?}", outcome.wrong);
}

/// `cargo test --test proxy soak -- --ignored --nocapture`
#[test]
#[ignore = "a figure: a thousand of each"]
fn a_thousand_reloads_and_a_thousand_set_swaps_under_load() {
    let Outcome { good, wrong, seconds, before, after } = soak(1000, 8);
    println!(
        "{good} requests in {seconds:.1} s, {:.0} a second, {} failed; RSS {before} KiB after 200 rounds, {after} KiB in the end",
        f64::from(u32::try_from(good).unwrap_or(u32::MAX)) / seconds,
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(after < before + 16 * 1024, "{before} KiB -> {after} KiB");
}
