//! The types that a setting's value may have, each with how it is written.

use crate::config::decode::Below;
use crate::config::decode::Context;
use crate::config::decode::Nested;
use crate::config::decode::Setting;
use crate::config::decode::join;
use crate::config::decode::table;
use crate::config::decode::wrong_type;
use crate::semantics::pattern::Pattern;
use crate::units::BadUnit;
use crate::units::ByteSize;
use crate::units::LimitName;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::SiteName;
use crate::units::UpstreamName;
use crate::units::format_duration;
use crate::units::parse_duration;
use crate::upstream::machine::class::Rule as ClassRule;
use http::HeaderName;
use http::HeaderValue;
use ipnet::IpNet;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::Value;
use toml::de::DeValue;

/// An endpoint in a set: `"HOST:PORT"`, and what sets it apart from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub addr: OriginAddr,
    /// Its share of the load, 1 to 100.
    pub weight: u32,
    /// Used only while no other is open.
    pub backup: bool,
    /// Its host is a name to be looked up again and again (`dns+`): every address of it is an endpoint.
    pub by_name: bool,
}

/// Fields whose values are ours or the origin's alone: framing, and what caches go by.
const OWN_FIELDS: &[&str] = &[
    "age",
    "cache-status",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
];

/// Where to listen: `"ADDR:PORT"`, or `"https://ADDR:PORT"` for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port.
    pub addr: SocketAddr,
    /// Whether connections begin with a TLS handshake.
    pub tls: bool,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

/// An address that moves: `"10.0.0.10/24"`, or `"10.0.0.10/24 dev eth1"` on an interface of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceIp {
    /// The address with its prefix.
    pub address: IpNet,
    /// The interface, if it is named.
    pub device: Option<String>,
}

/// A value, or `"off"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switchable<T> {
    /// On, with this value.
    On(T),
    /// Off.
    Off,
}

/// The cache's memory: a size, or a part of the memory that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes.
    Bytes(ByteSize),
    /// So many per cent of the control group's limit, or of the machine's memory where there is none.
    Percent(u8),
}

/// The upstream of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamRef {
    /// By name.
    Name(UpstreamName),
    /// Endpoints at hand, with defaults for everything else.
    Inline(Vec<Server>),
}

/// Who may purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeAllow {
    /// The addresses of all upstreams' endpoints.
    Upstreams,
    /// These networks.
    Networks(Vec<IpNet>),
}

/// Whose requests a limit counts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// `"ip/32,56"`: of one network.
    Network {
        /// Bits of an IPv4 address.
        v4_bits: u8,
        /// Bits of an IPv6 address.
        v6_bits: u8,
    },
    /// `"cookie/NAME"`: with the same value of this cookie.
    Cookie(String),
    /// `"all"`: everybody's.
    All,
}

/// What happens to requests over a limit: `429`, `"queue-last"` or `"close"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// They are refused.
    Refuse,
    /// They leave the queue last.
    QueueLast,
    /// They are refused, and their connection is closed.
    Close,
}

/// The most bytes of a body for some paths: `"PATH SIZE"`.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyRule {
    /// The paths.
    pub path: Pattern,
    /// The bound.
    pub max: ByteSize,
}

/// So many in such a time: `"50/s"`, `"30/min"`, `"1000/h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// The time: a second, a minute, an hour.
    pub per: Duration,
}

/// The permissions of a socket file: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// The name of a header field that an operator may set, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(pub HeaderName);

impl Ord for FieldName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The value of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValue(pub HeaderValue);

/// Reads a string by `parse`, or notes what was wrong with it.
fn text<T>(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    context: &mut Context<'_>,
    parse: impl FnOnce(&str) -> Result<T, BadUnit>,
) -> Option<T> {
    let Some(written) = value.get_ref().as_str() else {
        wrong_type(value, path, "a string", context);
        return None;
    };
    match parse(written) {
        Ok(parsed) => Some(parsed),
        Err(bad) => {
            context.error_at("E0205", value.span(), format!("`{path}`: {bad}"), None);
            None
        }
    }
}

