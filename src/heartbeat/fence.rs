//! Making sure that a node is off, by devices that can prove it: fence agents, cluster-glue's `external/*` plug-ins, programs of
//! one's own.
//!
//! A node is off only if the device said so afterwards: an `off` that reports success and a `status` that still says `on` is a
//! failure. Devices of one level must all succeed (two power supplies); the machine tries level after level. Passwords are
//! read from files when they are needed, go through standard input or the environment, and are never logged.

use crate::clock;
use crate::heartbeat::command::Ended;
use crate::heartbeat::command::Order;
use crate::heartbeat::command::Ran;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// A device that can put a node's power off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The protocol that its program speaks.
    pub kind: Kind,
    /// The program; for `exec` with its arguments.
    pub argv: Vec<String>,
    /// What the program is told, beside what to do with whom.
    pub options: Vec<(String, String)>,
    /// The file that holds the password; it is given as the option `password` (`passwd` for `external`).
    pub password_file: Option<PathBuf>,
    /// The node's name to the device: a plug, an outlet, a host.
    pub plug: String,
    /// Levels are tried in ascending order; devices of one level must all succeed.
    pub level: u32,
    /// For each call of the program.
    pub timeout: Duration,
}

/// The protocols of fencing programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// fence-agents: `key=value` lines on standard input.
    Agent,
    /// cluster-glue `external/*`: the verb as argument, options in the environment.
    External,
    /// A program with the verb as its last argument; exit codes as those of fence-agents.
    Exec,
}

/// What a program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Put the power off.
    Off,
    /// Tell whether it is on.
    Status,
}

/// What a device knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// The device could not be asked.
    Unreachable,
    /// The plug-in cannot tell on from off: it only says that the device answers.
    Answers,
}

impl Kind {
    /// Its word in configurations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::External => "external",
            Self::Exec => "exec",
        }
    }
}

impl Device {
    /// What is run for `verb`; `password` as read from its file.
    #[must_use]
    pub fn order(&self, verb: Verb, password: Option<&str>) -> Order {
        let word = match verb {
            Verb::Off => "off",
            Verb::Status => "status",
        };
        let mut order = Order::new(self.argv.iter().cloned());
        match self.kind {
            Kind::Agent => {
                let mut lines = BTreeMap::new();
                for (key, value) in &self.options {
                    lines.insert(key.as_str(), value.as_str());
                }
                lines.insert("action", word);
                // Newer agents know `plug`, older ones `port`; all ignore what they do not know.
                if !self.plug.is_empty() {
                    lines.insert("plug", &self.plug);
                    lines.insert("port", &self.plug);
                    lines.insert("nodename", &self.plug);
                }
                if let Some(password) = password {
                    lines.insert("password", password);
                    lines.insert("passwd", password);
                }
                for (key, value) in lines {
                    // Writing to a String cannot fail.
                    let _ = writeln!(order.stdin, "{key}={value}");
                }
            }
            Kind::External => {
                order.env.clone_from(&self.options);
                order.env.push(("hostlist".to_owned(), self.plug.clone()));
                if let Some(password) = password {
                    order.env.push(("passwd".to_owned(), password.to_owned()));
                }
                order.argv.push(word.to_owned());
                if verb == Verb::Off {
                    order.argv.push(self.plug.clone());
                }
            }
            Kind::Exec => {
                order.env.clone_from(&self.options);
                order.env.push(("TIDEGATE_PLUG".to_owned(), self.plug.clone()));
                if let Some(password) = password {
                    order.env.push(("TIDEGATE_PASSWORD".to_owned(), password.to_owned()));
                }
                order.argv.push(word.to_owned());
            }
        }
        order
    }

    /// What an exit code of `status` means.
    #[must_use]
    pub fn power(&self, ended: &Ended) -> Power {
        match (self.kind, ended) {
            (Kind::External, Ended::Exit(0)) => Power::Answers,
            (Kind::Agent | Kind::Exec, Ended::Exit(0)) => Power::On,
            (Kind::Agent | Kind::Exec, Ended::Exit(2)) => Power::Off,
            _ => Power::Unreachable,
        }
    }

    /// Asks the device about the node.
    pub async fn status(&self) -> (Power, String) {
        self.status_until(clock::boot() + self.timeout).await
    }

