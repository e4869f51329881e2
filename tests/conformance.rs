//! tidegate under the public suite for HTTP caches, `http-cache-tests`, in two configurations: as shipped, and as a general cache
//! whose origin is believed. What is passed must be what is written in `tests/conformance/expected.toml`, no less and no more.
//!
//! Not part of the ordinary run, for it needs node and fetches the suite from npm: `cargo test --test conformance -- --ignored
//! --nocapture`, half a minute. What it taught is in `tests/semantics`, which takes a second. How others fare:
//! `cargo bench --bench conformance`.

#[path = "proxy/client.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod client;
#[path = "proxy/edge.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod edge;
#[path = "proxy/origin.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod origin;
#[path = "conformance/suite.rs"]
mod suite;

use std::collections::BTreeSet;
use std::thread;

use self::edge::Change;
use self::edge::Edge;
use self::suite::Expected;
use self::suite::Kind;
use self::suite::Passed;
use self::suite::Suite;

/// What differs from what is expected.
fn differences(suite: &Suite, passed: &Passed, missed: &BTreeSet<&str>, yes: &BTreeSet<String>) -> Vec<String> {
    let expected = |test: &suite::Test| match test.kind {
        Kind::Check => yes.contains(&test.id),
        Kind::Required | Kind::Optimal => !missed.contains(test.id.as_str()),
    };
    let wrong = suite.tests.iter().filter(|test| passed.has(test) != expected(test));
    let told = wrong.map(|test| {
        let now = if passed.has(test) { "is passed now" } else { "is not passed any more" };
        format!("{}: {:?} {} {now}", passed.name, test.kind, test.id)
    });
    told.collect()
}

#[test]
#[ignore = "needs node, fetches the suite from npm: cargo test --test conformance -- --ignored --nocapture"]
fn the_public_suite_for_caches_says_what_is_expected() -> anyhow::Result<()> {
    let expected = Expected::read()?;
    let suite = Suite::start()?;
    let plain = |cache| Change {
        site: "preset = \"plain\"\ndefault = true",
        upstream: "threads = 64",
        limits: "per_client = 1000",
        cache,
        ..Change::default()
    };
    let believing =
        "trust_origin = true\nheuristic = \"24h\"\nhide_s_maxage = false\nclient_cache_control = \"honour\"";
    let edges = [("as shipped", ""), ("believing", believing)]
        .map(|(name, cache)| (name, Edge::with(&[suite.origin], &plain(cache))));
    let passed: Vec<Passed> = thread::scope(|scope| {
        let runs = edges.each_ref().map(|(name, edge)| scope.spawn(|| suite.run(name, edge.place(false))));
        runs.into_iter().map(|run| run.join().expect("no panic")).collect::<anyhow::Result<_>>()
    })?;
    println!("{}", suite.table(&passed, &expected));
    let wrong = [
        differences(&suite, &passed[0], &expected.not_passed(|_| true), &expected.yes.as_shipped),
        differences(&suite, &passed[1], &expected.not_passed(|reason| !reason.as_shipped), &expected.yes.believing),
    ]
    .concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
