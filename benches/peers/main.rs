//! tidegate beside the servers that it replaces, on one machine, with one load: what a request costs each of them.
//!
//! `cargo bench --bench peers -- [scenario ...] [peer ...] [--seconds N] [--connections N] [--rounds N]`; without
//! scenarios or peers, all of them. Of several rounds the cheapest of each server counts: on some machines the same server is at times
//! a fifth dearer than at others, for minutes.
//! Needs wrk (304s have a driver of our own); each peer that is not installed is named and left out. Every server gets one worker, no access log, a
//! temporary directory and loopback addresses; it is started, warmed up, measured and ended before the next one starts.
//!
//! HAProxy is measured twice: as the bare relay that its shortest configuration makes of it, and doing to each request what tidegate does
//! to it unless told otherwise (`haproxy-alike`).
//!
//! The figure that survives a noisy machine is the CPU time of all the server's processes per request. Quote ratios from
//! one run, never absolutes. The floor is a bare hyper server that answers from memory and decides nothing; the relay is a bare
//! hyper server with a bare hyper client behind it, which passes everything on.

mod driver;
mod load;
mod machine;
mod origin;
mod peer;
mod relay;
mod report;

use load::Load;
use peer::PEERS;
use peer::Peer;
use report::Line;
use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is asked of each server.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    path: &'static str,
    /// With `If-None-Match` of what is stored.
    conditional: bool,
    /// The status that every answer must have.
    status: u16,
    /// Bytes of body that every answer must have.
    body: usize,
    /// Whether the origin must see next to nothing of it, or all.
    cached: bool,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "hit-1k", path: "/1k", conditional: false, status: 200, body: 1024, cached: true },
    Scenario { name: "hit-64k", path: "/64k", conditional: false, status: 200, body: 65536, cached: true },
    Scenario { name: "not-modified", path: "/1k", conditional: true, status: 304, body: 0, cached: true },
    Scenario { name: "pass-1k", path: "/pass", conditional: false, status: 200, body: 1024, cached: false },
];

/// What to do.
struct Plan {
    scenarios: Vec<&'static Scenario>,
    peers: Vec<&'static Peer>,
    load: Load,
    rounds: u32,
}

