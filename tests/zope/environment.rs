//! The Python that the stand runs on: a virtual environment and a database with the site in it, both under the target
//! directory and both made once.
//!
//! A stamp beside each says what it was made from; when that changes it is made anew. A lock file keeps two runs apart:
//! shared by all who use the environment, exclusive for the one who makes it. pip is left to the settings it finds.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use super::process::Minder;

/// An environment that is ready, and stays as it is while this value lives.
pub struct Environment {
    place: Place,
    _in_use: File,
}

impl Environment {
    /// Finds it, or makes it.
    ///
    /// # Errors
    /// No suitable Python (the message says what to install), or pip or the site's script failed.
    pub async fn prepare(minder: &Minder, say: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let place = Place::find()?;
        fs::create_dir_all(&place.dir).with_context(|| format!("make the directory {}", place.dir.display()))?;
        let lock_path = place.dir.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("open {}", lock_path.display()))?;
        for _ in 0..MAKE_TRIES {
            locked(&lock, File::try_lock_shared, say).await?;
            if place.missing()?.is_none() {
                return Ok(Self { place, _in_use: lock });
            }
            lock.unlock().context("give the lock back")?;
            locked(&lock, File::try_lock, say).await?;
            while let Some(part) = place.missing()? {
                place.make(part, minder, say).await?;
            }
            lock.unlock().context("give the lock back")?;
        }
        anyhow::bail!("other runs change {} again and again", place.dir.display())
    }

    /// The interpreter of the virtual environment.
    pub fn python(&self) -> &Path {
        &self.place.python
    }

    /// A database with the site in it, to be copied.
    pub fn data(&self) -> &Path {
        &self.place.data
    }

    /// One of the site's configuration files.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.place.site.join("etc").join(name)
    }

    /// Variables that each of the processes wants.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        self.place.variables()
    }
}

/// Where everything is.
struct Place {
    dir: PathBuf,
    venv: PathBuf,
    python: PathBuf,
    data: PathBuf,
    site: PathBuf,
    requirements: PathBuf,
}

/// What can be missing, in the order in which it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Python,
    Data,
}

