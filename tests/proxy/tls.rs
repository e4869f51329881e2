//! TLS and HTTP/2 as clients see them.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;

use crate::PAGE;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Origin;

/// Writes a key as tidegate wants it: not for everybody's eyes.
fn secret(path: &Path, pem: &str) {
    fs::write(path, pem).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
}

struct Authority {
    dir: TempDir,
    certs: Vec<(String, CertificateDer<'static>)>,
}

impl Authority {
    /// Self-signed certificates for these names, as files.
    fn of(names: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let certs = names.iter().map(|name| {
            let made = rcgen::generate_simple_self_signed([(*name).to_owned()]).expect("a certificate");
            fs::write(dir.path().join(format!("{name}.crt")), made.cert.pem()).expect("a file");
            secret(&dir.path().join(format!("{name}.key")), &made.signing_key.serialize_pem());
            ((*name).to_owned(), made.cert.der().clone())
        });
        let certs = certs.collect();
        Self { dir, certs }
    }

    fn settings(&self) -> String {
        let place = self.dir.path().display();
        let one =
            |(name, _): &(String, _)| format!("{{ cert = \"{place}/{name}.crt\", key_file = \"{place}/{name}.key\" }}");
        let all: Vec<String> = self.certs.iter().map(one).collect();
        format!("[tls]\ncerts = [{}]\n", all.join(", "))
    }