impl Plan {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut plan = Self {
            scenarios: Vec::new(),
            peers: Vec::new(),
            load: Load { connections: 64, warm_up: Duration::from_secs(2), measure: Duration::from_secs(10) },
            rounds: 1,
        };
        let mut words = words.iter().flat_map(|word| word.split(','));
        while let Some(word) = words.next() {
            if word == "--seconds" {
                let seconds =
                    words.next().and_then(|word| word.parse().ok()).filter(|seconds| (1..=600).contains(seconds));
                plan.load.measure = Duration::from_secs(seconds.ok_or("--seconds wants a number from 1 to 600")?);
            } else if word == "--connections" {
                let count = words.next().and_then(|word| word.parse().ok()).filter(|count| (1..=1000).contains(count));
                plan.load.connections = count.ok_or("--connections wants a number from 1 to 1000")?;
            } else if word == "--rounds" {
                let rounds = words.next().and_then(|word| word.parse().ok()).filter(|rounds| (1..=20).contains(rounds));
                plan.rounds = rounds.ok_or("--rounds wants a number from 1 to 20")?;
            } else if let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == word) {
                plan.scenarios.push(scenario);
            } else if let Some(peer) = PEERS.iter().find(|peer| peer.name == word) {
                plan.peers.push(peer);
            } else if !word.is_empty() {
                let scenarios: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
                let peers: Vec<_> = PEERS.iter().map(|peer| peer.name).collect();
                return Err(format!(
                    "`{word}` is neither a scenario ({}) nor a peer ({})",
                    scenarios.join(", "),
                    peers.join(", ")
                ));
            }
        }
        if plan.scenarios.is_empty() {
            plan.scenarios = SCENARIOS.iter().collect();
        }
        if plan.peers.is_empty() {
            plan.peers = PEERS.iter().collect();
        }
        Ok(plan)
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.as_slice() {
        [word, addr, ..] if word == origin::VERB => return addr.parse().map_or(ExitCode::FAILURE, origin::serve),
        [word, addr, behind] if word == relay::VERB => {
            let (Ok(addr), Ok(behind)) = (addr.parse(), behind.parse()) else { return ExitCode::FAILURE };
            return relay::serve(addr, behind);
        }
        _ => {}
    }
    if words.first().is_some_and(|word| word == driver::VERB) {
        return driver::main(&words);
    }
    // `cargo test --all-targets` runs benches too, without this word; minutes of load are not what it wants.
    let Some(at) = words.iter().position(|word| word == "--bench") else {
        eprintln!("peers: run it as `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    };
    let words: Vec<String> =
        words.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, w)| w.clone()).collect();
    match Plan::read(&words).and_then(|plan| compare(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("peers: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn compare(plan: &Plan) -> Result<(), String> {
    if !machine::installed("wrk") {
        return Err("wrk is not installed; nothing can be measured without it".to_owned());
    }
    let room = tempdir()?;
    println!("{}\n", machine::describe(&plan.peers));
    for scenario in &plan.scenarios {
        let mut lines: Vec<Line> = Vec::new();
        for round in 0..plan.rounds {
            for peer in plan.peers.iter().filter(|peer| !scenario.cached || !peer.only_passes()) {
                eprintln!("peers: {} {} ...", scenario.name, peer.name);
                let room = room.path().join(format!("{}-{}-{round}", peer.name, scenario.name));
                match measure(peer, scenario, plan, &room) {
                    Ok(line) => report::keep_cheaper(&mut lines, line),
                    Err(problem) => {
                        eprintln!("\npeers: *** {} LEFT OUT of {}: {problem} ***\n", peer.name, scenario.name);
                    }
                }
            }
        }
        println!("{}", report::table(scenario.name, &lines));
    }
    Ok(())
}

/// A directory that servers who give up root can enter too.
fn tempdir() -> Result<tempfile::TempDir, String> {
    use std::os::unix::fs::PermissionsExt;
    let room = tempfile::tempdir().map_err(|error| format!("make a temporary directory: {error}"))?;
    std::fs::set_permissions(room.path(), std::fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("open the temporary directory: {error}"))?;
    Ok(room)
}

fn measure(peer: &Peer, scenario: &Scenario, plan: &Plan, room: &Path) -> Result<Line, String> {
    std::fs::create_dir(room).map_err(|error| format!("make {}: {error}", room.display()))?;
    let origin_addr = machine::free_addr()?;
    let origin = origin::start(origin::VERB, origin_addr, None)?;
    let addr = machine::free_addr()?;
    let server = peer.start(addr, origin_addr, room)?;
    server.wait_until_it_serves(addr, scenario.path)?;
    let header = judge(scenario, addr)?;
    let url = format!("http://{addr}{}", scenario.path);
    plan.load.warm_up(&url, header.as_deref())?;
    let asked = origin::asked(origin_addr)?;
    let before = server.cpu()?;
    let result = plan.load.measure(&url, header.as_deref())?;
    let spent = server.cpu()?.saturating_sub(before);
    let asked = origin::asked(origin_addr)?.saturating_sub(asked);
    drop(server);
    drop(origin);
    let line = Line { peer: peer.name, spent, result, asked };
    line.check(scenario.cached && peer.keeps())?;
    Ok(line)
}

/// Asks thrice, so that what can be stored is stored, and looks whether the answers are what the scenario is about.
fn judge(scenario: &Scenario, addr: SocketAddr) -> Result<Option<String>, String> {
    let mut answer = machine::ask(addr, scenario.path, None)?;
    for _ in 0..2 {
        answer = machine::ask(addr, scenario.path, None)?;
    }
    let mut header = None;
    if scenario.conditional {
        let tag = answer.etag.clone().ok_or("its answer has no ETag")?;
        header = Some(format!("If-None-Match: {tag}"));
        answer = machine::ask(addr, scenario.path, header.as_deref())?;
    }
    if answer.status == scenario.status && answer.body == scenario.body {
        Ok(header)
    } else {
        let Scenario { status, body, .. } = scenario;
        Err(format!("it answers {} with {} bytes instead of {status} with {body}", answer.status, answer.body))
    }
}
