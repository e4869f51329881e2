//! The pair: two ZEO storage servers and their witnesses, of which one storage serves, and what happens when it does not.
//!
//! [`machine`] decides and is pure. What surrounds it (links, journal, fence, address, resources, monitors) does what it is
//! told and reports what came of it. Knows nothing of HTTP. When parts of it fail, the machine hears of it as a completion
//! and either finds another way or refuses, and says why.

pub mod address;
pub mod clients;
pub mod command;
pub mod copy;
pub mod device;
pub mod diary;
pub mod doctor;
pub mod fence;
pub mod guard;
pub mod hands;
pub mod journal;
pub mod links;
pub mod machine;
pub mod monitor;
pub mod netlink;
pub mod pair;
pub mod plan;
pub mod realtime;
pub mod resource;
pub mod runner;
pub mod simulate;
pub mod tally;
pub mod watchdog;
