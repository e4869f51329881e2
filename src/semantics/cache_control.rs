//! The directives of Cache-Control (RFC 9111 5.2, RFC 5861), of requests and of responses.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use std::time::Duration;

/// RFC 9111 1.2.2: a larger number of seconds than can be counted is taken as 2^31.
const SECONDS_MAX: u64 = 1 << 31;

/// A directive that may be limited to named fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Absent.
    #[default]
    No,
    /// For the fields it names only. We take it as [`Scope::All`] where that is the safe side.
    Fields,
    /// For the whole response.
    All,
}

/// All directives of one message that a shared cache minds.
#[expect(clippy::struct_excessive_bools, reason = "each is a directive of its own in RFC 9111")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`.
    pub no_cache: Scope,
    /// `private`.
    pub private: Scope,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `s-maxage`.
    pub s_maxage: Option<Duration>,
    /// `min-fresh`.
    pub min_fresh: Option<Duration>,
    /// `max-stale`; without a value any staleness will do.
    pub max_stale: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861 3).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861 4).
    pub stale_if_error: Option<Duration>,
}

/// Reads all Cache-Control lines; where a directive comes twice, the more restrictive counts (RFC 9111 4.2.1).
#[must_use]
pub fn parse(headers: &HeaderMap) -> Directives {
    let mut directives = Directives::default();
    for line in headers.get_all(header::CACHE_CONTROL) {
        for item in Items(line.as_bytes()) {
            directives.take(item);
        }
    }
    directives
}

/// The fields that the directive `name` names in its qualified form, such as `no-cache="set-cookie"` (RFC 9111 5.2.2.4).
#[must_use]
pub fn named_fields(headers: &HeaderMap, name: &[u8]) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    let items = lines.flat_map(|line| Items(line.as_bytes())).filter(|item| item.name.eq_ignore_ascii_case(name));
    items
        .filter_map(|item| item.value)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|field| HeaderName::from_bytes(field.trim_ascii()).ok())
        .collect()
}

/// The lines of Cache-Control in one, without what is for shared caches: `s-maxage=0` stands for what s-maxage said. `None`
/// if it said nothing.
#[must_use]
pub fn without_shared(headers: &HeaderMap) -> Option<Vec<u8>> {
    let lines = || headers.get_all(header::CACHE_CONTROL).iter().map(HeaderValue::as_bytes);
    // Most have no `-m` anywhere: that is quicker to see than what each directive is.
    if !lines().any(|line| line.windows(2).any(|part| part[0] == b'-' && part[1] | 0x20 == b'm')) {
        return None;
    }
    let items = || lines().flat_map(Items);
    if !items().any(|item| item.name.eq_ignore_ascii_case(b"s-maxage")) {
        return None;
    }
    let mut shared = false;
    let mut line = Vec::new();
    for item in items() {
        let text = if item.name.eq_ignore_ascii_case(b"s-maxage") {
            if shared {
                continue;
            }
            shared = true;
            &b"s-maxage=0"[..]
        } else if item.name.eq_ignore_ascii_case(b"proxy-revalidate") {
            // RFC 9111 5.2.2.10: s-maxage implies it.
            continue;
        } else {
            item.text
        };
        if !line.is_empty() {
            line.extend_from_slice(b", ");
        }
        line.extend_from_slice(text);
    }
    Some(line)
}

/// Reads the directives of Surrogate-Control (Edge Architecture 1.0): like Cache-Control's, but `max-age=60+10` says how long
/// it may be stale besides. What is targeted by `;tidegate` governs alone; what is targeted at others is for others. `None` if
/// there is nothing about storing.
#[must_use]
pub fn parse_surrogate(headers: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
    surrogate(lines(), Some(b"tidegate")).or_else(|| surrogate(lines(), None))
}

fn surrogate<'a>(lines: impl Iterator<Item = &'a [u8]>, target: Option<&[u8]>) -> Option<Directives> {
    let mut directives = Directives::default();
    let mut says = false;
    for item in lines.flat_map(Items) {
        let mut halves = item.text.splitn(2, |byte| *byte == b';');
        let item = Item::of(halves.next().unwrap_or(&[]));
        if halves.next().map(<[u8]>::trim_ascii) != target {
            continue;
        }
        match item.name.to_ascii_lowercase().as_slice() {
            b"no-store" => directives.no_store = true,
            b"max-age" => {
                let value = item.value.unwrap_or(&[]);
                let mut parts = value.splitn(2, |byte| *byte == b'+');
                let lifetime = parts.next().and_then(seconds).unwrap_or(Duration::ZERO);
                directives.max_age = Some(shorter(directives.max_age, lifetime));
                if let Some(besides) = parts.next().and_then(seconds) {
                    directives.stale_while_revalidate = Some(shorter(directives.stale_while_revalidate, besides));
                }
            }
            _ => continue,
        }
        says = true;
    }
    says.then_some(directives)
}

