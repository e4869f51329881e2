//! TLS handshakes that do not come to an end, or come in crumbs, from clients; and origins that speak before theirs.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tempfile::TempDir;

use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::DEADLINE;
use crate::recorder;
use crate::recorder::Recorder;

const STORED: &str = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 5\r\n\r\nhello";

/// A certificate for the tests' site, as files, and a client that believes it.
struct Own {
    dir: TempDir,
    client: Arc<ClientConfig>,
}

impl Own {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let made = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).expect("a certificate");
        fs::write(dir.path().join("own.crt"), made.cert.pem()).expect("a file");
        let key = dir.path().join("own.key");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { dir, client: Arc::new(client) }
    }

    fn settings(&self) -> String {
        let place = self.dir.path().display();
        format!("[tls]\ncerts = [{{ cert = \"{place}/own.crt\", key_file = \"{place}/own.key\" }}]\n")
    }

    fn session(&self) -> ClientConnection {
        let name = ServerName::try_from("www.example.org").expect("a name");
        ClientConnection::new(Arc::clone(&self.client), name).expect("a session")
    }

    /// The first bytes of a client that means well.
    fn hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.session().write_tls(&mut bytes).expect("a vector");
        bytes
    }

    fn get(&self, place: SocketAddr) -> String {
        let mut stream = connect(place);
        let mut session = self.session();
        let mut stream = rustls::Stream::new(&mut session, &mut stream);
        let asked = b"GET /page HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n";
        stream.write_all(asked).expect("a handshake");
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("an answer");
        told
    }
}

fn connect(place: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(place).expect("tidegate takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    stream
}

#[test]
fn handshakes_that_do_not_end_are_ended_and_hold_up_nobody() {
    let own = Own::new();
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let settings = own.settings();
    let change = Change {
        listen: "\"https://127.0.0.1:0\"",
        limits: "handshake = \"300ms\"",
        more: &settings,
        ..Default::default()
    };
    let edge = Edge::with(&[origin.address], &change);
    let place = edge.place(true);
    let hello = own.hello();
    // RFC 8446 5.1: a record of a handshake message; RUSTSEC-2024-0341: handshake slots that silent peers hold.
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("no byte", vec![], b""),
        ("one byte", vec![0x16], b""),
        ("half a ClientHello", hello[..hello.len() / 2].to_vec(), b""),
        ("a ClientHello, and nothing more", hello.clone(), b""),
        ("empty records without end", hello[..3].to_vec(), b"\x16\x03\x01\x00\x00"),
        ("a record by drops", vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3], b"\x00"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n".to_vec(), b""),
        ("a record larger than any", vec![0x16, 3, 1, 0xff, 0xff, 1], b"xxxx"),
        ("an SSLv2 hello", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10], b""),
        ("an alert", vec![0x15, 3, 1, 0, 2, 2, 0x28], b""),
        ("application data", vec![0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5], b""),
    ];
    thread::scope(|scope| {
        for (name, begin, drop) in &cases {
            scope.spawn(move || {
                let mut stream = connect(place);
                stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
                stream.write_all(begin).expect("it listens");
                let (began, mut piece) = (Instant::now(), [0; 4096]);
                loop {
                    match stream.read(&mut piece) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => break,
                    }
                    assert!(began.elapsed() < DEADLINE, "{name}: never ended");
                    let _ = stream.write_all(drop);
                }
            });
        }
        for _ in 0..10 {
            assert!(own.get(place).starts_with("HTTP/1.1 200"));
        }
    });
    let count = |result: &str| {
        edge.metric(&format!("tidegate_tls_handshakes_total{{version=\"none\",resumed=\"false\",result=\"{result}\"}}"))
    };
    edge.wait_until(|_| count("failed") + count("timeout") >= 11.0);
    assert!(count("timeout") >= 4.0, "{} time-outs, {} failures", count("timeout"), count("failed"));
    assert!(edge.metric("tidegate_panics_total") < 1.0);
}

#[test]
fn a_client_hello_in_crumbs_is_a_client_hello() {
    let own = Own::new();
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let settings = own.settings();
    let change = Change { listen: "\"https://127.0.0.1:0\"", more: &settings, ..Default::default() };
    let edge = Edge::with(&[origin.address], &change);
    let message = &own.hello()[5..];
    // RFC 8446 5.1: handshake messages may be fragmented across several records (RUSTSEC-2024-0399).
    for piece in [1, 3, 100] {
        let mut stream = connect(edge.place(true));
        for part in message.chunks(piece) {
            let length = u16::try_from(part.len()).expect("small").to_be_bytes();
            let record = [&[0x16, 3, 1][..], &length, part].concat();
            stream.write_all(&record).expect("it listens");
        }
        let mut head = [0; 6];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!((head[0], head[5]), (0x16, 2), "ServerHello for records of {piece} bytes: {head:?}");
    }
    assert!(own.get(edge.place(true)).starts_with("HTTP/1.1 200"));
    assert!(edge.metric("tidegate_panics_total") < 1.0);
}

#[test]
fn what_an_origin_says_before_its_handshake_is_no_answer() {
    // CVE-2026-1642: plain text that is taken for the answer.
    let own = Own::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(STORED.as_bytes());
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    let change = Change {
        upstream: &format!(
            "set.main = [\"https://{address}\"]\nactive = \"main\"\ntls = {{ ca_file = \"{}/own.crt\", name = \"www.example.org\" }}",
            own.dir.path().display()
        ),
        ..Default::default()
    };
    let edge = Edge::with(&[], &change);
    for _ in 0..3 {
        let reply = edge.get("/page");
        assert!(matches!(reply.status, 502 | 503), "{}", reply.head);
    }
    assert!(edge.metric("tidegate_cache_entries") < 1.0);
}

#[test]
fn an_origin_that_answers_before_it_has_read_the_request_gets_no_other_on_that_connection() {
    // RFC 9112 9.3: a connection on which a message was not sent to its end carries no other.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let origin = thread::spawn(move || {
        let mut heads = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head") > 0 {
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("it waits");
            heads.push(String::from_utf8_lossy(&head).into_owned());
            streams.push(stream);
        }
        // All that came on the first connection besides is the first request's.
        let mut rest = Vec::new();
        let _ = streams[0].read_to_end(&mut rest);
        (heads, rest)
    });
    let edge = Edge::with(&[address], &Change::default());
    let mut client = edge.client();
    let length = 24 << 20;
    client.send(format!("POST /first HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: {length}\r\n\r\n"));
    client.send(vec![b'x'; length]);
    assert_eq!(client.reply().status, 200);
    assert_eq!(edge.get("/second").status, 200);
    let (heads, rest) = origin.join().expect("no panic");
    assert!(heads[0].starts_with("POST ") && heads[1].starts_with("GET "), "{heads:?}");
    assert!(rest.iter().all(|byte| *byte == b'x'), "{} bytes", rest.len());
}
