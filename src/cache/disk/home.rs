//! The directory: whose it is, what it was left like, and the files in it that are no segments.
//!
//! | file | what it is |
//! | --- | --- |
//! | `lock` | held by the one process that uses the directory |
//! | `state` | the format's version, how many runs there were, the machine's start during the last one, whether it ended in order |
//! | `places` | under which schemes and authorities each site has been seen: what purges of a bare path have to reach |
//! | `NNNNNNNN.seg`, `.purges` | segments (`segment`) |
//!
//! What cannot be read is no reason not to start: everything is forgotten then, and the reason is told.

use crate::cache::disk::record;
use crate::cache::disk::record::VERSION;
use crate::cache::disk::segment;
use crate::units::SiteName;
use rustix::fs::FlockOperation;
use rustix::process::geteuid;
use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The system says so.
    #[error("{what} {}", path.display())]
    Io {
        /// What we were doing.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to tidegate's; give it to him: chown", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others may look into it, or change it.
    #[error("{} may be entered by others (mode {mode:04o}); take that away: chmod 0700 {}", path.display(), path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another process has it.
    #[error("{} is in use by another process; each tidegate needs a directory of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A directory that is ours.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    boot: u64,
    run: u32,
    /// Held until the end.
    _lock: File,
}

/// How the directory was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// What is in it can be used.
    Usable,
    /// It is empty, or what was in it is not to be trusted, for this reason, and has been removed.
    Empty(Option<&'static str>),
}

/// What `state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    run: u32,
    boot: u64,
    ended: bool,
}

