//! From heartbeat's `ha.cf` and `haresources` to a `[heartbeat]` section, as far as they say the same; the rest is said in comments.

use crate::heartbeat::machine::NodeName;
use std::fmt::Write;

/// What was found in the two files.
#[derive(Default)]
struct Found {
    nodes: Vec<String>,
    timing: Vec<(&'static str, String)>,
    port: String,
    peers: Vec<String>,
    remarks: Vec<String>,
    /// Each with its prefix, and its interface.
    addresses: Vec<(String, String)>,
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
        "node" => values.iter().for_each(|node| self::node(&node.to_lowercase(), found)),
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

fn node(name: &str, found: &mut Found) {
    match NodeName::parse(name) {
        Ok(_) if found.nodes.iter().any(|known| known == name) => {}
        Ok(_) => found.nodes.push(name.to_owned()),
        Err(why) => found.remarks.push(why.to_string()),
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
        if *script == "IPv6addr" {
            // What separates arguments stands in addresses, too.
            address(&arguments.join("::"), "64", found);
        } else if matches!(*script, "IPaddr" | "IPaddr2") || (bare && arguments.is_empty()) {
            let text = if bare { script } else { arguments.first().unwrap_or(&"") };
            address(text, "24", found);
        } else {
            let argv =
                std::iter::once(format!("/etc/init.d/{script}")).chain(arguments.iter().map(|one| (*one).to_owned()));
            found.scripts.push(argv.collect());
        }
    }
}

fn address(text: &str, prefix: &str, found: &mut Found) {
    let mut parts = text.split('/');
    let ip = parts.next().unwrap_or_default();
    let prefix = parts.next().unwrap_or(prefix);
    let device = parts.next().unwrap_or("eth0").split(':').next().unwrap_or("eth0");
    found.addresses.push((format!("{ip}/{prefix}"), device.to_owned()));
}

fn write(found: &Found) -> String {
    let mut text =
        String::from("# Made from ha.cf and haresources. Lines with TODO need a person.\nversion = 1\n\n[heartbeat]\n");
    // Writing to a String cannot fail.
    let own = found.nodes.first().map_or("TODO", String::as_str);
    let _ = writeln!(text, "node = {}                    # TODO: on the other node its own name", quoted(own));
    let _ = writeln!(text, "members = {}", list(&found.nodes));
    text.push_str("witnesses = [\"TODO\"]                # a third voice, such as an edge; heartbeat had none\n");
    text.push_str("key_file = \"/etc/tidegate/pair.key\"  # openssl rand -hex 32; the same on every node, mode 0600\n");
    let timing: Vec<String> = found.timing.iter().map(|(key, value)| format!("{key} = {}", quoted(value))).collect();
    if !timing.is_empty() {
        let _ = writeln!(text, "timing = {{ {} }}", timing.join(", "));
    }
    if found.watchdog {
        text.push_str("watchdog = \"required\"\n");
    }
    if let Some((_, device)) = found.addresses.first() {
        let named = |(ip, on): &(String, String)| if on == device { ip.clone() } else { format!("{ip} dev {on}") };
        let ips: Vec<String> = found.addresses.iter().map(named).collect();
        let ip = if let [one] = ips.as_slice() { quoted(one) } else { list(&ips) };
        let _ = writeln!(text, "address = {{ kind = \"ip\", ip = {ip}, device = {} }}", quoted(device));
    }
    for remark in &found.remarks {
        // A comment may hold no control characters.
        let remark: String = remark.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "# TODO {remark}");
    }
    for (at, node) in found.nodes.iter().enumerate() {
        let links: Vec<String> = match found.peers.get(at) {
            Some(peer) => vec![format!("{peer}:{}", found.port)],
            None => Vec::new(),
        };
        let _ = writeln!(
            text,
            "\n[heartbeat.at.{}]\nlinks = {}                  # TODO: its own addresses, one for each link",
            quoted(node),
            list(&links)
        );
        text.push_str("storage = \"TODO:8100\"               # where its ZEO server answers\n");
    }
    for script in &found.scripts {
        let name = script.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        let (name, command) = (quoted(name), list(script));
        let _ = writeln!(text, "\n[[heartbeat.resource]]\nname = {name}\nkind = \"lsb\"\ncommand = {command}");
    }
    text
}

/// A string of TOML, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Writing to a String cannot fail.
            _ if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| self::quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
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

