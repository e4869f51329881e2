//! The command line: verbs, their options, their help.

mod pair;
mod verdict;

use crate::app;
use crate::app::App;
use crate::clock;
use crate::config;
use crate::config::Config;
use crate::config::reference;
use crate::config::values;
use crate::config::values::Switchable;
use crate::config::values::UpstreamRef;
use crate::control::admin::percent_encode;
use crate::control::client;
use crate::control::status;
use crate::edge::explain;
use crate::edge::explain::Wish;
use crate::snapshot;
use crate::snapshot::Choices;
use crate::snapshot::House;
use crate::telemetry::chain;
use crate::telemetry::log;
use crate::telemetry::log::Verbosity;
use crate::telemetry::metrics::Metrics;
use crate::units::OriginAddr;
use crate::verify;
use crate::verify::Begin;
use crate::zodb::Tid;
use crate::zodb::check::Mark;
use clap::Parser;
use clap::Subcommand;
use http::Method;
use http::StatusCode;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A caching, failover-aware edge for Zope and Plone sites.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve. Signals: HUP re-reads the file, USR1 reopens the logs, TERM and INT drain and stop.
    #[command(after_help = "Examples:\n  tidegate run --config /etc/tidegate/tidegate.toml\n  \
                            tidegate run --upstream 127.0.0.1:8080 --listen 127.0.0.1:8000")]
    Run(RunArgs),
    /// Read a configuration file, report everything that is wrong with it, and say what it means.
    ///
    /// Files that it names, such as certificates, are read as well, by the rights of whoever asks.
    ///
    /// Exit status: 0 good, 1 errors, 2 the file cannot be read, 3 good, but not on this machine: something that it names
    /// cannot be used.
    Check {
        /// The file.
        file: PathBuf,
        /// Print the whole configuration with every default filled in.
        #[arg(long)]
        expanded: bool,
    },
    /// Show what a running tidegate is doing.
    ///
    /// Below each endpoint stand the requests that have held one of its threads for longer than `check.stuck`, the longest
    /// five.
    ///
    /// Exit status: 0 ready, 1 running but not ready, 2 not reachable.
    #[command(after_help = "Examples:\n  tidegate status\n  tidegate status --requests\n  \
                            tidegate status --requests --json | jq '.upstreams[].endpoints[].requests[]'")]
    Status {
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
        /// Show every request that holds a thread or waits for one, the longest first, a hundred of each endpoint and line.
        #[arg(long)]
        requests: bool,
        /// Print the JSON as it comes.
        #[arg(long)]
        json: bool,
    },
    /// Let another set of an upstream serve, atomically; requests under way on the old set finish there.
    Use {
        /// The upstream's name.
        upstream: String,
        /// The set's name.
        set: String,
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Take an endpoint out of service: it finishes what it has and gets nothing new. Outlives reloads, not restarts.
    Drain(EndpointArgs),
    /// Put a drained endpoint back into service.
    Undrain(EndpointArgs),
    /// Send nothing to an upstream for a while, as when its storage is restarted: requests wait (`queue.hold`), what is
    /// stored is served stale.
    Hold(UpstreamArgs),
    /// End a hold: who waits is served, no faster than the threads allow. What its storage serves then is accepted once, also
    /// if it has lost transactions (`storage_lag`).
    Release(UpstreamArgs),
    /// Forget stored responses: of one URL, below a path, by pattern or tag, of a site, or all.
    #[command(after_help = "Examples:\n  tidegate purge https://www.example.org/news\n  \
                            tidegate purge --prefix /news --site www.example.org\n  \
                            tidegate purge --glob '/news/**/*.png'\n  tidegate purge --tag 2f1c9e --soft\n  \
                            tidegate purge all")]
    Purge(PurgeArgs),
    /// The storage pair: who serves, and orders to it.
    #[command(subcommand)]
    Pair(pair::PairVerb),
    /// Kill what the heartbeat says when it does not say otherwise in time. Started by the heartbeat itself.
    #[command(hide = true)]
    Guard,
    /// Say how a request is answered, or would be, and why: site, rule, key, what is stored, how fresh it is.
    ///
    /// Asks the running tidegate; with --config a file instead, of which nothing is stored yet. It sends nothing to an
    /// upstream and is not counted.
    #[command(after_help = "Examples:\n  tidegate explain https://www.example.org/news -H 'Accept-Language: de'\n  \
                            curl -sI http://127.0.0.1:8080/Plone/news > head.txt\n  \
                            tidegate explain --config tidegate.toml --answer head.txt https://www.example.org/news")]
    Explain(ExplainArgs),
    /// Re-read the configuration file, as the signal HUP does, and report what came of it.
    Reload {
        /// Which running tidegate.
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Check a Data.fs, in use or not: its transactions, its records and where they point.
    ///
    /// A last transaction that is being written or was never finished is reported and is no fault: ZODB cuts it off when it
    /// opens the file. Pickles are not looked into.
    ///
    /// Exit status: 0 good, 1 damaged, 2 the file cannot be opened.
    #[command(after_help = "Examples:\n  tidegate verify /srv/zeo/Data.fs\n  \
                            tidegate verify /srv/zeo/Data.fs --tail 1000 --json")]
    Verify(VerifyArgs),
}

/// What to verify.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The file.
    pub file: PathBuf,
    /// Only the last N transactions.
    #[arg(long, value_name = "N", conflicts_with = "after")]
    pub tail: Option<u64>,
    /// Only what follows an earlier verification: the `end` and `last_tid` that it printed.
    #[arg(long, value_name = "END:TID", value_parser = parse_mark)]
    pub after: Option<Mark>,
    /// An unfinished transaction at the end is a fault too: for a file that nobody writes, such as a backup.
    #[arg(long)]
    pub strict: bool,
    /// Print the verdict as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_mark(text: &str) -> Result<Mark, String> {
    let read = |(end, tid): (&str, &str)| Some(Mark { position: end.parse().ok()?, tid: Tid::parse(tid)? });
    text.split_once(':').and_then(read).ok_or_else(|| {
        format!(
            "`{text}` is no place in a file; write its position and its transaction, such as 204741:0x040d34aad271fb55"
        )
    })
}