    async fn status_until(&self, due: Instant) -> (Power, String) {
        match self.run(Verb::Status, due).await {
            Ok(ran) => (self.power(&ran.ended), ran.words()),
            Err(why) => (Power::Unreachable, why),
        }
    }

    /// Puts the node off, and asks afterwards; of that nothing is begun after `due`, and nothing goes on.
    ///
    /// # Errors
    /// Why it is not known to be off.
    pub async fn off(&self, due: Instant) -> Result<(), String> {
        let ran = self.run(Verb::Off, due).await?;
        if ran.ended != Ended::Exit(0) {
            return Err(format!("{}: off: {}", self.name(), ran.words()));
        }
        let (power, words) = self.status_until(due).await;
        match power {
            // An external plug-in's `off` is verified by the plug-in itself; its status knows only the device.
            Power::Off | Power::Answers => Ok(()),
            Power::On => Err(format!("{}: off was reported as done, but the status is still on", self.name())),
            Power::Unreachable => Err(format!("{}: off was reported as done, but status: {words}", self.name())),
        }
    }

    async fn run(&self, verb: Verb, due: Instant) -> Result<Ran, String> {
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        let order = self.order(verb, password.as_deref());
        // The last look before it is too late to take it back: this node may have stood still.
        let left = due.saturating_duration_since(clock::boot());
        if left.is_zero() {
            return Err(format!("{}: its time was over before it could begin", self.name()));
        }
        let mut ran = order.run(self.timeout.min(left)).await;
        // An agent that complains may repeat what it was told.
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            ran.said = ran.said.replace(&password, "***");
        }
        for (key, value) in &self.options {
            if key.to_ascii_lowercase().contains("pass") && !value.is_empty() {
                ran.said = ran.said.replace(value.as_str(), "***");
            }
        }
        Ok(ran)
    }

    /// The program's name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        self.argv.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program))
    }
}

/// The levels of `devices`, in the order in which they are tried.
#[must_use]
pub fn levels(devices: &[Device]) -> Vec<Vec<Device>> {
    let mut levels: BTreeMap<u32, Vec<Device>> = BTreeMap::new();
    for device in devices {
        levels.entry(device.level).or_default().push(device.clone());
    }
    levels.into_values().collect()
}

/// The longest that a level takes.
#[must_use]
pub fn longest(level: &[Device]) -> Duration {
    // `off`, then `status`; a killed program may linger.
    level.iter().map(|device| device.timeout * 2 + LINGER).sum()
}

/// Puts a node off by all devices of a level, and does nothing to it after `due` (of [`clock::boot`]): by then the permit to shoot
/// may be another's, and the node the one that serves.
///
/// # Errors
/// Why it is not known to be off.
pub async fn off(level: &[Device], due: Instant) -> Result<(), String> {
    if level.is_empty() {
        return Err("there is no fence device".to_owned());
    }
    for device in level {
        device.off(due).await?;
    }
    Ok(())
}

fn read_password(path: &Path) -> Result<String, String> {
    let read = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    Ok(read.trim_end_matches(['\r', '\n']).to_owned())
}

