//! The processes of the stand: how they are started, watched, hurt and ended.
//!
//! Each server leads a process group of its own, so that what it starts ends with it. [`Server`] kills its group when
//! dropped; [`Minder`] does so when we had no chance to drop anything.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http;

/// How a server is started: program, arguments, variables. Kept, so that it can be started again.
pub struct Recipe {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Recipe {
    /// A program without arguments.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), variables: Vec::new() }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// One more environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// As a command of std.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.variables.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// What a server is, and so how one sees that it serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A storage server: `ruok` is answered.
    Zeo,
    /// A Zope: its page `/ok` is answered, by this very process.
    Zope,
}

/// One server process, running or not.
pub struct Server {
    name: String,
    kind: Kind,
    address: SocketAddr,
    recipe: Recipe,
    log: PathBuf,
    minder: Arc<Minder>,
    child: Option<Child>,
}

impl Server {
    /// A server that does not run yet.
    pub fn new(name: &str, kind: Kind, address: SocketAddr, recipe: Recipe, log: PathBuf, minder: Arc<Minder>) -> Self {
        Self { name: name.to_owned(), kind, address, recipe, log, minder, child: None }
    }

    /// What it is called in logs and in the header `X-Zope`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, if it was started and not killed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the process, without waiting for it to serve.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "{} was started before", self.name);
        let log = File::options().create(true).append(true).open(&self.log).context("open a log file")?;
        let mut command = self.recipe.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share a log file")?).stderr(log);
        self.child = Some(self.minder.spawn(&mut command).with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It ended, or did not answer for too long; the end of its log is in the message.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        // Nothing tells us when a foreign process begins to listen, so we ask.
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            beat.tick().await;
            if self.answers().await {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                anyhow::bail!("{} ended by itself ({status}); the end of its log:\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= deadline {
                let seconds = READY_MAX.as_secs();
                anyhow::bail!("{} did not answer in {seconds} s; the end of its log:\n{}", self.name, self.log_tail());
            }
        }
    }

    /// Starts the process again (killing it first, if it runs) and waits until it serves.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.launch()?;
        self.ready().await
    }

    /// SIGKILL to the process and all that it started.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.minder.kill(&mut child).with_context(|| format!("kill {}", self.name))
    }

    /// SIGTERM, and wait for the end: an orderly stop. Fails, and kills, if that takes too long.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP_MAX;
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        while self.ended()?.is_none() {
            if Instant::now() >= deadline {
                self.kill()?;
                anyhow::bail!("{} did not end on SIGTERM; the end of its log:\n{}", self.name, self.log_tail());
            }
            beat.tick().await;
        }
        self.kill()
    }

    /// SIGSTOP: connections are still accepted by the kernel, and nobody answers.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT: goes on where it was frozen.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn signal(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.ended()?.is_none();
        let Some(child) = self.child.as_ref().filter(|_| running) else { anyhow::bail!("{} does not run", self.name) };
        signal_group(name, child.id()).with_context(|| format!("send SIG{name} to {}", self.name))
    }

    /// How it ended, if it did so by itself or by a signal of somebody else.
    ///
    /// # Errors
    /// It was not started.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { anyhow::bail!("{} was not started", self.name) };
        child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    async fn answers(&self) -> bool {
        let asked = async {
            match self.kind {
                Kind::Zeo => ruok(self.address).await.is_ok(),
                Kind::Zope => {
                    let Ok(reply) = http::get(self.address, "/ok").await else { return false };
                    let mark = self.pid().map(|pid| format!("{}/{pid}", self.name));
                    reply.status == 200 && reply.header("x-zope") == mark.as_deref()
                }
            }
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// Asks a ZEO server how it is: what each of its storages does, by name.
///
/// # Errors
/// It does not answer as a ZEO server does.
pub async fn ruok(address: SocketAddr) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    stream.write_all(b"\0\0\0\x04ruok").await.context("ask")?;
    let greeting = frame(&mut stream).await.context("read the greeting")?;
    anyhow::ensure!(greeting.ends_with(b"5"), "not a ZEO server of protocol 5");
    let answer = frame(&mut stream).await.context("read the answer")?;
    serde_json::from_slice(&answer).context("understand the answer")
}

async fn frame(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await?)?;
    anyhow::ensure!(length <= 1 << 20, "a frame of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Ends what we started when we end without ending it: on SIGKILL, on an abort, on Ctrl-C in a test run.
///
/// A shell in a process group of its own reads from a pipe which process groups to watch. Our end of the pipe closes when
/// we are gone, however that comes; then it kills those that it still has on its list.
pub struct Minder {
    shell: Mutex<Shell>,
}

struct Shell {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Minder {
    /// Starts the shell.
    pub fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", MINDER]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("start the shell that ends what is left behind")?;
        let orders = child.stdin.take();
        Ok(Self { shell: Mutex::new(Shell { child, orders }) })
    }

    /// Starts a command as the leader of a watched process group.
    pub fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let mut child = command.process_group(0).spawn()?;
        if let Err(cause) = self.order("watch", child.id()) {
            child.kill()?;
            child.wait()?;
            return Err(cause).context("have a process watched");
        }
        Ok(child)
    }

    /// Runs a command to its end, watched. Who no longer waits for it ends the minder, and with it the command.
    pub async fn run(&self, command: &mut Command) -> anyhow::Result<ExitStatus> {
        let mut child = self.spawn(command)?;
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            beat.tick().await;
            if let Some(status) = child.try_wait().context("look after a process")? {
                self.order("forget", child.id())?;
                return Ok(status);
            }
        }
    }

    /// Kills a process group that was started here, and reaps its leader.
    pub fn kill(&self, child: &mut Child) -> anyhow::Result<()> {
        let group = child.id();
        if child.try_wait().context("look after a process")?.is_none() {
            signal_group("KILL", group)?;
        }
        // While the leader is not reaped, nobody else can get its number; so the list is put right first.
        self.order("forget", group)?;
        child.wait().context("wait for a process")?;
        Ok(())
    }

    fn order(&self, verb: &str, group: u32) -> io::Result<()> {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        shell.orders.as_mut().map_or(Ok(()), |orders| orders.write_all(format!("{verb} {group}\n").as_bytes()))
    }
}

impl Drop for Minder {
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(shell.orders.take());
        if let Err(error) = shell.child.wait() {
            eprintln!("wait for the minder: {error}");
        }
    }
}

/// std has no signals, and this package no `unsafe`: the shell sends them.
fn signal_group(name: &str, group: u32) -> anyhow::Result<()> {
    let sent = Command::new("sh").args(["-c", "kill -s \"$1\" -- \"-$2\"", "sh", name, &group.to_string()]).output()?;
    anyhow::ensure!(sent.status.success(), "kill said: {}", String::from_utf8_lossy(&sent.stderr).trim());
    Ok(())
}

const MINDER: &str = r#"
trap '' HUP INT QUIT TERM
groups=' '
while read -r verb group; do
    case "$verb $groups" in
        watch*) groups="$groups$group " ;;
        forget*" $group "*) groups="${groups%% $group *} ${groups##* $group }" ;;
    esac
done
for group in $groups; do
    kill -s KILL -- "-$group"
done
"#;

/// Generous: a cold cache and a busy machine. What goes wrong mostly ends the process, which is seen at once.
const READY_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(20);
/// One question of [`Server::ready`].
const ANSWER_MAX: Duration = Duration::from_secs(2);
const LOG_LINES: usize = 30;
