//! What the harness needs of the machine: programs, ports, one plain question over HTTP, the CPU time of processes.

use crate::peer::Peer;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a server may take to start, and a question to be answered.
const PATIENCE: Duration = Duration::from_secs(15);

/// The kernel's clock ticks per second as user space sees them.
const TICK: Duration = Duration::from_millis(10);

/// Whether `program` is somewhere in the search path.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/usr/local/sbin"].map(Path::new);
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        || also.iter().any(|dir| dir.join(program).is_file())
}

/// A loopback address that nobody listens on.
pub fn free_addr() -> Result<SocketAddr, String> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("find a free port: {error}"))
}

/// Tries until it holds, for a bounded time.
pub fn until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(50));
    }
    false
}

/// What was answered.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `ETag`.
    pub etag: Option<String>,
    /// Bytes of body.
    pub body: usize,
}

/// Asks for `path` on a connection of its own.
pub fn ask(addr: SocketAddr, path: &str, header: Option<&str>) -> Result<Answer, String> {
    let header = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{header}\r\n");
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange().map_err(|error| format!("ask {addr} for {path}: {error}"))?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer has no head")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    let etag = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("etag"));
    Ok(Answer { status, etag: etag.map(|(_, value)| value.trim().to_owned()), body: answer.len() - end - 4 })
}

/// `process` and all its descendants.
pub fn family(process: u32) -> BTreeSet<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|number: u32| Some((number, stat(number)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = BTreeSet::from([process]);
    loop {
        let known = family.len();
        family.extend(
            parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(child, _)| *child).collect::<Vec<_>>(),
        );
        if family.len() == known {
            return family;
        }
    }
}

/// The user and system time that `process` and its descendants have spent.
pub fn cpu(process: u32) -> Result<Duration, String> {
    let mut ticks = 0_u32;
    for member in family(process) {
        // proc(5): utime and stime are the fields 14 and 15; `stat` begins with the third.
        let fields = stat(member).unwrap_or_default();
        let spent = fields.get(11..13).unwrap_or_default().iter().filter_map(|field| field.parse::<u32>().ok());
        ticks = ticks.saturating_add(spent.sum());
    }
    if ticks == 0 { Err("it has spent no time; is it gone?".to_owned()) } else { Ok(TICK * ticks) }
}

/// The fields of `/proc/PID/stat` after the program's name.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Sends `signal` to one process of ours.
pub fn signal(signal: &str, process: u32) {
    // It may be gone already, and then the shell says so to nobody.
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {process} 2>/dev/null")]).status();
}

/// The machine and the versions, for the head of the report.
pub fn describe(peers: &[&Peer]) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let versions: Vec<String> = peers.iter().filter_map(|peer| peer.version()).collect();
    format!("{cores} cores, shared with wrk; Linux {}; {}", kernel.trim(), versions.join("; "))
}

/// Whether `process` is gone, or waits to be buried.
pub fn has_ended(process: u32) -> bool {
    stat(process).is_none_or(|fields| fields.first().is_none_or(|state| state == "Z"))
}