/// Reads a request's directives. RFC 9111 5.4: without Cache-Control, `Pragma: no-cache` means no-cache.
#[must_use]
pub fn parse_request(headers: &HeaderMap) -> Directives {
    let mut directives = parse(headers);
    if !headers.contains_key(header::CACHE_CONTROL)
        && headers.get_all(header::PRAGMA).iter().any(|line| contains_token(line.as_bytes(), b"no-cache"))
    {
        directives.no_cache = Scope::All;
    }
    directives
}

impl Directives {
    fn take(&mut self, item: Item<'_>) {
        let scope = || if item.value.is_some_and(names_fields) { Scope::Fields } else { Scope::All };
        // Nearly all write them in lower case.
        let is = |name: &[u8]| item.name == name || item.name.eq_ignore_ascii_case(name);
        // By length first: all but one or two are told apart by it.
        match item.name.len() {
            6 if is(b"public") => self.public = true,
            7 if is(b"max-age") => self.max_age = Some(shorter(self.max_age, item.seconds())),
            7 if is(b"private") => self.private = wider(self.private, scope()),
            8 if is(b"no-store") => self.no_store = true,
            8 if is(b"no-cache") => self.no_cache = wider(self.no_cache, scope()),
            8 if is(b"s-maxage") => self.s_maxage = Some(shorter(self.s_maxage, item.seconds())),
            9 if is(b"min-fresh") => self.min_fresh = item.valid_seconds().max(self.min_fresh),
            9 if is(b"max-stale") => {
                let any = Duration::from_secs(SECONDS_MAX);
                self.max_stale = if item.value.is_none() { Some(any) } else { item.valid_seconds() };
            }
            14 if is(b"only-if-cached") => self.only_if_cached = true,
            14 if is(b"stale-if-error") => self.stale_if_error = Some(shorter(self.stale_if_error, item.seconds())),
            15 if is(b"must-revalidate") => self.must_revalidate = true,
            15 if is(b"must-understand") => self.must_understand = true,
            16 if is(b"proxy-revalidate") => self.proxy_revalidate = true,
            22 if is(b"stale-while-revalidate") => {
                self.stale_while_revalidate = Some(shorter(self.stale_while_revalidate, item.seconds()));
            }
            _ => {}
        }
    }
}

/// Whether a value is a list of field names and nothing else; what is not names no fields, so it is about the whole.
fn names_fields(value: &[u8]) -> bool {
    let mut names =
        value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()).peekable();
    names.peek().is_some() && names.all(|name| HeaderName::from_bytes(name).is_ok())
}

fn wider(one: Scope, other: Scope) -> Scope {
    if one == Scope::All || other == Scope::All { Scope::All } else { Scope::Fields }
}

fn shorter(before: Option<Duration>, now: Duration) -> Duration {
    before.map_or(now, |before| before.min(now))
}

#[derive(Clone, Copy)]
struct Item<'a> {
    /// As it is written.
    text: &'a [u8],
    name: &'a [u8],
    /// Without its quotes.
    value: Option<&'a [u8]>,
}

impl Item<'_> {
    /// RFC 9111 4.2.1: an invalid number of seconds makes the response stale.
    fn seconds(&self) -> Duration {
        self.valid_seconds().unwrap_or(Duration::ZERO)
    }

    fn valid_seconds(&self) -> Option<Duration> {
        seconds(self.value?)
    }
}

/// Reads delta-seconds (RFC 9111 1.2.2): digits only, too large a number counts as 2^31.
#[must_use]
pub fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0_u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(SECONDS_MAX));
    Some(Duration::from_secs(number))
}

/// The comma-separated items of a list field, quoted strings respected.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            if self.0.is_empty() {
                return None;
            }
            let end = item_end(self.0);
            let item = self.0[..end].trim_ascii();
            self.0 = self.0.get(end + 1..).unwrap_or(&[]);
            if !item.is_empty() {
                return Some(Item::of(item));
            }
        }
    }
}

impl<'a> Item<'a> {
    fn of(text: &'a [u8]) -> Self {
        match text.iter().position(|byte| *byte == b'=') {
            None => Self { text, name: text.trim_ascii_end(), value: None },
            Some(at) => {
                let (name, value) = (text[..at].trim_ascii_end(), text[at + 1..].trim_ascii_start());
                Self { text, name, value: Some(unquote(value)) }
            }
        }
    }
}

