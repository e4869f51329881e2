//! Requests that mean harm, or two things at once: each is answered here and never reaches the origin.

use crate::edge::Edge;
use crate::origin::Origin;

const HOST: &str = "Host: www.example.org\r\n";

/// Bytes of a request, and the statuses that are right; 0 is a connection closed without a word.
#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<(String, &'static [u16])> {
    let mut rows: Vec<(String, &'static [u16])> = Vec::new();
    // Framing (RFC 9112 6).
    for fields in [
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Content-Length: +0",
        "Content-Length: -1",
        "Content-Length: 0x0",
        "Content-Length: 0, 0",
        "Content-Length: 0\r\nContent-Length: 1",
        "Content-Length: 99999999999999999999",
        "Content-Length: ",
        "Content-Length: 1 1",
    ] {
        rows.push((format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n\r\n0\r\n\r\n"), &[400]));
    }
    rows.push((format!("POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), &[400]));
    rows.push((format!("POST / HTTP/1.1\r\n{HOST}Expect: 200-ok\r\nContent-Length: 0\r\n\r\n"), &[417]));
    // Chunks that are none (RFC 9112 7.1).
    for chunk in [
        "zz\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
    ] {
        rows.push((format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunk}"), &[400, 413]));
    }
    // Host (RFC 9112 3.2).
    for host in [
        "",
        "Host: www.example.org\r\nHost: www.example.org\r\n",
        "Host: www.example.org\r\nHost: evil\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: www.example.org, evil\r\n",
        "Host: user@www.example.org\r\n",
        "Host: www.example.org/\r\n",
        "Host: www.example.org?x\r\n",
        "Host: www.example.org#x\r\n",
        "Host: www.example.org:80:80\r\n",
        "Host: www.example.org:99999\r\n",
        "Host: www.example.org:x\r\n",
        "Host: www..example.org\r\n",
        "Host: [::1\r\n",
        "Host: www.example.org\\\r\n",
    ] {
        rows.push((format!("GET / HTTP/1.1\r\n{host}\r\n"), &[400]));
    }
    rows.push(("GET / HTTP/1.1\r\nHost: evil\r\n\r\n".to_owned(), &[421]));
    // Targets (RFC 9112 3.2, RFC 3986).
    for target in [
        "page",
        "*",
        "ftp://www.example.org/",
        "http://user@www.example.org/",
        "/%",
        "/%zz",
        "/%0",
        "/a%00b",
        "/a\\b",
        "/a%5cb",
        "/..",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/a/%2E./../../etc/passwd",
        "/a/..%2f..%2fb",
        "/_vh_evil/x",
        "/%5fvh_evil/x",
        "/VirtualHostBase/http/evil:80/x",
        "/x/VirtualHostRoot/y",
        "/x/%56irtualHostRoot/y",
        "/a b",
    ] {
        rows.push((format!("GET {target} HTTP/1.1\r\n{HOST}\r\n"), &[400]));
    }
    rows.push((format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(9000)), &[414]));
    rows.push((format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X-Y: z\r\n".repeat(101)), &[431]));
    rows.push((format!("GET / HTTP/1.1\r\n{HOST}X-Long: {}\r\n\r\n", "x".repeat(40_000)), &[431]));
    // Fields that are none (RFC 9110 5.5, RFC 9112 5).
    for field in [
        "X-Null: a\0b",
        "X-Bell: a\x07b",
        "X-Del: a\x7fb",
        "X Y: z",
        "X-Y : z",
        ": z",
        "no colon",
        "X-CR: a\rb",
        "X-Fold: a\r\n b",
    ] {
        rows.push((format!("GET / HTTP/1.1\r\n{HOST}{field}\r\n\r\n"), &[400]));
    }
    // Methods and versions.
    for (method, statuses) in [
        ("CONNECT", &[400, 405][..]),
        ("TRACE", &[405]),
        ("TRACK", &[501]),
        ("get", &[501]),
        ("FROB", &[501]),
        ("G\tET", &[400]),
        ("", &[400]),
    ] {
        rows.push((format!("{method} / HTTP/1.1\r\n{HOST}\r\n"), statuses));
    }
    rows.push((format!("CONNECT www.example.org:80 HTTP/1.1\r\n{HOST}\r\n"), &[405]));
    rows.push((format!("{} / HTTP/1.1\r\n{HOST}\r\n", "X".repeat(20_000)), &[400, 431, 501]));
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/11", "http/1.1", "HTTP/1.1 x", ""] {
        rows.push((format!("GET / {version}\r\n{HOST}\r\n"), &[400, 505, 0]));
    }
    rows.push((format!("GET / HTTP/1.1\r\n{HOST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"), &[400]));
    rows.push((format!("GET / HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"), &[400]));
    rows.push(("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[400, 421, 505, 0]));
    rows.push(("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(), &[400, 0]));
    rows
}

#[test]
fn hostile_requests_are_refused_and_never_reach_the_origin() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Edge::with(
        &[origin.address],
        &crate::edge::Change { site: "zope = \"/\"", limits: "body_idle = \"200ms\"", ..Default::default() },
    );
    let rows = table();
    assert!(rows.len() >= 90, "{}", rows.len());
    let mut wrong = Vec::new();
    for (bytes, statuses) in rows {
        let mut client = edge.client();
        let line = client.send(&bytes).until_closed_or_reply().unwrap_or_default();
        let status: u16 = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if !statuses.contains(&status) {
            wrong.push(format!("{:?}: {status}, expected {statuses:?}", bytes.chars().take(200).collect::<String>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let reached: Vec<String> = origin.asked().into_iter().map(|asked| asked.head).collect();
    assert!(reached.is_empty(), "{reached:#?}");
}

#[test]
fn after_a_request_that_could_be_read_in_two_ways_nothing_more_is_read() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Edge::of(&origin);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length: 0\r\nContent-Length: 1\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
    ] {
        let told =
            edge.client().send(format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n0\r\n\r\n{smuggled}")).until_closed();
        assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{fields}{told}");
    }
    // hyper lets Transfer-Encoding win and closes after the answer: one request, never two.
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let told = edge.client().send(format!("POST / HTTP/1.1\r\n{HOST}{both}\r\n0\r\n\r\n{smuggled}")).until_closed();
    assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{told}");
    assert!(origin.asked().iter().all(|asked| asked.target() != "/smuggled"), "{:?}", origin.asked());
}
