//! The public suite `http-cache-tests`: fetched from npm into the target directory, run against a proxy, and scored as its own
//! pages do. Its code is not ours and stays there.
//!
//! The client and the origin of the suite are programs for node. The client tells the origin through the proxy what to answer,
//! and reports in JSON.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use serde::Deserialize;
use serde_json::Value;

const PACKAGE: &str = "http-cache-tests@0.4.5";

/// What its client needs; of what its package names besides, npm itself, nothing is used.
const NEEDS: &str = r#"{ "private": true, "dependencies": { "node-fetch": "2.7.0" } }"#;

/// All categories.
const ALL: &str = "const all = [...(await import('./tests/index.mjs')).default, \
                   (await import('./tests/surrogate-control.mjs')).default]; ";

/// Prints all tests but those for browsers.
const LIST: &str = "console.log(JSON.stringify(all.flatMap(suite => suite.tests.filter(test => !test.browser_only) \
                    .map(test => ({ suite: suite.id, id: test.id, kind: test.kind ?? 'required', \
                    after: test.depends_on ?? [] })))))";

/// Runs those tests for which `PART` holds against the proxy at `BASE`, and prints their results.
const RUN: &str = "const { runTests, getResults } = await import('./client/runner.mjs'); \
                   const fetch = (await import('node-fetch')).default; \
                   await runTests(all.filter(suite => PART), fetch, false, 'BASE'); \
                   console.log(JSON.stringify(getResults()))";

/// In this one the origin hangs up, time and again. Who then takes it for down, and serves stale, is not to be asked about anything
/// else meanwhile.
const PARTS: [&str; 2] = ["suite.id !== 'stale'", "suite.id === 'stale'"];

/// A run takes 25 s: most tests wait three, a hundred at once.
const RUN_MAX: Duration = Duration::from_secs(240);

const START_MAX: Duration = Duration::from_secs(20);

/// What is asked of a cache: what the standards say, what would be best, or only what it does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Required,
    Optimal,
    Check,
}

/// A test of the suite.
#[derive(Debug, Deserialize)]
pub struct Test {
    pub suite: String,
    pub id: String,
    pub kind: Kind,
    /// What has to be passed for this one to mean anything.
    after: Vec<String>,
}

/// The suite with its origin, which runs until this is dropped.
pub struct Suite {
    dir: PathBuf,
    pub origin: SocketAddr,
    _server: Running,
    pub tests: Vec<Test>,
}

/// What one proxy passed.
pub struct Passed {
    pub name: String,
    ids: BTreeSet<String>,
}

/// What is written in `tests/conformance/expected.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    not_passed: Vec<Reason>,
    pub yes: Yes,
}

/// Why some tests are not passed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    why: String,
    /// As shipped only, and not where the origin is believed.
    #[serde(default)]
    pub as_shipped: bool,
    /// A standard contradicts them, or nobody can pass them.
    #[serde(default)]
    pub overruled: bool,
    ids: Vec<String>,
}

/// The questions that are answered with yes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yes {
    pub as_shipped: BTreeSet<String>,
    pub believing: BTreeSet<String>,
}