impl Place {
    fn find() -> anyhow::Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zope");
        let program = std::env::current_exe().context("find the running program")?;
        // Cargo marks its target directory, wherever it was told to put it.
        let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
        let target = target.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Path::to_owned);
        let dir = target.join("zope");
        let venv = dir.join("venv");
        Ok(Self {
            python: venv.join("bin/python"),
            venv,
            data: dir.join("Data.fs"),
            dir,
            site: source.join("site"),
            requirements: source.join("requirements.txt"),
        })
    }

    fn missing(&self) -> anyhow::Result<Option<Part>> {
        for part in [Part::Python, Part::Data] {
            let stamp = fs::read_to_string(self.stamp_path(part)).unwrap_or_default();
            if stamp != self.stamp(part)? {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    async fn make(&self, part: Part, minder: &Minder, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let stamp = self.stamp(part)?;
        match fs::remove_file(self.stamp_path(part)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause).context("remove a stamp"),
            _ => {}
        }
        match part {
            Part::Python => self.make_venv(minder, say).await?,
            Part::Data => self.make_data(minder, say).await?,
        }
        fs::write(self.stamp_path(part), stamp).context("write a stamp")
    }

    async fn make_venv(&self, minder: &Minder, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let python = find_python()?;
        say(&format!("making a Python environment in {} (once)", self.venv.display()));
        let mut command = Command::new(python);
        command.args(["-m", "venv", "--clear"]).arg(&self.venv);
        self.run(&mut command, minder, "python -m venv").await?;
        say("installing Zope, ZEO and waitress with pip (once; a minute or so)");
        let mut command = Command::new(&self.python);
        command
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-r"])
            .arg(&self.requirements);
        self.run(&mut command, minder, "pip install").await
    }

    async fn make_data(&self, minder: &Minder, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        say("writing the site into a new database (once)");
        let scratch = tempfile::Builder::new().prefix("build-").tempdir_in(&self.dir).context("make a directory")?;
        let data = scratch.path().join("Data.fs");
        let mut command = Command::new(&self.python);
        command.args(["-m", "tidegate_site.build"]).arg(self.site.join("etc/build.conf")).envs(self.variables());
        command.env("ZOPE_INSTANCE", scratch.path()).env("ZEO_DATA", &data);
        self.run(&mut command, minder, "tidegate_site.build").await?;
        fs::rename(data, &self.data).context("put the new database in its place")
    }

    /// Runs one step; what it prints goes to a log file, whose end is shown if the step fails.
    async fn run(&self, command: &mut Command, minder: &Minder, what: &str) -> anyhow::Result<()> {
        let path = self.dir.join("make.log");
        let log = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share a log file")?).stderr(log);
        let status = minder.run(command).await.with_context(|| format!("run {what}"))?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        anyhow::bail!("{what} failed ({status}); the end of {}:\n{tail}", path.display())
    }

    fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("PYTHONPATH", self.site.clone()), ("PYTHONDONTWRITEBYTECODE", PathBuf::from("1"))]
    }

    fn stamp_path(&self, part: Part) -> PathBuf {
        self.dir.join(match part {
            Part::Python => "venv.stamp",
            Part::Data => "data.stamp",
        })
    }

    /// What a part is made from. The path is in it because a virtual environment does not survive a move.
    fn stamp(&self, part: Part) -> anyhow::Result<String> {
        let mut files = vec![self.requirements.clone()];
        if part == Part::Data {
            for folder in ["etc", "tidegate_site"] {
                let listed = fs::read_dir(self.site.join(folder)).context("list the site's files")?;
                for entry in listed {
                    let path = entry.context("list the site's files")?.path();
                    files.extend(path.is_file().then_some(path));
                }
            }
        }
        files.sort();
        let mut hasher = DefaultHasher::new();
        for path in files {
            fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
        }
        Ok(format!("{part:?} {:016x} {}\n", hasher.finish(), self.venv.display()))
    }
}

/// Waits for the lock, without keeping the thread: a run that makes the environment has it for a minute.
async fn locked(
    lock: &File,
    attempt: fn(&File) -> Result<(), TryLockError>,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    let mut waiting = false;
    loop {
        beat.tick().await;
        match attempt(lock) {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(cause)) => return Err(cause).context("lock the Python environment"),
            Err(TryLockError::WouldBlock) if waiting => {}
            Err(TryLockError::WouldBlock) => {
                waiting = true;
                say("another run makes or uses the Python environment; waiting for it");
            }
        }
    }
}

/// The first Python that will do: `$TIDEGATE_PYTHON`, else the usual names.
fn find_python() -> anyhow::Result<String> {
    let chosen = std::env::var("TIDEGATE_PYTHON").ok();
    let names = chosen.as_ref().map_or(PYTHONS.to_vec(), |name| vec![name.as_str()]);
    let mut seen = Vec::new();
    for name in names {
        let Ok(tried) = Command::new(name).args(["-c", PYTHON_CHECK]).stdin(Stdio::null()).output() else { continue };
        if tried.status.success() {
            return Ok(name.to_owned());
        }
        let complaint = String::from_utf8_lossy(&tried.stderr).into_owned();
        seen.push(format!("\n  {name}: {}", complaint.lines().last().unwrap_or("does not run")));
    }
    anyhow::bail!(
        "the Zope site needs Python 3.11 or later with venv and pip: \
         `apt-get install python3-venv`, or name another one in TIDEGATE_PYTHON{}",
        seen.concat()
    )
}

const PYTHONS: [&str; 4] = ["python3", "python3.13", "python3.12", "python3.11"];
const PYTHON_CHECK: &str = "import sys
if sys.version_info < (3, 11): sys.exit('version %d.%d is too old' % sys.version_info[:2])
try: import ensurepip, venv
except ImportError as cause: sys.exit('has no venv (%s)' % cause)";
/// Each round makes what is missing; more than a few mean that two trees share one target directory and disagree.
const MAKE_TRIES: usize = 4;
const LOG_LINES: usize = 30;
