//! What becomes of visitors when endpoints hang, fail, lose their storage, change their addresses or their set.

use std::fs;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tidegate::control::status;
use tidegate::telemetry::metrics::GONE_FOR;
use tidegate::telemetry::metrics::SwitchCause;
use tidegate::upstream::Hold;
use tidegate::upstream::Listed;
use tidegate::upstream::Upstream;
use tidegate::upstream::machine::health::Evidence;

use crate::PRIVATE;
use crate::client::Client;
use crate::edge::Change;
use crate::edge::Edge;
use crate::nowhere;
use crate::origin::Asked;
use crate::origin::DEADLINE;
use crate::origin::Gate;
use crate::origin::Origin;
use crate::origin::Then;
use crate::origin::write;

const ME: &str = "Cookie: __ac=me\r\n";
const ERROR: &[u8] = b"HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n";
/// A page that is stale at once and may be served so.
const STALE: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello";

/// The head of a page that is fresh for a while.
const FRESH: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\n";

fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn upstream(edge: &Edge) -> Arc<Upstream> {
    let snapshot = edge.publisher.house().snapshots.load_full();
    Arc::clone(snapshot.upstreams.values().next().expect("an upstream"))
}

fn in_flight(edge: &Edge) -> usize {
    upstream(edge).view().endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
}

fn targets(origin: &Origin) -> Vec<String> {
    origin.asked().iter().map(|asked| asked.target().to_owned()).collect()
}

#[test]
fn rules_say_who_goes_first() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let rules = "\"background path /export/*\", \"editor cookie preview\", \"anonymous agent feedreader\"";
    let upstream_lines = format!("threads = 1\nqueue = {{ classes = [{rules}] }}");
    let edge = Edge::with(&[origin.address], &Change { upstream: &upstream_lines, ..Change::default() });
    let mut clients = Vec::new();
    for (at, path, fields) in [
        (0, "/first", ME),
        (1, "/export/1", ME),
        (2, "/visitor", "User-Agent: FeedReader bot\r\n"),
        (3, "/preview", "Cookie: a=b; preview=1\r\n"),
    ] {
        let mut client = edge.client();
        client.ask(path, fields);
        until("it stands in line", || upstream(&edge).view().waiting == at && in_flight(&edge) == 1);
        clients.push(client);
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    // An anonymous page that turned out to be for one only is asked for once more with its visitor's cookies, after all.
    assert_eq!(targets(&origin)[..4], ["/first", "/preview", "/visitor", "/export/1"]);
}

#[test]
fn a_cookie_leads_back_to_the_same_endpoint_and_does_not_reach_it() {
    let origins = [Origin::saying(PRIVATE), Origin::saying(PRIVATE)];
    let change = Change { upstream: "sticky = \"way\"\npin = \"0s\"", ..Change::default() };
    let edge = Edge::with(&[origins[0].address, origins[1].address], &change);
    let first = edge.ask("/first", ME);
    let set = first.field("set-cookie").expect("a cookie");
    assert!(set.contains("; Path=/; HttpOnly; SameSite=Lax") && !set.contains("Secure"), "{set}");
    let cookie = set.split(';').next().expect("name and value");
    let home = usize::from(origins[1].asked().len() == 1);
    for _ in 0..6 {
        let reply = edge.ask("/again", &format!("Cookie: __ac=me; {cookie}; b=c\r\n"));
        assert!(reply.status == 200 && reply.field("set-cookie").is_none(), "he has it: {}", reply.head);
    }
    assert_eq!([origins[home].asked().len(), origins[1 - home].asked().len()], [7, 0]);
    assert_eq!(origins[home].asked()[6].field("cookie"), Some("__ac=me; b=c"));
    let drained = origins[home].address.to_string();
    edge.publisher.drain("zope", &drained, true).expect("there is such an endpoint");
    let moved = edge.ask("/moved", &format!("Cookie: __ac=me; {cookie}\r\n"));
    assert!(moved.status == 200 && moved.field("set-cookie").is_some(), "a new way: {}", moved.head);
    assert!(edge.ask("/x", "Cookie: __ac=me; way=nonsense\r\n").status == 200);
}

