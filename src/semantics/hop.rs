//! What goes no further than one hop (RFC 9110 7.6.1), and what must never come from a client at all.

use crate::semantics::cache_control::contains_token;
use crate::semantics::framing::Refused;
use crate::semantics::names::Names;
use crate::units::ClientAddr;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use ipnet::IpNet;
use std::net::IpAddr;

/// Fields of one hop, whether Connection lists them or not.
static HOP_BY_HOP: Names<&'static str> = Names::new(&[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "transfer-encoding",
    "content-length",
]);

/// Fields that Connection must not list: dropping them would change what the request means.
const PROTECTED: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "content-encoding",
    "cookie",
    "set-cookie",
    "authorization",
    "cache-control",
    "forwarded",
    "via",
    "vary",
    "etag",
    "date",
    "expires",
];

/// Fields by which a client could pretend to be a proxy or somebody else, or change the request behind the cache's back.
static FORBIDDEN: Names<&'static str> = Names::new(&[
    "proxy",
    "remote-user",
    "remote-addr",
    "remote-host",
    "remote-ident",
    "cgi-authorization",
    "x-remote-user",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-anonymous",
    "x-varnish-routed",
    "x-host",
    "x-script-name",
    "x-wsgi-path",
    "x-url-scheme",
    "x-vhm-host",
    "x-vhm-root",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "front-end-https",
    "expect",
]);

/// What begins so is a proxy's word about the client, and is written by us or by nobody.
const FORWARDED_PREFIX: &str = "x-forwarded";

/// Fields that say who the client is and how it reached us; ours replace them.
static FORWARDED: Names<&'static str> = Names::new(&[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-prefix",
    "x-real-ip",
    "forwarded",
]);

/// The most hops that a request may still make when it leaves us (RFC 9110 7.6.2 lets each hop have its own maximum).
const MAX_FORWARDS: u64 = 64;

/// How we name ourselves among those by whom a message came (RFC 9110 7.6.3).
pub const VIA: &str = "1.1 tidegate";

/// More hops than this are not believed.
const HOPS_MAX: usize = 20;

/// Makes a request's fields fit to be forwarded; gives how many were dropped that did not belong there. What says how the
/// client reached us is dropped, too: [`forwarded`] takes its place.
///
/// # Errors
/// 400 when Connection lists a field that must not be dropped.
pub fn clean_request(headers: &mut HeaderMap) -> Result<usize, Refused> {
    let known = |name: &str| HOP_BY_HOP.contains(name) || FORWARDED.contains(name);
    // WSGI folds `_` and `-` into one, so a look-alike would overwrite the true field.
    let pretends = |name: &str| FORBIDDEN.contains(name) || name.contains('_') || name.starts_with(FORWARDED_PREFIX);
    let found: Vec<HeaderName> =
        headers.keys().filter(|name| known(name.as_str()) || pretends(name.as_str())).cloned().collect();
    if found.contains(&header::CONNECTION) {
        for line in headers.get_all(header::CONNECTION) {
            let protected = |name: &&str| contains_token(line.as_bytes(), name.as_bytes());
            if PROTECTED.iter().any(protected) || lists_forwarded(line.as_bytes()) {
                return Err(Refused::bad("connection_lists"));
            }
        }
        let lines: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        for line in lines {
            drop_listed(line.as_bytes(), headers);
        }
    }
    let mut dropped = 0;
    for name in found {
        let before = headers.len();
        headers.remove(&name);
        if !known(name.as_str()) {
            dropped += before - headers.len();
        }
    }
    Ok(dropped)
}

/// How many more hops a request may make, if it says so (RFC 9110 7.6.2). What is no number says nothing.
#[must_use]
pub fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::MAX_FORWARDS)?.as_bytes();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let hop = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    digits.then(|| value.iter().fold(0, hop).min(MAX_FORWARDS))
}

