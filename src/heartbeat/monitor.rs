//! Asking whether the storage serves: end to end, with a deadline. A TCP connection to a frozen process still succeeds, so `tcp`
//! is for what knows no better question. A ZEO server that answers can be of no use all the same: read-only, or with a commit that
//! does not end while others wait for it ([`zeo::Commits`]).
//!
//! A monitor decides nothing: it says what it saw, and the machine counts.

use crate::clock;
use crate::heartbeat::command::Ended;
use crate::heartbeat::command::Order;
use crate::telemetry::chain;
use crate::zeo;
use crate::zeo::Role;
use crate::zeo::Storage;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How the storage is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// A ZEO server: greeting, `ruok`, last transaction; and, where it matters, whether it takes writes.
    Zeo {
        /// Where it listens, HOST:PORT.
        addr: String,
        /// The storage's name.
        storage: String,
        /// The longest that one commit may keep others waiting; zero: for ever.
        commit_max: Duration,
    },
    /// Somebody accepts connections.
    Tcp {
        /// Where, HOST:PORT.
        addr: String,
    },
    /// A page with a status below 400.
    Http {
        /// Where, HOST:PORT.
        addr: String,
        /// The page's path.
        path: String,
    },
    /// A program that exits with 0.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// What a monitor saw of a storage that serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The identifier of its last transaction, if it tells.
    pub last_tid: Option<u64>,
    /// The commit that others wait for, by the time at which it began, as the bits of what the server says.
    pub awaited: Option<u64>,
}

/// What has come of the questions to one storage. They overlap, so that a network that loses packets can be told from a storage
/// that hangs: of a question that was not answered in time nothing follows when one that was asked after it has been answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Questions {
    /// When the newest was asked that has been answered well.
    answered: Option<Instant>,
}

impl Questions {
    /// A question that was asked at `asked` has come to its end, well or not; `late`: there was no answer in time. Whether that
    /// tells of the storage.
    pub fn tells(&mut self, asked: Instant, good: bool, late: bool) -> bool {
        if good {
            self.answered = self.answered.max(Some(asked));
        }
        !late || self.answered <= Some(asked)
    }
}

/// How thoroughly to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Does it answer?
    Alive,
    /// Does it take writes, too?
    Writable,
}

impl Monitor {
    /// The longest that one commit may keep others waiting.
    #[must_use]
    pub fn commit_max(&self) -> Option<Duration> {
        match self {
            Self::Zeo { commit_max, .. } => Some(*commit_max).filter(|max| !max.is_zero()),
            _ => None,
        }
    }

    /// The same question at another address of the same machine; nothing for a program, which knows where it asks.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Option<Self> {
        let mut there = self.clone();
        let (Self::Zeo { addr, .. } | Self::Tcp { addr } | Self::Http { addr, .. }) = &mut there else { return None };
        let port = addr.rsplit_once(':')?.1.parse().ok()?;
        *addr = SocketAddr::new(ip, port).to_string();
        Some(there)
    }

    /// How many questions may be under way at a time: no more than are looked at, and a program alone.
    #[must_use]
    pub fn at_a_time(&self) -> usize {
        if matches!(self, Self::Exec { .. }) { 1 } else { 16 }
    }

    /// Asks once; an answer after `within` is none.
    ///
    /// # Errors
    /// Why it does not serve.
    pub async fn ask(&self, depth: Depth, within: Duration) -> Result<Seen, String> {
        match self {
            Self::Zeo { addr, storage, .. } => ask_zeo(addr, storage, depth, within).await,
            Self::Tcp { addr } => {
                timed(within, "connect", async {
                    TcpStream::connect(addr).await.map_err(|error| format!("connect to {addr}: {error}"))?;
                    Ok(Seen::default())
                })
                .await
            }
            Self::Http { addr, path } => timed(within, "answer", ask_http(addr, path)).await,
            Self::Exec { argv } => {
                let ran = Order::new(argv.iter().cloned()).run(within).await;
                if ran.ended == Ended::Exit(0) { Ok(Seen::default()) } else { Err(ran.words()) }
            }
        }
    }
}

