//! Certificates and keys as files. What cannot be used is told with the file's name and the remedy.

use crate::tls::der;
use crate::tls::der::Facts;
use crate::units::Secret;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest stapled answer: real ones are below 2 KiB.
const OCSP_MAX: u64 = 64 * 1024;

/// One certificate chain and its key, as files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// What the authority says of it now (OCSP), DER, to be stapled to it.
    pub ocsp: Option<PathBuf>,
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
    /// A file could not be looked at.
    #[error("read {}; is the path right, and may tidegate read it?", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Everybody on the machine may use the key.
    #[error("{} may be read by everybody on this machine (mode {mode:04o}); take that away: chmod o= {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The chain file holds no certificate.
    #[error("{} holds no certificate; it must begin with the site's own certificate, then the intermediates", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The first certificate of the chain cannot be read.
    #[error("{}: its first certificate is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The stapled answer is none.
    #[error("{} is no OCSP answer; it must be DER, as `openssl ocsp -respout` writes it", path.display())]
    Ocsp {
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
    /// A certificate is no authority's.
    #[error("{}: use it as an authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// A secret is none.
    #[error("{} holds no secret in base64url, as the authority hands it out", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of our own could not be made.
    #[error("make a certificate that is signed by itself")]
    SelfMade,
    /// The system has no authorities.
    #[error("this system has no certificates of authorities; install ca-certificates, or name a `ca_file`")]
    NoAuthorities,
    /// What an endpoint's certificate must name is no name.
    #[error("`{0}` is no host name")]
    Name(String),
    /// The library refused the set-up.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// A certificate that can be used.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// What the leaf says.
    pub facts: Facts,
    /// What operators know it by: the path of its file, or its name.
    pub label: String,
}

/// Reads a chain, its key, and what is to be stapled.
pub(super) fn load(files: &CertFiles, provider: &CryptoProvider) -> Result<Certificate, TlsProblem> {
    let chain = chain(&files.cert)?;
    let facts =
        der::facts(leaf(&chain, &files.cert)?).ok_or_else(|| TlsProblem::Damaged { path: files.cert.clone() })?;
    let key = private_key(&files.key)?;
    let mut key = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsProblem::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    })?;
    key.ocsp = files.ocsp.as_deref().map(ocsp).transpose()?;
    Ok(Certificate { key: Arc::new(key), facts, label: files.cert.display().to_string() })
}

fn leaf<'a>(chain: &'a [CertificateDer<'static>], path: &Path) -> Result<&'a [u8], TlsProblem> {
    chain.first().map(AsRef::as_ref).ok_or_else(|| TlsProblem::Empty { path: path.to_owned() })
}

/// The certificates in a file, at least one.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let read = |source| TlsProblem::Read { path: path.to_owned(), what: "certificate", source };
    let chain =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, pem::Error>>().map_err(read)?;
    leaf(&chain, path)?;
    Ok(chain)
}

/// The private key in a file that not everybody may read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    refuse_exposed(path)?;
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsProblem::Read {
        path: path.to_owned(),
        what: "private key",
        source,
    })
}

/// Refuses a secret that everybody on the machine may read or change.
///
/// # Errors
/// [`TlsProblem::Exposed`], or that the file is not there.
pub fn refuse_exposed(path: &Path) -> Result<(), TlsProblem> {
    let about = std::fs::metadata(path).map_err(|source| TlsProblem::Io { path: path.to_owned(), source })?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o006 != 0 { Err(TlsProblem::Exposed { path: path.to_owned(), mode }) } else { Ok(()) }
}

/// The secret in a file that not everybody may read, in the alphabet of base64url, as authorities hand them out.
///
/// # Errors
/// When everybody may read it, or it is not of that alphabet.
pub fn shared_secret(path: &Path) -> Result<Secret<Vec<u8>>, TlsProblem> {
    refuse_exposed(path)?;
    let text = std::fs::read_to_string(path).map_err(|source| TlsProblem::Io { path: path.to_owned(), source })?;
    let secret = base64url(text.trim()).filter(|secret| !secret.is_empty());
    secret.map(Secret::new).ok_or_else(|| TlsProblem::Secret { path: path.to_owned() })
}

/// RFC 4648 5, padded or not.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bits = 0_u32;
    let mut count = 0_u32;
    let mut bytes = Vec::new();
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn ocsp(path: &Path) -> Result<Vec<u8>, TlsProblem> {
    let fail = |source| TlsProblem::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(fail)?.len() > OCSP_MAX {
        return Err(TlsProblem::Ocsp { path: path.to_owned() });
    }
    let answer = std::fs::read(path).map_err(fail)?;
    // RFC 6960 4.2.1: a sequence that begins with its status, which is `successful`.
    let good = answer.first() == Some(&0x30) && answer.windows(3).take(8).any(|part| part == [0x0a, 0x01, 0x00]);
    if good { Ok(answer) } else { Err(TlsProblem::Ocsp { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_as_authorities_write_them() {
        for (text, expected) in
            [("aGVsbG8", Some(&b"hello"[..])), ("aGVsbG8=", Some(b"hello")), ("_-8", Some(b"\xff\xef")), ("a b", None)]
        {
            assert_eq!(base64url(text).as_deref(), expected, "{text}");
        }
    }
}
