use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

fn record() -> Record<'static> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_521_600_123),
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: "GET",
        host: b"www.example.org",
        target: b"/news?page=2",
        version: Version::HTTP_11,
        status: 200,
        bytes: 5120,
        duration: Duration::from_micros(1234),
        cache: "uri-miss",
        why: None,
        site: Some("www.example.org"),
        upstream: None,
        endpoint: None,
        queue: None,
        first_byte: None,
        retries: 0,
        referer: None,
        user_agent: None,
        tls: None,
        request_id: None,
    }
}

fn line(format: Format, record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    line::format(format, record, &mut out);
    out
}

fn text(format: Format, record: &Record<'_>) -> String {
    String::from_utf8(line(format, record)).unwrap()
}

#[test]
fn json_tells_what_is_known_and_leaves_out_the_rest() {
    assert_eq!(
        text(Format::Json, &record()),
        "{\"time\":\"2026-11-24T12:00:00.123Z\",\"client\":\"192.0.2.7\",\"method\":\"GET\",\
         \"host\":\"www.example.org\",\"target\":\"/news?page=2\",\"protocol\":\"HTTP/1.1\",\"status\":200,\
         \"bytes\":5120,\"duration_ms\":1.234,\"cache\":\"uri-miss\",\"site\":\"www.example.org\"}\n"
    );
    let endpoint = OriginAddr::parse("[::1]:8080").unwrap();
    let full = Record {
        why: Some("set_cookie"),
        upstream: Some("zope"),
        endpoint: Some(&endpoint),
        queue: Some(Duration::ZERO),
        first_byte: Some(Duration::from_millis(80)),
        retries: 1,
        referer: Some(b"https://example.org/"),
        user_agent: Some(b"probe/1"),
        tls: Some("TLSv1.3"),
        request_id: Some("7f"),
        client: "2001:db8::1".parse().unwrap(),
        version: Version::HTTP_2,
        ..record()
    };
    let value: Value = serde_json::from_slice(&line(Format::Json, &full)).unwrap();
    for (key, expected) in [
        ("why", "set_cookie"),
        ("upstream", "zope"),
        ("endpoint", "[::1]:8080"),
        ("referer", "https://example.org/"),
        ("user_agent", "probe/1"),
        ("tls", "TLSv1.3"),
        ("request_id", "7f"),
        ("client", "2001:db8::1"),
        ("protocol", "HTTP/2.0"),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    assert_eq!(value["queue_ms"], 0.0);
    assert_eq!(value["first_byte_ms"], 80.0);
    assert_eq!(value["retries"], 1);
    assert_eq!(value.get("lossy"), None);
}

#[test]
fn combined_is_apaches_with_two_more_columns() {
    let record = Record { referer: Some(b"https://example.org/"), user_agent: Some(b"probe \"1\""), ..record() };
    assert_eq!(
        text(Format::Combined, &record),
        "192.0.2.7 - - [24/Nov/2026:12:00:00 +0000] \"GET /news?page=2 HTTP/1.1\" 200 5120 \
         \"https://example.org/\" \"probe \\\"1\\\"\" uri-miss 1.234\n"
    );
    let empty = Record { bytes: 0, ..record };
    let empty = Record { referer: None, user_agent: None, ..empty };
    assert!(text(Format::Combined, &empty).ends_with(" 200 - \"-\" \"-\" uri-miss 1.234\n"));
}

#[test]
fn what_a_client_sends_ends_neither_a_line_nor_a_field() {
    let hostile = "/\"}\n{\"a\":\"\u{85}\u{2028}\u{1b}[31m\\".as_bytes();
    let record = Record { target: hostile, user_agent: Some(b"\xff\x00\r\n"), ..record() };
    let json = text(Format::Json, &record);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["target"], std::str::from_utf8(hostile).unwrap());
    assert_eq!(value["user_agent"], "\u{fffd}\0\r\n");
    assert_eq!(value["lossy"], true);
    assert!(json.contains("\\u0085\\u2028\\u001b[31m\\\\"), "{json}");
    let combined = text(Format::Combined, &record);
    assert!(combined.contains("/\\\"}\\n{\\\"a\\\":\\\"\\xc2\\x85\\xe2\\x80\\xa8\\x1b[31m\\\\ HTTP/1.1"), "{combined}");
    assert!(combined.contains("\"\\xff\\x00\\r\\n\""), "{combined}");
}

#[test]
fn a_monster_is_cut_and_the_line_says_so() {
    let monster = vec![b'a'; line::FIELD_MAX + 1];
    let record = Record { referer: Some(&monster), ..record() };
    let value: Value = serde_json::from_slice(&line(Format::Json, &record)).unwrap();
    assert_eq!(value["referer"].as_str().unwrap().len(), line::FIELD_MAX);
    assert_eq!(value["cut"], true);
    assert!(text(Format::Combined, &record).contains("aaa...\" \"-\""));
}

/// The bytes that Apache's escapes stand for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next().unwrap() {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'x' => {
                let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            }
            other => out.push(other),
        }
    }
    out
}

