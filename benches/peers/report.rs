//! The figures as a Markdown table.

use crate::load::Seen;
use std::fmt::Write;
use std::time::Duration;

/// What was measured of one server.
pub struct Line {
    /// The server.
    pub peer: &'static str,
    /// The CPU time of all its processes.
    pub spent: Duration,
    /// What the clients saw.
    pub result: Seen,
    /// What the origin saw meanwhile.
    pub asked: u64,
}

impl Line {
    /// Microseconds of CPU time per request.
    pub fn cost(&self) -> f64 {
        self.spent.as_secs_f64() * 1e6 / float(self.result.requests.max(1))
    }

    /// Whether the figures are about what the scenario is about.
    pub fn check(&self, cached: bool) -> Result<(), String> {
        let requests = self.result.requests;
        if requests < 100 {
            return Err(format!("only {requests} requests were answered"));
        }
        if cached && self.asked > requests / 100 {
            return Err(format!("{} of {requests} requests went to the origin; nothing is cached", self.asked));
        }
        Ok(())
    }
}

/// Puts a line in place of a dearer one of the same server, or behind all.
pub fn keep_cheaper(lines: &mut Vec<Line>, line: Line) {
    match lines.iter_mut().find(|other| other.peer == line.peer) {
        Some(other) if other.cost() <= line.cost() => {}
        Some(other) => *other = line,
        None => lines.push(line),
    }
}

/// The table of one scenario.
pub fn table(scenario: &str, lines: &[Line]) -> String {
    let cost_of = |peer: &str| lines.iter().find(|line| line.peer == peer).map(Line::cost);
    let (haproxy, nginx) = (cost_of("haproxy"), cost_of("nginx"));
    let ratio = |cost: f64, other: Option<f64>| other.map_or("-".to_owned(), |other| format!("{:.2}", cost / other));
    let mut text = format!(
        "### {scenario}\n\n\
         | | CPU us/request | to haproxy | to nginx | requests/s | p50 | p99 | requests | errors | to the origin |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for line in lines {
        let (cost, seen) = (line.cost(), &line.result);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {cost:.1} | {} | {} | {:.0} | {} | {} | {} | {} | {} |",
            line.peer,
            ratio(cost, haproxy),
            ratio(cost, nginx),
            seen.per_second,
            seen.p50,
            seen.p99,
            seen.requests,
            seen.errors,
            line.asked,
        );
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "requests are counted in millions")]
fn float(count: u64) -> f64 {
    count as f64
}
