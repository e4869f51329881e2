//! The TLS of a configuration, in both directions: every file is read here, once, so that a switch of sets reads none.

use crate::acme;
use crate::clock;
use crate::config::Config;
use crate::config::settings;
use crate::config::values;
use crate::snapshot::House;
use crate::telemetry;
use crate::tls;
use crate::tls::Certificate;
use crate::tls::Live;
use crate::units::UpstreamName;
use crate::upstream::Secure;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use tracing::warn;

/// A certificate that ends sooner is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Whatever a configuration needs of TLS.
pub struct Secured {
    /// Towards visitors, where there are certificates.
    pub server: Option<Arc<ServerConfig>>,
    /// Towards endpoints that speak TLS, by upstream.
    pub upstreams: BTreeMap<UpstreamName, Secure>,
    /// What is wanted of an authority.
    pub acme: Option<Arc<acme::Plan>>,
    /// When certificates end, each under its label.
    pub until: Vec<(String, SystemTime)>,
}

/// Reads all certificates, keys and authorities.
///
/// # Errors
/// Every file that cannot be used.
pub fn secure(config: &Config, house: &House) -> Result<Secured, Vec<String>> {
    let mut problems = Vec::new();
    let mut told = |problem: &tls::TlsProblem| problems.push(telemetry::chain(problem));
    let certs = tls::load(&files(config)).unwrap_or_else(|found| {
        found.iter().for_each(&mut told);
        Vec::new()
    });
    let mut upstreams = BTreeMap::new();
    for (name, settings) in speaking_tls(config) {
        match towards(&settings) {
            Ok(secure) => {
                upstreams.insert(name, secure);
            }
            Err(problem) => told(&problem),
        }
    }
    let acme = match acme_plan(config, &certs) {
        Ok(plan) => plan.map(Arc::new),
        Err(problem) => {
            told(&problem);
            None
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    take_stored(acme.as_deref(), &house.live);
    let until: Vec<(String, SystemTime)> =
        certs.iter().map(|cert| (cert.label.clone(), cert.facts.not_after)).collect();
    warn_of_ends(&certs);
    let server = server(config, certs, acme.as_deref(), house).map_err(|problem| vec![telemetry::chain(&problem)])?;
    Ok(Secured { server, upstreams, acme, until })
}

fn files(config: &Config) -> Vec<tls::CertFiles> {
    let files = config.tls.certs.iter().map(|pair| tls::CertFiles {
        cert: pair.cert.clone(),
        key: pair.key_file.clone(),
        ocsp: pair.ocsp_file.clone(),
    });
    files.collect()
}

fn server(
    config: &Config,
    certs: Vec<Certificate>,
    acme: Option<&acme::Plan>,
    house: &House,
) -> Result<Option<Arc<ServerConfig>>, tls::TlsProblem> {
    if certs.is_empty() && acme.is_none() {
        return Ok(None);
    }
    let acquired = match acme {
        None => None,
        Some(plan) => {
            let placeholder = tls::live::self_made(plan.names.iter().cloned().collect(), None)?;
            Some(tls::Acquired { live: Arc::clone(&house.live), placeholder })
        }
    };
    let min = match config.tls.min {
        values::TlsMin::Tls12 => tls::MinVersion::Tls12,
        values::TlsMin::Tls13 => tls::MinVersion::Tls13,
    };
    tls::server_config(certs, acquired, min, &house.tickets).map(Some)
}

/// What is wanted of an authority: a certificate for each name of a site that no file has one for.
fn acme_plan(config: &Config, certs: &[Certificate]) -> Result<Option<acme::Plan>, tls::TlsProblem> {
    let settings = &config.tls.acme;
    let Some(email) = &settings.email else { return Ok(None) };
    let external = match (&settings.external_kid, &settings.external_key_file) {
        (Some(kid), Some(file)) => {
            let key = tls::files::shared_secret(file)?;
            Some(acme::External { kid: kid.clone(), key })
        }
        _ => None,
    };
    Ok(Some(acme::Plan {
        email: email.clone(),
        directory: settings.directory.clone(),
        challenge: match settings.challenge {
            values::AcmeChallenge::Auto => acme::Challenge::Either,
            values::AcmeChallenge::Http01 => acme::Challenge::Http,
            values::AcmeChallenge::TlsAlpn01 => acme::Challenge::TlsAlpn,
        },
        store: settings.store.clone(),
        tls: tls::client::client_config(settings.ca_file.as_deref(), None)?,
        external,
        names: config.acme_names().into_iter().filter(|name| !tls::covers(certs, name)).collect(),
    }))
}

/// Shows from the beginning what was issued before.
fn take_stored(plan: Option<&acme::Plan>, live: &Live) {
    let nothing = BTreeSet::new();
    let names = plan.map_or(&nothing, |plan| &plan.names);
    live.keep(names);
    let Some(plan) = plan else { return };
    for (name, certificate) in acme::store::load(&plan.store, names) {
        if live.certificate(&name).is_none() {
            live.put(&name, certificate);
        }
    }
}

fn warn_of_ends(certs: &[Certificate]) {
    let now = clock::now().wall;
    for cert in certs {
        let (certificate, facts) = (&cert.label, &cert.facts);
        match facts.not_after.duration_since(now) {
            Err(_) => warn!(certificate, "the certificate has ended; visitors are warned off"),
            Ok(left) if left < SOON => warn!(certificate, days = left.as_secs() / 86_400, "the certificate ends soon"),
            Ok(_) if facts.not_before > now => {
                warn!(certificate, "the certificate is not yet valid; is the clock right?");
            }
            Ok(_) => {}
        }
    }
}

/// The upstreams with endpoints that speak TLS; those that a site has at hand go by its name.
fn speaking_tls(config: &Config) -> Vec<(UpstreamName, settings::UpstreamTls)> {
    let named = config
        .upstream
        .iter()
        .filter(|(_, upstream)| upstream.sets().values().flatten().any(|server| server.addr.tls()));
    let mut found: Vec<(UpstreamName, settings::UpstreamTls)> =
        named.map(|(name, upstream)| (name.clone(), upstream.tls.clone())).collect();
    for (name, site) in &config.site {
        let Some(values::UpstreamRef::Inline(servers)) = &site.upstream else { continue };
        if servers.iter().any(|server| server.addr.tls())
            && let Ok(name) = UpstreamName::parse(name.as_str())
        {
            found.push((name, settings::UpstreamTls::default()));
        }
    }
    found
}

fn towards(settings: &settings::UpstreamTls) -> Result<Secure, tls::TlsProblem> {
    let own: Option<(&Path, &Path)> = settings.cert.as_deref().zip(settings.key_file.as_deref());
    let config = tls::client::client_config(settings.ca_file.as_deref(), own)?;
    let name = settings
        .name
        .as_ref()
        .map(|name| ServerName::try_from(name.clone()).map_err(|_| tls::TlsProblem::Name(name.clone())));
    Ok(Secure { config, name: name.transpose()? })
}
