//! tidegate and the servers that it replaces under the public suite for HTTP caches, one after the other, in one run.
//!
//! `cargo bench --bench conformance -- [peer ...]`; without words, all of them: half a minute each. Needs node, and npm once. Who
//! is not installed is named and left out. Each is configured to keep what the origin says may be kept, to guess no lifetimes
//! where that can be switched off, and to revalidate; tidegate as shipped, and with its origin believed.

#[path = "peers/machine.rs"]
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod machine;
#[path = "peers/origin.rs"]
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod origin;
#[path = "peers/peer.rs"]
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod peer;
#[path = "peers/relay.rs"]
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod relay;
#[path = "../tests/conformance/suite.rs"]
#[allow(dead_code, reason = "shared with tests/conformance.rs")]
mod suite;

use peer::Peer;
use peer::Place;
use peer::Program;
use peer::TIDEGATE;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use suite::Expected;
use suite::Passed;
use suite::Suite;

const PEERS: &[Peer] = &[
    Peer { name: "shipped", program: TIDEGATE, version: "--version", configure: shipped },
    Peer { name: "believing", program: TIDEGATE, version: "--version", configure: believing },
    Peer { name: "squid", program: Program::Other("squid"), version: "-v", configure: squid },
    Peer { name: "nginx", program: Program::Other("nginx"), version: "-v", configure: nginx },
    Peer { name: "ats", program: Program::Other("traffic_server"), version: "-V", configure: traffic_server },
    Peer { name: "apache", program: Program::Other("apache2"), version: "-v", configure: apache },
    Peer { name: "varnish", program: Program::Other("varnishd"), version: "-V", configure: varnish },
    Peer { name: "haproxy", program: Program::Other("haproxy"), version: "-v", configure: haproxy },
];

fn main() -> anyhow::Result<()> {
    // `cargo test --all-targets` runs benches too, without this word; minutes are not what it wants.
    let words: Vec<String> = env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        eprintln!("conformance: run it as `cargo bench --bench conformance`");
        return Ok(());
    }
    let wanted: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    if let Some(word) = wanted.iter().find(|word| PEERS.iter().all(|peer| peer.name != **word)) {
        anyhow::bail!("`{word}` is no peer");
    }
    let suite = Suite::start()?;
    let room = tempfile::tempdir()?;
    open(room.path())?;
    let mut all = Vec::new();
    for peer in PEERS.iter().filter(|peer| wanted.is_empty() || wanted.contains(&peer.name)) {
        eprintln!("conformance: {} ...", peer.name);
        match run(peer, &suite, room.path()) {
            Ok(passed) => all.push(passed),
            Err(problem) => eprintln!("\nconformance: *** {} LEFT OUT: {problem:#} ***\n", peer.name),
        }
    }
    let versions: Vec<String> = PEERS.iter().skip(1).filter_map(Peer::version).collect();
    println!("{}\n{}", versions.join("; "), suite.table(&all, &Expected::read()?));
    Ok(())
}

fn run(peer: &Peer, suite: &Suite, room: &Path) -> anyhow::Result<Passed> {
    let room = room.join(peer.name);
    fs::create_dir(&room)?;
    open(&room)?;
    let addr = machine::free_addr().map_err(anyhow::Error::msg)?;
    let server = peer.start(addr, suite.origin, &room).map_err(anyhow::Error::msg)?;
    server.wait_until_it_serves(addr, "/index.html").map_err(anyhow::Error::msg)?;
    suite.run(peer.name, addr)
}

