//! Requests that are almost right, over real sockets: whatever is sent, what reaches the origin has one meaning.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;

use crate::edge::Change;
use crate::edge::Edge;
use crate::mutate;
use crate::mutate::Dice;
use crate::origin::DEADLINE;
use crate::recorder::Recorder;
use crate::recorder::Then;
use crate::table;

const CORPUS: &[&[u8]] = &[
    b"GET /a/b?c=d HTTP/1.1\r\nHost: www.example.org\r\nCookie: a=b\r\nX-Any: y\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 11\r\n\r\nhello=world",
    b"POST /form HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: u\r\n\r\n",
    b"GET http://www.example.org/a HTTP/1.1\r\nHost: evil\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nHost: www.example.org\r\nMax-Forwards: 1\r\nRange: bytes=0-1\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: www.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
];

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"%2e%2e/",
    b"/",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: evil\r\n",
    b"0\r\n\r\n",
    b"_",
    b"HTTP/1.0",
    b"GET /smuggled HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    b"Connection: keep-alive\r\n",
    b"\xff",
    b"chunked",
    b"-1",
    b"Expect: 100-continue\r\n",
    b"Content_Length: 9\r\n",
    b"\x0b",
    b"_vh_x/",
];

#[test]
fn whatever_is_sent_what_reaches_the_origin_has_one_meaning() {
    let (rounds, seed) = mutate::rounds(1500);
    let origin = Recorder::new(|_| (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Then::Keep));
    let edge = Edge::with(
        &[origin.address],
        &Change {
            site: "zope = \"/\"",
            limits: "body_idle = \"1s\"\nhead = \"1s\"\nidle = \"1s\"\nfirst_byte = \"1s\"",
            upstream: "threads = 16",
            ..Default::default()
        },
    );
    let place = edge.place(false);
    let mut dice = Dice::new(seed);
    let messages: Vec<Vec<u8>> = (0..rounds).map(|_| mutate::mutate(&mut dice, CORPUS, WORDS)).collect();
    table::judge_all(&messages, |message| {
        let mut stream = TcpStream::connect(place).expect("tidegate takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        let _ = stream.write_all(message);
        let _ = stream.shutdown(Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(told.is_empty() || told.starts_with(b"HTTP/1."), "{:?}", told.escape_ascii().to_string());
        None
    });
    for seen in origin.seen() {
        if let Some(wrong) = ambiguity(&seen.head) {
            panic!("{wrong}: {:?} (seed {seed})", seen.head);
        }
    }
    assert_eq!(edge.get("/alive").status, 200);
    assert!(edge.metric("tidegate_panics_total") < 1.0);
}

/// What could be read in two ways in a head that has reached the origin.
fn ambiguity(head: &str) -> Option<&'static str> {
    let mut lines = head.strip_suffix("\r\n\r\n")?.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else { return Some("the request line") };
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) || version != "HTTP/1.1" {
        return Some("method or version");
    }
    let Some(behind) = target.strip_prefix("/VirtualHostBase/http/www.example.org:") else { return Some("the target") };
    let Some((port, path)) = behind.split_once("/VirtualHostRoot/") else { return Some("the target") };
    if port.parse::<u16>().is_err() {
        return Some("the port");
    }
    let path = path.split('?').next().unwrap_or_default();
    let dotted = path.split('/').any(|segment| segment == "." || segment == ".." || segment.starts_with("_vh_"));
    if dotted || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
        return Some("the path");
    }
    let (mut hosts, mut lengths, mut codings) = (0, 0, 0);
    for line in lines {
        let Some((name, value)) = line.split_once(": ").or_else(|| line.split_once(':')) else { return Some("a line") };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'_') {
            return Some("a name");
        }
        if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Some("a value");
        }
        match name {
            "host" if value.split(':').next() == Some("www.example.org") => hosts += 1,
            "host" => return Some("the host"),
            "content-length" => lengths += 1,
            "transfer-encoding" if value == "chunked" => codings += 1,
            "transfer-encoding" => return Some("the coding"),
            _ => {}
        }
    }
    (hosts != 1 || lengths + codings > 1).then_some("the framing")
}
