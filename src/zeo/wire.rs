//! ZEO's wire protocol, version 5, as far as a probe speaks it: frames of a 4-byte length and a body; messages
//! `(id, flag, name, arguments)` as pickles or in msgpack.

/// The largest frame that is read: what a probe asks for is far smaller.
pub const FRAME_MAX: usize = 1 << 20;

/// How deep values may be nested.
const DEPTH_MAX: usize = 16;

/// How many values one message may hold.
const VALUES_MAX: usize = 4096;

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not what a ZEO server says: {0}")]
pub struct Malformed(pub &'static str);

/// How messages are coded, as the server's greeting says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Python pickles.
    Pickle,
    /// msgpack.
    Msgpack,
}

/// A value in a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    None,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Text.
    Text(String),
    /// Several values.
    Tuple(Vec<Value>),
    /// Pairs.
    Map(Vec<(Value, Value)>),
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What was asked for.
    Result(Value),
    /// An exception, by the name of its class.
    Raised(String),
}

/// A body with its length before it.
#[must_use]
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The length that a frame's first four bytes announce.
///
/// # Errors
/// More than [`FRAME_MAX`].
pub fn frame_len(prefix: [u8; 4]) -> Result<usize, Malformed> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > FRAME_MAX { Err(Malformed("a frame of more than 1 MiB")) } else { Ok(len) }
}

/// What the server's first frame says.
///
/// # Errors
/// Another protocol, or another version of it.
pub fn greeting(body: &[u8]) -> Result<Codec, Malformed> {
    match body {
        b"Z5" => Ok(Codec::Pickle),
        b"M5" => Ok(Codec::Msgpack),
        _ => Err(Malformed("the greeting is not of protocol version 5")),
    }
}

/// Asks to be a client of `storage`, for reading and writing if the server takes that.
#[must_use]
pub fn register(codec: Codec, id: u8, storage: &str) -> Vec<u8> {
    call(codec, id, "register", Some((storage, false)))
}

/// Asks for the identifier of the last transaction.
#[must_use]
pub fn last_transaction(codec: Codec, id: u8) -> Vec<u8> {
    call(codec, id, "lastTransaction", None)
}

fn call(codec: Codec, id: u8, name: &str, arguments: Option<(&str, bool)>) -> Vec<u8> {
    let mut body = Vec::new();
    match codec {
        Codec::Pickle => {
            body.extend_from_slice(&[0x80, 3, b'(', b'K', id, 0x89]);
            pickle_text(&mut body, name);
            match arguments {
                None => body.push(b')'),
                Some((text, flag)) => {
                    body.push(b'(');
                    pickle_text(&mut body, text);
                    body.extend_from_slice(&[if flag { 0x88 } else { 0x89 }, b't']);
                }
            }
            body.extend_from_slice(b"t.");
        }
        Codec::Msgpack => {
            body.extend_from_slice(&[0x94, id & 0x7f, 0xc2]);
            msgpack_text(&mut body, name);
            match arguments {
                None => body.push(0x90),
                Some((text, flag)) => {
                    body.push(0x92);
                    msgpack_text(&mut body, text);
                    body.push(if flag { 0xc3 } else { 0xc2 });
                }
            }
        }
    }
    body
}

fn pickle_text(body: &mut Vec<u8>, text: &str) {
    body.push(b'X');
    body.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn msgpack_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&[0xd9, u8::try_from(text.len()).unwrap_or(u8::MAX)]);
    body.extend(text.bytes().take(255));
}

