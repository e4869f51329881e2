//! Admission: who may ask, how often, and what is taken on while memory is short. Knows networks, rates and bytes, no HTTP.

pub mod acl;
pub mod memory;
pub mod pressure;
pub mod rate;
pub mod token;
