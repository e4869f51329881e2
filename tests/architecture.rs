//! Guards the layers of the house: each module names only lower ones, and what belongs to one room stays there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Top-level modules and their layers; a module may name modules of lower layers, and of its own only itself.
const LAYERS: &[(&str, u8)] = &[
    ("units", 0),
    ("zodb", 0),
    ("clock", 1),
    ("verify", 1),
    ("privilege", 1),
    ("semantics", 1),
    ("service", 1),
    ("telemetry", 1),
    ("zeo", 1),
    ("zope", 2),
    ("cache", 2),
    ("upstream", 2),
    ("admission", 2),
    ("heartbeat", 2),
    ("tls", 2),
    ("heartbeat", 2),
    ("acme", 3),
    ("config", 3),
    ("snapshot", 4),
    ("edge", 5),
    ("control", 6),
    ("app", 7),
    ("cli", 8),
    ("main", 9),
    ("lib", 9),
];

/// Folders whose files must not do IO, read clocks, lock, log or wait.
const PURE: &[&str] = &["semantics", "zodb", "zope", "machine", "record", "seats"];

/// What gives away an impure file.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::io",
    "std::thread",
    "std::sync::Mutex",
    "Instant::now",
    "SystemTime::now",
    "crate::clock",
    "tokio::",
    "tracing::",
    "async fn",
    ".await",
];

/// Words that may stand only below the named places.
const ROOMS: &[(&str, &[&str])] = &[
    ("hyper::", &["acme/http.rs", "edge", "control/admin.rs", "control/client.rs"]),
    ("httparse::", &["semantics/wire.rs"]),
    ("moka::", &["cache/store.rs"]),
    ("governor::", &["admission/rate.rs"]),
    // A machine without one of its rules is for the tests alone.
    ("sabotaged(", &["heartbeat/machine.rs"]),
    ("rustls::", &["tls.rs", "acme", "upstream/connect.rs", "edge/worker.rs", "snapshot.rs", "telemetry/metrics"]),
    ("aws_lc_rs::hmac", &["heartbeat/machine/message.rs"]),
    ("instant_acme::", &["acme"]),
    ("rustix::thread", &["privilege.rs", "heartbeat"]),
    ("sd_notify::", &["service.rs"]),
    ("Instant::now()", &["clock.rs"]),
    ("SystemTime::now()", &["clock.rs"]),
    ("ArcSwap", &["snapshot.rs"]),
    (".snapshots.store(", &["control/publisher.rs"]),
    ("crate::heartbeat", &["heartbeat", "config/pair.rs", "control", "app.rs"]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    assert!(found.len() > 20, "the sources were not found");
    let relative = |path: &PathBuf| path.strip_prefix(&root).expect("below src").to_owned();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).expect("a source"))).collect()
}

/// The part of a source before its tests: tests may use what they like.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    production(text).lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

fn top(path: &Path) -> String {
    let first = path.components().next().expect("a file").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn every_module_names_only_lower_layers() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let own = top(path);
        let layer = *layers.get(own.as_str()).unwrap_or_else(|| panic!("{own} has no layer: add it to LAYERS"));
        for line in code_lines(text) {
            for named in line.split("crate::").skip(1) {
                let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(below) = layers.get(named.as_str()) else { continue };
                if named != own && *below >= layer {
                    wrong.push(format!("{} ({layer}) names {named} ({below}): {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_nothing_but_decide() {
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let parts: Vec<String> = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        if !parts.iter().any(|part| PURE.contains(&part.as_str())) {
            continue;
        }
        for line in code_lines(text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}: {word} in: {line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_belongs_to_one_room_stays_there() {
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let place = path.to_string_lossy();
        for (word, rooms) in ROOMS {
            if rooms.iter().any(|room| place.starts_with(room) || place.starts_with(room.trim_end_matches(".rs"))) {
                continue;
            }
            for line in code_lines(text).filter(|line| line.contains(word)) {
                wrong.push(format!("{place}: {word} in: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_source_has_a_mod_rs_and_long_files_are_named() {
    for (path, text) in sources() {
        assert!(!path.ends_with("mod.rs"), "{}: write name.rs beside name/", path.display());
        let lines = production(&text).lines().count();
        if lines > 500 && !is_test(&path) {
            eprintln!("warning: {} has {lines} lines; is it one room?", path.display());
        }
    }
}
