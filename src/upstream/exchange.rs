//! One request and its answer on one connection to an origin, driven by whoever waits for it: no task, no channel.
//!
//! What the bytes mean is `semantics::wire`'s and `semantics::chunks`' to say. Here they are moved, both ways at once: an origin may
//! answer before it has read all of a request. A connection on which anything went wrong, or is left unfinished, closes by
//! being dropped.

use crate::clock;
use crate::semantics::chunks;
use crate::semantics::chunks::Decoder;
use crate::semantics::chunks::Piece;
use crate::semantics::wire;
use crate::semantics::wire::Answer;
use crate::semantics::wire::Framing;
use crate::semantics::wire::NoAnswer;
use crate::semantics::wire::RequestHead;
use crate::upstream::body::RequestBody;
use crate::upstream::connect::Socket;
use crate::upstream::patience::Alarm;
use bytes::Bytes;
use bytes::BytesMut;
use http::Method;
use http_body::Body;
use std::io;
use std::io::Write;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// A connection to an origin.
pub struct Connection {
    socket: Socket,
    /// What was read and is not yet understood.
    arrived: BytesMut,
    /// What is to be written, from `written` on.
    output: Vec<u8>,
    written: usize,
    alarm: Alarm,
    call: Call,
}

/// A request under way on its connection.
pub struct Exchange {
    connection: Box<Connection>,
}

/// What is known of a request under way. It lives in its connection's box: an exchange passes through many hands.
struct Call {
    method: Method,
    /// What of the request's body is still to be sent.
    upload: Option<Upload>,
    /// How long after its beginning the last of the request's body was sent.
    uploading: Duration,
    began: Option<Instant>,
    /// Why the rest of the request cannot be sent.
    broken: Option<io::Error>,
    reader: wire::Reader,
    interim: u32,
    answer: Decoder,
    /// The connection may be used again when both bodies have ended.
    persists: bool,
}

impl Call {
    fn new(method: Method, upload: Option<Upload>) -> Self {
        Self {
            method,
            uploading: Duration::ZERO,
            began: upload.is_some().then(clock::mono),
            upload,
            broken: None,
            reader: wire::Reader::default(),
            interim: 0,
            answer: Decoder::new(wire::Length::Known(0)),
            persists: false,
        }
    }
}

struct Upload {
    body: RequestBody,
    /// The bytes left of the length that was announced; none: in chunks.
    left: Option<u64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// The connection ended.
    #[error("the connection closed before an answer came")]
    Closed,
    /// The connection broke.
    #[error("the connection broke before an answer came")]
    Broken(#[source] io::Error),
    /// Something came that is no answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// Interim answers came, and no end of them.
    #[error("more than {INTERIM_MAX} interim answers came")]
    Interim,
    /// It took too long.
    #[error("no answer came in time")]
    Late,
}

/// Why the body of an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokeOff {
    /// The connection broke.
    #[error("the connection broke in the middle of the answer")]
    Connection(#[source] io::Error),
    /// Its framing says so.
    #[error(transparent)]
    Framing(#[from] chunks::Broken),
}

impl Connection {
    /// Over a socket on which nothing was said yet.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        let (output, written) = (Vec::new(), 0);
        let call = Call::new(Method::GET, None);
        Self { socket, arrived: BytesMut::new(), output, written, alarm: Alarm::default(), call }
    }

    /// Whether it is open and silent. An idle connection on which something arrives has been closed, or brings what nobody
    /// asked for (RFC 9112 9.2).
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.socket).poll_read(&mut context, &mut ReadBuf::new(&mut byte));
        self.arrived.is_empty() && read.is_pending()
    }

    /// Reads what there is; says how many bytes, none at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, wanted: Option<u64>) -> Poll<io::Result<usize>> {
        // What is handed out keeps its buffer, so a new one is made when the last is nearly full: as large as what is to come.
        if self.arrived.capacity() - self.arrived.len() < READ_MIN {
            let wanted = wanted.and_then(|wanted| usize::try_from(wanted).ok()).unwrap_or(0);
            self.arrived.reserve(wanted.clamp(READ, READ_MAX));
        }
        pin!(self.socket.read_buf(&mut self.arrived)).poll(cx)
    }

    /// Writes all of the output.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// The bytes that are still to be written.
    fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    fn is_written(&self) -> bool {
        self.output.is_empty()
    }

    /// Lets go of large buffers before the connection is kept.
    fn shrink(&mut self) {
        if self.arrived.capacity() > KEPT_MAX {
            self.arrived = BytesMut::new();
        }
        if self.output.capacity() > KEPT_MAX {
            self.output = Vec::new();
        }
    }
}

