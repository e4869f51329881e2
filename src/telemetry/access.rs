//! The access log: one line per request, written by a thread of its own.
//!
//! The line is formatted on the caller's thread and put into a bounded buffer; the writer takes what has gathered and writes
//! it at once. Nobody ever waits for the disk: when the buffer is full the line is dropped and counted, and when the target
//! is broken the lines are counted as failed and the operator hears of it once a minute. What a client sends cannot end a
//! line or a field: both formats escape it.

mod line;

use crate::telemetry::writer;
use crate::telemetry::writer::Log;
use crate::telemetry::writer::Output;
use crate::telemetry::writer::Queue;
pub use crate::telemetry::writer::Told;
use crate::units::OriginAddr;
use http::Version;
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// Apache's combined format, then the cache word, then the duration in milliseconds.
    Combined,
    /// There are no lines.
    Off,
}

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    #[default]
    Stdout,
    /// A file that is appended to, and made when it is not there (mode 0640).
    File(PathBuf),
}

/// What the access log needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// How lines look.
    pub format: Format,
    /// Where they go.
    pub target: Target,
    /// How many may wait for the writer; what comes after is dropped. At most a KiB for each is kept in memory.
    pub queue: usize,
}

/// An access log that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file.
    #[error("open the access log {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Standard output.
    #[error("take standard output for the access log")]
    Stdout(#[source] io::Error),
    /// The writer's thread.
    #[error("start the thread that writes the access log")]
    Thread(#[source] io::Error),
}

/// Everything that one line tells. It borrows all of it; what is `None` is left out, or is `-`.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the request came.
    pub time: SystemTime,
    /// Who asked, behind trusted proxies.
    pub client: IpAddr,
    /// The method.
    pub method: &'a str,
    /// The host that was asked for, as the client wrote it.
    pub host: &'a [u8],
    /// Path and query, as the client wrote them.
    pub target: &'a [u8],
    /// The version of HTTP.
    pub version: Version,
    /// The status that was answered.
    pub status: u16,
    /// Bytes of response body sent.
    pub bytes: u64,
    /// From the end of the request's head to the end of the response.
    pub duration: Duration,
    /// What the cache had to do with it, in the words of RFC 9211.
    pub cache: &'a str,
    /// Why: a refusal's reason, why the response was not stored, why a stale one was served.
    pub why: Option<&'a str>,
    /// The site.
    pub site: Option<&'a str>,
    /// The upstream.
    pub upstream: Option<&'a str>,
    /// The endpoint that answered, or failed last.
    pub endpoint: Option<&'a OriginAddr>,
    /// How long it waited for an endpoint.
    pub queue: Option<Duration>,
    /// From sending it to the head of the endpoint's response.
    pub first_byte: Option<Duration>,
    /// How often it was sent to an endpoint again.
    pub retries: u32,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The TLS version.
    pub tls: Option<&'a str>,
    /// The request's id.
    pub request_id: Option<&'a str>,
}

/// The access log; clones write to the same one.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    format: Format,
    queue: Arc<Queue>,
}

impl AccessLog {
    /// Opens the target and starts the writer. `now` is only asked to tell troubles no more than once a minute.
    ///
    /// # Errors
    /// When the target cannot be opened or the thread not started.
    pub fn start(settings: &AccessSettings, now: fn() -> Instant) -> Result<Self, AccessError> {
        if settings.format == Format::Off {
            return Ok(Self::off());
        }
        let output = match &settings.target {
            Target::Stdout => Output::copy_of(io::stdout()).map_err(AccessError::Stdout)?,
            Target::File(path) => {
                Output::append_to(path).map_err(|cause| AccessError::Open { path: path.clone(), cause })?
            }
        };
        let log = Log { name: "access log", lines_max: settings.queue, gather: GATHER };
        let queue = writer::start(output, log, now).map_err(AccessError::Thread)?;
        Ok(Self(Some(Arc::new(Open { format: settings.format, queue }))))
    }

    /// A log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Whether lines go anywhere; if not, nobody needs to make a [`Record`].
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells of one request. Never waits and never fails.
    pub fn write(&self, record: &Record<'_>) {
        let Some(open) = &self.0 else { return };
        let told = LINE.try_with(|line| {
            let Ok(mut line) = line.try_borrow_mut() else { return };
            line.clear();
            line::format(open.format, record, &mut line);
            open.queue.push(&line);
            // One monster shall not keep its memory for ever.
            line.shrink_to(LINE_KEPT);
        });
        if told.is_err() {
            // The thread is being torn down and has no buffer any more.
            open.queue.drop_one();
        }
    }

    /// Opens the file again under its name, as log rotation needs it. What was told before goes to the old file.
    pub fn reopen(&self) {
        if let Some(open) = &self.0 {
            open.queue.reopen();
        }
    }

    /// Waits until all that was told before is written or lost, `within` at most; says whether it is.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        self.0.as_ref().is_none_or(|open| open.queue.flush(within))
    }

    /// Writes what is left and ends the writer; waits for it, `within` at most. What is told later is dropped.
    ///
    /// Says whether everything was written or counted in time.
    #[must_use]
    pub fn close(&self, within: Duration) -> bool {
        self.0.as_ref().is_none_or(|open| open.queue.close(within))
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.0.as_ref().map_or_else(Told::default, |open| open.queue.told())
    }
}

/// How long the writer waits for company for a line.
const GATHER: Duration = Duration::from_millis(10);

/// The memory that a thread keeps for its next line.
const LINE_KEPT: usize = 4096;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