/// Where the first item of a list ends: at a comma outside quotes.
fn item_end(list: &[u8]) -> usize {
    // Hardly any has quotes.
    let first = list.iter().position(|byte| matches!(byte, b',' | b'"'));
    if first.is_none_or(|at| list[at] == b',') {
        return first.unwrap_or(list.len());
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    list.len()
}

fn unquote(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").map_or(value, |rest| rest.strip_suffix(b"\"").unwrap_or(rest))
}

/// Whether a list field holds `token`, in any case.
#[must_use]
pub fn contains_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        parse(&headers)
    }

    #[expect(clippy::unnecessary_wraps, reason = "what it is compared with is optional")]
    const fn secs(number: u64) -> Option<Duration> {
        Some(Duration::from_secs(number))
    }

    #[test]
    fn the_more_restrictive_of_two_counts() {
        assert_eq!(read(&["max-age=60", "max-age=10"]).max_age, secs(10));
        assert_eq!(read(&["max-age=60, max-age=x"]).max_age, secs(0), "RFC 9111 4.2.1: invalid means stale");
        assert_eq!(read(&["private=\"x-a\", private"]).private, Scope::All);
    }

    #[test]
    fn forms_that_occur_are_understood() {
        assert_eq!(read(&["MAX-AGE=\"7\" , , S-MaxAge=5"]).max_age, secs(7));
        assert_eq!(read(&["max-age=99999999999999999999"]).max_age, secs(SECONDS_MAX));
        assert_eq!(read(&["no-cache=\"set-cookie, x\", max-age=3"]).max_age, secs(3));
        assert_eq!(read(&["no-cache=\"set-cookie, no-store\""]).no_cache, Scope::Fields);
        assert!(!read(&["no-cache=\"set-cookie, no-store\""]).no_store, "names inside quotes are no directives");
        assert_eq!(read(&["max-stale"]).max_stale, secs(SECONDS_MAX));
        assert_eq!(read(&["max-age=-1"]).max_age, secs(0));
        assert_eq!(read(&["xmax-age=1, max-agex=2"]).max_age, None);
    }

    #[test]
    fn what_is_for_shared_caches_goes_no_further() {
        for (lines, expected) in [
            (&["max-age=0, s-maxage=86400, must-revalidate"][..], Some("max-age=0, s-maxage=0, must-revalidate")),
            (&["max-age=10, S-MaxAge=60, proxy-revalidate, public"], Some("max-age=10, s-maxage=0, public")),
            (&["s-maxage=1", "private=\"a, b\", s-maxage=2"], Some("s-maxage=0, private=\"a, b\"")),
            (&["max-age=60, proxy-revalidate"], None),
            (&["x=\"s-maxage=9\""], None),
        ] {
            let values = lines.iter().map(|line| (header::CACHE_CONTROL, HeaderValue::from_static(line)));
            let headers = values.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            });
            assert_eq!(without_shared(&headers).as_deref(), expected.map(str::as_bytes), "{lines:?}");
        }
    }

    #[test]
    fn fields_are_named_in_quotes() {
        let mut headers = HeaderMap::new();
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-cache=\"Set-Cookie, x-a\", private=x-b"));
        assert_eq!(named_fields(&headers, b"no-cache"), [header::SET_COOKIE, HeaderName::from_static("x-a")]);
        assert_eq!(named_fields(&headers, b"private"), [HeaderName::from_static("x-b")]);
        assert_eq!(read(&["private=\"a b\""]).private, Scope::All, "what names no fields is about the whole");
    }

    #[test]
    fn surrogates_are_told_in_their_own_way() {
        let name = HeaderName::from_static("surrogate-control");
        let read = |line: &'static str| {
            let headers: HeaderMap = [(name.clone(), HeaderValue::from_static(line))].into_iter().collect();
            parse_surrogate(&headers, &name).map(|found| (found.no_store, found.max_age, found.stale_while_revalidate))
        };
        assert_eq!(read("max-age=60+10, content=\"ESI/1.0\""), Some((false, secs(60), secs(10))));
        assert_eq!(read("no-store, max-age=60;other"), Some((true, None, None)));
        assert_eq!(read("no-store, max-age=5, max-age=60+10;tidegate"), Some((false, secs(60), secs(10))));
        assert_eq!(read("max-age=60;tidegate-2"), None);
        assert_eq!(read("content=\"ESI/1.0\""), None);
        assert_eq!(read("max-age=x"), Some((false, secs(0), None)));
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(header::PRAGMA, HeaderValue::from_static("x, No-Cache"));
        assert_eq!(parse_request(&headers).no_cache, Scope::All);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        assert_eq!(parse_request(&headers).no_cache, Scope::No);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.append(header::CACHE_CONTROL, value);
                let _ = parse_request(&headers);
            }
        }
    }
}
