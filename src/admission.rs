//! Admission: who may ask, and how often. Knows networks and rates, no HTTP.

pub mod acl;
pub mod rate;
pub mod token;
