//! Good and bad clients at once, for as long as one likes: what honest visitors notice, and whether anything grows.
//!
//!     cargo bench --bench soak -- --seconds 600            all attacks at once
//!     cargo bench --bench soak -- --each --seconds 10      one attack after the other
//!     cargo bench --bench soak -- --only "h2 pings"        one of them
//!     cargo bench --bench soak -- --idle 5000              memory of idle connections, in cleartext and with TLS
//!
//! tidegate runs as a process of its own, with two workers; its memory, descriptors and processor time are read from /proc.
//! Attackers share the machine with it, so they are made to yield to it (`nice`): what they take would not be taken from a
//! server that they attack from elsewhere. Beside each attack stands what an honest visitor of the calm server notices in the
//! same run, and tidegate's processor time per thing that it had to refuse, take or end. Nothing is judged.

#[allow(dead_code, reason = "shared with tests/hostile, which uses all of it")]
#[path = "../tests/hostile/h2.rs"]
mod h2;
#[allow(dead_code, reason = "shared with tests/proxy, which uses all of it")]
#[path = "../tests/proxy/origin.rs"]
mod origin;

use self::h2::CONTINUATION;
use self::h2::Conversation;
use self::h2::DATA;
use self::h2::END_HEADERS;
use self::h2::END_STREAM;
use self::h2::HEADERS;
use self::h2::PING;
use self::h2::RST_STREAM;
use self::h2::WINDOW_UPDATE;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::RootCertStore;
use rustls::StreamOwned;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::fmt::Write as _;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// One attacker's work until it is told to stop; gives how many things the server has had to deal with.
type Attack = fn(SocketAddr, &AtomicBool) -> u64;

const ATTACKS: &[(&str, Attack)] = &[
    ("slow heads", slow_heads),
    ("slow bodies", slow_bodies),
    ("readers that do not read", no_readers),
    ("connections without a byte", silent),
    ("connect and close", churn),
    ("nonsense", nonsense),
    ("pipelines", pipelines),
    ("misses", misses),
    ("TLS handshakes", handshakes),
    ("h2 pings", pings),
    ("h2 rapid reset", rapid_reset),
    ("h2 made-you-reset", made_you_reset),
    ("h2 continuations", continuations),
    ("h2 field bomb", field_bomb),
    ("h2 windows of nothing", no_windows),
];

/// Where the server speaks TLS, and who believes its certificate.
static SECURE: OnceLock<(SocketAddr, Arc<ClientConfig>)> = OnceLock::new();

struct Options {
    seconds: u64,
    each: bool,
    only: Option<String>,
    idle: Option<usize>,
}

fn options() -> Options {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)?.parse::<usize>().ok()
    };
    let seconds = number("--seconds").unwrap_or(20) as u64;
    let only = words.iter().position(|word| word == "--only").and_then(|at| words.get(at + 1)).cloned();
    let each = only.is_some() || words.iter().any(|word| word == "--each");
    Options { seconds, each, only, idle: number("--idle") }
}

fn main() {
    let options = options();
    let origin = serve_pages();
    if let Some(count) = options.idle {
        return idle(origin, count);
    }
    let server = Server::start(origin, "3s");
    warm(server.place);
    let calm = run(&server, &[], 3);
    println!("{:28} {}", "no attack", calm.line());
    if options.each {
        for attack in ATTACKS.iter().filter(|(name, _)| options.only.as_deref().is_none_or(|only| only == *name)) {
            println!("{:28} {}", attack.0, run(&server, std::slice::from_ref(attack), options.seconds).line());
        }
    } else {
        let told = run(&server, ATTACKS, options.seconds);
        println!("{:28} {}", "all attacks at once", told.line());
        println!("{}", told.slopes());
    }
    // All time-outs of the configuration are over by then.
    thread::sleep(Duration::from_secs(12));
    let (rss, descriptors) = server.takes();
    println!("12 seconds after the end: {rss} KiB, {descriptors} descriptors");
}

