//! Where the body of an answer ends (RFC 9112 6.3, 7.1): from bytes as they arrive to pieces of the body.
//!
//! Stricter than the grammar's leniencies: lines end with CRLF, sizes are hexadecimal digits and nothing else. Extensions
//! and trailers are dropped, and bounded. A body that ends early, or whose framing is wrong, is an error and never an end.

use crate::semantics::wire::Length;
use bytes::Bytes;
use bytes::BytesMut;

/// Takes one body out of the bytes of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    state: State,
    /// The bytes of extensions and trailers so far.
    extras: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are left of a known length.
    Known(u64),
    /// All that comes.
    UntilClose,
    /// A line with a chunk's size comes.
    Size,
    /// So many bytes are left of a chunk.
    Chunk(u64),
    /// The line's end behind a chunk comes.
    ChunkEnd,
    /// Lines of trailers come, and an empty one.
    Trailers,
    Ended,
}

/// What the bytes that have arrived bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A piece of the body, not empty.
    Data(Bytes),
    /// Nothing until more arrives.
    NeedsMore,
    /// The body has ended.
    End,
}

/// A body that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Its connection closed too early.
    #[error("the body ended early")]
    Early,
    /// Its chunks are malformed, or bring too much that is no body.
    #[error("the chunks of the body are malformed")]
    Chunks,
}

impl Decoder {
    /// For a body of this length.
    #[must_use]
    pub fn new(length: Length) -> Self {
        let state = match length {
            Length::Known(0) => State::Ended,
            Length::Known(left) => State::Known(left),
            Length::Chunked => State::Size,
            Length::UntilClose => State::UntilClose,
        };
        Self { state, extras: 0 }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// How many bytes are left, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Known(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// How many bytes of it are sure to come before anything else.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        match self.state {
            State::Known(left) | State::Chunk(left) => Some(left),
            _ => None,
        }
    }

    /// Takes the next piece out of what has arrived.
    ///
    /// # Errors
    /// [`Broken::Chunks`].
    pub fn take(&mut self, arrived: &mut BytesMut) -> Result<Piece, Broken> {
        self.skip(arrived)?;
        let data = match self.state {
            State::Ended => return Ok(Piece::End),
            _ if arrived.is_empty() => return Ok(Piece::NeedsMore),
            State::UntilClose => arrived.split(),
            State::Known(left) => {
                let data = split(arrived, left);
                self.state = match left - data.len() as u64 {
                    0 => State::Ended,
                    left => State::Known(left),
                };
                data
            }
            State::Chunk(left) => {
                let data = split(arrived, left);
                self.state = match left - data.len() as u64 {
                    0 => State::ChunkEnd,
                    left => State::Chunk(left),
                };
                // The end may be here already: then it is known with the last piece. What is wrong shows again.
                let _ = self.skip(arrived);
                data
            }
            State::Size | State::ChunkEnd | State::Trailers => return Ok(Piece::NeedsMore),
        };
        Ok(Piece::Data(data.freeze()))
    }

    /// The connection has closed, and all that arrived has been taken.
    ///
    /// # Errors
    /// [`Broken::Early`], unless the body ends just so.
    pub fn closed(&mut self) -> Result<(), Broken> {
        if !matches!(self.state, State::UntilClose | State::Ended) {
            return Err(Broken::Early);
        }
        self.state = State::Ended;
        Ok(())
    }

    /// Goes on to the next byte of the body, or to its end, as far as the bytes reach.
    fn skip(&mut self, arrived: &mut BytesMut) -> Result<(), Broken> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = self.line(arrived, SIZE_MAX)? else { return Ok(()) };
                    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                    let (size, rest) = line.split_at(digits);
                    let size = hexadecimal(size).ok_or(Broken::Chunks)?;
                    // RFC 9112 7.1.1: extensions are ignored.
                    if rest.iter().find(|byte| !b" \t".contains(byte)).is_some_and(|byte| *byte != b';') {
                        return Err(Broken::Chunks);
                    }
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::ChunkEnd if arrived.starts_with(b"\r\n") => {
                    let _ = arrived.split_to(2);
                    self.state = State::Size;
                }
                State::ChunkEnd => {
                    return if b"\r\n".starts_with(arrived) { Ok(()) } else { Err(Broken::Chunks) };
                }
                State::Trailers => {
                    let Some(line) = self.line(arrived, 0)? else { return Ok(()) };
                    if line.is_empty() {
                        self.state = State::Ended;
                    } else if !line.contains(&b':') {
                        return Err(Broken::Chunks);
                    }
                }
                State::Known(_) | State::UntilClose | State::Chunk(_) | State::Ended => return Ok(()),
            }
        }
    }

    /// Takes a line, without its end, when it is whole. What it has beyond `free` bytes is extra; sizes alone are not, or a
    /// long body in small chunks would have too many.
    fn line(&mut self, arrived: &mut BytesMut, free: usize) -> Result<Option<BytesMut>, Broken> {
        let room = EXTRAS_MAX - self.extras + free;
        let Some(end) = arrived.iter().take(room + 1).position(|byte| *byte == b'\n') else {
            return if arrived.len() > room { Err(Broken::Chunks) } else { Ok(None) };
        };
        let line = &arrived[..end];
        let line = line.strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or(Broken::Chunks)?.len();
        self.extras = (self.extras + (end + 1).saturating_sub(free)).min(EXTRAS_MAX);
        let mut taken = arrived.split_to(end + 1);
        taken.truncate(line);
        Ok(Some(taken))
    }
}