    fn client(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for (_, cert) in &self.certs {
            roots.add(cert.clone()).expect("a root");
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// One request on a TLS connection of its own; gives the whole answer and the session.
fn ask(
    config: &Arc<ClientConfig>,
    place: SocketAddr,
    name: &str,
) -> (String, StreamOwned<ClientConnection, TcpStream>) {
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let session = ClientConnection::new(Arc::clone(config), server).expect("a session");
    let mut stream = StreamOwned::new(session, TcpStream::connect(place).expect("a connection"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n").expect("sent");
    let mut told = String::new();
    std::io::Read::read_to_string(&mut stream, &mut told).expect("an orderly end");
    (told, stream)
}

#[test]
fn a_visitor_gets_the_certificate_of_the_name_he_asks_for_and_http_is_sent_to_https() {
    let origin = Origin::saying(PAGE);
    let authority = Authority::of(&["www.example.org", "other.example.org"]);
    let settings = authority.settings();
    let listen = format!("\"127.0.0.1:0\", \"https://{}\"", crate::nowhere());
    let change = Change { listen: &listen, more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    for (name, own) in &authority.certs {
        let (told, stream) = ask(&authority.client(&[b"http/1.1"]), edge.place(true), name);
        assert!(told.starts_with("HTTP/1.1 200 OK") && told.ends_with("hello"), "{told}");
        assert_eq!(stream.conn.peer_certificates().expect("certificates")[0], *own);
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    assert_eq!(origin.asked()[0].field("x-forwarded-proto"), Some("https"));
    let moved = edge.get("/a?b");
    let there = format!("https://www.example.org:{}/a?b", edge.place(true).port());
    assert_eq!((moved.status, moved.field("location")), (308, Some(there.as_str())));
}

#[test]
fn http_2_is_spoken_to_who_can() {
    let origin = Origin::saying(PAGE);
    let authority = Authority::of(&["www.example.org"]);
    let settings = authority.settings();
    let change = Change { listen: "\"https://127.0.0.1:0\"", more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let place = edge.place(true);
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(place).await.expect("a connection");
        let connector = tokio_rustls::TlsConnector::from(authority.client(&[b"h2", b"http/1.1"]));
        let name = ServerName::try_from("www.example.org").expect("a name");
        let stream = connector.connect(name, stream).await.expect("a session");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        let driving = tokio::spawn(connection);
        for at in 0..5 {
            let request =
                http::Request::get("https://www.example.org/page").body(Empty::<bytes::Bytes>::new()).expect("ok");
            let response = sender.send_request(request).await.expect("an answer");
            let status = response.headers()["cache-status"].to_str().expect("text").to_owned();
            assert_eq!(status.contains("; hit"), at > 0, "{status}");
            assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "hello");
        }
        let mismatch = http::Request::get("https://www.example.org/page").header("host", "evil");
        let answer = sender.send_request(mismatch.body(Empty::new()).expect("ok")).await.expect("an answer");
        assert_eq!(answer.status(), 400);
        drop(sender);
        // It ends with its last request.
        let _ = driving.await;
    });
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn sessions_are_resumed_after_a_reload_and_new_certificates_are_served_by_it() {
    let origin = Origin::saying(PAGE);
    let authority = Authority::of(&["www.example.org"]);
    let settings = authority.settings();
    let change = Change { listen: "\"https://127.0.0.1:0\"", more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    let client = authority.client(&[]);
    let (_, first) = ask(&client, edge.place(true), "www.example.org");
    assert_eq!(first.conn.handshake_kind(), Some(HandshakeKind::Full));
    let until = edge.metric("tidegate_tls_certificate_not_after_timestamp_seconds");
    assert!(until > 4_000_000_000.0, "rcgen's certificates hold for long: {until}");

    let renewed = Authority::of(&["www.example.org"]);
    for file in ["www.example.org.crt", "www.example.org.key"] {
        fs::copy(renewed.dir.path().join(file), authority.dir.path().join(file)).expect("a file");
    }
    edge.reload(&[origin.address], &change).expect("a good configuration");
    let (_, second) = ask(&client, edge.place(true), "www.example.org");
    assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    let (_, fresh) = ask(&renewed.client(&[]), edge.place(true), "www.example.org");
    assert_eq!(fresh.conn.peer_certificates().expect("certificates")[0], renewed.certs[0].1);

    fs::set_permissions(authority.dir.path().join("www.example.org.key"), fs::Permissions::from_mode(0o644))
        .expect("ok");
    let told = edge.reload(&[origin.address], &change).expect_err("everybody may read the key");
    assert!(told.contains("may be read by everybody") && told.contains("chmod o="), "{told}");
    assert!(ask(&renewed.client(&[]), edge.place(true), "www.example.org").0.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_visitor_who_knows_only_rsa_gets_the_rsa_certificate_of_the_name() {
    let origin = Origin::saying(PAGE);
    let authority = Authority::of(&["www.example.org"]);
    let dir = authority.dir.path();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let params = rcgen::CertificateParams::new(["www.example.org".to_owned()]).expect("a name");
    let rsa = params.self_signed(&key).expect("a certificate");
    fs::write(dir.join("rsa.crt"), rsa.pem()).expect("a file");
    secret(&dir.join("rsa.key"), &key.serialize_pem());
    let place = dir.display();
    let settings = authority
        .settings()
        .replace(" }]", &format!(" }}, {{ cert = \"{place}/rsa.crt\", key_file = \"{place}/rsa.key\" }}]"));
    let change = Change { listen: "\"https://127.0.0.1:0\"", more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);

    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite().as_str().is_some_and(|name| name.contains("ECDHE_RSA")));
    let mut roots = RootCertStore::empty();
    roots.add(rsa.der().clone()).expect("a root");
    let old = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("TLS 1.2")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (told, session) = ask(&Arc::new(old), edge.place(true), "www.example.org");
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(session.conn.peer_certificates().expect("certificates")[0], *rsa.der());
    let (_, session) = ask(&authority.client(&[]), edge.place(true), "www.example.org");
    assert_eq!(session.conn.peer_certificates().expect("certificates")[0], authority.certs[0].1);
}

/// Writes what an authority says of the certificate beside it: that it is good, for a week.
const RESPONDER: &str = "cd \"$1\" && serial=$(openssl x509 -in own.crt -noout -serial | cut -d= -f2) && \
    printf 'V\\t491231235959Z\\t\\t%s\\tunknown\\t/CN=www.example.org\\n' \"$serial\" > index && \
    openssl ocsp -issuer own.crt -cert own.crt -reqout asked.der && \
    openssl ocsp -index index -rsigner own.crt -rkey own.key -CA own.crt -reqin asked.der -respout own.ocsp -ndays 7";

#[test]
fn what_the_authority_says_of_a_certificate_is_stapled_to_it_for_who_asks() {
    let origin = Origin::saying(PAGE);
    let dir = TempDir::new().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).expect("a certificate");
    fs::write(dir.path().join("own.crt"), made.cert.pem()).expect("a file");
    secret(&dir.path().join("own.key"), &made.signing_key.serialize_pem());
    let ran = Command::new("sh").args(["-c", RESPONDER, "sh"]).arg(dir.path()).output().expect("a shell");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let place = dir.path().display();
    let settings = format!(
        "[tls]\ncerts = [{{ cert = \"{place}/own.crt\", key_file = \"{place}/own.key\", ocsp_file = \"{place}/own.ocsp\" }}]\n"
    );
    let change = Change { listen: "\"https://127.0.0.1:0\"", more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    // RFC 8446 4.4.2.1 and RFC 6066 8: only who sends status_request gets it.
    for (version, status, expected) in
        [("-tls1_3", "-status", true), ("-tls1_2", "-status", true), ("-tls1_3", "", false)]
    {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-servername", "www.example.org", version, "-connect", &edge.place(true).to_string()]);
        client.args(Some(status).filter(|status| !status.is_empty())).stdin(Stdio::null());
        let told = client.output().expect("openssl is there").stdout;
        let told = String::from_utf8_lossy(&told);
        assert_eq!(told.contains("OCSP Response Status: successful"), expected, "{version} {status}: {told}");
        assert_eq!(told.contains("Cert Status: good"), expected, "{version} {status}: {told}");
    }
}

#[test]
fn answers_carry_the_sites_fields_unless_the_origin_set_them_and_hsts_only_over_tls() {
    let page =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nX-Frame-Options: DENY\r\nContent-Length: 5\r\n\r\nhello";
    let origin = Origin::saying(page);
    let authority = Authority::of(&["www.example.org"]);
    let settings = authority.settings();
    let listen = "\"127.0.0.1:0\", \"https://127.0.0.1:0\"";
    let site = "hsts = \"180d\"\nheaders = { X-Frame-Options = \"SAMEORIGIN\", x-content-type-options = \"nosniff\" }";
    let change = Change { listen, site, server: "redirect_https = false", more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    for word in ["stored", "hit"] {
        let (told, _) = ask(&authority.client(&[]), edge.place(true), "www.example.org");
        let told = told.to_lowercase();
        assert!(told.contains("strict-transport-security: max-age=15552000\r\n") && told.contains(word), "{told}");
        assert!(told.contains("x-frame-options: deny") && !told.contains("sameorigin"), "{told}");
        assert!(told.contains("x-content-type-options: nosniff"), "{told}");
    }
    let plain = edge.get("/");
    assert_eq!(
        (plain.field("strict-transport-security"), plain.field("x-content-type-options")),
        (None, Some("nosniff"))
    );
    let refused = edge.ask("/", "Transfer-Encoding: gzip\r\n");
    assert!(refused.status >= 400);
}

/// An origin that speaks TLS, wants to know who asks, and answers `answers` connections.
fn tls_origin(own: &Authority, visitor: &Authority, answers: usize) -> (SocketAddr, thread::JoinHandle<()>) {
    let mut roots = RootCertStore::empty();
    roots.add(visitor.certs[0].1.clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
    let key = own.dir.path().join("zope.example.key");
    let key = <PrivateKeyDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_file(key).expect("a key");
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.certs[0].1.clone()], key)
        .expect("a configuration");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = thread::spawn(move || {
        for _ in 0..answers {
            let (socket, _) = listener.accept().expect("a connection");
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = StreamOwned::new(session, socket);
            let mut head = [0; 4096];
            // A client that will not have us, or has no certificate, is gone before it asks.
            if matches!(std::io::Read::read(&mut stream, &mut head), Ok(read) if read > 0) {
                let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret";
                stream.write_all(answer.as_bytes()).expect("an answer");
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (address, serving)
}

#[test]
fn an_origin_that_speaks_tls_is_asked_only_if_its_certificate_is_the_one_expected() {
    let (zope, visitor) = (Authority::of(&["zope.example"]), Authority::of(&["edge.example"]));
    let (address, serving) = tls_origin(&zope, &visitor, 3);
    let (ca, own) = (zope.dir.path().display().to_string(), visitor.dir.path().display().to_string());
    let change =
        |tls: &str| format!("tls = {{ {tls} }}\nset = {{ main = [\"https://{address}\"] }}\nactive = \"main\"");
    let own = format!("cert = \"{own}/edge.example.crt\", key_file = \"{own}/edge.example.key\"");
    let good = change(&format!("ca_file = \"{ca}/zope.example.crt\", name = \"zope.example\", {own}"));
    let wrong = change(&format!("ca_file = \"{ca}/zope.example.crt\", name = \"other.example\", {own}"));
    let unknown = change(&format!("ca_file = \"{ca}/zope.example.crt\", name = \"zope.example\""));
    let with = |upstream| Change { upstream, server: "", ..Change::default() };
    let edge = Edge::with(&[], &with(&good));
    let reply = edge.get("/a");
    assert_eq!((reply.status, reply.text().as_str()), (200, "secret"));
    edge.reload(&[], &with(&unknown)).expect("good");
    assert_ne!(edge.get("/b").status, 200, "it does not answer whom it does not know");
    edge.reload(&[], &with(&wrong)).expect("good");
    assert_eq!(edge.get("/c").status, 503, "the certificate is another's");
    drop(edge);
    drop(serving);
}