/// A program that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Suite {
    /// Fetches it unless it is there, and starts its origin.
    pub fn start() -> anyhow::Result<Self> {
        let dir = fetch()?;
        let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut server = node(&dir);
        server.arg("server/server.mjs").env("npm_config_protocol", "http");
        server.env("npm_config_port", origin.port().to_string()).env("npm_config_pidfile", "server.pid");
        let server = Running(server.stdout(Stdio::null()).spawn().context("start the suite's origin")?);
        let began = Instant::now();
        while TcpStream::connect(origin).is_err() {
            ensure!(began.elapsed() < START_MAX, "the suite's origin does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        let listed = output(script(&dir, LIST)).context("list the suite's tests")?;
        let tests: Vec<Test> = serde_json::from_slice(&listed).context("the list of tests")?;
        let expected = Expected::read()?;
        let known: BTreeSet<&str> = tests.iter().map(|test| test.id.as_str()).collect();
        let named = expected.not_passed(|_| true).into_iter().chain(expected.yes.believing.iter().map(String::as_str));
        let unknown: Vec<_> = named.filter(|id| !known.contains(id)).collect();
        ensure!(unknown.is_empty(), "the suite has no such tests: {unknown:?}");
        Ok(Self { dir, origin, _server: server, tests })
    }

    /// Runs all of it against the proxy at `addr`.
    pub fn run(&self, name: &str, addr: SocketAddr) -> anyhow::Result<Passed> {
        let mut results: BTreeMap<String, Value> = BTreeMap::new();
        for part in PARTS {
            let run = RUN.replace("PART", part).replace("BASE", &format!("http://{addr}"));
            let told = output(script(&self.dir, &run)).with_context(|| format!("run the suite against {name}"))?;
            let told: BTreeMap<_, _> =
                serde_json::from_slice(&told).with_context(|| format!("what the suite says of {name}"))?;
            results.extend(told);
        }
        let ran = self.tests.iter().filter(|test| results.contains_key(&test.id)).count();
        ensure!(ran == self.tests.len(), "{ran} of {} tests were run against {name}", self.tests.len());
        let passed = |id: &str| results.get(id) == Some(&Value::Bool(true));
        let ids = self.tests.iter().filter(|test| self.counts(test, &passed)).map(|test| test.id.clone()).collect();
        Ok(Passed { name: name.to_owned(), ids })
    }

    /// Whether a test is passed, and all that it depends on.
    fn counts(&self, test: &Test, passed: &dyn Fn(&str) -> bool) -> bool {
        let before =
            |id: &String| self.tests.iter().find(|test| test.id == *id).is_some_and(|it| self.counts(it, passed));
        passed(&test.id) && test.after.iter().all(before)
    }

    /// A table of categories, one column for each proxy.
    pub fn table(&self, all: &[Passed], expected: &Expected) -> String {
        let mut text = format!("{:<9} {:<18} {:>5}", "", "category", "tests");
        for passed in all {
            write!(text, " {:>10}", passed.name).expect("text");
        }
        let overruled = expected.not_passed(|reason| reason.overruled);
        for kind in [Kind::Required, Kind::Optimal, Kind::Check] {
            let of_kind: Vec<&Test> = self.tests.iter().filter(|test| test.kind == kind).collect();
            let mut row = |name: &str, which: &dyn Fn(&Test) -> bool| {
                let tests = || of_kind.iter().filter(|test| which(test));
                write!(text, "\n{:<9} {name:<18} {:>5}", kind.word(), tests().count()).expect("text");
                for passed in all {
                    write!(text, " {:>10}", tests().filter(|test| passed.has(test)).count()).expect("text");
                }
            };
            for category in of_kind.chunk_by(|one, other| one.suite == other.suite) {
                row(&category[0].suite, &|test| test.suite == category[0].suite);
            }
            row("all", &|_| true);
            if kind != Kind::Check {
                row("by the RFCs", &|test| !overruled.contains(test.id.as_str()));
            }
        }
        text
    }
}

impl Expected {
    pub fn read() -> anyhow::Result<Self> {
        let expected: Self = toml::from_str(include_str!("expected.toml"))?;
        let empty = expected.not_passed.iter().find(|reason| reason.why.is_empty() || reason.ids.is_empty());
        ensure!(empty.is_none(), "a reason without words or tests");
        Ok(expected)
    }

    /// What is not passed for reasons of this kind.
    pub fn not_passed(&self, of: impl Fn(&Reason) -> bool) -> BTreeSet<&str> {
        let reasons = self.not_passed.iter().filter(|reason| of(reason));
        reasons.flat_map(|reason| &reason.ids).map(String::as_str).collect()
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optimal => "optimal",
            Self::Check => "check",
        }
    }
}

impl Passed {
    pub fn has(&self, test: &Test) -> bool {
        self.ids.contains(&test.id)
    }
}

/// The suite's directory, below the target directory. It is fetched once.
fn fetch() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).context("a target directory")?;
    let dir = target.join(PACKAGE);
    let (suite, stamp) = (dir.join("package"), dir.join("fetched"));
    if stamp.exists() {
        return Ok(suite);
    }
    println!("fetching {PACKAGE} from npm into {} (once)", dir.display());
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("package.json"), NEEDS)?;
    let quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"];
    succeed(Command::new("npm").arg("install").args(quiet).current_dir(&dir))?;
    succeed(Command::new("npm").args(["pack", PACKAGE, "--silent"]).current_dir(&dir))?;
    let file = PACKAGE.replace('@', "-") + ".tgz";
    succeed(Command::new("tar").args(["xzf", &file]).current_dir(&dir))?;
    fs::write(stamp, "")?;
    Ok(suite)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} (node and npm are needed)"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn node(dir: &Path) -> Command {
    let mut command = Command::new("node");
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// A program of ours on the suite's modules.
fn script(dir: &Path, text: &str) -> Command {
    let mut command = node(dir);
    command.args(["--no-warnings", "--input-type=module", "-e", &format!("{ALL}{text}")]);
    command
}

/// What a program writes until it ends, which it has to within [`RUN_MAX`].
fn output(mut command: Command) -> anyhow::Result<Vec<u8>> {
    let mut running = Running(command.stdout(Stdio::piped()).spawn().context("start node")?);
    let mut pipe = running.0.stdout.take().context("its output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut told = Vec::new();
        let read = pipe.read_to_end(&mut told).map(|_| told);
        // Who waits may have given up.
        let _ = sender.send(read);
    });
    let Ok(told) = receiver.recv_timeout(RUN_MAX) else { bail!("it does not end") };
    Ok(told?)
}
