//! What a running tidegate tells operators about itself: as JSON for programs, in words for people.

use crate::control::publisher::Publisher;
use crate::upstream::Listed;
use crate::upstream::UpstreamView;
use serde_json::Value;
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;

/// Why this tidegate should get no visitors now, if there is a reason.
#[must_use]
pub fn not_ready(publisher: &Publisher) -> Option<String> {
    let snapshot = publisher.house().snapshots.load_full();
    if publisher.is_stopping() {
        return Some("stopping".to_owned());
    }
    let down = snapshot.upstreams.values().find(|upstream| !upstream.anyone_open());
    down.map(|upstream| format!("no endpoint of upstream {} is up", upstream.name()))
}

/// Everything, as JSON, with the requests that take long.
#[must_use]
pub fn json(publisher: &Publisher) -> Value {
    json_with(publisher, Listed::Long)
}

/// Everything, as JSON, with these requests.
#[must_use]
pub fn json_with(publisher: &Publisher, listed: Listed) -> Value {
    let house = publisher.house();
    let snapshot = house.snapshots.load_full();
    let upstreams: Vec<UpstreamView> = snapshot.upstreams.values().map(|upstream| upstream.view_with(listed)).collect();
    let listeners: Vec<Value> = publisher
        .places()
        .iter()
        .map(|(tls, addr)| json!({ "scheme": if *tls { "https" } else { "http" }, "address": addr.to_string() }))
        .collect();
    let sites: Vec<Value> = snapshot
        .sites()
        .iter()
        .map(|site| {
            let root = site.zope.as_ref().map(|zope| zope.root().to_owned());
            json!({ "name": site.name.to_string(), "zope": root, "upstream": site.upstream.name().to_string(),
                "frontend": site.frontend.as_ref().map(|frontend| frontend.name().to_string()), "cache": site.cache })
        })
        .collect();
    let tier = house.cache.tier();
    let memory = json!({ "name": tier.name, "objects": tier.objects, "bytes": tier.bytes, "capacity": tier.capacity,
        "evictions": tier.evictions, "refusals": tier.refusals });
    let told = house.access.told();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": not_ready(publisher).is_none(),
        "not_ready": not_ready(publisher),
        "uptime_seconds": publisher.uptime().as_secs(),
        "connections": publisher.connections(),
        "listeners": listeners,
        "sites": sites,
        "upstreams": upstreams,
        "cache": { "tiers": [memory], "disk": disk(publisher), "filling_bytes": house.cache.fills().used() },
        "access_log": { "written": told.written, "dropped": told.dropped, "failed": told.failed },
    })
}

/// The part of the cache on the disk.
fn disk(publisher: &Publisher) -> Value {
    let Some(disk) = publisher.house().cache.disk() else { return Value::Null };
    let view = disk.view();
    let reads: serde_json::Map<String, Value> =
        view.reads.iter().map(|(word, count)| ((*word).to_owned(), json!(count))).collect();
    json!({ "phase": view.phase, "objects": view.entries, "bytes": view.bytes, "capacity": view.capacity,
        "reads": reads, "waiting": view.waiting, "records": view.records, "written_bytes": view.written, "errors": view.errors })
}

