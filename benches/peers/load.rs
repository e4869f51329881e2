//! The load: wrk with one thread, or our own driver where wrk does not understand the answers, and what it says.

use crate::driver;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: u32,
    pub warm_up: Duration,
    pub measure: Duration,
}

/// What wrk saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub requests: u64,
    pub per_second: f64,
    pub errors: u64,
    pub p50: String,
    pub p99: String,
}

impl Load {
    pub fn warm_up(&self, url: &str, header: Option<&str>) -> Result<(), String> {
        self.run(url, header, self.warm_up).map(|_| ())
    }

    pub fn measure(&self, url: &str, header: Option<&str>) -> Result<Seen, String> {
        self.run(url, header, self.measure)
    }

    fn run(&self, url: &str, header: Option<&str>, time: Duration) -> Result<Seen, String> {
        let seconds = time.as_secs().max(1).to_string();
        let connections = self.connections.to_string();
        let mut command = if let Some(header) = header {
            let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
            let mut command = Command::new(program);
            command.args([driver::VERB, &connections, &seconds, url, header]);
            command
        } else {
            let mut command = Command::new("wrk");
            command.args(["-t1", "--latency", "--timeout", "5s", "-c", &connections, "-d", &seconds, url]);
            command
        };
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("run the load: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Seen::read(&text).ok_or_else(|| format!("the load said what I do not understand:\n{text}"))
    }
}

impl Seen {
    fn read(text: &str) -> Option<Self> {
        let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.parse().ok()?;
        // `Socket errors: connect 0, read 3, write 0, timeout 0`
        let sockets = after("Socket errors:").unwrap_or_default();
        let sockets: u64 = sockets.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum();
        let statuses: u64 = after("Non-2xx or 3xx responses:").and_then(|count| count.parse().ok()).unwrap_or(0);
        Some(Self {
            requests,
            per_second: after("Requests/sec:")?.parse().ok()?,
            errors: sockets + statuses,
            p50: after("50%")?.to_owned(),
            p99: after("99%")?.to_owned(),
        })
    }
}
