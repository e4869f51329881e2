//! Which settings are read at the start only, and which of these a new file changes. Pure.
//!
//! A reload puts the others in force; an operator is told by name what waits for the next start.

use crate::config::Config;
use crate::config::decode::Setting;
use crate::config::decode::join;
use std::collections::BTreeMap;
use toml::Value;

/// Keys, and tables with all that is in them, that a reload does not put in force. Their documentation says so.
const AT_START: &[&str] = &[
    "server.user",
    "server.group",
    "server.workers",
    "cache.memory",
    "cache.disk",
    "cache.disk_size",
    "cache.variants",
    "heartbeat",
    "admin",
    "log",
];

/// The keys with another value in `now` than in `started` that nothing will come of before the next start.
#[must_use]
pub fn waiting(started: &Config, now: &Config) -> Vec<String> {
    let (before, after) = (leaves(started), leaves(now));
    let changed = before.iter().filter(|(key, value)| after.get(*key) != Some(value)).map(|(key, _)| key);
    let new = after.keys().filter(|key| !before.contains_key(*key));
    let mut keys: Vec<String> = changed.chain(new).filter(|key| is_read_at_start(key)).cloned().collect();
    keys.sort_unstable();
    keys
}

fn is_read_at_start(key: &str) -> bool {
    AT_START
        .iter()
        .any(|at_start| key.strip_prefix(at_start).is_some_and(|below| below.is_empty() || below.starts_with('.')))
}

/// All values that are no tables, by their paths.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    if let Some(value) = config.show() {
        gather(value, String::new(), &mut leaves);
    }
    leaves
}

fn gather(value: Value, path: String, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                gather(value, join(&path, &key), leaves);
            }
        }
        value => {
            leaves.insert(path, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::decode::Below;
    use crate::config::decode::Field;
    use crate::config::decode::Table;
    use std::collections::BTreeSet;

    fn file(lines: &str) -> Config {
        let text = format!("version = 1\n[site.a]\nupstream = [\"127.0.0.1:1\"]\n{lines}\n");
        config::parse("tidegate.toml", &text).unwrap_or_else(|report| panic!("{report}")).config
    }

    #[test]
    fn what_a_reload_cannot_put_in_force_is_named() {
        let started = file("[cache]\nmemory = \"64MiB\"\n[log]\naccess = \"off\"");
        assert!(waiting(&started, &started).is_empty());
        let other = file(
            "[cache]\nmemory = \"65MiB\"\nstatus = false\n[admin]\nlisten = [\"127.0.0.1:2\"]\n[limit.x]\nrate = \"1/s\"",
        );
        assert_eq!(waiting(&started, &other), ["admin.listen", "cache.memory", "log.access"]);
        let disk = file("[cache]\nmemory = \"64MiB\"\ndisk = \"/var/cache/tidegate\"\n[log]\naccess = \"off\"");
        assert_eq!(waiting(&started, &disk), ["cache.disk"], "it was not there");
        assert_eq!(waiting(&disk, &started), ["cache.disk"], "it is not there any more");
    }

    #[test]
    fn the_reference_says_of_each_such_key_and_of_no_other_that_it_is_read_at_the_start_only() {
        let mut said = BTreeSet::new();
        gather_said(&Config::fields(), "", &mut said);
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        let mut known = AT_START.to_vec();
        known.sort_unstable();
        assert_eq!(said, known);
    }

    fn gather_said(fields: &[Field], path: &str, said: &mut BTreeSet<String>) {
        for field in fields {
            let path = join(path, field.name);
            let words = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
            if words.contains("Read at the start only.") {
                said.insert(path);
            } else if let Some(Below::Table(below) | Below::Named(below) | Below::Listed(below)) = &field.below {
                gather_said(below, &path, said);
            }
        }
    }
}
