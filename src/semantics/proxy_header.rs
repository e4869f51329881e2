//! The header that a proxy sends ahead of a connection to tell whose it is: PROXY protocol, versions 1 and 2.
//!
//! What can only be the beginning of a header is not yet judged; what can be none is left as it is.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

/// The longest header that is read: version 2 may carry more than addresses, but nothing that we need.
pub const HEADER_MAX: usize = 4096;

/// The longest line of version 1, its end included (section 2.1 of the specification).
const LINE_MAX: usize = 107;

/// What version 1 begins with.
const LINE: &[u8] = b"PROXY ";

/// What version 2 begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// A header of this length. Without a source, the connection is the proxy's own, or it does not know.
    Header {
        /// Its bytes.
        len: usize,
        /// The client that the proxy speaks for.
        source: Option<SocketAddr>,
    },
    /// No header.
    None,
    /// It may become a header.
    More,
    /// A header that is wrong.
    Bad(&'static str),
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Ahead {
    if begins(bytes, SIGNATURE) {
        version_2(bytes)
    } else if begins(bytes, LINE) {
        version_1(bytes)
    } else {
        Ahead::None
    }
}

/// Whether `bytes` begin with `mark`, or are the beginning of it.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let len = bytes.len().min(mark.len());
    bytes[..len] == mark[..len]
}

fn version_1(bytes: &[u8]) -> Ahead {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_MAX { Ahead::More } else { Ahead::Bad("a line of version 1 has no end") };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(LINE));
    let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) else {
        return Ahead::Bad("a line of version 1 ends wrongly");
    };
    let len = end + 1;
    let mut words = line.split(' ');
    let source = match words.next() {
        // Whatever follows is not to be minded.
        Some("UNKNOWN") => return Ahead::Header { len, source: None },
        Some("TCP4") => addresses::<Ipv4Addr>(words),
        Some("TCP6") => addresses::<Ipv6Addr>(words),
        _ => return Ahead::Bad("version 1 names an unknown family"),
    };
    match source {
        Some(source) => Ahead::Header { len, source: Some(source) },
        None => Ahead::Bad("version 1 has wrong addresses"),
    }
}

/// Source and destination, then their ports; nothing more.
fn addresses<'a, A: std::str::FromStr + Into<IpAddr>>(mut words: impl Iterator<Item = &'a str>) -> Option<SocketAddr> {
    let source: A = words.next()?.parse().ok()?;
    let _: A = words.next()?.parse().ok()?;
    let source_port = port(words.next()?)?;
    port(words.next()?)?;
    words.next().is_none().then(|| SocketAddr::new(source.into(), source_port))
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits)
}

fn version_2(bytes: &[u8]) -> Ahead {
    let Some((head, rest)) = bytes.split_at_checked(SIGNATURE.len() + 4) else { return Ahead::More };
    let [command, family, high, low] = [head[12], head[13], head[14], head[15]];
    let len = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || command & 0xf > 1 {
        return Ahead::Bad("the version is not 2, or its command is unknown");
    }
    if head.len() + len > HEADER_MAX {
        return Ahead::Bad("a header of version 2 is too long");
    }
    let Some(payload) = rest.get(..len) else { return Ahead::More };
    let len = head.len() + len;
    if command == 0x20 {
        // LOCAL: the proxy speaks for itself, such as when it looks whether we are there.
        return Ahead::Header { len, source: None };
    }
    let source = match family {
        0x11 => payload
            .first_chunk::<12>()
            .map(|p| SocketAddr::new(Ipv4Addr::new(p[0], p[1], p[2], p[3]).into(), u16::from_be_bytes([p[8], p[9]]))),
        0x21 => payload.first_chunk::<36>().map(|p| {
            let mut ip = [0; 16];
            ip.copy_from_slice(&p[..16]);
            SocketAddr::new(Ipv6Addr::from(ip).into(), u16::from_be_bytes([p[32], p[33]]))
        }),
        // Other families have no address that we could use; section 2.2 wants their headers accepted.
        _ => return Ahead::Header { len, source: None },
    };
    match source {
        Some(source) => Ahead::Header { len, source: Some(source) },
        None => Ahead::Bad("a header of version 2 is too short for its addresses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, payload].concat()
    }

    #[test]
    fn lines_of_version_1_are_read_strictly() {
        let header = |len, source: &str| Ahead::Header { len, source: source.parse().ok() };
        for (text, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET", header(45, "192.0.2.1:56324")),
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", header(32, "[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", header(15, "")),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", header(32, "")),
            ("PROXY TCP4 192.0.2.1", Ahead::More),
            ("PROX", Ahead::More),
            ("", Ahead::More),
            ("GET / HTTP/1.1\r\n", Ahead::None),
            ("PROPFIND / HTTP/1.1\r\n", Ahead::None),
            ("\r\n\r\nGET", Ahead::None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        let long = format!("PROXY TCP4 {}", "1".repeat(LINE_MAX));
        for text in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 5\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +5 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 05 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
            &long,
        ] {
            assert!(matches!(parse(text.as_bytes()), Ahead::Bad(_)), "{text:?}");
        }
    }

    #[test]
    fn headers_of_version_2_are_read_with_what_they_carry_besides() {
        let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 187];
        let more = [&four[..], &[0x20, 0, 3, 1, 2, 3]].concat();
        let six: Vec<u8> = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 1]].concat();
        let six = [&six[..], &[0; 16], &[0, 80, 1, 187]].concat();
        for (bytes, source) in [
            (v2(0x21, 0x11, &four), "192.0.2.1:56324"),
            (v2(0x21, 0x11, &more), "192.0.2.1:56324"),
            (v2(0x21, 0x21, &six), "[2001:db8::1]:80"),
            (v2(0x20, 0x11, &four), ""),
            (v2(0x20, 0, &[]), ""),
            (v2(0x21, 0, &[]), ""),
            (v2(0x21, 0x31, &[1; 216]), ""),
        ] {
            let expected = Ahead::Header { len: bytes.len(), source: source.parse().ok() };
            assert_eq!(parse(&bytes), expected);
            assert_eq!(parse(&[&bytes[..], b"GET / "].concat()), expected);
            for len in 0..bytes.len() {
                assert_eq!(parse(&bytes[..len]), Ahead::More, "{len}");
            }
        }
        for bytes in [v2(0x11, 0x11, &four), v2(0x22, 0x11, &four), v2(0x21, 0x11, &[1]), v2(0x21, 0x11, &[0; 4090])] {
            assert!(matches!(parse(&bytes), Ahead::Bad(_)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_never_beyond_their_end(
            mark in prop::sample::select(vec![&b""[..], LINE, b"PROXY TCP4 ", SIGNATURE]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [mark, &bytes[..]].concat();
            match parse(&bytes) {
                Ahead::Header { len, .. } => prop_assert!(len <= bytes.len()),
                Ahead::More => prop_assert!(bytes.len() < HEADER_MAX),
                Ahead::None | Ahead::Bad(_) => {}
            }
        }

        #[test]
        fn what_a_proxy_writes_is_read_back(source: SocketAddr, local: SocketAddr) {
            let (source, local) = match (source, local) {
                (SocketAddr::V6(_), SocketAddr::V6(_)) | (SocketAddr::V4(_), SocketAddr::V4(_)) => (source, local),
                _ => (source, source),
            };
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {} {} {} {}\r\n", source.ip(), local.ip(), source.port(), local.port());
            let read = Some(SocketAddr::new(source.ip(), source.port()));
            prop_assert_eq!(parse(line.as_bytes()), Ahead::Header { len: line.len(), source: read });
        }
    }
}
