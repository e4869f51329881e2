//! The words of the house as types: parse once, then trust.
//!
//! Knows nothing of HTTP, files or sockets. Every `parse` says what was expected; no constructor panics.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// One reading of the machine's clocks. Decisions take it as an argument and never read a clock themselves.
///
/// `mono` measures intervals (ages, time-outs); `wall` is only for dates that leave the machine or come from outside.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time, for every interval.
    pub mono: Instant,
    /// Wall-clock time, for HTTP dates only.
    pub wall: SystemTime,
}

/// A size in bytes, written `"64KiB"`, `"8MiB"`, `"1GiB"` or `"100B"` (binary multiples; a bare number is refused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The address of the one who speaks to us, after trusted proxies were looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub IpAddr);

/// Where an origin listens: host name or IP literal, port, and whether it speaks TLS. Its text is the endpoint's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginAddr {
    host: Arc<str>,
    port: u16,
    tls: bool,
}

/// What must not be seen in logs, status or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Keeps `secret` from being shown.
    #[must_use]
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret, for whoever needs it.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What was wrong with a value, in one sentence that says what would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUnit(pub String);

impl ByteSize {
    /// Bytes in one KiB.
    pub const KIB: u64 = 1 << 10;
    /// Bytes in one MiB.
    pub const MIB: u64 = 1 << 20;
    /// Bytes in one GiB.
    pub const GIB: u64 = 1 << 30;

    /// Reads `"8MiB"` and its like.
    ///
    /// # Errors
    /// When the unit is missing or unknown, the number is no whole number, or the product does not fit 64 bits.
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        let (number, unit) = split_number(text);
        let wrong = || {
            BadUnit(format!(
                "`{text}` is no size; write a whole number and a unit, such as \"64KiB\", \"8MiB\" or \"1GiB\""
            ))
        };
        let factor = match unit {
            "B" => 1,
            "KiB" => Self::KIB,
            "MiB" => Self::MIB,
            "GiB" => Self::GIB,
            "TiB" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }

    /// The size as `usize`, saturating on a machine where it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1 << 40), ("GiB", Self::GIB), ("MiB", Self::MIB), ("KiB", Self::KIB)];
        for (unit, factor) in units {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Reads a duration with its unit: `"250ms"`, `"10s"`, `"5min"`, `"24h"`, `"180d"`. `"0s"` is zero.
///
/// # Errors
/// When the unit is missing or unknown or the number is not whole; a bare number is refused, for nobody can tell its unit.
pub fn parse_duration(text: &str) -> Result<Duration, BadUnit> {
    let (number, unit) = split_number(text);
    let wrong = || {
        BadUnit(format!(
            "`{text}` is no duration; write a whole number and a unit, such as \"500ms\", \"10s\", \"5min\", \"24h\" or \"180d\""
        ))
    };
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// Writes a duration in the largest unit that leaves a whole number; [`parse_duration`] reads it back (to the millisecond).
#[must_use]
pub fn format_duration(value: Duration) -> String {
    let millis = value.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    for (unit, factor) in units {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

impl OriginAddr {
    /// Reads `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`, each with `https://` before it if it speaks TLS.
    ///
    /// # Errors
    /// When the port is missing or zero, the host is empty, or a character stands in it that no host name has.
    pub fn parse(text: &str) -> Result<Self, BadUnit> {
        let wrong = || {
            BadUnit(format!("`{text}` is no endpoint; write host:port, such as \"10.0.0.11:8080\" or \"[::1]:8080\""))
        };
        let (tls, place) = match text.strip_prefix("https://") {
            Some(place) => (true, place),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        if place.contains('/') {
            return Err(BadUnit(format!("`{text}` is no endpoint; write host:port alone, without a path or a `/`")));
        }
        let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(literal) => literal.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None if !host.is_empty() && host.bytes().all(is_host_byte) => host.to_ascii_lowercase(),
            None => return Err(wrong()),
        };
        Ok(Self { host: host.into(), port, tls })
    }

    /// The host name or IP literal, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Host and port as in the field `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        Self { tls: false, ..self.clone() }.to_string()
    }

    /// The same port at `address`.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Self {
        Self { host: address.to_string().into(), ..self.clone() }
    }
}

impl fmt::Display for OriginAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls {
            f.write_str("https://")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Declares a name that operators choose: 1 to 64 of letters, digits, `-`, `_` and `.`; cheap to clone.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads the name as an operator wrote it.
            ///
            /// # Errors
            /// When it is empty, longer than 253 bytes, or holds anything but letters, digits, `-`, `_` and `.`.
            pub fn parse(text: &str) -> Result<Self, BadUnit> {
                if text.is_empty() || text.len() > 253 || !text.bytes().all(is_host_byte) {
                    return Err(BadUnit(format!("`{text}` is no name; use letters, digits, `-`, `_` and `.`")));
                }
                Ok(Self(text.into()))
            }

            /// The name's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A site's name: its canonical host, or a label for the default site.
    SiteName
);
name!(
    /// The name of an upstream.
    UpstreamName
);
name!(
    /// The name of one of an upstream's alternative sets of endpoints.
    SetName
);
name!(
    /// The name of a rate limit.
    LimitName
);

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn split_number(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_written_with_units_and_read_back() {
        for text in ["1B", "64KiB", "8MiB", "20GiB", "3TiB"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
        for text in ["0s", "250ms", "10s", "5min", "24h", "180d"] {
            let value = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&format_duration(value)).unwrap(), value, "{text}");
        }
        for text in ["", "8", "MiB", "8MB", "-1s", "1.5s", "99999999999999999999GiB", "18446744073709551615GiB"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!((format!("{secret:?}").as_str(), *secret.expose()), ("[secret]", "hunter2"));
    }

    #[test]
    fn endpoints_keep_their_identity_in_one_spelling() {
        for (text, shown) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("Zope1a:8080", "zope1a:8080"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0::1]:80", "[::1]:80"),
            ("https://Zope1a:8443", "https://zope1a:8443"),
            ("http://zope1a:8080", "zope1a:8080"),
        ] {
            assert_eq!(OriginAddr::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "zope",
            "zope:",
            "zope:0",
            "zope:65536",
            ":80",
            "zo pe:80",
            "zope:8o80",
            "[zope]:80",
            "a/b:80",
            "::1:80",
            "https://zope",
            "ftp://zope:80",
            "https://https://zope:80",
        ] {
            assert!(OriginAddr::parse(text).is_err(), "{text}");
        }
    }
}
