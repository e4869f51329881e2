//! What is kept when not everything can be: `cargo bench --bench zipf -- [REQUESTS]`.
//!
//! 100,000 objects of 8 KiB, asked for by their rank (Zipf, alpha 1), with memory for a quarter of their bytes: how many requests
//! the origin is spared, and what the processes really take. Then what a stored response of 1 KiB takes. Each beside Varnish, if
//! it is installed, with the same requests in the same order; and beside what exact LRU would have kept.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

const OBJECTS: usize = 100_000;
const BODY: usize = 8192;
/// A quarter of all bodies.
const BUDGET: usize = OBJECTS * BODY / 4;
const CLIENTS: usize = 4;
/// Responses of 1 KiB whose memory is measured.
const SMALL: usize = 60_000;
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let requests = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(600_000_usize);
    let sequence = Arc::new(sequence(2 * requests));
    println!("{OBJECTS} objects of {BODY} bytes, {requests} requests after as many, memory for a quarter");
    println!("exact LRU of {} objects would spare {:.3}", OBJECTS / 4, lru(&sequence, OBJECTS / 4));
    for name in ["tidegate", "varnish"] {
        match measure(name, &sequence) {
            Ok(line) => println!("{name}: {line}"),
            Err(why) => println!("{name}: {why}"),
        }
    }
}

fn measure(name: &str, sequence: &Arc<Vec<u32>>) -> Result<String, String> {
    let origin = Origin::start(BODY);
    let server = Server::start(name, &origin, BUDGET >> 20)?;
    let half = sequence.len() / 2;
    ask(server.address, sequence, 0..half);
    let (asked, began) = (origin.asked(), Instant::now());
    ask(server.address, sequence, half..sequence.len());
    let spared = 1.0 - f(origin.asked() - asked) / f(half as u64);
    let took = began.elapsed();
    let resident = server.resident_kib()?;
    drop(server);

    let origin = Origin::start(1024);
    let server = Server::start(name, &origin, 1024)?;
    let all: Arc<Vec<u32>> = Arc::new((0..u32::try_from(SMALL).expect("few")).collect());
    ask(server.address, &all, 0..1000);
    let before = server.resident_kib()?;
    ask(server.address, &all, 1000..SMALL);
    let each = f((server.resident_kib()? - before) * 1024) / f(SMALL as u64 - 1000);
    Ok(format!(
        "spares {spared:.3}, takes {} MiB, {:.2} of the budget ({took:.0?}); a stored 1 KiB takes {each:.0} bytes",
        resident >> 10,
        f(resident * 1024) / f(BUDGET as u64),
    ))
}

/// Ranks by Zipf's law, alpha 1, the same in each run.
fn sequence(len: usize) -> Vec<u32> {
    let mut sums = Vec::with_capacity(OBJECTS);
    let mut sum = 0.0;
    for rank in 1..=OBJECTS {
        sum += 1.0 / f(rank as u64);
        sums.push(sum);
    }
    let mut seed = 42_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = f(seed >> 33) / f(1 << 31) * sum;
        u32::try_from(sums.partition_point(|sum| *sum < part).min(OBJECTS - 1)).expect("few objects")
    };
    (0..len).map(|_| draw()).collect()
}

/// What part of the second half of the sequence an exact LRU of so many objects would have.
fn lru(sequence: &[u32], room: usize) -> f64 {
    let (mut used, mut order) = (HashMap::new(), BTreeMap::new());
    let mut hits = 0;
    for (at, object) in sequence.iter().enumerate() {
        if let Some(before) = used.insert(*object, at) {
            order.remove(&before);
            hits += u64::from(at >= sequence.len() / 2);
        } else if used.len() > room
            && let Some((_, oldest)) = order.pop_first()
        {
            used.remove(&oldest);
        }
        order.insert(at, *object);
    }
    f(hits) / f(sequence.len() as u64 / 2)
}