#[test]
fn a_503_is_tried_elsewhere_when_asked_for_and_a_form_never_is() {
    let busy = || {
        Origin::new(|_, stream| {
            write(stream, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            Then::Keep
        })
    };
    for (asked_for, reads) in [("retry_503 = true", [200, 200]), ("", [503, 200])] {
        let (sick, well) = (busy(), Origin::saying(PRIVATE));
        let lines = format!("balance = \"round-robin\"\npin = \"0s\"\n{asked_for}");
        let edge = Edge::with(&[sick.address, well.address], &Change { upstream: &lines, ..Change::default() });
        let mut seen = [edge.ask("/1", ME).status, edge.ask("/2", ME).status];
        seen.sort_unstable();
        let mut expected = reads;
        expected.sort_unstable();
        assert_eq!(seen, expected, "{asked_for}");
        let form = "POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n";
        for _ in 0..2 {
            edge.client().send(form).reply();
        }
        let forms = |origin: &Origin| targets(origin).iter().filter(|target| *target == "/form").count();
        assert_eq!([forms(&sick), forms(&well)], [1, 1], "each went once, and one of them in vain");
    }
}

#[test]
fn who_leaves_before_an_answer_is_told_of() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let dir = tempfile::TempDir::new().expect("a directory");
    let access = dir.path().join("access");
    let log = format!("access = \"combined\"\naccess_file = \"{}\"", access.display());
    let edge = Edge::with(&[origin.address], &Change { log: &log, ..Change::default() });
    for (count, fields) in [(1, ME), (2, "")] {
        let mut impatient = edge.client();
        impatient.ask("/reload", fields);
        origin.wait_for(count);
        drop(impatient);
    }
    let left = "tidegate_http_client_aborts_total{site=\"www.example.org\",phase=\"upstream\"}";
    edge.wait_until(|edge| edge.metric(left) >= 2.0);
    gate.open();
    assert!(edge.metric("tidegate_http_client_aborts_total{site=\"www.example.org\",phase=\"body\"}") < 1.0);
    until("the access log tells it", || {
        let lines = fs::read_to_string(&access).unwrap_or_default();
        lines.lines().filter(|line| line.contains("GET /reload HTTP/1.1\" 499 ")).count() == 2
    });
}

#[test]
fn the_access_log_names_the_endpoint_that_failed_and_tells_of_retries() {
    let (sick, well) = (Origin::new(|_, _| Then::Close), Origin::saying(PRIVATE));
    let dir = tempfile::TempDir::new().expect("a directory");
    let access = dir.path().join("access");
    let log = format!("access = \"json\"\naccess_file = \"{}\"", access.display());
    let lines = |count: usize| {
        until("the access log tells it", || fs::read_to_string(&access).unwrap_or_default().lines().count() == count);
        fs::read_to_string(&access).expect("it is there").lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let edge = Edge::with(&[sick.address], &Change { log: &log, ..Change::default() });
    // Once for himself, once for everybody.
    assert_eq!([edge.ask("/", ME).status, edge.get("/").status], [502, 502]);
    for line in lines(2) {
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line is JSON");
        assert_eq!((&line["why"], &line["endpoint"]), (&"reset".into(), &sick.address.to_string().into()), "{line}");
        assert!(line.get("retries").is_none(), "{line}");
    }
    drop(edge);
    fs::remove_file(&access).expect("it is there");
    let edge = Edge::with(&[nowhere(), well.address], &Change { log: &log, ..Change::default() });
    assert_eq!([edge.ask("/", ME).status, edge.ask("/", ME).status], [200, 200]);
    let told: Vec<serde_json::Value> = lines(2).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(told.iter().all(|line| line["endpoint"] == well.address.to_string()), "{told:?}");
    assert_eq!(told[0]["retries"], 1, "{told:?}");
}

#[test]
fn who_leaves_does_not_free_the_thread_that_works_for_him() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut impatient = edge.client();
    impatient.ask("/reload", ME);
    origin.wait_for(1);
    drop(impatient);
    until("he is seen to have left", || upstream(&edge).view().endpoints[0].abandoned == 1);
    let mut next = edge.client();
    next.ask("/next", ME);
    until("the next one waits", || upstream(&edge).view().waiting == 1);
    assert_eq!(origin.asked().len(), 1, "the origin still works for the first");
    gate.open();
    assert_eq!(next.reply().status, 200);
    until("all is free again", || in_flight(&edge) == 0 && upstream(&edge).view().endpoints[0].abandoned == 0);
    assert_eq!(origin.most_at_once(), 1);
}

#[test]
fn who_leaves_an_endpoint_that_is_down_already_holds_none_of_its_threads() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut patient = edge.client();
    patient.ask("/page", ME);
    origin.wait_for(1);
    let endpoint = Arc::clone(&upstream(&edge).standing().members[0].endpoint);
    (0..3).for_each(|_| upstream(&edge).learn(&endpoint, Evidence::Broken));
    assert_eq!((upstream(&edge).view().endpoints[0].state, in_flight(&edge)), ("down", 1));
    drop(patient);
    until("its thread is free", || in_flight(&edge) == 0);
    gate.open();
}

#[test]
fn an_endpoint_whose_visitors_all_leave_is_known_to_answer() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::of(&origin);
    let mut impatient = edge.client();
    impatient.ask("/page", ME);
    origin.wait_for(1);
    drop(impatient);
    until("he is seen to have left", || upstream(&edge).view().endpoints[0].abandoned == 1);
    gate.open();
    until("the answer counts", || upstream(&edge).view().endpoints[0].answered == 1);
}

