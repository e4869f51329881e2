//! tidegate as a service manager runs it: sockets opened for it, a user with few rights, and what it tells.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// Opens a socket, hands it over as a service manager does, and becomes tidegate.
const MANAGER: &str = "import os, socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn config(dir: &Path, server: &str) -> std::path::PathBuf {
    let file = dir.join("tidegate.toml");
    let text = format!(
        "version = 1\n[server]\n{server}\n[admin]\nsocket = \"{}/run/admin.sock\"\n[log]\naccess = \"off\"\n\
         [site.\"www.example.org\"]\nupstream = [\"127.0.0.1:1\"]\n",
        dir.display()
    );
    fs::write(&file, text).expect("a file");
    file
}

/// What it tells the service manager next, that begins so.
fn told(manager: &UnixDatagram, wanted: &str) {
    let began = Instant::now();
    let mut message = [0; 1024];
    while began.elapsed() < DEADLINE {
        let len = manager.recv(&mut message).expect("it tells something in time");
        if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == wanted) {
            return;
        }
    }
    panic!("it never told {wanted}");
}

fn status(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn it_serves_on_sockets_of_the_service_manager_as_a_user_who_may_do_little_and_tells_how_it_does() {
    let dir = TempDir::new().expect("a directory");
    // The user must reach what is his.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let manager = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    fs::set_permissions(dir.path().join("notify"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ok");
    manager.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let port = free_port();
    let user = if is_root() { "user = \"nobody\"" } else { "" };
    let file = config(dir.path(), &format!("listen = [\"127.0.0.1:{port}\"]\nworkers = 2\n{user}"));
    let child = Command::new("python3")
        .args(["-c", MANAGER, &port.to_string(), env!("CARGO_BIN_EXE_tidegate"), "run", "--config"])
        .arg(&file)
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is there");
    let mut running = Running(child);
    told(&manager, "READY=1");
    assert!(status(SocketAddr::from(([127, 0, 0, 1], port))).contains("421"));
    if is_root() {
        let proc = Path::new("/proc").join(running.0.id().to_string());
        for task in fs::read_dir(proc.join("task")).expect("its threads") {
            let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("its status");
            let line =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
            assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
            assert!(!line("Groups:").split_whitespace().any(|gid| gid == "0"), "{status}");
            let capabilities = u64::from_str_radix(&line("CapPrm:"), 16).expect("a number");
            assert_eq!(capabilities & !(1 << 10), 0, "nothing but CAP_NET_BIND_SERVICE: {status}");
            assert_eq!((line("CapBnd:"), line("NoNewPrivs:")), (line("CapPrm:"), "1".to_owned()), "{status}");
        }
    }
    told(&manager, "WATCHDOG=1");
    let signal = |name: &str| {
        let sent = Command::new("kill").args(["-s", name, &running.0.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    };
    signal("HUP");
    told(&manager, "RELOADING=1");
    told(&manager, "READY=1");
    signal("TERM");
    told(&manager, "STOPPING=1");
    assert!(running.0.wait().expect("it ends").success());
}

#[test]
fn an_unknown_user_is_refused_at_the_start() {
    let dir = TempDir::new().expect("a directory");
    let file = config(dir.path(), "listen = [\"127.0.0.1:0\"]\nuser = \"nobody-of-this-name\"");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["run", "--config"]).arg(&file).output();
    let output = output.expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("there is no user `nobody-of-this-name`; name one that /etc/passwd has"), "{told}");
}
