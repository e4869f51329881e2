//! TLS towards origins: whom we believe, and what we show when we are asked who we are.

use crate::tls::files;
use crate::tls::files::TlsProblem;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use std::path::Path;
use std::sync::Arc;

/// The configuration of connections to servers whose certificates are signed by the authorities in `ca`, or by the
/// system's; `own` is the certificate and key that we show.
///
/// # Errors
/// The file that cannot be used, or that the system has no authorities.
pub fn client_config(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsProblem> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsProblem::Setup)?
        .with_root_certificates(authorities(ca)?);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(files::chain(cert)?, files::private_key(key)?)
            .map_err(|source| TlsProblem::Unusable { cert: cert.to_owned(), key: key.to_owned(), source })?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for cert in files::chain(path)? {
            roots.add(cert).map_err(|source| TlsProblem::Authority { path: path.to_owned(), source })?;
        }
        return Ok(roots);
    }
    // Of the system's many some may be odd; those are not believed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsProblem::NoAuthorities) } else { Ok(roots) }
}
