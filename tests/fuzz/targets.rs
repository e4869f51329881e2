//! Each parser of outside bytes, fed with what is almost right: none panics, and what each promises holds.
//!
//!     FUZZ_ROUNDS=1000000 FUZZ_SEED=7 cargo test --test hostile fuzz
//!
//! A failure names its seed and its round; the same seed gives the same bytes.

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::Version;
use std::net::IpAddr;
use std::panic;
use tidegate::semantics::cache_control;
use tidegate::semantics::conditional;
use tidegate::semantics::framing;
use tidegate::semantics::framing::Asked;
use tidegate::semantics::hop;
use tidegate::semantics::host;
use tidegate::semantics::host::Authority;
use tidegate::semantics::obsolete;
use tidegate::semantics::policy;
use tidegate::semantics::present::Present;
use tidegate::semantics::proxy_header;
use tidegate::semantics::range;
use tidegate::semantics::storable;
use tidegate::semantics::structured;
use tidegate::semantics::target;
use tidegate::semantics::validator;
use tidegate::semantics::vary;
use tidegate::semantics::wire::Reader;
use tidegate::zeo::wire;
use tidegate::zope::purge;
use tidegate::zope::session;
use tidegate::zope::vhost;

use crate::mutate;
use crate::mutate::Dice;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target, &[&[u8]])] = &[
    ("path", path, &[b"/a/b/../c", b"/%2e%2e/x%2F..", b"/_vh_a/b", b"/VirtualHostBase/http/a:80/b/VirtualHostRoot/_vh_x/c"]),
    ("uri", uri, &[b"http://www.example.org:80/a?b=c#d", b"/a?b", b"*", b"www.example.org:80", b"http://u@h"]),
    ("authority", authority, &[b"www.example.org:8080", b"[2001:db8::1]:443", b"192.0.2.1", b"a.b.c:"]),
    ("request", request, &[
        b"host: a\nconnection: close, x-hop\nx-hop: 1\ncookie: __ac=x; a=b\nif-none-match: \"a\", W/\"b\"\nrange: bytes=0-4,9-",
        b"transfer-encoding: chunked\ncontent-length: 5\nexpect: 100-continue\nmax-forwards: 3\nx-forwarded-for: 1.2.3.4, [::1]",
        b"cache-control: max-age=5, no-cache=\"a, b\"\nif-modified-since: Sun, 06 Nov 1994 08:49:37 GMT\nif-range: \"a\"\nupgrade: h2c",
    ]),
    ("answer", answer, &[
        b"cache-control: s-maxage=60, private=\"set-cookie\"\nvary: accept, cookie\netag: W/\"x\"\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT",
        b"cdn-cache-control: max-age=60;x, no-store\nsurrogate-control: max-age=5+6\nlocation: /a/../b\nage: 5\ncontent-length: 5",
        b"content-range: bytes 0-4/10\nconnection: close, vary\ntransfer-encoding: gzip, chunked\nset-cookie: a=b; path=/",
    ]),
    ("zeo", zeo, &[b"\x93\x01\x00\xa1x", b"\x80\x03K\x01K\x00X\x02\x00\x00\x00okq\x00\x87q\x01.", b"Z5", b"M5"]),
    ("proxy header", from_proxy, &[
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x51",
    ]),
];

const WORDS: &[&[u8]] = &[
    b"/",
    b"..",
    b"%2e",
    b"%2F",
    b"%00",
    b"%",
    b"\\",
    b"?",
    b"#",
    b"@",
    b":",
    b"[",
    b"]",
    b",",
    b";",
    b"=",
    b"\"",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xc3\xa4",
    b"99999999999999999999",
    b"-1",
    b"chunked",
    b"_vh_",
    b"VirtualHostRoot",
    b"connection: ",
    b"host: ",
    b"cookie: ",
    b"no-store",
    b"max-age=",
    b"bytes=",
    b"*",
    b"W/",
    b"PROXY ",
    b"\r\n",
    b"  ",
    b"\t",
];

