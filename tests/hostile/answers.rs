//! Hostile origins: `answers.toml`.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::client::Client;
use crate::client::Reply;
use crate::edge::Change;
use crate::edge::Edge;
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
#[expect(clippy::struct_excessive_bools, reason = "the table's words, each true or not")]
struct Rule {
    rfc: String,
    say: String,
    #[serde(default)]
    then: After,
    status: Vec<u16>,
    #[serde(default = "yes")]
    whole: bool,
    #[serde(default)]
    stored: bool,
    #[serde(default)]
    either_stored: bool,
    #[serde(default)]
    kept: bool,
    #[serde(default)]
    fields: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    lacks: Vec<String>,
    #[serde(default)]
    has: Vec<String>,
    cases: Vec<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum After {
    #[default]
    Keep,
    Close,
    Reset,
}

fn yes() -> bool {
    true
}

fn get() -> String {
    "GET".to_owned()
}

const OK: &str = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\n";

struct Case<'t> {
    rule: &'t Rule,
    text: &'t str,
    path: String,
}

impl Case<'_> {
    fn complaint(&self, what: &str) -> String {
        let case: String = self.text.chars().take(120).collect();
        format!("{what}\n    case: {case:?}\n    {}", self.rule.rfc)
    }
}

#[test]
fn hostile_answers_are_refused_or_made_harmless_and_never_stored() {
    let file: Table = toml::from_str(include_str!("answers.toml")).expect("a good table");
    let mut cases = Vec::new();
    let mut said = BTreeMap::new();
    for rule in &file.rule {
        for text in &rule.cases {
            let path = format!("/answer{}", cases.len());
            let say = table::bytes(&table::expand(&rule.say, text, &[("ok", OK)]));
            let then = match rule.then {
                After::Keep => Then::Keep,
                After::Close => Then::Close,
                After::Reset => Then::Reset,
            };
            said.insert(path.clone(), (say, then));
            cases.push(Case { rule, text, path });
        }
    }
    assert!(cases.len() >= 150, "{}", cases.len());
    let honest = (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest".to_vec(), Then::Keep);
    let origin = Recorder::new(move |seen| said.get(seen.target()).unwrap_or(&honest).clone());
    let edge = Edge::with(
        &[origin.address],
        &Change {
            upstream: "threads = 32\ntimeout = { first_byte = \"1s\", between_bytes = \"1s\" }",
            ..Default::default()
        },
    );
    let place = edge.place(false);
    let mut wrong = table::judge_all(&cases, |case| judge(place, case).map(|what| case.complaint(&what)));
    let seen = origin.seen();
    for case in cases.iter().filter(|case| !case.rule.kept) {
        for (at, one) in seen.iter().enumerate().filter(|(_, one)| one.target() == case.path) {
            let next = seen[at + 1..].iter().find(|later| later.connection == one.connection);
            if let Some(next) = next {
                let what = format!("its connection was used again, for {}", next.target());
                wrong.push(case.complaint(&what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(place: SocketAddr, case: &Case<'_>) -> Option<String> {
    let rule = case.rule;
    let first = ask(place, &rule.method, &case.path, &rule.fields);
    if !rule.status.contains(&first.status) {
        return Some(format!("{} where {:?} is right: {:?}", first.status, rule.status, first.head));
    }
    let whole = first.whole && first.status == 200 && !rule.whole;
    if whole || (rule.whole && !first.whole) {
        return Some(format!("whole: {}, body {:?}", first.whole, first.text()));
    }
    let head = first.head.to_lowercase();
    if let Some(lacks) = rule.lacks.iter().find(|lacks| head.contains(lacks.as_str())) {
        return Some(format!("the visitor sees {lacks:?}: {head:?}"));
    }
    if let Some(has) = rule.has.iter().find(|has| !head.contains(has.as_str())) {
        return Some(format!("the visitor misses {has:?}: {head:?}"));
    }
    let second = ask(place, "GET", &case.path, "");
    if second.is_hit() != rule.stored && !rule.either_stored {
        return Some(format!("answered from the cache: {}: {:?}", second.is_hit(), second.head));
    }
    if first.text().contains("poison") || second.text().contains("poison") {
        return Some("an answer that nobody asked for was given to a visitor".to_owned());
    }
    let honest = ask(place, "GET", "/honest", "");
    if (honest.status, honest.text().as_str()) != (200, "honest") {
        return Some(format!("the next request was answered {} {:?}", honest.status, honest.text()));
    }
    None
}

fn ask(place: SocketAddr, method: &str, path: &str, fields: &str) -> Reply {
    let mut client = Client::to(place);
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: www.example.org\r\n{fields}\r\n"));
    // A body that breaks off at once may take its head with it.
    let Some(mut reply) = client.head_if_any() else {
        return Reply { status: 0, head: String::new(), body: Vec::new(), whole: false };
    };
    if method == "HEAD" {
        reply.whole = true;
        return reply;
    }
    client.rest(reply)
}
