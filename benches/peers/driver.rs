//! A load of our own, for conditional requests: this program started again, one thread, no pipelining.
//!
//! A 304 may say how long the body is that it does not carry, or how it would be framed (RFC 9110 8.6, 15.4.5). wrk then
//! waits for that body for ever. This driver knows that an answer ends with its head; it is for answers without a body only.
//! It reports in wrk's words.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// The word that makes this program a load.
pub const VERB: &str = "--drive";

/// An answer's head must fit into this.
const HEAD_MAX: usize = 16 * 1024;

/// What one connection saw.
#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    errors: u64,
}

/// Drives as the words say: connections, seconds, URL, header.
pub fn main(words: &[String]) -> ExitCode {
    let [_, connections, seconds, url, header] = words else { return ExitCode::FAILURE };
    let (Ok(connections), Ok(seconds)) = (connections.parse::<usize>(), seconds.parse()) else {
        return ExitCode::FAILURE;
    };
    let target = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let Some((Ok(addr), path)) = target.map(|(addr, path)| (addr.parse::<SocketAddr>(), path)) else {
        return ExitCode::FAILURE;
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {addr}\r\n{header}\r\n\r\n");
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds);
    let tallies = LocalSet::new().block_on(&runtime, drive(connections, addr, request.into(), end));
    report(tallies, began.elapsed());
    ExitCode::SUCCESS
}

async fn drive(connections: usize, addr: SocketAddr, request: Rc<str>, end: Instant) -> Vec<Tally> {
    let open = |_| tokio::task::spawn_local(connection(addr, Rc::clone(&request), end));
    let tasks: Vec<_> = (0..connections).map(open).collect();
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await.unwrap_or_else(|_| Tally { errors: 1, ..Tally::default() }));
    }
    tallies
}

async fn connection(addr: SocketAddr, request: Rc<str>, end: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let exchanges = exchanges(addr, &request, end, &mut tally.micros);
        // A server that does not answer shall not hold us much longer than the time that we were given.
        let limit = tokio::time::Instant::from_std(end + Duration::from_secs(2));
        if !matches!(tokio::time::timeout_at(limit, exchanges).await, Ok(Ok(()))) {
            tally.errors += 1;
            // Not in a tight circle when nobody listens.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tally
}

/// Asks again and again on one connection until `end`.
async fn exchanges(addr: SocketAddr, request: &str, end: Instant, micros: &mut Vec<u32>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut head = vec![0; HEAD_MAX];
    while Instant::now() < end {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut head[length..]).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            length += read;
        }
        if !head.starts_with(b"HTTP/1.1 304 ") {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        micros.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(())
}

fn report(tallies: Vec<Tally>, took: Duration) {
    let errors: u64 = tallies.iter().map(|tally| tally.errors).sum();
    let mut micros: Vec<u32> = tallies.into_iter().flat_map(|tally| tally.micros).collect();
    micros.sort_unstable();
    let share = |percent: usize| micros.get(micros.len() * percent / 100).copied().unwrap_or(0);
    let per_second = u128::try_from(micros.len()).unwrap_or(0) * 1_000_000 / took.as_micros().max(1);
    println!("{} requests in {}s", micros.len(), took.as_secs());
    println!("50% {:.2?}", Duration::from_micros(share(50).into()));
    println!("99% {:.2?}", Duration::from_micros(share(99).into()));
    println!("Socket errors: {errors}");
    println!("Requests/sec: {per_second}");
}