/// A setting that is a string in the file.
macro_rules! text_setting {
    ($type:ty, $parse:expr, $show:expr) => {
        impl Setting for $type {
            fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
                text(value, path, context, $parse)
            }

            fn show(&self) -> Option<Value> {
                let show: fn(&Self) -> String = $show;
                Some(Value::String(show(self)))
            }
        }

        impl Nested for $type {}
    };
}

text_setting!(String, |written| Ok(written.to_owned()), String::clone);
text_setting!(PathBuf, parse_path, |path| path.display().to_string());
text_setting!(Duration, parse_duration, |value| format_duration(*value));
text_setting!(ByteSize, ByteSize::parse, ToString::to_string);
text_setting!(OriginAddr, OriginAddr::parse, ToString::to_string);
text_setting!(Server, Server::parse, ToString::to_string);
text_setting!(ClassRule, ClassRule::parse, ToString::to_string);
text_setting!(SetName, SetName::parse, ToString::to_string);
text_setting!(UpstreamName, UpstreamName::parse, ToString::to_string);
text_setting!(LimitName, LimitName::parse, ToString::to_string);
text_setting!(NodeLabel, NodeLabel::parse, ToString::to_string);
text_setting!(SiteName, SiteName::parse, ToString::to_string);
text_setting!(SocketAddr, parse_addr, ToString::to_string);
text_setting!(IpNet, parse_network, ToString::to_string);
text_setting!(ServiceIp, ServiceIp::parse, |ip| match &ip.device {
    Some(device) => format!("{} dev {device}", ip.address),
    None => ip.address.to_string(),
});
text_setting!(Listen, Listen::parse, |listen| {
    if listen.tls { format!("https://{}", listen.addr) } else { listen.addr.to_string() }
});
text_setting!(Memory, Memory::parse, |memory| match memory {
    Memory::Bytes(bytes) => bytes.to_string(),
    Memory::Percent(percent) => format!("{percent}%"),
});
text_setting!(LimitKey, LimitKey::parse, |key| match key {
    LimitKey::Network { v4_bits, v6_bits } => format!("ip/{v4_bits},{v6_bits}"),
    LimitKey::Cookie(name) => format!("cookie/{name}"),
    LimitKey::All => "all".to_owned(),
});
text_setting!(Pattern, parse_pattern, ToString::to_string);
text_setting!(BodyRule, BodyRule::parse, |rule| format!("{} {}", rule.path, rule.max));
text_setting!(Rate, Rate::parse, Rate::show_text);
text_setting!(FieldValue, FieldValue::parse, |value| String::from_utf8_lossy(value.0.as_bytes()).into_owned());
text_setting!(FieldName, |written| Name::read(&written.to_lowercase()), |name| name.0.to_string());
text_setting!(Mode, Mode::parse, |mode| format!("{:04o}", mode.0));

fn parse_path(written: &str) -> Result<PathBuf, BadUnit> {
    if written.is_empty() { Err(BadUnit("a path must not be empty".to_owned())) } else { Ok(written.into()) }
}

fn parse_pattern(written: &str) -> Result<Pattern, BadUnit> {
    Pattern::glob(written).map_err(|bad| BadUnit(bad.0))
}

/// Reads an address to listen at.
///
/// # Errors
/// When it is none, or has no port.
pub fn parse_addr(written: &str) -> Result<SocketAddr, BadUnit> {
    written.parse().map_err(|_| {
        BadUnit(format!("`{written}` is no address; write it like \"127.0.0.1:8080\", \"0.0.0.0:80\" or \"[::]:443\""))
    })
}