/// tidegate, as a process.
struct Server {
    child: Child,
    place: SocketAddr,
    secure: SocketAddr,
    /// Believes its certificate.
    client: Arc<ClientConfig>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(origin: SocketAddr, waits: &str) -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (place, secure) = (free(), free());
        let made = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).expect("a certificate");
        let (cert, key) = (dir.path().join("own.crt"), dir.path().join("own.key"));
        fs::write(&cert, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let socket = dir.path().join("admin.sock");
        let text = format!(
            "version = 1\n[server]\nlisten = [\"{place}\", \"https://{secure}\"]\nworkers = 2\nh2c = true\nredirect_https = false\nspool = \"{spool}\"\n\
             [server.limits]\nper_client = 10000\nidle = \"{waits}\"\nhead = \"3s\"\nfirst_byte = \"{waits}\"\n\
             body_idle = \"3s\"\nwrite_idle = \"3s\"\n[cache]\nmemory = \"16MiB\"\nobject_max = \"2MiB\"\n[log]\naccess = \"off\"\nlevel = \"error\"\n\
             [admin]\nsocket = \"{socket}\"\n[site.\"www.example.org\"]\nupstream = \"zope\"\n\
             [upstream.zope]\nservers = [\"{origin}\"]\nthreads = 8\ncheck = {{ kind = \"off\" }}\n\
             [limit.per-client]\nrate = \"off\"\n[tls]\ncerts = [{{ cert = \"{cert}\", key_file = \"{key}\" }}]\n",
            cert = cert.display(),
            key = key.display(),
            spool = dir.path().display(),
            socket = socket.display(),
        );
        // Attackers aim at the first, the only one while they are there.
        let _ = SECURE.set((secure, Arc::clone(&client)));
        let file = dir.path().join("tidegate.toml");
        fs::write(&file, text).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["run", "--config"]).arg(&file).spawn();
        let server = Self { child: child.expect("tidegate"), place, secure, client, _dir: dir };
        let began = Instant::now();
        while TcpStream::connect(place).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "tidegate does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Resident KiB and open descriptors.
    fn takes(&self) -> (u64, usize) {
        let proc = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{proc}/status")).expect("tidegate lives");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let rss = rss.trim().trim_end_matches(" kB").parse().expect("a number");
        (rss, fs::read_dir(format!("{proc}/fd")).map_or(0, Iterator::count))
    }
}

impl Server {
    /// Seconds of processor time so far.
    fn worked(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("tidegate lives");
        let fields = stat.rsplit_once(')').expect("a name").1;
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An origin with pages of all kinds.
fn serve_pages() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    place
}

fn serve(mut stream: TcpStream) {
    let Ok(second) = stream.try_clone() else { return };
    let mut reader = BufReader::new(second);
    let large = "z".repeat(2_000_000);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).is_err() {
            return;
        }
        let body = if head.starts_with("GET /large") { large.as_str() } else { "hello, visitor" };
        let lifetime = if head.contains(" /page") || head.contains(" /large") { "s-maxage=3600" } else { "private" };
        let answer =
            format!("HTTP/1.1 200 OK\r\nCache-Control: {lifetime}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn warm(place: SocketAddr) {
    for path in ["/page", "/large"] {
        assert!(honest_get(&mut None, place, path), "{path} is not served");
    }
}

/// What honest visitors noticed, and what tidegate took meanwhile.
struct Told {
    asked: usize,
    failed: usize,
    latencies: Vec<Duration>,
    recovered: Duration,
    taken: Vec<(u64, usize)>,
    /// Processor time in all.
    worked: f64,
    /// What attackers made the server deal with.
    dealt: u64,
    seconds: f64,
}

impl Told {
    fn line(&self) -> String {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get(sorted.len() * share / 1000).copied().unwrap_or_default();
        let dealt = f64::from(u32::try_from(self.dealt).unwrap_or(u32::MAX));
        let most = self.taken.iter().map(|(rss, _)| *rss).max().unwrap_or(0);
        let descriptors = self.taken.iter().map(|(_, descriptors)| *descriptors).max().unwrap_or(0);
        format!(
            "honest: {} asked, {} failed, p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}; well after {:.0?}; at most {most} KiB, \
             {descriptors} descriptors; {:.0} % of a core, {:.0} things a second, {:.1} us each",
            self.asked,
            self.failed,
            at(500),
            at(990),
            at(999),
            self.recovered,
            self.worked / self.seconds * 100.0,
            dealt / self.seconds,
            self.worked * 1e6 / dealt.max(1.0),
        )
    }

