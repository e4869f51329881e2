//! TLS towards visitors: certificate files, the choice by server name (SNI), the rustls configuration.
//!
//! Knows no sites and no connections. A certificate that cannot be used is a [`TlsProblem`] that names the file and what
//! to do; nothing here panics. Tickets are made by a [`Tickets`] that outlives reloads, so that sessions resume.

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::server::ClientHello;
use rustls::server::ParsedCertificate;
use rustls::server::ProducesTickets;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// The lowest protocol version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// One certificate chain and its key, as files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// A file could not be read as PEM.
    #[error("read {} ({what}); is the path right, may tidegate read it, and is it PEM?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the reader said.
        #[source]
        source: pem::Error,
    },
    /// The chain file holds no certificate.
    #[error("{} holds no certificate; it must begin with the site's own certificate, then the intermediates", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit each other, or are of an unsupported kind.
    #[error("use {} with {}; do they belong together?", cert.display(), key.display())]
    Unusable {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The library refused the set-up.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The ticket keys of this process.
#[derive(Clone, Debug)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// New random keys, rotated every six hours by rustls.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, TlsProblem> {
        aws_lc_rs::Ticketer::new().map(Self).map_err(TlsProblem::Setup)
    }
}

/// Reads all certificates and makes the configuration of one TLS listener.
///
/// # Errors
/// Every file that cannot be used, not only the first.
pub fn server_config(
    files: &[CertFiles],
    min: MinVersion,
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, Vec<TlsProblem>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (certs, problems): (Vec<_>, Vec<_>) = files.iter().map(|pair| load(pair, &provider)).partition(Result::is_ok);
    if !problems.is_empty() {
        return Err(problems.into_iter().filter_map(Result::err).collect());
    }
    let certs: Vec<Certificate> = certs.into_iter().filter_map(Result::ok).collect();
    let versions: &[&rustls::SupportedProtocolVersion] = match min {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|source| vec![TlsProblem::Setup(source)])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName { certs }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::clone(&tickets.0);
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
}

/// The first certificate whose names cover the one asked for; without a match the first of all, so that the visitor's
/// browser can say what is wrong.
#[derive(Debug)]
struct ByName {
    certs: Vec<Certificate>,
}

impl Certificate {
    fn covers(&self, name: &ServerName<'_>) -> bool {
        self.key
            .end_entity_cert()
            .and_then(ParsedCertificate::try_from)
            .and_then(|leaf| verify_server_name(&leaf, name))
            .is_ok()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let chosen = named.and_then(|name| self.certs.iter().find(|cert| cert.covers(&name)));
        chosen.or(self.certs.first()).map(|cert| Arc::clone(&cert.key))
    }
}

fn load(files: &CertFiles, provider: &CryptoProvider) -> Result<Certificate, TlsProblem> {
    let chain = read_chain(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsProblem::Read {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsProblem::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    })?;
    Ok(Certificate { key: Arc::new(key) })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let read = |source| TlsProblem::Read { path: path.to_owned(), what: "certificate", source };
    let chain =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, pem::Error>>().map_err(read)?;
    if chain.is_empty() {
        return Err(TlsProblem::Empty { path: path.to_owned() });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn pair(dir: &Path, name: &str) -> CertFiles {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        CertFiles {
            cert: write(dir, &format!("{name}.pem"), &made.cert.pem()),
            key: write(dir, &format!("{name}.key"), &made.signing_key.serialize_pem()),
        }
    }

    #[test]
    fn every_unusable_file_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (pair(dir.path(), "one.example"), pair(dir.path(), "two.example"));
        let crossed = CertFiles { cert: one.cert.clone(), key: two.key.clone() };
        let missing = CertFiles { cert: dir.path().join("none.pem"), key: one.key.clone() };
        let empty = CertFiles { cert: write(dir.path(), "empty.pem", ""), key: one.key.clone() };
        let tickets = Tickets::new().unwrap();
        let problems = server_config(&[one, crossed, missing, empty], MinVersion::Tls12, &tickets).unwrap_err();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].contains("two.example.key") && text[1].contains("none.pem") && text[2].contains("empty.pem"));
    }
}