/// A killed program may hold its pipes open for a moment.
const LINGER: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn script(dir: &TempDir, name: &str, text: &str) -> String {
        crate::heartbeat::command::script(dir.path(), name, text).display().to_string()
    }

    fn device(kind: Kind, program: String) -> Device {
        Device {
            kind,
            argv: vec![program],
            options: vec![("ip".to_owned(), "192.0.2.1".to_owned())],
            password_file: None,
            plug: "outlet7".to_owned(),
            level: 1,
            timeout: Duration::from_secs(20),
        }
    }

    fn soon() -> Instant {
        clock::boot() + Duration::from_secs(60)
    }

    #[test]
    fn an_agent_is_told_by_lines_and_its_status_codes_are_read() {
        let device = device(Kind::Agent, "fence_x".to_owned());
        let order = device.order(Verb::Off, Some("geheim"));
        assert_eq!(order.argv, ["fence_x"]);
        let lines: Vec<&str> = order.stdin.lines().collect();
        for line in ["action=off", "plug=outlet7", "port=outlet7", "ip=192.0.2.1", "password=geheim"] {
            assert!(lines.contains(&line), "{line} in {lines:?}");
        }
        for (ended, power) in [
            (Ended::Exit(0), Power::On),
            (Ended::Exit(2), Power::Off),
            (Ended::Exit(1), Power::Unreachable),
            (Ended::TimedOut, Power::Unreachable),
            (Ended::Signal(9), Power::Unreachable),
        ] {
            assert_eq!(device.power(&ended), power, "{ended:?}");
        }
    }

    #[test]
    fn an_external_plug_in_is_told_by_its_environment() {
        let order = device(Kind::External, "ipmi".to_owned()).order(Verb::Off, Some("geheim"));
        assert_eq!(order.argv, ["ipmi", "off", "outlet7"]);
        assert!(order.env.contains(&("passwd".to_owned(), "geheim".to_owned())));
        assert!(order.stdin.is_empty());
    }

    #[tokio::test]
    async fn off_counts_only_when_the_status_says_off_afterwards() {
        let dir = TempDir::new().unwrap();
        let state = dir.path().join("state");
        let honest = format!(
            "while read l; do case $l in action=*) a=${{l#action=}};; esac; done\n\
             if [ $a = off ]; then touch {0}; exit 0; fi\n[ -e {0} ] && exit 2; exit 0",
            state.display()
        );
        let honest = device(Kind::Agent, script(&dir, "fence_honest", &honest));
        assert_eq!(honest.status().await.0, Power::On);
        off(std::slice::from_ref(&honest), soon()).await.unwrap();
        assert_eq!(honest.status().await.0, Power::Off);

        let liar = device(Kind::Agent, script(&dir, "fence_liar", "cat >/dev/null; exit 0"));
        let told = off(&[liar], soon()).await.unwrap_err();
        assert!(told.contains("still on"), "{told}");
    }

    #[tokio::test]
    async fn a_node_is_not_shot_when_the_permit_may_be_anothers() {
        let dir = TempDir::new().unwrap();
        let shot = dir.path().join("shot");
        let text = format!("[ $1 = off ] && touch {}; sleep 100", shot.display());
        let slow = device(Kind::Exec, script(&dir, "slow", &text));
        let told = off(std::slice::from_ref(&slow), clock::boot()).await.unwrap_err();
        assert_eq!(told, "slow: its time was over before it could begin");
        assert!(!shot.exists(), "it was shot too late");
        // What has begun is broken off.
        let told = off(&[slow], clock::boot() + Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(told, "slow: off: timed out");
    }

    #[tokio::test]
    async fn a_level_needs_all_of_its_devices_and_levels_have_an_order() {
        let dir = TempDir::new().unwrap();
        let good =
            |level| Device { level, ..device(Kind::Exec, script(&dir, "good", "[ $1 = off ] && exit 0; exit 2")) };
        let bad = |level| Device { level, ..device(Kind::Exec, script(&dir, "bad", "echo no route; exit 1")) };
        let hangs =
            Device { timeout: Duration::from_millis(300), ..device(Kind::Exec, script(&dir, "hangs", "sleep 100")) };
        assert_eq!(levels(&[bad(2), good(1), bad(1)]), [vec![good(1), bad(1)], vec![bad(2)]]);
        off(&[good(1), good(1)], soon()).await.unwrap();
        assert_eq!(off(&[hangs], soon()).await.unwrap_err(), "hangs: off: timed out");
        assert_eq!(off(&[good(1), bad(1)], soon()).await.unwrap_err(), "bad: off: exit 1: no route");
        assert_eq!(off(&[], soon()).await.unwrap_err(), "there is no fence device");
    }

    #[tokio::test]
    async fn a_password_is_in_no_message() {
        let dir = TempDir::new().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "geheim\n").unwrap();
        let mut device = device(Kind::Agent, script(&dir, "fence_chatty", "cat; exit 1"));
        device.password_file = Some(password);
        device.options.push(("passwd2".to_owned(), "auch-geheim".to_owned()));
        let told = off(&[device], soon()).await.unwrap_err();
        assert!(told.contains("password=***") && !told.contains("geheim"), "{told}");
    }

    #[tokio::test]
    async fn a_missing_password_file_is_a_failure_and_names_the_file() {
        let mut device = device(Kind::Agent, "true".to_owned());
        device.password_file = Some("/no/such/file".into());
        assert!(off(&[device], soon()).await.unwrap_err().contains("/no/such/file"));
    }
}
