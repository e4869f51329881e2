//! Running a foreign program with a deadline: fence agents, init scripts, monitors.
//!
//! Every program leads a process group of its own, so that what it starts ends with it when its time is over. What it says is
//! kept up to a bound; the rest is read and thrown away, so that it never blocks on a full pipe. Knows nothing of what the
//! programs are for, and never logs their input: passwords are in there.

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::process::Command;

/// So much of what a program says is kept.
const KEPT: usize = 4096;

/// After its end, what a program started may hold its pipes open for so long.
const LINGER: Duration = Duration::from_millis(200);

/// A program, its arguments, what it finds in its environment and on its standard input.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables, beside those of tidegate itself.
    pub env: Vec<(String, String)>,
    /// What it reads.
    pub stdin: String,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed when its time was over.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// How a program ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// The beginning of what it wrote to both of its outputs, in one line.
    pub said: String,
}

impl Order {
    /// `argv` with nothing else.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Runs it to its end, or until `within` is over. Whoever waits no longer ends it and all that it has started.
    pub async fn run(&self, within: Duration) -> Ran {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return Ran { ended: Ended::NotStarted(error.to_string()), said: String::new() },
        };
        let mut tied = Tied(child.id());
        let input = child.stdin.take();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (mut out_kept, mut err_kept) = (Vec::new(), Vec::new());
        let text = self.stdin.clone();
        let talk = async {
            let write = async {
                if let Some(mut input) = input {
                    // A program that does not read its input may have its reasons; its exit code tells.
                    let _ = input.write_all(text.as_bytes()).await;
                }
            };
            tokio::join!(write, keep(out, &mut out_kept), keep(err, &mut err_kept));
        };
        let ended = tokio::time::timeout(within, async {
            let mut talk = std::pin::pin!(talk);
            let status = tokio::select! {
                () = &mut talk => child.wait().await,
                status = child.wait() => {
                    let _ = tokio::time::timeout(LINGER, &mut talk).await;
                    status
                }
            };
            status.map_or_else(|error| Ended::NotStarted(error.to_string()), ended)
        })
        .await;
        let ended = if let Ok(ended) = ended {
            tied.0 = None;
            ended
        } else {
            drop(tied);
            // Killed; one that sits in the kernel is left to the runtime, which reaps it when it can.
            let _ = tokio::time::timeout(LINGER, child.wait()).await;
            Ended::TimedOut
        };
        out_kept.extend_from_slice(&err_kept);
        Ran { ended, said: one_line(&out_kept) }
    }

    fn spawn(&self) -> io::Result<Child> {
        let (program, arguments) = self.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true).spawn()
    }
}

impl std::fmt::Debug for Order {
    /// Without environment and input: passwords are in there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("argv", &self.argv).finish_non_exhaustive()
    }
}

impl Ran {
    /// In words, for the diary.
    #[must_use]
    pub fn words(&self) -> String {
        let how = match &self.ended {
            Ended::Exit(code) => format!("exit {code}"),
            Ended::Signal(signal) => format!("ended by signal {signal}"),
            Ended::TimedOut => "timed out".to_owned(),
            Ended::NotStarted(why) => format!("could not be started: {why}"),
        };
        if self.said.is_empty() { how } else { format!("{how}: {}", self.said) }
    }
}

/// A group that ends with its last user.
struct Tied(Option<u32>);

impl Drop for Tied {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            kill_group(group, Signal::KILL);
        }
    }
}

/// Sends `signal` to a process group; that it is gone already is as good.
pub fn kill_group(group: u32, signal: Signal) {
    // Group 0 and 1 would be our own and everybody's.
    let group = i32::try_from(group).ok().filter(|group| *group > 1);
    if let Some(group) = group.and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

/// How a process ended, from its status.
#[must_use]
pub fn ended(status: std::process::ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line: String = words.join(" ").chars().filter(|c| !c.is_control()).take(300).collect();
    line.truncate(line.trim_end().len());
    line
}

/// A shell script for a test. A process of its own writes it: had this one the file open, another test's new process could
/// have it open too at the moment when it is started, which the system refuses ("text file busy").
#[cfg(test)]
pub(super) fn script(dir: &std::path::Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    let mut write = std::process::Command::new("sh");
    write.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&path).arg(text);
    assert!(write.status().is_ok_and(|status| status.success()), "{} cannot be written", path.display());
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sh(script: &str) -> Order {
        Order::new(["sh", "-c", script])
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_its_end_is_told() {
        let mut order = sh("read line; echo \"got $line and $WORD\"; echo more >&2; exit 3");
        order.stdin = "secret=x\n".to_owned();
        order.env = vec![("WORD".to_owned(), "word".to_owned())];
        let ran = order.run(Duration::from_secs(20)).await;
        assert_eq!(ran, Ran { ended: Ended::Exit(3), said: "got secret=x and word more".to_owned() });
        assert!(!format!("{order:?}").contains("secret"));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let began = Instant::now();
        let ran = sh(&format!("sleep 1000 & echo $! > {}; wait", mark.display())).run(Duration::from_millis(500)).await;
        assert_eq!(ran.ended, Ended::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(60));
        ends(&mark).await;
    }

    /// Waits until the process whose number is in this file has ended.
    async fn ends(mark: &std::path::Path) {
        let child: i32 = std::fs::read_to_string(mark).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let due = Instant::now() + Duration::from_secs(20);
        while !gone() {
            assert!(Instant::now() < due, "the grandchild lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_is_broken_off_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let order = sh(&format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", mark.display()));
        let began = async {
            while !mark.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ran = order.run(Duration::from_secs(60)) => panic!("{ran:?}"),
            () = began => {}
        }
        ends(&mark).await;
    }

    #[tokio::test]
    async fn much_talk_blocks_nobody_and_a_missing_program_is_named() {
        let ran = sh("yes | head -c 1000000; exit 0").run(Duration::from_secs(20)).await;
        assert_eq!(ran.ended, Ended::Exit(0));
        assert!(ran.said.len() <= 300, "{}", ran.said.len());
        let ran = Order::new(["/no/such/program"]).run(Duration::from_secs(1)).await;
        assert!(matches!(ran.ended, Ended::NotStarted(_)), "{ran:?}");
        assert!(matches!(Order::default().run(Duration::from_secs(1)).await.ended, Ended::NotStarted(_)));
    }

    #[tokio::test]
    async fn a_child_that_outlives_its_parent_with_open_pipes_delays_nothing() {
        let began = Instant::now();
        let ran = sh("sleep 100 & echo $!").run(Duration::from_secs(30)).await;
        assert_eq!(ran.ended, Ended::Exit(0));
        assert!(began.elapsed() < Duration::from_secs(25));
        let child = std::process::Command::new("kill").arg(&ran.said).status();
        assert!(child.is_ok_and(|status| status.success()), "{}", ran.said);
    }
}
