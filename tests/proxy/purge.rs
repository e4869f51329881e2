//! Forgetting, as purgers and visitors see it.

use std::fs;

use tempfile::TempDir;
use tidegate::edge::purge::Wanted;

use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Gate;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

const TAGGED: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nX-Ids-Involved: #u1#u2#\r\n\
                      xkey: front\r\nCache-Groups: \"news\"\r\nContent-Length: 5\r\n\r\nhello";

const LOCAL: &str = "purge_allow = [\"127.0.0.0/8\"]";

fn plone() -> Change<'static> {
    Change { cache: LOCAL, site: "preset = \"plone-classic\"\nzope = \"/Plone\"", ..Change::default() }
}

/// A PURGE as python-requests sends it for Plone.
fn purge(target: &str, more: &str) -> String {
    format!(
        "PURGE {target} HTTP/1.1\r\nHost: 127.0.0.1:6081\r\nUser-Agent: python-requests/2.34.2\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

#[test]
fn plones_purges_of_an_image_are_answered_on_one_connection_and_reach_all_its_urls() {
    let origin = Origin::saying(TAGGED);
    let edge = Edge::with(&[origin.address], &plone());
    let seen = ["/docs/img", "/docs/img/view", "/docs/img/@@images/image/mini", "/docs/other"];
    for path in seen {
        edge.get(path);
        assert!(edge.get(path).is_hit(), "{path}");
    }
    let mut plone = edge.client();
    let root = "/VirtualHostBase/http/www.example.org:80/Plone/VirtualHostRoot";
    let mut purged = 0;
    for path in
        ["/docs/img", "/docs/img/", "/docs/img/view", "/docs/img/@@images/image", "/docs/img/@@images/image/mini"]
            .iter()
            .chain(["/docs/img/images/image/mini", "/docs/img/@@download/image/img.png", "/++api++/docs/img"].iter())
    {
        let reply = plone.send(purge(&format!("{root}{path}"), "")).reply();
        assert!(matches!(reply.status, 200 | 404) && reply.field("x-cache").is_some(), "{path}: {}", reply.head);
        assert_ne!(reply.field("connection"), Some("close"));
        purged += u32::from(reply.status == 200);
    }
    assert!(purged > 0);
    for path in &seen[..3] {
        assert!(!edge.get(path).is_hit(), "{path}");
    }
    assert!(edge.get("/docs/other").is_hit());
    assert!(origin.asked().iter().all(|asked| !asked.head.starts_with("PURGE")), "no purge reaches a Zope");
}

#[test]
fn whatever_has_a_tag_goes_with_one_order_and_no_visitor_sees_tags() {
    let origin = Origin::saying(TAGGED);
    let edge = Edge::with(&[origin.address], &plone());
    for order in [
        purge("/@@purgebyid/u2", ""),
        purge("/", "xkey: front\r\n"),
        purge("/", "xkey-purge: other front\r\n"),
        purge("/", "Surrogate-Key: u1\r\n"),
        purge("/", "X-Purge: tag\r\nX-Purge-Match: news\r\n"),
        purge("/docs", "X-Purge: prefix\r\n"),
        purge("/d*/**", "X-Purge: glob\r\n"),
        purge("/", "X-Purge: regex\r\nX-Purge-Match: ^/docs/[ab]\r\n"),
        purge("/", "X-Purge: all\r\n"),
    ] {
        for path in ["/docs/a", "/docs/b"] {
            let first = edge.get(path);
            assert!(!first.is_hit(), "{order}");
            for field in ["x-ids-involved", "xkey", "surrogate-key"] {
                assert_eq!(first.field(field), None, "{}", first.head);
            }
            let hit = edge.get(path);
            assert!(hit.is_hit() && hit.field("xkey").is_none() && hit.field("cache-groups").is_some(), "{}", hit.head);
        }
        assert_eq!(edge.client().send(&order).reply().status, 200, "{order}");
    }
    // What goes past the cache shows no tags either.
    let own = edge.ask("/docs/a", "Cookie: __ac=x\r\n");
    assert!(own.field("xkey").is_none() && own.field("x-ids-involved").is_none(), "{}", own.head);
    assert_eq!(edge.client().send(purge("/", "X-Purge: regex\r\nX-Purge-Match: (\r\n")).reply().status, 400);
    assert!(edge.metric("tidegate_purge_requests_total{kind=\"tag\",mode=\"hard\",result=\"noted\"}") >= 5.0);
}

#[test]
fn a_soft_purge_lets_yesterdays_page_be_served_when_the_origin_is_ill() {
    let ill = Gate::default();
    let of_origin = ill.clone();
    let origin = Origin::new(move |_, stream| {
        let answer = if of_origin.is_open() { "HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill" } else { TAGGED };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &plone());
    edge.get("/a");
    assert!(edge.get("/a").is_hit());
    edge.client().send(purge("/@@purgebyid/u1", "X-Purge-Soft: 1\r\n")).reply();
    let asked = edge.get("/a");
    assert!(asked.status == 200 && !asked.is_hit(), "it is asked for again: {}", asked.head);
    edge.client().send(purge("/Plone/a", "X-Purge-Soft: 1\r\n")).reply();
    ill.open();
    let stale = edge.get("/a");
    assert_eq!((stale.status, stale.text().as_str()), (200, "hello"), "{}", stale.head);
    edge.client().send(purge("/Plone/a", "")).reply();
    assert_eq!(edge.get("/a").status, 503, "gone is gone");
}

#[test]
fn a_page_that_arrives_while_its_tag_is_purged_is_not_given_to_later_visitors() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, stream| {
        write(stream, TAGGED.split_at(TAGGED.len() - 3).0.as_bytes());
        of_origin.pass();
        write(stream, b"llo");
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &plone());
    let mut before = edge.client();
    assert_eq!(before.ask("/a", "").head().status, 200);
    edge.client().send(purge("/@@purgebyid/u1", "")).reply();
    let mut after = edge.client();
    after.ask("/a", "");
    assert_eq!(origin.wait_for(2).len(), 2, "whoever comes later asks anew");
    gate.open();
    assert_eq!(before.read(5), b"hello");
    let reply = after.reply();
    assert!(reply.text() == "hello" && !reply.is_hit());
    assert!(edge.get("/a").is_hit(), "what was asked for after the purge is kept");
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn who_shows_a_token_may_purge_from_anywhere() {
    let origin = Origin::saying(TAGGED);
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("purge.token");
    fs::write(&file, "0123456789abcdef0123\n").expect("a file");
    let cache = format!("purge_allow = [\"192.0.2.0/24\"]\npurge_token_file = \"{}\"", file.display());
    let change = Change { cache: &cache, ..Change::default() };
    let edge = Edge::in_dir(dir, &[origin.address], &change);
    edge.get("/a");
    for (more, status) in [
        ("", 403),
        ("X-Purge-Token: 0123456789abcdef0124\r\n", 403),
        ("Authorization: Basic 0123456789abcdef0123\r\n", 403),
        ("Authorization: Bearer 0123456789abcdef0123\r\n", 200),
        ("X-Purge-Token: 0123456789abcdef0123\r\n", 404),
    ] {
        assert_eq!(edge.client().send(purge("/a", more)).reply().status, status, "{more}");
    }
    fs::write(&file, "short\n").expect("a file");
    let told = edge.reload(&[origin.address], &change).expect_err("it could be guessed");
    assert!(told.contains("purge_token_file") && told.contains("shorter than 16"), "{told}");
}

#[test]
fn who_may_not_purge_is_told_so_and_not_that_he_may_not_see_the_site() {
    let origin = Origin::saying(TAGGED);
    let edge = Edge::with(&[origin.address], &Change { cache: "purge_allow = [\"192.0.2.1\"]", ..Change::default() });
    let refused = edge.client().send(purge("/page", "")).reply();
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("This address may not purge"), "{}", refused.text());
}

#[test]
fn a_purge_of_a_whole_site_reaches_the_one_that_answers_for_the_hosts_that_no_site_has() {
    let origin = Origin::saying(TAGGED);
    let edge = Edge::with(&[origin.address], &Change { site: "default = true", ..Change::default() });
    let get = |host: &str| edge.client().send(format!("GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply();
    assert_eq!(get("192.0.2.7:8080").status, 200);
    assert!(get("192.0.2.7:8080").is_hit());
    let order = "PURGE / HTTP/1.1\r\nHost: 192.0.2.7:8080\r\nX-Purge: site\r\n\r\n";
    assert_eq!(edge.client().send(order).reply().status, 200);
    assert!(!get("192.0.2.7:8080").is_hit());
}

#[test]
fn what_is_deleted_or_renamed_takes_its_contents_along() {
    let origin = Origin::new(|asked, stream| {
        let answer = if asked.head.starts_with("GET") { TAGGED } else { "HTTP/1.1 204 No Content\r\n\r\n" };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::with(&[origin.address], &plone());
    for order in [
        "DELETE /++api++/docs HTTP/1.1\r\nHost: www.example.org\r\nAuthorization: Bearer x\r\n\r\n",
        "POST /docs/object_rename HTTP/1.1\r\nHost: www.example.org\r\nCookie: __ac=x\r\nContent-Length: 0\r\n\r\n",
    ] {
        for path in ["/docs/a?x=1", "/docs", "/other"] {
            edge.get(path);
            assert!(edge.get(path).is_hit(), "{path}");
        }
        assert_eq!(edge.client().send(order).reply().status, 204);
        assert!(!edge.get("/docs/a?x=1").is_hit() && !edge.get("/docs").is_hit(), "{order}");
        assert!(edge.get("/other").is_hit());
    }
}

/// Pages with a validator; a POST is answered by `form`.
fn with_form(form: &'static str) -> Origin {
    Origin::new(move |asked, stream| {
        let is_form = asked.head.starts_with("POST");
        let known = asked.field("if-none-match").is_some();
        let answer = if is_form {
            form
        } else if known {
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"
        } else {
            TAGGED
        };
        write(stream, answer.as_bytes());
        Then::Keep
    })
}

fn post(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: www.example.org\r\n{more}Content-Length: 0\r\n\r\n")
}

#[test]
fn a_form_that_anybody_can_post_costs_a_question_about_the_page_that_it_leads_to_and_no_rendering() {
    let origin = with_form("HTTP/1.1 302 Found\r\nLocation: http://www.example.org/\r\nContent-Length: 0\r\n\r\n");
    let edge = Edge::with(&[origin.address], &plone());
    for (more, expected) in [("", "fwd=stale; fwd-status=304"), ("Cookie: __ac=x\r\n", "fwd=uri-miss")] {
        edge.get("/");
        assert!(edge.get("/").is_hit());
        assert_eq!(edge.client().send(post("/login", more)).reply().status, 302);
        let after = edge.get("/");
        assert!(after.field("cache-status").unwrap().contains(expected), "{more}{}", after.head);
    }
    edge.get("/docs/a");
    edge.client().send(post("/docs/object_rename", "")).reply();
    assert!(edge.get("/docs/a").is_hit(), "who shows no identity renames nothing");
}

#[test]
fn what_zope_refuses_by_sending_to_its_login_makes_nothing_obsolete() {
    let origin = with_form(
        "HTTP/1.1 302 Found\r\nLocation: http://www.example.org/acl_users/credentials_cookie_auth/require_login?came_from=x\r\n\
         Content-Length: 0\r\n\r\n",
    );
    let edge = Edge::with(&[origin.address], &plone());
    edge.get("/docs/a");
    for path in ["/docs/a", "/docs/a/edit", "/docs/object_rename", "/object_rename"] {
        // Anybody can make up a login.
        for more in ["", "Cookie: __ac=x\r\n"] {
            assert_eq!(edge.client().send(post(path, more)).reply().status, 302);
            assert!(edge.get("/docs/a").is_hit(), "{path} {more}");
        }
    }
}

#[test]
fn what_zope_shows_by_acquisition_is_purged_with_what_it_shows() {
    // As Plone 6.2 answers for a file that lies at the root, whatever path of folders is put before it.
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, s-maxage=86400, must-revalidate\r\n\
         Link: <http://www.example.org/table.pdf/@@download/file/table.pdf>; rel=\"canonical\"\r\n\
         Content-Length: 5\r\n\r\nhello",
    );
    let edge = Edge::with(&[origin.address], &plone());
    for order in ["/table.pdf/@@download/file/table.pdf", "/Plone/table.pdf/@@download/file/table.pdf"] {
        for path in ["/table.pdf", "/docs/table.pdf", "/docs/docs/table.pdf?x=1"] {
            edge.get(path);
            assert!(edge.get(path).is_hit(), "{path}");
        }
        edge.client().send(purge(order, "")).reply();
        for path in ["/table.pdf", "/docs/table.pdf", "/docs/docs/table.pdf?x=1"] {
            assert!(!edge.get(path).is_hit(), "{order} {path}");
        }
    }
}

#[test]
fn an_operator_is_told_how_much_was_forgotten() {
    let origin = Origin::saying(TAGGED);
    let edge = Edge::with(&[origin.address], &plone());
    for path in ["/docs/a", "/docs/b", "/c"] {
        edge.get(path);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let purge = |kind: &str, what: &str| {
        let wanted = Wanted { kind: Some(kind.to_owned()), what: what.to_owned(), ..Wanted::default() };
        runtime.block_on(edge.publisher.purge(wanted))
    };
    assert_eq!(purge("prefix", "/docs"), Ok("2 URLs are forgotten".to_owned()));
    assert_eq!(purge("url", "http://www.example.org/c"), Ok("1 URL is forgotten".to_owned()));
    assert_eq!(purge("tag", "u1"), Ok("nothing was stored under it".to_owned()));
    assert!(purge("url", "http://other.example/").is_err());
    assert!((edge.metric("tidegate_purge_objects_total") - 3.0).abs() < 0.1);
}

/// What Plone sends after something was edited, as it was recorded.
#[derive(serde::Deserialize)]
struct Recording {
    head: Vec<String>,
    record: Vec<Record>,
}

#[derive(serde::Deserialize)]
struct Record {
    what: String,
    reaches: Vec<String>,
    spares: Vec<String>,
    sent: Vec<String>,
}

#[test]
fn what_plone_sends_after_an_edit_reaches_all_urls_of_what_was_edited_and_no_others() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zope/purges.toml")).expect("the recording");
    let recording: Recording = toml::from_str(&text).expect("a table");
    assert!(recording.record.len() > 10);
    let origin = Origin::saying(TAGGED);
    let site = "preset = \"plone-classic\"\nzope = \"/classic\"";
    let edge = Edge::with(&[origin.address], &Change { cache: LOCAL, site, ..Change::default() });
    let head = recording.head.join("\r\n").replace('#', &edge.place(false).to_string());
    for Record { what, reaches, spares, sent } in &recording.record {
        for path in reaches.iter().chain(spares) {
            edge.get(path);
            assert!(edge.get(path).is_hit(), "{path}");
        }
        let mut plone = edge.client();
        for path in sent {
            let reply = plone.send(format!("PURGE {path} HTTP/1.1\r\n{head}\r\n\r\n")).reply();
            // Whatever else would be repeated five times.
            assert!(
                matches!(reply.status, 200 | 404) && reply.field("x-cache").is_some(),
                "{what}, {path}: {}",
                reply.head
            );
            assert_ne!(reply.field("connection"), Some("close"), "{what}, {path}");
        }
        for path in reaches {
            assert!(!edge.get(path).is_hit(), "after this {path} is as it was: {what}");
        }
        for path in spares {
            assert!(edge.get(path).is_hit(), "{path} is not concerned: {what}");
        }
    }
    assert!(origin.asked().iter().all(|asked| !asked.head.starts_with("PURGE")), "no purge reaches a Zope");
}

/// A believed origin that asks for a password and says of its pages that they are for all.
#[test]
fn what_is_fetched_with_a_password_is_waited_for_by_nobody_and_not_stored_after_a_purge() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.field("authorization").is_some() {
            of_origin.pass();
        }
        let length = "Content-Length: 5\r\n\r\nhello";
        write(stream, format!("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\n{length}").as_bytes());
        Then::Keep
    });
    let change = Change { cache: "trust_origin = true", site: "preset = \"plain\"", ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    let mut editor = edge.client();
    editor.ask("/page", "Authorization: Basic YTpi\r\n");
    origin.wait_for(1);
    assert!(!edge.get("/page").is_hit(), "it does not wait for what is asked with a password");
    assert!(edge.get("/page").is_hit());
    assert_eq!(edge.client().send(purge("/page", "")).reply().status, 200);
    gate.open();
    assert_eq!(editor.reply().text(), "hello");
    assert!(!edge.get("/page").is_hit(), "it was asked for before the purge");
    assert!(edge.ask("/page", "Authorization: Basic eDp5\r\n").is_hit());
}
