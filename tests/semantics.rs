//! What the RFCs say of caches, sentence by sentence: `tests/semantics/*.toml`, each case played by a client and a scripted
//! origin with the running tidegate between them. Nothing waits: responses come with the age that they shall have.
//!
//! `cargo test --test semantics -- --nocapture` prints the score.

#[path = "proxy/client.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod client;
#[path = "proxy/edge.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod edge;
#[path = "proxy/origin.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs")]
mod origin;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;

use self::client::Client;
use self::client::Reply;
use self::edge::Change;
use self::edge::Edge;
use self::origin::Asked;
use self::origin::Origin;
use self::origin::Then;
use self::origin::write;

/// One file: a chapter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chapter {
    sentence: Vec<Sentence>,
}

/// A sentence of a standard, or of ours, and its cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sentence {
    says: String,
    case: Vec<Case>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    is: String,
    /// What a public conformance suite makes of it, if it has such a case.
    kind: Option<Kind>,
    /// Why we do otherwise; the steps then say what we do.
    deviation: Option<String>,
    /// The configuration: as shipped, or for an origin that is believed.
    #[serde(default)]
    with: With,
    /// One case for each, with its words in the places of `$1`, `$2` ...; `$0` is the first part of the case's path.
    #[serde(default)]
    each: Vec<Vec<String>>,
    step: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Required,
    Optimal,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum With {
    /// What we ship.
    #[default]
    Defaults,
    /// An origin that is believed, and a client whose wishes are minded.
    Trust,
}

/// A request, what the origin says if it is asked, and what the client must see.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    method: String,
    /// Behind the case's own path.
    path: String,
    asks: Vec<String>,
    body: Option<String>,
    /// The origin's answer; "0" is none: it hangs up.
    status: String,
    says: Vec<String>,
    /// Sent before the answer.
    before: String,
    content: Option<String>,
    from: From,
    /// The client's side.
    sees: Option<String>,
    gets: Vec<String>,
    lacks: Vec<String>,
    reads: Option<String>,
    /// The origin's side.
    hears: Vec<String>,
    misses: Vec<String>,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            method: "GET".into(),
            path: String::new(),
            asks: Vec::new(),
            body: None,
            status: "200".into(),
            says: Vec::new(),
            before: String::new(),
            content: None,
            from: From::Any,
            sees: None,
            gets: Vec::new(),
            lacks: Vec::new(),
            reads: None,
            hears: Vec::new(),
            misses: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum From {
    /// Not looked at.
    #[default]
    Any,
    /// From what was stored in an earlier step.
    Cache,
    /// From the origin, now.
    Origin,
    /// Stored earlier, and the origin said now that it is still good.
    Validated,
}

/// What the origin does for one case now.
#[derive(Default)]
struct Plan {
    step: Step,
    content: String,
    asked: Vec<Asked>,
}

type Plans = Arc<Mutex<HashMap<String, Plan>>>;

/// The part of a target that names the case.
fn case_of(target: &str) -> String {
    target.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default().to_owned()
}

fn play(plans: &Plans, asked: &Asked, stream: &mut TcpStream) -> Then {
    let answer = {
        let mut plans = plans.lock().expect("no panic");
        let plan = plans.entry(case_of(asked.target())).or_default();
        plan.asked.push(asked.clone());
        if plan.step.status == "0" {
            return Then::Close;
        }
        let conditional = asked.field("if-none-match").is_some() || asked.field("if-modified-since").is_some();
        let mut head = plan.step.before.clone();
        let bodiless = if plan.step.from == From::Validated && conditional {
            head.push_str("HTTP/1.1 304 Not Modified\r\n");
            true
        } else {
            write!(head, "HTTP/1.1 {} Said\r\n", plan.step.status).expect("text");
            matches!(plan.step.status.as_str(), "204" | "304")
        };
        for line in &plan.step.says {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if bodiless {
            format!("{head}\r\n")
        } else if asked.head.starts_with("HEAD ") {
            format!("{head}Content-Length: {}\r\n\r\n", plan.content.len())
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{}", plan.content.len(), plan.content)
        }
    };
    write(stream, answer.as_bytes());
    Then::Keep
}

/// `{+60}` and `{-60}` are dates, so many seconds from now.
fn dated(text: &str, now: SystemTime) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("{+").or_else(|| rest.find("{-")) {
        let end = at + rest[at..].find('}').expect("a date ends");
        let seconds: i64 = rest[at + 1..end].parse().expect("seconds");
        let shift = Duration::from_secs(seconds.unsigned_abs());
        let when = if seconds < 0 { now - shift } else { now + shift };
        out.push_str(&rest[..at]);
        out.push_str(&httpdate::fmt_http_date(when));
        rest = &rest[end + 1..];
    }
    out + rest
}

