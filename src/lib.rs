//! tidegate: a caching, failover-aware edge for Zope and Plone sites.
//!
//! `ARCHITECTURE.md` has the map of the house; `tests/architecture.rs` guards its layers.

pub mod admission;
pub mod cache;
pub mod clock;
pub mod semantics;
pub mod tls;
pub mod units;
pub mod zope;
