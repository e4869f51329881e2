//! Configuration files as operators write them: the errors they see, and the files that we ship.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use tidegate::config;
use tidegate::telemetry::metrics::Metrics;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Compares `shown` with the file; `UPDATE_REFERENCE=1` writes it instead.
fn compare(path: &Path, shown: &str) {
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(path, shown).expect("the file can be written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(shown, expected, "{} differs; UPDATE_REFERENCE=1 cargo test --test conf", path.display());
}

#[test]
fn all_problems_of_a_file_are_told_at_once_with_place_and_remedy() {
    for name in ["many", "syntax", "two", "member", "names"] {
        let path = root().join("tests/conf").join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).expect("the file is there");
        let report = config::parse("tidegate.toml", &text).expect_err("the file is wrong");
        compare(&path.with_extension("txt"), &format!("{report}\n"));
    }
}

#[test]
fn the_diary_gets_one_line_for_each_error_with_place_and_remedy() {
    let text = "version = 1\n[site.a]\nupstream = \"zop\"\n[upstream.zope]\nthread = 4\nservers = [\"10.0.0.1:1\"]\n";
    let lines = config::parse("t.toml", text).expect_err("the file is wrong").lines();
    assert_eq!(
        lines,
        [
            "t.toml:3:12: E0313 site \"a\" uses upstream \"zop\", which does not exist; did you mean \"zope\"?",
            "t.toml:5:1: E0203 unknown key `thread` in [upstream.zope]; did you mean `threads`?",
        ]
    );
}

#[test]
fn a_site_that_lists_endpoints_does_not_take_the_place_of_an_upstream_of_its_name() {
    let text = "version = 1\n[site.zope]\nupstream = [\"10.0.0.1:8080\"]\n\
                [site.\"b.example.org\"]\nupstream = \"zope\"\n[upstream.zope]\nservers = [\"10.0.0.2:8080\"]\n";
    let report =
        config::parse("tidegate.toml", text).expect_err("whose endpoints would b.example.org get?").to_string();
    assert!(report.contains("E0346") && report.contains("give [upstream.zope] another name"), "{report}");
}

#[test]
fn a_site_whose_name_differs_in_capital_letters_only_is_not_left_out_without_a_word() {
    let text = "version = 1\n[site.\"a.example.org\"]\nupstream = [\"10.0.0.1:8080\"]\n\
                [site.\"A.example.org\"]\nupstream = [\"10.0.0.2:8080\"]\n";
    let report = config::parse("tidegate.toml", text).expect_err("which of them would serve?").to_string();
    assert!(report.contains("E0207") && report.contains("tidegate.toml:4:7"), "{report}");
}