#[test]
fn parsers_of_outside_bytes_keep_their_promises() {
    let (rounds, seed) = mutate::rounds(3000);
    for (number, (name, target, corpus)) in TARGETS.iter().enumerate() {
        let mut dice = Dice::new(seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for round in 0..rounds {
            let bytes = mutate::mutate(&mut dice, corpus, WORDS);
            let told = panic::catch_unwind(|| target(&bytes));
            assert!(told.is_ok(), "{name}, seed {seed}, round {round}: {:?}", bytes.escape_ascii().to_string());
        }
    }
}

fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = vhost::parse(&text);
    let _ = purge::parse(&text);
    let Ok(normal) = target::normalise(&text) else { return };
    assert!(normal.starts_with('/') && normal.is_ascii());
    assert_eq!(target::normalise(&normal).as_deref(), Ok(&*normal), "one spelling");
    let decoded = target::decode(&normal);
    assert!(!decoded.split(|byte| *byte == b'/').any(|part| part == b"." || part == b".."));
    assert!(!decoded.contains(&0) && !decoded.contains(&b'\\'));
    assert!(normal.parse::<Uri>().is_ok(), "what is forwarded is a target");
    if vhost::refuse_words(&normal).is_ok() {
        let said = |word: &[u8]| decoded.split(|byte| *byte == b'/').any(|part| part.starts_with(word));
        assert!(!said(b"_vh_"));
    }
}

fn uri(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let _ = host::effective(&uri, &HeaderMap::new(), true);
    if let Ok(target) = target::parse(&uri, 8192) {
        assert!(target.path.starts_with('/'));
        assert!(target.query.is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic())));
    }
}

fn authority(bytes: &[u8]) {
    let Ok(authority) = Authority::parse(bytes) else { return };
    assert_eq!(Authority::parse(authority.as_str().as_bytes()).as_ref(), Ok(&authority));
    assert!(HeaderValue::from_str(authority.as_str()).is_ok());
    assert!(!authority.as_str().contains(['@', '/', '?', '#', ' ', ',', '\\']));
}

/// Lines of `name: value`, as far as they can be fields at all.
fn fields(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(50) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn request(bytes: &[u8]) {
    let mut headers = fields(bytes);
    let peer: IpAddr = [192, 0, 2, 1].into();
    let trusted = ["192.0.2.0/24".parse().expect("a network")];
    let _ = framing::request(&Method::GET, Version::HTTP_11, &headers, Present::of(&headers));
    let _ = Asked::of(&headers);
    let _ = host::effective(&Uri::from_static("/"), &headers, false);
    let _ = cache_control::parse_request(&headers);
    let _ = conditional::evaluate(&headers, StatusCode::OK, &headers);
    let _ = range::select(&headers, &headers, 10);
    let _ = session::login(&headers);
    let _ = hop::drops_fields(&headers);
    let client = hop::client_addr(peer, &headers, &trusted);
    assert!(client.0 == client.0.to_canonical());
    let chain = hop::forwarded_for(&headers, peer, true);
    assert!(chain.ends_with(b"192.0.2.1"), "{chain:?}");
    if hop::clean_request(&mut headers).is_err() {
        return;
    }
    hop::join_cookies(&mut headers);
    hop::count_hop(&mut headers);
    assert!(headers.get_all("cookie").iter().count() <= 1);
    for gone in [
        "connection",
        "transfer-encoding",
        "content-length",
        "upgrade",
        "te",
        "expect",
        "proxy",
        "forwarded",
        "x-forwarded-for",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert!(headers.keys().all(|name| !name.as_str().contains('_')));
}

fn answer(bytes: &[u8]) {
    let headers = fields(bytes);
    for status in [200, 204, 206, 304, 404, 500] {
        read(status, &headers);
    }
    let _ = cache_control::parse(&headers);
    let _ = policy::of(&headers);
    let _ = vary::parse(&headers);
    let _ = storable::announced(&headers);
    let _ = storable::withheld(&headers);
    let _ = obsolete::named(&headers, "http", "www.example.org", "/a");
    let _ = validator::speaks_of(&headers, &headers);
    let _ = validator::freshen(&headers, &headers, true);
    validator::make_conditional(&headers.clone(), &mut HeaderMap::new());
    for name in headers.keys() {
        let _ = structured::dictionary(&headers, name);
        let _ = structured::list(&headers, name);
    }
}

/// The head of an answer with these fields, as it comes over the wire.
fn read(status: u16, headers: &HeaderMap) {
    let mut text = BytesMut::from(format!("HTTP/1.1 {status} Yes\r\n").as_bytes());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    let Ok(Some(answer)) = Reader::default().take(&mut text, &Method::GET) else { return };
    let _ = framing::response(answer.status, answer.framed, Asked::default());
    for gone in ["connection", "transfer-encoding", "content-length", "upgrade", "trailer", "keep-alive"] {
        assert!(!answer.headers.contains_key(gone), "{gone}");
    }
}

fn zeo(bytes: &[u8]) {
    let _ = wire::greeting(bytes);
    for codec in [wire::Codec::Pickle, wire::Codec::Msgpack] {
        let _ = wire::answer(codec, 1, bytes);
    }
}

fn from_proxy(bytes: &[u8]) {
    let _ = proxy_header::parse(bytes);
}
