//! Which site a request is for: Host, `:authority` and the absolute form (RFC 9110 7.2, RFC 9112 3.2, RFC 9113 8.3.1).

use crate::semantics::framing;
use crate::semantics::framing::Refused;
use http::HeaderMap;
use http::Uri;
use http::header;
use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest host name there is (RFC 1035 2.3.4), with room for a port.
const AUTHORITY_MAX: usize = 261;

/// Host and port as a client wrote them, in lower case. A port that is not written is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    text: Cow<'a, str>,
    host_len: usize,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
    ///
    /// # Errors
    /// 400 for anything else: user info, spaces, lists, paths, empty labels, a port that is none.
    pub fn parse(text: &'a [u8]) -> Result<Self, Refused> {
        const WRONG: Refused = Refused::bad("host");
        let text = std::str::from_utf8(text).map_err(|_| WRONG)?;
        if text.is_empty() || text.len() > AUTHORITY_MAX {
            return Err(WRONG);
        }
        let (host_len, capital) = match text.strip_prefix('[') {
            Some(rest) => {
                let (literal, _) = rest.split_once(']').ok_or(WRONG)?;
                literal.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
                (literal.len() + 2, true)
            }
            None => name_len(text.as_bytes()).ok_or(WRONG)?,
        };
        let port = match text.as_bytes().get(host_len..).unwrap_or_default() {
            // RFC 3986 3.2.3: `host:` with an empty port is `host`.
            [] | [b':'] => None,
            [b':', port @ ..] => {
                let port = framing::digits(port).and_then(|port| u16::try_from(port).ok());
                Some(port.filter(|port| *port > 0).ok_or(WRONG)?)
            }
            _ => return Err(WRONG),
        };
        let text = text.strip_suffix(':').unwrap_or(text);
        let text = if capital { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) };
        Ok(Self { text, host_len, port })
    }

    /// The host without port; an IPv6 literal keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(..self.host_len).unwrap_or(&self.text)
    }

    /// The port, where one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host and port as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How long the name is that an authority begins with, up to its end or a colon, and whether there are capital letters in it.
/// Letters, digits, `-`, `_` and `.`; no empty label but for one trailing dot... which Zope would put into links, so none.
fn name_len(text: &[u8]) -> Option<(usize, bool)> {
    let (mut label, mut capital, mut len) = (0, false, 0);
    for byte in text {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'.' if label > 0 && label <= LABEL_MAX => label = 0,
            b'A'..=b'Z' => (label, capital) = (label + 1, true),
            b':' => break,
            _ => return None,
        }
        len += 1;
    }
    (label > 0 && label <= LABEL_MAX).then_some((len, capital))
}

/// The longest label of a name (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// The authority that a request is for. An absolute form outweighs Host (RFC 9112 3.2.2); HTTP/2's `:authority`, which
/// hyper puts into the URI, must agree with a Host that is sent beside it.
///
/// # Errors
/// 400 without exactly one authority, or with one that is none.
pub fn effective<'r>(uri: &'r Uri, headers: &'r HeaderMap, http2: bool) -> Result<Authority<'r>, Refused> {
    let mut lines = headers.get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Refused::bad("host_twice"));
    }
    let field = line.map(|line| Authority::parse(line.as_bytes().trim_ascii())).transpose()?;
    let target = uri.authority().map(|authority| Authority::parse(authority.as_str().as_bytes())).transpose()?;
    match (target, field) {
        (Some(target), Some(field)) if http2 && target != field => Err(Refused::bad("host_differs")),
        (Some(target), _) => Ok(target),
        (None, Some(field)) => Ok(field),
        (None, None) => Err(Refused::bad("host_missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_host_names_and_literals_are_hosts() {
        for (text, host, port) in [
            ("www.example.org", "www.example.org", None),
            ("WWW.Example.org:8080", "www.example.org", Some(8080)),
            ("example.org:", "example.org", None),
            ("192.0.2.1:80", "192.0.2.1", Some(80)),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("localhost", "localhost", None),
        ] {
            let authority = Authority::parse(text.as_bytes()).unwrap();
            assert_eq!((authority.host(), authority.port()), (host, port), "{text}");
        }
        for text in [
            "",
            ":80",
            "a b",
            "a,b",
            "user@a",
            "a/b",
            "a?b",
            "a#b",
            "a\tb",
            "a:80:80",
            "a..b",
            ".a",
            "a.",
            "a:0",
            "a:65536",
            "a:8o",
            "[::1",
            "[zope]",
            "::1",
            "[::1]x",
            "a:+80",
            "a:-1",
            "\u{e4}.example",
        ] {
            assert!(Authority::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn there_is_exactly_one_authority() {
        let get = |uri: &str, hosts: &[&str], http2| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            let uri: Uri = uri.parse().unwrap();
            effective(&uri, &headers, http2).map(|found| found.to_string()).map_err(|refused| refused.why)
        };
        assert_eq!(get("/", &["a"], false), Ok("a".to_owned()));
        assert_eq!(get("/", &[], false), Err("host_missing"));
        assert_eq!(get("/", &["a", "a"], false), Err("host_twice"));
        assert_eq!(get("http://b/", &["a"], false), Ok("b".to_owned()));
        assert_eq!(get("http://b/", &["a"], true), Err("host_differs"));
        assert_eq!(get("http://b/", &["B"], true), Ok("b".to_owned()));
        assert_eq!(get("http://b/", &[], true), Ok("b".to_owned()));
        assert_eq!(get("http://u@b/", &[], true), Err("host"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_read_the_same_again(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(&Authority::parse(authority.as_str().as_bytes()).unwrap(), &authority);
            }
        }

        #[test]
        fn names_with_ports_are_accepted(text in "[a-zA-Z0-9_-]{1,9}(\\.[a-z0-9]{1,9}){0,3}(:[1-9][0-9]{0,3})?") {
            prop_assert!(Authority::parse(text.as_bytes()).is_ok());
        }
    }
}