/// Lets servers who give up root write there.
fn open(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

fn shipped(place: &Place<'_>) -> io::Result<Vec<String>> {
    tidegate(place, "")
}

fn believing(place: &Place<'_>) -> io::Result<Vec<String>> {
    let cache = "trust_origin = true\nheuristic = \"24h\"\nhide_s_maxage = false\nclient_cache_control = \"honour\"";
    tidegate(place, cache)
}

fn tidegate(place: &Place<'_>, cache: &str) -> io::Result<Vec<String>> {
    let Place { addr, origin, .. } = place;
    let text = format!(
        "version = 1
[server]
listen = [\"{addr}\"]
limits = {{ per_client = 1000 }}
[admin]
socket = \"off\"
[log]
level = \"warn\"
access = \"off\"
[limit.per-client]
rate = \"off\"
[cache]
{cache}
[upstream.origin]
servers = [\"{origin}\"]
threads = 64
check = {{ kind = \"off\" }}
[site.suite]
preset = \"plain\"
default = true
upstream = \"origin\"
"
    );
    Ok(vec!["run".to_owned(), "--config".to_owned(), place.write("tidegate.toml", &text)?])
}

fn squid(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let text = format!(
        "http_port {addr} accel defaultsite=localhost no-vhost
cache_peer {} parent {} 0 no-query no-digest originserver default login=PASSTHRU name=origin
cache_peer_access origin allow all
http_access allow all
shutdown_lifetime 1 second
connect_retries 3
pid_filename none
access_log none
cache_log {}/cache.log
coredump_dir none
",
        origin.ip(),
        origin.port(),
        room.display()
    );
    Ok(vec!["-N".to_owned(), "-f".to_owned(), place.write("squid.conf", &text)?])
}

fn nginx(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let room = room.display();
    let text = format!(
        "daemon off;
worker_processes 1;
pid {room}/pid;
error_log stderr crit;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {room}/body;
    proxy_temp_path {room}/proxy;
    fastcgi_temp_path {room}/fastcgi;
    uwsgi_temp_path {room}/uwsgi;
    scgi_temp_path {room}/scgi;
    proxy_cache_path {room}/cache levels=1:2 keys_zone=suite:8m;
    server {{
        listen {addr};
        location / {{
            proxy_pass http://{origin};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_cache suite;
            proxy_cache_revalidate on;
        }}
    }}
}}
"
    );
    Ok(vec!["-e".to_owned(), "stderr".to_owned(), "-c".to_owned(), place.write("nginx.conf", &text)?])
}

fn traffic_server(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    for dir in ["run", "log", "cache"] {
        fs::create_dir(room.join(dir))?;
    }
    let room = room.display();
    let records = format!(
        "CONFIG proxy.config.http.server_ports STRING {}:ip-in={}
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.http.insert_response_via_str INT 0
CONFIG proxy.config.http.cache.http INT 1
CONFIG proxy.config.http.cache.required_headers INT 2
CONFIG proxy.config.http.cache.when_to_revalidate INT 0
CONFIG proxy.config.http.cache.ignore_client_cc_max_age INT 1
",
        addr.port(),
        addr.ip()
    );
    place.write("records.config", &records)?;
    place.write("remap.config", &format!("map / http://{origin}/\n"))?;
    place.write("storage.config", &format!("{room}/cache 64M\n"))?;
    let allow = "ip_allow:\n  - apply: in\n    ip_addrs: 0/0\n    action: allow\n    methods: ALL\n";
    place.write("ip_allow.yaml", allow)?;
    let layout = format!(
        "prefix: /usr
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
sysconfdir: {room}
localstatedir: {room}
runtimedir: {room}/run
logdir: {room}/log
cachedir: {room}/cache
datadir: {room}/cache
"
    );
    Ok(vec![format!("--run-root={}", place.write("runroot.yaml", &layout)?)])
}

fn apache(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    fs::create_dir(room.join("cache"))?;
    open(&room.join("cache"))?;
    let room = room.display();
    let load = |name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so");
    let modules = ["mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk"].map(load).join("\n");
    let text = format!(
        "{modules}
ServerRoot {room}
PidFile {room}/pid
Mutex file:{room}
ServerName localhost
ServerLimit 4
ThreadLimit 256
ThreadsPerChild 256
MaxRequestWorkers 512
StartServers 1
User www-data
Group www-data
ErrorLog {room}/error.log
Listen {addr}
<VirtualHost *>
  ProxyPass / http://{origin}/
  CacheEnable disk /
  CacheRoot {room}/cache
  CacheDirLevels 2
  CacheDirLength 1
  CacheDefaultExpire 0
  CacheIgnoreNoLastMod On
  CacheStoreExpired On
</VirtualHost>
"
    );
    Ok(vec!["-DFOREGROUND".to_owned(), "-f".to_owned(), place.write("apache.conf", &text)?])
}

fn varnish(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, room } = place;
    let backend =
        format!("vcl 4.1;\nbackend origin {{ .host = \"{}\"; .port = \"{}\"; }}\n", origin.ip(), origin.port());
    let words = format!(
        "-F -j none -a {addr} -f {} -s malloc,64m -T none -S none -p default_ttl=0 -p default_grace=0 -p default_keep=3600 \
         -n {}/varnish",
        place.write("suite.vcl", &backend)?,
        room.display()
    );
    Ok(words.split(' ').map(str::to_owned).collect())
}

fn haproxy(place: &Place<'_>) -> io::Result<Vec<String>> {
    let Place { addr, origin, .. } = place;
    let text = format!(
        "global
    maxconn 2000
cache suite
    total-max-size 64
    max-object-size 1000000
    max-age 86400
    process-vary on
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend edge
    bind {addr}
    http-request cache-use suite
    http-response cache-store suite
    default_backend origin
backend origin
    server origin {origin}
"
    );
    Ok(vec!["-db".to_owned(), "-f".to_owned(), place.write("haproxy.cfg", &text)?])
}