#[test]
fn idle_connections_to_an_endpoint_that_was_taken_away_are_closed() {
    let (stays, goes) = (Origin::saying(PRIVATE), Origin::saying(PRIVATE));
    let both = [goes.address, stays.address];
    let edge = Edge::with(&both, &Change::default());
    assert_eq!(edge.ask("/page", ME).status, 200);
    let idle = || upstream(&edge).view().endpoints[0].idle;
    until("one connection is kept", || idle() == 1);
    edge.reload(&both[1..], &Change::default()).expect("a good file");
    upstream(&edge).patrol();
    edge.reload(&both, &Change::default()).expect("a good file");
    assert_eq!(idle(), 0);
}

#[test]
fn idle_connections_of_an_upstream_that_was_taken_away_are_closed() {
    let origin = Origin::saying(PRIVATE);
    let edge = Edge::of(&origin);
    assert_eq!(edge.ask("/page", ME).status, 200);
    let old = upstream(&edge);
    until("one connection is kept", || old.view().endpoints[0].idle == 1);
    let text = fs::read_to_string(edge.config()).expect("its file").replace("zope", "plone");
    fs::write(edge.config(), text).expect("a file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(edge.publisher.reload()).expect("a good file");
    until("it is closed", || old.view().endpoints[0].idle == 0);
}

#[test]
fn an_upstream_that_is_taken_away_and_comes_back_keeps_its_connections() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.target() == "/hangs" {
            of_origin.pass();
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let mut hangs = edge.client();
    hangs.ask("/hangs", ME);
    origin.wait_for(1);
    let reload = |text: &str| {
        fs::write(edge.config(), text).expect("a file");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(edge.publisher.reload()).expect("a good file");
    };
    let (text, old) = (fs::read_to_string(edge.config()).expect("its file"), upstream(&edge));
    assert_eq!(edge.ask("/page", ME).status, 200);
    until("one connection is kept", || old.view().endpoints[0].idle == 1);
    reload(&text.replace("zope", "plone"));
    until("it is closed, though a request is under way", || old.view().endpoints[0].idle == 0);
    reload(&text);
    until("it is looked after again", || {
        assert_eq!(edge.ask("/page", ME).status, 200);
        old.view().endpoints[0].idle == 1
    });
    let begun = Instant::now();
    until("whoever would close it has had the time", || begun.elapsed() > Duration::from_millis(1500));
    assert_eq!((old.view().endpoints[0].idle, in_flight(&edge)), (1, 1));
    gate.open();
}

#[test]
fn who_waits_while_a_reload_brings_another_endpoint_is_served_and_counted_there() {
    let gate = Gate::default();
    let (busy, new) = (Origin::gated(&gate, PRIVATE), Origin::saying(PRIVATE));
    let edge = Edge::with(&[busy.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut first = edge.client();
    first.ask("/first", ME);
    busy.wait_for(1);
    let mut waits = edge.client();
    waits.ask("/waits", ME);
    until("he waits", || upstream(&edge).view().waiting == 1);
    edge.reload(&[new.address], &Change { upstream: "threads = 1", ..Change::default() }).expect("a good file");
    assert_eq!(waits.reply().status, 200);
    let set = upstream(&edge).view().active;
    let counted =
        format!("tidegate_upstream_requests_total{{upstream=\"zope\",set=\"{set}\",backend=\"{}\"", new.address);
    assert!((edge.metric(&counted) - 1.0).abs() < 0.1, "{counted}");
    gate.open();
    assert_eq!(first.reply().status, 200);
}

#[test]
fn a_backup_serves_while_the_others_hang_and_who_comes_back_gets_all_of_its_threads_beside_it() {
    let gate = Gate::default();
    let (first, backup) = (Origin::gated(&gate, PRIVATE), Origin::saying(PRIVATE));
    let lines = format!(
        "threads = 4\nset.main = [\"{}\", \"{} backup\"]\nactive = \"main\"\ncheck = {{ kind = \"off\", stuck = \"1ms\" }}",
        first.address, backup.address
    );
    let edge = Edge::with(&[], &Change { upstream: &lines, ..Change::default() });
    let mut hanging: Vec<Client> = (0..2).map(|_| edge.client()).collect();
    for client in &mut hanging {
        client.ask("/hangs", ME);
    }
    first.wait_for(2);
    until("it is seen to be stuck", || {
        upstream(&edge).patrol();
        upstream(&edge).view().endpoints[0].stuck
    });
    assert_eq!(edge.ask("/page", ME).status, 200);
    assert_eq!(targets(&backup), ["/page"]);
    gate.open();
    for client in &mut hanging {
        assert_eq!(client.reply().status, 200);
    }
    let main = Arc::clone(&upstream(&edge).standing().members[0].endpoint);
    (0..3).for_each(|_| upstream(&edge).learn(&main, Evidence::Broken));
    upstream(&edge).learn(&main, Evidence::Trial);
    let seen = upstream(&edge).view();
    assert_eq!((seen.endpoints[0].state, seen.endpoints[0].limit), ("warming", 4));
}

#[test]
fn who_has_written_at_an_endpoint_that_hangs_since_is_served_elsewhere() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let script = move |asked: &Asked, stream: &mut std::net::TcpStream| {
        if asked.target() == "/hangs" {
            of_origin.pass();
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    };
    let origins = [Origin::new(script.clone()), Origin::new(script)];
    let servers = [origins[0].address, origins[1].address];
    let lines = "threads = 2\npin = \"1h\"\ncheck = { kind = \"off\", stuck = \"1ms\" }";
    let edge = Edge::with(&servers, &Change { upstream: lines, ..Change::default() });
    let form = format!("POST /write HTTP/1.1\r\nHost: www.example.org\r\n{ME}Content-Length: 0\r\n\r\n");
    assert_eq!(edge.client().send(form).reply().status, 200);
    let mut hanging: Vec<Client> = (0..2).map(|_| edge.client()).collect();
    for client in &mut hanging {
        client.ask("/hangs", ME);
    }
    until("both hang where he has written", || in_flight(&edge) == 2);
    until("it is seen to be stuck", || {
        upstream(&edge).patrol();
        upstream(&edge).view().endpoints.iter().any(|endpoint| endpoint.stuck)
    });
    assert_eq!(edge.ask("/read", ME).status, 200);
    gate.open();
    for client in &mut hanging {
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn when_the_origin_ends_a_tunnel_its_thread_is_free_whatever_the_client_does() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() != "/socket" {
            write(stream, PRIVATE.as_bytes());
            return Then::Keep;
        }
        write(stream, b"HTTP/1.1 101 Other\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye");
        Then::Close
    });
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut socket = edge.client();
    socket.ask("/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    assert_eq!(socket.head().status, 101);
    assert_eq!(socket.read(3), b"bye");
    assert_eq!(edge.ask("/page", ME).status, 200, "the client has not closed its side");
}

#[test]
fn who_lets_a_set_serve_of_which_nobody_is_up_is_told_so() {
    let origin = Origin::saying(PRIVATE);
    let set = format!("set = {{ main = [\"{}\"], spare = [\"{}\"] }}\nactive = \"main\"", origin.address, nowhere());
    let edge = Edge::with(&[], &Change { upstream: &set, ..Change::default() });
    let spare = Arc::clone(&upstream(&edge).standing().members[1].endpoint);
    (0..3).for_each(|_| upstream(&edge).learn(&spare, Evidence::Broken));
    let told = edge.publisher.use_set("zope", "spare", SwitchCause::Admin).expect("there is such a set");
    assert!(told.contains("no endpoint of `spare` is up"), "{told}");
    let told = edge.publisher.use_set("zope", "main", SwitchCause::Admin).expect("there is such a set");
    assert!(!told.contains("no endpoint"), "{told}");
}

#[test]
fn who_leaves_while_he_waits_costs_the_origin_nothing() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 1", ..Change::default() });
    let mut first = edge.client();
    first.ask("/first", ME);
    origin.wait_for(1);
    let mut leaving: Vec<Client> = (0..6).map(|_| edge.client()).collect();
    for (at, client) in leaving.iter_mut().enumerate() {
        // Some for themselves, some for everybody, two of these for the same page.
        client.ask(&format!("/{}", at / 2), if at % 3 == 0 { ME } else { "" });
    }
    until("they wait", || upstream(&edge).view().waiting >= 5);
    drop(leaving);
    until("nobody waits", || upstream(&edge).view().waiting == 0);
    // Six clients left; of their requests two waited as one.
    let left = |phase| {
        edge.metric(&format!("tidegate_http_client_aborts_total{{site=\"www.example.org\",phase=\"{phase}\"}}"))
    };
    until("all are seen to have left the line", || left("queue") + left("upstream") >= 6.0);
    assert!(left("upstream") < 1.0, "nothing of theirs was sent");
    until("the line says why", || {
        edge.metric("tidegate_queue_rejected_total{upstream=\"zope\",reason=\"client_gone\"}") >= 5.0
    });
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(edge.ask("/last", ME).status, 200);
    assert_eq!(targets(&origin), ["/first", "/last"]);
}

#[test]
fn endpoints_that_hang_are_spared_and_stale_is_served_until_they_answer() {
    let (gate, hangs) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let (of_origin, hang) = (gate.clone(), Arc::clone(&hangs));
    let origin = Origin::new(move |asked, stream| {
        if hang.load(Ordering::SeqCst) {
            of_origin.pass();
        }
        write(stream, if asked.target() == "/stored" { STALE } else { PRIVATE }.as_bytes());
        Then::Keep
    });
    let lines = "threads = 4\ncheck = { kind = \"off\", stuck = \"200ms\" }\nqueue = { hold = \"1ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream: lines, ..Change::default() });
    assert_eq!(edge.get("/stored").status, 200);
    hangs.store(true, Ordering::SeqCst);
    let mut hanging: Vec<Client> = (0..2).map(|_| edge.client()).collect();
    for client in &mut hanging {
        client.ask("/hangs", ME);
    }
    until("it is seen to be stuck", || upstream(&edge).view().endpoints[0].stuck);
    let stale = edge.get("/stored");
    assert!(stale.status == 200 && stale.field("cache-status").unwrap().contains("stale"), "{}", stale.head);
    let mut trial = edge.client();
    trial.ask("/trial", ME);
    origin.wait_for(4);
    let refused = edge.ask("/refused", ME);
    assert!(refused.status == 503 && refused.field("retry-after").is_some(), "no fourth thread is burnt");
    let shown = status::words(&status::json(&edge.publisher));
    assert!(
        shown.contains("NO ENDPOINT SERVES: requests are refused") && shown.contains("stuck: 2 requests"),
        "{shown}"
    );
    gate.open();
    for client in hanging.iter_mut().chain([&mut trial]) {
        assert_eq!(client.reply().status, 200);
    }
    until("it is well", || !upstream(&edge).is_out());
    assert_eq!(edge.ask("/well", ME).status, 200);
}

#[test]
fn who_waits_for_a_page_that_hangs_reads_what_is_stored_as_soon_as_an_outage_is_known() {
    let (gate, hangs) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let (of_origin, hang) = (gate.clone(), Arc::clone(&hangs));
    let origin = Origin::new(move |_, stream| {
        if hang.load(Ordering::SeqCst) {
            of_origin.pass();
        }
        write(stream, STALE.as_bytes());
        Then::Keep
    });
    let edge = Edge::of(&origin);
    assert_eq!(edge.get("/stored").status, 200);
    hangs.store(true, Ordering::SeqCst);
    let mut clients: Vec<Client> = (0..3).map(|_| edge.client()).collect();
    clients[0].ask("/stored", "");
    origin.wait_for(2);
    for client in &mut clients[1..] {
        client.ask("/stored", "");
    }
    until("two wait with the first", || edge.metric("tidegate_cache_collapsed_requests_total{") > 1.5);
    edge.publisher.hold("zope", true).expect("there is such an upstream");
    for client in &mut clients {
        let stale = client.reply();
        assert!(stale.status == 200 && stale.is_hit(), "the origin has not answered: {}", stale.head);
    }
    assert!(!gate.is_open() && origin.asked().len() == 2);
    edge.publisher.hold("zope", false).expect("there is such an upstream");
    gate.open();
}

#[test]
fn websockets_that_last_are_no_sign_of_an_endpoint_that_hangs_and_turn_nobody_away() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() == "/socket" {
            write(stream, b"HTTP/1.1 101 Other\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            let _ = std::io::copy(stream, &mut std::io::sink());
            return Then::Close;
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let lines = "threads = 3\ncheck = { kind = \"off\", stuck = \"1ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream: lines, ..Change::default() });
    let mut sockets: Vec<Client> = (0..2).map(|_| edge.client()).collect();
    for socket in &mut sockets {
        socket.ask("/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        assert_eq!(socket.head().status, 101);
    }
    let heard = Instant::now();
    until("they have lasted", || heard.elapsed() > Duration::from_millis(5));
    let before = Arc::downgrade(&edge.publisher.house().snapshots.load_full());
    upstream(&edge).patrol();
    let shown = status::words(&status::json(&edge.publisher));
    assert!(shown.contains(" as a tunnel: GET http://www.example.org/socket from 127.0.0.1"), "{shown}");
    edge.reload(&[origin.address], &Change { upstream: lines, ..Change::default() }).expect("good");
    until("nobody needs the old configuration", || before.strong_count() == 0);
    let seen = upstream(&edge).view();
    assert!(!seen.endpoints[0].stuck && !seen.out && seen.endpoints[0].in_flight == 2, "{seen:?}");
    drop(sockets);
    until("their threads are free", || in_flight(&edge) == 0);
    assert_eq!(upstream(&edge).view().service_ms, None, "nobody will wait as long as they have lasted");
}

#[test]
fn an_endpoint_that_fails_beside_others_rests_and_comes_back() {
    let sick = Arc::new(AtomicBool::new(true));
    let of_origin = Arc::clone(&sick);
    let bad = Origin::new(move |_, stream| {
        write(stream, if of_origin.load(Ordering::SeqCst) { ERROR } else { PRIVATE.as_bytes() });
        Then::Keep
    });
    let good = Origin::saying(PRIVATE);
    let lines = "balance = \"round-robin\"\ncheck = { kind = \"off\", rest = \"300ms\" }\nwarmup = { ramp = \"1ms\" }";
    let edge = Edge::with(&[bad.address, good.address], &Change { upstream: lines, ..Change::default() });
    let failed = || (0..10).filter(|_| edge.ask("/", ME).status == 500).count();
    assert!(failed() > 0);
    until("it rests", || {
        edge.ask("/", ME);
        upstream(&edge).view().endpoints.iter().any(|endpoint| endpoint.state == "down")
    });
    let shown = upstream(&edge).view().endpoints.iter().map(|endpoint| endpoint.last_error.clone()).collect::<String>();
    assert!(shown.contains("stands out"), "{shown}");
    sick.store(false, Ordering::SeqCst);
    let before = bad.asked().len();
    until("it serves again", || edge.ask("/", ME).status == 200 && bad.asked().len() > before + 3);
}

#[test]
fn a_page_that_the_lost_storage_turned_into_an_error_waits_for_it_and_is_asked_again() {
    let gate = Gate::default();
    let (of_origin, first) = (gate.clone(), AtomicBool::new(true));
    let origin = Origin::new(move |asked, stream| {
        if asked.target() == "/form" || first.swap(false, Ordering::SeqCst) {
            of_origin.pass();
            write(stream, ERROR);
        } else {
            write(stream, PRIVATE.as_bytes());
        }
        Then::Keep
    });
    let edge = Edge::of(&origin);
    let (mut page, mut form) = (edge.client(), edge.client());
    page.ask("/page", ME);
    origin.wait_for(1);
    form.send("POST /form HTTP/1.1\r\nHost: www.example.org\r\nContent-Length: 0\r\n\r\n");
    origin.wait_for(2);
    upstream(&edge).hold(Hold::Takeover, true);
    gate.open();
    assert_eq!(form.reply().status, 500, "a form that may have been acted upon is not repeated");
    until("the page waits", || upstream(&edge).view().waiting == 1);
    assert_eq!(origin.asked().len(), 2);
    upstream(&edge).hold(Hold::Takeover, false);
    assert_eq!(page.reply().status, 200);
    assert_eq!(targets(&origin), ["/page", "/form", "/page"]);
}

#[test]
fn what_the_old_set_says_late_is_told_to_who_asked_and_not_stored() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let old = Origin::new(move |_, stream| {
        of_origin.pass();
        write(stream, format!("{FRESH}old").as_bytes());
        Then::Keep
    });
    let new = Origin::new(|_, stream| {
        write(stream, format!("{FRESH}new").as_bytes());
        Then::Keep
    });
    let lines = format!("active = \"old\"\nset.old = [\"{}\"]\nset.new = [\"{}\"]", old.address, new.address);
    let edge = Edge::with(&[], &Change { upstream: &lines, ..Change::default() });
    let mut early = edge.client();
    early.ask("/page", "");
    old.wait_for(1);
    edge.publisher.use_set("zope", "new", SwitchCause::Heartbeat).expect("there is such a set");
    gate.open();
    assert_eq!(early.reply().text(), "old");
    let later = edge.get("/page");
    assert!(later.text() == "new" && !later.is_hit(), "{}", later.head);
    assert!(edge.get("/page").is_hit());
    assert_eq!((upstream(&edge).epoch(), old.asked().len(), new.asked().len()), (1, 1, 1));
    let switched = "tidegate_upstream_set_switches_total{upstream=\"zope\",set=\"new\",cause=\"heartbeat\"}";
    assert!((edge.metric(switched) - 1.0).abs() < 0.1);
}

#[test]
fn after_a_hold_those_who_waited_come_one_by_one() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let edge = Edge::with(&[origin.address], &Change { upstream: "threads = 8", ..Change::default() });
    upstream(&edge).hold(Hold::Takeover, true);
    let mut parked: Vec<Client> = (0..20).map(|_| edge.client()).collect();
    for client in &mut parked {
        client.ask("/", ME);
    }
    until("they wait", || upstream(&edge).view().waiting == 20);
    let shown = status::words(&status::json(&edge.publisher));
    assert!(shown.contains("20 waiting (20 editor) of at most 400") && shown.contains("HELD by takeover"), "{shown}");
    upstream(&edge).hold(Hold::Takeover, false);
    origin.wait_for(1);
    assert_eq!((in_flight(&edge), upstream(&edge).view().waiting), (1, 19), "the first has the way to himself");
    gate.open();
    for client in &mut parked {
        assert_eq!(client.reply().status, 200);
    }
    assert!((edge.metric("tidegate_hold_released_total{upstream=\"zope\",result=\"served\"}") - 20.0).abs() < 0.1);
    assert!(edge.metric("tidegate_hold_seconds_count{upstream=\"zope\"}") > 19.0);
}

/// A name server that says what it is told, with a lifetime of a second; AAAA has no records.
fn name_server(answer: Arc<Mutex<Vec<[u8; 4]>>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            count.fetch_add(1, Ordering::SeqCst);
            // The question ends after the name's last label, a type and a class.
            let end = query[12..len].iter().position(|byte| *byte == 0).map_or(len, |at| 12 + at + 5).min(len);
            let wants_v4 = query[end - 3] == 1;
            let addresses = if wants_v4 { answer.lock().expect("no panic").clone() } else { Vec::new() };
            let mut reply = query[..end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[6..12].copy_from_slice(&[0, addresses.len().to_be_bytes()[7], 0, 0, 0, 0]);
            for address in addresses {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                reply.extend(address);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    (address, asked)
}

#[test]
fn every_address_of_a_name_is_an_endpoint_for_as_long_as_the_name_has_it() {
    let first = Origin::saying(PRIVATE);
    let port = first.address.port();
    let second = Origin::at(SocketAddr::from(([127, 0, 0, 2], port)), |_, stream| {
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let answer = Arc::new(Mutex::new(vec![[127, 0, 0, 1]]));
    let (server, asked) = name_server(Arc::clone(&answer));
    let lines = format!("set.main = [\"dns+zope.test:{port}\"]\nactive = \"main\"\nresolver = [\"{server}\"]");
    let edge = Edge::with(&[], &Change { upstream: &lines, ..Change::default() });
    let purge = || edge.client().send("PURGE /a HTTP/1.1\r\nHost: proxy\r\n\r\n").reply().status;
    let addresses = || {
        let view = upstream(&edge).view();
        view.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect::<Vec<_>>()
    };
    assert_eq!(edge.ask("/waits-for-the-name", ME).status, 200);
    assert_eq!(addresses(), [format!("127.0.0.1:{port}")]);
    assert_eq!(purge(), 404, "an endpoint may purge as soon as its name is known");
    *answer.lock().expect("no panic") = vec![[127, 0, 0, 2], [127, 0, 0, 1]];
    until("there are two", || addresses().len() == 2);
    for _ in 0..4 {
        assert_eq!(edge.ask("/", ME).status, 200);
    }
    assert!(!second.asked().is_empty() && first.asked().len() > 1);
    *answer.lock().expect("no panic") = vec![[127, 0, 0, 2]];
    until("there is one", || addresses() == [format!("127.0.0.2:{port}")]);
    let before = first.asked().len();
    assert_eq!(edge.ask("/", ME).status, 200);
    assert_eq!(first.asked().len(), before, "it is none any more");
    assert_eq!(purge(), 403, "and may not purge any more");
    answer.lock().expect("no panic").clear();
    let seen = asked.load(Ordering::SeqCst);
    until("the name has no address", || asked.load(Ordering::SeqCst) > seen + 1);
    assert_eq!(edge.ask("/", ME).status, 200, "its last address stays in use");
    let (up, failing) = ("tidegate_upstream_name_up{", "tidegate_upstream_name_failing_seconds{");
    until("status says so", || {
        let shown = status::words(&status::json(&edge.publisher));
        shown.contains("NO ANSWER for ") && shown.contains("its last 1 address in use") && shown.contains("no record")
    });
    assert!(edge.metric(up) < 0.5 && edge.metric(failing) > 0.0);
    *answer.lock().expect("no panic") = vec![[127, 0, 0, 2]];
    until("it has an answer again", || edge.metric(up) > 0.5 && edge.metric(failing) == 0.0);
    assert!(
        edge.metric(&format!(
            "tidegate_upstream_name_lookups_total{{upstream=\"zope\",name=\"zope.test:{port}\",result=\"absent\"}}"
        )) > 0.5
    );
    answer.lock().expect("no panic").clear();
    edge.reload(&[], &Change { upstream: &lines, ..Change::default() }).expect("good");
    assert_eq!(addresses(), [format!("127.0.0.2:{port}")], "a reload forgets no name");
}

/// What `tidegate status --requests` says.
fn told_of(edge: &Edge) -> (String, serde_json::Value) {
    let json = status::json_with(&edge.publisher, Listed::All);
    (status::words(&json), json)
}

#[test]
fn status_names_the_requests_that_hold_threads_and_those_that_wait() {
    let gate = Gate::default();
    let origin = Origin::gated(&gate, PRIVATE);
    let upstream_lines = "threads = 1\ncheck = { kind = \"off\", stuck = \"100ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream: upstream_lines, ..Change::default() });
    let (mut holds, mut waits) = (edge.client(), edge.client());
    holds.ask("/slow/\u{e4}?report=1", ME);
    origin.wait_for(1);
    let numbers = |edge: &Edge| upstream(edge).view().endpoints[0].requests.clone();
    until("it takes long", || !numbers(&edge).is_empty());
    waits.send(format!("POST /form HTTP/1.1\r\nHost: www.example.org\r\n{ME}Content-Length: 5\r\n\r\nhello"));
    until("the next one waits", || upstream(&edge).view().waiting == 1);
    let shown = status::words(&status::json(&edge.publisher));
    let named =
        "waiting for the answer: GET http://www.example.org/slow/%C3%A4?report=1 from 127.0.0.1, site www.example.org";
    assert!(shown.contains(named) && !shown.contains("/form"), "{shown}");
    let (shown, json) = told_of(&edge);
    assert!(shown.contains(named) && shown.contains("in line    "), "{shown}");
    let line = &json["upstreams"][0]["line"][0];
    assert_eq!(
        (&line["method"], &line["phase"], &line["number"]),
        (&"POST".into(), &"line".into(), &().into()),
        "{line}"
    );
    drop(holds);
    until("his client is seen to have left", || numbers(&edge).iter().any(|request| request.abandoned));
    gate.open();
    assert_eq!(waits.reply().status, 200);
    until("nothing is under way", || {
        told_of(&edge).1["upstreams"][0]["endpoints"][0]["requests"] == serde_json::json!([])
    });
}

#[test]
fn visitors_who_read_slowly_do_not_make_a_zope_stuck_and_status_says_what_they_do() {
    let gate = Gate::default();
    let of_origin = gate.clone();
    let origin = Origin::new(move |asked, stream| {
        if asked.target() == "/quick" {
            write(stream, PRIVATE.as_bytes());
            return Then::Keep;
        }
        write(stream, b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 5\r\n\r\nhe");
        of_origin.pass();
        write(stream, b"llo");
        Then::Keep
    });
    let upstream_lines = "threads = 4\ncheck = { kind = \"off\", stuck = \"50ms\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream: upstream_lines, ..Change::default() });
    let mut slow: Vec<Client> = (0..2).map(|_| edge.client()).collect();
    for client in &mut slow {
        client.ask("/big", ME);
        assert_eq!(client.head().status, 200);
    }
    until("both take long", || {
        let requests = &upstream(&edge).view().endpoints[0].requests;
        requests.len() == 2 && requests.iter().all(|request| request.phase == "body")
    });
    upstream(&edge).patrol();
    assert!(!upstream(&edge).view().endpoints[0].stuck);
    assert!(!upstream(&edge).is_out());
    assert_eq!(edge.ask("/quick", ME).status, 200);
    gate.open();
}

#[test]
fn an_upstream_that_a_reload_takes_away_leaves_the_gauges_and_its_counters_for_the_next_scrapes() {
    let (origin, other) = (Origin::saying(PRIVATE), Origin::saying(PRIVATE));
    let more = format!(
        "[site.\"other.example.org\"]\nupstream = \"other\"\n[upstream.other]\nservers = [\"{}\"]\n\
         check = {{ kind = \"off\" }}\n",
        other.address
    );
    let with = Change { more: &more, ..Change::default() };
    let edge = Edge::with(&[origin.address], &with);
    assert_eq!(edge.client().send("GET / HTTP/1.1\r\nHost: other.example.org\r\n\r\n").reply().status, 200);
    let shows = |begins: &str, names: &str| {
        let (_, page) = edge.publisher.house().metrics.encode();
        page.lines().any(|line| line.starts_with(begins) && line.contains(names))
    };
    let (gone, stays) = ("upstream=\"other\"", "upstream=\"zope\"");
    let gauges = ["tidegate_upstream_state{", "tidegate_queue_length{", "tidegate_upstream_active_set{"];
    assert!(gauges.iter().all(|gauge| shows(gauge, gone) && shows(gauge, stays)));
    edge.reload(&[origin.address], &Change::default()).expect("good");
    until("its gauges are gone", || gauges.iter().all(|gauge| !shows(gauge, gone) && shows(gauge, stays)));
    let counter = "tidegate_upstream_requests_total{";
    assert!(shows(counter, gone), "the last answers are counted in the next scrape");
    edge.publisher.house().metrics.forget_the_gone(Instant::now() + GONE_FOR);
    assert!(!shows(counter, gone), "and ten minutes later it is forgotten");
    assert!(!shows("tidegate_http_requests_total{", "other.example.org"));
    edge.reload(&[origin.address], &with).expect("good");
    assert_eq!(edge.client().send("GET / HTTP/1.1\r\nHost: other.example.org\r\n\r\n").reply().status, 200);
    assert!(gauges.iter().all(|gauge| shows(gauge, gone)) && shows(counter, gone), "it is back");
}

#[test]
fn a_page_that_breaks_its_connection_does_not_take_the_only_zope_away() {
    let origin = Origin::new(|asked, stream| {
        if asked.target() == "/poison" {
            return Then::Close;
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let lines = "check = { kind = \"tcp\", every = \"10min\" }";
    let edge = Edge::with(&[origin.address], &Change { upstream: lines, ..Change::default() });
    for _ in 0..5 {
        assert_eq!(edge.ask("/poison", ME).status, 502);
    }
    assert_eq!(edge.ask("/page", ME).status, 200);
    assert!(edge.metric("tidegate_upstream_state_changes_total{") < 0.5, "it was up all the time");
    assert!(edge.metric("tidegate_hold_seconds_count{") < 0.5, "and nobody waited");
}

#[test]
fn an_only_zope_that_drops_all_requests_is_found_out_by_checks_that_hurry() {
    let sick = Arc::new(AtomicBool::new(false));
    let is_sick = Arc::clone(&sick);
    let origin = Origin::new(move |_, stream| {
        if is_sick.load(Ordering::SeqCst) {
            return Then::Close;
        }
        write(stream, PRIVATE.as_bytes());
        Then::Keep
    });
    let lines = "check = { path = \"/alive\", every = \"10min\", fall = 3 }";
    let edge = Edge::with(&[origin.address], &Change { upstream: lines, ..Change::default() });
    let checks = "tidegate_upstream_checks_total{";
    until("it is checked", || edge.metric(checks) > 0.5);
    sick.store(true, Ordering::SeqCst);
    assert_eq!(edge.ask("/page", ME).status, 502);
    until("it is seen to be down", || upstream(&edge).view().endpoints[0].state == "down");
}
