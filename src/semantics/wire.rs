//! HTTP/1.1 towards an origin as bytes (RFC 9112): the head of a request, the head of an answer, how long its body is.
//!
//! Syntax is httparse's, as on the visitors' side: nothing lax is switched on. What is well formed and still makes no sense
//! is for `framing` to judge. What cannot be read is an error, and its connection is of no more use.

use crate::semantics::cache_control::contains_token;
use crate::semantics::framing::Asked;
use crate::semantics::framing::Framed;
use crate::semantics::framing::Said;
use crate::semantics::hop;
use crate::semantics::names::Names;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use std::mem::MaybeUninit;
use std::ops::Range;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It has none.
    None,
    /// By its length in bytes.
    Length(u64),
    /// In chunks, for its length is not known.
    Chunked,
}

/// The head of a request as bytes, but for its framing.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// What it asks for.
    pub asked: Asked,
    bytes: Vec<u8>,
}

/// A target or a host that cannot stand in a head: one line would be two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target or the host of a request is none")]
pub struct NoLine;

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status, 100 to 999.
    pub status: StatusCode,
    /// Its fields but those of this hop; their values share the bytes that were read.
    pub headers: HeaderMap,
    /// What it says of its framing.
    pub framed: Framed,
    /// How long its body is.
    pub length: Length,
    /// Whether the connection may be used again when the body has ended (RFC 9112 9.3).
    pub persists: bool,
}

/// How long the body of an answer is (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// Its chunks tell.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// Why what an origin wrote is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// More than [`HEAD_MAX`] bytes or [`FIELDS_MAX`] fields.
    #[error("the head of the answer is too large")]
    TooLarge,
    /// It breaks the grammar.
    #[error("the head of the answer is malformed")]
    Malformed,
    /// Nobody can tell where its body ends.
    #[error("the length of the answer is malformed")]
    BadLength,
}

impl NoAnswer {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "head_too_large",
            Self::Malformed => "head_malformed",
            Self::BadLength => "length_malformed",
        }
    }
}

/// Reads the heads of the answers to one request, as their bytes arrive.
#[derive(Debug, Default)]
pub struct Reader {
    /// So many bytes have been looked at, and hold no whole head.
    seen: usize,
    /// With fewer bytes than these, and no end in sight, it is not worth looking again.
    worth: usize,
}