fn parse_network(written: &str) -> Result<IpNet, BadUnit> {
    let alone = || written.parse::<std::net::IpAddr>().map(IpNet::from);
    written.parse().or_else(|_| alone()).map_err(|_| {
        BadUnit(format!("`{written}` is no network; write it like \"10.0.0.0/8\", \"192.0.2.1\" or \"2001:db8::/32\""))
    })
}

impl Server {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let mut words = written.split_ascii_whitespace();
        let place = words.next().unwrap_or_default();
        let name = place.strip_prefix("dns+").map(|name| name.strip_prefix("http://").unwrap_or(name));
        let addr = OriginAddr::parse(name.unwrap_or(place))?;
        let by_name = name.is_some() && addr.host().parse::<std::net::IpAddr>().is_err();
        let mut server = Self { addr, weight: 1, backup: false, by_name };
        for word in words {
            match word.split_once('=') {
                None if word == "backup" => server.backup = true,
                Some(("weight", weight)) if weight.parse().is_ok_and(|weight: u32| (1..=100).contains(&weight)) => {
                    server.weight = weight.parse().unwrap_or(1);
                }
                _ => {
                    let help = "after the address may stand `weight=N` (1 to 100) and `backup`";
                    return Err(BadUnit(format!("`{word}` says nothing about a server; {help}")));
                }
            }
        }
        Ok(server)
    }
}

impl From<OriginAddr> for Server {
    fn from(addr: OriginAddr) -> Self {
        Self { addr, weight: 1, backup: false, by_name: false }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_name {
            f.write_str("dns+")?;
        }
        write!(f, "{}", self.addr)?;
        if self.weight != 1 {
            write!(f, " weight={}", self.weight)?;
        }
        if self.backup { f.write_str(" backup") } else { Ok(()) }
    }
}

impl ServiceIp {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let words: Vec<&str> = written.split_ascii_whitespace().collect();
        let (address, device) = match words.as_slice() {
            [address] => (*address, None),
            [address, "dev", device] => (*address, Some((*device).to_owned())),
            _ => {
                let help = "write \"10.0.0.10/24\", or \"10.0.0.10/24 dev eth0\"";
                return Err(BadUnit(format!("`{written}` is no address of an interface; {help}")));
            }
        };
        Ok(Self { address: parse_network(address)?, device })
    }
}

impl Listen {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let (tls, addr) = match (written.strip_prefix("https://"), written.strip_prefix("http://")) {
            (Some(addr), _) => (true, addr),
            (None, Some(addr)) => (false, addr),
            (None, None) => (false, written),
        };
        Ok(Self { addr: parse_addr(addr)?, tls })
    }
}

impl Memory {
    /// The bytes that it stands for, when this process may use `limit`.
    #[must_use]
    pub fn of(self, limit: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.0,
            Self::Percent(percent) => limit / 100 * u64::from(percent),
        }
    }

    fn parse(written: &str) -> Result<Self, BadUnit> {
        let Some(percent) = written.strip_suffix('%') else { return ByteSize::parse(written).map(Self::Bytes) };
        match percent.parse() {
            Ok(percent @ 1..=90) => Ok(Self::Percent(percent)),
            _ => Err(BadUnit(format!("`{written}` is no share of memory; write \"1%\" to \"90%\", or a size"))),
        }
    }
}

impl LimitKey {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let wrong = || {
            BadUnit(format!(
                "`{written}` is no kind of client; write \"ip/32,56\" (bits of IPv4, bits of IPv6), \"cookie/NAME\" or \"all\""
            ))
        };
        if written == "all" {
            return Ok(Self::All);
        }
        if let Some(name) = written.strip_prefix("cookie/") {
            // RFC 6265 4.1.1: a cookie's name is a token.
            let good = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte));
            return if good { Ok(Self::Cookie(name.to_owned())) } else { Err(wrong()) };
        }
        let bits = written.strip_prefix("ip/").and_then(|bits| bits.split_once(','));
        let bits = bits.and_then(|(v4, v6)| Some((v4.trim().parse().ok()?, v6.trim().parse().ok()?)));
        match bits {
            Some((v4_bits @ 1..=32, v6_bits @ 1..=128)) => Ok(Self::Network { v4_bits, v6_bits }),
            _ => Err(wrong()),
        }
    }
}