/// The same in words.
#[must_use]
pub fn words(status: &Value) -> String {
    let mut text = String::new();
    let line = |text: &mut String, label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label:<12} {value}");
    };
    let ready = match status["not_ready"].as_str() {
        None => "ready".to_owned(),
        Some(why) => format!("NOT READY: {why}"),
    };
    line(
        &mut text,
        "tidegate",
        format!("{}, up {}, {ready}", string(&status["version"]), ago(&status["uptime_seconds"])),
    );
    let listeners =
        each(&status["listeners"], |one| format!("{}://{}", string(&one["scheme"]), string(&one["address"])));
    line(&mut text, "listeners", format!("{} ({} connections open)", listeners.join(" "), status["connections"]));
    for site in each(&status["sites"], |site| {
        let root = site["zope"].as_str().map_or_else(String::new, |root| format!(" at {root}"));
        let cache = if site["cache"] == true { "" } else { ", not cached" };
        let frontend = site["frontend"].as_str().map_or_else(String::new, |frontend| format!(", pages by {frontend}"));
        format!("{} -> {}{root}{frontend}{cache}", string(&site["name"]), string(&site["upstream"]))
    }) {
        line(&mut text, "site", site);
    }
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        line(&mut text, "upstream", self::upstream(upstream));
        for endpoint in upstream["endpoints"].as_array().into_iter().flatten() {
            line(&mut text, "", self::endpoint(endpoint));
            for request in each(&endpoint["requests"], request) {
                line(&mut text, "", format!("           {request}"));
            }
            if let Some(more) = endpoint["requests_unlisted"].as_u64().filter(|more| *more > 0) {
                line(
                    &mut text,
                    "",
                    format!("           and {more} more; `tidegate status --requests` names a hundred"),
                );
            }
        }
        for request in each(&upstream["line"], request) {
            line(&mut text, "", format!("in line    {request}"));
        }
        for name in each(&upstream["names"], name) {
            line(&mut text, "", name);
        }
        for storage in each(&upstream["storage"], storage) {
            line(&mut text, "", storage);
        }
    }
    for tier in each(&status["cache"]["tiers"], |tier| {
        format!(
            "{}: {} URLs, {} of {}",
            string(&tier["name"]),
            tier["objects"],
            bytes(&tier["bytes"]),
            bytes(&tier["capacity"])
        )
    }) {
        line(&mut text, "cache", tier);
    }
    let kept = &status["cache"]["disk"];
    if kept.is_object() {
        let (used, capacity) = (bytes(&kept["bytes"]), bytes(&kept["capacity"]));
        let how = match kept["phase"].as_str() {
            Some("reading") => ", being read",
            Some("failed") => ", FAILED: it is not used",
            _ => "",
        };
        line(&mut text, "cache", format!("disk: {} URLs, {used} of {capacity}{how}", kept["objects"]));
    }
    let dropped =
        status["access_log"]["dropped"].as_u64().unwrap_or(0) + status["access_log"]["failed"].as_u64().unwrap_or(0);
    if dropped > 0 {
        line(&mut text, "access log", format!("{dropped} lines lost"));
    }
    text
}

fn upstream(upstream: &Value) -> String {
    let waiting = &upstream["waiting"];
    let mut head =
        format!("{}: set {} serves, {waiting} waiting", string(&upstream["name"]), string(&upstream["active"]));
    let classes = upstream["waiting_by_class"].as_object().into_iter().flatten();
    let waits: Vec<String> = classes
        .filter(|(_, count)| count.as_u64() > Some(0))
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    // Writing to a String cannot fail.
    if !waits.is_empty() {
        let _ = write!(head, " ({})", waits.join(", "));
    }
    let _ = write!(head, " of at most {}", upstream["queue_max"]);
    if let Some(scales) = upstream["waiting_scales"].as_u64().filter(|scales| *scales > 0) {
        let _ = write!(head, ", {scales} scales of images wait besides");
    }
    if let Some(service) = upstream["service_ms"].as_u64() {
        let _ = write!(head, ", {service} ms a request");
    }
    let reasons = upstream["held"].as_object().into_iter().flatten();
    let reasons: Vec<String> = reasons.map(|(why, seconds)| format!("{why} for {}", ago(seconds))).collect();
    if !reasons.is_empty() {
        let _ = write!(head, ", HELD by {}", reasons.join(", "));
    } else if upstream["out"] == true {
        head.push_str(", NO ENDPOINT SERVES");
    }
    if upstream["out"] == true {
        match upstream["hold_left"].as_u64() {
            Some(left) => {
                let _ = write!(head, ": requests wait for {left}s more");
            }
            None => head.push_str(": requests are refused"),
        }
    }
    head
}

fn storage(storage: &Value) -> String {
    let known = match (storage["last_tid"].as_str(), storage["clients"].as_u64()) {
        (Some(tid), Some(clients)) => format!(", last transaction {tid}, {clients} clients"),
        _ => String::new(),
    };
    format!("storage    {:<22} {}{known}", string(&storage["address"]), string(&storage["state"]))
}

/// A name among the endpoints.
fn name(name: &Value) -> String {
    let addresses = match name["addresses"].as_array().map_or(0, Vec::len) {
        1 => "1 address".to_owned(),
        count => format!("{count} addresses"),
    };
    let state = match (name["answers"].as_bool(), name["addresses"].as_array().is_some_and(|list| !list.is_empty())) {
        (None, _) => "is being looked up".to_owned(),
        (Some(true), _) => addresses,
        (Some(false), known) => {
            let last = if known { format!("its last {addresses} in use") } else { "no address known".to_owned() };
            format!("NO ANSWER for {}, {last} ({})", ago(&name["failing"]), string(&name["error"]))
        }
    };
    format!("name       {:<22} {state}", string(&name["name"]))
}

