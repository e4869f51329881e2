//! tidegate: a caching, failover-aware edge for Zope and Plone sites.
//!
//! `ARCHITECTURE.md` has the map of the house; `tests/architecture.rs` guards its layers.

pub mod acme;
pub mod admission;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod edge;
pub mod heartbeat;
pub mod privilege;
pub mod semantics;
pub mod service;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod units;
pub mod upstream;
pub mod verify;
pub mod zeo;
pub mod zodb;
pub mod zope;
