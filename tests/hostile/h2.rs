//! A client that speaks HTTP/2 frame by frame, well or badly (RFC 9113), with header blocks of literals only (RFC 7541 6.2.2).

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::origin::DEADLINE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One connection.
pub struct Conversation {
    stream: TcpStream,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals, none of them indexed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 0, 7, text.chars().count());
            block.extend(text.chars().map(|letter| u8::try_from(u32::from(letter)).expect("bytes")));
        }
    }
    block
}

/// RFC 7541 5.1.
pub fn integer(block: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(first | u8::try_from(value).expect("small"));
        return;
    }
    block.push(first | u8::try_from(most).expect("small"));
    let mut rest = value - most;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("small") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("small"));
}

/// The fields of a GET.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "www.example.org"), (":path", path)]
}

/// HEADERS of a whole request.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// A setting's six bytes (RFC 9113 6.5.1).
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

impl Conversation {
    /// With preface and the client's settings sent.
    pub fn with(place: SocketAddr, settings: &[u8]) -> Self {
        let mut this = Self::bare(place);
        this.send(PREFACE).send(&frame(SETTINGS, 0, 0, settings));
        this
    }

    /// Nothing sent.
    pub fn bare(place: SocketAddr) -> Self {
        let stream = TcpStream::connect(place).expect("tidegate takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Self { stream }
    }

    /// Sends, and does not mind if the other side has gone.
    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = self.stream.write_all(bytes);
        self
    }

    /// The next frame; none when the other side has closed.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], stream, payload })
    }

    /// The first frame of which `such` is true; none when the other side closes before.
    pub fn until(&mut self, such: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if such(&frame) {
                return Some(frame);
            }
        }
    }

    /// What becomes of the request on `stream`.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.next() {
                None => return Outcome::Closed,
                Some(frame) if frame.kind == GOAWAY && code(&frame.payload[4..]) != 0 => {
                    return Outcome::GoAway(code(&frame.payload[4..]));
                }
                Some(frame) if frame.stream != stream => {}
                Some(frame) if frame.kind == RST_STREAM => return Outcome::Reset(code(&frame.payload)),
                Some(frame) if frame.kind == HEADERS => return Outcome::Status(status(&frame.payload)),
                Some(_) => {}
            }
        }
    }
}

/// What becomes of a request, or of the connection that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

fn code(payload: &[u8]) -> u32 {
    payload.get(..4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// The status, which comes first in a block and, on a connection's first answer, is in no table but the static one.
fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // A literal with the name of the static table's eighth: incremental, without, or never indexed.
        [0x48 | 0x08 | 0x18, length, digits @ ..] => {
            let digits = &digits[..usize::from(length & 0x7f)];
            let text = if length & 0x80 == 0 { digits.to_vec() } else { unpack_digits(digits) };
            String::from_utf8_lossy(&text).parse().expect("a status")
        }
        other => panic!("no status at the beginning of {other:x?}"),
    }
}

/// Digits in the Huffman code of RFC 7541, appendix B: 0, 1 and 2 have five bits, the others six.
fn unpack_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let value = |bits: &[u8]| bits.iter().fold(0, |value, bit| value * 2 + bit);
    let (mut digits, mut at) = (Vec::new(), 0);
    while digits.len() < 3 {
        if value(&bits[at..at + 5]) < 3 {
            digits.push(b'0' + value(&bits[at..at + 5]));
            at += 5;
        } else {
            digits.push(b'3' + value(&bits[at..at + 6]) - 0x19);
            at += 6;
        }
    }
    digits
}