    /// Least squares over the second half, when all that fills up is full.
    fn slopes(&self) -> String {
        let half = &self.taken[self.taken.len() / 2..];
        let mut text = String::new();
        let memory: Vec<f64> = half.iter().map(|(rss, _)| f64::from(u32::try_from(*rss).unwrap_or(u32::MAX))).collect();
        let files: Vec<f64> =
            half.iter().map(|(_, open)| f64::from(u32::try_from(*open).unwrap_or(u32::MAX))).collect();
        let seconds = half.len();
        let _ = write!(
            text,
            "over the last {seconds} seconds: RSS {:+.1} KiB/min, descriptors {:+.2}/min",
            slope(&memory) * 60.0,
            slope(&files) * 60.0
        );
        let every = (self.taken.len() / 10).max(1);
        for (at, (rss, open)) in self.taken.iter().enumerate().step_by(every) {
            let _ = write!(text, "\n  at {at:4} s: {rss} KiB, {open} descriptors");
        }
        text
    }
}

fn slope(values: &[f64]) -> f64 {
    let count = f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
    let (mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0);
    for (at, y) in values.iter().enumerate() {
        let x = f64::from(u32::try_from(at).unwrap_or(u32::MAX));
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    let below = count * sxx - sx * sx;
    if below.abs() < f64::EPSILON { 0.0 } else { (count * sxy - sx * sy) / below }
}

/// Honest visitors and these attackers for so many seconds.
fn run(server: &Server, attacks: &[(&str, Attack)], seconds: u64) -> Told {
    let place = server.place;
    let stop = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = attacks
        .iter()
        .map(|(_, attack)| {
            let (attack, stop) = (*attack, Arc::clone(&stop));
            thread::spawn(move || {
                // On Linux this is the calling thread's alone, and those that it starts.
                let _ = rustix::process::setpriority_process(None, 15);
                attack(place, &stop)
            })
        })
        .collect();
    let visitors: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || visit(place, &stop))
        })
        .collect();
    let (mut taken, began, before) = (Vec::new(), Instant::now(), server.worked());
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        taken.push(server.takes());
    }
    let (worked, seconds) = (server.worked() - before, began.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    let ended = Instant::now();
    let mut kept = None;
    while !honest_get(&mut kept, place, "/page") && ended.elapsed() < Duration::from_secs(20) {}
    let recovered = ended.elapsed();
    let mut told = Told { asked: 0, failed: 0, latencies: Vec::new(), recovered, taken, worked, dealt: 0, seconds };
    for visitor in visitors {
        let (asked, failed, latencies) = visitor.join().expect("no panic");
        told.asked += asked;
        told.failed += failed;
        told.latencies.extend(latencies);
    }
    for attacker in attackers {
        told.dealt += attacker.join().expect("no panic");
    }
    told
}

