//! Start, assemble, and take down in reverse.
//!
//! The main thread is control: signals, admin, probes, reloads. Each worker thread serves visitors. What fails at the
//! start is told whole, and nothing is left half-started.

use crate::clock;
use crate::config::Config;
use crate::control::admin::Admin;
use crate::control::publisher::Publisher;
use crate::control::publisher::Source;
use crate::edge::Edge;
use crate::edge::worker;
use crate::snapshot::House;
use crate::telemetry;
use anyhow::Context;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;
use tracing::error;
use tracing::info;
use tracing::warn;

/// How often idle rate buckets are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// A running tidegate that a program has started inside itself (the demo and the tests do).
pub struct Running {
    stop: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    publisher: Arc<Publisher>,
}
