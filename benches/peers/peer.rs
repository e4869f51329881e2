//! The servers: how each is configured to do the same as the others, started, watched and ended.

use crate::machine;
use crate::origin;
use crate::origin::Origin;
use crate::relay;
use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long a server may take to end before it is made to.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a server is made of.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// This program again, with this word: a floor, which decides nothing.
    Own(&'static str),
    /// Another one.
    Other(&'static str),
}

/// A server to compare with.
#[derive(Debug)]
pub struct Peer {
    /// Its name, in the arguments and in the report.
    pub name: &'static str,
    /// The program.
    pub program: Program,
    /// What makes it tell its version.
    pub version: &'static str,
    /// Writes its configuration into the room and gives its arguments.
    pub configure: fn(&Place<'_>) -> std::io::Result<Vec<String>>,
}

/// All servers, the floors first.
pub const PEERS: &[Peer] = &[
    Peer { name: "floor", program: Program::Own(origin::VERB), version: "", configure: |_| Ok(Vec::new()) },
    Peer { name: "relay", program: Program::Own(relay::VERB), version: "", configure: |_| Ok(Vec::new()) },
    Peer { name: "tidegate", program: TIDEGATE, version: "--version", configure: tidegate },
    Peer { name: "haproxy", program: Program::Other("haproxy"), version: "-v", configure: haproxy },
    Peer { name: "haproxy-alike", program: Program::Other("haproxy"), version: "-v", configure: haproxy_alike },
    Peer { name: "nginx", program: Program::Other("nginx"), version: "-v", configure: nginx },
    Peer { name: "varnish", program: Program::Other("varnishd"), version: "-V", configure: varnish },
];

pub const TIDEGATE: Program = Program::Other(env!("CARGO_BIN_EXE_tidegate"));

/// Where a server shall be.
pub struct Place<'a> {
    /// Listens here.
    pub addr: SocketAddr,
    /// Asks there.
    pub origin: SocketAddr,
    /// Keeps its files here.
    pub room: &'a Path,
}

impl Place<'_> {
    /// Writes a file into the room and gives its path.
    pub fn write(&self, name: &str, text: &str) -> std::io::Result<String> {
        let path = self.room.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

impl Peer {
    /// Starts it in front of `origin`.
    pub fn start(&self, addr: SocketAddr, origin: SocketAddr, room: &Path) -> Result<Server, String> {
        let program = match self.program {
            Program::Own(verb) => return Ok(Server::Floor(origin::start(verb, addr, Some(origin))?)),
            Program::Other(program) => program,
        };
        if !Path::new(program).is_absolute() && !machine::installed(program) {
            return Err(format!("{program} is NOT INSTALLED"));
        }
        let arguments =
            (self.configure)(&Place { addr, origin, room }).map_err(|error| format!("configure it: {error}"))?;
        let diary = room.join("diary");
        let started = File::create(&diary).and_then(|file| {
            let mut command = command(program);
            command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()
        });
        let child = started.map_err(|error| format!("start {program}: {error}"))?;
        Ok(Server::Program { child, diary })
    }

    /// Whether it is for what nobody keeps: a floor for that, and for nothing else.
    pub fn only_passes(&self) -> bool {
        matches!(self.program, Program::Own(relay::VERB))
    }

    /// Whether it keeps anything: a floor answers all from memory, or nothing.
    pub fn keeps(&self) -> bool {
        matches!(self.program, Program::Other(_))
    }

    /// What it calls itself.
    pub fn version(&self) -> Option<String> {
        let Program::Other(program) = self.program else { return None };
        let output = Command::new(program).arg(self.version).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        Some(line.split(" - ").next().unwrap_or(&line).to_owned())
    }
}

/// The program, told to end when this one does, where the system can do that.
fn command(program: &str) -> Command {
    if machine::installed("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", program]);
        command
    } else {
        Command::new(program)
    }
}

/// A running server; dropping it ends it and all its processes.
pub enum Server {
    /// One of the floors.
    Floor(Origin),
    /// Somebody else's, or ours.
    Program { child: Child, diary: PathBuf },
}

impl Server {
    fn id(&self) -> u32 {
        match self {
            Self::Floor(origin) => origin.id(),
            Self::Program { child, .. } => child.id(),
        }
    }

    /// Waits until it answers.
    pub fn wait_until_it_serves(&self, addr: SocketAddr, path: &str) -> Result<(), String> {
        let id = self.id();
        let gone = || machine::has_ended(id);
        let served =
            machine::until(|| gone() || machine::ask(addr, path, None).is_ok_and(|answer| answer.status == 200));
        if served && !gone() { Ok(()) } else { Err(format!("it does not serve; it said:\n{}", self.said())) }
    }

    /// The CPU time of all its processes.
    pub fn cpu(&self) -> Result<Duration, String> {
        machine::cpu(self.id())
    }

