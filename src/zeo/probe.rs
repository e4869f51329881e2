//! The questions, over TCP: `ruok` on one connection (the server closes it after its answer), the role and the last
//! transaction on a second.

use crate::zeo::wire;
use crate::zeo::wire::Answer;
use crate::zeo::wire::Codec;
use crate::zeo::wire::Malformed;
use crate::zeo::wire::Value;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How many messages of other kinds may come before an answer.
const STRANGERS_MAX: usize = 64;

/// How a ZEO server is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether it takes writes.
    pub role: Role,
    /// The identifier of the last transaction.
    pub last_tid: u64,
    /// What it tells of each of its storages.
    pub storages: BTreeMap<String, Storage>,
}

/// What a server lets its clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reading and writing.
    Writable,
    /// Reading: a replica, or a storage that is configured so.
    ReadOnly,
}

/// What a server tells of one storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct Storage {
    /// Clients connected.
    pub connections: u64,
    /// Objects loaded since the start.
    pub loads: u64,
    /// Objects stored since the start.
    pub stores: u64,
    /// Transactions committed since the start.
    pub commits: u64,
    /// Transactions aborted since the start.
    pub aborts: u64,
    /// Transactions under way.
    pub active_txns: u64,
    /// Write conflicts since the start.
    pub conflicts: u64,
    /// Of these, resolved.
    pub conflicts_resolved: u64,
    /// Clients that wait for the commit lock.
    pub waiting: u64,
    /// Since when the commit lock is held, in seconds since 1970.
    pub lock_time: Option<f64>,
    /// The identifier of the last transaction, as hex.
    #[serde(rename = "last-transaction")]
    pub last_transaction: String,
}

/// Why a server is not well, and where that showed.
#[derive(Debug, thiserror::Error)]
pub enum Sick {
    /// Nobody listens, or the way is blocked.
    #[error("connect to {addr}")]
    Connect {
        /// The server.
        addr: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took longer than it may: a server that is frozen takes connections but says nothing.
    #[error("{step}: no answer in time")]
    Timeout {
        /// What it did not do in time.
        step: &'static str,
    },
    /// The connection broke.
    #[error("{step}")]
    Broken {
        /// During what.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It says what no ZEO server says.
    #[error("{step}")]
    Protocol {
        /// During what.
        step: &'static str,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// It refused.
    #[error("{step}: the server raises {class}")]
    Refused {
        /// What.
        step: &'static str,
        /// The exception's class.
        class: String,
    },
}

/// A conversation with a server until `due`.
struct Talk {
    stream: TcpStream,
    due: Instant,
    step: &'static str,
}

impl Talk {
    async fn begin(addr: &str, due: Instant) -> Result<Self, Sick> {
        match tokio::time::timeout_at(due.into(), TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => Ok(Self { stream, due, step: "greeting" }),
            Ok(Err(source)) => Err(Sick::Connect { addr: addr.to_owned(), source }),
            Err(_) => Err(Sick::Timeout { step: "connect" }),
        }
    }

    async fn within<T>(&mut self, work: impl AsyncFnOnce(&mut TcpStream) -> io::Result<T>) -> Result<T, Sick> {
        let step = self.step;
        match tokio::time::timeout_at(self.due.into(), work(&mut self.stream)).await {
            Ok(done) => done.map_err(|source| Sick::Broken { step, source }),
            Err(_) => Err(Sick::Timeout { step }),
        }
    }

    async fn send(&mut self, body: &[u8]) -> Result<(), Sick> {
        let frame = wire::frame(body);
        self.within(async |stream| stream.write_all(&frame).await).await
    }

    async fn frame(&mut self) -> Result<Vec<u8>, Sick> {
        let mut prefix = [0; 4];
        self.within(async |stream| stream.read_exact(&mut prefix).await.map(drop)).await?;
        let mut body = vec![0; wire::frame_len(prefix).map_err(|source| self.protocol(source))?];
        self.within(async |stream| stream.read_exact(&mut body).await.map(drop)).await?;
        Ok(body)
    }

    fn protocol(&self, source: Malformed) -> Sick {
        Sick::Protocol { step: self.step, source }
    }

    async fn greeting(&mut self) -> Result<Codec, Sick> {
        let frame = self.frame().await?;
        wire::greeting(&frame).map_err(|source| self.protocol(source))
    }

    async fn answer(&mut self, codec: Codec, id: u8) -> Result<Answer, Sick> {
        for _ in 0..STRANGERS_MAX {
            let frame = self.frame().await?;
            if let Some(answer) = wire::answer(codec, id, &frame).map_err(|source| self.protocol(source))? {
                return Ok(answer);
            }
        }
        Err(self.protocol(Malformed("much, but no answer")))
    }
}

/// Asks `ruok`, until `due`: what the server tells of its storages. Tells a dead and a frozen server from a living one, not a replica
/// from a primary.
///
/// # Errors
/// [`Sick`].
pub async fn ruok(addr: &str, due: Instant) -> Result<BTreeMap<String, Storage>, Sick> {
    let mut talk = Talk::begin(addr, due).await?;
    talk.greeting().await?;
    talk.step = "ruok";
    talk.send(b"ruok").await?;
    let frame = talk.frame().await?;
    serde_json::from_slice(&frame).map_err(|_| talk.protocol(Malformed("a status that is no JSON")))
}

/// Asks everything, until `due`: `ruok`, whether `storage` takes writes, and its last transaction. Changes nothing.
///
/// # Errors
/// [`Sick`].
pub async fn probe(addr: &str, storage: &str, due: Instant) -> Result<Report, Sick> {
    let storages = ruok(addr, due).await?;
    if let Some(last_tid) = register(addr, storage, due).await? {
        return Ok(Report { role: Role::Writable, last_tid, storages });
    }
    let told = storages.get(storage).and_then(|told| u64::from_str_radix(&told.last_transaction, 16).ok());
    let last_tid = told.unwrap_or(0);
    Ok(Report { role: Role::ReadOnly, last_tid, storages })
}

/// Registers for writing; nothing when the storage is read-only.
async fn register(addr: &str, storage: &str, due: Instant) -> Result<Option<u64>, Sick> {
    let mut talk = Talk::begin(addr, due).await?;
    let codec = talk.greeting().await?;
    talk.step = "register";
    let hello = if codec == Codec::Pickle { b"Z5" } else { b"M5" };
    talk.send(hello).await?;
    talk.send(&wire::register(codec, 1, storage)).await?;
    match talk.answer(codec, 1).await? {
        Answer::Raised(class) if class.ends_with("ReadOnlyError") => return Ok(None),
        Answer::Raised(class) => return Err(Sick::Refused { step: "register", class }),
        Answer::Result(_) => {}
    }
    talk.step = "last transaction";
    talk.send(&wire::last_transaction(codec, 2)).await?;
    match talk.answer(codec, 2).await? {
        Answer::Result(Value::Bytes(tid)) => {
            let tid = <[u8; 8]>::try_from(tid).map_err(|_| talk.protocol(Malformed("an identifier that is none")))?;
            Ok(Some(u64::from_be_bytes(tid)))
        }
        Answer::Result(_) => Err(talk.protocol(Malformed("an identifier that is none"))),
        Answer::Raised(class) => Err(Sick::Refused { step: "last transaction", class }),
    }
}
