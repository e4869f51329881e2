//! Who gets how much, and who gets nothing: rate limits, body limits, lists of networks.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::PAGE;
use crate::PRIVATE;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Gate;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

fn limited<'a>(site: &'a str, more: &'a str) -> Change<'a> {
    Change { site, more, ..Change::default() }
}

#[test]
fn a_limit_counts_only_its_paths_and_methods_and_others_are_not_hindered() {
    let origin = Origin::saying(PRIVATE);
    let more = "[limit.login]\nrate = \"1/h\"\nburst = 2\nmethod = [\"post\"]\npath = [\"**/login\"]\n";
    let edge = Edge::with(&[origin.address], &limited("limits = [\"login\"]", more));
    let post = |path: &str| {
        let mut client = edge.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n"));
        client.reply()
    };
    assert_eq!([post("/login").status, post("/a/login").status], [200, 200]);
    let refused = post("/b/login");
    assert_eq!(refused.status, 429);
    assert!(refused.field("retry-after").expect("a time").parse::<u64>().expect("seconds") > 1000);
    assert_eq!(post("/b/logout").status, 200);
    assert_eq!(edge.get("/login").status, 200);
    assert!(edge.metric("tidegate_limit_decisions_total{limit=\"login\",decision=\"reject\"}") >= 1.0);
}

#[test]
fn a_limit_by_cookie_follows_the_visitor_and_one_that_only_counts_refuses_nobody() {
    let origin = Origin::saying(PRIVATE);
    let more = "[limit.session]\nkey = \"cookie/visit\"\nrate = \"1/h\"\nburst = 1\nover = \"close\"\n\
                [limit.trial]\nkey = \"all\"\nrate = \"1/h\"\nburst = 1\ndry_run = true\n";
    let edge = Edge::with(&[origin.address], &limited("limits = [\"trial\", \"session\"]", more));
    assert_eq!(edge.ask("/", "Cookie: a=b; visit=1\r\n").status, 200);
    assert_eq!(edge.ask("/", "Cookie: visit=2\r\n").status, 200);
    let mut client = edge.client();
    let refused = client.ask("/", "Cookie: visit=1\r\n").reply();
    assert_eq!((refused.status, refused.field("connection")), (429, Some("close")));
    assert!(client.is_closed());
    assert_eq!(edge.get("/").status, 200, "who has no cookie counts by address");
    assert_eq!(edge.get("/").status, 429);
    let dry = edge.metric("tidegate_limit_decisions_total{limit=\"trial\",decision=\"dry-run\"}");
    assert!(dry >= 4.0, "{dry}");
}

#[test]
fn sites_share_a_limit_or_have_it_each_for_itself() {
    for (per_site, expected) in [("", 429), ("per_site = true\n", 200)] {
        let origin = Origin::saying(PRIVATE);
        let more = format!(
            "[limit.few]\nrate = \"1/h\"\nburst = 1\n{per_site}\
             [site.\"other.example.org\"]\nupstream = \"zope\"\nlimits = [\"few\"]\n"
        );
        let edge = Edge::with(&[origin.address], &limited("limits = [\"few\"]", &more));
        let ask = |host: &str| {
            let mut client = edge.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            client.reply().status
        };
        let told = ["www.example.org", "other.example.org", "www.example.org", "other.example.org"].map(ask);
        assert_eq!(told, [200, expected, 429, 429], "{per_site}");
    }
}

#[test]
fn who_has_cost_the_origin_much_time_waits_and_hits_cost_next_to_nothing() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() == "/slow" {
            thread::sleep(Duration::from_millis(1500));
        }
        write(stream, PAGE.as_bytes());
        Then::Keep
    });
    let more = "[limit.work]\nrate = \"60/h\"\nburst = 1\ncost = \"origin-time\"\n";
    let edge = Edge::with(&[origin.address], &limited("limits = [\"work\"]", more));
    let mut client = edge.client();
    for _ in 0..20 {
        assert_eq!(client.get("/quick").status, 200);
    }
    assert_eq!(client.get("/slow").status, 200);
    let refused = client.get("/quick");
    assert_eq!(refused.status, 429, "a second of work comes back in a minute");
    let wait: u64 = refused.field("retry-after").expect("a time").parse().expect("seconds");
    assert!((10..=600).contains(&wait), "{wait}");
}

