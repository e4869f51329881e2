//! What is explained is what happens; and what is one visitor's stays his.

use std::env;
use std::thread;
use std::time::Instant;

use tidegate::edge::explain::Explanation;
use tidegate::edge::explain::Wish;

use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::DEADLINE;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

/// Numbers that look random and can be had again: the seed is told when a test fails.
struct Dice(u64);

impl Dice {
    fn new(name: &str) -> Self {
        let seed = env::var(name).ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_0001);
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("it is small")
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const SITE: &str = "preset = \"plone-classic\"\nzope = \"/Plone\"\nverify = \"plone-etag\"";

const RULES: &str = "[[site.\"www.example.org\".rule]]\npath = [\"/never/**\"]\ncache = false\n\
                     [[site.\"www.example.org\".rule]]\npath = [\"/long/**\"]\nttl = \"1h\"\n\
                     [[site.\"www.example.org\".rule]]\npath = [\"/closed/**\"]\nallow = [\"192.0.2.0/24\"]\n\
                     [limit.scales]\nrate = \"off\"\n";

/// Answers by what the path says: a word of HTTP or of Plone.
fn by_path(asked: &crate::origin::Asked) -> String {
    let path = asked.target();
    let tag = "\"||7|en|Plone Default|0|1795426181.13\"";
    if asked.field("if-none-match").is_some_and(|known| known == tag || known == "\"v\"") {
        return format!(
            "HTTP/1.1 304 Not Modified\r\nETag: {}\r\n\r\n",
            asked.field("if-none-match").expect("it is there")
        );
    }
    let lines = match path {
        path if path.contains("fresh") => "Cache-Control: s-maxage=600\r\nVary: Accept-Language".to_owned(),
        path if path.contains("asked") => "Cache-Control: max-age=0\r\nETag: \"v\"".to_owned(),
        path if path.contains("page") => format!("Cache-Control: max-age=0, must-revalidate, private\r\nETag: {tag}"),
        path if path.contains("secret") => "Cache-Control: no-store".to_owned(),
        path if path.contains("cookie") => "Cache-Control: max-age=600\r\nSet-Cookie: a=b".to_owned(),
        _ => "X-Says: nothing".to_owned(),
    };
    format!("HTTP/1.1 200 OK\r\n{lines}\r\nContent-Length: 5\r\n\r\nhello")
}

/// The words of a Cache-Status that do not depend on what the origin then says.
fn words(status: &str) -> String {
    let kept = status.trim_start_matches("tidegate; ").split("; ");
    kept.filter(|word| word.starts_with("hit") || word.starts_with("fwd=") || word.starts_with("detail="))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The explanation, once what was fetched before has been stored.
fn settled(edge: &Edge, wish: &Wish) -> Explanation {
    let began = Instant::now();
    loop {
        let told = edge.publisher.explain(wish).expect("it is a request");
        if told.about("under way").is_none() || began.elapsed() > DEADLINE {
            return told;
        }
        thread::yield_now();
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let origin = Origin::new(|asked, stream| {
        write(stream, by_path(asked).as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { site: SITE, more: RULES, ..Change::default() });
    let mut client = edge.client();
    let mut dice = Dice::new("EXPLAIN_SEED");
    let seed = dice.0;
    let mut verdicts = std::collections::BTreeMap::new();
    for turn in 0..10_000 {
        let path = format!(
            "{}/{}{}",
            dice.pick(&["", "", "", "/never", "/long", "/closed"]),
            dice.pick(&["fresh", "asked", "page", "secret", "cookie", "nothing", "login"]),
            dice.pick(&["", "?b=1&a=2", "?a=2&b=1&utm_x=y", "/@@images/image/mini", "/_vh_x"]),
        );
        let method = dice.pick(&["GET", "GET", "GET", "GET", "HEAD", "POST"]);
        let lines: Vec<&str> = [
            dice.pick(&["", "", "Accept-Language: de", "Accept-Language: nl"]),
            dice.pick(&["", "", "", "Cookie: __ac=jane", "Cookie: _ga=1; x=y", "Authorization: Basic YTpi"]),
            dice.pick(&["", "", "Accept: application/json", "Accept: text/html"]),
            dice.pick(&[
                "",
                "",
                "",
                "Range: bytes=2-3",
                "If-Match: \"v\"",
                "If-None-Match: \"v\"",
                "Connection: X-Hidden",
            ]),
            dice.pick(&[
                "",
                "",
                "",
                "Cache-Control: no-cache",
                "Cache-Control: only-if-cached",
                "Cache-Control: no-store",
            ]),
        ]
        .into_iter()
        .filter(|line| !line.is_empty())
        .collect();
        let wish = Wish {
            url: format!("http://www.example.org{path}"),
            method: Some(method.to_owned()),
            headers: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..Wish::default()
        };
        let told = settled(&edge, &wish);
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let more = if lines.is_empty() { String::new() } else { format!("{}\r\n", lines.join("\r\n")) };
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: www.example.org\r\n{length}{more}\r\n"));
        let reply = if method == "HEAD" { client.head() } else { client.reply() };
        let verdict = told.about("verdict").expect("there is one");
        let happened = match reply.field("cache-status") {
            Some(status) => words(status),
            None => format!("refused: {}", reply.status),
        };
        let promised = if verdict.starts_with("refused") {
            verdict.split(' ').take(2).collect::<Vec<_>>().join(" ")
        } else {
            words(verdict)
        };
        // Why an answer is not stored it says only when it has come; from then on it is explained.
        let learnt = happened.strip_prefix(&*promised).and_then(|rest| rest.strip_prefix("; detail="));
        if let Some(why) = learnt.filter(|_| !promised.contains("detail=")) {
            let later = settled(&edge, &wish);
            let told = later.about("not stored").is_some_and(|told| told.starts_with(why));
            assert!(told, "turn {turn} of seed {seed}: {method} {path} {lines:?}: {why}\n{}", later.text());
        }
        let happened = if learnt.is_some() { promised.clone() } else { happened };
        assert_eq!(
            promised,
            happened,
            "turn {turn} of seed {seed}: {method} {path} {lines:?}\n{}\n{}",
            told.text(),
            reply.head
        );
        *verdicts.entry(promised).or_insert(0) += 1;
        if reply.field("connection") == Some("close") || reply.status == 400 {
            client = edge.client();
        }
    }
    for word in ["hit", "fwd=uri-miss", "fwd=stale", "fwd=vary-miss", "fwd=method", "fwd=bypass; detail=identity"] {
        assert!(verdicts.keys().any(|known| known.starts_with(word)), "{word} was never seen: {verdicts:?}");
    }
    assert!(
        verdicts.contains_key("refused: 403")
            && verdicts.contains_key("refused: 504")
            && verdicts.contains_key("refused: 400"),
        "{verdicts:?}"
    );
}

#[test]
fn an_operator_is_told_why_a_page_is_stored_or_not() {
    let origin = Origin::new(|asked, stream| {
        write(stream, by_path(asked).as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { site: SITE, more: RULES, ..Change::default() });
    let explain = |path: &str, answer: Option<&str>| {
        let url = format!("http://www.example.org{path}");
        let wish = Wish { url, answer: answer.map(str::to_owned), ..Wish::default() };
        edge.publisher.explain(&wish).expect("it is a request")
    };
    assert_eq!(explain("/secret", None).about("not stored"), None);
    edge.get("/secret");
    assert!(explain("/secret", None).about("not stored").unwrap().starts_with("no_store"));
    edge.get("/fresh?b=1&a=2");
    let told = explain("/fresh?utm_source=x&a=2&b=1", None);
    assert_eq!(told.about("key"), Some("http://www.example.org/fresh?a=2&b=1 (any)"));
    assert_eq!(told.about("stored"), Some("200, 5 bytes"));
    assert!(told.about("lifetime").unwrap().starts_with("600s by Cache-Control: s-maxage=600"), "{}", told.text());
    assert_eq!(told.about("selected by"), Some("accept-language absent"));
    edge.get("/long/nothing");
    let told = explain("/long/nothing", None);
    assert_eq!(told.about("rule"), Some("rule 2 (/long/**)"));
    assert!(told.about("lifetime").unwrap().starts_with("3600s by Tidegate-Cache-Control"), "{}", told.text());
    let plone = "HTTP/1.1 200 OK\nCache-Control: max-age=0, must-revalidate, private\nETag: \"||1|en|x\"\n";
    assert_eq!(explain("/a", Some(plone)).about("answer"), Some("stored, by the word of the verified cache"));
    let jane = plone.replace("||", "|jane|");
    assert!(explain("/a", Some(&jane)).about("answer").unwrap().starts_with("not stored: private"));
    assert!(
        explain("/a", None).about("to learn more").is_some()
            && explain("/a", Some(plone)).about("to learn more").is_none()
    );
    let told = explain("/VirtualHostBase/http/x", None);
    assert_eq!(told.about("verdict"), Some("refused: 400 vhm_words"));
    assert!(told.about("because").unwrap().contains("VirtualHostMonster"), "{}", told.text());
    let asked = origin.asked().len();
    assert_eq!(asked, 3, "explaining asks no origin");
}

/// Requests that show who asks, and such that do not.
const OWN: &[&str] = &[
    "Cookie: __ac=USER",
    "Cookie: a=b; __ac=USER",
    "Cookie: a=b;__ac=\"USER\"",
    "Cookie: __ac_name=USER",
    "Cookie: auth_token=USER",
    "Cookie: _ZopeId=USER",
    "Cookie: statusmessages=USER",
    "Cookie: _ga=1\r\nCookie: __ac=USER",
    "Authorization: Basic USER",
    "Authorization: Bearer USER",
];

/// What an application may say wrongly about an answer to who is logged in.
const SAYS: &[&str] = &[
    "Cache-Control: public, max-age=600",
    "Cache-Control: s-maxage=600",
    "Cache-Control: max-age=600\r\nVary: Accept-Encoding",
    "Cache-Control: max-age=600\r\nSet-Cookie: a=b",
    "Expires: Fri, 01 Jan 2100 00:00:00 GMT",
    "Cache-Control: max-age=0, must-revalidate, private\r\nETag: \"|USER|1|en|x\"",
];

#[test]
fn no_name_of_a_user_ever_reaches_another_client() {
    // Every way to show an identity, with every wrong word about the answer: 60 pairs, each with a URL of its own.
    let origin = Origin::new(|asked, stream| {
        let says = SAYS
            [asked.target().rsplit("says=").next().and_then(|at| at.parse::<usize>().ok()).unwrap_or(0) % SAYS.len()];
        let shown = ["cookie", "authorization"].iter().filter_map(|name| asked.field(name)).find_map(|line| {
            let at = line.find("user-")?;
            Some(
                line[at..]
                    .chars()
                    .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
                    .collect::<String>(),
            )
        });
        let user = shown.unwrap_or_default();
        let body = format!("page of {user}.");
        let head = says.replace("USER", &user);
        write(stream, format!("HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { site: SITE, more: RULES, ..Change::default() });
    let mut client = edge.client();
    for (way, own) in OWN.iter().enumerate() {
        for (says, words) in SAYS.iter().enumerate() {
            let path = format!("/p{way}?says={says}");
            let own = own.replace("USER", "user-1");
            for _ in 0..2 {
                assert_eq!(client.ask(&path, &format!("{own}\r\n")).reply().text(), "page of user-1.", "{own} {says}");
                assert_eq!(client.get(&path).text(), "page of .", "{own}: {words}");
            }
            let other = own.replace("user-1", "user-2");
            assert_eq!(client.ask(&path, &format!("{other}\r\n")).reply().text(), "page of user-2.", "{other}");
        }
    }
    // And in any order, on few URLs, with what else requests may hold.
    let mut dice = Dice::new("LEAK_SEED");
    let seed = dice.0;
    for turn in 0..2500 {
        let user = format!("user-{}", dice.below(5));
        let nobody = dice.below(2) == 0;
        let own = if nobody { String::new() } else { format!("{}\r\n", dice.pick(OWN).replace("USER", &user)) };
        let more = dice.pick(&[
            "",
            "",
            "Accept: application/json\r\n",
            "Accept-Language: de\r\n",
            "Cache-Control: no-cache\r\n",
        ]);
        let path =
            format!("/{}?says={}", dice.pick(&["a", "long/b", "c/@@images/x", "never/d"]), dice.below(SAYS.len()));
        let reply = client.ask(&path, &format!("{own}{more}")).reply();
        let expected = if nobody { "page of .".to_owned() } else { format!("page of {user}.") };
        assert_eq!(reply.text(), expected, "turn {turn} of seed {seed}: {path} {own}{more}{}", reply.head);
    }
    assert!(origin.asked().len() > 100, "the cache did not answer all of it");
}
