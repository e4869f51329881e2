//! Telling how a request is, or would be, answered, and why. It decides nothing: it asks the functions that the data path
//! acts on (`intake`, `decision`, `storing`) and writes down what they say, in the words of Cache-Status.

use crate::cache::Cache;
use crate::cache::Shelf;
use crate::cache::Stored;
use crate::cache::disk::Terms;
use crate::edge::decision::Look;
use crate::edge::decision::Onward;
use crate::edge::intake;
use crate::edge::intake::Approach;
use crate::edge::intake::Judged;
use crate::edge::intake::Kind;
use crate::edge::intake::Question;
use crate::edge::refusal::Refusal;
use crate::edge::refusal::words;
use crate::edge::storing;
use crate::edge::storing::Asked;
use crate::semantics::cache_control;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::downstream;
use crate::semantics::freshness::Freshness;
use crate::semantics::freshness::Times;
use crate::semantics::key::KeyBuf;
use crate::semantics::policy;
use crate::semantics::policy::Source;
use crate::semantics::storable::Storable;
use crate::semantics::tags;
use crate::snapshot::Snapshot;
use crate::units::Now;
use crate::units::format_duration;
use crate::zope::conduct::Overruled;
use crate::zope::session::Identity;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header;
use http_body_util::Empty;
use std::fmt::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// An answer of an origin to be judged has at most so many bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Of so many variants it is told which requests they answer.
const VARIANTS_SHOWN: usize = 8;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The URL as visitors write it.
    pub url: String,
    /// The method; GET unless it is said.
    pub method: Option<String>,
    /// Header lines, `Name: value`.
    pub headers: Vec<String>,
    /// The client's address; 127.0.0.1 unless it is said.
    pub client: Option<String>,
    /// An answer of the origin (status line and header lines) that shall be judged.
    pub answer: Option<String>,
}

/// The story, in its order: names and what there is to say about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    lines: Vec<(&'static str, String)>,
}

impl Explanation {
    fn say(&mut self, name: &'static str, text: impl Into<String>) {
        self.lines.push((name, text.into()));
    }

    /// Says what could be done about `word`, if there is something.
    fn help(&mut self, word: &str) {
        if let Some(remedy) = remedy(word) {
            self.say("what helps", remedy);
        }
    }

    /// What is said about `name`.
    #[must_use]
    pub fn about(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str())
    }

    /// For people: one line each.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, said) in &self.lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<13} {said}");
        }
        text
    }

    /// For programs: an object.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let said = |text: &String| serde_json::Value::String(text.clone());
        self.lines.iter().map(|(name, text)| ((*name).to_owned(), said(text))).collect()
    }
}

/// Explains.
///
/// # Errors
/// When the wish is no request; the text is for the operator.
pub fn explain(cache: &Cache, snapshot: &Snapshot, wish: &Wish, now: Now) -> Result<Explanation, String> {
    let (request, approach) = request(wish)?;
    let answer = wish.answer.as_deref().map(answer).transpose()?;
    let mut told = Explanation::default();
    told.say("request", format!("{} {}", request.method(), wish.url));
    match intake::judge_only(snapshot, approach, &request) {
        Judged::Refused(refusal, site, _) => {
            if let Some(site) = site {
                told.say("site", site.name.as_str());
            }
            told.say("verdict", format!("refused: {} {}", refusal.status.as_u16(), refusal.why));
            told.say("because", refused(&refusal));
        }
        Judged::Redirect(location, site, _) => {
            told.say("site", site.name.as_str());
            told.say("verdict", format!("redirect: 308 {location}"));
        }
        Judged::Proof(_) => told.say("verdict", "a proof for the authority that issues certificates"),
        Judged::AboutServer => told.say("verdict", "about the server itself: 204"),
        Judged::Question(question) => {
            about_question(&mut told, &question);
            match question.kind {
                Kind::Purge => told.say("verdict", "a purge; it never reaches an origin"),
                Kind::Pass(why) => {
                    told.say("verdict", shown(&why.status()));
                    told.say("because", meaning(why.as_str()));
                    told.help(why.as_str());
                }
                Kind::Shared => {
                    let known = about_cache(&mut told, cache, snapshot, &question, request.headers(), now);
                    if !known && answer.is_none() {
                        told.say(
                            "to learn more",
                            "ask for it once, then explain it again within a minute: why it was (not) stored is told; or show an \
                             answer's head (--answer)",
                        );
                    }
                }
            }
            if let Some((status, head)) = answer {
                about_answer(&mut told, snapshot, &question, request.headers(), (status, head), now);
            }
        }
    }
    Ok(told)
}

