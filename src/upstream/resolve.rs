//! Endpoints by name (`dns+HOST:PORT`): the name is looked up for as long as it is in use, and every address is an endpoint.
//!
//! A look-up that fails changes nothing; it is told when that begins, when it fails otherwise and when it is over, and tried again
//! soon.

use crate::clock;
use crate::telemetry::chain;
use crate::units::OriginAddr;
use crate::upstream::live::Upstream;
use crate::upstream::machine::names;
use crate::upstream::machine::names::Failure;
use crate::upstream::machine::names::News;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;
use tracing::warn;

/// The longest look-up.
const WITHIN: Duration = Duration::from_secs(10);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    /// The system's configuration cannot be read, or the servers' answers not be used.
    #[error("look up {name}")]
    Failed {
        name: OriginAddr,
        #[source]
        source: NetError,
    },
    /// It took too long.
    #[error("look up {0}: no answer in time")]
    Timeout(OriginAddr),
    /// There is nothing.
    #[error("look up {0}: it has no address")]
    Empty(OriginAddr),
}

impl ResolveError {
    fn why(&self) -> Failure {
        match self {
            Self::Failed { source, .. } if source.is_no_records_found() => Failure::Absent,
            Self::Failed { .. } => Failure::Failed,
            Self::Timeout(_) => Failure::Timeout,
            Self::Empty(_) => Failure::Absent,
        }
    }
}

/// Looks `name` up for ever, and lets `upstream` know what it means.
pub async fn watch(upstream: Arc<Upstream>, name: OriginAddr) {
    let mut resolver: Option<(Vec<SocketAddr>, TokioResolver)> = None;
    let mut failures = 0;
    loop {
        let servers = upstream.standing().plan.resolver.clone();
        let at_hand = resolver.take().filter(|(known, _)| *known == servers).map(|(_, resolver)| Ok(resolver));
        let built = at_hand.unwrap_or_else(|| build(&servers));
        let answer = match &built {
            Ok(resolver) => look_up(resolver, &name).await,
            Err(source) => Err(ResolveError::Failed { name: name.clone(), source: source.clone() }),
        };
        let pause = match answer {
            Ok((endpoints, lifetime)) => {
                failures = 0;
                // After a failure it is made anew: the system's configuration may have changed.
                resolver = built.ok().map(|built| (servers, built));
                let shown: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                let (changed, news) = upstream.resolved(&name, endpoints);
                if let Some(News::Answers(after)) = news {
                    let after = Duration::from_secs(after.as_secs());
                    info!(upstream = %upstream.name(), %name, ?after, "name has an answer again");
                }
                if changed {
                    info!(upstream = %upstream.name(), %name, endpoints = shown.join(" "), "name has new addresses");
                }
                names::pause(Some(lifetime), 0)
            }
            Err(error) => {
                failures += 1;
                let (why, error) = (error.why(), chain(&error));
                let (news, addresses) = upstream.unresolved(&name, why, error.clone());
                let (upstream, why) = (upstream.name(), why.as_str());
                if news.is_some() && addresses > 0 {
                    warn!(%upstream, %name, why, error, addresses, "name has no answer; its last addresses stay in use");
                } else if news.is_some() {
                    warn!(%upstream, %name, why, error, "name has no answer, and never had one: it adds no endpoint");
                }
                names::pause(None, failures)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn look_up(resolver: &TokioResolver, name: &OriginAddr) -> Result<(Vec<OriginAddr>, Duration), ResolveError> {
    let failed = |source| ResolveError::Failed { name: name.clone(), source };
    let answer = tokio::time::timeout(WITHIN, resolver.lookup_ip(name.host())).await;
    let answer = answer.map_err(|_| ResolveError::Timeout(name.clone()))?.map_err(failed)?;
    let endpoints = names::endpoints(name, answer.iter());
    if endpoints.is_empty() {
        return Err(ResolveError::Empty(name.clone()));
    }
    Ok((endpoints, answer.valid_until().saturating_duration_since(clock::mono())))
}

/// A resolver that asks `servers`, or those of the system.
fn build(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