#[test]
fn who_is_over_a_limit_that_queues_last_is_served_after_the_others() {
    let gate = Gate::default();
    let door = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.target() == "/first" {
            door.pass();
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let more = "[limit.fair]\nrate = \"1/h\"\nburst = 1\npath = [\"/heavy\"]\nover = \"queue-last\"\n";
    let site = "limits = [\"fair\"]";
    let change = Change { site, more, upstream: "threads = 1", ..Change::default() };
    let edge = Edge::with(&[origin.address], &change);
    assert_eq!(edge.get("/heavy").status, 200);
    let mut clients = Vec::new();
    for (at, path) in ["/first", "/heavy", "/light"].iter().enumerate() {
        let mut client = edge.client();
        client.ask(path, "");
        clients.push(client);
        if at == 0 {
            origin.wait_for(2);
        } else {
            edge.wait_until(|edge| edge.metric("tidegate_queue_length{upstream=\"zope\",class=\"background\"}") >= 1.0);
        }
    }
    edge.wait_until(|edge| edge.metric("tidegate_queue_length{upstream=\"zope\",class=\"anonymous\"}") >= 1.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    let order: Vec<String> = origin.asked().iter().map(|asked| asked.target().to_owned()).collect();
    assert_eq!(order, ["/heavy", "/first", "/light", "/heavy"]);
}

#[test]
fn bodies_have_a_bound_of_their_own_by_path() {
    let origin = Origin::saying(PRIVATE);
    let site = "body = \"1KiB\"\nbody_for = [\"/uploads/** 64KiB\", \"**/login 10B\"]";
    let edge = Edge::with(&[origin.address], &limited(site, ""));
    for (path, bytes, status) in [
        ("/a", 1024, 200),
        ("/a", 1025, 413),
        ("/uploads/a", 65_536, 200),
        ("/uploads/a", 65_537, 413),
        ("/uploads/login", 11, 200),
        ("/login", 11, 413),
    ] {
        let mut client = edge.client();
        let head = format!("POST {path} HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: {bytes}\r\n\r\n");
        client.send(head).send(vec![b'x'; bytes]);
        assert_eq!(client.reply().status, status, "{path} {bytes}");
    }
}

#[test]
fn lists_of_networks_are_read_from_files_at_each_reload() {
    let origin = Origin::saying(PRIVATE);
    let dir = tempfile::TempDir::new().expect("a directory");
    let list = dir.path().join("bad.txt");
    fs::write(&list, "# nobody yet\n").expect("a file");
    let site = format!("deny_files = [\"{}\"]", list.display());
    let change = limited(&site, "");
    let edge = Edge::with(&[origin.address], &change);
    assert_eq!(edge.get("/").status, 200);
    fs::write(&list, "127.0.0.0/8 # us\n").expect("a file");
    edge.reload(&[origin.address], &change).expect("a good configuration");
    assert_eq!(edge.get("/").status, 403);
    fs::write(&list, "127.0.0.0/8\nnonsense\n").expect("a file");
    let told = edge.reload(&[origin.address], &change).expect_err("a bad list");
    assert!(told.contains("bad.txt") && told.contains("line 2: `nonsense` is no network"), "{told}");
    assert_eq!(edge.get("/").status, 403, "the old list stays in force");

    let server = "deny = [\"127.0.0.1\"]";
    edge.reload(&[origin.address], &Change { server, ..Change::default() }).expect("a good configuration");
    assert!(edge.client().is_closed(), "who is denied everywhere is not even heard");
    assert!(edge.metric("tidegate_connections_rejected_total{reason=\"denied\"}") >= 1.0);
}

#[test]
fn a_trusted_proxy_tells_whose_connection_it_brings_and_nobody_else_may() {
    let origin = Origin::saying(PRIVATE);
    let with = |server| Change { server, limits: "per_client = 1", ..Change::default() };
    let required = with("proxy_protocol = \"required\"\ntrusted = [\"127.0.0.1\"]");
    let edge = Edge::with(&[origin.address], &required);
    let get = "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n";
    let mut one = edge.client();
    assert_eq!(one.send(format!("PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n{get}")).reply().status, 200);
    assert_eq!(origin.asked()[0].field("x-forwarded-for"), Some("192.0.2.1"));
    let mut again = edge.client();
    assert!(again.send(format!("PROXY TCP4 192.0.2.1 127.0.0.1 6 80\r\n{get}")).is_closed(), "one is enough for him");
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x02\x7f\0\0\x01\0\x05\0\x50".to_vec();
    v2.extend_from_slice(get.as_bytes());
    let mut other = edge.client();
    for byte in v2 {
        other.send([byte]);
    }
    assert_eq!(other.reply().status, 200);
    assert_eq!(origin.asked()[1].field("x-forwarded-for"), Some("192.0.2.2"));
    assert!(edge.client().send(get).is_closed(), "it must be told");
    assert!(edge.client().send("PROXY TCP4 nonsense\r\n").is_closed());
    assert!(edge.metric("tidegate_connections_rejected_total{reason=\"proxy_header\"}") >= 2.0);

    let optional = with("proxy_protocol = \"optional\"\ntrusted = [\"127.0.0.1\"]");
    edge.reload(&[origin.address], &optional).expect("a good configuration");
    assert_eq!(edge.client().send(get).reply().status, 200);
    let stranger = with("proxy_protocol = \"required\"\ntrusted = [\"192.0.2.0/24\"]");
    edge.reload(&[origin.address], &stranger).expect("a good configuration");
    assert!(edge.client().send(format!("PROXY TCP4 192.0.2.1 127.0.0.1 5 80\r\n{get}")).is_closed());
}