/// Which endpoint.
#[derive(Debug, clap::Args)]
pub struct EndpointArgs {
    /// The upstream's name.
    pub upstream: String,
    /// The endpoint as its configuration names it, HOST:PORT.
    pub endpoint: String,
    /// Which running tidegate.
    #[command(flatten)]
    pub socket: SocketArg,
}

impl EndpointArgs {
    fn order(&self, verb: &str) -> ExitCode {
        let (upstream, endpoint) = (percent_encode(&self.upstream), percent_encode(&self.endpoint));
        order(&self.socket, &format!("/{verb}?upstream={upstream}&endpoint={endpoint}"))
    }
}

/// Which upstream.
#[derive(Debug, clap::Args)]
pub struct UpstreamArgs {
    /// The upstream's name.
    pub upstream: String,
    /// Which running tidegate.
    #[command(flatten)]
    pub socket: SocketArg,
}

impl UpstreamArgs {
    fn order(&self, verb: &str) -> ExitCode {
        order(&self.socket, &format!("/{verb}?upstream={}", percent_encode(&self.upstream)))
    }
}

/// What to forget.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct PurgeArgs {
    /// A URL as visitors write it (<https://www.example.org/news>), a path as Zope or visitors write it, a pattern, a tag,
    /// or the word `all`. In Plone all spellings of a URL (`/news/`, `/news/view`) and all queries are meant.
    #[arg(required_unless_present_any = ["site"])]
    pub what: Option<String>,
    /// It is a URL or path: what lies at or below it.
    #[arg(long, group = "kind")]
    pub prefix: bool,
    /// It is a pattern of paths: `*` within a segment, `**` for anything.
    #[arg(long, group = "kind")]
    pub glob: bool,
    /// It is a regular expression for path and query.
    #[arg(long, group = "kind")]
    pub regex: bool,
    /// It is a tag, such as the UID of an object, or several.
    #[arg(long, group = "kind")]
    pub tag: bool,
    /// Only of the site of this host; without anything else, all of that site.
    #[arg(long, value_name = "HOST")]
    pub site: Option<String>,
    /// Make it stale instead: it is asked for again when somebody wants it, and served if the upstream fails.
    #[arg(long)]
    pub soft: bool,
    /// Make it go, even if `cache.purge_soft` is set.
    #[arg(long, conflicts_with = "soft")]
    pub hard: bool,
    /// Which running tidegate.
    #[command(flatten)]
    pub socket: SocketArg,
}

