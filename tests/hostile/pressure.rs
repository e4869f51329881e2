//! When the process itself runs short, or a part of it breaks: it sheds, and lives on.

use std::convert::Infallible;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Response;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tempfile::TempDir;
use tidegate::edge::activity::Activity;
use tidegate::edge::activity::Bounds;
use tidegate::edge::connection;
use tidegate::edge::connection::Limits;
use tidegate::edge::connection::Protocol;
use tidegate::telemetry::log;
use tidegate::telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use crate::origin::DEADLINE;
use crate::recorder::Recorder;
use crate::recorder::Then;

/// The real program; ended when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One page from `place`, or nothing if there is none within a second.
fn page(place: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&place, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n").ok()?;
    let mut told = String::new();
    stream.read_to_string(&mut told).ok()?;
    told.starts_with("HTTP/1.1 200").then_some(told)
}

/// Tries until there is a page.
fn comes_back(place: SocketAddr) {
    let began = Instant::now();
    while page(place).is_none() {
        assert!(began.elapsed() < DEADLINE, "it does not serve");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_free_descriptors_it_sheds_and_lives_on() {
    let origin = Recorder::new(|_| (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Then::Keep));
    let dir = TempDir::new().expect("a directory");
    let place = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let text = format!(
        "version = 1\n[server]\nlisten = [\"{place}\"]\nworkers = 1\n[server.limits]\nfirst_byte = \"60s\"\n\
         [admin]\nsocket = \"off\"\n[log]\naccess = \"off\"\n[site.\"www.example.org\"]\nupstream = \"zope\"\n\
         [upstream.zope]\nservers = [\"{}\"]\ncheck = {{ kind = \"off\" }}\n",
        origin.address
    );
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, text).expect("a file");
    let diary = fs::File::create(dir.path().join("diary")).expect("a file");
    let run = format!("ulimit -n 60; exec '{}' run --config '{}'", env!("CARGO_BIN_EXE_tidegate"), file.display());
    let child = Command::new("sh").args(["-c", &run]).stderr(diary).spawn().expect("a shell");
    let mut program = Program(child);
    comes_back(place);
    // More connections than there can be descriptors, all of them silent.
    let held: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(place).ok()).collect();
    // Those that are too many are closed at once, and need not wait in the kernel's line.
    let mut closed = 0;
    for mut stream in &held {
        stream.set_read_timeout(Some(Duration::from_millis(2))).expect("a time-out");
        if stream.read(&mut [0]).is_ok_and(|read| read == 0) {
            closed += 1;
        }
    }
    let diary = || fs::read_to_string(dir.path().join("diary")).unwrap_or_default();
    assert!(closed >= 100, "{closed} were shed\n{}", diary());
    assert!(program.0.try_wait().expect("a status").is_none(), "it lives\n{}", diary());
    drop(held);
    comes_back(place);
    assert!(diary().contains("open files"), "the operator is told what to do: {}", diary());
    assert!(diary().lines().count() < 30, "and not too often: {}", diary());
}

