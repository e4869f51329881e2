//! The machine's watchdog: hardware (or softdog) that resets the machine when nobody feeds it. The last line behind a lease: it
//! bites even when this process, or the whole kernel, hangs.
//!
//! Fed after a renewal of the lease, and by nothing else. How long it waits is the driver's setting; without `unsafe` it cannot be
//! changed here, so it is read from sysfs and must be right.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Whether there must be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is not touched.
    Off,
    /// It is looked at and reported on, but never opened: opening arms it.
    Observe,
    /// This member does not take the active role without it.
    Required,
}

/// Why there is no watchdog.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The device.
    #[error("open the watchdog {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It would bite too late: a lease may be elsewhere by then.
    #[error("the watchdog waits {} s, which is longer than the {} s that `watchdog_max` allows; load its driver with a lower timeout", .waits.as_secs(), .allowed.as_secs())]
    Late {
        /// Its own time-out.
        waits: Duration,
        /// What is allowed.
        allowed: Duration,
    },
}

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
}

impl Watchdog {
    /// Arms the watchdog: from now on it must be fed. `timeout`: what [`timeout`] found.
    ///
    /// # Errors
    /// [`WatchdogError`].
    pub fn arm(path: &Path, timeout: Option<Duration>, allowed: Duration) -> Result<Self, WatchdogError> {
        if let Some(waits) = timeout.filter(|waits| *waits > allowed) {
            return Err(WatchdogError::Late { waits, allowed });
        }
        let wrong = |source| WatchdogError::Open { path: path.to_owned(), source };
        let file = File::options().write(true).open(path).map_err(wrong)?;
        Ok(Self { file })
    }

    /// Puts its clock back.
    ///
    /// # Errors
    /// What the system said.
    pub fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    /// Disarms it, where the driver allows that (`nowayout` off).
    ///
    /// # Errors
    /// What the system said.
    pub fn disarm(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }
}

/// How long the watchdog at `path` waits, as its driver says.
#[must_use]
pub fn timeout(path: &Path) -> Option<Duration> {
    let name = path.file_name()?.to_str()?;
    // /dev/watchdog is the first of them by its old name.
    let name = if name == "watchdog" { "watchdog0" } else { name };
    let text = fs::read_to_string(format!("/sys/class/watchdog/{name}/timeout")).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fed_by_bytes_and_let_go_by_the_magic_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        fs::write(&path, "").unwrap();
        let mut watchdog = Watchdog::arm(&path, None, Duration::from_secs(5)).unwrap();
        watchdog.feed().unwrap();
        watchdog.feed().unwrap();
        watchdog.disarm().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0\0V");
    }

    /// A stand-in that takes bytes as a driver does, each at once, and has no length: no kernel for tests has a softdog.
    #[test]
    fn a_device_hears_each_feeding_when_it_happens_and_an_end_that_is_none_of_ours_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        // Open at both ends, so that nobody waits for a reader.
        let mut device = File::options().read(true).write(true).open(&path).unwrap();
        let mut heard = [0; 8];
        let mut watchdog = Watchdog::arm(&path, None, Duration::from_secs(5)).unwrap();
        for _ in 0..3 {
            watchdog.feed().unwrap();
            assert_eq!(std::io::Read::read(&mut device, &mut heard).unwrap(), 1);
            assert_eq!(heard[0], 0);
        }
        // Dropped as in a crash: no magic byte, and the device will bite.
        drop(watchdog);
        device.write_all(b"end").unwrap();
        assert_eq!(std::io::Read::read(&mut device, &mut heard).unwrap(), 3);
    }

    #[test]
    fn one_that_bites_too_late_or_is_not_there_is_refused() {
        let late = Watchdog::arm(Path::new("/dev/null"), Some(Duration::from_secs(60)), Duration::from_secs(5));
        assert!(late.unwrap_err().to_string().starts_with("the watchdog waits 60 s"));
        let missing = Watchdog::arm(Path::new("/no/watchdog"), None, Duration::from_secs(5));
        assert_eq!(missing.unwrap_err().to_string(), "open the watchdog /no/watchdog");
    }
}