#[test]
fn a_listener_that_another_one_takes_in_is_warned_of_before_it_keeps_tidegate_from_starting() {
    let warnings = |listen: &str, admin: &str| {
        let text = format!(
            "version = 1\n[server]\nlisten = {listen}\n[admin]\nlisten = {admin}\n[site.a]\nupstream = [\"10.0.0.1:8080\"]\n"
        );
        config::parse("tidegate.toml", &text).expect("it can be used, with the service manager's help").warnings
    };
    for (listen, admin, told) in [
        (r#"["0.0.0.0:80", "[::]:80"]"#, "[]", Some("[::]:80 takes in 0.0.0.0:80")),
        (r#"["[::]:80", "192.0.2.1:80"]"#, "[]", Some("[::]:80 takes in 192.0.2.1:80")),
        (r#"["0.0.0.0:80", "127.0.0.1:80"]"#, "[]", Some("0.0.0.0:80 takes in 127.0.0.1:80")),
        (r#"["[::]:9145"]"#, r#"["127.0.0.1:9145"]"#, Some("[::]:9145 takes in 127.0.0.1:9145")),
        (r#"["0.0.0.0:80", "[::1]:80"]"#, "[]", None),
        (r#"["[::]:80", "[::]:81"]"#, r#"["127.0.0.1:82"]"#, None),
        (r#"["[::]:0", "127.0.0.1:0"]"#, "[]", None),
    ] {
        let found = warnings(listen, admin);
        match told {
            Some(words) => assert!(found.len() == 1 && found[0].contains(words), "{listen} {admin}: {found:?}"),
            None => assert!(found.is_empty(), "{listen} {admin}: {found:?}"),
        }
    }
}

#[test]
fn an_endpoint_of_several_upstreams_is_warned_of_with_the_requests_that_it_will_get() {
    let text = "version = 1\n[site.\"a.example.org\"]\nupstream = [\"10.0.0.1:8080\"]\n\
                [site.\"b.example.org\"]\nupstream = \"zope\"\n\
                [upstream.zope]\nthreads = 2\nservers = [\"10.0.0.1:8080\", \"10.0.0.2:8080\"]\n";
    let loaded = config::parse("tidegate.toml", text).expect("it can be used");
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(warning.contains("10.0.0.1:8080") && warning.contains("6 requests at once"), "{warning}");
}

#[test]
fn the_reference_is_that_of_the_source_and_is_itself_a_configuration_without_errors_but_for_its_sites() {
    let reference = config::reference::reference();
    compare(&root().join("conf/reference.toml"), &reference);
    let report = config::parse("reference.toml", &reference).expect_err("it names no site");
    assert!(report.to_string().contains("1 error, 0 warnings") && report.to_string().contains("there is no site"));
}

#[test]
fn the_files_we_ship_are_good_and_read_the_same_when_written_out() {
    for name in ["minimal.toml", "tidegate.toml", "pair.toml"] {
        let text = fs::read_to_string(root().join("conf").join(name)).expect("the file is there");
        let loaded = config::parse(name, &text).unwrap_or_else(|report| panic!("{report}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let written = config::reference::expanded(&loaded.config);
        let again = config::parse("expanded.toml", &written).unwrap_or_else(|report| panic!("{written}\n{report}"));
        assert_eq!(config::reference::expanded(&again.config), written);
    }
}

#[test]
fn seven_lines_are_enough() {
    let minimal = fs::read_to_string(root().join("conf/minimal.toml")).expect("the file is there");
    assert!(minimal.lines().count() <= 7);
}

#[test]
fn rules_and_dashboard_speak_of_metrics_that_exist() {
    let (_, page) = Metrics::new().encode();
    let mut known = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        known.extend(endings.iter().map(|ending| format!("{name}{ending}")));
    }
    for (file, least) in [("prometheus-rules.yaml", 15), ("grafana.json", 15)] {
        let text = fs::read_to_string(root().join("conf").join(file)).expect("the file is there");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        // A recorded name has colons; `tidegate_` and `process_` begin ours.
        let named: BTreeSet<&str> = words
            .filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"))
            .filter(|word| !word.contains(':'))
            .collect();
        assert!(named.len() >= least, "{file}: only {named:?}");
        let unknown: Vec<&&str> = named.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} speaks of {unknown:?}");
    }
    let dashboard = fs::read_to_string(root().join("conf/grafana.json")).expect("the file is there");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("a dashboard is JSON");
}

/// What the binary says: its exit status, standard output and standard error.
fn tidegate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_check_says_which_files_this_machine_lacks_before_a_restart_finds_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, list) = (dir.path().join("tidegate.toml"), dir.path().join("list.txt"));
    let here = dir.path().display();
    let text = format!(
        "version = 1\n[server]\ndeny_files = [\"{here}/list.txt\"]\nuser = \"nobody-of-this-name\"\n\
         [cache]\npurge_token_file = \"{here}/tokens\"\n[tls]\ncerts = [\n\
         {{ cert = \"{here}/a.pem\", key_file = \"{here}/a.key\" }},\n\
         {{ cert = \"{here}/b.pem\", key_file = \"{here}/b.key\" }} ]\n\
         [site.\"www.example.org\"]\nupstream = [\"10.0.0.11:8080\"]\n"
    );
    fs::write(&file, &text).expect("a file");
    let path = file.to_str().expect("text");
    let (status, said, warned) = tidegate(&["check", path]);
    assert_eq!(status, Some(3), "{warned}");
    assert!(said.contains("good in itself") && said.contains("https://[::]:443"), "{said}");
    for missing in ["nobody-of-this-name", "a.pem", "b.pem", "list.txt", "tokens"] {
        assert!(warned.contains(missing), "{missing}: {warned}");
    }

    let start = text.find("user = ").expect("a user");
    let end = text.find("[site").expect("a site");
    fs::write(&file, format!("{}{}", &text[..start], &text[end..])).expect("a file");
    fs::write(list, "192.0.2.0/24\n").expect("a file");
    let (status, said, warned) = tidegate(&["check", path]);
    assert_eq!((status, warned.as_str()), (Some(0), ""));
    assert!(said.contains(": good\n"), "{said}");
}

#[test]
fn a_check_of_a_member_says_that_the_pairs_key_is_missing_or_readable_by_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, key) = (dir.path().join("pair.toml"), dir.path().join("pair.key"));
    let shipped = fs::read_to_string(root().join("conf/pair.toml")).expect("the file is there");
    fs::write(&file, shipped.replace("/etc/tidegate/pair.key", key.to_str().expect("text"))).expect("a file");
    let check = || tidegate(&["check", file.to_str().expect("text")]);
    let (status, _, warned) = check();
    assert!(status == Some(3) && warned.contains("openssl rand -hex 32"), "{warned}");
    fs::write(&key, "5a".repeat(32)).expect("a file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("its mode");
    let (status, _, warned) = check();
    assert!(status == Some(3) && warned.contains("0600"), "{warned}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    let (status, _, warned) = check();
    assert_eq!((status, warned.as_str()), (Some(0), ""));
}

#[test]
fn a_file_is_explained_where_its_certificates_are_not() {
    let file = root().join("conf/tidegate.toml");
    let ask = |url| tidegate(&["explain", "--config", file.to_str().expect("text"), url]);
    let (status, said, warned) = ask("https://www.example.org/news");
    assert_eq!((status, warned.as_str()), (Some(0), ""));
    assert!(said.contains("/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot/news"), "{said}");
    let (_, said, _) = ask("http://www.example.org/news");
    assert!(said.contains("308"), "port 80 still sends to https: {said}");
}

#[test]
fn who_runs_it_without_saying_what_is_told_both_ways() {
    for arguments in [&["run"][..], &["run", "--listen", "127.0.0.1:1"], &["run", "tidegate.toml"]] {
        let (status, _, said) = tidegate(arguments);
        assert_eq!(status, Some(2));
        assert!(said.contains("--config <FILE>|--upstream <HOST:PORT>"), "{said}");
    }
    let (_, _, said) = tidegate(&["run", "--upstream", "127.0.0.1:8080", "--listen", "8000"]);
    assert!(said.contains("write it like \"127.0.0.1:8080\""), "{said}");
}
