//! Hostile requests over HTTP/2: what RFC 9113 forbids, each with its sentence.

use std::net::SocketAddr;

use crate::edge::Change;
use crate::edge::Edge;
use crate::h2;
use crate::h2::ACK;
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
use crate::h2::PUSH_PROMISE;
use crate::h2::RST_STREAM;
use crate::h2::SETTINGS;
use crate::h2::WINDOW_UPDATE;
use crate::recorder::Recorder;
use crate::recorder::Then;
use crate::table;

/// What is right.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// The stream is reset, or the whole connection ended: RFC 9113 5.4 lets a stream error be treated as the latter.
    StreamError,
    /// The connection ends.
    ConnectionError,
    /// The stream is refused in one way or another, but not answered with success.
    Refused,
    /// It is answered with this status, and the origin may see it.
    Passed(u16),
}

struct Case {
    rfc: &'static str,
    what: String,
    bytes: Vec<u8>,
    right: Right,
}

const PROTOCOL: &[u32] = &[1, 3, 5, 6, 7, 8, 9, 11];

fn fields(case: &str, changes: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = h2::get(case).iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    for (name, value) in changes {
        match name.strip_prefix('-') {
            Some(gone) => fields.retain(|(name, _)| name != gone),
            None if name.starts_with(':') && fields.iter().any(|(known, _)| known == name) => {
                fields.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| (*value).clone_into(old));
            }
            None => fields.push(((*name).to_owned(), (*value).to_owned())),
        }
    }
    fields
}

fn request(fields: &[(String, String)]) -> Vec<u8> {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    h2::request(1, &fields)
}