impl PurgeArgs {
    fn order(&self) -> ExitCode {
        let kind = match &self.what {
            None => "site",
            Some(_) if self.prefix => "prefix",
            Some(_) if self.glob => "glob",
            Some(_) if self.regex => "regex",
            Some(_) if self.tag => "tag",
            Some(what) if what == "all" => "all",
            Some(_) => "url",
        };
        let what = percent_encode(self.what.as_deref().unwrap_or_default());
        let mut target = format!("/purge?kind={kind}&what={what}");
        if let Some(site) = &self.site {
            let _ = write!(target, "&site={}", percent_encode(site));
        }
        if self.soft || self.hard {
            target.push_str(if self.soft { "&mode=soft" } else { "&mode=hard" });
        }
        order(&self.socket, &target)
    }
}

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The URL as visitors write it.
    pub url: String,
    /// A header line of the request, such as 'Accept-Language: de'; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "LINE")]
    pub header: Vec<String>,
    /// Its method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// The address it comes from.
    #[arg(long, value_name = "ADDR")]
    pub client: Option<String>,
    /// A file with the head of an answer, as `curl -i` shows it: would it be stored?
    #[arg(long, value_name = "FILE")]
    pub answer: Option<PathBuf>,
    /// Ask this file instead of a running tidegate.
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Which running tidegate.
    #[command(flatten)]
    pub socket: SocketArg,
}

impl ExplainArgs {
    fn explain(&self) -> ExitCode {
        let answer = match self.answer.as_ref().map(std::fs::read_to_string).transpose() {
            // The body does not matter.
            Ok(text) => {
                text.map(|text| text.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"))
            }
            Err(error) => {
                let path = self.answer.as_deref().unwrap_or(Path::new(""));
                return fail(&format!("read {}: {error}", path.display()), 2);
            }
        };
        match &self.config {
            Some(file) => self.offline(file, answer),
            None => self.ask(answer.as_deref()),
        }
    }

    fn offline(&self, file: &Path, answer: Option<String>) -> ExitCode {
        let loaded = match config::load(file) {
            Ok(loaded) => loaded,
            Err(report) => return fail(&report.to_string(), if report.is_unreadable() { 2 } else { 1 }),
        };
        let wish = Wish {
            url: self.url.clone(),
            method: Some(self.method.clone()),
            headers: self.header.clone(),
            client: self.client.clone(),
            answer,
        };
        let told = House::offline().and_then(|house| {
            let compiled = snapshot::compile(loaded.config.without_certificates(), &house)
                .map_err(|problems| problems.join("\nerror: "))?;
            let snapshot = compiled.put_in_force(&Choices::default(), &house);
            explain::explain(&house.cache, &snapshot, &wish, clock::now())
        });
        match told {
            Ok(told) => {
                say(&if self.json { format!("{}\n", told.json()) } else { told.text() });
                ExitCode::SUCCESS
            }
            Err(why) => fail(&why, 1),
        }
    }

    fn ask(&self, answer: Option<&str>) -> ExitCode {
        let mut target = format!("/explain?url={}&method={}", percent_encode(&self.url), percent_encode(&self.method));
        let client = self.client.as_deref().map(|client| ("client", client));
        let answer = answer.map(|answer| ("answer", answer));
        let json = self.json.then_some(("form", "json"));
        let headers = self.header.iter().map(|line| ("header", line.as_str()));
        for (name, value) in headers.chain(client).chain(answer).chain(json) {
            let _ = write!(target, "&{name}={}", percent_encode(value));
        }
        match ask(&self.socket, Method::GET, &target) {
            Ok((StatusCode::OK, told)) => {
                say(&if self.json { format!("{told}\n") } else { told });
                ExitCode::SUCCESS
            }
            Ok((_, why)) => fail(why.trim_end(), 1),
            Err(error) => fail(&error, 2),
        }
    }
}

/// How to run.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", group = "source", conflicts_with = "listen")]
    pub config: Option<PathBuf>,
    /// A Zope process; may be given several times. No file is needed then: one site for every host name, safe defaults.
    #[arg(long, value_name = "HOST:PORT", group = "source", value_parser = OriginAddr::parse)]
    pub upstream: Vec<OriginAddr>,
    /// Where to listen when there is no file.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8000", value_parser = values::parse_addr)]
    pub listen: SocketAddr,
    /// Where the admin socket shall be when there is no file; without it there is none.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub admin_socket: Option<PathBuf>,
}