#[test]
fn when_memory_is_short_what_idles_is_closed_and_when_it_is_out_only_what_is_stored_is_served() {
    let stored = b"HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 2\r\n\r\nok";
    let origin = Recorder::new(move |_| (stored.to_vec(), Then::Keep));
    let dir = TempDir::new().expect("a directory");
    let place = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let socket = dir.path().join("admin.sock");
    let file = dir.path().join("tidegate.toml");
    let allow = |memory: &str| {
        let text = format!(
            "version = 1\n[server]\nlisten = [\"{place}\"]\nworkers = 1\n[server.limits]\nmemory = \"{memory}\"\n\
             first_byte = \"60s\"\nhead = \"60s\"\n[cache]\nmemory = \"8MiB\"\nobject_max = \"1MiB\"\n\
             [admin]\nsocket = \"{}\"\n[log]\naccess = \"off\"\n[site.\"www.example.org\"]\nupstream = \"zope\"\n\
             [upstream.zope]\nservers = [\"{}\"]\ncheck = {{ kind = \"off\" }}\n",
            socket.display(),
            origin.address
        );
        fs::write(&file, text).expect("a file");
    };
    allow("off");
    let diary = fs::File::create(dir.path().join("diary")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let program = Program(command.args(["run", "--config"]).arg(&file).stderr(diary).spawn().expect("tidegate"));
    comes_back(place);
    let diary = || fs::read_to_string(dir.path().join("diary")).unwrap_or_default();
    let resident = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", program.0.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    // What it takes is so many per cent of what it may take from now on.
    let makes_it = |percent: u64, level: &str| {
        allow(&format!("{}KiB", resident() * 100 / percent));
        let sent = Command::new("kill").args(["-s", "HUP", &program.0.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let began = Instant::now();
        while !diary().contains(level) {
            assert!(began.elapsed() < DEADLINE, "it is never said: {level}\n{}", diary());
            thread::sleep(Duration::from_millis(10));
        }
    };
    let begun = |bytes: &str| {
        let mut stream = TcpStream::connect(place).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream.write_all(bytes.as_bytes()).expect("it listens");
        stream
    };
    let answer = |mut stream: TcpStream, rest: &str| {
        stream.write_all(rest.as_bytes()).expect("it is open");
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("an answer, and the end");
        told
    };
    let half = |path: &str| begun(&format!("GET {path} HTTP/1.1\r\nHost: www.example"));

    let mut idle = begun("GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n");
    let mut told = [0; 4096];
    assert!(idle.read(&mut told).expect("an answer") > 0);
    makes_it(92, "memory is short");
    while idle.read(&mut told).expect("its end, in order") > 0 {}
    comes_back(place);

    // A quarter of what is stored is forgotten, what is asked for least first.
    for path in ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/", "/"] {
        let asked = begun(&format!("GET {path} HTTP/1.1\r\nHost: www.example"));
        assert!(answer(asked, ".org\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
    let (known, unknown) = (half("/"), half("/unknown"));
    makes_it(120, "memory is out");
    assert!(page(place).is_none(), "nobody else is let in");
    let known = answer(known, ".org\r\n\r\n");
    assert!(known.starts_with("HTTP/1.1 200") && known.contains("hit"), "{known}");
    let unknown = answer(unknown, ".org\r\n\r\n");
    assert!(unknown.starts_with("HTTP/1.1 503") && unknown.contains("retry-after: 5"), "{unknown}");
    makes_it(10, "memory is enough again");
    comes_back(place);
    assert!(diary().lines().count() < 30, "it is not said too often: {}", diary());
}

#[test]
fn a_panic_takes_one_connection_and_is_counted() {
    let metrics = Metrics::new();
    log::count_panics(&metrics, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let served = Arc::new(Mutex::new(0));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = listener.local_addr().expect("an address");
        let client = thread::spawn(move || {
            let mut told = Vec::new();
            for path in ["/good", "/bad", "/good"] {
                let mut stream = TcpStream::connect(place).expect("it listens");
                stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
                let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).expect("it listens");
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                told.push(answer.starts_with("HTTP/1.1 200"));
            }
            told
        });
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.expect("a connection");
            let served = Arc::clone(&served);
            // As a worker does it: each connection is a task of its own.
            let task = tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    assert_ne!(request.uri().path(), "/bad", "planted");
                    *served.lock().expect("no panic") += 1;
                    async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) }
                });
                let second = Duration::from_secs(10);
                let bounds = Bounds { first_byte: second, head: second, idle: second, write_idle: second };
                let limits = Limits { bounds, header_bytes: 8192, headers: 100, h2_streams: 10, rate_min: 0 };
                let activity = Arc::new(Activity::new(tidegate::clock::mono(), false, 0));
                let stop = CancellationToken::new();
                connection::serve(stream, Vec::new(), Protocol::Http1, activity, &limits, service, &stop).await
            });
            let _ = task.await;
        }
        assert_eq!(client.join().expect("no panic"), [true, false, true]);
    });
    assert_eq!(*served.lock().expect("no panic"), 2);
    let (_, page) = metrics.encode();
    assert!(page.contains("tidegate_panics_total 1"), "{page}");
}