/// Asks for this part of the sequence, from some clients at once.
fn ask(address: SocketAddr, sequence: &Arc<Vec<u32>>, part: std::ops::Range<usize>) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (sequence, part) = (Arc::clone(sequence), part.clone());
            scope.spawn(move || {
                let stream = TcpStream::connect(address).expect("it takes connections");
                stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                stream.set_nodelay(true).expect("no delay");
                let mut reader = BufReader::with_capacity(16 * 1024, stream.try_clone().expect("a handle"));
                let mut stream = stream;
                let (mut line, mut body) = (String::new(), vec![0; BODY]);
                for object in sequence[part].iter().skip(client).step_by(CLIENTS) {
                    let request = format!("GET /objects/{object} HTTP/1.1\r\nHost: bench.example\r\n\r\n");
                    stream.write_all(request.as_bytes()).expect("sent");
                    let mut len = 0;
                    loop {
                        line.clear();
                        reader.read_line(&mut line).expect("a head in time");
                        let lower = line.to_ascii_lowercase();
                        if let Some(value) = lower.strip_prefix("content-length:") {
                            len = value.trim().parse().expect("a length");
                        }
                        if line == "\r\n" {
                            break;
                        }
                        assert!(!line.is_empty() && !line.starts_with("HTTP/1.1 5"), "{line}");
                    }
                    reader.read_exact(&mut body[..len]).expect("a body");
                }
            });
        }
    });
}

/// Says every object, and counts.
struct Origin {
    address: SocketAddr,
    count: Arc<AtomicU64>,
}

impl Origin {
    fn start(len: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), counted) = (stream, Arc::clone(&counted)) else { return };
                thread::spawn(move || {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html;charset=utf-8\r\nContent-Length: {len}\r\n\
                         Cache-Control: max-age=36000\r\nETag: \"abcdef\"\r\n\
                         Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Frame-Options: SAMEORIGIN\r\n\r\n{}",
                        "x".repeat(len)
                    );
                    let _ = stream.set_nodelay(true);
                    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
                        if line == "\r\n" {
                            counted.fetch_add(1, Ordering::Relaxed);
                            if stream.write_all(answer.as_bytes()).is_err() {
                                return;
                            }
                        }
                        line.clear();
                    }
                });
            }
        });
        Self { address, count }
    }

    fn asked(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// A running server, ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    _room: tempfile::TempDir,
}

impl Server {
    fn start(name: &str, origin: &Origin, mib: usize) -> Result<Self, String> {
        let room = tempfile::tempdir().map_err(|error| error.to_string())?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.map_err(|error| error.to_string())?;
        let mut command = match name {
            "tidegate" => tidegate(room.path(), address, origin.address, mib),
            _ => varnish(room.path(), address, origin.address, mib),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("NOT MEASURED, it does not start: {error}"))?;
        let server = Self { child, address, _room: room };
        let due = Instant::now() + DEADLINE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > due {
                return Err("NOT MEASURED, it does not serve".to_owned());
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// What the process and its children have in memory.
    fn resident_kib(&self) -> Result<u64, String> {
        let mut all = 0;
        for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_whitespace().next()?.parse::<u64>().ok()
            };
            let own = u64::from(self.child.id());
            if field("Pid:") == Some(own) || field("PPid:") == Some(own) {
                all += field("VmRSS:").unwrap_or(0);
            }
        }
        Ok(all)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Varnish ends its child when it is asked to.
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let due = Instant::now() + DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < due {
            thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tidegate(room: &Path, address: SocketAddr, origin: SocketAddr, mib: usize) -> Command {
    let text = format!(
        "version = 1\n[server]\nlisten = [\"{address}\"]\nworkers = 1\n[cache]\nmemory = \"{mib}MiB\"\n\
         [admin]\nsocket = \"{}/admin.sock\"\n[log]\nlevel = \"warn\"\naccess = \"off\"\n[limit.per-client]\nrate = \"off\"\n\
         [upstream.origin]\nservers = [\"{origin}\"]\nthreads = 16\ncheck = {{ kind = \"off\" }}\n\
         [site.\"bench.example\"]\ncompress = []\nupstream = \"origin\"\n",
        room.display()
    );
    let file = room.join("tidegate.toml");
    fs::write(&file, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "--config"]).arg(file);
    command
}

fn varnish(room: &Path, address: SocketAddr, origin: SocketAddr, mib: usize) -> Command {
    let backend =
        format!("vcl 4.1;\nbackend origin {{ .host = \"{}\"; .port = \"{}\"; }}\n", origin.ip(), origin.port());
    let vcl = room.join("bench.vcl");
    fs::write(&vcl, backend).expect("a file");
    let words = format!(
        "-F -j none -a {address} -f {} -s malloc,{mib}m -T none -S none -p thread_pools=1 -n {}/varnish",
        vcl.display(),
        room.display()
    );
    let mut command = Command::new("varnishd");
    command.args(words.split(' '));
    command
}

fn f(count: u64) -> f64 {
    // Exact up to 2^52, and nothing here is larger.
    let (high, low) = (u32::try_from(count >> 32).unwrap_or(u32::MAX), (count & 0xffff_ffff) as u32);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