impl BodyRule {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let Some((path, size)) = written.trim().rsplit_once(char::is_whitespace) else {
            return Err(BadUnit(format!(
                "`{written}` says no size; write \"PATH SIZE\", such as \"/uploads/** 1GiB\""
            )));
        };
        Ok(Self { path: parse_pattern(path.trim())?, max: ByteSize::parse(size)? })
    }
}

impl Setting for Over {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        let number = value.get_ref().as_integer().map(|number| number.as_str().to_owned());
        match number.as_deref().or(value.get_ref().as_str()) {
            Some("429") => Some(Self::Refuse),
            Some("queue-last") => Some(Self::QueueLast),
            Some("close") => Some(Self::Close),
            _ => {
                let message = format!("`{path}` must be one of 429, \"queue-last\", \"close\"");
                context.error_at("E0205", value.span(), message, None);
                None
            }
        }
    }

    fn show(&self) -> Option<Value> {
        Some(match self {
            Self::Refuse => Value::Integer(429),
            Self::QueueLast => Value::String("queue-last".to_owned()),
            Self::Close => Value::String("close".to_owned()),
        })
    }
}

impl Nested for Over {}

impl Rate {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let parts = written.split_once('/').and_then(|(count, per)| {
            let seconds = match per {
                "s" => 1,
                "min" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some((count.trim().parse().ok().filter(|count| *count > 0)?, Duration::from_secs(seconds)))
        });
        parts
            .map(|(count, per)| Self { count, per })
            .ok_or_else(|| BadUnit(format!("`{written}` is no rate; write \"50/s\", \"30/min\" or \"1000/h\"")))
    }

    fn show_text(&self) -> String {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        format!("{}/{unit}", self.count)
    }
}

impl FieldValue {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        let value = HeaderValue::from_str(written).ok().filter(|_| written.trim() == written);
        value.map(Self).ok_or_else(|| BadUnit(format!("`{written}` cannot be the value of a header field")))
    }
}

impl Name for FieldName {
    fn read(text: &str) -> Result<Self, BadUnit> {
        let wrong = |why: &str| BadUnit(format!("`{text}` {why}"));
        let name = HeaderName::try_from(text).map_err(|_| wrong("is no name of a header field"))?;
        if OWN_FIELDS.contains(&name.as_str()) {
            return Err(wrong("is written by tidegate itself"));
        }
        Ok(Self(name))
    }

    fn text(&self) -> &str {
        self.0.as_str()
    }
}

impl Mode {
    fn parse(written: &str) -> Result<Self, BadUnit> {
        match u32::from_str_radix(written, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(BadUnit(format!("`{written}` is no mode; write it in octal, like \"0660\""))),
        }
    }
}

impl<T: Setting> Setting for Switchable<T> {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("off") {
            Some(Self::Off)
        } else {
            T::decode(value, path, context).map(Self::On)
        }
    }

    fn show(&self) -> Option<Value> {
        match self {
            Self::On(value) => value.show(),
            Self::Off => Some(Value::String("off".to_owned())),
        }
    }
}

impl<T> Nested for Switchable<T> {}

impl Setting for UpstreamRef {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        if value.get_ref().is_array() {
            return Vec::decode(value, path, context).map(Self::Inline);
        }
        text(value, path, context, |written| {
            UpstreamName::parse(written).map_err(|bad| {
                if OriginAddr::parse(written).is_ok() {
                    BadUnit(format!(
                        "`{written}` is no name of an upstream; endpoints stand in a list: [\"{written}\"]"
                    ))
                } else {
                    bad
                }
            })
        })
        .map(Self::Name)
    }

    fn show(&self) -> Option<Value> {
        match self {
            Self::Name(name) => Some(Value::String(name.to_string())),
            Self::Inline(endpoints) => endpoints.show(),
        }
    }
}

