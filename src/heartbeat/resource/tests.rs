use super::*;
use crate::heartbeat::command::script;
use std::path::Path;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);

fn resource(name: &str, kind: Kind) -> Resource {
    Resource { name: name.to_owned(), kind, start_timeout: LONG, stop_timeout: LONG }
}

fn process(script: &str) -> Kind {
    Kind::Process(Process { argv: ["sh", "-c", script].map(str::to_owned).into(), ..Process::default() })
}

fn keeper(resources: Vec<Resource>) -> (Keeper, Arc<Groups>, mpsc::Receiver<Exit>) {
    let groups = Arc::new(Groups::default());
    let (tell, hear) = mpsc::channel(8);
    (Keeper::new(resources, Arc::default(), Arc::clone(&groups), tell), groups, hear)
}

async fn appears(path: &Path) {
    let due = Instant::now() + LONG;
    while !path.exists() {
        assert!(Instant::now() < due, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn exit_codes_mean_what_their_standards_say() {
    use Status::Failed;
    use Status::Running;
    use Status::Stopped;
    for (code, lsb, ocf, systemd) in [
        (0, Running, Running, Running),
        (1, Stopped, Failed, Failed),
        (2, Stopped, Failed, Failed),
        (3, Stopped, Failed, Stopped),
        (4, Failed, Failed, Failed),
        (7, Failed, Stopped, Failed),
        (8, Failed, Running, Failed),
        (9, Failed, Failed, Failed),
        (150, Failed, Failed, Failed),
    ] {
        let ended = Ended::Exit(code);
        assert_eq!((lsb_status(&ended), ocf_monitor(&ended), systemd_active(&ended)), (lsb, ocf, systemd), "{code}");
    }
    for ended in [Ended::TimedOut, Ended::Signal(9), Ended::NotStarted(String::new())] {
        assert_eq!((lsb_status(&ended), ocf_monitor(&ended), systemd_active(&ended)), (Failed, Failed, Failed));
    }
}

#[tokio::test]
async fn the_end_of_a_process_is_told_at_once_unless_it_was_wanted() {
    let (mut keeper, groups, mut exits) = keeper(vec![resource("zeo", process("read x < /dev/zero; sleep 1000"))]);
    keeper.start(0).await.unwrap();
    assert_eq!(keeper.status().await, [("zeo".to_owned(), Status::Running)]);
    let group = groups.list()[0];
    kill_group(group, Signal::KILL);
    let exit = tokio::time::timeout(LONG, exits.recv()).await.unwrap().unwrap();
    assert_eq!(exit, Exit { resource: "zeo".to_owned(), how: Ended::Signal(9) });
    keeper.stop().await.unwrap();
    keeper.start(0).await.unwrap();
    keeper.stop().await.unwrap();
    assert_eq!(keeper.status().await, [("zeo".to_owned(), Status::Stopped)]);
    assert!(exits.try_recv().is_err() && groups.list().is_empty());
}

#[tokio::test]
async fn a_frozen_process_that_hears_no_term_is_killed_and_not_thawed() {
    let dir = TempDir::new().unwrap();
    let (ready, ended) = (dir.path().join("ready"), dir.path().join("ended"));
    let text = format!(
        "trap 'touch {}; exit 0' TERM; touch {}; while :; do sleep 0.05; done",
        ended.display(),
        ready.display()
    );
    let (mut keeper, groups, _exits) =
        keeper(vec![Resource { stop_timeout: Duration::from_millis(300), ..resource("zeo", process(&text)) }]);
    keeper.start(0).await.unwrap();
    appears(&ready).await;
    kill_group(groups.list()[0], Signal::STOP);
    keeper.stop().await.unwrap();
    assert!(groups.list().is_empty());
    assert!(!ended.exists(), "it ran on for a moment");
}

#[tokio::test]
async fn the_self_fence_kills_a_whole_group_whatever_it_ignores() {
    let dir = TempDir::new().unwrap();
    let ready = dir.path().join("ready");
    let text = format!("trap '' TERM INT HUP; sleep 1000 & touch {}; wait; sleep 1000", ready.display());
    let (mut keeper, groups, mut exits) = keeper(vec![resource("zeo", process(&text))]);
    keeper.start(0).await.unwrap();
    appears(&ready).await;
    groups.kill();
    let exit = tokio::time::timeout(LONG, exits.recv()).await.unwrap().unwrap();
    assert_eq!(exit.how, Ended::Signal(9));
}

#[tokio::test]
async fn what_was_wanted_before_a_self_fence_and_starts_after_it_is_killed_at_once() {
    let (mut keeper, groups, mut exits) = keeper(vec![resource("zeo", process("trap '' TERM; sleep 1000"))]);
    groups.kill();
    keeper.start(0).await.unwrap();
    let exit = tokio::time::timeout(LONG, exits.recv()).await.unwrap().unwrap();
    assert_eq!(exit.how, Ended::Signal(9));
    keeper.start(1).await.unwrap();
    assert_eq!(groups.list().len(), 1);
    groups.kill();
}

#[tokio::test]
async fn a_stop_that_was_broken_off_is_not_taken_for_done() {
    let dir = TempDir::new().unwrap();
    let ready = dir.path().join("ready");
    let text = format!("trap '' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let (mut keeper, groups, _exits) = keeper(vec![resource("zeo", process(&text))]);
    keeper.start(0).await.unwrap();
    appears(&ready).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), keeper.stop()).await.is_err());
    groups.kill();
    keeper.stop().await.unwrap();
    assert!(groups.list().is_empty(), "it was said to be stopped, and was there");
}

#[tokio::test]
async fn resources_start_in_order_and_stop_in_reverse() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let text = format!(
        "case $2 in status) [ -e {1}.$1 ]; [ $? = 0 ] && exit 0; exit 3;; start) touch {1}.$1;; stop) rm -f {1}.$1;; esac\necho $1 $2 >> {0}",
        log.display(),
        dir.path().join("up").display()
    );
    let init = script(dir.path(), "init", &text).display().to_string();
    let lsb = |name: &str| resource(name, Kind::Lsb { argv: vec![init.clone(), name.to_owned()] });
    let (mut keeper, _, _exits) = keeper(vec![lsb("disk"), lsb("zeo")]);
    keeper.start(0).await.unwrap();
    assert_eq!(keeper.status().await[1].1, Status::Running);
    keeper.stop().await.unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines, ["disk start", "zeo start", "zeo stop", "disk stop"]);
}

