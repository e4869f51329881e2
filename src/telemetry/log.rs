//! The diary: what happens to the process, on standard error, as text or JSON, one line per event.
//!
//! It is for what an operator wants to read, not for requests. Its level can be changed while the process runs. Control
//! characters in texts that came from outside cannot end a line or reach a terminal. When standard error is broken, the
//! diary is silent. Nobody who tells waits for whoever reads it: a journal that hangs costs lines, which are counted, and
//! neither a takeover nor a visitor.

use crate::telemetry::metrics::Metrics;
use crate::telemetry::writer;
use crate::telemetry::writer::Log;
use crate::telemetry::writer::Output;
use crate::telemetry::writer::Queue;
use crate::telemetry::writer::Told;
use std::io;
use std::io::Write;
use std::panic;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

/// How events look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, module, message, fields.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Nothing.
    Off,
    /// We failed someone.
    Error,
    /// And: act soon.
    Warn,
    /// And: the operator's diary.
    #[default]
    Info,
    /// And: one request or one epoch under the loupe.
    Debug,
    /// Everything.
    Trace,
}

/// The diary could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiaryError {
    /// The process has one already.
    #[error("open the diary a second time")]
    AlreadyOpen,
    /// Standard error, or the thread that writes.
    #[error("start the thread that writes the diary")]
    Writer(#[source] io::Error),
}

/// The running diary.
#[derive(Clone, Debug)]
pub struct Diary {
    filter: reload::Handle<LevelFilter, Registry>,
    queue: Arc<Queue>,
}

impl Verbosity {
    /// All of them, from the least.
    pub const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == word)
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl Diary {
    /// Opens the diary of the process on standard error. `now` is only asked to tell of lost lines no more than once a minute.
    ///
    /// # Errors
    /// When it is open already, or has no writer.
    pub fn open(verbosity: Verbosity, format: LogFormat, now: fn() -> Instant) -> Result<Self, DiaryError> {
        let output = Output::copy_of(io::stderr()).map_err(DiaryError::Writer)?;
        let queue = writer::start(output, LOG, now).map_err(DiaryError::Writer)?;
        let (subscriber, filter) = subscriber(verbosity, format, Lines(Arc::clone(&queue)));
        tracing::subscriber::set_global_default(subscriber).map_err(|_| DiaryError::AlreadyOpen)?;
        Ok(Self { filter, queue })
    }

    /// Waits until all that was told before is written or lost, `within` at most: before the process ends.
    pub fn flush(&self, within: Duration) {
        // Who does not read by then will not.
        let _ = self.queue.flush(within);
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn told(&self) -> Told {
        self.queue.told()
    }

    /// Tells as much as `verbosity` from now on.
    pub fn set(&self, verbosity: Verbosity) {
        // It fails only when the subscriber is gone, and then nothing is told anyway.
        let _ = self.filter.modify(|filter| *filter = verbosity.filter());
    }
}

/// Writes each panic to the diary and counts it, in place of std's message to standard error.
pub fn count_panics(metrics: &Arc<Metrics>, diary: Option<Diary>) {
    let metrics = Arc::clone(metrics);
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        metrics.panicked();
        let message = info.payload_as_str().unwrap_or("(no text)");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        error!(message, place, thread = thread.name().unwrap_or("?"), "panic; this is a bug, please report it");
        // It may be the end of the process.
        if let Some(diary) = &diary {
            diary.flush(LAST_WORDS);
        }
    }));
}

fn subscriber<W>(
    verbosity: Verbosity,
    format: LogFormat,
    writer: W,
) -> (impl tracing::Subscriber + Send + Sync, reload::Handle<LevelFilter, Registry>)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(verbosity.filter());
    let events = fmt::layer().with_writer(OneLine(writer)).log_internal_errors(false);
    let events = match format {
        LogFormat::Text => events.with_ansi(false).boxed(),
        LogFormat::Json => events.json().flatten_event(true).with_current_span(false).with_span_list(true).boxed(),
    };
    (tracing_subscriber::registry().with(filter).with(events), handle)
}

/// Makes writers that put each line into the queue.
struct Lines(Arc<Queue>);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line<'w>;

    fn make_writer(&'w self) -> Self::Writer {
        Line(&self.0)
    }
}

/// Puts what is written at once into the queue as one line.
struct Line<'w>(&'w Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes writers that let nothing but the last byte end a line.
struct OneLine<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }
}

/// Escapes control characters. The layer gives it one event per call, with the line feed at its end.
struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if !text.iter().any(u8::is_ascii_control) {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut line = Vec::with_capacity(event.len() + 32);
        for byte in text {
            if byte.is_ascii_control() {
                line.extend(byte.escape_ascii());
            } else {
                line.push(*byte);
            }
        }
        line.push(b'\n');
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An event is rare; what is told just before the process is killed should be there.
const LOG: Log = Log { name: "diary", lines_max: 4096, gather: Duration::ZERO };

/// How long a thread that panics waits for that to be written.
const LAST_WORDS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::sync::mpsc;
    use tracing::debug;
    use tracing::info;
    use tracing::subscriber::with_default;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let memory = Memory::default();
        let writer = memory.clone();
        let (subscriber, _) = subscriber(Verbosity::Info, LogFormat::Text, move || writer.clone());
        with_default(subscriber, || {
            let hostile = "a\nINFO forged\u{1b}[31m";
            info!(quoted = hostile, shown = %hostile, "role changed");
            debug!("not told");
        });
        let text = memory.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("role changed") && !text.contains('\u{1b}') && !text.contains("not told"), "{text}");
    }

    #[test]
    fn json_events_are_objects_and_the_level_can_be_changed() {
        let memory = Memory::default();
        let writer = memory.clone();
        let (subscriber, filter) = subscriber(Verbosity::Warn, LogFormat::Json, move || writer.clone());
        with_default(subscriber, || {
            info!("not told");
            filter.modify(|filter| *filter = Verbosity::Debug.filter()).unwrap();
            debug!(epoch = 7, "told");
        });
        let value: serde_json::Value = serde_json::from_str(&memory.text()).unwrap();
        assert_eq!(value["epoch"], 7);
        assert_eq!(value["message"], "told");
        assert_eq!(value["level"], "DEBUG");
    }

    #[test]
    fn a_journal_that_does_not_read_makes_nobody_wait_and_then_gets_what_there_was_room_for() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let queue = writer::start(Output::copy_of(&ours).unwrap(), LOG, Instant::now).unwrap();
        drop(ours);
        let lines = 20_000;
        let (subscriber, _) = subscriber(Verbosity::Info, LogFormat::Text, Lines(Arc::clone(&queue)));
        let (done, told) = mpsc::channel();
        std::thread::spawn(move || {
            with_default(subscriber, || (0..lines).for_each(|number| info!(number, "{:200}", "takeover")));
            done.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(30)).expect("nobody waits for who does not read");
        let dropped = queue.told().dropped;
        assert!(dropped > 0 && dropped < lines, "{dropped}");
        let reader = std::thread::spawn(move || std::io::BufReader::new(theirs).lines().count());
        assert!(queue.close(Duration::from_secs(30)));
        drop(queue);
        assert_eq!(u64::try_from(reader.join().unwrap()).unwrap(), lines - dropped);
    }

    #[test]
    fn words_are_read_back() {
        for verbosity in Verbosity::ALL {
            assert_eq!(Verbosity::from_word(verbosity.as_str()), Some(verbosity));
        }
        assert_eq!(Verbosity::from_word("loud"), None);
    }
}
