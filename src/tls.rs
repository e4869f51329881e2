//! TLS: certificate files, the choice by server name (SNI), the rustls configurations.
//!
//! Knows no sites and no connections. A certificate that cannot be used is a [`TlsProblem`] that names the file and what
//! to do; nothing here panics. Tickets are made by a [`Tickets`] that outlives reloads, so that sessions resume.

pub mod client;
pub mod der;
pub mod files;
pub mod live;

pub use files::CertFiles;
pub use files::Certificate;
pub use files::TlsProblem;
pub use live::Live;

use rustls::CipherSuite;
use rustls::ServerConfig;
use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::server::ProducesTickets;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The lowest protocol version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
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

/// Reads all certificates.
///
/// # Errors
/// Every file that cannot be used, not only the first.
pub fn load(files: &[CertFiles]) -> Result<Vec<Certificate>, Vec<TlsProblem>> {
    let provider = aws_lc_rs::default_provider();
    let (certs, problems): (Vec<_>, Vec<_>) =
        files.iter().map(|pair| files::load(pair, &provider)).partition(Result::is_ok);
    if problems.is_empty() {
        Ok(certs.into_iter().filter_map(Result::ok).collect())
    } else {
        Err(problems.into_iter().filter_map(Result::err).collect())
    }
}

/// The protocol in which an authority looks at a proof (RFC 8737).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// Certificates that come from an authority: those there are, and what is shown while there is none.
#[derive(Debug)]
pub struct Acquired {
    /// The certificates and proofs.
    pub live: Arc<Live>,
    /// Signed by itself.
    pub placeholder: Certificate,
}

/// Makes the configuration of TLS listeners.
///
/// # Errors
/// When the library refuses it.
pub fn server_config(
    certs: Vec<Certificate>,
    acquired: Option<Acquired>,
    min: MinVersion,
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, TlsProblem> {
    let versions: &[&rustls::SupportedProtocolVersion] = match min {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsProblem::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName { acquired, ..ByName::new(certs) }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
    config.ticketer = Arc::clone(&tickets.0);
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// The certificates by the names they cover, each name's in the operator's order. Of those the first is taken whose kind of
/// key the visitor can verify, so ECDSA and RSA stand side by side. Without a match the first of all serves, so that the
/// visitor's browser can say what is wrong.
#[derive(Debug)]
struct ByName {
    certs: Vec<Certificate>,
    names: HashMap<String, Vec<usize>>,
    acquired: Option<Acquired>,
}

impl ByName {
    fn new(certs: Vec<Certificate>) -> Self {
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, cert) in certs.iter().enumerate() {
            for name in &cert.facts.names {
                names.entry(name.clone()).or_default().push(at);
            }
        }
        Self { certs, names, acquired: None }
    }

    /// The certificates for `name`: those that name it, then those with a wildcard in place of its first label (RFC 6125
    /// 6.4.3).
    fn covering(&self, name: &str) -> impl Iterator<Item = &Certificate> {
        let wildcard = name.split_once('.').map(|(_, above)| format!("*.{above}"));
        let exact = self.names.get(name);
        let wild = wildcard.and_then(|name| self.names.get(&name));
        exact.into_iter().chain(wild).flatten().filter_map(|at| self.certs.get(*at))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |cert: &&Certificate| can_verify(&hello, &cert.key);
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS)) {
            // RFC 8737 3: the proof, or nothing.
            return self.acquired.as_ref().zip(name).and_then(|(acquired, name)| acquired.live.proof(&name));
        }
        let named = name.as_ref().and_then(|name| self.covering(name).find(usable));
        // A visitor who can verify none of a name's certificates is not helped by another name's.
        let fallback = || match name.as_ref().and_then(|name| self.covering(name).next()) {
            None => self.certs.iter().find(usable).or(self.certs.first()),
            first => first,
        };
        if let Some(named) = named {
            return Some(Arc::clone(&named.key));
        }
        if let Some(issued) =
            self.acquired.as_ref().zip(name.as_ref()).and_then(|(acquired, name)| acquired.live.certificate(name))
        {
            return Some(issued.key);
        }
        let placeholder = self.acquired.as_ref().map(|acquired| &acquired.placeholder);
        fallback().or(placeholder).map(|cert| Arc::clone(&cert.key))
    }
}

/// Whether one of `certs` is for `name`.
#[must_use]
pub fn covers(certs: &[Certificate], name: &str) -> bool {
    let wildcard = name.split_once('.').map(|(_, above)| format!("*.{above}"));
    let names = |cert: &Certificate| cert.facts.names.iter().any(|own| own == name || Some(own) == wildcard.as_ref());
    certs.iter().any(names)
}

/// Whether the visitor can verify signatures of this key. Who speaks only TLS 1.2 says so by his cipher suites as well.
fn can_verify(hello: &ClientHello<'_>, key: &CertifiedKey) -> bool {
    let ecdsa = key.key.algorithm() == SignatureAlgorithm::ECDSA;
    let fits = |suite: &CipherSuite| match suite.as_str() {
        Some(name) if name.starts_with("TLS13_") => true,
        Some(name) => name.contains("_ECDSA_") == ecdsa && name.contains("ECDHE"),
        None => false,
    };
    key.key.choose_scheme(hello.signature_schemes()).is_some() && hello.cipher_suites().iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::path::PathBuf;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        path
    }

    fn pair(dir: &Path, name: &str) -> CertFiles {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        CertFiles {
            cert: write(dir, &format!("{name}.pem"), &made.cert.pem()),
            key: write(dir, &format!("{name}.key"), &made.signing_key.serialize_pem()),
            ocsp: None,
        }
    }

    #[test]
    fn every_unusable_file_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, three) =
            (pair(dir.path(), "one.example"), pair(dir.path(), "two.example"), pair(dir.path(), "three.example"));
        std::fs::set_permissions(&three.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let crossed = CertFiles { cert: one.cert.clone(), ..two };
        let missing = CertFiles { cert: dir.path().join("none.pem"), ..one.clone() };
        let empty = CertFiles { cert: write(dir.path(), "empty.pem", ""), ..one.clone() };
        let stapled = CertFiles { ocsp: Some(write(dir.path(), "one.ocsp", "no answer")), ..one.clone() };
        let problems = load(&[one, crossed, missing, empty, three, stapled]).unwrap_err();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let expected =
            ["two.example.key", "none.pem", "empty.pem", "three.example.key may be read by everybody", "one.ocsp"];
        assert_eq!(text.len(), expected.len(), "{text:?}");
        for (text, part) in text.iter().zip(expected) {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_name_has_its_own_certificates_before_those_with_a_wildcard() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<CertFiles> =
            ["*.example.org", "www.example.org", "example.org"].iter().map(|name| pair(dir.path(), name)).collect();
        let names = ByName::new(load(&files).unwrap());
        for (name, expected) in [
            ("www.example.org", &["www.example.org", "*.example.org"][..]),
            ("other.example.org", &["*.example.org"]),
            ("a.b.example.org", &[]),
            ("example.org", &["example.org"]),
            ("org", &[]),
        ] {
            let found: Vec<&str> = names.covering(name).map(|cert| cert.facts.names[0].as_str()).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}