fn visit(place: SocketAddr, stop: &AtomicBool) -> (usize, usize, Vec<Duration>) {
    let (mut asked, mut failed, mut latencies, mut kept) = (0, 0, Vec::new(), None);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        asked += 1;
        if honest_get(&mut kept, place, "/page") {
            latencies.push(began.elapsed());
        } else {
            failed += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    (asked, failed, latencies)
}

/// One page, over a kept connection if there is one. A kept one that was closed while idle is no failure.
fn honest_get(kept: &mut Option<BufReader<TcpStream>>, place: SocketAddr, path: &str) -> bool {
    let was_kept = kept.is_some();
    let stream = kept.take().or_else(|| {
        let stream = TcpStream::connect_timeout(&place, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        Some(BufReader::new(stream))
    });
    let Some(mut stream) = stream else { return false };
    if let Some(()) = get_on(&mut stream, path) {
        *kept = Some(stream);
        return true;
    }
    was_kept && honest_get(kept, place, path)
}

fn get_on<S: Read + Write>(stream: &mut BufReader<S>, path: &str) -> Option<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let read = std::io::copy(&mut stream.take(length), &mut std::io::sink()).ok()?;
    (head.starts_with("HTTP/1.1 200") && read == length).then_some(())
}

/// Memory of idle connections of each kind, each of a fresh process: what was freed is used again and not given back.
fn idle(origin: SocketAddr, count: usize) {
    for (name, secure, used) in [
        ("in cleartext, silent", false, false),
        ("in cleartext, used once", false, true),
        ("TLS, handshake done", true, false),
        ("TLS, used once", true, true),
    ] {
        let server = Server::start(origin, "300s");
        warm(server.place);
        let (before, _) = server.takes();
        let mut held: Vec<Box<dyn std::any::Any>> = Vec::with_capacity(count);
        for _ in 0..count {
            if secure {
                let name = ServerName::try_from("www.example.org").expect("a name");
                let session = ClientConnection::new(Arc::clone(&server.client), name).expect("a session");
                let stream = TcpStream::connect(server.secure).expect("a connection");
                let mut stream = StreamOwned::new(session, stream);
                stream.conn.complete_io(&mut stream.sock).expect("a handshake");
                let mut stream = BufReader::with_capacity(64, stream);
                if used {
                    get_on(&mut stream, "/page").expect("an answer");
                }
                held.push(Box::new(stream.into_inner().sock));
            } else {
                let stream = TcpStream::connect(server.place).expect("a connection");
                let mut stream = BufReader::with_capacity(64, stream);
                if used {
                    get_on(&mut stream, "/page").expect("an answer");
                }
                held.push(Box::new(stream.into_inner()));
            }
        }
        // The last of them have been accepted.
        thread::sleep(Duration::from_secs(1));
        let (after, descriptors) = server.takes();
        let each = after.saturating_sub(before) * 1024 / count as u64;
        println!(
            "{count} idle connections {name}: {before} KiB -> {after} KiB, {each} bytes each, {descriptors} descriptors"
        );
    }
}

fn connect(place: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&place, Duration::from_secs(2)).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    Some(stream)
}

/// Holds `count` connections that begin so and go on so, and opens a new one for each that is closed.
fn hold(place: SocketAddr, stop: &AtomicBool, count: usize, begin: &[u8], drop: &[u8]) -> u64 {
    let (mut held, mut opened): (Vec<TcpStream>, u64) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        while held.len() < count {
            let Some(mut stream) = connect(place) else { break };
            let _ = stream.write_all(begin);
            let _ = stream.set_nonblocking(true);
            held.push(stream);
            opened += 1;
        }
        held.retain_mut(|stream| {
            let open = !matches!(stream.peek(&mut [0]), Ok(0))
                && !stream.peek(&mut [0]).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
            open && (drop.is_empty() || stream.write_all(drop).is_ok())
        });
        thread::sleep(Duration::from_millis(200));
    }
    opened
}

fn slow_heads(place: SocketAddr, stop: &AtomicBool) -> u64 {
    hold(place, stop, 200, b"GET /page HTTP/1.1\r\nHost: www.example.org\r\n", b"X-Y: z\r\n")
}

fn slow_bodies(place: SocketAddr, stop: &AtomicBool) -> u64 {
    hold(place, stop, 100, b"POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 100000\r\n\r\n", b"x")
}

fn no_readers(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let many = "GET /large HTTP/1.1\r\nHost: www.example.org\r\n\r\n".repeat(10);
    hold(place, stop, 50, many.as_bytes(), b"")
}

fn silent(place: SocketAddr, stop: &AtomicBool) -> u64 {
    hold(place, stop, 200, b"", b"")
}

fn churn(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        drop(connect(place));
        done += 1;
        thread::sleep(Duration::from_millis(1));
    }
    done
}

fn nonsense(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let pieces: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        b"FROB / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for (done, piece) in (0..).zip(pieces.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            return done;
        }
        if let Some(mut stream) = connect(place) {
            let _ = stream.write_all(piece);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        thread::sleep(Duration::from_millis(1));
    }
    0
}