    /// The end of what it wrote.
    fn said(&self) -> String {
        let Self::Program { diary, .. } = self else { return String::new() };
        let text = fs::read_to_string(diary).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
        if end.is_empty() { "(nothing)".to_owned() } else { end.join("\n") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Self::Program { child, .. } = self else { return };
        let family = machine::family(child.id());
        machine::signal("TERM", child.id());
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end && !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(child.try_wait(), Ok(None)) {
            for member in family {
                machine::signal("KILL", member);
            }
            // It was killed: this does not wait long.
            let _ = child.wait();
        }
    }
}

fn tidegate(place: &Place<'_>) -> std::io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let text = format!(
        r#"version = 1
[server]
listen = ["{addr}"]
workers = 1
limits = {{ connections = 5000, per_client = 5000 }}
[admin]
socket = "{}/admin.sock"
[log]
level = "warn"
access = "off"
[limit.per-client]
rate = "off"
[upstream.origin]
servers = ["{origin}"]
threads = 64
check = {{ kind = "off" }}
[site."bench"]
default = true
upstream = "origin"
"#,
        room.display()
    );
    Ok(vec!["run".to_owned(), "--config".to_owned(), place.write("tidegate.toml", &text)?])
}

/// What tidegate says and minds about each request unless it is told not to, in HAProxy's words.
struct Alike {
    requests: &'static str,
    responses: &'static str,
    backend: &'static str,
    server: &'static str,
}

/// A relay that believes everything, and says nothing of itself.
const BARE: Alike = Alike { requests: "", responses: "", backend: "", server: "" };

/// The truth about the client in place of what he says, Via and Cache-Status, a bounded queue before the least busy server.
const FULL: Alike = Alike {
    requests: "    http-request del-header x-forwarded -m beg
    http-request del-header x-real-ip
    http-request del-header forwarded
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto http
    http-request set-header x-forwarded-host %[req.hdr(host)]
    http-request set-header x-forwarded-port %[dst_port]
    http-request add-header via \"1.1 haproxy\"
",
    responses: "    http-response add-header via \"1.1 haproxy\"
    http-response add-header cache-status \"haproxy; fwd=uri-miss\"
",
    backend: "    balance leastconn\n",
    server: " maxconn 64",
};

fn haproxy(place: &Place<'_>) -> std::io::Result<Vec<String>> {
    haproxy_with(place, &BARE)
}

fn haproxy_alike(place: &Place<'_>) -> std::io::Result<Vec<String>> {
    haproxy_with(place, &FULL)
}

fn haproxy_with(place: &Place<'_>, alike: &Alike) -> std::io::Result<Vec<String>> {
    let Place { addr, origin, .. } = place;
    let Alike { requests, responses, backend, server } = alike;
    let text = format!(
        "global
    nbthread 1
    maxconn 5000
cache bench
    total-max-size 64
    max-object-size 1000000
    max-age 3600
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-keep-alive
frontend edge
    bind {addr}
{requests}    http-request cache-use bench
    http-response cache-store bench
{responses}    default_backend origin
backend origin
    http-reuse always
{backend}    server origin {origin}{server}
"
    );
    Ok(vec!["-db".to_owned(), "-f".to_owned(), place.write("haproxy.cfg", &text)?])
}

fn nginx(place: &Place<'_>) -> std::io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let room = room.display();
    // Who is root stays root: the worker must reach its files in our room.
    let user = if fs::metadata("/proc/self")?.uid() == 0 { "user root;" } else { "" };
    let text = format!(
        "{user}
daemon off;
worker_processes 1;
pid {room}/pid;
error_log stderr crit;
events {{ worker_connections 5000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    open_file_cache max=1000;
    client_body_temp_path {room}/body;
    proxy_temp_path {room}/proxy;
    fastcgi_temp_path {room}/fastcgi;
    uwsgi_temp_path {room}/uwsgi;
    scgi_temp_path {room}/scgi;
    proxy_cache_path {room}/cache levels=1:2 keys_zone=bench:10m use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {addr};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache bench;
        }}
    }}
}}
"
    );
    Ok(vec!["-e".to_owned(), "stderr".to_owned(), "-c".to_owned(), place.write("nginx.conf", &text)?])
}

fn varnish(place: &Place<'_>) -> std::io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let backend =
        format!("vcl 4.1;\nbackend origin {{ .host = \"{}\"; .port = \"{}\"; }}\n", origin.ip(), origin.port());
    let vcl = place.write("bench.vcl", &backend)?;
    let words = format!(
        "-F -j none -a {addr} -f {vcl} -s malloc,64m -T none -S none -p thread_pools=1 -n {}/varnish",
        room.display()
    );
    Ok(words.split(' ').map(str::to_owned).collect())
}