/// The fields of a combined line that stand in quotes.
fn quoted(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once('"') {
        let mut escaped = false;
        let end = after
            .bytes()
            .position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            })
            .unwrap();
        fields.push(after[..end].to_owned());
        rest = &after[end + 1..];
    }
    fields
}

proptest! {
    #[test]
    fn any_bytes_make_one_line_that_is_read_back(
        host in vec(any::<u8>(), 0..40),
        target in vec(any::<u8>(), 0..200),
        referer in vec(any::<u8>(), 0..80),
        agent in ".{0,40}",
        seconds in 0_u64..10_000_000_000,
    ) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let record = Record {
            time, host: &host, target: &target, referer: Some(&referer), user_agent: Some(agent.as_bytes()), ..record()
        };
        let json = text(Format::Json, &record);
        prop_assert_eq!(json.lines().count(), 1);
        let ends = json.ends_with("}\n");
        prop_assert!(ends);
        let breaks = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}';
        let broken = json.trim_end_matches('\n').contains(breaks);
        prop_assert!(!broken);
        let value: Value = serde_json::from_str(&json).unwrap();
        let fields = [("host", &host), ("target", &target), ("referer", &referer)];
        for (key, bytes) in fields {
            prop_assert_eq!(value[key].as_str().unwrap(), String::from_utf8_lossy(bytes));
        }
        prop_assert_eq!(value["user_agent"].as_str().unwrap(), &agent);
        let lossy = fields.iter().any(|(_, bytes)| std::str::from_utf8(bytes).is_err());
        prop_assert_eq!(value.get("lossy").is_some(), lossy);

        let combined = text(Format::Combined, &record);
        prop_assert_eq!(combined.lines().count(), 1);
        prop_assert!(combined.trim_end_matches('\n').bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
        let found = quoted(&combined);
        prop_assert_eq!(found.len(), 3);
        let asked = [b"GET ", target.as_slice(), b" HTTP/1.1"].concat();
        prop_assert_eq!(unescape(&found[0]), asked);
        prop_assert_eq!(unescape(&found[1]), referer);
        prop_assert_eq!(unescape(&found[2]), agent.as_bytes());
    }
}

const SOON: Duration = Duration::from_secs(20);

fn log_to(path: &Path, queue: usize) -> AccessLog {
    let settings = AccessSettings { format: Format::Json, target: Target::File(path.to_owned()), queue };
    AccessLog::start(&settings, Instant::now).unwrap()
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn every_line_is_written_dropped_or_failed_and_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = log_to(&path, 500);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2000).for_each(|_| log.write(&record())));
        }
    });
    assert!(log.flush(SOON));
    let told = log.told();
    assert_eq!((told.written + told.dropped, told.failed), (8000, 0));
    assert_eq!(lines(&path), usize::try_from(told.written).unwrap());
    assert!(fs::read_to_string(&path).unwrap().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(log.close(SOON));
    log.write(&record());
    assert_eq!(log.told().dropped, told.dropped + 1, "what comes after the end is counted");
    assert!(log.close(SOON), "closing twice is no harm");
}

#[test]
fn reopening_follows_log_rotation_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = log_to(&path, 100);
    log.write(&record());
    assert!(log.flush(SOON));
    fs::rename(&path, &old).unwrap();
    log.write(&record());
    log.reopen();
    assert!(log.flush(SOON));
    log.write(&record());
    assert!(log.close(SOON));
    assert_eq!((lines(&old), lines(&path)), (2, 1));
    assert_eq!(log.told(), Told { written: 3, dropped: 0, failed: 0 });
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = log_to(&path, 100);
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    assert!(log.flush(SOON));
    log.write(&record());
    assert!(log.close(SOON));
    assert_eq!(lines(&old), 1);
}

#[test]
fn a_full_disk_is_counted_and_stops_nobody() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let log = log_to(Path::new("/dev/full"), 100);
    log.write(&record());
    log.write(&record());
    assert!(log.flush(SOON));
    log.write(&record());
    assert!(log.close(SOON));
    assert_eq!(log.told(), Told { written: 0, dropped: 0, failed: 3 });
}

#[test]
fn a_place_that_is_not_there_is_told_at_the_start() {
    let target = Target::File(PathBuf::from("/nowhere/at/all/access.log"));
    let settings = AccessSettings { format: Format::Json, target, queue: 10 };
    let error = AccessLog::start(&settings, Instant::now).unwrap_err();
    assert!(
        crate::telemetry::chain(&error).starts_with("open the access log /nowhere/at/all/access.log: No such file")
    );
}

#[test]
fn a_log_that_is_off_is_silent() {
    let settings = AccessSettings { format: Format::Off, target: Target::Stdout, queue: 10 };
    let log = AccessLog::start(&settings, Instant::now).unwrap();
    log.write(&record());
    assert!(!log.is_on() && log.flush(SOON) && log.close(SOON));
    assert_eq!(log.told(), Told::default());
}