impl RequestHead {
    /// The head of a request for `target` (path and query) at `host`, with these fields of the client's. Whatever they say of
    /// Host and framing is left out.
    ///
    /// # Errors
    /// [`NoLine`].
    pub fn new(method: Method, target: &str, host: &str, headers: &HeaderMap) -> Result<Self, NoLine> {
        // Each byte is looked at, so that the compiler can take many at a time.
        let is_word = |text: &str| {
            !text.is_empty()
                && text.bytes().fold(0, |bad, byte| bad | u8::from(byte <= b' ') | u8::from(byte == 0x7f)) == 0
        };
        if !target.starts_with('/') || !is_word(target) || !is_word(host) {
            return Err(NoLine);
        }
        // One allocation for all, unless fields are long.
        let mut bytes = Vec::with_capacity(OURS_GUESS + target.len() + 2 * host.len() + headers.len() * FIELD_GUESS);
        bytes.extend_from_slice(method.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(target.as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        let mut head = Self { method, asked: Asked::of(headers), bytes };
        head.add(&header::HOST, host.as_bytes());
        for (name, value) in headers {
            if !WRITTEN_ANEW.contains(name.as_str()) {
                head.add(name, value.as_bytes());
            }
        }
        Ok(head)
    }

    /// Adds a field behind the others. Its value is one line: by its type, or by who made it.
    pub fn add(&mut self, name: &HeaderName, value: &[u8]) {
        field(&mut self.bytes, name, value);
    }
}

/// Writes the head of a request.
pub fn write(head: &RequestHead, framing: Framing, out: &mut Vec<u8>) {
    out.reserve(head.bytes.len() + FIELD_GUESS);
    out.extend_from_slice(&head.bytes);
    match framing {
        Framing::None => {}
        Framing::Length(length) => field(out, &header::CONTENT_LENGTH, length.to_string().as_bytes()),
        Framing::Chunked => field(out, &header::TRANSFER_ENCODING, b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl Reader {
    /// Takes a head out of what has arrived, once it is whole; `asked`: the request's method.
    ///
    /// # Errors
    /// [`NoAnswer`]; as early as it can be told.
    pub fn take(&mut self, arrived: &mut BytesMut, asked: &Method) -> Result<Option<Answer>, NoAnswer> {
        if !self.is_worth_looking(arrived) {
            return if arrived.len() > HEAD_MAX { Err(NoAnswer::TooLarge) } else { Ok(None) };
        }
        let answer = parse(arrived, asked)?;
        if answer.is_some() {
            *self = Self::default();
        } else if arrived.len() > HEAD_MAX {
            return Err(NoAnswer::TooLarge);
        }
        Ok(answer)
    }

    /// A head that comes byte by byte is not parsed for each of them: only when it seems to be whole, and now and then, so
    /// that what can never become one is refused early.
    fn is_worth_looking(&mut self, arrived: &[u8]) -> bool {
        let new = arrived.get(self.seen.saturating_sub(2)..).unwrap_or_default();
        let ends =
            self.seen == 0 || new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n");
        let worth = arrived.len() > self.seen && (ends || arrived.len() >= self.worth);
        self.seen = arrived.len();
        if worth {
            self.worth = arrived.len() * 2;
        }
        worth
    }
}

/// Where a field's name and value are.
type Place = [Range<usize>; 2];

fn parse(arrived: &mut BytesMut, asked: &Method) -> Result<Option<Answer>, NoAnswer> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, arrived, &mut fields);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) if len > HEAD_MAX => return Err(NoAnswer::TooLarge),
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(NoAnswer::TooLarge),
        Err(_) => return Err(NoAnswer::Malformed),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NoAnswer::Malformed)?;
    let current = answer.version == Some(1);
    let base = arrived.as_ptr().addr();
    let place = |text: &[u8]| text.as_ptr().addr() - base..text.as_ptr().addr() - base + text.len();
    let places: Vec<Place> =
        answer.headers.iter().map(|field| [place(field.name.as_bytes()), place(field.value)]).collect();
    let head = arrived.split_to(len).freeze();
    let mut headers = HeaderMap::with_capacity(places.len() + FIELDS_TO_COME);
    let (mut framed, mut connection) = (Framed::default(), Vec::new());
    for [name, value] in places {
        let name = name_of(&head[name])?;
        if !hop::is_of_one_hop(&name) {
            let value = HeaderValue::from_maybe_shared(head.slice(value)).map_err(|_| NoAnswer::Malformed)?;
            headers.append(name, value);
        } else if name == header::CONTENT_LENGTH {
            framed.length(&head[value]);
        } else if name == header::TRANSFER_ENCODING {
            framed.coding(&head[value]);
        } else if name == header::CONNECTION {
            connection.push(value);
        }
    }
    let mut closes = false;
    for line in connection {
        let line = &head[line];
        closes |= contains_token(line, b"close");
        hop::drop_listed(line, &mut headers);
    }
    let length = length(status, framed, current, asked)?;
    let other_protocol = status == StatusCode::SWITCHING_PROTOCOLS;
    let persists = current && length != Length::UntilClose && !other_protocol && !closes;
    Ok(Some(Answer { status, headers, framed, length, persists }))
}

/// The name of a field. What nearly every answer has, in the two spellings that nearly all have, need not be read by letters.
fn name_of(name: &[u8]) -> Result<HeaderName, NoAnswer> {
    let known = match name {
        b"Date" | b"date" => header::DATE,
        b"ETag" | b"etag" => header::ETAG,
        b"Vary" | b"vary" => header::VARY,
        b"Server" | b"server" => header::SERVER,
        b"Expires" | b"expires" => header::EXPIRES,
        b"Connection" | b"connection" => header::CONNECTION,
        b"Set-Cookie" | b"set-cookie" => header::SET_COOKIE,
        b"Content-Type" | b"content-type" => header::CONTENT_TYPE,
        b"Cache-Control" | b"cache-control" => header::CACHE_CONTROL,
        b"Last-Modified" | b"last-modified" => header::LAST_MODIFIED,
        b"Content-Length" | b"content-length" => header::CONTENT_LENGTH,
        _ => return HeaderName::from_bytes(name).map_err(|_| NoAnswer::Malformed),
    };
    Ok(known)
}

/// RFC 9112 6.3.
fn length(status: StatusCode, framed: Framed, current: bool, asked: &Method) -> Result<Length, NoAnswer> {
    if status.is_informational() || matches!(status.as_u16(), 204 | 304) || *asked == Method::HEAD {
        return Ok(Length::Known(0));
    }
    match framed {
        // RFC 9112 6.1: HTTP/1.0 has no transfer codings. Of several, or others than chunked, `framing` will have none.
        Framed { chunked: Said::Once(()) | Said::Wrong, .. } if !current => Err(NoAnswer::BadLength),
        Framed { chunked: Said::Once(()), .. } => Ok(Length::Chunked),
        Framed { length: Said::Wrong, .. } => Err(NoAnswer::BadLength),
        Framed { chunked: Said::Nothing, length: Said::Once(length) } => Ok(Length::Known(length)),
        Framed { .. } => Ok(Length::UntilClose),
    }
}

/// Fields of a request that are written anew.
static WRITTEN_ANEW: Names<&'static str> = Names::new(&["host", "content-length", "transfer-encoding"]);

/// The most bytes of an answer's head.
pub const HEAD_MAX: usize = 128 * 1024;

/// The most fields of an answer's head.
pub const FIELDS_MAX: usize = 200;

/// What is added to a head on its way to the visitor finds room in it.
const FIELDS_TO_COME: usize = 4;

/// What the first line and our own fields take, roughly, besides the target and the host.
const OURS_GUESS: usize = 240;

/// What a line of a head takes, roughly.
const FIELD_GUESS: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;
    use proptest::prelude::*;