impl Nested for UpstreamRef {}

impl Setting for PurgeAllow {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        match value.get_ref().as_str() {
            Some("upstreams") => Some(Self::Upstreams),
            Some(other) => {
                let message = format!("`{path}` is \"{other}\"; write \"upstreams\" or a list of networks");
                context.error_at("E0205", value.span(), message, None);
                None
            }
            None => Vec::decode(value, path, context).map(Self::Networks),
        }
    }

    fn show(&self) -> Option<Value> {
        match self {
            Self::Upstreams => Some(Value::String("upstreams".to_owned())),
            Self::Networks(networks) => networks.show(),
        }
    }
}

impl Nested for PurgeAllow {}

impl Setting for bool {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            wrong_type(value, path, "true or false", context);
        }
        read
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Nested for bool {}

impl Setting for u32 {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        let number = value.get_ref().as_integer();
        let read = number.and_then(|number| Self::from_str_radix(number.as_str(), number.radix()).ok());
        if read.is_none() {
            let unit = value.get_ref().is_str().then(|| "without quotes or unit".to_owned());
            let message = format!("`{path}` must be a whole number from 0 to {}", Self::MAX);
            context.error_at("E0204", value.span(), message, unit);
        }
        read
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Integer(i64::from(*self)))
    }
}

impl Nested for u32 {}

impl<T: Setting> Setting for Option<T> {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        T::decode(value, path, context).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(Setting::show)
    }
}

impl<T: Nested> Nested for Option<T> {
    fn below() -> Option<Below> {
        T::below()
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        let Some(items) = value.get_ref().as_array() else {
            wrong_type(value, path, "a list", context);
            return None;
        };
        let read = items.iter().enumerate().map(|(at, item)| {
            let path = format!("{path}.{at}");
            context.found(&path, item.span());
            T::decode(item, &path, context)
        });
        // Every item is read, so that all problems are told.
        let read: Vec<Option<T>> = read.collect();
        read.into_iter().collect()
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Array(self.iter().filter_map(Setting::show).collect()))
    }
}

impl<T: Nested> Nested for Vec<T> {
    fn below() -> Option<Below> {
        match T::below() {
            Some(Below::Table(fields)) => Some(Below::Listed(fields)),
            other => other,
        }
    }
}

impl<T: Setting> Setting for OneOrMore<T> {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        if value.get_ref().is_array() {
            return Vec::decode(value, path, context).map(Self);
        }
        T::decode(value, path, context).map(|one| Self(vec![one]))
    }

    fn show(&self) -> Option<Value> {
        match self.0.as_slice() {
            [] => None,
            [one] => one.show(),
            _ => self.0.show(),
        }
    }
}

impl<T> Nested for OneOrMore<T> {}

/// A name that is a key of the file.
pub trait Name: Ord + Sized {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no name.
    fn read(text: &str) -> Result<Self, BadUnit>;

    /// Its text.
    fn text(&self) -> &str;
}

macro_rules! name_key {
    ($($name:ident),+) => {$(
        impl Name for $name {
            fn read(text: &str) -> Result<Self, BadUnit> {
                Self::parse(text)
            }

            fn text(&self) -> &str {
                self.as_str()
            }
        }
    )+};
}

name_key!(UpstreamName, SetName, LimitName, NodeLabel);

impl Name for SiteName {
    fn read(text: &str) -> Result<Self, BadUnit> {
        Self::parse(text).map_err(|bad| {
            if text.contains('*') {
                let help = "name each host (`aliases`), or set `default = true` in one site for all others";
                BadUnit(format!("`{text}`: hosts have no patterns; {help}"))
            } else if text.contains([':', '/']) {
                BadUnit(format!("`{text}` is no host; write its name alone, without scheme, port and path"))
            } else {
                bad
            }
        })
    }