#[tokio::test]
async fn an_ocf_agent_gets_its_parameters_and_a_stop_that_stops_nothing_is_an_error() {
    let dir = TempDir::new().unwrap();
    let text = "case $1 in start) [ \"$OCF_RESKEY_port\" = 8100 ] || exit 6; [ \"$OCF_RESOURCE_INSTANCE\" = zeo ] || exit 2;; monitor) exit 0;; esac";
    let agent = script(dir.path(), "zeo", text);
    let parameters = vec![("port".to_owned(), "8100".to_owned())];
    let (mut keeper, _, _exits) = keeper(vec![resource("zeo", Kind::Ocf { agent, parameters })]);
    keeper.start(0).await.unwrap();
    let told = keeper.stop().await.unwrap_err();
    assert_eq!(told.to_string(), "stop zeo: the stop was reported as done, but then it was running");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let missing = Kind::Process(Process { argv: vec!["/no/such/zeo".to_owned()], ..Process::default() });
    let stranger = Kind::Process(Process {
        argv: vec!["true".to_owned()],
        user: Some("no-such-user".to_owned()),
        ..Process::default()
    });
    for (kind, why) in [
        (missing, "No such file"),
        (stranger, "there is no user no-such-user"),
        (
            Kind::Lsb { argv: vec!["sh".to_owned(), "-c".to_owned(), "echo no disk; exit 5".to_owned()] },
            "exit 5: no disk",
        ),
    ] {
        let (mut keeper, _, _exits) = keeper(vec![resource("zeo", kind)]);
        let told = keeper.start(0).await.unwrap_err().to_string();
        assert!(told.starts_with("start zeo: ") && told.contains(why), "{told}");
    }
}

#[tokio::test]
async fn a_unit_of_systemd_is_started_asked_and_stopped_by_systemctl() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().display();
    let text = format!(
        "echo $* >> {home}/log\ncase $1 in start) touch {home}/up;; stop) rm -f {home}/up;; is-active) [ -e {home}/up ] || exit 3;; esac"
    );
    script(dir.path(), "systemctl", &text);
    let kind = Kind::Systemd { unit: "zeo.service".to_owned() };
    let path = format!("{home}:{}", std::env::var("PATH").unwrap());
    let steps = [("is-active", 3), ("start", 0), ("is-active", 0), ("stop", 0), ("is-active", 3)];
    for (word, code) in steps {
        let mut order = verb(&kind, "zeo", word);
        order.env.push(("PATH".to_owned(), path.clone()));
        let ran = order.run(LONG).await;
        assert_eq!(ran.ended, Ended::Exit(code), "{word}: {}", ran.said);
    }
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.lines().zip(steps).all(|(line, (word, _))| line == format!("{word} zeo.service")), "{log}");
}

#[tokio::test]
async fn a_directory_that_hangs_delays_nobody_who_was_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("hangs");
    let text = format!("[ -e {} ] && exec sleep 1000; [ $1 = -u ] && echo 33 || echo 34", state.display());
    let program = crate::heartbeat::command::script(dir.path(), "id", &text).display().to_string();
    let users = Users { program, ..Users::default() };
    let known = Ids { user: 33, group: 34 };
    assert_eq!(users.find("zeo", LONG).await, Ok(known));
    std::fs::write(state, "").unwrap();
    assert_eq!(users.find("zeo", LONG).await, Ok(known));
    let short = Duration::from_millis(50);
    let why = "nobody knows whether there is a user other: id timed out";
    assert_eq!(users.find("other", short).await, Err(why.to_owned()));
    assert!(users.learn("zeo", short).await.is_err());
    assert_eq!(users.find("zeo", LONG).await, Ok(known), "what was known stays");
    let stranger = Users::default().find("no-such-user", LONG).await;
    assert!(stranger.is_err_and(|why| why.starts_with("there is no user no-such-user: id: ")));
}