/// Requests that are wrong by their fields.
#[expect(clippy::too_many_lines, reason = "a table")]
fn by_fields() -> Vec<Case> {
    let rules: &[(&str, Right, &[&[(&str, &str)]])] = &[
        (
            "RFC 9113 8.3.1: all HTTP/2 requests MUST include exactly one valid value for :method, :scheme and :path, unless they are CONNECT requests; an HTTP request that omits mandatory pseudo-header fields is malformed",
            Right::StreamError,
            &[&[("-:method", "")], &[("-:scheme", "")], &[("-:path", "")], &[(":path", "")], &[(":method", "")]],
        ),
        (
            "RFC 9113 8.3: the same pseudo-header field name MUST NOT appear more than once; endpoints MUST NOT generate others than those defined; MUST appear before regular fields",
            Right::StreamError,
            &[
                &[("-:method", ""), ("-:path", ""), (":method", "GET"), ("x", "y"), (":path", "/")],
                &[(":unknown", "x")],
                &[(":status", "200")],
                &[("x", "y"), (":foo", "x")],
                &[(":protocol", "websocket")],
            ],
        ),
        (
            "RFC 9113 8.2: field names MUST be converted to lowercase; a field name MUST NOT contain characters in the ranges 0x00-0x20, 0x41-0x5a, or 0x7f-0xff; a value MUST NOT contain NUL, LF or CR",
            Right::StreamError,
            &[
                &[("X-Upper", "y")],
                &[("x y", "z")],
                &[("", "z")],
                &[("x:", "z")],
                &[("x\r\n", "z")],
                &[("x\u{e4}", "z")],
                &[("x", "a\rb")],
                &[("x", "a\nb")],
                &[("x", "a\0b")],
                &[("x", "a\r\nhost: evil")],
                &[("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: www.example.org\r\n\r\n")],
                &[("x\r\nhost", "evil")],
                &[("transfer-encoding: chunked\r\nx", "y")],
            ],
        ),
        (
            "RFC 9113 8.2.2: an endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields; any message containing them MUST be treated as malformed; TE MUST NOT contain any value other than trailers",
            Right::StreamError,
            &[
                &[("connection", "close")],
                &[("connection", "keep-alive, x")],
                &[("keep-alive", "5")],
                &[("proxy-connection", "keep-alive")],
                &[("transfer-encoding", "chunked")],
                &[("transfer-encoding", "identity")],
                &[("upgrade", "h2c")],
                &[("te", "gzip")],
                &[("te", "trailers, gzip")],
            ],
        ),
        (
            "RFC 9113 8.3.1: the :method, :path and :scheme are what a request line would hold; what would be malformed there is malformed here",
            Right::Refused,
            &[
                &[(":method", "G ET")],
                &[(":method", "GET / HTTP/1.1\r\nhost: evil\r\n\r\nGET")],
                &[(":method", "GET\0")],
                &[(":method", "get")],
                &[(":method", "FROB")],
                &[(":method", "TRACE")],
                &[(":path", "x")],
                &[(":path", "*")],
                &[(":path", "http://www.example.org/x")],
                &[(":path", "x/y")],
                &[(":path", "/x y")],
                &[(":path", "/x HTTP/1.1\r\nhost: evil")],
                &[(":path", "/x\0y")],
                &[(":path", "/x\ny")],
                &[(":path", "/..")],
                &[(":path", "/../x")],
                &[(":path", "/%2e%2e/x")],
                &[(":path", "/%zz")],
                &[(":path", "/%00")],
                &[(":path", "/x\\y")],
                &[(":path", "/_vh_evil/x")],
                &[(":path", "/VirtualHostBase/http/evil:80/x")],
                &[(":scheme", "ftp")],
                &[(":scheme", "http\0")],
                &[(":scheme", "h ttp")],
                &[(":scheme", "http://evil/")],
                &[(":scheme", "")],
            ],
        ),
        (
            "RFC 9113 8.3.1: the authority includes the authority portion of the target URI; :authority MUST NOT include the deprecated userinfo subcomponent; a server SHOULD treat a request as malformed if it contains a Host header field that identifies an entity that differs from :authority",
            Right::Refused,
            &[
                &[(":authority", "user@www.example.org")],
                &[(":authority", "www.example.org/x")],
                &[(":authority", "www.example.org, evil")],
                &[(":authority", "www.example.org:99999")],
                &[(":authority", "www.example.org:x")],
                &[(":authority", "a b")],
                &[(":authority", "www..example.org")],
                &[(":authority", "[::1")],
                &[(":authority", "")],
                &[("-:authority", "")],
                &[("host", "evil")],
                &[("host", "www.example.org:8080")],
                &[("host", "www.example.org"), ("host", "www.example.org")],
                &[("host", "")],
                &[("host", "user@www.example.org")],
                &[("-:authority", ""), ("host", "a"), ("host", "b")],
                &[("-:authority", ""), ("host", "evil")],
                &[(":authority", "evil")],
                &[(":authority", "www.example.org.")],
            ],
        ),
        (
            "RFC 9113 8.1.1: a request that is defined as having content is malformed if the value of Content-Length does not equal the sum of the DATA frame payload lengths",
            Right::Refused,
            &[
                &[("content-length", "5")],
                &[("content-length", "x")],
                &[("content-length", "-1")],
                &[("content-length", "+0")],
                &[("content-length", "0"), ("content-length", "1")],
                &[("content-length", "0, 0")],
                &[("content-length", "99999999999999999999")],
                &[("content-length", "")],
            ],
        ),
        (
            "RFC 9113 8.2.3: cookie crumbs are joined; RFC 9113 8.3.1: Host beside an equal :authority is one",
            Right::Passed(200),
            &[
                &[("cookie", "a=1"), ("cookie", "b=2")],
                &[("host", "WWW.example.org")],
                &[("-:authority", ""), ("host", "www.example.org")],
                &[("te", "trailers")],
                &[(":scheme", "https")],
                &[("content-length", "0")],
                &[("x", "\u{e4}")],
            ],
        ),
        (
            "RFC 9113 8.5: CONNECT is for tunnels, and there are none here",
            Right::Refused,
            &[
                &[(":method", "CONNECT"), ("-:scheme", ""), ("-:path", "")],
                &[(":method", "CONNECT")],
                &[(":method", "CONNECT"), (":protocol", "websocket")],
                &[(":method", "CONNECT"), ("-:scheme", ""), ("-:path", ""), (":authority", "evil:22")],
            ],
        ),
    ];
    let mut cases = Vec::new();
    for (rfc, right, changes) in rules {
        for change in *changes {
            // Told apart at the origin by their path, where they have one.
            let path = format!("/stream{}", cases.len());
            let bytes = request(&fields(&path, change));
            cases.push(Case { rfc, what: format!("{change:?}"), bytes, right: *right });
        }
    }
    cases
}

