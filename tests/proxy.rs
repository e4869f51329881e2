//! What clients see of tidegate in front of an origin that does anything: real sockets, scripted bytes.

#[path = "proxy/client.rs"]
mod client;
#[path = "proxy/coding.rs"]
mod coding;
#[path = "proxy/conduct.rs"]
mod conduct;
#[path = "proxy/edge.rs"]
mod edge;
#[path = "proxy/explain.rs"]
mod explain;
#[path = "proxy/filling.rs"]
mod filling;
#[path = "proxy/limits.rs"]
mod limits;
#[path = "proxy/origin.rs"]
mod origin;
#[path = "proxy/purge.rs"]
mod purge;
#[path = "proxy/queue.rs"]
mod queue;
#[path = "proxy/soak.rs"]
mod soak;
#[path = "proxy/tls.rs"]
mod tls;
#[path = "proxy/upstream.rs"]
mod upstream;

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use self::client::Client;
use self::edge::Change;
use self::edge::Edge;
use self::origin::Gate;
use self::origin::Origin;
use self::origin::Then;
use self::origin::write;

const PAGE: &str = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60, public\r\nContent-Type: text/plain\r\n\
                    ETag: \"a\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nhello";
const PRIVATE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn a_stored_page_comes_with_its_age_and_without_the_origin() {
    let origin = Origin::saying(PAGE);
    let edge = Edge::of(&origin);
    let mut client = edge.client();
    let first = client.get("/page");
    assert_eq!((first.status, first.text().as_str()), (200, "hello"));
    assert!(first.field("cache-status").unwrap().contains("fwd=uri-miss; stored"), "{}", first.head);
    let second = client.get("/page");
    assert!(second.is_hit() && second.field("age").is_some(), "{}", second.head);
    assert!(second.field("via").is_some() && second.field("date").is_some(), "{}", second.head);
    assert_eq!(second.text(), "hello");
    assert_eq!(client.ask("/page", "If-None-Match: \"a\"\r\n").reply().status, 304);
    assert_eq!(client.ask("/page", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n").reply().status, 304);
    assert_eq!(client.ask("/page", "If-None-Match: \"b\"\r\n").reply().status, 200);
    client.send("HEAD /page HTTP/1.1\r\nHost: www.example.org\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
    assert_eq!(client.get("/page").text(), "hello", "nothing follows a HEAD");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn each_language_gets_its_own_page() {
    let origin = Origin::new(|asked, stream| {
        let language = asked.field("accept-language").unwrap_or("none").to_owned();
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\n";
        write(stream, format!("{head}Content-Length: {}\r\n\r\n{language}", language.len()).as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    for _ in 0..2 {
        assert_eq!(edge.ask("/", "Accept-Language: de\r\n").text(), "de");
        assert_eq!(edge.ask("/", "Accept-Language: nl\r\n").text(), "nl");
        assert_eq!(edge.ask("/", "").text(), "none");
    }
    assert_eq!(origin.asked().len(), 3);
}

#[test]
fn what_is_for_one_visitor_is_never_given_to_another() {
    for (request, answer) in [
        ("Authorization: Basic YTpi\r\n", "Cache-Control: max-age=60"),
        ("Cookie: __ac=me\r\n", "Cache-Control: max-age=60"),
        ("", "Cache-Control: max-age=60\r\nSet-Cookie: a=b"),
        ("", "Cache-Control: max-age=60, private"),
        ("", "Cache-Control: no-store"),
        ("", "Cache-Control: max-age=60\r\nVary: *"),
        ("", "Cache-Control: max-age=60\r\nVary: Cookie"),
        ("", "Expires: Sun, 06 Nov 1994 08:49:37 GMT"),
        ("", "X-Nothing: said"),
    ] {
        let origin = Origin::new(move |_, stream| {
            write(stream, format!("HTTP/1.1 200 OK\r\n{answer}\r\nContent-Length: 2\r\n\r\nme").as_bytes());
            Then::Keep
        });
        let edge = Edge::of(&origin);
        for count in 1..3 {
            let reply = edge.ask("/", request);
            assert!(reply.text() == "me" && !reply.is_hit(), "{request}{answer}: {}", reply.head);
            assert_eq!(origin.asked().len(), count, "{request}{answer}");
        }
    }
}

#[test]
fn fifty_visitors_of_a_cold_page_cost_one_rendering_and_read_it_while_it_arrives() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhello");
        of_origin.pass();
        write(stream, b"world");
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut clients: Vec<Client> = (0..50).map(|_| edge.client()).collect();
    for client in &mut clients {
        client.ask("/", "");
    }
    for client in &mut clients {
        assert_eq!(client.head().status, 200);
        assert_eq!(client.read(5), b"hello", "the origin has not sent more");
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read(5), b"world");
    }
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn answers_that_cannot_be_shared_are_fetched_side_by_side_within_the_threads() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, stream| {
        of_origin.pass();
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 3", ..Change::default() });
    let mut clients: Vec<Client> = (0..20).map(|_| edge.client()).collect();
    for client in &mut clients {
        client.ask("/", "");
    }
    origin.wait_for(1);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().text(), "hello");
    }
    assert_eq!(origin.asked().len(), 20);
    assert!(origin.most_at_once() <= 3, "{}", origin.most_at_once());
}

#[test]
fn a_page_that_breaks_off_is_broken_for_everybody_and_never_stored() {
    let origin = Origin::new(|_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhello");
        Then::Close
    });
    let edge = Edge::of(&origin);
    for count in 1..4 {
        let reply = edge.get("/");
        assert!(!reply.whole && reply.body.len() <= 5, "{}", reply.text());
        assert_eq!(origin.asked().len(), count);
    }
}

#[test]
fn a_page_that_is_too_large_to_be_stored_arrives_whole() {
    let origin = Origin::new(|_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..64 {
            write(stream, format!("{:x}\r\n{}\r\n", 4096, "x".repeat(4096)).as_bytes());
        }
        write(stream, b"0\r\n\r\n");
        Then::Keep
    });
    let change = Change { cache: "memory = \"64MiB\"\nobject_max = \"64KiB\"", ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    for count in 1..3 {
        let reply = edge.get("/");
        assert!(reply.whole && reply.body.len() == 64 * 4096, "{} bytes", reply.body.len());
        assert_eq!(origin.asked().len(), count);
    }
}

#[test]
fn a_page_of_yesterday_is_better_than_an_error() {
    let origin = Origin::new(|asked, stream| {
        let answer = match asked.field("if-none-match") {
            // Asked again, it is ill.
            Some(_) => "HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill",
            None => "HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello",
        };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/").text(), "hello");
    let stale = edge.get("/");
    assert_eq!((stale.status, stale.text().as_str()), (200, "hello"), "{}", stale.head);
    assert!(stale.field("cache-status").unwrap().contains("stale"), "{}", stale.head);
}

#[test]
fn with_no_origin_and_nothing_stored_visitors_are_told_when_to_come_back() {
    let edge = Edge::with(&[nowhere()], &Change { upstream: "queue = { hold = \"0s\" }", ..Change::default() });
    let reply = edge.get("/");
    assert_eq!(reply.status, 503);
    assert!(reply.field("retry-after").is_some() && reply.field("cache-control") == Some("no-store"), "{}", reply.head);
}

#[test]
fn answers_that_can_be_read_in_two_ways_are_502_and_never_stored() {
    let stored = "Cache-Control: max-age=60\r\n";
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: foo\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-Null: a\0b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "ICY 200 OK\r\n\r\nhello",
        "hello",
    ] {
        let (line, rest) = answer.split_once("\r\n").unwrap_or((answer, ""));
        let whole = if rest.is_empty() { answer.to_owned() } else { format!("{line}\r\n{stored}{rest}") };
        let origin = Origin::new(move |_, stream| {
            write(stream, whole.as_bytes());
            Then::Close
        });
        let edge = Edge::of(&origin);
        for count in 1..3 {
            let reply = edge.get("/");
            assert_eq!(reply.status, 502, "{answer}: {}", reply.head);
            assert!(!reply.text().contains("hello"), "{answer}");
            assert_eq!(origin.asked().len(), count, "{answer}");
        }
    }
}

#[test]
fn a_form_is_sent_once_whatever_the_origin_does() {
    let post = "POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhello";
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"] {
        let origin = Origin::new(move |_, stream| {
            write(stream, answer.as_bytes());
            Then::Close
        });
        let edge = Edge::of(&origin);
        let reply = edge.client().send(post).reply();
        assert!(reply.status == 502 || !reply.whole, "{answer}: {}", reply.head);
        assert_eq!(origin.asked().len(), 1, "{answer}");
        assert_eq!(origin.asked()[0].body, b"hello");
    }
}

#[test]
fn a_form_goes_elsewhere_when_nobody_listens_at_the_first_endpoint() {
    let origin = Origin::saying(PRIVATE);
    let edge = Edge::with(&[nowhere(), origin.address], &Change::default());
    let reply =
        edge.client().send("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhello").reply();
    assert_eq!(reply.status, 200);
    assert_eq!(origin.asked()[0].body, b"hello");
}

#[test]
fn a_kept_connection_that_the_origin_closed_costs_nobody_an_error() {
    // As waitress does after an error or a 304.
    let origin = Origin::new(|_, stream| {
        write(stream, PRIVATE.as_bytes());
        Then::Close
    });
    let edge = Edge::of(&origin);
    let mut client = edge.client();
    for count in 1..20 {
        assert_eq!(client.get("/").status, 200);
        client.send("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.reply().status, 200);
        assert_eq!(origin.asked().len(), count * 2);
    }
}

#[test]
fn connections_to_the_origin_are_kept() {
    let origin = Origin::saying(PRIVATE);
    let edge = Edge::of(&origin);
    let mut client = edge.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn too_large_a_body_is_413_and_too_slow_a_one_408() {
    let origin = Origin::saying(PRIVATE);
    let change = Change { limits: "body = \"1KiB\"\nbody_idle = \"100ms\"", ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    let head = "POST / HTTP/1.1\r\nHost: www.example.org\r\n";
    let mut client = edge.client();
    assert_eq!(client.send(format!("{head}Content-Length: 1025\r\n\r\n")).reply().status, 413);
    assert!(client.is_closed());
    let mut client = edge.client();
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048)));
    assert_eq!(client.reply().status, 413);
    assert_eq!(origin.asked().len(), 0);
    let mut client = edge.client();
    assert_eq!(client.send(format!("{head}Content-Length: 10\r\n\r\nhello")).reply().status, 408);
    assert!(client.is_closed());
    assert_eq!(origin.asked().len(), 0, "it has never been whole");
    let mut client = edge.client();
    client.send(format!("{head}Content-Length: 1024\r\n\r\n{}", "x".repeat(1024)));
    assert_eq!(client.reply().status, 200);
}

#[test]
fn an_endpoint_never_has_more_requests_than_threads() {
    let script = |_: &origin::Asked, stream: &mut std::net::TcpStream| {
        // Long enough for the others to arrive; the count is what is tested, not the time.
        thread::sleep(Duration::from_millis(2));
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    };
    let origins = [Origin::new(script), Origin::new(script)];
    let servers = [origins[0].address, origins[1].address];
    let edge = Edge::with(&servers, &Change { upstream: "threads = 2", ..Change::default() });
    let mut clients: Vec<Client> = (0..100).map(|_| edge.client()).collect();
    for round in 0..2 {
        for client in &mut clients {
            client.ask(&format!("/{round}"), "Cookie: __ac=me\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.reply().status, 200);
        }
    }
    for origin in &origins {
        assert_eq!(origin.most_at_once(), 2);
        assert!(origin.asked().len() > 60, "the load is shared: {}", origin.asked().len());
    }
}

#[test]
fn a_full_line_is_refused_at_once_and_a_long_wait_ends() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let upstream = "threads = 1\nqueue = { max = 1, wait = \"200ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream, ..Change::default() });
    let mut first = edge.client();
    first.ask("/1", "");
    origin.wait_for(1);
    let mut second = edge.client();
    second.ask("/2", "");
    let mut third = edge.client();
    third.ask("/3", "");
    let (second, third) = (second.reply(), third.reply());
    for reply in [&second, &third] {
        assert_eq!(reply.status, 503);
        assert!(reply.field("retry-after").is_some(), "{}", reply.head);
    }
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn who_leaves_the_line_never_reaches_the_origin() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut first = edge.client();
    first.ask("/stays", "Cookie: __ac=me\r\n");
    origin.wait_for(1);
    let waiting = |count: f64| {
        let began = Instant::now();
        while (edge.metric("tidegate_queue_length{") - count).abs() > 0.1 {
            assert!(began.elapsed() < origin::DEADLINE, "{count} should wait");
            thread::yield_now();
        }
    };
    let mut leaves = edge.client();
    leaves.ask("/leaves", "Cookie: __ac=me\r\n");
    waiting(1.0);
    drop(leaves);
    waiting(0.0);
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(edge.ask("/last", "Cookie: __ac=me\r\n").status, 200);
    let targets: Vec<String> = origin.asked().iter().map(|asked| asked.target().to_owned()).collect();
    assert_eq!(targets, ["/stays", "/last"]);
}

#[test]
fn an_origin_that_does_not_answer_in_time_is_504() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, _| {
        of_origin.pass();
        Then::Close
    });
    let upstream = "timeout = { first_byte = \"100ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream, ..Change::default() });
    assert_eq!(edge.get("/").status, 504);
    assert_eq!(
        edge.client().send("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n").reply().status,
        504
    );
    assert_eq!(origin.asked().len(), 2, "nothing that may have been read is sent again");
    gate.open();
}

#[test]
fn a_websocket_goes_through_in_both_directions() {
    let origin = Origin::new(|_, stream| {
        use std::io::Read;
        write(stream, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut bytes = [0; 5];
        while stream.read_exact(&mut bytes).is_ok() {
            bytes.reverse();
            write(stream, &bytes);
        }
        Then::Close
    });
    let edge = Edge::of(&origin);
    let mut client = edge.client();
    client.ask("/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    assert_eq!(client.head().status, 101);
    for (said, heard) in [("hello", "olleh"), ("world", "dlrow")] {
        assert_eq!(client.send(said).read(5), heard.as_bytes());
    }
    let asked = &origin.asked()[0];
    assert_eq!(asked.field("upgrade"), Some("websocket"));
    assert_eq!(asked.field("sec-websocket-version"), Some("13"));
}

#[test]
fn who_asks_too_often_waits() {
    let origin = Origin::saying(PAGE);
    let more = "[limit.per-client]\nrate = \"1/h\"\nburst = 3\n";
    let edge = Edge::with(&[origin.address], &Change { more, ..Change::default() });
    let mut client = edge.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    let refused = client.get("/");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.field("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=3600).contains(&wait), "{wait}");
}

#[test]
fn unknown_hosts_are_misdirected_and_aliases_redirected() {
    let origin = Origin::saying(PAGE);
    let edge = Edge::with(&[origin.address], &Change { site: "aliases = [\"example.org\"]", ..Change::default() });
    let mut client = edge.client();
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").reply().status, 421);
    let moved = client.send("GET /a?b=c HTTP/1.1\r\nHost: Example.ORG\r\n\r\n").reply();
    assert_eq!((moved.status, moved.field("location")), (308, Some("http://www.example.org/a?b=c")));
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: WWW.example.org\r\n\r\n").reply().status, 200);
    assert_eq!(client.send("GET http://www.example.org/ HTTP/1.1\r\nHost: other.example\r\n\r\n").reply().status, 200);
    assert_eq!(origin.asked().len(), 1, "one spelling, one page");
}

#[test]
fn the_origin_learns_who_asks_from_us_and_from_nobody_else() {
    let origin = Origin::saying(PRIVATE);
    let edge = Edge::of(&origin);
    let lies = "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=evil\r\n\
                X_Forwarded_For: 203.0.113.1\r\nProxy: evil\r\nTE: trailers\r\nKeep-Alive: 5\r\n";
    assert_eq!(edge.ask("/", lies).status, 200);
    let asked = &origin.asked()[0];
    assert_eq!(asked.field("x-forwarded-for"), Some("127.0.0.1"), "{}", asked.head);
    assert_eq!(asked.field("x-forwarded-proto"), Some("http"));
    assert_eq!(asked.field("x-forwarded-host"), Some("www.example.org"));
    for name in ["x_forwarded_for", "proxy", "te", "keep-alive"] {
        assert_eq!(asked.field(name), None, "{name}");
    }
    assert!(!asked.head.contains("evil"), "{}", asked.head);
}

#[test]
fn silent_and_slow_clients_are_shown_the_door() {
    let origin = Origin::saying(PAGE);
    let limits = "first_byte = \"100ms\"\nhead = \"150ms\"\nidle = \"100ms\"";
    let edge = Edge::with(&[origin.address], &Change { limits, ..Change::default() });
    assert!(edge.client().is_closed(), "who says nothing");
    let told = edge.client().send("GET / HTTP/1.1\r\nHost: www").until_closed();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "who stops in the middle: {told}");
    assert!(edge.client().send("PRI * HT").is_closed(), "who stops within the preface of HTTP/2");
    let mut client = edge.client();
    assert_eq!(client.get("/").status, 200);
    assert!(client.is_closed(), "who has nothing more to say");
}

#[test]
fn too_many_connections_of_one_client_are_closed_at_once() {
    let origin = Origin::saying(PAGE);
    let edge = Edge::with(&[origin.address], &Change { limits: "per_client = 2", ..Change::default() });
    let mut held = [edge.client(), edge.client()];
    for client in &mut held {
        assert_eq!(client.get("/").status, 200);
    }
    let mut third = edge.client();
    assert!(third.ask("/", "").is_closed());
    drop(held);
    let began = Instant::now();
    while edge.client().ask("/", "").until_closed_or_reply().is_none() {
        assert!(began.elapsed() < origin::DEADLINE, "the places are free again");
    }
}

#[test]
fn a_reload_keeps_connections_and_what_is_stored() {
    let (old, new) = (Origin::saying(PAGE), Origin::saying(PRIVATE));
    let edge = Edge::of(&old);
    let mut client = edge.client();
    assert_eq!(client.get("/").status, 200);
    edge.reload(&[new.address], &Change::default()).expect("a good configuration");
    assert!(client.get("/").is_hit());
    assert_eq!(client.get("/other").status, 200);
    assert_eq!((old.asked().len(), new.asked().len()), (1, 1));
    let refused = edge.reload(&[new.address], &Change { upstream: "thread = 1", ..Change::default() });
    assert!(refused.expect_err("an unknown key").contains("did you mean `threads`"));
    assert!(client.get("/").is_hit());
}

#[test]
fn a_reload_names_what_waits_for_the_next_start_and_how_long_to_drain_is_not_among_it() {
    let origin = Origin::saying(PAGE);
    let edge = Edge::of(&origin);
    let plain = edge.reload(&[origin.address], &Change::default()).expect("a good configuration");
    assert_eq!(plain, "the new configuration is in force");
    let change = Change { cache: "memory = \"64MiB\"\nstatus = false", log: "access = \"json\"", ..Change::default() };
    for _ in 0..2 {
        let told = edge.reload(&[origin.address], &change).expect("a good configuration");
        assert!(told.contains("in force\nbut not cache.memory, log.access: read at the start only"), "{told}");
    }
    let text = fs::read_to_string(edge.config()).expect("a file").replace("drain = \"5s\"", "drain = \"3s\"");
    fs::write(edge.config(), text).expect("a file");
    assert_eq!(edge.publisher.drain_time(), Duration::from_secs(5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let told = runtime.block_on(edge.publisher.reload()).expect("a good configuration");
    assert!(!told.contains("drain"), "{told}");
    assert_eq!(edge.publisher.drain_time(), Duration::from_secs(3));
}

#[test]
fn a_listener_that_goes_lets_its_visitors_finish() {
    let origin = Origin::saying(PAGE);
    let edge = Edge::with(&[origin.address], &Change::default());
    let mut client = edge.client();
    assert_eq!(client.get("/").status, 200);
    let place = edge.place(false);
    let other = nowhere();
    let listen = format!("\"{other}\"");
    edge.reload(&[origin.address], &Change { listen: &listen, ..Change::default() }).expect("a good configuration");
    assert_eq!(Client::to(other).get("/").status, 200);
    let began = Instant::now();
    while std::net::TcpStream::connect(place).is_ok() {
        assert!(began.elapsed() < origin::DEADLINE, "the old listener closes");
    }
}

#[test]
fn only_the_named_may_purge() {
    let origin = Origin::saying(PAGE);
    let purge = "PURGE /page HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    let edge =
        Edge::with(&[origin.address], &Change { cache: "purge_allow = [\"192.0.2.0/24\"]", ..Change::default() });
    assert_eq!(edge.get("/page").status, 200);
    assert_eq!(edge.client().send(purge).reply().status, 403);
    assert!(edge.get("/page").is_hit());
    edge.reload(&[origin.address], &Change { cache: "purge_allow = [\"127.0.0.0/8\"]", ..Change::default() })
        .expect("good");
    assert_eq!(edge.client().send(purge).reply().status, 200);
    assert!(!edge.get("/page").is_hit());
    let asked: Vec<String> = origin.asked().iter().map(|asked| asked.head.clone()).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|head| head.starts_with("GET ")), "{asked:?}");
}

#[test]
fn an_upload_reaches_the_origin_byte_for_byte() {
    let origin = Origin::saying(PRIVATE);
    let edge = Edge::of(&origin);
    let body: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let mut client = edge.client();
    client
        .send(format!("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: {}\r\n\r\n", body.len()))
        .send(&body);
    assert_eq!(client.reply().status, 200);
    client.send("POST / HTTP/1.1\r\nHost: www.example.org\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.chunks(7000) {
        client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
    }
    assert_eq!(client.send("0\r\n\r\n").reply().status, 200);
    client.send("POST / HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().status, 100);
    assert_eq!(client.send("hello").reply().status, 200);
    let asked = origin.asked();
    assert!(asked[0].body == body && asked[1].body == body && asked[2].body == b"hello");
    assert!(asked.iter().all(|asked| asked.field("expect").is_none()));
}

#[test]
fn endpoints_that_fail_their_checks_get_no_visitors_until_they_answer_again() {
    let healthy = Gate::default();
    let of_origin = healthy.clone();
    let sick = Origin::new(move |asked, stream| {
        if asked.target() == "/alive" && !of_origin.is_open() {
            write(stream, b"HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n");
        } else {
            write(stream, PRIVATE.as_bytes());
        }
        Then::Keep
    });
    let well = Origin::saying(PRIVATE);
    let upstream = "check = { path = \"/alive\", every = \"20ms\", rise = 1, fall = 2 }\nwarmup = { ramp = \"0s\" }";
    let edge = Edge::with(&[sick.address, well.address], &Change { upstream, ..Change::default() });
    let state = |state: &str| {
        let line = format!(
            "tidegate_upstream_state{{upstream=\"zope\",set=\"main\",backend=\"{}\",state=\"{state}\"}}",
            sick.address
        );
        let began = Instant::now();
        while edge.metric(&line) < 0.5 {
            assert!(began.elapsed() < origin::DEADLINE, "{line}");
            thread::yield_now();
        }
    };
    state("down");
    let pages = |origin: &Origin| origin.asked().iter().filter(|asked| asked.target() == "/page").count();
    for _ in 0..10 {
        assert_eq!(edge.get("/page").status, 200);
    }
    assert_eq!((pages(&sick), pages(&well)), (0, 10));
    healthy.open();
    state("up");
    for _ in 0..10 {
        assert_eq!(edge.get("/page").status, 200);
    }
    assert_eq!(pages(&sick), 5);
}