/// Counts our own hop in the Max-Forwards of an OPTIONS; it must have one left.
pub fn count_hop(headers: &mut HeaderMap) {
    if !headers.contains_key(header::MAX_FORWARDS) {
        return;
    }
    match max_forwards(headers).map(|hops| hops.saturating_sub(1)) {
        Some(left) => headers.insert(header::MAX_FORWARDS, HeaderValue::from(left)),
        None => headers.remove(header::MAX_FORWARDS),
    };
}

/// Whether a field goes no further than one hop, whether Connection lists it or not.
#[must_use]
pub fn is_of_one_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name.as_str())
}

/// Drops from a message's fields what a line of its Connection lists, unless it is protected.
pub fn drop_listed(line: &[u8], headers: &mut HeaderMap) {
    let names = line.split(|byte| *byte == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    for name in names.filter(|name| !PROTECTED.contains(&name.as_str())) {
        headers.remove(name);
    }
}

fn lists_forwarded(line: &[u8]) -> bool {
    FORWARDED.list().iter().any(|name| contains_token(line, name.as_bytes()))
}

/// Whether Connection names fields of the client's own for this hop: the origin will not see them, so what it says may
/// differ from what it says to others.
#[must_use]
pub fn drops_fields(headers: &HeaderMap) -> bool {
    const USUAL: [&[u8]; 5] = [b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings"];
    let named = |line: &HeaderValue| {
        let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| !name.is_empty() && !USUAL.iter().any(|usual| usual.eq_ignore_ascii_case(name)))
    };
    headers.get_all(header::CONNECTION).iter().any(named)
}

/// Joins HTTP/2's cookie crumbs into the one line that HTTP/1.1 knows (RFC 9113 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let joined = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    headers.remove(header::COOKIE);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The client behind trusted proxies: the last address of X-Forwarded-For that none of them wrote for another of them.
#[must_use]
pub fn client_addr(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> ClientAddr {
    let peer = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(peer, trusted) {
        return ClientAddr(peer);
    }
    let mut client = peer;
    for hop in hops(headers).iter().rev().take(HOPS_MAX) {
        // What cannot be read was not written by a proxy of ours; the one who sent it is the client.
        let Some(address) = hop else { break };
        client = *address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    ClientAddr(client)
}

/// Whether `peer` is one of the proxies whose forwarded fields are believed.
#[must_use]
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// The addresses of X-Forwarded-For from left to right; `None` where something else stands.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|hop| std::str::from_utf8(hop.trim_ascii()).ok().and_then(parse_hop))
        .collect()
}

fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The addresses by which a request came: its peer's, behind those that a trusted peer names (in its fields as they `came`).
#[must_use]
pub fn forwarded_for(came: &HeaderMap, peer: IpAddr, trusted_peer: bool) -> Vec<u8> {
    let mut chain = Vec::with_capacity(48);
    if trusted_peer {
        let known = hops(came);
        for hop in known.iter().skip(known.len().saturating_sub(HOPS_MAX)).flatten() {
            write_address(&mut chain, *hop);
            chain.extend_from_slice(b", ");
        }
    }
    write_address(&mut chain, peer.to_canonical());
    chain
}

/// What we know about the client's way here, in place of whatever it said. `host`: host and port as visitors see them.
#[must_use]
pub fn forwarded<'a>(chain: &'a [u8], scheme: &'static str, host: &'a str) -> [(HeaderName, &'a [u8]); 4] {
    let host = host.as_bytes();
    let port = host.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    let has_port = port.len() < host.len() && port.iter().all(u8::is_ascii_digit);
    let usual: &[u8] = if scheme == "https" { b"443" } else { b"80" };
    [
        (X_FORWARDED_FOR, chain),
        (X_FORWARDED_PROTO, scheme.as_bytes()),
        (X_FORWARDED_HOST, host),
        (X_FORWARDED_PORT, if has_port { port } else { usual }),
    ]
}

/// Writes an address. The formatting of the standard library, which minds widths, costs several times as much.
fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        return out.extend_from_slice(address.to_string().as_bytes());
    };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::headers;

    fn names(headers: &HeaderMap) -> String {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names.join(" ")
    }

    #[test]
    fn what_is_for_one_hop_or_pretends_goes_no_further() {
        let mut request = headers(&[
            ("host", "a"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("proxy", "http://evil"),
            ("x_forwarded_for", "1.1.1.1"),
            ("remote_user", "admin"),
            ("x-original-url", "/admin"),
            ("cookie", "a=b"),
        ]);
        assert_eq!(clean_request(&mut request).unwrap(), 4);
        assert_eq!(names(&request), "cookie host");
        for listed in ["close, Host", "cookie", "x, X-Forwarded-For", "authorization", "content-length"] {
            assert_eq!(clean_request(&mut headers(&[("connection", listed)])).unwrap_err().status, 400, "{listed}");
        }
        let mut response = headers(&[("set-cookie", "a=b"), ("x-hop", "1")]);
        drop_listed(b"close, set-cookie, x-hop", &mut response);
        assert_eq!(names(&response), "set-cookie");
    }

    #[test]
    fn only_trusted_proxies_are_believed_about_the_client() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (peer, chain, client) in [
            ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
            ("::1", "[2001:db8::1]", "2001:db8::1"),
            ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ] {
            let found = client_addr(peer.parse().unwrap(), &headers(&[("x-forwarded-for", chain)]), &trusted);
            assert_eq!(found.0.to_string(), client, "{peer} {chain}");
        }
    }

    #[test]
    fn the_origin_learns_what_we_know_and_not_what_the_client_says() {
        let lies = headers(&[
            ("x-forwarded-for", "9.9.9.9"),
            ("forwarded", "for=9.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "9.9.9.9"),
        ]);
        let mut cleaned = lies.clone();
        assert_eq!(clean_request(&mut cleaned), Ok(0));
        assert!(cleaned.is_empty());
        for (peer, trusted, scheme, host, chain, port) in [
            ("192.0.2.1", false, "http", "www.example.org:8080", "192.0.2.1", "8080"),
            ("10.0.0.1", true, "https", "www.example.org", "9.9.9.9, 10.0.0.1", "443"),
            ("2001:db8::9", false, "http", "[2001:db8::1]", "2001:db8::9", "80"),
        ] {
            let came_by = forwarded_for(&lies, peer.parse().unwrap(), trusted);
            let said = forwarded(&came_by, scheme, host);
            let said: Vec<_> =
                said.iter().map(|(name, value)| (name.as_str(), str::from_utf8(value).unwrap())).collect();
            let proto = [("x-forwarded-proto", scheme), ("x-forwarded-host", host), ("x-forwarded-port", port)];
            assert_eq!(said, [&[("x-forwarded-for", chain)][..], &proto].concat());
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["0.0.0.0", "255.255.255.255", "192.0.2.1", "10.100.99.9", "::1", "2001:db8::1"] {
            let mut out = Vec::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn a_client_that_hides_fields_from_the_origin_is_noticed() {
        for (value, hides) in
            [("close", false), ("Keep-Alive, TE", false), ("", false), ("accept", true), ("close, X-A", true)]
        {
            assert_eq!(drops_fields(&headers(&[("connection", value)])), hides, "{value}");
        }
    }

    #[test]
    fn each_hop_of_an_options_is_counted() {
        for (value, hops, left) in [
            ("0", Some(0), Some("0")),
            ("1", Some(1), Some("0")),
            ("70", Some(64), Some("63")),
            ("99999999999999999999999", Some(64), Some("63")),
            ("", None, None),
            ("-1", None, None),
            ("1, 2", None, None),
        ] {
            let mut request = headers(&[("max-forwards", value)]);
            assert_eq!(max_forwards(&request), hops, "{value}");
            count_hop(&mut request);
            assert_eq!(request.get("max-forwards").map(|value| value.to_str().unwrap()), left, "{value}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let mut request = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut request);
        assert_eq!(request.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
