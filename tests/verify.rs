//! `tidegate verify` against files that ZODB itself wrote, damaged in every way, beside ZODB's own `fstest`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use anyhow::Context;
use serde_json::Value;
use tidegate::verify::Begin;
use tidegate::verify::VerifyError;
use tidegate::verify::verify;
use tidegate::zodb::Checker;
use tidegate::zodb::Fault;
use tidegate::zodb::check::Step;
use tidegate::zodb::check::Trouble;

use self::harness::environment::Environment;
use self::harness::process::Minder;

#[path = "zope/harness.rs"]
#[allow(dead_code, reason = "the stand is more than this test needs")]
mod harness;

/// How many damaged copies of each file are judged.
const DAMAGES: u64 = 400;

struct Zodb {
    environment: Environment,
    dir: tempfile::TempDir,
}

impl Zodb {
    async fn prepare() -> anyhow::Result<Self> {
        let minder = Minder::start()?;
        let environment = Environment::prepare(&minder, &mut |line| eprintln!("{line}")).await?;
        Ok(Self { environment, dir: tempfile::tempdir()? })
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(self.environment.python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zope/datafs.py")).arg(verb);
        command.stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The files that ZODB writes.
    fn written(&self) -> anyhow::Result<()> {
        good(&self.script("write").arg(self.dir.path()).output()?).map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What fstest says of each.
    fn fstest(&self, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
        let said = good(&self.script("check").args(files).output()?)?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

fn good(output: &Output) -> anyhow::Result<String> {
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tidegate(arguments: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

#[tokio::test]
async fn each_fault_that_fstest_finds_is_found_no_later_and_nothing_good_is_called_damaged() -> anyhow::Result<()> {
    let zodb = Zodb::prepare().await?;
    zodb.written()?;
    let mut random = Random(7);
    let (mut files, mut copies) = (Vec::new(), Vec::new());
    for name in ["good.fs", "packed.fs", "voted.fs"] {
        let bytes = fs::read(zodb.path(name))?;
        let verified = verify(&zodb.path(name), Begin::Start).with_context(|| name.to_owned())?;
        assert_eq!((verified.unfinished, verified.remarks.skipping), (name == "voted.fs", 0), "{name}");
        let starts = starts(&bytes);
        assert_eq!(starts.len() as u64, verified.transactions + u64::from(verified.unfinished), "{name}");
        for at in 0..DAMAGES {
            let path = zodb.path(&format!("{name}.{at}"));
            let damaged = random.damage(&bytes, &starts);
            fs::write(&path, &damaged)?;
            files.push(path);
            copies.push(damaged);
        }
    }
    let judged = zodb.fstest(&files)?;
    assert_eq!(judged.len(), files.len());
    let (mut both, mut ours) = (0, 0);
    for ((path, copy), theirs) in files.iter().zip(copies).zip(judged) {
        let place = || format!("{} is {theirs} to fstest", path.display());
        match (judge(&copy), theirs.as_str()) {
            (Ok((Step::Unfinished, end)), complaint) if complaint != "good" => {
                let checkpoint = complaint.contains("checkpoint flag") || complaint.contains("truncated");
                assert!(checkpoint && place_in(complaint) >= Some(end), "{}", place());
            }
            (Ok(_), complaint) => assert_eq!(complaint, "good", "{}", place()),
            (Err(fault), "good") => {
                // What fstest does not look at.
                assert!(["previous", "back", "tid", "version"].contains(&fault.what.word()), "{fault}: {}", place());
                ours += 1;
            }
            (Err(fault), complaint) => {
                if let Some(found) = place_in(complaint) {
                    assert!(fault.transaction <= found, "{fault}: {}", place());
                }
                both += 1;
            }
        }
    }
    assert!(both > files.len() / 4 && ours > files.len() / 50, "the damages do not reach: {both}, {ours} more by us");
    Ok(())
}

#[tokio::test]
async fn a_file_that_zodb_writes_packs_and_takes_back_meanwhile_is_never_called_damaged() -> anyhow::Result<()> {
    let zodb = Zodb::prepare().await?;
    let path = zodb.path("busy.fs");
    let mut writer = zodb.script("busy").arg(&path).stdout(Stdio::null()).spawn()?;
    let mut seen = 0;
    let mut looks = 0_u32;
    let ended = loop {
        let ended = writer.try_wait()?;
        match verify(&path, if looks.is_multiple_of(2) { Begin::Start } else { Begin::Last(5) }) {
            Ok(verified) => seen = seen.max(verified.end.tid.0),
            // Not there yet, or being replaced by the packed one.
            Err(VerifyError::Open { .. }) => {}
            // Created, and not yet begun.
            Err(VerifyError::Damaged { fault, .. }) if fault.what.word() == "empty" => {}
            Err(error) => {
                writer.kill()?;
                return Err(error.into());
            }
        }
        looks += 1;
        if let Some(status) = ended {
            break status;
        }
    };
    anyhow::ensure!(ended.success(), "the writer failed");
    assert!(looks > 3 && seen > 0, "it was looked at {looks} times");
    assert_eq!(zodb.fstest(&[path])?, ["good"]);
    Ok(())
}

#[tokio::test]
async fn the_command_says_where_a_file_is_wrong_and_by_its_exit_status_whether() -> anyhow::Result<()> {
    let zodb = Zodb::prepare().await?;
    zodb.written()?;
    let (good, voted) = (zodb.path("good.fs").display().to_string(), zodb.path("voted.fs").display().to_string());
    let (code, words, _) = tidegate(&["verify", &good])?;
    assert!(code == Some(0) && words.contains("good.fs: good\n"), "{words}");
    let (code, json, _) = tidegate(&["verify", &good, "--json", "--tail", "3"])?;
    let told: Value = serde_json::from_str(&json)?;
    assert_eq!((code, &told["transactions"], &told["verdict"]), (Some(0), &Value::from(3), &Value::from("good")));
    let mark = format!("{}:{}", told["end"], told["last_tid"].as_str().context("a tid")?);
    let (code, words, _) = tidegate(&["verify", &good, "--after", &mark])?;
    assert!(code == Some(0) && words.contains(": 0 transactions, 0 records"), "{words}");
    let (code, _, complaint) = tidegate(&["verify", &voted, "--after", "5:0x040d34aad271fb55"])?;
    assert!(code == Some(2) && complaint.contains("packed or replaced"), "{complaint}");
    let (code, words, _) = tidegate(&["verify", &voted])?;
    assert!(code == Some(0) && words.contains("unfinished"), "{words}");
    let (code, _, complaint) = tidegate(&["verify", &voted, "--strict"])?;
    assert!(code == Some(1) && complaint.contains("never finished"), "{complaint}");

    let mut bytes = fs::read(&good)?;
    let last = *starts(&bytes).last().context("a transaction")?;
    bytes[last + 16] = b'?';
    fs::write(&good, bytes)?;
    let (code, _, complaint) = tidegate(&["verify", &good])?;
    assert!(code == Some(1) && complaint.contains(&format!("at {last}: 0x3f is no status")), "{complaint}");
    let (code, _, complaint) = tidegate(&["verify", "/nowhere/Data.fs"])?;
    assert!(code == Some(2) && complaint.contains("open /nowhere/Data.fs"), "{complaint}");
    Ok(())
}

/// How the walk through a file ends, and where; without the second looks that a file on disk is given.
fn judge(mut bytes: &[u8]) -> Result<(Step, u64), Fault> {
    let fault = |trouble| match trouble {
        Trouble::Fault(fault) => fault,
    };
    let mut checker = Checker::whole(&mut bytes, 1 << 20).map_err(fault)?;
    loop {
        match checker.step(&mut bytes).map_err(fault)? {
            Step::Good(_) => {}
            end => return Ok((end, checker.mark().position)),
        }
    }
}

/// The place that a complaint of fstest names.
fn place_in(complaint: &str) -> Option<u64> {
    let digits = complaint.rsplit(" at ").next()?.chars().take_while(char::is_ascii_digit).collect::<String>();
    digits.parse().ok()
}

/// Where the transactions of a good file begin.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 4;
    while at < bytes.len() {
        starts.push(at);
        let len = u64::from_be_bytes(bytes[at + 8..at + 16].try_into().expect("eight bytes"));
        at += usize::try_from(len).expect("a small file") + 8;
    }
    starts
}

/// Damages, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).expect("below a usize")
    }

    fn damage(&mut self, good: &[u8], starts: &[usize]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        // Mostly near a transaction's header and first record, where there is something to break.
        let start = starts[self.below(starts.len())];
        let at = if self.below(4) > 0 { start + self.below(130) } else { self.below(good.len()) }.min(good.len() - 1);
        let end = (at + 1 + self.below(60)).min(good.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = u8::try_from(self.below(256)).expect("a byte"),
            3 => bytes[at..end].fill(0),
            4 => bytes[at..end].fill(0xff),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            // Another number where a number may stand.
            _ => {
                let at = at.min(good.len() - 8);
                let number = [0, 4, start, at, good.len(), usize::MAX][self.below(6)] as u64;
                bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
            }
        }
        bytes
    }
}