fn split(arrived: &mut BytesMut, left: u64) -> BytesMut {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(arrived.len());
    arrived.split_to(most)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.is_empty())?;
    u64::from_str_radix(text, 16).ok()
}

/// The most bytes of extensions and trailers in one body.
const EXTRAS_MAX: usize = 16 * 1024;

/// The most bytes of a line that is only a chunk's size.
const SIZE_MAX: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes of a body whose connection brings these pieces: its bytes, and whether it ended.
    fn decode<'a>(length: Length, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), Broken> {
        let (mut decoder, mut arrived, mut body) = (Decoder::new(length), BytesMut::new(), Vec::new());
        for piece in pieces {
            arrived.extend_from_slice(piece);
            while let Piece::Data(data) = decoder.take(&mut arrived)? {
                body.extend_from_slice(&data);
            }
        }
        Ok((body, decoder.has_ended()))
    }

    #[test]
    fn chunks_end_where_they_say_however_they_arrive() {
        let text = b"5;x=\"y\"\r\nhello\r\n00A \t;z\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n";
        for piece in 1..=text.len() {
            let (body, ended) = decode(Length::Chunked, text.chunks(piece)).unwrap();
            assert_eq!((body.as_slice(), ended), (&b"hello0123456789"[..], true), "{piece}");
        }
        for short in 0..text.len() {
            assert!(!decode(Length::Chunked, [&text[..short]]).unwrap().1, "{short}");
        }
    }

    #[test]
    fn the_end_is_known_with_the_last_piece() {
        let mut arrived = BytesMut::from(&b"5\r\nhello\r\n0\r\n\r\nmore"[..]);
        let mut decoder = Decoder::new(Length::Chunked);
        assert_eq!(decoder.take(&mut arrived), Ok(Piece::Data(Bytes::from_static(b"hello"))));
        assert!(decoder.has_ended());
        assert_eq!(&arrived[..], b"more");
    }

    #[test]
    fn what_is_sure_to_come_is_known() {
        let mut arrived = BytesMut::from(&b"1000\r\nhello"[..]);
        let mut decoder = Decoder::new(Length::Chunked);
        assert_eq!(decoder.expected(), None);
        decoder.take(&mut arrived).unwrap();
        assert_eq!((decoder.expected(), decoder.left()), (Some(0x1000 - 5), None));
        assert_eq!(Decoder::new(Length::Known(7)).expected(), Some(7));
        assert_eq!(Decoder::new(Length::UntilClose).expected(), None);
    }

    #[test]
    fn what_is_no_chunk_breaks_the_body() {
        for text in [
            "zz\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5 5\r\nhello\r\n",
            "5\r\r\nhello\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "\r\n",
            "0\n\n",
            "0\r\nno trailer\r\n\r\n",
            "0\r\nx: y\rz: a\r\n\r\n",
        ] {
            assert_eq!(decode(Length::Chunked, [text.as_bytes()]), Err(Broken::Chunks), "{text:?}");
        }
        let long = format!("5;{}\r\nhello", "x".repeat(2 * EXTRAS_MAX));
        assert_eq!(decode(Length::Chunked, [long.as_bytes()]), Err(Broken::Chunks));
        let unending = format!("5;{}", "x".repeat(2 * EXTRAS_MAX));
        assert_eq!(decode(Length::Chunked, [unending.as_bytes()]), Err(Broken::Chunks));
        let trailers = format!("0\r\n{}", "x:\r\n".repeat(EXTRAS_MAX));
        assert_eq!(decode(Length::Chunked, [trailers.as_bytes()]), Err(Broken::Chunks));
        let many = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\ny\r\n".repeat(2000);
        assert_eq!(decode(Length::Chunked, [many.as_bytes()]), Err(Broken::Chunks));
        let fair = "1\r\ny\r\n".repeat(20_000);
        assert_eq!(decode(Length::Chunked, [fair.as_bytes()]).unwrap().0.len(), 20_000);
    }

    #[test]
    fn a_connection_that_closes_ends_only_what_has_no_other_end() {
        for (length, text, ends) in [
            (Length::UntilClose, "", true),
            (Length::UntilClose, "hello", true),
            (Length::Known(0), "", true),
            (Length::Known(5), "hello", true),
            (Length::Known(6), "hello", false),
            (Length::Chunked, "5\r\nhello\r\n", false),
            (Length::Chunked, "5\r\nhello\r\n0\r\n\r\n", true),
        ] {
            let (mut decoder, mut arrived) = (Decoder::new(length), BytesMut::from(text));
            while let Piece::Data(_) = decoder.take(&mut arrived).unwrap() {}
            assert_eq!(decoder.closed().is_ok(), ends, "{length:?} {text:?}");
            assert_eq!(decoder.has_ended(), ends, "{length:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_body_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
            let _ = decode(Length::Chunked, bytes.chunks(piece));
        }

        #[test]
        fn what_is_chunked_comes_out_again(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            step in 1_usize..50,
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(Length::Chunked, text.chunks(step)), Ok((pieces.concat(), true)));
        }
    }
}
