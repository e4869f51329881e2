//! Clients that ask all the time, each from a namespace of its own, and write down what came of it.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use rustix::thread::LinkNameSpaceType;
use rustix::thread::move_into_link_name_space;

/// Runs `work` in a thread of its own in the network namespace `name`.
pub fn within<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<anyhow::Result<T>> {
    let path = format!("/run/netns/{name}");
    std::thread::spawn(move || {
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("enter a namespace")?;
        Ok(work())
    })
}

/// The same, and waits for its end.
pub fn run_within<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    within(name, work).join().map_err(|_| anyhow::anyhow!("a thread panicked"))??
}

/// One question that has been answered, or not.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it was asked.
    pub began: Instant,
    /// When that was over.
    pub ended: Instant,
    /// What was wrong with the answer.
    pub result: Result<(), String>,
}

impl Asked {
    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }
}

/// Who asks, and what it saw.
pub struct Watch {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Watch {
    /// Begins to ask from `namespace`, once in `pace`, or as soon as the last question is over.
    pub fn begin<E: ToString>(
        namespace: &str,
        pace: Duration,
        mut ask: impl FnMut() -> Result<(), E> + Send + 'static,
    ) -> Self {
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, ended) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = within(namespace, move || {
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                let result = ask().map_err(|error| error.to_string());
                lock(&told).push(Asked { began, ended: Instant::now(), result });
                std::thread::sleep(pace.saturating_sub(began.elapsed()));
            }
        });
        Self { asked, stop, thread: Some(thread) }
    }

    /// What was over since `start`.
    pub fn since(&self, start: Instant) -> Vec<Asked> {
        let asked = lock(&self.asked);
        asked.iter().rev().take_while(|asked| asked.ended >= start).cloned().collect()
    }

    /// When it was answered since `start`, in order.
    pub fn answers(&self, start: Instant) -> Vec<Instant> {
        let since = self.since(start);
        since.into_iter().rev().filter(|asked| asked.result.is_ok()).map(|asked| asked.ended).collect()
    }

    /// Whether a question of after `start` was answered.
    pub fn served_since(&self, start: Instant) -> bool {
        self.since(start).iter().any(|asked| asked.result.is_ok() && asked.began >= start)
    }

    /// The longest time without an answer between `start` and now.
    pub fn outage(&self, start: Instant) -> Duration {
        let mut last = start;
        let mut longest = Duration::ZERO;
        for answer in self.answers(start).into_iter().chain([Instant::now()]) {
            longest = longest.max(answer.saturating_duration_since(last));
            last = answer;
        }
        longest
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("{error:#}");
        }
    }
}

/// Locks what threads share; one that panicked has been told of.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a ZEO server `ruok`, end to end.
pub fn ruok(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"\0\0\0\x04ruok")?;
    for _ in 0..2 {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > 1 << 20 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut vec![0; length])?;
    }
    Ok(())
}

/// What a visitor got.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Sends one request as a visitor, such as `GET /ok`.
pub fn visit(addr: SocketAddr, request: &str) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&addr, VISIT)?;
    stream.set_read_timeout(Some(VISIT))?;
    let head = "Host: www.example.org\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(format!("{request} HTTP/1.1\r\n{head}").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// How often a storage is asked.
pub const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(400);
/// Longer than any edge lets a visitor wait.
const VISIT: Duration = Duration::from_secs(90);
