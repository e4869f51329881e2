//! Certificates from a real authority's software: Pebble (Debian's package `pebble`) on loopback, with its DNS server.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(90);

/// Pebble, and the renewal information (RFC 9773) that it lacks: its first certificate was to be renewed long ago, the others
/// not in this century. Notes who asked for what.
const ADVISER: &str = r#"
import base64, http.client, json, ssl, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, pebble, cert, key, notes = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
asked = []

class Front(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def note(self, *words):
        with open(notes, 'a') as file:
            print(*words, file=file)

    def answer(self, status, fields, body):
        self.send_response(status)
        for name, value in fields:
            if name.lower() not in ('content-length', 'transfer-encoding', 'connection', 'date', 'server'):
                self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def serve(self):
        replaced = '-'
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.path.startswith('/renewal/'):
            asked.append(self.path[9:])
            self.note('advice', asked[-1])
            year = 2001 if asked[-1] == asked[0] else 2099
            window = {'start': f'{year}-01-01T00:00:00Z', 'end': f'{year}-01-02T00:00:00Z'}
            return self.answer(200, [('Retry-After', '21600')], json.dumps({'suggestedWindow': window}).encode())
        if body:
            payload = json.loads(body).get('payload', '')
            order = json.loads(base64.urlsafe_b64decode(payload + '==') or 'null')
            if order and 'identifiers' in order:
                replaced = order.get('replaces', '-')
                self.note('order', replaced)
        context = ssl._create_unverified_context()
        authority = http.client.HTTPSConnection('127.0.0.1', pebble, context=context)
        kept = {name: value for name, value in self.headers.items() if name.lower() != 'connection'}
        authority.request(self.command, self.path, body or None, kept)
        told = authority.getresponse()
        text = told.read()
        if self.path == '/dir':
            text = json.dumps({**json.loads(text), 'renewalInfo': f'https://{self.headers["Host"]}/renewal'}).encode()
        if replaced != '-':
            # RFC 9773 5: who takes it says so.
            text = json.dumps({**json.loads(text), 'replaces': replaced}).encode()
        self.answer(told.status, told.getheaders(), text)

    do_GET = do_HEAD = do_POST = serve

server = ThreadingHTTPServer(('127.0.0.1', port), Front)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Running {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = change(&mut command).spawn();
    Running(child.unwrap_or_else(|error| panic!("{program}: {error}; Debian's package `pebble` has it")))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<TcpListener> = (0..N).map(|_| TcpListener::bind(local(0)).expect("a port")).collect();
    std::array::from_fn(|at| held[at].local_addr().expect("its address").port())
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < DEADLINE, "{what}: it does not come to pass");
        thread::sleep(Duration::from_millis(100));
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(local(port)).is_ok()
}

/// An authority that looks at proofs at our two ports.
struct Authority {
    _dns: Running,
    pebble: Option<Running>,
    dir: TempDir,
    port: u16,
    http: u16,
    https: u16,
}

