//! How the cache is filled: many wait for one answer, and whatever happens to it nobody is served less than it.

use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crate::PAGE;
use crate::PRIVATE;
use crate::client::Client;
use crate::edge::Change;
use crate::edge::Edge;
use crate::origin::Asked;
use crate::origin::DEADLINE;
use crate::origin::Gate;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

/// An origin whose script knows how many requests came before.
fn counting(script: impl Fn(usize, &Asked, &mut TcpStream) -> Then + Send + Sync + 'static) -> Origin {
    let count = Mutex::new(0);
    Origin::new(move |asked, stream| {
        let before = {
            let mut count = count.lock().expect("no panic");
            *count += 1;
            *count - 1
        };
        script(before, asked, stream)
    })
}

fn until(what: &str, good: impl Fn() -> bool) {
    let began = Instant::now();
    while !good() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        thread::yield_now();
    }
}

fn waiting(edge: &Edge, count: f64) {
    until("they wait for one fetch", || edge.metric("tidegate_cache_collapsed_requests_total{") >= count);
}

fn asking(edge: &Edge, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| edge.client()).collect();
    for client in &mut clients {
        client.ask("/", "");
    }
    clients
}

#[test]
fn when_the_first_fetch_fails_those_who_wait_go_on_with_one_new_one() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = counting(move |before, _, stream| {
        if before == 0 {
            of_origin.pass();
            return Then::Close;
        }
        write(stream, PAGE.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut clients = asking(&edge, 10);
    waiting(&edge, 9.0);
    gate.open();
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.reply().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 1, "who asked first: {statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 9, "{statuses:?}");
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn when_that_fails_too_they_are_told_so_and_no_herd_follows() {
    let gates = [Gate::default(), Gate::default()];
    let of_origin = gates.clone();
    let origin = counting(move |before, _, _| {
        of_origin[before.min(1)].pass();
        Then::Close
    });
    let edge = Edge::of(&origin);
    let mut clients = asking(&edge, 10);
    waiting(&edge, 9.0);
    gates[0].open();
    waiting(&edge, 9.0 + 8.0);
    gates[1].open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 502);
    }
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn a_client_that_leaves_does_not_end_what_others_and_the_cache_can_use() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhello");
        of_origin.pass();
        write(stream, b"world");
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut leaves = edge.client();
    leaves.ask("/", "");
    assert_eq!(leaves.head().status, 200);
    assert_eq!(leaves.read(5), b"hello");
    drop(leaves);
    gate.open();
    until("it was stored", || edge.get("/").is_hit());
    assert_eq!(edge.get("/").text(), "helloworld");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn nobody_waits_for_more_than_the_head_of_an_answer_that_is_not_for_him() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = counting(move |before, _, stream| {
        if before == 0 {
            write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 10\r\n\r\nhello");
            of_origin.pass();
            write(stream, b"world");
        } else {
            write(stream, PRIVATE.as_bytes());
        }
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut first = edge.client();
    first.ask("/", "");
    assert_eq!(first.head().status, 200);
    for mut client in asking(&edge, 10) {
        assert_eq!(client.reply().text(), "hello", "while the first answer is still under way");
    }
    gate.open();
    assert_eq!(first.read(10), b"helloworld");
    assert_eq!(origin.asked().len(), 11);
}

#[test]
fn a_page_that_becomes_public_is_shared_again_and_one_that_stays_private_is_not() {
    let public = Gate::default();
    let of_origin = public.clone();
    let origin = Origin::new(move |_, stream| {
        let answer = if of_origin.is_open() { PAGE } else { PRIVATE };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    for count in 1..4 {
        assert!(!edge.get("/").is_hit());
        assert_eq!(origin.asked().len(), count);
    }
    public.open();
    assert!(!edge.get("/").is_hit(), "it goes past the cache once more, and shows that it need not");
    assert!(!edge.get("/").is_hit(), "it is stored");
    assert!(edge.get("/").is_hit());
    assert_eq!(origin.asked().len(), 5);
}

#[test]
fn chunks_that_break_off_are_never_stored_and_trailers_end_here() {
    for (end, whole) in [("0\r\nX-Trailer: x\r\n\r\n", true), ("", false), ("5\r\nwor", false), ("x\r\n", false)] {
        let origin = Origin::new(move |_, stream| {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
            write(stream, format!("{head}5\r\nhello\r\n{end}").as_bytes());
            Then::Close
        });
        let edge = Edge::of(&origin);
        for count in 0..2 {
            let reply = edge.get("/");
            assert_eq!(reply.whole, whole, "{end:?}");
            assert_eq!(reply.is_hit(), whole && count == 1, "{end:?}: {}", reply.head);
            assert!(!whole || reply.text() == "hello");
        }
    }
}

#[test]
fn visitors_of_a_stale_page_are_served_at_once_while_one_fetch_refreshes_it() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = counting(move |before, _, stream| {
        let lifetime = "Cache-Control: max-age=60, stale-while-revalidate=600\r\nContent-Length: 3\r\n";
        if before == 0 {
            write(stream, format!("HTTP/1.1 200 OK\r\nAge: 61\r\n{lifetime}\r\nold").as_bytes());
        } else {
            of_origin.pass();
            write(stream, format!("HTTP/1.1 200 OK\r\n{lifetime}\r\nnew").as_bytes());
        }
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/").text(), "old");
    for mut client in asking(&edge, 20) {
        let reply = client.reply();
        assert!(reply.is_hit() && reply.text() == "old", "{}", reply.head);
        assert!(reply.field("cache-status").unwrap().contains("stale-while-revalidate"), "{}", reply.head);
    }
    origin.wait_for(2);
    gate.open();
    until("the new one is there", || edge.get("/").text() == "new");
    assert_eq!(origin.asked().len(), 2, "one refresh");
}

#[test]
fn a_herd_on_an_expired_page_costs_one_question() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.field("if-none-match") == Some("\"a\"") {
            of_origin.pass();
            write(stream, b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n");
        } else {
            write(
                stream,
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nAge: 61\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello",
            );
        }
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/").text(), "hello");
    let mut clients = asking(&edge, 50);
    waiting(&edge, 49.0);
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{}", reply.head);
    }
    assert_eq!(origin.asked().len(), 2);
    assert!(edge.get("/").is_hit(), "it is fresh again");
}

/// An origin that looks at the date only, of which a second has two: the tag in its 304 is of what is new.
#[test]
fn a_304_about_something_else_gives_visitors_what_is_new_and_no_error() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = counting(move |before, asked, stream| {
        let text = if before == 0 {
            format!(
                "200 OK\r\nCache-Control: max-age=60\r\nAge: 61\r\nETag: \"a\"\r\n{date}\r\nContent-Length: 3\r\n\r\nold"
            )
        } else if asked.field("if-modified-since").is_some() {
            of_origin.pass();
            format!("304 Not Modified\r\nETag: \"b\"\r\n{date}\r\n\r\n")
        } else {
            format!("200 OK\r\nCache-Control: max-age=60\r\nETag: \"b\"\r\n{date}\r\nContent-Length: 3\r\n\r\nnew")
        };
        write(stream, format!("HTTP/1.1 {text}").as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/").text(), "old");
    let mut clients = asking(&edge, 10);
    waiting(&edge, 9.0);
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "new"), "{}", reply.head);
    }
    assert!(origin.asked().len() <= 4, "a question, an answer that is believed, and one that is stored");
    let conditional = origin.asked().iter().filter(|asked| asked.field("if-none-match").is_some()).count();
    assert_eq!(conditional, 1, "what was stored is not asked about again");
}

#[test]
fn a_herd_that_wants_two_languages_costs_two_renderings() {
    let gates = [Gate::default(), Gate::default()];
    let of_origin = gates.clone();
    let origin = counting(move |before, asked, stream| {
        of_origin[before.min(1)].pass();
        let language = asked.field("accept-language").unwrap_or("none").to_owned();
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\nContent-Length: 2";
        write(stream, format!("{head}\r\n\r\n{language}").as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let languages = ["de", "nl"];
    let mut clients: Vec<(&str, Client)> = Vec::new();
    for number in 0..20 {
        let language = languages[number % 2];
        let mut client = edge.client();
        client.ask("/", &format!("Accept-Language: {language}\r\n"));
        clients.push((language, client));
    }
    waiting(&edge, 19.0);
    gates[0].open();
    // Those who wanted the other language wait for one fetch again: nine follow the tenth.
    waiting(&edge, 19.0 + 9.0);
    gates[1].open();
    for (language, client) in &mut clients {
        assert_eq!(client.reply().text(), *language);
    }
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn a_body_that_only_the_end_of_the_connection_ends_is_passed_on_and_never_stored() {
    let origin = Origin::new(|_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\n\r\nhello");
        Then::Close
    });
    let edge = Edge::of(&origin);
    for count in 1..3 {
        let reply = edge.get("/");
        assert!(reply.whole && reply.text() == "hello" && !reply.is_hit(), "{}", reply.head);
        assert_eq!(origin.asked().len(), count);
    }
}

#[test]
fn parts_are_cut_from_a_body_that_is_still_arriving() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |_, stream| {
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234");
        of_origin.pass();
        write(stream, b"56789");
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut whole = edge.client();
    whole.ask("/", "");
    assert_eq!(whole.head().status, 200);
    let early = edge.ask("/", "Range: bytes=2-3\r\n");
    assert_eq!((early.status, early.text().as_str()), (206, "23"), "before the end has come");
    let mut late = edge.client();
    late.ask("/", "Range: bytes=4-6\r\n");
    let head = late.head();
    assert_eq!((head.status, head.field("content-range")), (206, Some("bytes 4-6/10")));
    gate.open();
    assert_eq!(late.rest(head).text(), "456");
    assert_eq!(whole.read(10), b"0123456789");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn several_parts_come_in_one_answer_each_with_its_place() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789",
    );
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/").status, 200);
    let reply = edge.ask("/", "Range: bytes=7-8,0-1\r\n");
    assert_eq!(reply.status, 206);
    let kind = reply.field("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let part = |range: &str, bytes: &str| {
        format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{bytes}")
    };
    let expected = format!("{}{}\r\n--{boundary}--\r\n", part("7-8", "78"), part("0-1", "01"));
    assert_eq!(reply.text(), expected, "in the order asked for");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn a_range_of_what_may_not_be_stored_is_asked_for_by_itself() {
    let origin = Origin::new(|asked, stream| {
        let answer = match asked.field("range") {
            Some(_) => "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/10\r\nContent-Length: 2\r\n\r\n01",
            None => "HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 10\r\n\r\n0123456789",
        };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    for expected in [2, 3] {
        let reply = edge.ask("/", "Range: bytes=0-1\r\n");
        assert_eq!((reply.status, reply.text().as_str()), (206, "01"), "{}", reply.head);
        assert_eq!(origin.asked().len(), expected, "the second time it is known that nothing may be stored");
    }
}

#[test]
fn an_origin_that_fails_is_not_asked_by_each_visitor_while_stale_is_served() {
    let origin = counting(|before, _, stream| {
        let answer = match before {
            0 => "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nAge: 61\r\nContent-Length: 5\r\n\r\nhello",
            _ => "HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n",
        };
        write(stream, answer.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    for _ in 0..100 {
        let reply = edge.get("/");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{}", reply.head);
    }
    // One question in five seconds, however slow the machine is.
    assert!(origin.asked().len() < 50, "{}", origin.asked().len());
}

#[test]
fn what_must_be_revalidated_is_served_stale_only_if_the_operator_says_so() {
    for (cache, status) in [
        ("", 503),
        ("override_must_revalidate = true", 200),
        ("override_must_revalidate = true\ngrace_error = \"0s\"", 503),
    ] {
        let origin = counting(|before, _, stream| {
            let answer = match before {
                // As Plone marks files and images.
                0 => {
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, s-maxage=60, must-revalidate\r\nAge: 61\r\n\
                      Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nhello"
                }
                _ => "HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n",
            };
            write(stream, answer.as_bytes());
            Then::Keep
        });
        let edge = Edge::with(&[origin.address], &Change { cache, ..Change::default() });
        assert_eq!(edge.get("/").status, 200);
        assert_eq!(edge.get("/").status, status, "{cache}");
    }
}

#[test]
fn a_page_grows_old_as_time_passes() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=1, must-revalidate\r\nContent-Length: 5\r\n\r\nhello",
    );
    let edge = Edge::of(&origin);
    assert!(!edge.get("/").is_hit());
    until("its second is over", || {
        let reply = edge.get("/");
        let age: u64 = reply.field("age").map_or(0, |age| age.parse().expect("seconds"));
        assert!(!reply.is_hit() || age < 1, "{}", reply.head);
        origin.asked().len() > 1
    });
}

/// Ten bytes, or of them what is asked for; `more` are further lines of either head.
fn ten_bytes(asked: &Asked, stream: &mut TcpStream, more: &str) -> Then {
    let part = asked.field("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let answer = match part {
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
            let body = &"0123456789"[first..=last];
            format!(
                "HTTP/1.1 206 Partial Content\r\n{more}Content-Range: bytes {first}-{last}/10\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }
        None => format!("HTTP/1.1 200 OK\r\n{more}Content-Length: 10\r\n\r\n0123456789"),
    };
    write(stream, answer.as_bytes());
    Then::Keep
}

#[test]
fn who_jumps_into_something_large_has_it_fetched_whole_for_what_he_asks_next() {
    let origin = Origin::new(|asked, stream| ten_bytes(asked, stream, "ETag: \"a\"\r\nCache-Control: max-age=60\r\n"));
    let edge = Edge::of(&origin);
    let part = edge.ask("/film", "Range: bytes=4-5\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, "45"), "{}", part.head);
    assert_eq!(origin.wait_for(2)[1].field("range"), None, "the whole is fetched besides");
    until("it is stored", || edge.ask("/film", "Range: bytes=8-9\r\nCache-Control: only-if-cached\r\n").is_hit());
    let next = edge.ask("/film", "Range: bytes=8-9\r\n");
    assert_eq!((next.status, next.text().as_str(), next.is_hit()), (206, "89", true), "{}", next.head);
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn a_part_of_what_would_not_be_stored_has_nothing_fetched_besides() {
    for (cache, more) in [
        ("object_max = \"9B\"", "Cache-Control: max-age=60\r\n"),
        ("", "Cache-Control: private\r\n"),
        ("", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n"),
    ] {
        let origin = Origin::new(move |asked, stream| ten_bytes(asked, stream, more));
        let edge = Edge::with(&[origin.address], &Change { cache, ..Change::default() });
        for _ in 0..2 {
            assert_eq!(edge.ask("/film", "Range: bytes=4-5\r\n").text(), "45");
        }
        let asked = origin.asked();
        assert!(asked.len() == 2 && asked.iter().all(|asked| asked.field("range").is_some()), "{more}");
    }
}
