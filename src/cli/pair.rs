//! `tidegate pair ...`: what operators see of the storage pair, and order.

use crate::cli::SocketArg;
use crate::cli::ask;
use crate::cli::fail;
use crate::cli::order;
use crate::cli::say;
use crate::clock;
use crate::config;
use crate::control::admin::percent_encode;
use crate::control::import;
use crate::control::pair;
use crate::control::status;
use clap::Subcommand;
use http::Method;
use http::StatusCode;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What to do with the pair.
#[derive(Debug, Subcommand)]
pub enum PairVerb {
    /// Who serves, how the links are, what would stand in the way of a takeover.
    ///
    /// Exit status: 0 a member serves, 1 none does, 2 not reachable.
    Status {
        /// Print the JSON as it comes.
        #[arg(long)]
        json: bool,
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Give the role to the other member, if that is ready. Ordered on the active member.
    Switchover(SocketArg),
    /// This member shall not have the role until `online`; if it has it, it gives it up.
    Standby(SocketArg),
    /// Takes `standby` back.
    Online(SocketArg),
    /// Nothing is done by itself in the whole pair while it is on.
    Maintenance {
        /// `on` or `off`.
        #[arg(value_parser = ["on", "off"])]
        what: String,
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// This member takes the role although nothing proves that the other one has stopped. You declare that it is off.
    ///
    /// If it is not, both will serve, and writes will be lost. Without --force nothing is ordered, and what is known of the other
    /// member is shown. Ordered on the member that shall serve; it needs no majority, but waits some seconds for the votes of voters
    /// that are not heard. The order is kept in pair.log beside the journal, with its time and who gave it.
    Takeover {
        /// Yes, the other member is off: I have looked.
        #[arg(long)]
        force: bool,
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// A voter whose journal was lost shall vote again: you declare that it holds no vote that matters, as in a new pair.
    TrustJournal(SocketArg),
    /// A real switchover, with its duration measured; refused when the other member is not ready.
    Drill(SocketArg),
    /// What would happen: the machines of a configuration on a clock of their own; nothing is touched.
    #[command(after_help = "Examples:\n  tidegate pair simulate --config pair.toml --kill active\n  \
                            tidegate pair simulate --config pair.toml --cut active:standby --kill edge-1")]
    Simulate {
        /// The configuration file of any of the voters.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// A node that is off: a name, `active` or `standby`.
        #[arg(long, value_name = "NODE")]
        kill: Vec<String>,
        /// A cut: `a:b` (all links between two), `a:b:2` (their second), `a>b` (one way), `a` (all links of a node).
        #[arg(long, value_name = "LINK")]
        cut: Vec<String>,
        /// A node whose storage ends.
        #[arg(long, value_name = "NODE")]
        storage: Option<String>,
        /// No fence device answers.
        #[arg(long)]
        fence_fails: bool,
    },
    /// What would keep a takeover from working: fence devices, watchdog, links, key, address.
    ///
    /// Exit status: 0 nothing, 1 something, 2 not reachable.
    Doctor(SocketArg),
    /// Print a section `heartbeat` made from heartbeat's `ha.cf` and `haresources`.
    Import {
        /// The file `ha.cf`.
        ha_cf: PathBuf,
        /// The file `haresources`.
        haresources: PathBuf,
    },
}

/// Does what the command line says.
pub fn main(verb: PairVerb) -> ExitCode {
    match verb {
        PairVerb::Status { json, socket } => show(&socket, json),
        PairVerb::Switchover(socket) => order(&socket, "/pair/switchover"),
        PairVerb::Standby(socket) => order(&socket, "/pair/standby"),
        PairVerb::Online(socket) => order(&socket, "/pair/online"),
        PairVerb::Maintenance { what, socket } => {
            order(&socket, &format!("/pair/maintenance?what={}", percent_encode(&what)))
        }
        PairVerb::Takeover { force: true, socket } => order(&socket, "/pair/takeover?force=yes"),
        PairVerb::Takeover { socket, .. } => ask_first(&socket),
        PairVerb::TrustJournal(socket) => order(&socket, "/pair/trust-journal"),
        PairVerb::Drill(socket) => drill(&socket),
        PairVerb::Simulate { config, kill, cut, storage, fence_fails } => {
            let told = config::load(&config).map_err(|report| report.to_string());
            match told.and_then(|loaded| pair::simulate(&loaded.config, kill, cut, storage, fence_fails)) {
                Ok(story) => {
                    say(&story);
                    ExitCode::SUCCESS
                }
                Err(why) => fail(&why, 1),
            }
        }
        PairVerb::Doctor(socket) => doctor(&socket),
        PairVerb::Import { ha_cf, haresources } => import_files(&ha_cf, &haresources),
    }
}

fn told(socket: &SocketArg, target: &str) -> Result<serde_json::Value, String> {
    match ask(socket, Method::GET, target)? {
        (StatusCode::OK, answer) => {
            serde_json::from_str(&answer).map_err(|error| format!("the answer is no JSON: {error}"))
        }
        (_, answer) => Err(answer.trim_end().to_owned()),
    }
}

fn show(socket: &SocketArg, json: bool) -> ExitCode {
    let status = match told(socket, "/pair") {
        Ok(status) => status,
        Err(error) => return fail(&error, 2),
    };
    say(&if json { format!("{status}\n") } else { status::pair_words(&status) });
    let serves = matches!(status["pair"]["phase"].as_str(), Some("steady" | "serving"));
    ExitCode::from(u8::from(!serves))
}

/// What whoever forces a takeover declares, and what is known about it.
fn ask_first(socket: &SocketArg) -> ExitCode {
    match told(socket, "/pair") {
        Ok(status) => fail(status::takeover_words(&status).trim_end(), 1),
        Err(error) => fail(&error, 2),
    }
}

fn doctor(socket: &SocketArg) -> ExitCode {
    let found = match told(socket, "/pair/doctor") {
        Ok(found) => found,
        Err(error) => return fail(&error, 2),
    };
    let mut bad = false;
    for finding in found.as_array().into_iter().flatten() {
        let good = finding["good"] == true;
        bad |= !good;
        let text = finding["text"].as_str().unwrap_or_default();
        say(&format!("{} {text}\n", if good { "good" } else { "BAD " }));
    }
    ExitCode::from(u8::from(bad))
}

/// Orders a switchover and watches until the pair is steady again, or long enough.
fn drill(socket: &SocketArg) -> ExitCode {
    let before = match told(socket, "/pair") {
        Ok(before) => before,
        Err(error) => return fail(&error, 2),
    };
    let epoch = |status: &serde_json::Value| status["pair"]["epoch"].as_u64().unwrap_or(0);
    if before["role"] != "active" {
        return fail("this member is not active; order the drill on the one that is", 1);
    }
    let began = clock::mono();
    match ask(socket, Method::POST, "/pair/switchover") {
        Ok((StatusCode::OK, _)) => {}
        Ok((_, why)) => return fail(why.trim_end(), 1),
        Err(error) => return fail(&error, 2),
    }
    while clock::mono() < began + DRILL_MAX {
        if let Ok(now) = told(socket, "/pair")
            && epoch(&now) > epoch(&before)
            && matches!(now["pair"]["phase"].as_str(), Some("steady" | "serving"))
        {
            let active = now["pair"]["active"].as_str().unwrap_or("?");
            let seconds = clock::mono().saturating_duration_since(began).as_secs_f64();
            say(&format!("{active} serves since {seconds:.2} s after the order (epoch {})\n", epoch(&now)));
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    fail("no member serves after 2 min: `tidegate pair status` on both says why", 1)
}

fn import_files(ha_cf: &Path, haresources: &Path) -> ExitCode {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let made = read(ha_cf).and_then(|ha_cf| Ok(import::toml(&ha_cf, &read(haresources)?)));
    match made {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why, 2),
    }
}

const DRILL_MAX: Duration = Duration::from_secs(120);
