//! HTTP to an authority: a connection for each request, over TLS only; there are a dozen for a certificate.

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::Uri;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper_util::rt::TokioIo;
use instant_acme::BodyWrapper;
use instant_acme::BytesResponse;
use instant_acme::Error;
use instant_acme::HttpClient;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest answer: a chain of certificates is a few KiB.
const ANSWER_MAX: usize = 1024 * 1024;

/// How long one request may take.
const WITHIN: Duration = Duration::from_secs(30);

/// The client that speaks to authorities.
pub struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    /// One that believes whom `tls` believes.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls }
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = Arc::clone(&self.tls);
        Box::pin(async move {
            let answered = tokio::time::timeout(WITHIN, ask(tls, request)).await;
            let answered = answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
            answered.map(BytesResponse::from).map_err(Error::Other)
        })
    }
}

async fn ask(
    tls: Arc<ClientConfig>,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let uri = request.uri().clone();
    let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(format!("{uri} is no https address").into());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let authority = uri.authority().map_or(host.as_str(), http::uri::Authority::as_str);
    request.headers_mut().insert(header::HOST, HeaderValue::try_from(authority)?);
    *request.uri_mut() = Uri::try_from(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))?;
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(host)?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
    driven.abort();
    Ok(Response::from_parts(parts, Full::new(body)))
}