/// Frames that are wrong by themselves, or where they stand.
#[expect(clippy::too_many_lines, reason = "a table")]
fn by_frames() -> Vec<Case> {
    let good = |stream: u32| h2::request(stream, &h2::get("/framed"));
    let open = |stream: u32| {
        let mut fields = h2::get("/framed");
        fields[0].1 = "POST";
        h2::frame(HEADERS, END_HEADERS, stream, &h2::block(&fields))
    };
    let huge = vec![0; 20_000];
    let split = h2::block(&h2::get("/framed"));
    let begin = |flags: u8| h2::frame(HEADERS, flags, 1, &split[..10]);
    let update = |stream: u32, by: u32| h2::frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let error = Right::ConnectionError;
    let rules: Vec<(&'static str, Right, Vec<Vec<u8>>)> = vec![
        (
            "RFC 9113 5.1: receiving any frame other than HEADERS or PRIORITY on a stream in the idle state MUST be treated as a connection error",
            error,
            vec![
                h2::frame(DATA, 0, 1, b"x"),
                h2::frame(DATA, END_STREAM, 5, b""),
                h2::frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
                update(1, 100),
                h2::frame(CONTINUATION, END_HEADERS, 1, &split),
            ],
        ),
        (
            "RFC 9113 5.1.1: streams initiated by a client MUST use odd-numbered identifiers; an unexpected stream identifier MUST be responded to with a connection error",
            error,
            vec![good(2), good(0), [good(3), good(1)].concat(), h2::frame(HEADERS, 5, 0, &split)],
        ),
        (
            "RFC 9113 4.2: an endpoint MUST send FRAME_SIZE_ERROR if a frame exceeds SETTINGS_MAX_FRAME_SIZE, or is too small to contain mandatory frame data",
            error,
            vec![
                h2::frame(HEADERS, END_HEADERS, 1, &huge),
                h2::frame(PING, 0, 0, b"1234567"),
                h2::frame(PING, 0, 0, b"123456789"),
                h2::frame(SETTINGS, 0, 0, b"12345"),
                h2::frame(SETTINGS, ACK, 0, &h2::setting(3, 1)),
                h2::frame(WINDOW_UPDATE, 0, 0, b"123"),
                h2::frame(GOAWAY, 0, 0, b"1234"),
                [open(1), h2::frame(RST_STREAM, 0, 1, b"123")].concat(),
                [open(1), h2::frame(DATA, 0, 1, &huge)].concat(),
            ],
        ),
        (
            "RFC 9113 6.5, 6.7, 6.8: SETTINGS, PING and GOAWAY apply to a connection, never a single stream: PROTOCOL_ERROR",
            error,
            vec![
                h2::frame(SETTINGS, 0, 1, &[]),
                h2::frame(PING, 0, 1, b"12345678"),
                h2::frame(GOAWAY, 0, 1, b"12345678"),
                h2::frame(RST_STREAM, 0, 0, &8_u32.to_be_bytes()),
                h2::frame(DATA, 0, 0, b"x"),
                h2::frame(CONTINUATION, END_HEADERS, 0, &split),
                h2::frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1]),
            ],
        ),
        (
            "RFC 9113 6.5.2: values outside of their range MUST be treated as a connection error",
            error,
            vec![
                h2::frame(SETTINGS, 0, 0, &h2::setting(2, 2)),
                h2::frame(SETTINGS, 0, 0, &h2::setting(4, 0x8000_0000)),
                h2::frame(SETTINGS, 0, 0, &h2::setting(4, u32::MAX)),
                h2::frame(SETTINGS, 0, 0, &h2::setting(5, 16_383)),
                h2::frame(SETTINGS, 0, 0, &h2::setting(5, 1 << 24)),
            ],
        ),
        (
            "RFC 9113 6.9 and 6.9.1: an increment of 0 MUST be treated as an error; a window MUST NOT exceed 2^31-1",
            error,
            vec![update(0, 0), update(0, 0x7fff_ffff), [update(0, 0x7000_0000), update(0, 0x7000_0000)].concat()],
        ),
        (
            "RFC 9113 6.9 and 6.9.1: on a stream an increment of 0, or beyond 2^31-1, is an error of the stream",
            Right::StreamError,
            vec![[open(1), update(1, 0)].concat(), [open(1), update(1, 0x7fff_ffff)].concat()],
        ),
        (
            "RFC 9113 6.10 and 4.3: a HEADERS frame without END_HEADERS MUST be followed by CONTINUATION for the same stream; any other frame is a connection error",
            error,
            vec![
                [begin(END_STREAM), h2::frame(PING, 0, 0, b"12345678")].concat(),
                [begin(END_STREAM), h2::frame(CONTINUATION, END_HEADERS, 3, &split[10..])].concat(),
                [begin(END_STREAM), good(3)].concat(),
                [begin(END_STREAM), h2::frame(DATA, END_STREAM, 1, b"")].concat(),
                [begin(END_STREAM), h2::frame(0xfe, 0, 1, b"")].concat(),
                [good(1), h2::frame(CONTINUATION, END_HEADERS, 1, &split)].concat(),
            ],
        ),
        (
            "RFC 9113 4.3: a decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR",
            error,
            vec![
                h2::frame(HEADERS, 5, 1, &[0x80]),
                h2::frame(HEADERS, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
                h2::frame(HEADERS, 5, 1, &[0xbe]),
                h2::frame(HEADERS, 5, 1, &[0x00, 0x05, b'x']),
                h2::frame(HEADERS, 5, 1, &[0x00, 0x81, 0xff, 0x01, b'y']),
                h2::frame(HEADERS, 5, 1, &[0x3f, 0xe1, 0xff, 0xff, 0xff, 0x7f]),
                h2::frame(HEADERS, 5, 1, &[0x82, 0x84, 0x86, 0x3f, 0x00]),
                h2::frame(HEADERS, 5, 1, &[0x40]),
            ],
        ),
        (
            "RFC 9113 6.1 and 6.2: padding as long as the payload or longer MUST be treated as a connection error",
            error,
            vec![
                h2::frame(HEADERS, 5 | 8, 1, &[200, 0x82, 0x84]),
                [open(1), h2::frame(DATA, 8, 1, &[5, b'x', b'y'])].concat(),
                h2::frame(HEADERS, 5 | 0x20, 1, &[0, 0]),
            ],
        ),
        (
            "RFC 9113 8.4: a client cannot push; a server MUST treat the receipt of a PUSH_PROMISE frame as a connection error",
            error,
            vec![
                h2::frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
                [open(1), h2::frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])].concat(),
            ],
        ),
        (
            "RFC 9113 8.1: a HEADERS frame as a trailer section ends the stream; RFC 9113 8.1: trailers MUST NOT include pseudo-header fields",
            Right::Refused,
            vec![
                [open(1), h2::frame(HEADERS, END_HEADERS, 1, &h2::block(&[("x", "y")]))].concat(),
                [open(1), h2::frame(HEADERS, 5, 1, &h2::block(&[("X", "y")]))].concat(),
            ],
        ),
        (
            "RFC 9113 5.1: an endpoint that receives any frame other than PRIORITY, WINDOW_UPDATE or RST_STREAM on a half-closed stream MUST respond with a stream error of type STREAM_CLOSED",
            Right::Refused,
            vec![
                [h2::request(1, &h2::get("/held")), h2::frame(DATA, END_STREAM, 1, b"x")].concat(),
                [h2::request(1, &h2::get("/held")), h2::request(1, &h2::get("/held"))].concat(),
            ],
        ),
        (
            "RFC 9113 4.1 and 5.5: frames of unknown types are discarded, unknown flags and settings ignored",
            Right::Passed(200),
            vec![
                [h2::frame(0xfe, 0xff, 0, b"anything"), good(1)].concat(),
                [h2::frame(SETTINGS, 0, 0, &h2::setting(0xfefe, 7)), good(1)].concat(),
                h2::frame(HEADERS, 5 | 0x40, 1, &split),
                [h2::frame(PING, 0x80, 0, b"12345678"), good(1)].concat(),
                [begin(END_STREAM), h2::frame(CONTINUATION, END_HEADERS, 1, &split[10..])].concat(),
                [h2::frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]), good(1)].concat(),
                [open(1), h2::frame(DATA, 0, 1, b""), h2::frame(DATA, END_STREAM, 1, b"hello")].concat(),
                [open(1), h2::frame(HEADERS, 5, 1, &h2::block(&[("x-trailer", "y")]))].concat(),
            ],
        ),
        (
            "RFC 9113 8.1: trailers MUST NOT include pseudo-header fields. Deviation: the h2 crate drops them unseen, and we drop all trailers, so the message that goes on is the one before them",
            Right::Passed(200),
            vec![[open(1), h2::frame(HEADERS, 5, 1, &h2::block(&[(":path", "/evil")]))].concat()],
        ),
    ];
    let mut cases = Vec::new();
    for (rfc, right, all) in rules {
        for (at, bytes) in all.into_iter().enumerate() {
            cases.push(Case { rfc, what: format!("number {at}"), bytes, right });
        }
    }
    cases
}

