//! What visitors see of tidegate after it was restarted, or killed, with a cache on disk: a process of its own, real sockets.

#[allow(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/origin.rs"]
mod origin;

use std::collections::HashMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use self::client::Client;
use self::client::Reply;
use self::origin::DEADLINE;
use self::origin::Origin;
use self::origin::Then;
use self::origin::write;

/// A running tidegate; killed when dropped.
struct Edge {
    child: Child,
    address: SocketAddr,
    diary: mpsc::Receiver<String>,
}

impl Edge {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(dir.join("tidegate.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, diary) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut edge = Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), diary };
        let line = edge.told("serving version");
        let place = line.split("http://").nth(1).and_then(|rest| rest.split('"').next()).expect("a listener");
        edge.address = place.parse().expect("an address");
        edge
    }

    /// The next line of its diary that has this in it.
    fn told(&self, part: &str) -> String {
        let due = Instant::now() + DEADLINE;
        let mut told = Vec::new();
        while let Ok(line) = self.diary.recv_timeout(due.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return line;
            }
            told.push(line);
        }
        panic!("its diary never says {part}: {}", told.join("\n"));
    }

    fn client(&self) -> Client {
        Client::to(self.address)
    }

    fn get(&self, path: &str) -> Reply {
        self.client().get(path)
    }