/// Which running tidegate to speak to.
#[derive(Debug, clap::Args)]
pub struct SocketArg {
    /// The admin socket of the running tidegate (`admin.socket` in its configuration).
    #[arg(long, value_name = "PATH", default_value = "/run/tidegate/admin.sock")]
    pub socket: PathBuf,
}

/// How long the end of the process waits for somebody to read the last lines of the diary.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Does what the command line says.
#[must_use]
pub fn main(cli: Cli) -> ExitCode {
    match cli.verb {
        Verb::Run(args) => run(args),
        Verb::Check { file, expanded } => check(&file, expanded),
        Verb::Status { socket, requests, json } => show_status(&socket, requests, json),
        Verb::Use { upstream, set, socket } => {
            let target = format!("/use?upstream={}&set={}", percent_encode(&upstream), percent_encode(&set));
            order(&socket, &target)
        }
        Verb::Drain(which) => which.order("drain"),
        Verb::Undrain(which) => which.order("undrain"),
        Verb::Hold(which) => which.order("hold"),
        Verb::Release(which) => which.order("release"),
        Verb::Purge(args) => args.order(),
        Verb::Pair(verb) => pair::main(verb),
        Verb::Guard => match app::guard() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("guard: {error}"), 1),
        },
        Verb::Explain(args) => args.explain(),
        Verb::Reload { socket } => order(&socket, "/reload"),
        Verb::Verify(args) => verify(&args),
    }
}

fn verify(args: &VerifyArgs) -> ExitCode {
    let begin = match (args.after, args.tail) {
        (Some(mark), _) => Begin::After(mark),
        (None, Some(count)) => Begin::Last(count),
        (None, None) => Begin::Start,
    };
    let result = verify::verify(&args.file, begin);
    let told = verdict::report(&args.file, &result, args.strict);
    if args.json {
        say(&format!("{:#}\n", told.json));
    } else if told.code == 0 {
        say(&told.words);
    } else {
        eprint!("{}", told.words);
    }
    ExitCode::from(told.code)
}

fn run(args: RunArgs) -> ExitCode {
    let app = if let Some(path) = args.config {
        App::from_file(path)
    } else {
        let mut config = Config::for_upstream(args.upstream, args.listen);
        if let Some(path) = args.admin_socket {
            config.admin.socket = Switchable::On(path);
        }
        Ok(App::from_config(config))
    };
    let started = app.and_then(App::into_service).and_then(|app| {
        let metrics = Metrics::new();
        let diary = open_diary(app.config(), &metrics)?;
        crate::edge::descriptors::raise();
        let ended = app.run(metrics, |_| {});
        diary.flush(LAST_LINES);
        ended
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

fn open_diary(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<log::Diary> {
    let format = match config.log.format {
        values::LogFormat::Text => log::LogFormat::Text,
        values::LogFormat::Json => log::LogFormat::Json,
    };
    let verbosity = match config.log.level {
        values::LogLevel::Error => Verbosity::Error,
        values::LogLevel::Warn => Verbosity::Warn,
        values::LogLevel::Info => Verbosity::Info,
        values::LogLevel::Debug => Verbosity::Debug,
    };
    let diary = log::Diary::open(verbosity, format, clock::mono)?;
    log::count_panics(metrics, Some(diary.clone()));
    metrics.watch_diary(&diary);
    Ok(diary)
}

fn check(file: &Path, expanded: bool) -> ExitCode {
    match config::load(file) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("{warning}");
            }
            let lacking = app::lacking(&loaded.config);
            for problem in &lacking {
                eprintln!("on this machine: {problem}");
            }
            if expanded {
                say(&reference::expanded(&loaded.config));
            } else {
                let verdict =
                    if lacking.is_empty() { "good" } else { "good in itself, but this machine lacks what it needs" };
                say(&format!("{}: {verdict}\n{}", file.display(), summary(&loaded.config)));
            }
            if lacking.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) }
        }
        Err(report) => fail(&report.to_string(), if report.is_unreadable() { 2 } else { 1 }),
    }
}