fn endpoint(endpoint: &Value) -> String {
    let stuck = endpoint["stuck"] == true;
    let told = |error: &&str| !error.is_empty() && (stuck || endpoint["state"] == "down");
    let error = endpoint["last_error"].as_str().filter(told);
    let abandoned = endpoint["abandoned"].as_u64().filter(|count| *count > 0);
    format!(
        "{:<10} {:<22} {:<8} for {:<8} {}/{} in flight{}, {} answered{}",
        string(&endpoint["set"]),
        string(&endpoint["address"]),
        string(&endpoint["state"]),
        ago(&endpoint["seconds"]),
        endpoint["in_flight"],
        endpoint["limit"],
        abandoned.map_or_else(String::new, |count| format!(" ({count} without a client)")),
        endpoint["answered"],
        error.map_or_else(String::new, |error| format!(" ({error})")),
    )
}

/// A request under way, or in line.
fn request(request: &Value) -> String {
    let age = request["age_ms"].as_u64().unwrap_or(0);
    let age = if age < 10_000 { format!("{age}ms") } else { ago(&(age / 1000).into()) };
    let phase = match request["phase"].as_str() {
        Some("head") => " waiting for the answer",
        Some("body") => " reading the answer",
        Some("tunnel") => " as a tunnel",
        _ => "",
    };
    let left = if request["abandoned"] == true { ", its client has left" } else { "" };
    let number = request["number"].as_u64().map_or_else(String::new, |number| format!(", number {number}"));
    format!(
        "{age}{phase}: {} {} from {}, site {}{number}{left}",
        string(&request["method"]),
        string(&request["url"]),
        string(&request["client"]),
        string(&request["site"]),
    )
}

fn each(list: &Value, show: impl Fn(&Value) -> String) -> Vec<String> {
    list.as_array().into_iter().flatten().map(show).collect()
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn ago(seconds: &Value) -> String {
    let seconds = seconds.as_u64().unwrap_or(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn bytes(value: &Value) -> String {
    let bytes = value.as_u64().unwrap_or(0);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// What `tidegate pair status` says, in words.
#[must_use]
pub fn pair_words(status: &Value) -> String {
    let pair = &status["pair"];
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<12} {} ({}), epoch {}, {}",
        "node",
        string(&status["node"]),
        string(&status["role"]),
        pair["epoch"],
        string(&pair["phase"])
    );
    let active = pair["active"].as_str().unwrap_or("nobody");
    let silent = silence(status, active).filter(|ms| *ms >= status["timing_ms"]["dead"].as_u64().unwrap_or(u64::MAX));
    let heard = silent
        .map_or_else(String::new, |ms| format!(", last heard {:.1} s ago", Duration::from_millis(ms).as_secs_f64()));
    let _ = writeln!(text, "{:<12} {active}{heard}", "active");
    if let Some(why) = pair["why"].as_str() {
        let _ = writeln!(text, "{:<12} {why}\n{:<12} {}", "REFUSED", "remedy", string(&pair["remedy"]));
    }
    if let Some(left) = status["lease_left_ms"].as_u64() {
        let _ = writeln!(text, "{:<12} ends in {left} ms unless renewed", "lease");
    }
    if status["maintenance"] == true {
        let _ = writeln!(text, "{:<12} nothing is done: `tidegate pair maintenance off` ends it", "maintenance");
    }
    for copy in status["copies"].as_array().into_iter().flatten() {
        let (node, tid) = (string(&copy["node"]), string(&copy["tid"]));
        let behind = match copy["behind_seconds"].as_f64() {
            Some(seconds) if seconds > 0.0 => format!(", {seconds:.3} s behind the active's"),
            _ => String::new(),
        };
        let _ = writeln!(text, "{:<12} {node} has transaction {tid}{behind}", "copy");
    }
    for link in status["links"].as_array().into_iter().flatten() {
        let heard = match link["last_heard_ms"].as_u64() {
            Some(ms) => format!("heard {ms} ms ago, longest gap {} ms", link["gap_max_ms"]),
            None => "never heard".to_owned(),
        };
        let _ = writeln!(text, "{:<12} {} on link {}: {heard}", "link", string(&link["node"]), link["link"]);
    }
    if let Some(forecast) = status["if_the_active_died_now"].as_str() {
        let _ = writeln!(text, "{:<12} {forecast}", "if it died");
    }
    for report in status["reports"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:<12} epoch {} by {}, {}, proof {}{}",
            "takeover",
            report["epoch"],
            string(&report["by"]),
            string(&report["at"]),
            report["proof"].as_str().unwrap_or("none"),
            report["ordered_by"].as_str().map_or_else(String::new, |who| format!(" ordered by {who}"))
        );
    }
    text
}