    fn text(&self) -> &str {
        self.as_str()
    }
}

impl<K: Name, T: Setting> Setting for BTreeMap<K, T> {
    fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
        let mut read = Self::new();
        // In the order of the text, so that of two the second is the one too many.
        let mut entries: Vec<_> = table(value, path, context)?.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = match K::read(&key.get_ref().to_lowercase()) {
                Ok(name) => name,
                Err(bad) => {
                    context.error_at("E0205", key.span(), format!("in [{path}]: {bad}"), None);
                    context.unread(path.to_owned());
                    continue;
                }
            };
            if read.contains_key(&name) {
                let message = format!("[{path}] has `{}` already", name.text());
                let help = "capital letters make no other name of it; put both together, or leave one out";
                context.error_at("E0207", key.span(), message, Some(help.to_owned()));
                continue;
            }
            let path = join(path, name.text());
            context.found(&path, key.span());
            if let Some(value) = T::decode(value, &path, context) {
                read.insert(name, value);
            }
        }
        Some(read)
    }

    fn show(&self) -> Option<Value> {
        let shown = self.iter().filter_map(|(name, value)| Some((name.text().to_owned(), value.show()?)));
        let shown: toml::Table = shown.collect();
        (!shown.is_empty()).then_some(Value::Table(shown))
    }
}

impl<K, T: Nested> Nested for BTreeMap<K, T> {
    fn below() -> Option<Below> {
        match T::below() {
            Some(Below::Table(fields)) => Some(Below::Named(fields)),
            other => other,
        }
    }
}

/// Declares a setting that is one of a few words.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $word,)+
        }

        impl Setting for $name {
            fn decode(value: &Spanned<DeValue<'_>>, path: &str, context: &mut Context<'_>) -> Option<Self> {
                match value.get_ref().as_str() {
                    $(Some($text) => Some(Self::$word),)+
                    _ => {
                        let words = [$(concat!("\"", $text, "\"")),+].join(", ");
                        context.error_at("E0205", value.span(), format!("`{path}` must be one of {words}"), None);
                        None
                    }
                }
            }

            fn show(&self) -> Option<Value> {
                Some(Value::String(match self { $(Self::$word => $text,)+ }.to_owned()))
            }
        }

        impl Nested for $name {}
    };
}

/// A node of the pair: 1 to 63 of `a-z`, `0-9`, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeLabel(String);

