//! What is told about each request, once, when its response has ended: one access line, one set of metrics.

use crate::clock;
use crate::edge::Edge;
use crate::edge::intake::Question;
use crate::semantics::cache_status::CacheStatus;
use crate::snapshot::Site;
use crate::telemetry::access::Record;
use crate::telemetry::metrics::RequestFacts;
use crate::units::ClientAddr;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use http::header;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