fn pipelines(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let many = "GET /page HTTP/1.1\r\nHost: www.example.org\r\n\r\n".repeat(1000);
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut stream) = connect(place) else { continue };
        while !stop.load(Ordering::Relaxed) && stream.write_all(many.as_bytes()).is_ok() {
            done += 1000;
        }
    }
    done
}

/// Whole handshakes, each a new one, and nothing more.
fn handshakes(_: SocketAddr, stop: &AtomicBool) -> u64 {
    let (place, client) = SECURE.get().expect("the server runs");
    let mut client = ClientConfig::clone(client);
    client.resumption = Resumption::disabled();
    let (client, mut done) = (Arc::new(client), 0);
    while !stop.load(Ordering::Relaxed) {
        let name = ServerName::try_from("www.example.org").expect("a name");
        let mut session = ClientConnection::new(Arc::clone(&client), name).expect("a session");
        let Some(mut stream) = connect(*place) else { continue };
        done += u64::from(session.complete_io(&mut stream).is_ok());
    }
    done
}

fn misses(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let (mut kept, mut number) = (None, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        honest_get(&mut kept, place, &format!("/page?miss={number}"));
        honest_get(&mut kept, place, &format!("/private?{number}"));
    }
    2 * number
}

/// Sends `piece(0)`, `piece(1)`, ... on one connection after another, reading what comes.
fn flood(place: SocketAddr, stop: &AtomicBool, piece: impl Fn(u32) -> Vec<u8>) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut stream) = connect(place) else { continue };
        let Ok(mut reader) = stream.try_clone() else { continue };
        let reading = thread::spawn(move || {
            let mut bytes = vec![0; 16 * 1024];
            while reader.read(&mut bytes).is_ok_and(|read| read > 0) {}
        });
        let begin = [h2::PREFACE, &h2::frame(h2::SETTINGS, 0, 0, &[])].concat();
        if stream.write_all(&begin).is_ok() {
            let ended = (0..1_000_000).find(|n| stop.load(Ordering::Relaxed) || stream.write_all(&piece(*n)).is_err());
            done += u64::from(ended.unwrap_or(1_000_000));
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = reading.join();
    }
    done
}

fn pings(place: SocketAddr, stop: &AtomicBool) -> u64 {
    flood(place, stop, |_| h2::frame(PING, 0, 0, b"12345678"))
}

fn rapid_reset(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let block = h2::block(&h2::get("/private"));
    flood(place, stop, |n| {
        let mut both = h2::frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block);
        both.extend_from_slice(&h2::frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        both
    })
}

fn made_you_reset(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let block = h2::block(&h2::get("/private"));
    flood(place, stop, |n| {
        let mut all = h2::frame(HEADERS, END_HEADERS, 2 * n + 1, &block);
        all.extend_from_slice(&h2::frame(DATA, 0, 2 * n + 1, b"x"));
        all.extend_from_slice(&h2::frame(WINDOW_UPDATE, 0, 2 * n + 1, &0_u32.to_be_bytes()));
        all
    })
}

fn continuations(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let block = h2::block(&h2::get("/private"));
    let more = h2::block(&[("x", "y")]);
    flood(place, stop, |n| match n {
        0 => h2::frame(HEADERS, END_STREAM, 1, &block),
        _ => h2::frame(CONTINUATION, 0, 1, &more),
    })
}

fn field_bomb(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut block = h2::block(&h2::get("/private"));
    block.push(0x40);
    for text in ["x", &"y".repeat(3000)] {
        h2::integer(&mut block, 0, 7, text.len());
        block.extend_from_slice(text.as_bytes());
    }
    block.extend(std::iter::repeat_n(0xbe, 12_000));
    flood(place, stop, |n| h2::frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block))
}

fn no_windows(place: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        done += 90;
        let mut talk = Conversation::with(place, &h2::setting(4, 0));
        for n in 0..90 {
            talk.send(&h2::request(2 * n + 1, &h2::get("/large")));
        }
        // Until the first of them is reset.
        talk.until(|frame| frame.kind == RST_STREAM || stop.load(Ordering::Relaxed));
    }
    done
}
