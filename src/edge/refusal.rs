//! The only maker of error responses: every refusal and every failure of an origin ends here.
//!
//! A page says what happened and whether waiting helps, in plain words; it never shows what the client sent, the origin's
//! address, or why exactly: that is in the access log.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use std::time::Duration;

/// The methods that sites answer.
pub const ALLOWED: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// The word for a PURGE from somebody who may not.
pub const PURGE_DENIED: &str = "purge_denied";

/// A request that gets no answer from a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client sees.
    pub status: StatusCode,
    /// The word in the access log and the metrics: from code, never from the client.
    pub why: &'static str,
    /// When to come back, if that can help.
    pub retry_after: Option<Duration>,
    /// Whether the connection is closed, for what follows on it cannot be trusted.
    pub close: bool,
}

impl Refusal {
    /// A refusal that waiting does not change.
    #[must_use]
    pub fn new(status: StatusCode, why: &'static str) -> Self {
        Self { status, why, retry_after: None, close: false }
    }

    /// The same, with the time after which it may be different.
    #[must_use]
    pub fn retry_after(self, wait: Option<Duration>) -> Self {
        Self { retry_after: wait, ..self }
    }

    /// The same, and the connection is closed.
    #[must_use]
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Head and page.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let page = Bytes::from(self.page());
        let mut response = Response::new(page);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.decorate(headers);
        response
    }

    fn page(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        // Who purges is a program of the operator's, and his to mend.
        let words = if self.why == PURGE_DENIED { "This address may not purge." } else { words(self.status) };
        let later = match self.retry_after {
            Some(wait) if seconds(wait) == 1 => " Please try again in a second.".to_owned(),
            Some(wait) => format!(" Please try again in {} seconds.", seconds(wait)),
            None => String::new(),
        };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width\"></head>\
             <body><h1>{title}</h1><p>{words}{later}</p></body></html>\n"
        )
    }

    fn decorate(&self, headers: &mut HeaderMap) {
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 15.5.6: a 405 names what is allowed.
            headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Whole seconds, rounded up, at least one (RFC 9110 10.2.3 has no smaller unit).
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// What a visitor is told.
#[must_use]
pub fn words(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "This address may not see this site.",
        405 => "This cannot be done here.",
        408 => "The request did not arrive in time.",
        413 => "What was sent is larger than this site accepts.",
        414 => "The address is too long.",
        417 => "The request expects something that this server does not do.",
        421 => "There is no site of this name here.",
        429 => "Too many requests came from your network.",
        431 => "The request's header is too large.",
        501 => "This server does not know the request's method.",
        502 => "The site's server gave no proper answer.",
        503 => "The site is busy or being looked after.",
        504 => "The site's server did not answer in time.",
        400..=499 => "The request could not be understood.",
        _ => "The request could not be answered.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_back_and_is_never_cached() {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full");
        let response = refusal.retry_after(Some(Duration::from_millis(1500))).response();
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let page = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(page.contains("in 2 seconds") && !page.contains("queue_full"), "{page}");
    }
}
