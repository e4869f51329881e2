//! Clients that are slow, or send without end: each is ended in time, and the others notice nothing.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::client::Client;
use crate::edge::Change;
use crate::edge::Edge;
use crate::h2;
use crate::h2::CONTINUATION;
use crate::h2::Conversation;
use crate::h2::DATA;
use crate::h2::END_HEADERS;
use crate::h2::END_STREAM;
use crate::h2::GOAWAY;
use crate::h2::HEADERS;
use crate::h2::Outcome;
use crate::h2::PING;
use crate::h2::PRIORITY;
use crate::h2::RST_STREAM;
use crate::h2::SETTINGS;
use crate::h2::WINDOW_UPDATE;
use crate::origin::DEADLINE;
use crate::origin::Origin;
use crate::origin::Then;
use crate::recorder;
use crate::recorder::Recorder;

const STORED: &str = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 5\r\n\r\nhello";

/// What a flood sends as its so-manieth piece.
type Piece = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

fn edge(servers: &[SocketAddr], limits: &str) -> Edge {
    Edge::with(
        servers,
        &Change {
            server: "h2c = true",
            limits,
            upstream: "threads = 8\ntimeout = { between_bytes = \"200ms\", rate_min = \"64KiB\" }",
            ..Default::default()
        },
    )
}

fn opened(stream: u32) -> Vec<u8> {
    let mut fields = h2::get("/opened");
    fields[0].1 = "POST";
    h2::frame(HEADERS, END_HEADERS, stream, &h2::block(&fields))
}