impl Exchange {
    /// Begins to send a request.
    #[must_use]
    pub fn begin(mut connection: Box<Connection>, head: &RequestHead, body: RequestBody) -> Self {
        let framing = match body.size_hint().exact() {
            // RFC 9110 8.6: where a method gives content a meaning, its absence is told; some origins answer 411 otherwise.
            _ if body.is_end_stream() && tells_absence(&head.method) => Framing::Length(0),
            _ if body.is_end_stream() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        wire::write(head, framing, &mut connection.output);
        let upload = match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(left) => Some(Upload { body, left: Some(left) }),
            Framing::Chunked => Some(Upload { body, left: None }),
        };
        connection.call = Call::new(head.method.clone(), upload);
        Self { connection }
    }

    /// How long after its beginning the last of the request's body was sent, so far.
    #[must_use]
    pub fn uploading(&self) -> Duration {
        self.connection.call.uploading
    }

    /// The head of the answer, if it comes before it is `due`; later by the time for which the request's body is being sent,
    /// for nobody answers what he has not read. Interim answers are passed over.
    ///
    /// # Errors
    /// [`Silence`].
    pub fn poll_answer(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<Result<Answer, Silence>> {
        match self.poll_head(cx) {
            Poll::Pending => {
                let Connection { alarm, call, .. } = &mut *self.connection;
                alarm.poll_due(due + call.uploading, cx).map(|()| Err(Silence::Late))
            }
            answered @ Poll::Ready(_) => answered,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Silence>> {
        self.poll_send(cx).map_err(Silence::Broken)?;
        loop {
            let Connection { arrived, call, .. } = &mut *self.connection;
            while let Some(answer) = call.reader.take(arrived, &call.method)? {
                if answer.status.is_informational() && answer.status != http::StatusCode::SWITCHING_PROTOCOLS {
                    call.interim += 1;
                    if call.interim > INTERIM_MAX {
                        return Poll::Ready(Err(Silence::Interim));
                    }
                    continue;
                }
                call.answer = Decoder::new(answer.length);
                call.persists = answer.persists;
                return Poll::Ready(Ok(answer));
            }
            let read = ready!(self.connection.poll_read(cx, None));
            let broken = &mut self.connection.call.broken;
            match read {
                Ok(0) => return Poll::Ready(Err(broken.take().map_or(Silence::Closed, Silence::Broken))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Silence::Broken(broken.take().unwrap_or(error)))),
            }
        }
    }

    /// The next piece of the answer's body; nothing at its end.
    ///
    /// # Errors
    /// [`BrokeOff`].
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        if let Err(error) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(BrokeOff::Connection(error))));
        }
        loop {
            let Connection { arrived, call, .. } = &mut *self.connection;
            match call.answer.take(arrived) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::NeedsMore) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken.into()))),
            }
            let expected = call.answer.expected();
            match ready!(self.connection.poll_read(cx, expected)) {
                Ok(0) => {
                    return Poll::Ready(self.connection.call.answer.closed().err().map(|broken| Err(broken.into())));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BrokeOff::Connection(error)))),
            }
        }
    }

    /// The whole body of the answer, if it is here already: then nothing has to be waited for.
    pub fn at_hand(&mut self) -> Option<Bytes> {
        let Connection { arrived, call, .. } = &mut *self.connection;
        if call.answer.left()? > arrived.len() as u64 {
            return None;
        }
        match call.answer.take(arrived) {
            Ok(Piece::Data(data)) => Some(data),
            _ => Some(Bytes::new()),
        }
    }

    /// Whether the answer's body has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.connection.call.answer.has_ended()
    }

    /// How many bytes of the answer's body are left, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.connection.call.answer.left()
    }

    /// The connection, if it can carry another request: all was sent, all was read, and nothing came besides.
    #[must_use]
    pub fn finish(mut self) -> Option<Box<Connection>> {
        let clean = self.connection.call.persists
            && self.is_sent()
            && self.connection.call.broken.is_none()
            && self.has_ended()
            && self.connection.arrived.is_empty();
        clean.then(|| {
            self.connection.shrink();
            self.connection
        })
    }

    /// The socket after a change of protocol, and what has arrived in the new one.
    #[must_use]
    pub fn into_socket(self) -> (Socket, Bytes) {
        (self.connection.socket, self.connection.arrived.freeze())
    }

    /// Sends what can be sent of the request. A connection that takes no more is noted for whoever finds no answer: an origin
    /// that has had enough may close its side and answer all the same.
    ///
    /// # Errors
    /// When the request's body breaks off: there is nothing to wait for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.connection.call.broken.is_none() && !self.is_sent() {
            let waits = self.take_upload(cx)?;
            let unsent = self.connection.unsent();
            let written = self.connection.poll_write(cx);
            let moved = self.connection.unsent() < unsent;
            if let Some(began) = self.connection.call.began.filter(|_| moved) {
                self.connection.call.uploading = clock::mono().saturating_duration_since(began);
            }
            match written {
                Poll::Ready(Ok(())) if !waits => {}
                Poll::Ready(Ok(())) | Poll::Pending => break,
                Poll::Ready(Err(error)) => self.connection.call.broken = Some(error),
            }
        }
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.connection.call.upload.is_none() && self.connection.is_written()
    }

    /// Takes what there is of the request's body into the output, within bounds; says whether the body has to be waited for.
    fn take_upload(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Connection { output, call, .. } = &mut *self.connection;
        while let Some(upload) = &mut call.upload
            && output.len() < OUTPUT_MAX
        {
            match Pin::new(&mut upload.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are dropped, as those of answers are.
                    if let Ok(data) = frame.into_data() {
                        upload.write(&data, output)?;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
                Poll::Ready(None) => {
                    upload.end(output)?;
                    call.upload = None;
                }
            }
        }
        Ok(false)
    }
}

