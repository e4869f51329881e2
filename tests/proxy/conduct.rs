//! Presets, rules and the verified cache, as visitors see them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::client::Client;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Asked;
use crate::origin::Gate;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;
use tidegate::control::status;
use tidegate::upstream::Hold;

/// What all may share.
const PUBLIC: &str = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Length: 5\r\n\r\nhello";

const VERIFY: &str = "preset = \"plone-classic\"\nzope = \"/Plone\"\nverify = \"plone-etag\"";

/// A page as Plone sends it: private, with an entity tag that names the user and the version of the catalog.
fn plone_page(asked: &Asked, version: usize) -> String {
    let user = asked.field("cookie").and_then(|cookies| cookies.split("__ac=").nth(1)).unwrap_or("");
    let language = asked.field("accept-language").unwrap_or("en");
    let tag = format!("\"|{user}|{version}|{language}|Plone Default|0|1795426181.133915\"");
    let common = format!("ETag: {tag}\r\nX-Cache-Rule: plone.content.itemView\r\nX-Cache-Operation: weakCaching\r\n");
    if asked.field("if-none-match").is_some_and(|tags| tags.split(", ").any(|known| known == tag)) {
        return format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n");
    }
    let body = format!("page {version} in {language} for {user}");
    format!(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, must-revalidate, private\r\n\
         Expires: Sun, 06 Nov 1994 08:49:37 GMT\r\n{common}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A Plone whose catalog is changed by `version`, and which counts its renderings.
fn plone(version: &Arc<AtomicUsize>, renderings: &Arc<AtomicUsize>, gate: &Gate) -> Origin {
    let (version, renderings, gate) = (Arc::clone(version), Arc::clone(renderings), gate.clone());
    Origin::new(move |asked, stream| {
        gate.pass();
        let page = plone_page(asked, version.load(Ordering::SeqCst));
        if page.starts_with("HTTP/1.1 200") {
            renderings.fetch_add(1, Ordering::SeqCst);
        }
        write(stream, page.as_bytes());
        Then::Keep
    })
}

#[test]
fn a_private_page_of_plone_costs_one_rendering_and_few_questions_until_it_changes() {
    let (version, renderings, gate) = (Arc::default(), Arc::default(), Gate::default());
    let origin = plone(&version, &renderings, &gate);
    let edge = Edge::with(&[origin.address], &Change { site: VERIFY, ..Change::default() });
    let herd = |count: usize| {
        let mut clients: Vec<Client> = (0..count).map(|_| edge.client()).collect();
        for client in &mut clients {
            client.ask("/", "");
        }
        gate.open();
        clients.iter_mut().map(Client::reply).collect::<Vec<_>>()
    };
    let replies = herd(60);
    assert!(replies.iter().all(|reply| reply.text() == "page 0 in en for "));
    assert_eq!(renderings.load(Ordering::SeqCst), 1);
    let shown = &replies[0];
    assert_eq!(shown.field("cache-control"), Some("max-age=0, must-revalidate, private"), "{}", shown.head);
    for field in ["tidegate-cache-control", "x-cache-rule", "x-cache-operation"] {
        assert_eq!(shown.field(field), None, "{}", shown.head);
    }
    for _ in 0..3 {
        assert!(herd(40).iter().all(|reply| reply.status == 200 && reply.text() == "page 0 in en for "));
    }
    assert_eq!(renderings.load(Ordering::SeqCst), 1);
    version.store(1, Ordering::SeqCst);
    assert_eq!(edge.get("/").text(), "page 1 in en for ", "the first after an edit sees it");
    assert_eq!(renderings.load(Ordering::SeqCst), 2);
    let again = edge.get("/");
    assert!(again.field("cache-status").unwrap().contains("fwd-status=304"), "{}", again.head);
    assert!(
        edge.metric("tidegate_cache_origin_rules_total{site=\"www.example.org\",rule=\"plone.content.itemView\"")
            >= 1.0
    );
}

#[test]
fn a_page_that_is_the_same_in_each_language_is_rendered_once_for_visitors_of_all() {
    let version = Arc::new(AtomicUsize::new(0));
    let renderings: Arc<AtomicUsize> = Arc::default();
    // A site in one language, as most are: whatever visitors want, the page and its entity tag are in English.
    let (of_origin, count) = (Arc::clone(&version), Arc::clone(&renderings));
    let origin = Origin::new(move |asked, stream| {
        let english = Asked { head: asked.head.replace("ccept-language", "ccept-nothing"), ..asked.clone() };
        let page = plone_page(&english, of_origin.load(Ordering::SeqCst));
        count.fetch_add(usize::from(page.starts_with("HTTP/1.1 200")), Ordering::SeqCst);
        write(stream, page.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { site: VERIFY, ..Change::default() });
    for now in 0..2 {
        version.store(now, Ordering::SeqCst);
        for _ in 0..2 {
            // More than are kept as variants of one URL.
            for language in 0..40 {
                let reply = edge.ask("/", &format!("Accept-Language: de-{language},en;q=0.5\r\n"));
                assert_eq!((reply.status, reply.text()), (200, format!("page {now} in en for ")), "{}", reply.head);
            }
        }
        assert_eq!(renderings.load(Ordering::SeqCst), now + 1, "others were asked about what there was");
    }
}

#[test]
fn a_verified_page_is_sent_in_the_coding_that_each_visitor_likes_best() {
    let origin = Origin::new(|asked, stream| {
        let common = "ETag: \"||7|en|Plone Default|0\"\r\nX-Ramcache: plone.app.caching.operations.ramcache\r\n";
        let page = "<p>a page of Plone</p>\n".repeat(200);
        let answer = if asked.field("if-none-match").is_some() {
            format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n")
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, must-revalidate, private\r\nContent-Type: text/html\r\n\
                 {common}Content-Length: {}\r\n\r\n{page}",
                page.len()
            )
        };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &Change { site: VERIFY, ..Change::default() });
    for coding in ["gzip", "br"] {
        let ask = || edge.ask("/", &format!("Accept-Encoding: {coding}\r\n"));
        edge.wait_until(|_| ask().field("content-encoding") == Some(coding));
        let coded = ask();
        assert!(coded.body.len() < 1000 && coded.field("x-ramcache").is_none(), "{}", coded.head);
        assert!(coded.field("cache-status").unwrap().contains("fwd-status=304"), "it is asked about: {}", coded.head);
    }
    assert_eq!(edge.get("/").field("content-encoding"), None);
    let rendered = origin.asked().iter().filter(|asked| asked.field("if-none-match").is_none()).count();
    assert_eq!(rendered, 1);
}

#[test]
fn a_verified_page_is_never_given_to_or_taken_from_who_is_logged_in() {
    let (version, renderings, gate) = (Arc::default(), Arc::default(), Gate::default());
    gate.open();
    let origin = plone(&version, &renderings, &gate);
    let edge = Edge::with(&[origin.address], &Change { site: VERIFY, ..Change::default() });
    for user in ["admin", "jane"] {
        assert_eq!(edge.get("/").text(), "page 0 in en for ");
        let own = edge.ask("/", &format!("Cookie: __ac={user}\r\n"));
        assert_eq!(own.text(), format!("page 0 in en for {user}"), "{}", own.head);
    }
    assert_eq!(edge.ask("/", "Accept-Language: de\r\n").text(), "page 0 in de for ");
    assert_eq!(edge.get("/").text(), "page 0 in en for ", "each language is a page of its own");
    // Without the setting nothing private is kept.
    edge.reload(
        &[origin.address],
        &Change { site: "preset = \"plone-classic\"\nzope = \"/Plone\"", ..Change::default() },
    )
    .expect("a good configuration");
    let before = renderings.load(Ordering::SeqCst);
    edge.get("/other");
    edge.get("/other");
    assert_eq!(renderings.load(Ordering::SeqCst), before + 2);
}

#[test]
fn an_operators_rules_have_the_last_word() {
    let (version, renderings, gate) = (Arc::default(), Arc::default(), Gate::default());
    gate.open();
    let origin = plone(&version, &renderings, &gate);
    let more = "[[site.\"www.example.org\".rule]]\npath = [\"/intranet/**\"]\nallow = [\"192.0.2.0/24\"]\n\
                [[site.\"www.example.org\".rule]]\npath = [\"/live/**\"]\ncache = false\n\
                [[site.\"www.example.org\".rule]]\npath = [\"/news/**\"]\nttl = \"60s\"\nstale = \"10min\"\n\
                class = \"background\"\n";
    let edge = Edge::with(&[origin.address], &Change { more, ..Change::default() });
    assert_eq!(edge.get("/intranet/a").status, 403);
    assert_eq!(origin.asked().len(), 0);
    edge.get("/news/a");
    let news = edge.get("/news/a");
    assert!(news.is_hit() && news.field("cache-status").unwrap().contains("ttl="), "{}", news.head);
    assert!(!edge.ask("/news/a", "Cookie: __ac=jane\r\n").is_hit());
    assert!(edge.ask("/news/a", "Accept-Language: de\r\n").text().contains(" de "), "Plone may mind the language");
    edge.get("/live/a");
    let live = edge.get("/live/a");
    assert!(live.field("cache-status").unwrap().contains("detail=rule"), "{}", live.head);
    edge.get("/a");
    assert!(!edge.get("/a").is_hit());
}

#[test]
fn plone_is_told_who_is_nobody_and_visitors_cannot_say_so_themselves() {
    let origin = Origin::new(|asked, stream| {
        let body = asked.field("x-anonymous").unwrap_or("-").to_owned();
        let head = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nVary: X-Anonymous\r\n";
        write(stream, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.ask("/", "X-Anonymous: forged\r\n").text(), "True");
    let hit = edge.get("/");
    assert!(hit.is_hit() && hit.text() == "True", "the visitor's own word selects nothing: {}", hit.head);
    assert_eq!(edge.ask("/", "Cookie: __ac=jane\r\nX-Anonymous: True\r\n").text(), "-");
}

#[test]
fn nobody_who_asks_for_a_page_gets_json() {
    let origin = Origin::new(|asked, stream| {
        let json = asked.field("accept").is_some_and(|accept| accept.contains("json"));
        let (kind, body) = if json { ("application/json", "{}") } else { ("text/html", "<p>") };
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Type: {kind}\r\n");
        write(stream, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    for hit in [false, true] {
        let json = edge.ask("/a", "Accept: application/json\r\n");
        assert_eq!((json.text().as_str(), json.is_hit()), ("{}", hit));
        let page = edge.ask("/a", "Accept: text/html,*/*;q=0.8\r\n");
        assert_eq!((page.text().as_str(), page.is_hit()), ("<p>", hit));
    }
    let purge = "PURGE /a HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    assert_eq!(edge.client().send(purge).reply().status, 200);
    assert!(!edge.ask("/a", "Accept: application/json\r\n").is_hit() && !edge.get("/a").is_hit());
    // One that gives JSON to all: it is not kept for those who asked for a page.
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    );
    let edge = Edge::of(&origin);
    edge.ask("/a", "Accept: text/html\r\n");
    assert!(!edge.get("/a").is_hit());
    assert!(edge.metric("tidegate_cache_leak_tripwire_total{site=\"www.example.org\",signal=\"json_for_page\"}") > 0.0);
}

#[test]
fn trackers_marks_make_no_new_page_and_do_not_reach_zope() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Length: 5\r\n\r\nhello");
    let edge = Edge::of(&origin);
    edge.get("/a?b=1&a=2&utm_source=x");
    for target in ["/a?a=2&b=1", "/a?utm_campaign=y&b=1&fbclid=z&a=2"] {
        assert!(edge.get(target).is_hit(), "{target}");
    }
    assert_eq!(origin.asked()[0].target(), "/a?a=2&b=1");
    assert!(!edge.get("/a").is_hit());
    assert!(edge.get("/a?gclid=1").is_hit());
    // What goes past the cache is left as it is.
    edge.ask("/a?b=1&a=2&utm_source=x", "Cookie: __ac=x\r\n");
    assert_eq!(origin.asked().last().unwrap().target(), "/a?b=1&a=2&utm_source=x");
}

#[test]
fn whoever_makes_up_scales_of_images_is_stopped_and_others_are_not() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Length: 5\r\n\r\nimage");
    let more = "[limit.scales]\nrate = \"1/h\"\nburst = 5\n";
    let edge = Edge::with(&[origin.address], &Change { more, ..Change::default() });
    let mut client = edge.client();
    let mut refused = 0;
    for width in 0..40 {
        let reply = client.get(&format!("/img/@@images/image/{width}"));
        refused += usize::from(reply.status == 429);
        assert!(reply.status == 200 || reply.field("retry-after").is_some(), "{}", reply.head);
    }
    assert_eq!((origin.asked().len(), refused), (5, 35));
    assert!(client.get("/img/@@images/image/0").is_hit(), "what is stored is for everybody");
    assert_eq!(client.get("/img").status, 200, "and so is all else");
}

#[test]
fn why_the_cache_did_something_is_told_to_those_whom_the_operator_names() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Length: 5\r\n\r\nhello");
    for (cache, with_cookie, hit) in [
        ("", Some("tidegate; fwd=bypass; detail=identity"), Some("tidegate; hit; ttl=60")),
        ("status_detail = []", Some("tidegate; fwd=bypass"), Some("tidegate; hit; ttl=60")),
        ("status = false", None, None),
    ] {
        let edge = Edge::with(&[origin.address], &Change { cache, ..Change::default() });
        assert_eq!(edge.ask("/", "Cookie: __ac=jane\r\n").field("cache-status"), with_cookie, "{cache}");
        edge.get("/");
        let told = edge.get("/").field("cache-status").map(|told| told.replace("ttl=59", "ttl=60"));
        assert_eq!(told.as_deref(), hit, "{cache}");
    }
}

#[test]
fn scales_of_images_take_no_more_than_their_share_of_zopes_threads() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.target().contains("@@images") {
            of_origin.pass();
        }
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Length: 5\r\n\r\nimage");
        Then::Keep
    });
    let upstream = "threads = 4\nqueue = { scales = 2 }";
    let edge = Edge::with(&[origin.address], &Change { upstream, ..Change::default() });
    let mut clients: Vec<Client> = (0..8).map(|_| edge.client()).collect();
    for (width, client) in clients.iter_mut().enumerate() {
        client.ask(&format!("/img/@@images/image/{width}"), "");
    }
    origin.wait_for(2);
    for page in 0..10 {
        assert_eq!(edge.get(&format!("/page-{page}")).status, 200, "threads are left for pages");
    }
    let scales = || origin.asked().iter().filter(|asked| asked.target().contains("@@images")).count();
    assert_eq!(scales(), 2);
    let mut editor = edge.client();
    editor.ask("/img/@@images/image/9", "Cookie: __ac=jane\r\n");
    origin.wait_for(2 + 10 + 1);
    assert_eq!(scales(), 3, "an editor's are not counted");
    edge.wait_until(|edge| edge.metric("tidegate_queue_length{upstream=\"zope\",class=\"anonymous\"}") >= 6.0);
    let told = status::words(&status::json(&edge.publisher));
    assert!(told.contains("6 scales of images wait"), "{told}");
    gate.open();
    assert!(clients.iter_mut().all(|client| client.reply().text() == "image"), "all get theirs, in their turn");
    assert_eq!(editor.reply().status, 200);
    assert_eq!(scales(), 9);
}

#[test]
fn a_scale_that_plone_has_forgotten_is_shown_where_pages_still_name_it() {
    let forgotten = Gate::default();
    let of_origin = forgotten.clone();
    let origin = Origin::new(move |_, stream| {
        let answer = if of_origin.is_open() {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"
        } else {
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=31536000, proxy-revalidate, public\r\nContent-Length: 5\r\n\r\nimage"
        };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let site = "preset = \"plone-classic\"\nzope = \"/Plone\"";
    let edge = Edge::with(&[origin.address], &Change { site, ..Change::default() });
    let scale = "/img/@@images/image-400-abc.png";
    edge.get(scale);
    assert!(edge.get(scale).is_hit());
    forgotten.open();
    let purge = "PURGE /Plone/img HTTP/1.1\r\nHost: 127.0.0.1:6081\r\n\r\n";
    edge.client().send(purge).reply();
    let shown = edge.get(scale);
    assert_eq!((shown.status, shown.text().as_str()), (200, "image"), "{}", shown.head);
    assert_eq!(edge.get("/img/@@images/image-400-def.png").status, 404);
}

/// Volto beside Plone: pages that say which path was asked for.
fn volto() -> Origin {
    Origin::new(|asked, stream| {
        let target = asked.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let head = "HTTP/1.1 200 OK\r\nCache-Control: s-maxage=60\r\nContent-Type: text/html\r\n";
        write(stream, format!("{head}Content-Length: {}\r\n\r\n{target}", target.len()).as_bytes());
        Then::Keep
    })
}

#[test]
fn the_frontend_makes_the_pages_and_plone_gets_what_only_it_can_show() {
    let (plone, volto) = (Origin::saying(PUBLIC), volto());
    let site = "preset = \"plone-volto\"\nzope = \"/Plone\"\nfrontend = \"volto\"";
    let more = format!("[upstream.volto]\nservers = [\"{}\"]\ncheck = {{ kind = \"off\" }}\n", volto.address);
    let change = Change {
        site,
        cache: "purge_allow = [\"127.0.0.0/8\"]",
        upstream: "sticky = \"way\"",
        more: &more,
        ..Change::default()
    };
    let edge = Edge::with(&[plone.address], &change);
    let page = edge.ask("/news?b=1&a=2", "Accept: text/html\r\n");
    assert_eq!(page.text(), "/news?a=2&b=1", "its paths are those of visitors");
    assert!(page.field("set-cookie").is_none(), "only Plone's endpoints are marked: {}", page.head);
    assert_eq!(edge.ask("/a/edit", "Cookie: __ac=me\r\n").text(), "/a/edit");
    assert!(edge.ask("/news?b=1&a=2", "Accept: text/html\r\n").is_hit());
    for path in ["/++api++/news", "/news/@@images/image/mini", "/a.pdf/@@download/file"] {
        assert_eq!(edge.get(path).status, 200);
        let asked = plone.asked().pop().expect("Plone was asked");
        let rewritten = format!("GET /VirtualHostBase/http/www.example.org:80/Plone/VirtualHostRoot{path} ");
        assert!(asked.head.starts_with(&rewritten), "{}", asked.head);
    }
    assert_eq!(volto.asked().len(), 2);
    // Plone purges the object; both spellings of it are gone.
    let purge = "PURGE /++api++/news HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    assert_eq!(edge.client().send(purge).reply().status, 200);
    assert!(!edge.get("/++api++/news").is_hit());
    assert!(!edge.ask("/news?b=1&a=2", "Accept: text/html\r\n").is_hit());
}

#[test]
fn while_plone_is_held_stored_pages_of_its_frontend_are_served_stale() {
    let plone = Origin::saying(PUBLIC);
    let volto =
        Origin::saying("HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello");
    let site = "preset = \"plone-volto\"\nzope = \"/Plone\"\nfrontend = \"volto\"";
    let more = format!("[upstream.volto]\nservers = [\"{}\"]\ncheck = {{ kind = \"off\" }}\n", volto.address);
    let cache = "grace_revalidate = \"0s\"";
    let edge = Edge::with(&[plone.address], &Change { site, cache, more: &more, ..Change::default() });
    edge.ask("/news", "Accept: text/html\r\n");
    edge.ask("/news", "Accept: text/html\r\n");
    assert_eq!(volto.asked().len(), 2, "it is stale at once");
    let snapshot = edge.publisher.house().snapshots.load_full();
    snapshot
        .upstreams
        .iter()
        .find(|(name, _)| name.as_str() == "zope")
        .expect("it is there")
        .1
        .hold(Hold::Operator, true);
    let stale = edge.ask("/news", "Accept: text/html\r\n");
    assert_eq!((stale.status, stale.text().as_str()), (200, "hello"));
    assert!(stale.field("cache-status").is_some_and(|status| status.contains("stale-if-error")), "{}", stale.head);
    assert_eq!(volto.asked().len(), 2, "who makes pages of what Plone says cannot make one now");
}

/// A Zope in which an editor adds a page.
#[test]
fn what_is_missing_is_rendered_once_in_a_while_and_seen_as_soon_as_it_is_added() {
    let added = Arc::new(AtomicBool::new(false));
    let of_origin = Arc::clone(&added);
    let origin = Origin::new(move |asked, stream| {
        let answer = if asked.head.starts_with("POST ") {
            of_origin.store(true, Ordering::SeqCst);
            "302 Found\r\nLocation: http://www.example.org/docs/new/view"
        } else if of_origin.load(Ordering::SeqCst) {
            "200 OK\r\nCache-Control: max-age=60"
        } else {
            "404 Not Found"
        };
        write(stream, format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\ntext").as_bytes());
        Then::Keep
    });
    let site = "preset = \"plone-classic\"";
    let edge = Edge::with(&[origin.address], &Change { site, cache: "missing_ttl = \"30s\"", ..Change::default() });
    assert_eq!(edge.get("/docs/new").status, 404);
    let again = edge.get("/docs/new");
    assert!(again.status == 404 && again.is_hit(), "{}", again.head);
    let german = edge.ask("/docs/new", "Accept-Language: de\r\n");
    assert!(!german.is_hit(), "Plone's 404 is in the visitor's language");
    let form =
        "POST /docs/++add++Document HTTP/1.1\r\nHost: www.example.org\r\nCookie: __ac=x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(edge.client().send(form).reply().status, 302);
    for language in ["", "Accept-Language: de\r\n"] {
        assert_eq!(edge.ask("/docs/new", language).status, 200);
    }
}
