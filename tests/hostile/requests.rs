//! Hostile requests over HTTP/1.1: `requests.toml`.

use serde::Deserialize;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::DEADLINE;
use crate::recorder::Recorder;
use crate::recorder::Then;
use crate::table;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rule: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    rfc: String,
    send: String,
    status: Vec<u16>,
    closes: Option<bool>,
    #[serde(default)]
    reaches: bool,
    #[serde(default)]
    half: bool,
    #[serde(default)]
    origin_has: Vec<String>,
    #[serde(default)]
    origin_lacks: Vec<String>,
    cases: Vec<String>,
}

struct Case<'t> {
    rule: &'t Rule,
    text: &'t str,
    id: String,
    sent: String,
}

impl Case<'_> {
    /// What must be said about its outcome, if anything.
    fn complaint(&self, what: &str) -> String {
        let sent: String = self.sent.chars().take(160).collect();
        format!("{what}\n    sent: {sent:?}\n    {}", self.rule.rfc)
    }

    fn words(&self, text: &str) -> String {
        table::expand(text, self.text, &[("id", &self.id)])
    }
}

const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n";

#[test]
fn hostile_requests_are_refused_or_made_harmless() {
    let file: Table = toml::from_str(include_str!("requests.toml")).expect("a good table");
    let mut cases = Vec::new();
    for rule in &file.rule {
        for text in &rule.cases {
            let id = format!("case{}", cases.len());
            let sent = table::expand(&rule.send, text, &[("id", &id)]);
            cases.push(Case { rule, text, id, sent });
        }
    }
    assert!(cases.len() >= 300, "{}", cases.len());
    let origin = Recorder::new(|_| (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Then::Keep));
    let edge = Edge::with(
        &[origin.address],
        &Change {
            site: "zope = \"/\"\nbody = \"1MiB\"",
            limits: "body_idle = \"1s\"\nfirst_byte = \"1s\"\nhead = \"1s\"\nidle = \"1s\"",
            upstream: "threads = 32",
            ..Default::default()
        },
    );
    let place = edge.place(false);
    let mut wrong = table::judge_all(&cases, |case| judge(place, case).map(|what| case.complaint(&what)));
    // Paths may be spelled in many ways, but each case has a number.
    for seen in origin.seen() {
        if seen.target().ends_with("/canary") {
            continue;
        }
        let expected = cases.iter().find(|case| case.rule.reaches && names(seen.target(), &case.id));
        let Some(case) = expected else {
            wrong.push(format!("this has reached the origin: {:?}", seen.head));
            continue;
        };
        let head = seen.head.to_lowercase();
        for has in case.rule.origin_has.iter().map(|text| case.words(text)) {
            if !head.contains(&has.to_lowercase()) {
                wrong.push(case.complaint(&format!("the origin misses {has:?}: {:?}", seen.head)));
            }
        }
        for lacks in case.rule.origin_lacks.iter().map(|text| case.words(text)) {
            if head.contains(&lacks.to_lowercase()) {
                wrong.push(case.complaint(&format!("the origin sees {lacks:?}: {:?}", seen.head)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(edge.get("/alive").status, 200);
}

fn names(target: &str, id: &str) -> bool {
    target.split(['/', '?']).any(|segment| segment == id)
}

fn judge(place: SocketAddr, case: &Case<'_>) -> Option<String> {
    let told = converse(place, case);
    let answers = answers(&told, case.sent.starts_with("HEAD"));
    let first = answers.first().copied().unwrap_or(0);
    if !case.rule.status.contains(&first) {
        let begin = String::from_utf8_lossy(&told[..told.len().min(100)]).into_owned();
        return Some(format!("{first} where {:?} is right: {begin:?}", case.rule.status));
    }
    match case.rule.closes {
        Some(true) if answers.len() > 1 => Some(format!("what follows it was answered: {answers:?}")),
        Some(false) if answers.get(1) != Some(&200) || answers.len() != 2 => {
            Some(format!("the honest request behind it was not answered: {answers:?}"))
        }
        None if answers.len() > 2 => Some(format!("{} answers to two requests", answers.len())),
        _ => None,
    }
}

/// Sends the case and the canary, and reads until the connection is closed.
fn converse(place: SocketAddr, case: &Case<'_>) -> Vec<u8> {
    let mut stream = TcpStream::connect(place).expect("tidegate takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
    let mut bytes = table::bytes(&case.sent);
    if !case.rule.half {
        bytes.extend_from_slice(CANARY.as_bytes());
    }
    // Who is refused early may find the connection closed while still sending.
    let _ = stream.write_all(&bytes);
    if case.rule.half {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    told
}

/// The statuses of the final answers in `told`.
fn answers(mut told: &[u8], head_only: bool) -> Vec<u16> {
    let mut statuses = Vec::new();
    while let Some(end) = told.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&told[..end]).to_lowercase();
        told = &told[end + 4..];
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(999);
        if !head.starts_with("http/1.") || status == 999 {
            statuses.push(999);
            return statuses;
        }
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let skip = if matches!(status, 204 | 304) || (head_only && statuses.is_empty()) { 0 } else { length };
        told = told.get(skip..).unwrap_or_default();
        statuses.push(status);
    }
    statuses
}
