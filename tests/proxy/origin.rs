//! An origin that does what a script says, byte by byte, and remembers what reached it.

use std::cell::RefCell;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Nothing here takes longer unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A request as it reached the origin.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Request line and header lines, as they came.
    pub head: String,
    /// The body's bytes, without chunk framing.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The request target.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

/// What a script does with the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request.
    Keep,
    /// Closes it.
    Close,
}

type Script = dyn Fn(&Asked, &mut TcpStream) -> Then + Send + Sync;

/// The running origin.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    news: Condvar,
    now: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
    ended: AtomicBool,
}

impl Origin {
    /// Answers each request as `script` does.
    pub fn new(script: impl Fn(&Asked, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same, at this place.
    pub fn at(place: SocketAddr, script: impl Fn(&Asked, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(place).expect("the port is free");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(State::default());
        let script: Arc<Script> = Arc::new(script);
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.ended.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), state, script) = (stream, Arc::clone(&of_thread), Arc::clone(&script)) else { break };
                state.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || serve(stream, &state, &*script));
            }
        });
        Self { address, state }
    }

    /// Answers every request with these bytes and keeps the connection.
    pub fn saying(answer: &'static str) -> Self {
        Self::new(move |_, stream| {
            write(stream, answer.as_bytes());
            Then::Keep
        })
    }

    /// The same, each as soon as `gate` lets it through; while it waits the request is with the origin.
    pub fn gated(gate: &Gate, answer: &'static str) -> Self {
        let gate = gate.clone();
        Self::new(move |_, stream| {
            gate.pass();
            finish(stream, answer.as_bytes());
            Then::Keep
        })
    }

    /// What has reached it, checks left out.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no panic").clone()
    }

    /// Waits until `count` requests have reached it.
    pub fn wait_for(&self, count: usize) -> Vec<Asked> {
        let asked = self.state.asked.lock().expect("no panic");
        let waited = self.state.news.wait_timeout_while(asked, DEADLINE, |asked| asked.len() < count);
        let (asked, timeout) = waited.expect("no panic");
        assert!(!timeout.timed_out(), "{} of {count} requests reached the origin", asked.len());
        asked.clone()
    }

    /// The most requests that were with it at a time.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Connections made to it.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the listener so that it sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

thread_local! {
    /// The requests that are with the origin, while this thread's one is among them.
    static BUSY: RefCell<Option<Arc<State>>> = const { RefCell::new(None) };
}

/// This thread's request is with the origin no more.
fn is_done() {
    if let Some(state) = BUSY.take() {
        state.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends a whole answer. The origin is done with the request before the edge can know, and send the next one.
pub fn finish(stream: &mut TcpStream, bytes: &[u8]) {
    is_done();
    write(stream, bytes);
}

/// Writes, and does not mind if the other side has gone.
pub fn write(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

fn serve(mut stream: TcpStream, state: &Arc<State>, script: &Script) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(asked) = read_request(&mut reader) {
        let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        state.asked.lock().expect("no panic").push(asked.clone());
        state.news.notify_all();
        BUSY.set(Some(Arc::clone(state)));
        let then = script(&asked, &mut stream);
        is_done();
        if then == Then::Close {
            break;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut asked = Asked { head, body: Vec::new() };
    if asked.field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).ok()?;
            asked.body.extend_from_slice(&piece[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = asked.field("content-length") {
        asked.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut asked.body).ok()?;
    }
    Some(asked)
}

/// A door that a test opens: scripts wait at it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        *self.0.0.lock().expect("no panic")
    }

    /// Waits until it is open; ends at the deadline, so that a failed test leaves no thread behind.
    pub fn pass(&self) {
        let open = self.0.0.lock().expect("no panic");
        drop(self.0.1.wait_timeout_while(open, DEADLINE, |open| !*open).expect("no panic"));
    }
}