#[test]
fn hostile_streams_are_refused_or_made_harmless() {
    let (by_fields, by_frames) = (by_fields(), by_frames());
    let passed: Vec<String> = by_fields
        .iter()
        .enumerate()
        .filter(|(_, case)| matches!(case.right, Right::Passed(_)))
        .map(|(at, _)| format!("/stream{at}"))
        .collect();
    let cases: Vec<Case> = by_fields.into_iter().chain(by_frames).collect();
    assert!(cases.len() >= 150, "{}", cases.len());
    let origin = Recorder::new(|seen| {
        // Held so long that what comes behind the request comes before the answer.
        if seen.target() == "/held" {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Then::Keep)
    });
    let edge = Edge::with(
        &[origin.address],
        &Change {
            server: "h2c = true",
            limits: "body_idle = \"1s\"\nhead = \"1s\"\nidle = \"2s\"",
            upstream: "threads = 32",
            ..Default::default()
        },
    );
    let place = edge.place(false);
    let mut wrong = table::judge_all(&cases, |case| judge(place, case));
    for seen in origin.seen() {
        let known = ["/framed", "/held"].contains(&seen.target()) || passed.iter().any(|path| path == seen.target());
        if !known || seen.head.to_lowercase().contains("evil") {
            wrong.push(format!("this has reached the origin: {:?}", seen.head));
        }
        if seen.head.contains("cookie: a=1") && !seen.head.contains("cookie: a=1; b=2\r\n") {
            wrong.push(format!("crumbs: {:?}", seen.head));
        }
        if seen.head.contains("x-trailer") {
            wrong.push(format!("a trailer has become a field: {:?}", seen.head));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(place: SocketAddr, case: &Case) -> Option<String> {
    let mut talk = Conversation::with(place, &[]);
    talk.send(&case.bytes);
    let outcome = talk.outcome(1);
    let good = match case.right {
        Right::Passed(status) => outcome == Outcome::Status(status),
        Right::StreamError => match outcome {
            Outcome::Reset(code) | Outcome::GoAway(code) => PROTOCOL.contains(&code),
            // RFC 9113 8.1.1: a server MAY send an HTTP response prior to closing or resetting the stream.
            Outcome::Status(status) => status == 400,
            Outcome::Closed => false,
        },
        Right::ConnectionError => match outcome {
            Outcome::GoAway(code) => PROTOCOL.contains(&code),
            Outcome::Closed => true,
            // The request before it may have been answered first.
            Outcome::Status(_) | Outcome::Reset(_) => talk.until(|frame| frame.kind == GOAWAY).is_some(),
        },
        Right::Refused => match outcome {
            Outcome::Status(status) => (400..500).contains(&status) || status == 501,
            _ => true,
        },
    };
    (!good).then(|| format!("{outcome:?} where {:?} is right\n    {}\n    {}", case.right, case.what, case.rfc))
}
