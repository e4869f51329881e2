//! Stored texts in the coding that each client likes best.

use std::io::Read;
use std::sync::LazyLock;

use crate::client::Reply;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

static PAGE: LazyLock<String> = LazyLock::new(|| "<p>a page of Plone</p>\n".repeat(500));

/// Answers with the page, as the path says.
fn origin() -> Origin {
    Origin::new(|asked, stream| {
        let more = match asked.target() {
            path if path.contains("image") => "Content-Type: image/png\r\nCache-Control: max-age=600\r\n",
            path if path.contains("private") => "Content-Type: text/html\r\nCache-Control: private\r\n",
            path if path.contains("plain") => "Content-Type: text/html\r\nCache-Control: max-age=600, no-transform\r\n",
            _ => "Content-Type: text/html\r\nCache-Control: max-age=600\r\n",
        };
        let head = format!("HTTP/1.1 200 OK\r\n{more}ETag: \"one\"\r\nContent-Length: {}\r\n\r\n", PAGE.len());
        write(stream, format!("{head}{}", *PAGE).as_bytes());
        Then::Keep
    })
}

fn decoded(reply: &Reply) -> String {
    let mut text = String::new();
    match reply.field("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(&reply.body[..]).read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(&reply.body[..], 4096).read_to_string(&mut text),
        Some("zstd") => zstd::Decoder::new(&reply.body[..]).and_then(|mut decoder| decoder.read_to_string(&mut text)),
        _ => (&reply.body[..]).read_to_string(&mut text),
    }
    .expect("it can be decoded");
    text
}

/// Asks until the answer is coded.
fn coded(edge: &Edge, path: &str, accept: &str) -> Reply {
    let ask = || edge.ask(path, &format!("Accept-Encoding: {accept}\r\n"));
    edge.wait_until(|_| ask().field("content-encoding").is_some());
    ask()
}

#[test]
fn each_client_gets_the_coding_it_likes_best_of_one_fetch() {
    let origin = origin();
    let edge = Edge::of(&origin);
    for (accept, coding) in [("gzip", "gzip"), ("gzip;q=0.5, br", "br"), ("gzip, deflate, br, zstd", "zstd")] {
        let reply = coded(&edge, "/page", accept);
        assert_eq!(reply.field("content-encoding"), Some(coding), "{accept}: {}", reply.head);
        assert!(reply.is_hit() && reply.body.len() < PAGE.len() / 10, "{}", reply.head);
        assert_eq!((reply.field("vary"), reply.field("etag")), (Some("Accept-Encoding"), Some("W/\"one\"")));
        assert!(decoded(&reply) == *PAGE, "{accept}");
    }
    for accept in ["", "Accept-Encoding: br;q=0, gzip;q=0, zstd;q=0\r\n", "Accept-Encoding: identity, gzip;q=0.1\r\n"] {
        let reply = edge.ask("/page", accept);
        assert!(reply.is_hit() && reply.text() == *PAGE, "{accept}: {}", reply.head);
        assert_eq!((reply.field("vary"), reply.field("etag")), (Some("Accept-Encoding"), Some("\"one\"")));
        assert_eq!(reply.field("content-encoding"), None);
    }
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn parts_and_conditions_are_answered_whatever_the_client_accepts() {
    let origin = origin();
    let edge = Edge::of(&origin);
    coded(&edge, "/page", "gzip");
    let part = edge.ask("/page", "Accept-Encoding: gzip\r\nRange: bytes=3-8\r\n");
    assert_eq!((part.status, part.text().as_str(), part.field("content-encoding")), (206, "a page", None));
    for tag in ["\"one\"", "W/\"one\""] {
        let same = edge.ask("/page", &format!("Accept-Encoding: gzip\r\nIf-None-Match: {tag}\r\n"));
        assert_eq!((same.status, same.field("etag")), (304, Some("W/\"one\"")), "{}", same.head);
        assert_eq!(same.field("vary"), Some("Accept-Encoding"));
    }
    let mut client = edge.client();
    client.send("HEAD /page HTTP/1.1\r\nHost: www.example.org\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = client.head();
    let whole = edge.ask("/page", "Accept-Encoding: gzip\r\n");
    assert_eq!(head.field("content-encoding"), Some("gzip"));
    assert_eq!(head.field("content-length"), Some(whole.body.len().to_string().as_str()));
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn what_is_private_no_text_or_not_to_be_changed_stays_as_it_is() {
    let origin = origin();
    let edge = Edge::of(&origin);
    coded(&edge, "/page", "gzip");
    for path in ["/image", "/private", "/plain"] {
        for _ in 0..3 {
            let reply = edge.ask(path, "Accept-Encoding: gzip\r\n");
            assert!(reply.field("content-encoding").is_none() && reply.field("vary").is_none(), "{}", reply.head);
            assert!(reply.text() == *PAGE, "{path}");
        }
    }
    let without = Edge::with(&[origin.address], &Change { site: "compress = []", ..Change::default() });
    for _ in 0..3 {
        let reply = without.ask("/page", "Accept-Encoding: gzip\r\n");
        assert!(reply.field("content-encoding").is_none() && reply.field("vary").is_none(), "{}", reply.head);
    }
}

#[test]
fn a_purged_page_is_not_brought_back_by_its_coding() {
    let origin = origin();
    let edge = Edge::of(&origin);
    for _ in 0..5 {
        edge.ask("/page", "Accept-Encoding: br\r\n");
        edge.publisher.house().cache.purge_all();
        assert!(!edge.ask("/page", "").is_hit());
    }
}