/// What somebody should know who is about to force a takeover on the member whose status this is.
#[must_use]
pub fn takeover_words(status: &Value) -> String {
    let own = string(&status["node"]);
    let other = status["copies"].as_array().into_iter().flatten().map(|copy| string(&copy["node"]));
    let other = status["pair"]["active"]
        .as_str()
        .filter(|active| *active != own)
        .or_else(|| other.clone().find(|node| *node != own));
    let other = other.unwrap_or("the other member");
    let mut text =
        format!("nothing is ordered without --force. By it you declare that {other} is off. What {own} knows:\n");
    let heard = silence(status, other).map_or_else(
        || format!("{other} was never heard since {own} was started"),
        |ms| format!("{other} was heard {:.1} s ago", Duration::from_millis(ms).as_secs_f64()),
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  {heard}; {own} is {}, the pair is {}",
        string(&status["role"]),
        string(&status["pair"]["phase"])
    );
    if let Some(why) = status["pair"]["why"].as_str() {
        let _ = writeln!(text, "  {why}");
    }
    for copy in status["copies"].as_array().into_iter().flatten().filter(|copy| copy["node"] == own) {
        let behind = copy["behind_seconds"].as_f64().unwrap_or(0.0);
        let _ = if behind > 0.0 {
            writeln!(
                text,
                "  its copy lacks the last {behind:.3} s of what was committed: those transactions will be lost"
            )
        } else {
            writeln!(text, "  its copy has every transaction that {own} has heard of")
        };
    }
    let heard = silence(status, other).is_some_and(|ms| ms < status["timing_ms"]["dead"].as_u64().unwrap_or(0));
    let _ = if heard {
        writeln!(
            text,
            "It is heard, so it is not off, and such an order is refused: `tidegate pair switchover` there gives the role away"
        )
    } else {
        writeln!(
            text,
            "If {other} runs all the same, both will serve, and writes will be lost: look at its power, not at the network. Then:\n  \
             tidegate pair takeover --force"
        )
    };
    text
}

/// For how long nothing was heard of a node on any link, in milliseconds, if ever.
fn silence(status: &Value, node: &str) -> Option<u64> {
    let links = status["links"].as_array().into_iter().flatten().filter(|link| link["node"] == node);
    links.filter_map(|link| link["last_heard_ms"].as_u64()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_would_force_a_takeover_is_told_first_what_he_declares_and_what_is_known() {
        let status = |heard: u64, behind: f64| {
            json!({
                "node": "b", "role": "bidding", "timing_ms": { "dead": 1200 },
                "pair": { "active": "a", "epoch": 1, "phase": "refused", "why": "nothing proves it", "remedy": "look" },
                "links": [{ "node": "a", "link": 1, "last_heard_ms": null }, { "node": "a", "link": 2, "last_heard_ms": heard }],
                "copies": [{ "node": "b", "tid": "0x2", "behind_seconds": behind }],
                "reports": [{ "epoch": 1, "by": "b", "at": "today", "proof": "operator", "ordered_by": "root" }],
            })
        };
        let told = takeover_words(&status(7_100, 2.5));
        for part in
            ["that a is off", "a was heard 7.1 s ago", "nothing proves it", "lacks the last 2.500 s", "--force\n"]
        {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
        let told = takeover_words(&status(100, 0.0));
        assert!(
            told.contains("every transaction") && told.contains("switchover") && !told.ends_with("--force\n"),
            "{told}"
        );
        let shown = pair_words(&status(7_100, 0.0));
        assert!(shown.contains("active       a, last heard 7.1 s ago\n"), "{shown}");
        assert!(shown.contains("proof operator ordered by root\n"), "{shown}");
        assert!(pair_words(&status(100, 0.0)).contains("active       a\n"));
    }
}