fn request(wish: &Wish) -> Result<(Request<Empty<Bytes>>, Approach), String> {
    let url = &wish.url;
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("`{url}` is no whole URL; write it like https://HOST/PATH"));
    };
    let tls = scheme == "https";
    let method = wish.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().map_err(|_| format!("`{url}` has no proper path"))?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| format!("`{url}` has no proper host"))?;
    request.headers_mut().insert(header::HOST, host);
    for line in &wish.headers {
        let (name, value) = field(line)?;
        request.headers_mut().append(name, value);
    }
    let client = wish.client.as_deref();
    let peer = client.map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), str::parse);
    let peer = peer.map_err(|_| format!("`{}` is no address of a client", client.unwrap_or_default()))?;
    Ok((request, Approach { peer, tls, http2: false }))
}

fn field(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{line}` is no header line; write it like \"Accept-Language: de\"");
    let (name, value) = line.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?))
}

/// Reads an answer's head, as `curl -i` shows it; what follows an empty line is its body and does not matter.
fn answer(text: &str) -> Result<(StatusCode, HeaderMap), String> {
    if text.len() > ANSWER_MAX {
        return Err(format!("the answer's head has more than {ANSWER_MAX} bytes"));
    }
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let status = first.starts_with("HTTP/").then(|| first.split_ascii_whitespace().nth(1)).flatten();
    let status = status.and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("`{first}` is no status line; it begins like \"HTTP/1.1 200 OK\""))?;
    let mut head = HeaderMap::new();
    for line in lines.take_while(|line| !line.trim().is_empty()) {
        let (name, value) = field(line)?;
        head.append(name, value);
    }
    Ok((status, head))
}

fn about_question(told: &mut Explanation, question: &Question<'_>) {
    let site = question.site;
    let root = site.zope.as_ref().map_or_else(String::new, |zope| format!(", in the ZODB at {}", zope.root()));
    told.say("site", format!("{} ({}{root})", site.name, site.preset.as_str()));
    told.say(
        "identity",
        match question.identity {
            Identity::Anonymous => "none that Zope would act upon",
            Identity::Authorization => "Authorization",
            Identity::Cookie => "a cookie of somebody",
        },
    );
    told.say("rule", question.rule.map_or("none", |rule| rule.name.as_str()));
    if !site.limits.is_empty() {
        let limits: Vec<&str> = site.limits.iter().map(|limit| limit.name.as_str()).collect();
        told.say("limits", format!("{} (this question is not counted)", limits.join(", ")));
    }
    told.say("upstream", format!("{} as {}", question.upstream().name(), question.origin_target()));
}

fn about_cache(
    told: &mut Explanation,
    cache: &Cache,
    snapshot: &Snapshot,
    question: &Question<'_>,
    headers: &HeaderMap,
    now: Now,
) -> bool {
    let mut buffer = KeyBuf::new();
    let key = question.key(&mut buffer);
    let canonical = cache.rules().canonical(key);
    let key = canonical.as_deref().unwrap_or(key);
    let query = question.target.query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
    let place = question.place();
    told.say(
        "key",
        format!("{}://{place}{}{query} ({})", question.scheme, question.target.path, question.accept.as_str()),
    );
    let mut shelf = cache.look(key);
    let on_disk = cache.disk().filter(|disk| shelf.is_none() && disk.has(key));
    if let Some(disk) = on_disk {
        let terms = Terms { under: question.site.terms, codings: question.site.codings };
        match disk.read_untold(cache, key, &terms) {
            Ok(read) => {
                shelf = Some(read);
                told.say("on disk", "it is read from there first");
            }
            Err(miss) => told.say("on disk", format!("nothing that may be served: {}", meaning(miss.as_str()))),
        }
    }
    let look = Look::at(shelf.as_ref(), headers, question.present, snapshot.cache.honour_client, now.mono);
    let under_way = || cache.flights().is_under_way(key);
    let why_private = cache.private().privacy(key, now.mono).why();
    let known = |status: CacheStatus| match why_private {
        Some(why) if look.found.is_none() && question.identity == Identity::Anonymous => status.detail(why),
        _ => status,
    };
    match (look.served(), look.onward(headers, || cache.may_have_whole(key))) {
        (Some((_, status)), _) => {
            let status = if on_disk.is_some() { status.on_disk() } else { status };
            told.say("verdict", shown(&status));
            told.say("because", status.detail_word().map_or("it is stored and fresh", meaning));
        }
        (None, Onward::Nothing) => {
            told.say("verdict", "refused: 504 only_if_cached");
            told.say("because", "nothing stored may be served, and the request wants nothing else");
        }
        (None, Onward::Alone(status)) => {
            told.say("verdict", shown(&status));
            told.say("because", meaning(status.detail_word().unwrap_or(status.word())));
        }
        (None, Onward::Fetch(status)) => {
            told.say("verdict", shown(&known(status)));
            told.say("because", meaning(status.detail_word().unwrap_or(status.word())));
        }
    }
    if let Some(why) = why_private {
        told.say("not stored", format!("{why}: {} (said less than a minute ago)", meaning(why)));
        told.help(why);
    }
    if under_way() {
        told.say("under way", "it is being fetched now; whoever asks joins");
    }
    if let Some(shelf) = &shelf {
        told.say("variants", about_variants(shelf));
    }
    if let Some(stored) = look.found {
        about_stored(told, stored, now);
    }
    look.found.is_some() || why_private.is_some()
}

/// How many there are, and which requests the first of them answer.
fn about_variants(shelf: &Shelf) -> String {
    let variants = shelf.variants();
    let selected = |stored: &Arc<Stored>| match stored.selection.to_string() {
        every if every.is_empty() => "every request".to_owned(),
        some => some,
    };
    let shown: Vec<String> = variants.iter().take(VARIANTS_SHOWN).map(selected).collect();
    let more = if variants.len() > VARIANTS_SHOWN { " | ..." } else { "" };
    format!("{}, for {}{more}", variants.len(), shown.join(" | "))
}

fn about_stored(told: &mut Explanation, stored: &Stored, now: Now) {
    let head = downstream::reveal(&stored.head, &stored.hidden);
    let len = stored.body.len().map_or_else(|| "still arriving".to_owned(), |len| format!("{len} bytes"));
    told.say("stored", format!("{}, {len}", stored.status.as_u16()));
    about_freshness(told, &stored.freshness, &head);
    let age = stored.freshness.age(now.mono);
    let here = age.saturating_sub(stored.freshness.initial_age);
    let initial = stored.freshness.initial_age.as_secs_f32();
    let (age, here) = (age.as_secs_f32(), here.as_secs_f32());
    told.say("age", format!("{age:.1}s = {initial:.1}s when it came + {here:.1}s here"));
    let selected = stored.selection.to_string();
    told.say("selected by", if selected.is_empty() { "nothing: it answers every request" } else { &selected });
    told.say("tags", stored.tagged.tags().len().to_string());
    for (name, field) in [("entity tag", "etag"), ("origin rule", "x-cache-rule"), ("operation", "x-cache-operation")] {
        if let Some(value) = head.get(field) {
            told.say(name, String::from_utf8_lossy(value.as_bytes()));
        }
    }
}

fn about_freshness(told: &mut Explanation, freshness: &Freshness, head: &HeaderMap) {
    let governs = policy::of(head);
    let (field, source) = match governs.source {
        Source::Own => (policy::OWN, "Tidegate-Cache-Control"),
        Source::Cdn => (policy::CDN, "CDN-Cache-Control"),
        Source::Surrogate => (policy::SURROGATE, "Surrogate-Control"),
        Source::CacheControl if head.contains_key(header::CACHE_CONTROL) => (header::CACHE_CONTROL, "Cache-Control"),
        Source::CacheControl => (header::EXPIRES, "Expires"),
    };
    let lines: Vec<_> = head.get_all(&field).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let by = if freshness.heuristic {
        "guessed from Last-Modified".to_owned()
    } else {
        format!("{source}: {}", lines.join(", "))
    };
    let asked = if freshness.always_ask { ", never used without asking" } else { "" };
    told.say("lifetime", format!("{}s by {by}{asked}", secs(freshness.lifetime)));
    let strict = if freshness.strict { "; the answer forbids more" } else { "" };
    told.say(
        "stale use",
        format!(
            "{} while it is refreshed, {} when the origin fails{strict}",
            format_duration(freshness.while_revalidate),
            format_duration(freshness.if_error)
        ),
    );
}

/// What would become of an answer to this request.
fn about_answer(
    told: &mut Explanation,
    snapshot: &Snapshot,
    question: &Question<'_>,
    headers: &HeaderMap,
    (status, mut head): (StatusCode, HeaderMap),
    now: Now,
) {
    if question.kind != Kind::Shared {
        return told.say("answer", "not stored: the request goes past the cache");
    }
    let fields = snapshot.cache.tags.list();
    let named = tags::named(&head, fields, (question.scheme, question.place()));
    let no_store = cache_control::parse_request(headers).no_store;
    let path = &question.target.path;
    let asked = Asked {
        site: question.site,
        rule: question.rule.map(|rule| &**rule),
        policy: &snapshot.cache,
        path,
        headers,
        no_store,
    };
    let times = Times { asked: now.mono, answered: now };
    let (verdict, overruled) = storing::judge(&asked, status, &mut head, true, times);
    match verdict {
        Storable::No(why) => {
            told.say("answer", format!("not stored: {}: {}", why.as_str(), meaning(why.as_str())));
            told.help(why.as_str());
        }
        Storable::Yes(terms) => {
            let by = match overruled {
                Overruled::No => "",
                Overruled::Rule => ", by the word of the rule",
                Overruled::Verify => ", by the word of the verified cache",
                Overruled::Missing => ", by cache.missing_ttl",
            };
            told.say("answer", format!("stored{by}"));
            about_freshness(told, &terms.freshness, &head);
            let vary: Vec<&str> = terms.vary.iter().map(HeaderName::as_str).collect();
            told.say("selected by", if vary.is_empty() { "nothing".to_owned() } else { vary.join(", ") });
            told.say("tags", format!("{} that it names, and its place", named.len()));
        }
    }
}

/// As in the field Cache-Status.
fn shown(status: &CacheStatus) -> String {
    let value = status.value();
    let text = value.to_str().unwrap_or_default();
    text.strip_prefix("tidegate; ").unwrap_or(text).to_owned()
}

fn secs(duration: Duration) -> u64 {
    duration.as_secs()
}

/// What a refusal means.
fn refused(refusal: &Refusal) -> &'static str {
    match refusal.why {
        "unknown_site" => "no site has this host name or alias, and none is the default",
        "vhm_words" => "its path has words of VirtualHostMonster, which only we may say to Zope",
        "acl" => "this address may not see it (allow, deny, or a rule's allow)",
        _ => words(refusal.status),
    }
}

/// What a word of Cache-Status, the access log and the metrics means.
#[must_use]
pub fn meaning(word: &str) -> &'static str {
    match word {
        "uri-miss" => "nothing is stored for this URL",
        "vary-miss" => "what is stored for this URL answers other requests (Vary)",
        "stale" => "what is stored is not fresh any more and has to be asked about",
        "request" | "no-store" => "the request's own Cache-Control asks for it",
        "partial" | "range" => "it asks for a part of what is not stored",
        "method" => "its method is neither GET nor HEAD",
        "body" => "it has a body",
        "identity" => "it shows who asks, so its answer may be for him alone",
        "condition" => "it has a condition that only the origin may judge",
        "hidden" => "it hides fields from the origin (Connection), so its answer may be none for others",
        "upgrade" => "it wants another protocol",
        "site" => "the site has cache = false",
        "rule" => "the rule has cache = false",
        "stale-while-revalidate" => "it is stale, may be served so, and is refreshed meanwhile",
        "disk" => "it is stored and fresh, on the disk",
        "absent" => "what was there is gone",
        "purged" => "it was purged after it was written",
        "settings" => "it was stored under other settings",
        "damaged" => "it is damaged",
        "error" => "the disk failed",
        "busy" => "too much is being read",
        "max-stale" => "it is stale, and the request takes it so",
        "stale-if-error" => "it is stale, and the origin has just failed",
        "status" => "answers with this status are not stored",
        "no_store" => "the answer says no-store",
        "private" => "the answer says private",
        "set_cookie" => "the answer sets a cookie",
        "vary_star" => "the answer says Vary: *, or names too many fields",
        "vary_cookie" => "the answer depends on cookies or Authorization",
        "etag_user" => "the answer's entity tag names a user",
        "no_freshness" => "the answer says nothing about its freshness, and nothing is guessed",
        "never_fresh" => "the answer is never fresh and has nothing to ask with",
        "size" => "it is larger than cache.object_max, or the site has too many names",
        "undelimited" => "only the end of the connection ends it",
        "form" => "it is a form of login or the like",
        "json_for_page" => "it is JSON, and the request asked for a page",
        "authorization" => "it was asked for with Authorization, and does not say that others may have it",
        _ => "see the access log",
    }
}

/// What an operator or an editor can do if it should be answered from the cache.
#[must_use]
fn remedy(word: &str) -> Option<&'static str> {
    Some(match word {
        "identity" => {
            "who shows no login, session or pending message is answered from the cache; cookies of others do not matter"
        }
        "private" => {
            "verify = \"plone-etag\" keeps Plone's pages if their entity tag names no user; a rule with `ttl` keeps what it matches; \
             in Plone, another caching operation for its type (moderate caching)"
        }
        "no_freshness" | "never_fresh" => {
            "a rule with `ttl` for its path; cache.missing_ttl for a 404; in Plone, a caching operation for its type (control \
             panel, Caching)"
        }
        "status" | "set_cookie" | "vary_cookie" | "form" | "etag_user" => "nothing here: it is not the same for all",
        "vary_star" => "the application has to name in Vary what its answer depends on",
        "size" => "cache.object_max, if there is memory for it",
        "undelimited" => "the origin has to say how long it is (Content-Length or chunked)",
        "json_for_page" => "the application has to say Vary: Accept, or give a page to who asks for one",
        "authorization" => "the application has to say public or s-maxage (RFC 9111 3.5)",
        "site" => "cache = true in the site",
        "rule" => "cache = true in the rule, or another rule before it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_that_are_no_requests_are_explained_too() {
        let wish = |url: &str, lines: &[&str]| {
            let headers = lines.iter().map(|line| (*line).to_owned()).collect();
            request(&Wish { url: url.to_owned(), headers, ..Wish::default() }).map(drop)
        };
        assert_eq!(wish("https://a/b?c", &["Accept: x", "X-A:b"]), Ok(()));
        for (url, lines, part) in [
            ("/a", &[][..], "no whole URL"),
            ("a b", &[], "no URL"),
            ("https://a/", &["Accept"], "no header line"),
            ("https://a/", &["A b: c"], "no header line"),
        ] {
            let said = wish(url, lines).unwrap_err();
            assert!(said.contains(part), "{url}: {said}");
        }
        assert!(
            answer("HTTP/1.1 200 OK\r\nETag: \"a b\"\r\n\r\nbody: x").is_ok_and(|(status, head)| {
                status == StatusCode::OK && head.len() == 1 && head["etag"] == "\"a b\""
            })
        );
        assert!(answer("hello").unwrap_err().contains("no status line"));
    }
}