    /// As they stand on machines that have been running for years.
    const OLD: [(&str, &str, &[&str]); 3] = [
        (
            "debugfile /var/log/ha-debug\nlogfile\t/var/log/ha-log\nlogfacility local0\nkeepalive 2\ndeadtime 30\nwarntime 10\n\
             initdead 120\nudpport 694\nbaud 19200\nserial /dev/ttyS0\nbcast eth1\nauto_failback legacy\nnode zeo1.example.org\n\
             node zeo2.example.org\nping 10.10.10.254\nrespawn hacluster /usr/lib/heartbeat/ipfail\n\
             apiauth ipfail gid=haclient uid=hacluster\nstonith baytech /etc/ha.d/conf/stonith.baytech\n",
            "zeo1.example.org 10.10.10.10 zeo\n",
            &[
                "members = [\"zeo1.example.org\", \"zeo2.example.org\"]",
                "address = { kind = \"ip\", ip = \"10.10.10.10/24\", device = \"eth0\" }",
                "`bcast eth1`",
                "serial links are not supported",
                "`stonith` of type baytech",
                "command = [\"/etc/init.d/zeo\"]",
            ],
        ),
        (
            "autojoin none\nmcast eth0 239.0.0.42 694 1 0\nucast eth1 192.168.50.1\nucast eth1 192.168.50.2\nwarntime 500ms\n\
             deadtime 1500ms\ninitdead 20\nkeepalive 250ms\nauto_failback off\nnode plone-db1 plone-db2\ncrm no\n",
            "plone-db1 \\\n IPaddr2::192.168.1.200/26/bond0/192.168.1.255 \\\n IPaddr2::192.168.2.200/26/bond1 \\\n IPv6addr::2001:db8::200/48/bond2 drbddisk::r0 \\\n\
             Filesystem::/dev/drbd0::/srv/zeo::ext3::noatime zeoserver MailTo::admin@example.org::HA\n",
            &[
                "ip = [\"192.168.1.200/26\", \"192.168.2.200/26 dev bond1\", \"2001:db8::200/48 dev bond2\"], device = \"bond0\"",
                "interval = \"250ms\"",
                "links = [\"192.168.50.1:694\"]",
                "command = [\"/etc/init.d/drbddisk\", \"r0\"]",
                "command = [\"/etc/init.d/MailTo\", \"admin@example.org\", \"HA\"]",
            ],
        ),
        // Not theirs, and it shows.
        ("node Größe \"x\ndeadtime -1\n", "x \"::\u{1}\\\n", &["no node name", "the time `-1`"]),
    ];

    #[test]
    fn files_from_old_machines_are_read() {
        for (ha_cf, haresources, expected) in OLD {
            let text = toml(ha_cf, haresources);
            for line in expected {
                assert!(text.contains(line), "{line} is missing in\n{text}");
            }
            text.parse::<toml::Table>().unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    const WORDS: &str =
        "(node|keepalive|deadtime|initdead|udpport|ucast|bcast|watchdog|stonith_host|auto_failback|ping|serial|\\\\|#)";

    proptest! {
        #[test]
        fn whatever_is_in_the_files_the_answer_is_toml(ha_cf in ".*", haresources in ".*") {
            let text = toml(&ha_cf, &haresources);
            prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
        }

        #[test]
        fn so_it_is_when_they_begin_as_they_should(
            lines in proptest::collection::vec((WORDS, "\\PC{0,12}( \\PC{0,12})?"), 0..12),
            haresources in "[a-z]{1,4}( (IPaddr2?::)?[0-9./:a-z\"\\\\]{0,20}){0,3}",
        ) {
            let ha_cf: Vec<String> = lines.iter().map(|(word, rest)| format!("{word} {rest}")).collect();
            let text = toml(&ha_cf.join("\n"), &haresources);
            prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
        }
    }
}