    fn purge(&self, path: &str) -> u16 {
        self.client().send(format!("PURGE {path} HTTP/1.1\r\nHost: www.example.org\r\n\r\n")).reply().status
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn stop(mut self) {
        let sent = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the disk is read, and what was stored is written.
fn settle(dir: &Path) {
    let due = Instant::now() + DEADLINE;
    loop {
        let said = say(dir, &["status", "--json"]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if text.contains("\"phase\":\"ready\"") && text.contains("\"waiting\":0") {
            return;
        }
        assert!(Instant::now() < due, "it does not settle: {text} {}", String::from_utf8_lossy(&said.stderr));
    }
}

/// What the program says to these arguments.
fn say(dir: &Path, arguments: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .arg("--socket")
        .arg(dir.join("admin.sock"))
        .output();
    program.expect("it runs")
}

fn configure(dir: &Path, origin: &Origin, cache: &str, site: &str) {
    let path = dir.display();
    let text = format!(
        "version = 1\n[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\ndrain = \"1s\"\n[log]\naccess = \"off\"\n\
         [cache]\nmemory = \"16MiB\"\nobject_max = \"2MiB\"\ndisk = \"{path}/cache\"\ndisk_size = \"64MiB\"\n{cache}\n\
         [admin]\nsocket = \"{path}/admin.sock\"\n[limit.per-client]\nrate = \"off\"\n\
         [site.\"www.example.org\"]\nupstream = \"zope\"\n{site}\n\
         [upstream.zope]\nservers = [\"{}\"]\ncheck = {{ kind = \"off\", every = \"100ms\" }}\n",
        origin.address
    );
    fs::write(dir.join("tidegate.toml"), text).expect("a file");
}

/// An origin that says for each path which one it is.
fn pages(lines: &'static str) -> Origin {
    Origin::new(move |asked, stream| {
        let body = format!("page {}", asked.target());
        let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Type: text/plain\r\nContent-Length: {}\r\n", body.len());
        write(stream, format!("{head}\r\n{body}").as_bytes());
        Then::Keep
    })
}

const FRESH: &str = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n";

#[test]
fn after_a_restart_pages_come_from_the_disk_with_their_age_and_the_origin_is_not_asked() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages("Cache-Control: max-age=3600\r\nAge: 100\r\nETag: \"a\"\r\nVary: Accept-Language\r\n");
    configure(dir.path(), &origin, "", "");
    for kill in [false, true] {
        let edge = Edge::start(dir.path());
        settle(dir.path());
        for number in 0..20 {
            for language in ["de", "en"] {
                let reply =
                    edge.client().ask(&format!("/{number}"), &format!("Accept-Language: {language}\r\n")).reply();
                assert_eq!(reply.text(), format!("page /{number}"));
            }
        }
        if kill {
            edge.kill();
        } else {
            settle(dir.path());
            edge.stop();
        }
        let asked = origin.asked().len();
        assert_eq!(asked, 40, "once each, whatever ended it");
        let edge = Edge::start(dir.path());
        settle(dir.path());
        let explained = say(dir.path(), &["explain", "http://www.example.org/7", "-H", "Accept-Language: en"]);
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(explained.contains("on disk") && explained.contains("hit; ttl="), "{explained}");
        for number in 0..20 {
            let path = format!("/{number}");
            let first = edge.client().ask(&path, "Accept-Language: en\r\n").reply();
            let status = first.field("cache-status").unwrap_or_default().to_owned();
            assert!(status.contains("hit; ttl=") && status.contains("detail=disk"), "{}", first.head);
            assert_eq!(first.text(), format!("page {path}"));
            let age: u64 = first.field("age").and_then(|age| age.parse().ok()).expect("an age");
            assert!((100..100 + DEADLINE.as_secs()).contains(&age), "{age}");
            let next = edge.client().ask(&path, "Accept-Language: de\r\n").reply();
            assert!(next.is_hit() && !next.field("cache-status").unwrap_or_default().contains("disk"), "{}", next.head);
        }
        assert_eq!(origin.asked().len(), asked);
        let status = say(dir.path(), &["status"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains("disk: 20 URLs"), "{status}");
        edge.kill();
    }
}

#[test]
fn a_bare_path_that_is_purged_right_after_a_restart_is_gone_under_every_name() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages(FRESH);
    configure(dir.path(), &origin, "", "");
    let edge = Edge::start(dir.path());
    for path in ["/a", "/a?x=1", "/b"] {
        edge.get(path);
    }
    settle(dir.path());
    edge.kill();
    let edge = Edge::start(dir.path());
    // Whether the disk has been read by now or not.
    assert!(matches!(edge.purge("/a"), 200 | 404));
    edge.kill();
    let edge = Edge::start(dir.path());
    settle(dir.path());
    for (path, hit) in [("/a", false), ("/a?x=1", false), ("/b", true)] {
        let reply = edge.get(path);
        let diary: Vec<String> = edge.diary.try_iter().collect();
        let said = diary.join("\n");
        assert!(reply.is_hit() == hit && reply.text() == format!("page {path}"), "{path}: {}{said}", reply.head);
    }
}

#[test]
fn who_wants_only_what_is_cached_gets_it_from_the_disk_too() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages("Cache-Control: max-age=3600\r\nETag: \"a\"\r\nVary: Accept-Language\r\n");
    configure(dir.path(), &origin, "", "");
    let edge = Edge::start(dir.path());
    for language in ["de", "en"] {
        edge.client().ask("/a", &format!("Accept-Language: {language}\r\n")).reply();
    }
    settle(dir.path());
    edge.kill();
    let edge = Edge::start(dir.path());
    settle(dir.path());
    let ask = |path: &str, language: &str| {
        let lines = format!("Accept-Language: {language}\r\nCache-Control: only-if-cached\r\n");
        edge.client().ask(path, &lines).reply()
    };
    for (path, language, status) in [("/b", "de", 504), ("/a", "fr", 504), ("/a", "de", 200), ("/a", "en", 200)] {
        let reply = ask(path, language);
        assert_eq!(reply.status, status, "{path} {language}: {}", reply.head);
        assert!(status == 504 || reply.is_hit() && reply.text() == "page /a", "{}", reply.head);
    }
    assert_eq!(origin.asked().len(), 2, "it was not asked again");
}

#[test]
fn what_was_made_stale_before_a_restart_is_stale_after_it_and_other_sites_keep_what_they_have() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages(FRESH);
    let other = "grace_error = \"1h\"";
    let second = "\n[site.\"other.example.org\"]\nupstream = \"zope\"";
    configure(dir.path(), &origin, other, second);
    let edge = Edge::start(dir.path());
    let from = |edge: &Edge, host: &str| edge.client().send(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply();
    for host in ["www.example.org", "other.example.org"] {
        assert!(!from(&edge, host).is_hit());
    }
    settle(dir.path());
    let said = say(dir.path(), &["purge", "--soft", "--site", "www.example.org"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    edge.kill();
    let edge = Edge::start(dir.path());
    settle(dir.path());
    let asked = origin.asked().len();
    assert!(from(&edge, "other.example.org").is_hit(), "the other site's is as fresh as it was");
    assert_eq!(origin.asked().len(), asked);
    let reply = from(&edge, "www.example.org");
    assert!(!reply.is_hit() && reply.status == 200, "{}", reply.head);
    let about = origin.asked().pop().expect("it was asked");
    assert!(about.head.to_ascii_lowercase().contains("if-none-match: \"a\""), "about what is kept: {}", about.head);
}

#[test]
fn what_the_new_settings_would_not_have_stored_is_not_served() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages(FRESH);
    configure(dir.path(), &origin, "", "");
    let edge = Edge::start(dir.path());
    edge.get("/a");
    settle(dir.path());
    edge.stop();
    for (cache, site, hit) in [
        ("grace_error = \"1h\"", "", false),
        ("", "preset = \"plone-classic\"", false),
        ("", "zope = \"/Plone\"", false),
        ("purge_soft = true", "hsts = \"1h\"", true),
        ("", "", true),
    ] {
        configure(dir.path(), &origin, cache, site);
        let edge = Edge::start(dir.path());
        settle(dir.path());
        let explained = say(dir.path(), &["explain", "http://www.example.org/a"]);
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert_eq!(explained.contains("hit; ttl="), hit, "{cache} {site}: {explained}");
        if hit {
            assert!(edge.get("/a").is_hit());
        }
        edge.stop();
    }
}

#[test]
fn a_second_process_leaves_the_directory_alone_and_serves_without_it() {
    let dir = TempDir::new().expect("a directory");
    let origin = pages(FRESH);
    configure(dir.path(), &origin, "", "");
    let first = Edge::start(dir.path());
    first.get("/a");
    let text = fs::read_to_string(dir.path().join("tidegate.toml")).expect("its file");
    let other = TempDir::new().expect("a directory");
    let text = text.replace(&format!("{}/admin.sock", dir.path().display()), &format!("{}/s", other.path().display()));
    fs::write(other.path().join("tidegate.toml"), text).expect("a file");
    let second = Edge::start(other.path());
    assert_eq!(second.get("/a").text(), "page /a");
    assert_eq!(second.get("/a").text(), "page /a");
    settle(dir.path());
    first.kill();
    let third = Edge::start(dir.path());
    settle(dir.path());
    assert!(third.get("/a").is_hit());
}

/// What the origin says now of each page, and what visitors must not see any more.
#[derive(Default)]
struct Truth {
    now: Mutex<HashMap<String, u64>>,
    least: Mutex<HashMap<String, u64>>,
}

impl Truth {
    fn of(map: &Mutex<HashMap<String, u64>>, path: &str) -> u64 {
        map.lock().expect("no panic").get(path).copied().unwrap_or(0)
    }
}

/// A page that shows in each line which one it is, and of which version.
fn page(path: &str, version: u64) -> String {
    let line = format!("{path} {version}\n");
    let lines = 1 + path.bytes().map(usize::from).sum::<usize>() % 97 * 40;
    line.repeat(lines)
}

fn checked(reply: &Reply, path: &str, least: u64) {
    let text = reply.text();
    let first = text.lines().next().unwrap_or_default();
    let version = first.rsplit(' ').next().and_then(|version| version.parse().ok()).expect("a version");
    assert!(text == page(path, version), "{path}: not a whole page of one version");
    assert!(version >= least, "{path}: version {version} was purged, {least} is the oldest that may be served");
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Visitors and editors, until the process is gone.
fn traffic(address: SocketAddr, truth: &Truth, mut random: Random, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let Ok(stream) = std::net::TcpStream::connect(address) else { return };
        drop(stream);
        let path = format!("/page{}", random.below(300));
        if random.below(4) > 0 {
            let least = Truth::of(&truth.least, &path);
            if let Some(reply) = once(address, &format!("GET {path}")).filter(|reply| reply.whole) {
                checked(&reply, &path, least);
            }
            continue;
        }
        // An editor changes the page; from the answer on nobody may see what was before.
        let version = {
            let mut now = truth.now.lock().expect("no panic");
            let version = now.entry(path.clone()).or_default();
            *version += 1;
            *version
        };
        let answer = once(address, &format!("PURGE {path}"));
        if answer.is_some_and(|reply| reply.whole && matches!(reply.status, 200 | 404)) {
            let mut least = truth.least.lock().expect("no panic");
            let known = least.entry(path).or_default();
            *known = version.max(*known);
        }
    }
}

/// The answer to one request, unless the process is killed meanwhile.
fn once(address: SocketAddr, line: &str) -> Option<Reply> {
    let asked = std::panic::catch_unwind(|| {
        let mut client = Client::to(address);
        client.send(format!("{line} HTTP/1.1\r\nHost: www.example.org\r\n\r\n"));
        let head = client.head_if_any()?;
        Some(client.rest(head))
    });
    asked.ok().flatten()
}

#[test]
fn killed_fifty_times_it_serves_whole_pages_and_none_that_was_purged() {
    let dir = TempDir::new().expect("a directory");
    let truth = Arc::new(Truth::default());
    let of_origin = Arc::clone(&truth);
    let origin = Origin::new(move |asked, stream| {
        let body = page(asked.target(), Truth::of(&of_origin.now, asked.target()));
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: {}\r\n", body.len());
        write(stream, format!("{head}\r\n{body}").as_bytes());
        Then::Keep
    });
    configure(dir.path(), &origin, "", "");
    let mut random = Random(u64::from(std::process::id()));
    let mut from_disk = 0;
    for round in 0..50 {
        let edge = Edge::start(dir.path());
        let over = AtomicBool::new(false);
        let address = edge.address;
        thread::scope(|scope| {
            for _ in 0..3 {
                let random = Random(random.below(u64::MAX));
                let (truth, over) = (&truth, &over);
                scope.spawn(move || traffic(address, truth, random, over));
            }
            // Somewhere within what it is doing.
            thread::park_timeout(Duration::from_millis(20 + random.below(250)));
            edge.kill();
            over.store(true, Ordering::SeqCst);
        });
        if round % 5 == 4 {
            let edge = Edge::start(dir.path());
            settle(dir.path());
            let mut client = edge.client();
            for number in 0..300 {
                let path = format!("/page{number}");
                let reply = client.get(&path);
                checked(&reply, &path, Truth::of(&truth.least, &path));
                from_disk += u64::from(reply.field("cache-status").is_some_and(|status| status.contains("disk")));
            }
            edge.kill();
        }
    }
    assert!(from_disk > 100, "the test is about what is on the disk: {from_disk}");
}