/// What the file means, in a few lines.
fn summary(config: &Config) -> String {
    let mut text = String::new();
    for listen in config.listens() {
        let scheme = if listen.tls { "https" } else { "http" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "listens on {scheme}://{}", listen.addr);
    }
    for (name, site) in &config.site {
        let upstream = match &site.upstream {
            Some(UpstreamRef::Name(name)) => name.to_string(),
            Some(UpstreamRef::Inline(endpoints)) => {
                endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            None => String::new(),
        };
        let root = site.zope.as_ref().map_or_else(String::new, |root| format!(", in the ZODB at {root}"));
        let default = if site.default { ", for every other host too" } else { "" };
        let pages = site.frontend.as_ref().map_or_else(String::new, |frontend| format!(", pages by {frontend}"));
        let _ = writeln!(text, "site {name}{default}: answered by {upstream}{root}{pages}");
    }
    for (name, upstream) in &config.upstream {
        for (set, endpoints) in upstream.sets() {
            let serves = if upstream.active_set().as_ref() == Some(&set) { " (serves)" } else { "" };
            let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            let _ = writeln!(
                text,
                "upstream {name}, set {set}{serves}: {}, {} requests each",
                list.join(", "),
                upstream.threads
            );
        }
    }
    if let Some(node) = &config.heartbeat.node {
        let names =
            |labels: &[values::NodeLabel]| labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (members, witnesses) = (names(&config.heartbeat.members), names(&config.heartbeat.witnesses));
        let _ = writeln!(text, "pair: this is {node}; members {members}; witnesses {witnesses}");
    }
    text.push_str("all settings: tidegate check --expanded FILE\n");
    text
}

fn show_status(socket: &SocketArg, requests: bool, json: bool) -> ExitCode {
    let target = if requests { "/status?requests=all" } else { "/status" };
    let answer = match ask(socket, Method::GET, target) {
        Ok((StatusCode::OK, answer)) => answer,
        Ok((_, answer)) => return fail(answer.trim_end(), 2),
        Err(error) => return fail(&error, 2),
    };
    let status: serde_json::Value = match serde_json::from_str(&answer) {
        Ok(status) => status,
        Err(error) => return fail(&format!("the answer is no JSON: {error}"), 2),
    };
    say(&if json { format!("{answer}\n") } else { status::words(&status) });
    if status["ready"] == true { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn order(socket: &SocketArg, target: &str) -> ExitCode {
    match ask(socket, Method::POST, target) {
        Ok((StatusCode::OK, answer)) => {
            say(&answer);
            ExitCode::SUCCESS
        }
        Ok((_, answer)) => fail(answer.trim_end(), 1),
        Err(error) => fail(&error, 2),
    }
}

fn ask(socket: &SocketArg, method: Method, target: &str) -> Result<(StatusCode, String), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    runtime.block_on(client::ask(&socket.socket, method, target)).map_err(|error| chain(&error))
}

/// Prints to standard output; a reader that has gone (`| head`) is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!(
        "{}",
        if text.starts_with("error") || text.starts_with("warning") {
            text.to_owned()
        } else {
            format!("error: {text}")
        }
    );
    ExitCode::from(code)
}
