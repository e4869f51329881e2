//! The data path, in the order of the path: listener, connection, intake, pipeline, fetch, deliver, trail.
//!
//! Knows no heartbeat, files or signals: what is decided there comes in through the snapshot.

pub mod activity;
pub mod body;
pub mod connection;
pub mod decision;
pub mod deliver;
pub mod descriptors;
pub mod doorstep;
pub mod errand;
pub mod explain;
pub mod fetch;
pub mod frames;
pub mod inbound;
pub mod intake;
pub mod listener;
pub mod obsolete;
pub mod permits;
pub mod pipeline;
pub mod purge;
pub mod refusal;
pub mod shedding;
pub mod socket;
pub mod spool;
pub mod storing;
pub mod streams;
pub mod trail;
pub mod tunnel;
pub mod worker;

use crate::cache::Cache;
use crate::edge::permits::Permits;
use crate::edge::shedding::Shedding;
use crate::edge::spool::Spool;
use crate::snapshot::Snapshots;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use std::sync::Arc;

/// What all workers share.
pub struct Edge {
    /// The picture that requests are served by.
    pub snapshots: Arc<Snapshots>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub access: AccessLog,
    /// The open connections.
    pub permits: Arc<Permits>,
    /// The uploads that are being taken in.
    pub spool: Spool,
    /// What gives way when memory is short.
    pub shedding: Arc<Shedding>,
}
