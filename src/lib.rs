//! tidegate: a caching, failover-aware edge for Zope and Plone sites.
//!
//! `ARCHITECTURE.md` has the map of the house; `tests/architecture.rs` guards its layers.

pub mod clock;
pub mod config;
pub mod semantics;
pub mod telemetry;
pub mod units;
pub mod zope;