impl Upload {
    fn write(&mut self, data: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        if data.is_empty() {
            // An empty chunk would be the last.
            return Ok(());
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.len() as u64).ok_or_else(wrong_length)?;
            output.extend_from_slice(data);
        } else {
            write!(output, "{:x}\r\n", data.len())?;
            output.extend_from_slice(data);
            output.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn end(&self, output: &mut Vec<u8>) -> io::Result<()> {
        match self.left {
            None => output.extend_from_slice(b"0\r\n\r\n"),
            Some(0) => {}
            Some(_) => return Err(wrong_length()),
        }
        Ok(())
    }
}

fn tells_absence(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// A request with another length than it says would begin the next one (RFC 9112 6.3).
fn wrong_length() -> io::Error {
    io::Error::other("the request's body has not the length that it announced")
}

/// More interim answers to one request are a flood: 100, 103 and a few 102 are all that anybody has a use for.
const INTERIM_MAX: u32 = 64;

/// The size of a read, unless more is known to come ...
const READ: usize = 8 * 1024;

/// ... up to this.
const READ_MAX: usize = 64 * 1024;

/// A buffer with less room is not read into.
const READ_MIN: usize = 1024;

/// No more of a request's body is taken while so much waits to be written.
const OUTPUT_MAX: usize = 16 * 1024;

/// The largest buffer that an idle connection keeps.
const KEPT_MAX: usize = 16 * 1024;
