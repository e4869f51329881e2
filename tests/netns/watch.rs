//! Clients that ask a storage all the time, each from a namespace of its own, and write down when it answered.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use rustix::thread::LinkNameSpaceType;
use rustix::thread::move_into_link_name_space;
use std::os::fd::AsFd;

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

/// Who asks, and what it saw.
pub struct Watch {
    answers: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Watch {
    /// Begins to ask what is at `addr`, from `namespace`.
    pub fn begin(namespace: &str, addr: SocketAddr, ask: fn(SocketAddr) -> io::Result<()>) -> Self {
        let (answers, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, ended) = (Arc::clone(&answers), Arc::clone(&stop));
        let thread = within(namespace, move || {
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                if ask(addr).is_ok() {
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                std::thread::sleep(PACE.saturating_sub(began.elapsed()));
            }
        });
        Self { answers, stop, thread: Some(thread) }
    }

    /// When it was answered since `start`.
    pub fn since(&self, start: Instant) -> Vec<Instant> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().copied().filter(|answer| *answer >= start).collect()
    }

    /// Whether it was answered in the time before now.
    pub fn answered_within(&self, time: Duration) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.last().is_some_and(|last| last.elapsed() < time)
    }

    /// The longest time without an answer between `start` and now.
    pub fn outage(&self, start: Instant) -> Duration {
        let mut last = start;
        let mut longest = Duration::ZERO;
        for answer in self.since(start).into_iter().chain([Instant::now()]) {
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

/// Gets `path` as a visitor; the status and the body.
pub fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, VISIT)?;
    stream.set_read_timeout(Some(VISIT))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let body = text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
    Ok((status, body))
}

const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(400);
const VISIT: Duration = Duration::from_secs(30);