impl NodeLabel {
    /// Reads it.
    ///
    /// # Errors
    /// When it has other characters.
    pub fn parse(written: &str) -> Result<Self, BadUnit> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if (1..=63).contains(&written.len()) && written.bytes().all(good) {
            return Ok(Self(written.to_owned()));
        }
        Err(BadUnit(format!("`{written}` is no node's name; write 1 to 63 of a-z, 0-9, `-` and `.`")))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

choice!(
    /// Whether the pair acts.
    PairMode {
        /// It does.
        Act = "act",
        /// It only says what it would do.
        Observe = "observe",
    }
);

choice!(
    /// How a storage is asked.
    ProbeKind {
        /// As a ZEO server.
        Zeo = "zeo",
        /// By a connection.
        Tcp = "tcp",
        /// By a page.
        Http = "http",
        /// By a program.
        Exec = "exec",
    }
);

choice!(
    /// The protocol of a fence device.
    FenceKind {
        /// fence-agents.
        Agent = "agent",
        /// cluster-glue.
        External = "external",
        /// A program of one's own.
        Exec = "exec",
    }
);

choice!(
    /// How the service address moves.
    AddressKind {
        /// There is none.
        None = "none",
        /// An IP address.
        Ip = "ip",
        /// By a program.
        Exec = "exec",
    }
);

choice!(
    /// What a resource is.
    ResourceKind {
        /// A supervised process.
        Process = "process",
        /// An init script.
        Lsb = "lsb",
        /// A resource agent.
        Ocf = "ocf",
        /// A unit of systemd.
        Systemd = "systemd",
    }
);

choice!(
    /// Whether there must be a watchdog.
    WatchdogNeed {
        /// It is not touched.
        Off = "off",
        /// It is looked at.
        Observe = "observe",
        /// No active role without it.
        Required = "required",
    }
);

choice!(
    /// The scheme that visitors see.
    Scheme {
        /// As the listener.
        Auto = "auto",
        /// `http`.
        Http = "http",
        /// `https`: TLS ends before us.
        Https = "https",
    }
);

choice!(
    /// The kind of application behind a site.
    Preset {
        /// Nothing is known.
        Plain = "plain",
        /// Zope.
        Zope = "zope",
        /// Plone that renders its pages itself.
        PloneClassic = "plone-classic",
        /// Plone behind Volto.
        PloneVolto = "plone-volto",
    }
);

choice!(
    /// A content coding.
    Coding {
        /// zstd, RFC 8878.
        Zstd = "zstd",
        /// Brotli, RFC 7932.
        Br = "br",
        /// gzip.
        Gzip = "gzip",
    }
);

choice!(
    /// Whether Plone's private pages are kept and verified.
    Verify {
        /// They are not kept.
        Off = "off",
        /// Those whose entity tag names no user.
        PloneEtag = "plone-etag",
    }
);

choice!(
    /// When a request leaves the queue.
    QueueClass {
        /// As those of who is logged in.
        Editor = "editor",
        /// As those of visitors.
        Anonymous = "anonymous",
        /// Last.
        Background = "background",
    }
);

choice!(
    /// The lowest TLS version.
    TlsMin {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
);

choice!(
    /// Whether visitors' Cache-Control is minded.
    ClientCacheControl {
        /// Not at all.
        Ignore = "ignore",
        /// As RFC 9111 5.2.1 describes.
        Honour = "honour",
    }
);

choice!(
    /// Whether proxies in front of us tell by the PROXY protocol whose connections they bring.
    ProxyProtocol {
        /// They do not.
        Off = "off",
        /// Some do.
        Optional = "optional",
        /// All do.
        Required = "required",
    }
);

choice!(
    /// How an authority is shown that a name is ours.
    AcmeChallenge {
        /// By the one, then by the other.
        Auto = "auto",
        /// By a file.
        Http01 = "http-01",
        /// By a certificate.
        TlsAlpn01 = "tls-alpn-01",
    }
);

choice!(
    /// What a limit counts.
    Cost {
        /// Requests.
        Request = "request",
        /// Seconds that requests keep endpoints busy.
        OriginTime = "origin-time",
    }
);

choice!(
    /// How an endpoint is chosen.
    Balance {
        /// The one with the fewest requests in flight for its weight.
        LeastBusy = "least-busy",
        /// In turn.
        RoundRobin = "round-robin",
        /// The less busy of two.
        RandomTwo = "random-2",
        /// Equal paths to the same one.
        PathHash = "path-hash",
    }
);

choice!(
    /// How endpoints are checked.
    CheckKind {
        /// By a page.
        Http = "http",
        /// By a connection.
        Tcp = "tcp",
        /// Not at all.
        Off = "off",
    }
);

choice!(
    /// How the diary is written.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
);

choice!(
    /// The least important thing that the diary tells.
    LogLevel {
        /// We failed someone.
        Error = "error",
        /// Act soon.
        Warn = "warn",
        /// The operator's diary.
        Info = "info",
        /// Each request under the loupe.
        Debug = "debug",
    }
);

choice!(
    /// How access lines look.
    AccessFormat {
        /// One JSON object a line.
        Json = "json",
        /// Apache's combined format.
        Combined = "combined",
        /// There are none.
        Off = "off",
    }
);