/// Waits until `such` holds.
fn wait_until(what: &str, such: impl Fn() -> bool) {
    let began = Instant::now();
    while !such() {
        assert!(began.elapsed() < DEADLINE, "{what} does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends `piece(0)`, `piece(1)`, ... until the other side closes; gives how many it has taken at most.
fn flood(place: SocketAddr, most: u32, piece: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut stream = TcpStream::connect(place).expect("tidegate takes connections");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.write_all(h2::PREFACE).and_then(|()| stream.write_all(&h2::frame(SETTINGS, 0, 0, &[]))).expect("it listens");
    // Who floods also reads: else it would only wait for itself.
    let mut reader = stream.try_clone().expect("a second handle");
    let reading = thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while reader.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let ended = (0..most).find(|number| stream.write_all(&piece(*number)).is_err());
    if ended.is_none() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    reading.join().expect("no panic");
    ended
}

#[test]
fn floods_of_frames_end_the_connection_and_others_are_served() {
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let edge = edge(&[origin.address], "");
    let place = edge.place(false);
    assert_eq!(edge.get("/page").status, 200);
    let block = h2::block(&h2::get("/uncached"));
    let floods: Vec<(&str, Piece)> = vec![
        ("RFC 9113 6.7: PING", Box::new(|_| h2::frame(PING, 0, 0, b"12345678"))),
        ("RFC 9113 6.5: SETTINGS", Box::new(|_| h2::frame(SETTINGS, 0, 0, &h2::setting(3, 100)))),
        ("RFC 9113 6.3: PRIORITY", Box::new(|n| h2::frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        ("RFC 9113 6.9: WINDOW_UPDATE", Box::new(|_| h2::frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))),
        ("RFC 9113 4.1: unknown frames", Box::new(|_| h2::frame(0xfe, 0, 0, b"x"))),
        ("RFC 9113 6.1: empty DATA", Box::new(|n| if n == 0 { opened(1) } else { h2::frame(DATA, 0, 1, b"") })),
        (
            "RFC 9113 6.10: CONTINUATION without end (CVE-2024-27316)",
            Box::new(|n| match n {
                0 => h2::frame(HEADERS, END_STREAM, 1, &h2::block(&h2::get("/x"))),
                _ => h2::frame(CONTINUATION, 0, 1, &h2::block(&[("x", "y")])),
            }),
        ),
        (
            "RFC 9113 6.10: empty CONTINUATION frames",
            Box::new(|n| match n {
                0 => h2::frame(HEADERS, END_STREAM, 1, &h2::block(&h2::get("/x"))),
                _ => h2::frame(CONTINUATION, 0, 1, b""),
            }),
        ),
        (
            "RFC 9113 5.4.2: streams opened and reset (CVE-2023-44487)",
            Box::new(move |n| {
                let stream = 2 * n + 1;
                let mut both = h2::frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
                both.extend_from_slice(&h2::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                both
            }),
        ),
        (
            "RFC 9113 6.9: streams that make us reset them (CVE-2025-8671)",
            Box::new(|n| {
                let stream = 2 * n + 1;
                let mut both = opened(stream);
                both.extend_from_slice(&h2::frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
                both
            }),
        ),
        (
            "RFC 9113 5.1.2: more streams than are allowed at a time",
            Box::new(|n| {
                let mut fields = h2::get("/x");
                fields[2].1 = "evil";
                h2::request(2 * n + 1, &fields)
            }),
        ),
    ];
    for (name, piece) in floods {
        let (done, ended) = mpsc::channel();
        let flooding = thread::spawn(move || {
            let taken = flood(place, 200_000, piece);
            done.send(()).expect("the test waits");
            taken
        });
        // One honest client meanwhile, on a connection of its own.
        let mut honest = edge.client();
        loop {
            let reply = honest.get("/page");
            assert!(reply.status == 200 && reply.is_hit(), "{name}: {}", reply.head);
            if ended.recv_timeout(Duration::from_millis(1)).is_ok() {
                break;
            }
        }
        let taken = flooding.join().expect("no panic");
        assert!(taken.is_some(), "{name}: 200000 were taken");
    }
    let began_at_origin = origin.seen().iter().filter(|seen| seen.target() == "/uncached").count();
    assert!(began_at_origin <= 250, "{began_at_origin} requests of a rapid reset have reached the origin");
    wait_until("the count", || edge.metric("tidegate_protocol_errors_total{kind=\"frames\"}") >= 5.0);
}

#[test]
fn over_a_limit_that_closes_an_http2_connection_ends_with_goaway_and_who_goes_on_is_cut_off() {
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let change = Change {
        server: "h2c = true",
        site: "limits = [\"hard\"]",
        more: "[limit.hard]\nrate = \"1/h\"\nburst = 1\nover = \"close\"\n",
        ..Default::default()
    };
    let edge = Edge::with(&[origin.address], &change);
    let mut first = Conversation::with(edge.place(false), &[]);
    assert_eq!(first.send(&h2::request(1, &h2::get("/page"))).outcome(1), Outcome::Status(200));
    // RFC 9113 6.8: who is told by GOAWAY, and acknowledges, is answered and then closed.
    let mut talk = Conversation::with(edge.place(false), &[]);
    talk.send(&h2::request(1, &h2::get("/page")));
    let (mut goaways, mut answers) = (0, 0);
    while let Some(frame) = talk.next() {
        assert!(frame.kind != RST_STREAM, "nothing is left to reset: {frame:?}");
        goaways += u32::from(frame.kind == GOAWAY);
        answers += u32::from(frame.kind == HEADERS);
        if frame.kind == PING {
            talk.send(&h2::frame(PING, h2::ACK, 0, &frame.payload));
        }
    }
    assert!(goaways >= 1 && answers == 1, "it is said, and not only cut: {goaways} {answers}");
    let mut other = Conversation::with(edge.place(false), &[]);
    assert_eq!(other.send(&h2::request(1, &h2::get("/page"))).outcome(1), Outcome::Status(429));
    // Who acknowledges nothing could go on for as long as he likes.
    let mut deaf = Conversation::with(edge.place(false), &[]);
    let ended = (0..1000).find(|number| {
        deaf.send(&h2::request(2 * number + 1, &h2::get("/page")));
        deaf.until(|frame| frame.kind == HEADERS && frame.stream == 2 * number + 1).is_none()
    });
    assert!(ended.is_some_and(|ended| ended < 200), "{ended:?}");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn who_errs_and_errs_is_cut_off() {
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let edge = edge(&[origin.address], "");
    let mut fields = h2::get("/x");
    fields[2].1 = "evil";
    let mut talk = Conversation::with(edge.place(false), &[]);
    let answered = (0..1000).find(|number| {
        let stream = 2 * number + 1;
        talk.send(&h2::request(stream, &fields));
        talk.until(|frame| frame.kind == HEADERS && frame.stream == stream).is_none()
    });
    assert!(answered.is_some_and(|answered| (50..200).contains(&answered)), "{answered:?}");
    let mut client = edge.client();
    let answered = (0..1000).find(|_| {
        client.send("GET / HTTP/1.1\r\nHost: evil\r\n\r\n");
        client.head_if_any().map(|head| client.rest(head)).is_none()
    });
    assert!(answered.is_some_and(|answered| (50..200).contains(&answered)), "{answered:?}");
    wait_until("the count", || edge.metric("tidegate_protocol_errors_total{kind=\"faults\"}") >= 2.0);
    assert!(origin.seen().is_empty());
}

#[test]
fn a_bomb_of_fields_is_refused() {
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let edge = edge(&[origin.address], "");
    let place = edge.place(false);
    let begin = h2::block(&h2::get("/bomb"));
    // RFC 7541 7.3: an entry of the dynamic table costs one byte each time that it is used.
    let mut bomb = begin.clone();
    bomb.push(0x40);
    for text in ["x", &"y".repeat(3000)] {
        h2::integer(&mut bomb, 0, 7, text.len());
        bomb.extend_from_slice(text.as_bytes());
    }
    bomb.extend(std::iter::repeat_n(0xbe, 12_000));
    // CVE-2026-49975: thousands of tiny fields, of which size alone allows too many.
    let mut crumbs = begin.clone();
    crumbs.push(0x40);
    crumbs.extend_from_slice(b"\x06cookie\x01a");
    crumbs.extend(std::iter::repeat_n(0xbe, 700));
    for (name, block) in [("indexed", bomb), ("crumbs", crumbs)] {
        let mut talk = Conversation::with(place, &[]);
        talk.send(&h2::frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
        let outcome = talk.outcome(1);
        assert!(!matches!(outcome, Outcome::Status(status) if status != 431), "{name}: {outcome:?}");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn a_stream_whose_client_takes_nothing_is_reset_and_its_neighbours_are_served() {
    let big = "z".repeat(200_000);
    let origin = Recorder::new(move |seen| {
        let body = if seen.target() == "/big" { big.as_str() } else { "small" };
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: {}\r\n\r\n", body.len());
        ([head.as_bytes(), body.as_bytes()].concat(), recorder::Then::Keep)
    });
    let edge = edge(&[origin.address], "write_idle = \"300ms\"\nidle = \"20s\"");
    for path in ["/big", "/small"] {
        assert_eq!(edge.get(path).status, 200);
    }
    let update = |stream: u32, by: u32| h2::frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let mut talk = Conversation::with(edge.place(false), &h2::setting(4, 0));
    talk.send(&h2::request(1, &h2::get("/big"))).send(&h2::request(3, &h2::get("/big")));
    // One gets nothing, the other a byte at a time: neither makes way.
    assert_eq!(talk.outcome(1), Outcome::Status(200));
    let mut reset = Vec::new();
    while reset.len() < 2 {
        talk.send(&update(3, 1));
        let frame = talk.until(|frame| frame.kind == RST_STREAM || frame.stream == 3 || frame.kind == GOAWAY);
        let frame = frame.expect("the connection lives on");
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.payload, 8_u32.to_be_bytes(), "CANCEL (RFC 9113 7)");
            reset.push(frame.stream);
        } else {
            thread::sleep(Duration::from_millis(20));
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, [1, 3]);
    talk.send(&h2::request(5, &h2::get("/small"))).send(&update(5, 100));
    let data = talk.until(|frame| frame.stream == 5 && frame.kind == DATA).expect("its neighbour is served");
    assert_eq!(data.payload, b"small");
    drop(talk);
    wait_until("the count", || edge.metric("tidegate_connection_timeouts_total{phase=\"stream_stalled\"}") >= 2.0);
}

#[test]
fn who_reads_slowly_over_http2_gets_all_of_it() {
    let origin = Recorder::new(|_| {
        let body = "z".repeat(300_000);
        let head = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=600\r\nContent-Length: 300000\r\n\r\n";
        ([head, &body].concat().into_bytes(), recorder::Then::Keep)
    });
    let edge = edge(&[origin.address], "write_idle = \"2s\"\nidle = \"1s\"");
    let mut talk = Conversation::with(edge.place(false), &h2::setting(4, 0));
    talk.send(&h2::request(1, &h2::get("/big")));
    let (mut got, began) = (0, Instant::now());
    // Longer than a connection may be idle: a request under way is not idling, though hyper has all of its answer.
    while got < 300_000 {
        talk.send(&h2::frame(WINDOW_UPDATE, 0, 1, &20_000_u32.to_be_bytes()));
        talk.send(&h2::frame(WINDOW_UPDATE, 0, 0, &20_000_u32.to_be_bytes()));
        thread::sleep(Duration::from_millis(100));
        let mut granted = 0;
        while granted < 20_000_usize.min(300_000 - got) {
            let frame = talk.until(|frame| frame.stream == 1 && frame.kind != HEADERS).expect("the connection lives");
            assert_eq!(frame.kind, DATA, "{frame:?} after {got} bytes and {:?}", began.elapsed());
            granted += frame.payload.len();
        }
        got += granted;
    }
    assert_eq!(got, 300_000);
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[test]
fn a_client_with_a_small_window_gets_all_of_a_large_answer() {
    let origin = Recorder::new(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n";
        ([head, &"z".repeat(2_000_000)].concat().into_bytes(), recorder::Then::Keep)
    });
    let edge = edge(&[origin.address], "");
    let mut talk = Conversation::with(edge.place(false), &h2::setting(4, 1023));
    talk.send(&h2::request(1, &h2::get("/big")));
    let (mut got, mut unacknowledged) = (0, 0);
    while got < 2_000_000 {
        let frame = talk.until(|frame| matches!(frame.kind, DATA | GOAWAY | RST_STREAM)).expect("it is not cut off");
        assert_eq!(frame.kind, DATA, "{frame:?} after {got} bytes");
        got += frame.payload.len();
        unacknowledged += frame.payload.len();
        if unacknowledged >= 511 {
            let by = u32::try_from(unacknowledged).expect("small").to_be_bytes();
            talk.send(&[h2::frame(WINDOW_UPDATE, 0, 0, &by), h2::frame(WINDOW_UPDATE, 0, 1, &by)].concat());
            unacknowledged = 0;
        }
    }
}

#[test]
fn a_client_that_opens_no_window_holds_no_thread() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() != "/slow" {
            crate::origin::write(stream, STORED.as_bytes());
            return Then::Keep;
        }
        let half = "x".repeat(6000);
        crate::origin::write(stream, format!("HTTP/1.1 200 OK\r\nContent-Length: 12000\r\n\r\n{half}").as_bytes());
        thread::sleep(Duration::from_millis(100));
        crate::origin::write(stream, half.as_bytes());
        Then::Keep
    });
    let change = Change { server: "h2c = true", upstream: "threads = 1", ..Default::default() };
    let edge = Edge::with(&[origin.address], &change);
    let mut talk = Conversation::with(edge.place(false), &h2::setting(4, 0));
    talk.send(&h2::request(1, &h2::get("/slow")));
    let head = talk.until(|frame| frame.stream == 1).expect("an answer");
    assert_eq!(head.kind, HEADERS);
    assert_eq!(Client::to(edge.place(false)).get("/page").status, 200, "the only thread is free");
}

#[test]
fn slow_clients_are_ended_whatever_they_are_slow_with() {
    let origin = Recorder::new(|_| {
        let body = "z".repeat(30_000_000);
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(), recorder::Then::Keep)
    });
    let edge = edge(
        &[origin.address],
        "first_byte = \"300ms\"\nhead = \"300ms\"\nidle = \"300ms\"\nbody_idle = \"300ms\"\nwrite_idle = \"300ms\"\nrate_min = \"8KiB\"",
    );
    let place = edge.place(false);
    let preface = [h2::PREFACE, &h2::frame(SETTINGS, 0, 0, &[])].concat();
    let half_head = [&preface[..], &h2::frame(HEADERS, END_STREAM, 1, &h2::block(&h2::get("/x")))].concat();
    let post = b"POST /slow HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 1000\r\n\r\n";
    let mut slow_post = preface.clone();
    slow_post.extend_from_slice(&opened(1));
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("no byte", vec![], b""),
        ("the beginning of a preface", b"PRI * HT".to_vec(), b""),
        ("half a head", b"GET / HTTP/1.1\r\nHost: www".to_vec(), b""),
        ("a head by drops", b"GET / HTTP/1.1\r\nHost: www.example.org\r\n".to_vec(), b"X-Y: z\r\n"),
        ("a preface by drops", b"PRI * ".to_vec(), b"H"),
        ("an HTTP/2 connection without requests", preface.clone(), b""),
        ("an HTTP/2 connection that only pings", preface.clone(), &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("an HTTP/2 head without its end", half_head, b""),
        ("a body that does not come", post.to_vec(), b""),
        ("a body by drops", post.to_vec(), b"x"),
        ("an HTTP/2 body that does not come", slow_post.clone(), b""),
        ("an HTTP/2 body by drops", slow_post, &[0, 0, 1, 0, 0, 0, 0, 0, 1, b'x']),
    ];
    thread::scope(|scope| {
        for (name, begin, drop) in &cases {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(place).expect("tidegate takes connections");
                stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
                stream.write_all(begin).expect("it listens");
                let began = Instant::now();
                let mut told = Vec::new();
                let mut piece = [0; 4096];
                loop {
                    match stream.read(&mut piece) {
                        Ok(0) => break,
                        Ok(read) => told.extend_from_slice(&piece[..read]),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => break,
                    }
                    assert!(began.elapsed() < DEADLINE, "{name}: never ended");
                    let _ = stream.write_all(drop);
                }
            });
        }
        scope.spawn(|| {
            // The window of a socket on the loopback holds less than this answer.
            let mut client = Client::to(place);
            client.ask("/large", "");
            wait_until("the end of who does not read", || {
                edge.metric("tidegate_connection_timeouts_total{phase=\"write_stalled\"}") >= 1.0
            });
        });
    });
    assert!(origin.seen().iter().all(|seen| seen.target() == "/large"), "{:?}", origin.seen());
}

#[test]
fn who_does_not_read_is_reset_and_leaves_nothing_to_send_behind() {
    let origin = Recorder::new(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n";
        ([head, &"z".repeat(30_000_000)].concat().into_bytes(), recorder::Then::Keep)
    });
    let edge = edge(&[origin.address], "write_idle = \"300ms\"");
    let mut stream = TcpStream::connect(edge.place(false)).expect("tidegate takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: www.example.org\r\n\r\n").expect("it listens");
    wait_until("the end of who does not read", || {
        edge.metric("tidegate_connection_timeouts_total{phase=\"write_stalled\"}") >= 1.0
    });
    // RFC 9293 3.10.5: a farewell would come when all that the kernel holds has been read; a reset comes at once.
    let ended = std::io::copy(&mut stream, &mut std::io::sink()).expect_err("no orderly end");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_origin_that_drips_loses_its_connection_and_gives_back_its_thread() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() == "/drip" {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
            return Then::Close;
        }
        crate::origin::write(stream, STORED.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(
        &[origin.address],
        &Change {
            upstream: "threads = 1\ntimeout = { between_bytes = \"100ms\", rate_min = \"64KiB\" }",
            ..Default::default()
        },
    );
    let mut client = edge.client();
    let head = client.ask("/drip", "").head();
    assert_eq!(head.status, 200);
    assert!(!client.rest(head).whole);
    assert_eq!(edge.get("/next").status, 200, "the one thread is free again");
}

#[test]
fn an_origin_that_never_ends_is_left_when_nobody_reads() {
    for fields in ["Cache-Control: s-maxage=60\r\n", ""] {
        let (left, hears) = mpsc::channel();
        let origin = Origin::new(move |_, stream| {
            let _ =
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
            let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
            while stream.write_all(&chunk).is_ok() {}
            let _ = left.send(());
            Then::Close
        });
        let edge = Edge::of(&origin);
        let mut client = edge.client();
        assert_eq!(client.ask("/endless", "").head().status, 200);
        client.read(100_000);
        drop(client);
        hears.recv_timeout(DEADLINE).expect("the origin is left");
        assert!(edge.metric("tidegate_cache_entries") < 1.0);
    }
}

#[test]
fn pipelined_requests_without_reading_wait_and_do_not_pile_up() {
    let origin = Recorder::new(|_| (STORED.into(), recorder::Then::Keep));
    let edge = edge(&[origin.address], "write_idle = \"500ms\"");
    assert_eq!(edge.get("/page").status, 200);
    let mut stream = TcpStream::connect(edge.place(false)).expect("tidegate takes connections");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
    let many = "GET /page HTTP/1.1\r\nHost: www.example.org\r\n\r\n".repeat(1000);
    // Nothing is read: at last neither side can send, and ours ends it.
    let ended = (0..10_000).find(|_| stream.write_all(many.as_bytes()).is_err());
    assert!(ended.is_some());
    assert!(edge.get("/page").is_hit());
}
