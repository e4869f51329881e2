//! What we build upon is what `deny.toml` allows: licences, sources, and crates that have no business here.
//!
//! cargo-deny reads the same file and more (`cargo deny check`); it takes longer to build than all of our tests to run, so what
//! can be told from the lock file alone is told here. Advisories need their database, and are checked where that can be had.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One crate that is built for us on this machine.
struct Crate {
    name: String,
    version: String,
    licence: String,
    /// Where it comes from, if not from the registry.
    elsewhere: Option<String>,
}

/// All of them, as cargo tells without asking anybody.
fn crates() -> Vec<Crate> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{l}|"]);
    let told = cargo.output().expect("cargo is there");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8(told.stdout).expect("text");
    // Each line is such as "serde v1.0.0|MIT OR Apache-2.0|", with "(*)" behind it when it was told before.
    let lines: BTreeSet<&str> = told.lines().filter_map(|line| line.rsplit_once('|').map(|(line, _)| line)).collect();
    let crates = lines.iter().map(|line| {
        let (crate_, licence) = line.split_once('|').expect("a licence");
        let mut words = crate_.split_whitespace();
        let (name, version) = (words.next().expect("a name"), words.next().expect("a version"));
        let elsewhere = words.find(|word| *word != "(proc-macro)").map(str::to_owned);
        Crate { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned(), elsewhere }
    });
    let crates: Vec<Crate> = crates.collect();
    assert!(crates.len() > 100, "only {} crates", crates.len());
    crates
}

fn rules() -> toml::Table {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).expect("deny.toml");
    text.parse().expect("TOML")
}

/// Whether a licence expression (SPDX, and the older `A/B`) can be met with licences that are `allowed`.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "+");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = both(words, allowed);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut &[&str], allowed: &[&str]) -> bool {
    let mut met = one(words, allowed);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first != "(" {
        return allowed.contains(&first.replace('+', " WITH ").as_str());
    }
    let met = either(words, allowed);
    let closed = words.first() == Some(&")");
    *words = words.get(1..).unwrap_or_default();
    met && closed
}

#[test]
fn every_licence_can_be_met_with_what_is_allowed() {
    let rules = rules();
    let allowed = rules["licenses"]["allow"].as_array().expect("a list");
    let allowed: Vec<&str> = allowed.iter().map(|one| one.as_str().expect("a licence")).collect();
    let wrong: Vec<String> = crates()
        .into_iter()
        .filter(|one| !is_met(&one.licence, &allowed))
        .map(|one| format!("{}: {}", one.name, one.licence))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_come_from_one_registry_and_none_is_one_that_we_do_without() {
    let rules = rules();
    let denied: Vec<&str> = rules["bans"]["deny"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["crate"].as_str().expect("a name"))
        .collect();
    assert!(denied.contains(&"openssl-sys"), "{denied:?}");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for one in crates() {
        if let Some(elsewhere) = one.elsewhere.filter(|_| one.name != env!("CARGO_PKG_NAME")) {
            wrong.push(format!("{} comes from {elsewhere}", one.name));
        }
        if denied.contains(&one.name.as_str()) {
            wrong.push(format!("{} is what we do without", one.name));
        }
        versions.entry(one.name).or_default().push(one.version);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        eprintln!("warning: {name} is here in the versions {}", versions.join(", "));
    }
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 / MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("MIT AND GPL-3.0 OR ISC", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0 WITH other", false),
        ("(MIT", false),
        ("MIT)", false),
        ("MIT MIT", false),
        ("", false),
    ] {
        assert_eq!(is_met(expression, &["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]), expected, "{expression}");
    }
}
