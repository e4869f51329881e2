//! From heartbeat's `ha.cf` and `haresources` to a `[heartbeat]` section, as far as they say the same; the rest is said in comments.

use std::fmt::Write;

/// What was found in the two files.
#[derive(Default)]
struct Found {
    nodes: Vec<String>,
    timing: Vec<(&'static str, String)>,
    port: String,
    peers: Vec<String>,
    remarks: Vec<String>,
    address: Option<(String, String)>,
    scripts: Vec<Vec<String>>,
    watchdog: bool,
}

/// A configuration that does what the two files did, with a comment wherever a person has to decide something.
#[must_use]
pub fn toml(ha_cf: &str, haresources: &str) -> String {
    let mut found = Found { port: "694".to_owned(), ..Found::default() };
    for line in lines(ha_cf) {
        directive(&line, &mut found);
    }
    for line in lines(haresources) {
        resources(&line, &mut found);
    }
    write(&found)
}

/// The lines that say something, in words. A line that ends in a backslash goes on.
fn lines(text: &str) -> Vec<Vec<String>> {
    let whole = text.replace("\\\n", " ");
    let said = whole.lines().map(|line| line.split('#').next().unwrap_or_default());
    said.map(|line| line.split_whitespace().map(str::to_owned).collect())
        .filter(|words: &Vec<String>| !words.is_empty())
        .collect()
}

fn directive(words: &[String], found: &mut Found) {
    let [name, values @ ..] = words else { return };
    let first = values.first().map_or("", String::as_str);
    match name.as_str() {
        "node" => found.nodes.extend(values.iter().map(|node| node.to_lowercase())),
        "keepalive" => time("interval", first, found),
        "warntime" => time("warn", first, found),
        "deadtime" => {
            time("dead", first, found);
            time("lease", first, found);
        }
        "initdead" => time("initdead", first, found),
        "udpport" => first.clone_into(&mut found.port),
        "ucast" => found.peers.extend(values.get(1).cloned()),
        "bcast" | "mcast" => {
            let remark = format!("`{}`: name the addresses of both nodes on that network in `links`", words.join(" "));
            found.remarks.push(remark);
        }
        "watchdog" => found.watchdog = true,
        "stonith" | "stonith_host" => {
            // Passwords stand in these lines.
            let kind = if name == "stonith" { first } else { values.get(1).map_or("", String::as_str) };
            let remark = format!(
                "`{name}` of type {kind}: write it as [[heartbeat.fence]] with kind = \"external\" and a password_file"
            );
            found.remarks.push(remark);
        }
        "auto_failback" if first != "off" => {
            found
                .remarks
                .push("`auto_failback`: there is none; `tidegate pair switchover` moves the role back".to_owned());
        }
        "ping" | "ping_group" => {
            found.remarks.push(format!("`{}`: a witness says more than a ping; put one near it", words.join(" ")));
        }
        "serial" | "baud" => found.remarks.push(format!("`{}`: serial links are not supported", words.join(" "))),
        _ => {}
    }
}

/// heartbeat's times are seconds, unless they end in `ms`.
fn time(key: &'static str, text: &str, found: &mut Found) {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let whole = number.parse::<u64>().is_ok();
    match unit {
        "ms" if whole => found.timing.push((key, text.to_owned())),
        "" | "s" if whole => found.timing.push((key, format!("{number}s"))),
        _ => match number.parse::<f64>() {
            Ok(seconds) if unit.is_empty() && (0.0..1e6).contains(&seconds) => {
                found.timing.push((key, format!("{:.0}ms", seconds * 1000.0)));
            }
            _ => found.remarks.push(format!("the time `{text}` of `{key}` is not understood")),
        },
    }
}

fn resources(words: &[String], found: &mut Found) {
    let [_, resources @ ..] = words else { return };
    for resource in resources {
        let parts: Vec<&str> = resource.split("::").collect();
        let [script, arguments @ ..] = parts.as_slice() else { continue };
        let bare = script.parse::<std::net::IpAddr>().is_ok() || script.contains('/');
        if matches!(*script, "IPaddr" | "IPaddr2") || (bare && arguments.is_empty()) {
            let text = if bare { script } else { arguments.first().unwrap_or(&"") };
            address(text, found);
        } else {
            let argv =
                std::iter::once(format!("/etc/init.d/{script}")).chain(arguments.iter().map(|one| (*one).to_owned()));
            found.scripts.push(argv.collect());
        }
    }
}

fn address(text: &str, found: &mut Found) {
    let mut parts = text.split('/');
    let ip = parts.next().unwrap_or_default();
    let prefix = parts.next().unwrap_or("24");
    let device = parts.next().unwrap_or("eth0").split(':').next().unwrap_or("eth0");
    if found.address.is_some() {
        found.remarks.push(format!("a second address, {text}: one is moved; use kind = \"exec\" for more"));
        return;
    }
    found.address = Some((format!("{ip}/{prefix}"), device.to_owned()));
}

fn write(found: &Found) -> String {
    let mut text =
        String::from("# Made from ha.cf and haresources. Lines with TODO need a person.\nversion = 1\n\n[heartbeat]\n");
    // Writing to a String cannot fail.
    let own = found.nodes.first().cloned().unwrap_or_else(|| "TODO".to_owned());
    let _ = writeln!(text, "node = {own:?}                    # TODO: on the other node its own name");
    let _ = writeln!(text, "members = {:?}", found.nodes);
    text.push_str("witnesses = [\"TODO\"]                # a third voice, such as an edge; heartbeat had none\n");
    text.push_str("key_file = \"/etc/tidegate/pair.key\"  # openssl rand -hex 32; the same on every node, mode 0600\n");
    let timing: Vec<String> = found.timing.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
    if !timing.is_empty() {
        let _ = writeln!(text, "timing = {{ {} }}", timing.join(", "));
    }
    if found.watchdog {
        text.push_str("watchdog = \"required\"\n");
    }
    if let Some((ip, device)) = &found.address {
        let _ = writeln!(text, "address = {{ kind = \"ip\", ip = {ip:?}, device = {device:?} }}");
    }
    for remark in &found.remarks {
        let _ = writeln!(text, "# TODO {remark}");
    }
    for (at, node) in found.nodes.iter().enumerate() {
        let links: Vec<String> = match found.peers.get(at) {
            Some(peer) => vec![format!("{peer}:{}", found.port)],
            None => Vec::new(),
        };
        let _ = writeln!(
            text,
            "\n[heartbeat.at.{node}]\nlinks = {links:?}                  # TODO: its own addresses, one for each link"
        );
        text.push_str("storage = \"TODO:8100\"               # where its ZEO server answers\n");
    }
    for script in &found.scripts {
        let name = script.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        let _ = writeln!(text, "\n[[heartbeat.resource]]\nname = {name:?}\nkind = \"lsb\"\ncommand = {script:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HA_CF: &str = "# comment\nkeepalive 500ms\nwarntime 2\ndeadtime 5\ninitdead 60\nudpport 695\nucast eth1 192.168.9.1\n\
        ucast eth1 192.168.9.2\nauto_failback on\nnode ZeoA zeob\nwatchdog /dev/watchdog\n\
        stonith_host * external/ipmi zeob 10.0.0.9 admin geheim lan\nping 10.0.0.254\n";
    const HARESOURCES: &str = "zeoa IPaddr2::10.0.0.10/24/eth0 \\\n  Filesystem::/dev/drbd0::/srv::ext4 zeo\n";

    #[test]
    fn what_heartbeat_was_told_is_told_to_the_pair_and_the_rest_is_a_remark() {
        let text = toml(HA_CF, HARESOURCES);
        for line in [
            "members = [\"zeoa\", \"zeob\"]",
            "timing = { interval = \"500ms\", warn = \"2s\", dead = \"5s\", lease = \"5s\", initdead = \"60s\" }",
            "watchdog = \"required\"",
            "address = { kind = \"ip\", ip = \"10.0.0.10/24\", device = \"eth0\" }",
            "links = [\"192.168.9.1:695\"]",
            "command = [\"/etc/init.d/Filesystem\", \"/dev/drbd0\", \"/srv\", \"ext4\"]",
            "command = [\"/etc/init.d/zeo\"]",
            "`auto_failback`",
            "`stonith_host` of type external/ipmi",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("geheim"));
        text.parse::<toml::Table>().expect("it is TOML");
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (written, expected) in [("2", "2s"), ("0.5", "500ms"), ("100ms", "100ms"), ("3s", "3s")] {
            assert!(
                toml(&format!("keepalive {written}"), "").contains(&format!("interval = \"{expected}\"")),
                "{written}"
            );
        }
        assert!(toml("keepalive soon", "").contains("not understood"));
    }

    proptest! {
        #[test]
        fn any_files_are_read_without_a_panic(ha_cf in ".*", haresources in ".*") {
            let _ = toml(&ha_cf, &haresources);
        }
    }
}
