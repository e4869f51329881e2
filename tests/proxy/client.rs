//! A client that sends any bytes, and reads answers as they come.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::origin::DEADLINE;

/// One connection.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub whole: bool,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn is_hit(&self) -> bool {
        self.field("cache-status").is_some_and(|status| status.contains("; hit"))
    }
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("tidegate takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader }
    }

    /// Sends, and does not mind if the other side has gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// GET of `path` from the test's site, with more header lines.
    pub fn ask(&mut self, path: &str, more: &str) -> &mut Self {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\n{more}\r\n"))
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.ask(path, "").reply()
    }

    /// The next answer's head.
    pub fn head(&mut self) -> Reply {
        self.head_if_any().expect("the connection was closed before or within a head")
    }

    /// The next answer's head, unless the other side has closed.
    pub fn head_if_any(&mut self) -> Option<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.reader.read_until(b'\n', &mut head) {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                read => assert!(read.is_ok(), "an answer in time: {read:?}"),
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Some(Reply { status, head, body: Vec::new(), whole: false })
    }

    /// So many bytes of what comes next.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("the bytes come in time");
        bytes
    }

    /// The next answer, whole.
    pub fn reply(&mut self) -> Reply {
        let head = self.head();
        self.rest(head)
    }

    /// The body of an answer whose head has been read.
    pub fn rest(&mut self, mut reply: Reply) -> Reply {
        if matches!(reply.status, 100..=199 | 204 | 304) {
            reply.whole = true;
        } else if reply.field("transfer-encoding").is_some() {
            reply.whole = self.chunks(&mut reply.body).is_some();
        } else if let Some(length) = reply.field("content-length") {
            let length: u64 = length.parse().expect("a length");
            let read = (&mut self.reader).take(length).read_to_end(&mut reply.body);
            reply.whole = read.is_ok_and(|read| read as u64 == length);
        } else {
            reply.whole = self.reader.read_to_end(&mut reply.body).is_ok();
        }
        reply
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut piece = vec![0; size + 2];
            self.reader.read_exact(&mut piece).ok()?;
            body.extend_from_slice(&piece[..size]);
            if size == 0 {
                return Some(());
            }
        }
    }

    /// Whether the other side closes now, saying nothing more.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// The status line, or nothing if the other side has closed.
    pub fn until_closed_or_reply(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).unwrap_or(0);
        (read > 0).then_some(line)
    }

    /// The rest of what comes until the other side closes.
    pub fn until_closed(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset after the answer is how a refused body ends.
        let _ = self.reader.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}
