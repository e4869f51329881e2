//! An origin that says any bytes, and remembers what came on which connection, byte for byte.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::origin::DEADLINE;

/// What is done with the connection behind an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
    Reset,
}

/// One request, and the number of the connection it came on.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    pub head: String,
}

impl Seen {
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = dyn Fn(&Seen) -> (Vec<u8>, Then) + Send + Sync;

/// The running origin; ends when dropped.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
}

impl Recorder {
    pub fn new(script: impl Fn(&Seen) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let count = AtomicUsize::new(0);
        let (all, end) = (Arc::clone(&seen), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (all, script) = (Arc::clone(&all), Arc::clone(&script));
                let connection = count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || serve(stream, connection, &all, &*script));
            }
        });
        Self { address, seen, ended }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, connection: usize, all: &Mutex<Vec<Seen>>, script: &Script) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(head) = read_head(&mut reader) {
        let seen = Seen { connection, head };
        // Noted before the body comes: a request whose body breaks off has reached the origin too.
        all.lock().expect("no panic").push(seen.clone());
        if skip_body(&mut reader, &seen.head).is_none() {
            return;
        }
        let (answer, then) = script(&seen);
        let _ = stream.write_all(&answer);
        match then {
            Then::Keep => {}
            Then::Close => return,
            Then::Reset => {
                // What was written must have gone out before the reset takes it back.
                thread::sleep(Duration::from_millis(20));
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head.iter().map(|byte| char::from(*byte)).collect())
}

fn skip_body(reader: &mut impl BufRead, head: &str) -> Option<()> {
    let field = |name: &str| {
        let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    if field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            reader.read_exact(&mut vec![0; size + 2]).ok()?;
            if size == 0 {
                return Some(());
            }
        }
    }
    let length: u64 = field("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let skipped = std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    (skipped == length).then_some(())
}