/// Reads the answer to message `id`; nothing when the message is something else, such as an invalidation.
///
/// # Errors
/// A message that cannot be read.
pub fn answer(codec: Codec, id: u8, body: &[u8]) -> Result<Option<Answer>, Malformed> {
    let mut reader = Reader { bytes: body, values: 0 };
    let message = match codec {
        Codec::Pickle => reader.pickle()?,
        Codec::Msgpack => reader.msgpack(0)?,
    };
    let Value::Tuple(parts) = message else { return Err(Malformed("a message that is no tuple")) };
    let Ok([number, flag, name, result]) = <[Value; 4]>::try_from(parts) else {
        return Err(Malformed("a message that has not four parts"));
    };
    if number != Value::Int(i64::from(id)) || name != Value::Text(".reply".to_owned()) {
        return Ok(None);
    }
    if flag == Value::Int(2) {
        let class = match result {
            Value::Tuple(parts) => parts.into_iter().next(),
            other => Some(other),
        };
        let Some(Value::Text(class)) = class else { return Err(Malformed("an exception without a name")) };
        return Ok(Some(Answer::Raised(class)));
    }
    Ok(Some(Answer::Result(result)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    values: usize,
}

const SHORT: Malformed = Malformed("a message that ends early");

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(SHORT)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn long(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > FRAME_MAX { Err(SHORT) } else { self.take(count) }
    }

    fn text(&mut self, count: usize) -> Result<Value, Malformed> {
        let text = std::str::from_utf8(self.long(count)?).map_err(|_| Malformed("text that is none"))?;
        Ok(Value::Text(text.to_owned()))
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.values += 1;
        if self.values > VALUES_MAX { Err(Malformed("too many values")) } else { Ok(()) }
    }

    /// A pickle of plain values (protocols 1 to 5). Whatever would make an object is refused.
    fn pickle(&mut self) -> Result<Value, Malformed> {
        let mut stack: Vec<Value> = Vec::new();
        let mut marks: Vec<usize> = Vec::new();
        let mut memo: Vec<Value> = Vec::new();
        loop {
            self.count()?;
            let value = match self.byte()? {
                0x80 => {
                    self.byte()?;
                    continue;
                }
                0x95 => {
                    self.take(8)?;
                    continue;
                }
                b'.' => return stack.pop().ok_or(SHORT),
                b'(' => {
                    if marks.len() >= DEPTH_MAX {
                        return Err(Malformed("values nested too deeply"));
                    }
                    marks.push(stack.len());
                    continue;
                }
                b'q' => {
                    self.byte()?;
                    memo.push(stack.last().cloned().ok_or(SHORT)?);
                    continue;
                }
                0x94 => {
                    memo.push(stack.last().cloned().ok_or(SHORT)?);
                    continue;
                }
                b'h' => {
                    let at = usize::from(self.byte()?);
                    memo.get(at).cloned().ok_or(Malformed("a memo that was not kept"))?
                }
                b't' | b'l' => {
                    let mark = marks.pop().ok_or(SHORT)?;
                    Value::Tuple(stack.split_off(mark.min(stack.len())))
                }
                b')' | b']' => Value::Tuple(Vec::new()),
                b'}' => Value::Map(Vec::new()),
                small @ 0x85..=0x87 => {
                    let parts = stack.len().checked_sub(usize::from(small - 0x84)).ok_or(SHORT)?;
                    Value::Tuple(stack.split_off(parts))
                }
                b'N' => Value::None,
                0x88 => Value::Bool(true),
                0x89 => Value::Bool(false),
                b'K' => Value::Int(i64::from(self.byte()?)),
                b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
                b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
                0x8a => {
                    let count = usize::from(self.byte()?);
                    Value::Int(little_endian(self.take(count)?)?)
                }
                b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
                b'C' => {
                    let count = usize::from(self.byte()?);
                    Value::Bytes(self.take(count)?.to_vec())
                }
                b'B' => {
                    let count = u32::from_le_bytes(self.array()?);
                    Value::Bytes(self.long(count as usize)?.to_vec())
                }
                b'X' => {
                    let count = u32::from_le_bytes(self.array()?);
                    self.text(count as usize)?
                }
                0x8c => {
                    let count = usize::from(self.byte()?);
                    self.text(count)?
                }
                _ => return Err(Malformed("a pickle of more than plain values")),
            };
            if memo.len() > VALUES_MAX || depth(&value) > DEPTH_MAX {
                return Err(Malformed("values nested too deeply"));
            }
            stack.push(value);
        }
    }

    fn msgpack(&mut self, level: usize) -> Result<Value, Malformed> {
        if level > DEPTH_MAX {
            return Err(Malformed("values nested too deeply"));
        }
        self.count()?;
        let tag = self.byte()?;
        Ok(match tag {
            0x00..=0x7f => Value::Int(i64::from(tag)),
            0xe0..=0xff => Value::Int(i64::from(tag.cast_signed())),
            0x80..=0x8f => self.msgpack_map(usize::from(tag & 0x0f), level)?,
            0x90..=0x9f => self.msgpack_tuple(usize::from(tag & 0x0f), level)?,
            0xa0..=0xbf => self.text(usize::from(tag & 0x1f))?,
            0xc0 => Value::None,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4 => {
                let count = usize::from(self.byte()?);
                Value::Bytes(self.take(count)?.to_vec())
            }
            0xc5 => {
                let count = u16::from_be_bytes(self.array()?);
                Value::Bytes(self.take(usize::from(count))?.to_vec())
            }
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Int(i64::from(self.byte()?)),
            0xcd => Value::Int(i64::from(u16::from_be_bytes(self.array()?))),
            0xce => Value::Int(i64::from(u32::from_be_bytes(self.array()?))),
            0xcf => Value::Int(i64::try_from(u64::from_be_bytes(self.array()?)).unwrap_or(i64::MAX)),
            0xd0 => Value::Int(i64::from(self.byte()?.cast_signed())),
            0xd1 => Value::Int(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Value::Int(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Value::Int(i64::from_be_bytes(self.array()?)),
            0xd9 => {
                let count = usize::from(self.byte()?);
                self.text(count)?
            }
            0xda => {
                let count = u16::from_be_bytes(self.array()?);
                self.text(usize::from(count))?
            }
            0xdc => {
                let count = u16::from_be_bytes(self.array()?);
                self.msgpack_tuple(usize::from(count), level)?
            }
            0xde => {
                let count = u16::from_be_bytes(self.array()?);
                self.msgpack_map(usize::from(count), level)?
            }
            _ => return Err(Malformed("a msgpack value that no answer has")),
        })
    }

    fn msgpack_tuple(&mut self, count: usize, level: usize) -> Result<Value, Malformed> {
        (0..count).map(|_| self.msgpack(level + 1)).collect::<Result<_, _>>().map(Value::Tuple)
    }

    fn msgpack_map(&mut self, count: usize, level: usize) -> Result<Value, Malformed> {
        let pair = |reader: &mut Self| Ok((reader.msgpack(level + 1)?, reader.msgpack(level + 1)?));
        (0..count).map(|_| pair(self)).collect::<Result<_, _>>().map(Value::Map)
    }
}

fn little_endian(bytes: &[u8]) -> Result<i64, Malformed> {
    if bytes.len() > 8 {
        return Err(Malformed("a number of more than 64 bits"));
    }
    let fill = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(i64::from_le_bytes(whole))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Tuple(parts) => 1 + parts.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn requests_are_as_a_zeo_server_reads_them() {
        let pickled = hex("8003 28 4b01 89 58 08000000 7265676973746572 28 58 01000000 31 89 74 74 2e");
        assert_eq!(register(Codec::Pickle, 1, "1"), pickled);
        let pickled = hex("8003 28 4b02 89 58 0f000000 6c6173745472616e73616374696f6e 29 74 2e");
        assert_eq!(last_transaction(Codec::Pickle, 2), pickled);
        assert_eq!(register(Codec::Msgpack, 1, "1"), hex("94 01 c2 d908 7265676973746572 92 d901 31 c2"));
        assert_eq!(frame(b"Z5"), hex("00000002 5a35"));
    }

    #[test]
    fn answers_are_read_in_both_codings() {
        let tid = Answer::Result(Value::Bytes(hex("040d34aad271fb55")));
        let pickled = hex("8003 28 4b01 4b00 58 06000000 2e7265706c79 4308 040d34aad271fb55 74 2e");
        assert_eq!(answer(Codec::Pickle, 1, &pickled), Ok(Some(tid)));
        let packed = hex("94 01 00 a62e7265706c79 c408 040d34aae3f1e5aa");
        let tid = Answer::Result(Value::Bytes(hex("040d34aae3f1e5aa")));
        assert_eq!(answer(Codec::Msgpack, 1, &packed), Ok(Some(tid)));
        assert_eq!(answer(Codec::Msgpack, 2, &packed), Ok(None), "the answer to another question");
        let raised = hex("94 01 02 a62e7265706c79 92 a3 4f6f70 90");
        assert_eq!(answer(Codec::Msgpack, 1, &raised), Ok(Some(Answer::Raised("Oop".to_owned()))));
    }

    #[test]
    fn what_makes_objects_is_refused() {
        // c os\nsystem\n, as in a hostile pickle.
        assert!(answer(Codec::Pickle, 1, &hex("8003 636f730a73797374656d0a 2e")).is_err());
        assert!(frame_len([0xff; 4]).is_err());
        assert_eq!(greeting(b"Z4"), Err(Malformed("the greeting is not of protocol version 5")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = answer(Codec::Pickle, 1, &bytes);
            let _ = answer(Codec::Msgpack, 1, &bytes);
        }

        #[test]
        fn what_was_framed_has_its_length(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let framed = frame(&body);
            prop_assert_eq!(frame_len(framed[..4].try_into().unwrap()), Ok(body.len()));
            prop_assert_eq!(&framed[4..], &body[..]);
        }
    }
}
