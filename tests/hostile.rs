//! Clients and origins that mean harm, over real sockets: tables of what they do, by the sentence of the RFC that bears on it.

#[allow(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/edge.rs"]
mod edge;
#[allow(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/origin.rs"]
mod origin;

#[path = "hostile/answers.rs"]
mod answers;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "fuzz/targets.rs"]
mod fuzz_targets;
#[path = "fuzz/wire.rs"]
mod fuzz_wire;
#[path = "hostile/h2.rs"]
mod h2;
#[path = "hostile/handshakes.rs"]
mod handshakes;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "hostile/pressure.rs"]
mod pressure;
#[path = "hostile/recorder.rs"]
mod recorder;
#[path = "hostile/requests.rs"]
mod requests;
#[path = "hostile/streams.rs"]
mod streams;
#[path = "hostile/table.rs"]
mod table;
