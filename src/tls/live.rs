//! What TLS shows that comes and goes without a new configuration: certificates that an authority issues, and the proofs
//! that it asks for.

use crate::tls::Certificate;
use crate::tls::TlsProblem;
use crate::tls::der;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::SystemTime;

/// Certificates and proofs by name. It outlives configurations.
#[derive(Debug, Default)]
pub struct Live {
    certificates: RwLock<HashMap<String, Certificate>>,
    proofs: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    tokens: RwLock<HashMap<String, String>>,
}

impl Live {
    /// The certificate of `name`, if one was issued.
    #[must_use]
    pub fn certificate(&self, name: &str) -> Option<Certificate> {
        self.certificates.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Shows `certificate` for `name` from now on.
    pub fn put(&self, name: &str, certificate: Certificate) {
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), certificate);
    }

    /// Forgets the certificates of all other names.
    pub fn keep(&self, names: &BTreeSet<String>) {
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    /// When the certificates end, each by its name.
    #[must_use]
    pub fn until(&self) -> Vec<(String, SystemTime)> {
        let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
        certificates.iter().map(|(name, certificate)| (name.clone(), certificate.facts.not_after)).collect()
    }

    /// The certificate that proves by TLS that `name` is ours (RFC 8737).
    #[must_use]
    pub fn proof(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.proofs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Shows it, or no more.
    pub fn set_proof(&self, name: &str, proof: Option<Arc<CertifiedKey>>) {
        let mut proofs = self.proofs.write().unwrap_or_else(PoisonError::into_inner);
        match proof {
            Some(proof) => proofs.insert(name.to_owned(), proof),
            None => proofs.remove(name),
        };
    }

    /// What proves by HTTP that a name is ours (RFC 8555 8.3).
    #[must_use]
    pub fn token(&self, token: &str) -> Option<String> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// Shows it, or no more.
    pub fn set_token(&self, token: &str, answer: Option<String>) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => tokens.insert(token.to_owned(), answer),
            None => tokens.remove(token),
        };
    }
}

/// A certificate from the text of a file that has both its chain and its key.
///
/// # Errors
/// When one of them is missing or they do not belong together; `path` is named.
pub fn from_pem(pem: &[u8], label: &str, path: &Path) -> Result<Certificate, TlsProblem> {
    let read = |what| move |source| TlsProblem::Read { path: path.to_owned(), what, source };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(read("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(read("private key"))?;
    let leaf = chain.first().ok_or_else(|| TlsProblem::Empty { path: path.to_owned() })?;
    let facts = der::facts(leaf).ok_or_else(|| TlsProblem::Damaged { path: path.to_owned() })?;
    let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|source| TlsProblem::Unusable { cert: path.to_owned(), key: path.to_owned(), source })?;
    Ok(Certificate { key: Arc::new(key), facts, label: label.to_owned() })
}

/// A certificate signed by itself: a placeholder, or, with the digest of an authority's challenge, a proof (RFC 8737 3).
///
/// # Errors
/// When a name is none, or there is no randomness.
pub fn self_made(names: Vec<String>, digest: Option<&[u8; 32]>) -> Result<Certificate, TlsProblem> {
    let fail = |_| TlsProblem::SelfMade;
    let mut params = rcgen::CertificateParams::new(names).map_err(fail)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions.extend(digest.map(|digest| rcgen::CustomExtension::new_acme_identifier(digest)));
    let key = rcgen::KeyPair::generate().map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    let facts = der::facts(certificate.der()).ok_or(TlsProblem::SelfMade)?;
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| TlsProblem::SelfMade)?;
    let secret = aws_lc_rs::sign::any_supported_type(&secret).map_err(TlsProblem::Setup)?;
    // They belong together. That is not checked, for who checks it does not understand a proof's extension, which is
    // critical on purpose.
    let key = CertifiedKey::new(vec![certificate.der().clone()], secret);
    Ok(Certificate { key: Arc::new(key), facts, label: "placeholder".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_and_placeholders_are_made_for_any_names() {
        let proof = self_made(vec!["a.example".to_owned()], Some(&[7; 32])).unwrap();
        assert_eq!(proof.facts.names, ["a.example"]);
        assert!(self_made(Vec::new(), None).unwrap().facts.names.is_empty());
        let live = Live::default();
        live.put("a.example", proof.clone());
        live.set_token("t", Some("t.k".to_owned()));
        assert_eq!((live.token("t").as_deref(), live.until().len()), (Some("t.k"), 1));
        live.set_token("t", None);
        live.keep(&BTreeSet::new());
        assert!(live.token("t").is_none() && live.certificate("a.example").is_none());
    }
}