impl Step {
    /// With the words of `each` and with dates.
    fn filled(&self, id: &str, words: &[String], now: SystemTime) -> Self {
        let fill = |text: &String| {
            let mut text = text.clone();
            for (at, word) in words.iter().enumerate().rev() {
                text = text.replace(&format!("${}", at + 1), word);
            }
            dated(&text.replace("$0", id), now)
        };
        let all = |lines: &[String]| lines.iter().map(fill).collect();
        Self {
            method: fill(&self.method),
            path: fill(&self.path),
            status: fill(&self.status),
            sees: self.sees.as_ref().map(fill),
            asks: all(&self.asks),
            says: all(&self.says),
            before: fill(&self.before),
            gets: all(&self.gets),
            lacks: all(&self.lacks),
            hears: all(&self.hears),
            misses: all(&self.misses),
            content: self.content.as_ref().map(fill),
            reads: self.reads.as_ref().map(fill),
            ..self.clone()
        }
    }

    fn request(&self, path: &str) -> String {
        let mut text = format!("{} {path} HTTP/1.1\r\nHost: www.example.org\r\n", self.method);
        for line in &self.asks {
            text.push_str(line);
            text.push_str("\r\n");
        }
        if let Some(body) = &self.body {
            write!(text, "Content-Length: {}\r\n\r\n{body}", body.len()).expect("text");
        } else {
            text.push_str("\r\n");
        }
        text
    }
}

/// Whether a head has a line; `Name: >N` wants a number of at least N.
fn has(head: &str, wanted: &str) -> bool {
    let (name, value) = wanted.split_once(':').expect("a field");
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let least: Option<u64> = value.trim().strip_prefix('>').and_then(|number| number.parse().ok());
    lines.any(|(found, got)| {
        let got = got.trim();
        let same = least.map_or(got == value.trim(), |least| got.parse::<u64>().is_ok_and(|got| got >= least));
        found.eq_ignore_ascii_case(name) && same
    })
}

fn lacks(head: &str, name: &str) -> bool {
    match name.split_once(':') {
        Some(_) => !has(head, name),
        None => !head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .any(|(found, _)| found.eq_ignore_ascii_case(name)),
    }
}

/// What is wrong with an answer.
fn faults(step: &Step, content: &str, reply: &Reply, asked: &[Asked]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut want = |good: bool, what: String| {
        if !good {
            wrong.push(what);
        }
    };
    let body = reply.text();
    let shows_now = body.contains(content) && !content.is_empty();
    match step.from {
        From::Any => {}
        From::Cache => want(reply.is_hit() && !shows_now, "is not from the cache".into()),
        From::Origin => want(!reply.is_hit() && !asked.is_empty(), "is not from the origin".into()),
        From::Validated => {
            let conditional =
                |asked: &Asked| asked.field("if-none-match").is_some() || asked.field("if-modified-since").is_some();
            want(asked.iter().any(conditional) && !shows_now, "is not validated".into());
        }
    }
    let said = if step.from == From::Origin { step.status.as_str() } else { "200" };
    let status = step.sees.as_deref().unwrap_or(said);
    if step.from != From::Any || step.sees.is_some() {
        want(reply.status.to_string() == status, format!("has status {} instead of {status}", reply.status));
    }
    for line in &step.gets {
        want(has(&reply.head, line), format!("lacks `{line}`"));
    }
    for name in &step.lacks {
        want(lacks(&reply.head, name), format!("has `{name}`"));
    }
    if let Some(text) = &step.reads {
        want(body == *text, format!("reads `{body}` instead of `{text}`"));
    }
    let heard = asked.last().map_or("", |asked| asked.head.as_str());
    for line in &step.hears {
        // A part that was asked for may have the whole fetched besides.
        want(asked.iter().any(|asked| has(&asked.head, line)), format!("the origin does not hear `{line}`"));
    }
    for name in &step.misses {
        want(lacks(heard, name), format!("the origin hears `{name}`"));
    }
    if !wrong.is_empty() {
        wrong.push(format!("answer:\n{}{body}\norigin heard:\n{heard}", reply.head));
    }
    wrong
}