impl Authority {
    fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let [port, management, dns, dns_management, http, https] = free_ports();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let file = |name: &str| dir.path().join(name);
        fs::write(file("own.crt"), made.cert.pem()).expect("a file");
        fs::write(file("own.key"), made.signing_key.serialize_pem()).expect("a file");
        let config = format!(
            "{{\"pebble\":{{\"listenAddress\":\"127.0.0.1:{port}\",\"managementListenAddress\":\"127.0.0.1:{management}\",\
             \"certificate\":\"{}\",\"privateKey\":\"{}\",\"httpPort\":{http},\"tlsPort\":{https}}}}}",
            file("own.crt").display(),
            file("own.key").display()
        );
        fs::write(file("pebble.json"), config).expect("a file");
        let names = start("pebble-challtestsrv", |command| {
            command.args([
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ]);
            command.args(["-dns01", &local(dns).to_string(), "-management", &local(dns_management).to_string()])
        });
        wait_until("the authority's DNS", || listens(dns_management));
        // This name leads to where nobody listens.
        let elsewhere = "{\"host\":\"bad.example.org.\",\"addresses\":[\"127.0.0.2\"]}";
        let mut order = TcpStream::connect(local(dns_management)).expect("it listens");
        let head = format!("POST /add-a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", elsewhere.len());
        order.write_all(format!("{head}Connection: close\r\n\r\n{elsewhere}").as_bytes()).expect("sent");
        let mut told = String::new();
        order.read_to_string(&mut told).expect("an answer");
        assert!(told.starts_with("HTTP/1.1 200"), "{told}");
        let pebble = start("pebble", |command| {
            command.env("PEBBLE_VA_NOSLEEP", "1");
            command.args(["-config", &file("pebble.json").display().to_string(), "-dnsserver", &local(dns).to_string()])
        });
        wait_until("the authority", || listens(port));
        Self { _dns: names, pebble: Some(pebble), dir, port, http, https }
    }

    /// tidegate for these sites, keeping certificates in `store`.
    fn edge(&self, sites: &str, challenge: &str, store: &str) -> Running {
        let dir = self.dir.path().display();
        let mut text = format!(
            "version = 1\n[server]\nlisten = [\"127.0.0.1:{}\", \"https://127.0.0.1:{}\"]\nworkers = 1\n\
             [admin]\nsocket = \"{dir}/admin.sock\"\n[log]\naccess = \"off\"\n[tls.acme]\nemail = \"ops@example.org\"\n\
             directory = \"https://localhost:{}/dir\"\nca_file = \"{dir}/own.crt\"\nstore = \"{dir}/{store}\"\n\
             challenge = \"{challenge}\"\n",
            self.http, self.https, self.port
        );
        for site in sites.split(' ') {
            writeln!(text, "[site.\"{site}\"]\nupstream = [\"127.0.0.1:1\"]").expect("text");
        }
        let file = self.dir.path().join("tidegate.toml");
        fs::write(&file, text).expect("a file");
        let diary = fs::File::create(self.dir.path().join("diary")).expect("a file");
        let running = start(env!("CARGO_BIN_EXE_tidegate"), |command| {
            command.stderr(diary).args(["run", "--config", &file.display().to_string()])
        });
        wait_until("tidegate", || listens(self.https));
        running
    }

    fn diary(&self) -> String {
        fs::read_to_string(self.dir.path().join("diary")).expect("a diary")
    }

    /// Who has issued the certificate that is shown for `name`, and for whom.
    fn shown(&self, name: &str) -> String {
        let script = "openssl s_client -connect \"$1\" -servername \"$2\" </dev/null 2>/dev/null \
                      | openssl x509 -noout -issuer -ext subjectAltName -fingerprint";
        let output = Command::new("sh").args(["-c", script, "sh", &local(self.https).to_string(), name]).output();
        String::from_utf8_lossy(&output.expect("openssl is there").stdout).into_owned()
    }

    fn wait_for(&self, name: &str) {
        let began = Instant::now();
        while !self.is_issued(name) {
            assert!(began.elapsed() < DEADLINE, "{name} gets no certificate: {}", self.diary());
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_issued(&self, name: &str) -> bool {
        let shown = self.shown(name);
        shown.contains("Pebble") && shown.contains(&format!("DNS:{name}"))
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn names_get_certificates_one_failing_name_stops_no_other_and_they_are_there_after_a_restart() {
    let mut authority = Authority::start();
    let edge = authority.edge("bad.example.org www.example.org www.example.net", "tls-alpn-01", "store");
    for name in ["www.example.org", "www.example.net"] {
        authority.wait_for(name);
    }
    let placeholder = authority.shown("bad.example.org");
    assert!(placeholder.contains("DNS:bad.example.org") && !placeholder.contains("Pebble"), "{placeholder}");
    let diary = authority.diary();
    assert!(diary.contains("no certificate") && diary.contains("bad.example.org"), "{diary}");
    let store = authority.dir.path().join("store");
    assert_eq!(mode(&store), 0o700);
    let account = format!("account-localhost-{}-dir.json", authority.port);
    for file in ["www.example.org.pem", "www.example.net.pem", &account] {
        assert_eq!(mode(&store.join(file)), 0o600, "{file}");
    }
    let before = authority.shown("www.example.org");
    drop(edge);
    authority.pebble = None;
    let edge = authority.edge("www.example.org", "tls-alpn-01", "store");
    assert_eq!(authority.shown("www.example.org"), before, "without the authority, from the store");
    drop(edge);
}

#[test]
fn a_name_is_proved_by_http_too() {
    let authority = Authority::start();
    let edge = authority.edge("www.example.com", "http-01", "store");
    authority.wait_for("www.example.com");
    let mut stream = TcpStream::connect(local(authority.http)).expect("it listens");
    let asked =
        "GET /.well-known/acme-challenge/unknown HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n";
    stream.write_all(asked.as_bytes()).expect("sent");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("an answer");
    assert!(told.starts_with("HTTP/1.1 308"), "what is no proof is a page like others: {told}");
    drop(edge);
}

#[test]
fn a_certificate_is_renewed_when_its_authority_suggests_it_and_the_order_says_what_it_replaces() {
    let mut authority = Authority::start();
    let [front] = free_ports();
    let file = |name: &str| authority.dir.path().join(name);
    let (notes, pebble) = (file("notes"), authority.port);
    let adviser = start("python3", |command| {
        command.args(["-c", ADVISER, &front.to_string(), &pebble.to_string()]);
        command.args([file("own.crt"), file("own.key"), notes.clone()])
    });
    wait_until("the adviser", || listens(front));
    authority.port = front;
    let edge = authority.edge("www.example.org", "tls-alpn-01", "store");
    let told = || fs::read_to_string(&notes).unwrap_or_default();
    let distinct = || {
        let ids: Vec<String> =
            told().lines().filter_map(|line| line.strip_prefix("advice ").map(str::to_owned)).collect();
        ids.first().zip(ids.iter().find(|id| **id != ids[0])).map(|(first, second)| (first.clone(), second.clone()))
    };
    wait_until("advice on the second certificate", || distinct().is_some());
    let (first, second) = distinct().expect("two");
    // RFC 9773 4.1: the authority's key identifier and the serial number, of this very certificate.
    let script = "openssl s_client -connect \"$1\" -servername www.example.org </dev/null 2>/dev/null \
                  | openssl x509 -noout -serial -ext authorityKeyIdentifier";
    let unpacked = |id: &str| {
        let parts = id.split('.').map(|part| {
            let decode = "import base64, sys; print(base64.urlsafe_b64decode(sys.argv[1] + '==').hex())";
            let output = Command::new("python3").args(["-c", decode, part]).output().expect("python3 is there");
            String::from_utf8_lossy(&output.stdout).trim().to_uppercase()
        });
        parts.collect::<Vec<_>>()
    };
    let shown = || {
        let output = Command::new("sh").args(["-c", script, "sh", &local(authority.https).to_string()]).output();
        String::from_utf8_lossy(&output.expect("openssl is there").stdout).replace(':', "").to_uppercase()
    };
    let [key, serial] = &unpacked(&second)[..] else { panic!("{second}") };
    let serial = serial.trim_start_matches("00");
    wait_until("the renewed certificate", || shown().contains(serial));
    assert!(shown().contains(key.as_str()), "{key} {}", shown());
    // RFC 9773 5: the order names the certificate that it replaces.
    let orders: Vec<String> =
        told().lines().filter_map(|line| line.strip_prefix("order ").map(str::to_owned)).collect();
    assert_eq!(orders, ["-".to_owned(), first], "{}", told());
    drop((edge, adviser));
}