async fn ask_zeo(addr: &str, storage: &str, depth: Depth, within: Duration) -> Result<Seen, String> {
    let due = clock::mono() + within;
    if depth == Depth::Writable {
        let report = zeo::probe(addr, storage, due).await.map_err(|sick| chain(&sick))?;
        return match report.role {
            Role::Writable => {
                let awaited = report.storages.get(storage).and_then(Storage::awaited);
                Ok(Seen { last_tid: Some(report.last_tid), awaited })
            }
            Role::ReadOnly => Err(format!("{addr} is read-only")),
        };
    }
    let storages = zeo::ruok(addr, due).await.map_err(|sick| chain(&sick))?;
    let told = storages.get(storage).ok_or_else(|| format!("{addr} has no storage \"{storage}\""))?;
    Ok(Seen { last_tid: u64::from_str_radix(&told.last_transaction, 16).ok(), awaited: told.awaited() })
}

async fn timed(
    within: Duration,
    what: &str,
    asked: impl Future<Output = Result<Seen, String>>,
) -> Result<Seen, String> {
    tokio::time::timeout(within, asked).await.unwrap_or_else(|_| Err(format!("{what}: not in time")))
}

async fn ask_http(addr: &str, path: &str) -> Result<Seen, String> {
    let wrong = |error: std::io::Error| format!("{addr}: {error}");
    let mut stream = TcpStream::connect(addr).await.map_err(wrong)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(wrong)?;
    let mut head = Vec::new();
    stream.take(HEAD_MAX).read_to_end(&mut head).await.map_err(wrong)?;
    match status(&head) {
        Some(100..400) => Ok(Seen::default()),
        Some(code) => Err(format!("{addr}{path}: status {code}")),
        None => Err(format!("{addr}{path}: no answer that is HTTP")),
    }
}

/// The status in the first line of an answer.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

const HEAD_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    async fn answers(text: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                if !text.is_empty() && stream.read(&mut request).await.is_ok() {
                    let _ = stream.write_all(text.as_bytes()).await;
                    continue;
                }
                // Accepts and says nothing, as a frozen process does.
                tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_page_is_judged_by_its_status() {
        for (text, good) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
        ] {
            let monitor = Monitor::Http { addr: answers(text).await, path: "/ok".to_owned() };
            assert_eq!(monitor.ask(Depth::Alive, LONG).await.is_ok(), good, "{text}");
        }
    }

    #[tokio::test]
    async fn only_a_connection_is_fooled_by_one_who_accepts_and_says_nothing() {
        let addr = answers("").await;
        let short = Duration::from_millis(200);
        assert!(Monitor::Tcp { addr: addr.clone() }.ask(Depth::Alive, LONG).await.is_ok());
        let http = Monitor::Http { addr: addr.clone(), path: "/".to_owned() };
        assert_eq!(http.ask(Depth::Alive, short).await.unwrap_err(), "answer: not in time");
        let zeo = Monitor::Zeo { addr, storage: "1".to_owned(), commit_max: Duration::ZERO };
        assert!(zeo.ask(Depth::Alive, short).await.unwrap_err().contains("in time"));
    }

    #[test]
    fn a_lost_answer_is_no_sign_of_a_storage_that_hangs() {
        let start = Instant::now();
        let at = |asked| start + Duration::from_millis(asked);
        let mut questions = Questions::default();
        // Asked, answered, in time; in the order in which they end.
        for (asked, good, late, tells) in [
            (0, false, true, true),
            (400, true, false, true),
            (200, false, true, false),
            (300, false, false, true),
            (600, false, true, true),
            (800, false, true, true),
            (700, true, false, true),
            (700, false, true, true),
        ] {
            assert_eq!(questions.tells(at(asked), good, late), tells, "asked at {asked}");
        }
    }

    #[tokio::test]
    async fn a_program_is_judged_by_its_exit_code() {
        let exec = |script: &str| Monitor::Exec { argv: ["sh", "-c", script].map(str::to_owned).into() };
        assert!(exec("exit 0").ask(Depth::Alive, LONG).await.is_ok());
        assert_eq!(exec("echo sick; exit 7").ask(Depth::Alive, LONG).await.unwrap_err(), "exit 7: sick");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(head: Vec<u8>) {
            let _ = status(&head);
        }
    }
}