fn run(client: &mut Client, plans: &Plans, id: &str, case: &Case, words: &[String]) -> Result<(), String> {
    let now = SystemTime::now();
    for (at, step) in case.step.iter().enumerate() {
        let step = step.filled(id, words, now);
        let content = step.content.clone().unwrap_or_else(|| format!("{id} says this at step {at}"));
        let plan = Plan { step: step.clone(), content: content.clone(), asked: Vec::new() };
        plans.lock().expect("no panic").insert(id.to_owned(), plan);
        client.send(step.request(&format!("/{id}{}", step.path)));
        let reply = if step.method == "HEAD" { client.head() } else { client.reply() };
        let asked = plans.lock().expect("no panic").get(id).map(|plan| plan.asked.clone()).unwrap_or_default();
        let wrong = faults(&step, &content, &reply, &asked);
        if !wrong.is_empty() {
            return Err(format!("step {at} {}", wrong.join("; ")));
        }
    }
    Ok(())
}

/// How many cases of a kind there are, and how many are kept in each configuration.
#[derive(Default)]
struct Score {
    all: usize,
    kept: [usize; 2],
}

fn chapters() -> Vec<(String, Chapter)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/semantics");
    let mut files: Vec<_> = fs::read_dir(root).expect("the tables").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(path).expect("a table");
        let chapter = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, chapter)
    };
    files.iter().map(read).collect()
}

fn show(scores: &BTreeMap<(String, Kind), Score>) {
    println!("{:<12} {:<9} {:>5} {:>10} {:>10}", "chapter", "kind", "cases", "as shipped", "believing");
    for kind in [Kind::Required, Kind::Optimal] {
        let mut together = Score::default();
        let row = |name: &str, score: &Score| {
            println!("{name:<12} {kind:<9?} {:>5} {:>10} {:>10}", score.all, score.kept[0], score.kept[1]);
        };
        for ((chapter, _), score) in scores.iter().filter(|((_, of), _)| *of == kind) {
            row(chapter, score);
            together.all += score.all;
            for at in 0..2 {
                together.kept[at] += score.kept[at];
            }
        }
        row("together", &together);
    }
}

#[test]
fn every_sentence_is_kept() {
    let plans = Plans::default();
    let of_origin = Arc::clone(&plans);
    let origin = Origin::new(move |asked, stream| play(&of_origin, asked, stream));
    let trusting = "heuristic = \"24h\"\ntrust_origin = true\nhide_s_maxage = false\nclient_cache_control = \"honour\"";
    let edges = [
        Edge::with(&[origin.address], &Change::default()),
        Edge::with(&[origin.address], &Change { cache: trusting, site: "preset = \"plain\"", ..Change::default() }),
    ];
    let mut failed = Vec::new();
    let mut scores: BTreeMap<(String, Kind), Score> = BTreeMap::new();
    let mut count = 0;
    for (chapter, Chapter { sentence }) in chapters() {
        for Sentence { says, case } in sentence {
            assert!(!says.is_empty(), "{chapter}: a sentence is quoted");
            for case in case {
                let each = if case.each.is_empty() { vec![Vec::new()] } else { case.each.clone() };
                for words in each {
                    count += 1;
                    for (at, with) in [With::Defaults, With::Trust].into_iter().enumerate() {
                        // What is scored is played in both configurations; it has to be kept in the one it is about.
                        if with != case.with && case.kind.is_none() {
                            continue;
                        }
                        let id = format!("{chapter}-{count}-{at}");
                        let outcome = run(&mut edges[at].client(), &plans, &id, &case, &words);
                        if let Some(kind) = case.kind {
                            let score = scores.entry((chapter.clone(), kind)).or_default();
                            score.all += usize::from(with == case.with);
                            score.kept[at] += usize::from(outcome.is_ok() && case.deviation.is_none());
                        }
                        let must = with == case.with || case.with == With::Defaults;
                        if let (Err(wrong), true) = (outcome, must) {
                            failed.push(format!("{chapter}: {} {words:?}\n  {says}\n  {wrong}", case.is));
                        }
                    }
                }
            }
        }
    }
    show(&scores);
    println!("{count} cases");
    assert!(failed.is_empty(), "{} of {count} cases fail:\n\n{}", failed.len(), failed.join("\n\n"));
    assert!(count > 200, "the tables were not found: {count} cases");
}
