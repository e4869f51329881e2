//! TLS and HTTP/2 as clients see them.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::RootCertStore;
use rustls::StreamOwned;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use tempfile::TempDir;

use crate::PAGE;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Origin;

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
            fs::write(dir.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).expect("a file");
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

#[test]
fn a_visitor_gets_the_certificate_of_the_name_he_asks_for_and_http_is_sent_to_https() {
    let origin = Origin::saying(PAGE);
    let authority = Authority::of(&["www.example.org", "other.example.org"]);
    let settings = authority.settings();
    let listen = format!("\"127.0.0.1:0\", \"https://{}\"", crate::nowhere());
    let change = Change { listen: &listen, more: &settings, ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    for (name, own) in &authority.certs {
        let server = ServerName::try_from(name.clone()).expect("a name");
        let session = ClientConnection::new(authority.client(&[b"http/1.1"]), server).expect("a session");
        let mut stream = StreamOwned::new(session, TcpStream::connect(edge.place(true)).expect("a connection"));
        stream.write_all(b"GET / HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n").expect("sent");
        let mut told = String::new();
        std::io::Read::read_to_string(&mut stream, &mut told).expect("an orderly end");
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