    fn take(text: &[u8], asked: &Method) -> Result<Option<Answer>, NoAnswer> {
        Reader::default().take(&mut BytesMut::from(text), asked)
    }

    #[test]
    fn a_request_is_written_with_one_framing() {
        let client = [("host", "b"), ("content-length", "7"), ("transfer-encoding", "gzip"), ("x", "y")];
        let mut head = RequestHead::new(Method::POST, "/a?b=c", "a", &headers(&client)).unwrap();
        head.add(&header::VIA, b"1.1 us");
        for (framing, line) in [
            (Framing::None, ""),
            (Framing::Length(12), "content-length: 12\r\n"),
            (Framing::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut out = Vec::new();
            write(&head, framing, &mut out);
            let text = format!("POST /a?b=c HTTP/1.1\r\nhost: a\r\nx: y\r\nvia: 1.1 us\r\n{line}\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn one_line_does_not_become_two() {
        for (target, host) in [("/a b", "a"), ("/a\r\nx: y", "a"), ("a", "a"), ("", "a"), ("/", ""), ("/", "a\nx: y")] {
            let head = RequestHead::new(Method::GET, target, host, &HeaderMap::new());
            assert_eq!(head.unwrap_err(), NoLine, "{target:?} {host:?}");
        }
    }

    #[test]
    fn an_answer_tells_how_long_its_body_is_and_whether_the_connection_lasts() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (head, asked, length, persists) in [
            (format!("{ok}Content-Length: 5\r\n\r\n"), Method::GET, Length::Known(5), true),
            (format!("{ok}Content-Length: 5\r\n\r\n"), Method::HEAD, Length::Known(0), true),
            (format!("{ok}Transfer-Encoding: Chunked\r\n\r\n"), Method::GET, Length::Chunked, true),
            (format!("{ok}Transfer-Encoding: gzip\r\n\r\n"), Method::GET, Length::UntilClose, false),
            (format!("{ok}\r\n"), Method::GET, Length::UntilClose, false),
            (format!("{ok}Connection: x, Close\r\nContent-Length: 5\r\n\r\n"), Method::GET, Length::Known(5), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n".into(), Method::GET, Length::Known(5), false),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n".into(), Method::GET, Length::Known(0), true),
            ("HTTP/1.1 304 No\r\n\r\n".into(), Method::GET, Length::Known(0), true),
            ("HTTP/1.1 103 Early\r\n\r\n".into(), Method::GET, Length::Known(0), true),
            ("HTTP/1.1 101 Other\r\n\r\n".into(), Method::GET, Length::Known(0), false),
        ] {
            let answer = take(head.as_bytes(), &asked).unwrap().unwrap();
            assert_eq!((answer.length, answer.persists), (length, persists), "{head:?}");
        }
    }

    #[test]
    fn fields_of_this_hop_and_what_connection_lists_go_no_further() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-Mine, set-cookie\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nSet-Cookie: a=b\r\n\
            Connection: close\r\nContent-Length: 0\r\nTrailer: x\r\nProxy-Authenticate: x\r\nUpgrade: h2\r\n\r\n";
        let answer = take(text.as_bytes(), &Method::GET).unwrap().unwrap();
        assert_eq!(answer.headers, headers(&[("set-cookie", "a=b")]));
        assert!(!answer.persists && answer.framed.is_delimited(answer.status));
        let twice = "HTTP/1.1 204 No\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n";
        let answer = take(twice.as_bytes(), &Method::GET).unwrap().unwrap();
        assert_eq!(answer.framed, Framed { length: Said::Wrong, ..Framed::default() });
    }

    #[test]
    fn a_name_is_the_same_in_every_spelling() {
        for name in
            "Date ETag Vary Server Expires Connection Set-Cookie Content-Type Cache-Control Last-Modified Content-Length X-A"
                .split(' ')
        {
            for spelling in [name.to_owned(), name.to_ascii_lowercase(), name.to_ascii_uppercase()] {
                assert_eq!(name_of(spelling.as_bytes()).unwrap().as_str(), name.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_as_soon_as_it_shows() {
        for (text, why) in [
            ("SSH-2.0-x", NoAnswer::Malformed),
            ("HTTP/1.1 099 Low\r\n\r\n", NoAnswer::Malformed),
            ("HTTP/1.1 200 OK\r\nX : y\r\n", NoAnswer::Malformed),
            ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", NoAnswer::Malformed),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", NoAnswer::BadLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", NoAnswer::BadLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", NoAnswer::BadLength),
        ] {
            assert_eq!(take(text.as_bytes(), &Method::GET).unwrap_err(), why, "{text:?}");
        }
        let long = [b"HTTP/1.1 200 OK\r\nX: ", vec![b'x'; HEAD_MAX].as_slice()].concat();
        assert_eq!(take(&long, &Method::GET).unwrap_err(), NoAnswer::TooLarge);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(take(many.as_bytes(), &Method::GET).unwrap_err(), NoAnswer::TooLarge);
    }

    #[test]
    fn a_head_may_come_in_any_pieces() {
        let text = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \xe4\r\n\r\nhello";
        for piece in 1..text.len() {
            let (mut reader, mut arrived, mut statuses) = (Reader::default(), BytesMut::new(), Vec::new());
            for bytes in text.chunks(piece) {
                arrived.extend_from_slice(bytes);
                while statuses.last() != Some(&200)
                    && let Some(answer) = reader.take(&mut arrived, &Method::GET).unwrap()
                {
                    statuses.push(answer.status.as_u16());
                }
            }
            assert_eq!(statuses, [103, 200], "{piece}");
            assert_eq!(&arrived[..], b"hello", "{piece}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), ok in any::<bool>()) {
            let text = if ok { [&b"HTTP/1.1 200 OK\r\n"[..], &bytes, b"\r\n\r\n"].concat() } else { bytes };
            let _ = take(&text, &Method::GET);
        }
    }
}