/// A place under which a site was seen: the site, the scheme, host and port.
pub type SeenAt = (SiteName, &'static str, Box<str>);

impl Home {
    /// Takes the directory, which is made if it is not there. `boot` is a number for this start of the machine.
    ///
    /// # Errors
    /// When it is not ours alone.
    pub fn take(path: &Path, boot: u64) -> Result<(Self, Found), HomeError> {
        let failed = |what| move |source| HomeError::Io { what, path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the directory"))?;
        let about = fs::metadata(path).map_err(failed("look at"))?;
        if about.uid() != geteuid().as_raw() {
            return Err(HomeError::Owner { path: path.to_owned(), owner: about.uid() });
        }
        if about.mode() & 0o077 != 0 {
            return Err(HomeError::Exposed { path: path.to_owned(), mode: about.mode() & 0o7777 });
        }
        let lock = private().create(true).truncate(false).open(path.join("lock")).map_err(failed("lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(HomeError::InUse { path: path.to_owned() });
        }
        let state = fs::read(path.join("state")).ok();
        let (before, found) = judge(state.as_deref(), boot);
        let run = before.map_or(1, |state| state.run.wrapping_add(1).max(1));
        let home = Self { path: path.to_owned(), boot, run, _lock: lock };
        if let Found::Empty(_) = found {
            home.clear().map_err(failed("empty"))?;
        }
        home.write_state(false).map_err(failed("write the state of"))?;
        Ok((home, found))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of this start of the machine.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The first sequence of this run: later than all of earlier ones.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        u64::from(self.run) << 32
    }

    /// Removes everything but the lock; what says that the rest can be used goes first.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self) -> io::Result<()> {
        gone(fs::remove_file(self.path.join("state")))?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let ours = entry.path().extension().is_some_and(|end| end == "seg" || end == "purges" || end == "new");
            if ours || entry.file_name() == "places" {
                gone(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    /// The numbers of the segments that are there, the newest first.
    ///
    /// # Errors
    /// What the system says.
    pub fn segments(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(segment::number(&entry?.path()));
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.dedup();
        Ok(found)
    }

    /// Says that everything is on the disk, so that it can be used after another start of the machine, too.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        self.write_state(true)?;
        File::open(self.path.join("state"))?.sync_all()?;
        File::open(&self.path)?.sync_all()
    }

    fn write_state(&self, ended: bool) -> io::Result<()> {
        self.replace("state", State { run: self.run, boot: self.boot, ended }.text().as_bytes())
    }

    /// The places in the file; `None` if it cannot be trusted.
    #[must_use]
    pub fn places(&self) -> Option<Vec<SeenAt>> {
        match fs::read(self.path.join("places")) {
            Ok(bytes) => read_places(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Writes the places down.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_places(&self, places: &[SeenAt]) -> io::Result<()> {
        self.replace("places", write_places(places).as_bytes())
    }

    /// A file is replaced as a whole or not at all.
    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{name}.new"));
        private().create(true).truncate(true).open(&new)?.write_all(contents)?;
        fs::rename(new, self.path.join(name))
    }
}

/// How files are opened: for our user's eyes only.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether what was left behind can be used. A process that was killed leaves all it has written with the kernel; a machine
/// that went down has lost what was not synced, and purges may be among it.
fn judge(state: Option<&[u8]>, boot: u64) -> (Option<State>, Found) {
    let Some(bytes) = state else { return (None, Found::Empty(None)) };
    match State::read(bytes) {
        None => (None, Found::Empty(Some("it is of another version, or damaged"))),
        Some(state) if state.boot != boot && !state.ended => {
            (Some(state), Found::Empty(Some("the machine went down before tidegate had ended")))
        }
        Some(state) => (Some(state), Found::Usable),
    }
}

impl State {
    fn text(self) -> String {
        let Self { run, boot, ended } = self;
        let text = format!("tidegate cache {VERSION}\nrun {run}\nboot {boot:016x}\nended {}\n", u8::from(ended));
        format!("{text}sum {:08x}\n", record::sum([text.as_bytes()]))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let text = summed(bytes)?;
        let mut lines = text.lines();
        (lines.next()? == format!("tidegate cache {VERSION}")).then_some(())?;
        let run = lines.next()?.strip_prefix("run ")?.parse().ok()?;
        let boot = u64::from_str_radix(lines.next()?.strip_prefix("boot ")?, 16).ok()?;
        let ended = lines.next()? == "ended 1";
        Some(Self { run, boot, ended })
    }
}

/// A text without the line of its checksum, if that fits.
fn summed(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (said, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
    (sum == format!("{:08x}", record::sum([said.as_bytes()]))).then_some(said)
}

fn write_places(places: &[SeenAt]) -> String {
    let mut text = String::new();
    for (site, scheme, authority) in places {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{site} {scheme} {authority}");
    }
    let sum = record::sum([text.as_bytes()]);
    let _ = writeln!(text, "sum {sum:08x}");
    text
}

fn read_places(bytes: &[u8]) -> Option<Vec<SeenAt>> {
    summed(bytes)?.lines().map(read_place).collect()
}

fn read_place(line: &str) -> Option<SeenAt> {
    let mut words = line.split(' ');
    let (site, scheme, authority) = (words.next()?, words.next()?, words.next()?);
    let scheme = match scheme {
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    words.next().is_none().then_some((SiteName::parse(site).ok()?, scheme, authority.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_left_behind_is_used_only_if_no_purge_can_be_missing_from_it() {
        let state = |boot, ended| State { run: 7, boot, ended }.text().into_bytes();
        for (left, usable) in [
            (Some(state(1, false)), true),
            (Some(state(1, true)), true),
            (Some(state(2, true)), true),
            (Some(state(2, false)), false),
            (Some(b"tidegate cache 999\nrun 1\n".to_vec()), false),
            (Some(Vec::new()), false),
            (None, false),
        ] {
            assert_eq!(judge(left.as_deref(), 1).1 == Found::Usable, usable, "{left:?}");
        }
    }

    #[test]
    fn a_directory_belongs_to_one_process_and_is_nobody_elses_business() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let (home, found) = Home::take(&path, 1).unwrap();
        assert_eq!(found, Found::Empty(None));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("state")).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(Home::take(&path, 1), Err(HomeError::InUse { .. })));
        let first = home.sequence();
        fs::write(path.join("00000001.seg"), "x").unwrap();
        drop(home);
        let (home, found) = Home::take(&path, 1).unwrap();
        assert_eq!((found, home.segments().unwrap()), (Found::Usable, vec![1]));
        assert!(home.sequence() > first);
        drop(home);
        let (home, found) = Home::take(&path, 2).unwrap();
        assert!(matches!(found, Found::Empty(Some(_))));
        assert!(home.segments().unwrap().is_empty() && home.sequence() > first);
        drop(home);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let told = Home::take(&path, 2).unwrap_err().to_string();
        assert!(told.contains("chmod 0700"), "{told}");
    }

    proptest! {
        #[test]
        fn places_are_read_back_or_seen_to_be_damaged(at in 0_usize..200, bit in 0_u8..8) {
            let site = SiteName::parse("www.example.org").unwrap();
            let places =
                vec![(site.clone(), "http", "www.example.org".into()), (site, "https", "www.example.org:8443".into())];
            let mut bytes = write_places(&places).into_bytes();
            prop_assert_eq!(read_places(&bytes), Some(places));
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(read_places(&bytes), None);
            prop_assert_eq!(read_places(&bytes[..at]), None);
        }
    }
}
