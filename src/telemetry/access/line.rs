//! From a record to its line. Pure; knows no files and no threads.
//!
//! Bytes that come from outside are escaped so that a line is one line for every tool: control characters (those beyond
//! ASCII and the Unicode line separators too), quotes and backslashes. JSON must be UTF-8: what is not becomes U+FFFD, and
//! the line says `"lossy":true`. A field longer than [`FIELD_MAX`] is cut, and the line says `"cut":true`.

use crate::telemetry::access::Format;
use crate::telemetry::access::Record;
use http::Version;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;
use std::time::SystemTime;

/// The most bytes of one field; a request's target may have as many.
pub const FIELD_MAX: usize = 8 * 1024;

/// Appends the line of `record`, with its line feed.
pub fn format(format: Format, record: &Record<'_>, out: &mut Vec<u8>) {
    match format {
        Format::Json => json(record, out),
        Format::Combined => combined(record, out),
        Format::Off => {}
    }
}

fn json(record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    rfc3339(record.time, out);
    out.extend_from_slice(b"\",\"client\":\"");
    address(record.client, out);
    out.push(b'"');
    let mut object = Object { out, lossy: false, cut: false };
    object.text("method", record.method.as_bytes());
    object.text("host", record.host);
    object.text("target", record.target);
    object.text("protocol", protocol(record.version).as_bytes());
    object.number("status", u64::from(record.status));
    object.number("bytes", record.bytes);
    object.millis("duration_ms", record.duration);
    object.text("cache", record.cache.as_bytes());
    object.some_text("why", record.why.map(str::as_bytes));
    object.some_text("site", record.site.map(str::as_bytes));
    object.some_text("upstream", record.upstream.map(str::as_bytes));
    if let Some(endpoint) = record.endpoint {
        object.key("endpoint");
        // A host name or IP literal and a port need no escape. Writing to a Vec cannot fail.
        let _ = write!(object.out, "\"{endpoint}\"");
    }
    object.some_millis("queue_ms", record.queue);
    object.some_millis("first_byte_ms", record.first_byte);
    if record.retries > 0 {
        object.number("retries", u64::from(record.retries));
    }
    object.some_text("referer", record.referer);
    object.some_text("user_agent", record.user_agent);
    object.some_text("tls", record.tls.map(str::as_bytes));
    object.some_text("request_id", record.request_id.map(str::as_bytes));
    let (lossy, cut) = (object.lossy, object.cut);
    if lossy {
        out.extend_from_slice(b",\"lossy\":true");
    }
    if cut {
        out.extend_from_slice(b",\"cut\":true");
    }
    out.extend_from_slice(b"}\n");
}

/// The members of a JSON object after the first.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    lossy: bool,
    cut: bool,
}

impl Object<'_> {
    fn key(&mut self, key: &'static str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        let kept = value.get(..FIELD_MAX).unwrap_or(value);
        self.cut |= kept.len() < value.len();
        self.out.push(b'"');
        if kept.iter().all(|byte| is_plain(*byte)) {
            self.out.extend_from_slice(kept);
        } else {
            for chunk in kept.utf8_chunks() {
                json_text(chunk.valid(), self.out);
                if !chunk.invalid().is_empty() {
                    self.lossy = true;
                    self.out.extend_from_slice("\u{fffd}".as_bytes());
                }
            }
        }
        self.out.push(b'"');
    }

    fn some_text(&mut self, key: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        digits(value, 1, self.out);
    }

    fn millis(&mut self, key: &'static str, value: Duration) {
        self.key(key);
        millis(value, self.out);
    }

    fn some_millis(&mut self, key: &'static str, value: Option<Duration>) {
        if let Some(value) = value {
            self.millis(key, value);
        }
    }
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    let mut from = 0;
    for (at, character) in text.char_indices() {
        if !needs_escape(character) {
            continue;
        }
        out.extend_from_slice(text.get(from..at).unwrap_or_default().as_bytes());
        // Writing to a Vec cannot fail.
        let _ = match character {
            '"' | '\\' => write!(out, "\\{character}"),
            _ => write!(out, "\\u{:04x}", u32::from(character)),
        };
        from = at + character.len_utf8();
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default().as_bytes());
}

/// Whether some reader would take it for more than a character of a string. All of these have four hexadecimal digits.
fn needs_escape(character: char) -> bool {
    matches!(character, '"' | '\\' | '\u{2028}' | '\u{2029}') || character.is_control()
}

fn combined(record: &Record<'_>, out: &mut Vec<u8>) {
    address(record.client, out);
    out.extend_from_slice(b" - - [");
    apache_time(record.time, out);
    out.extend_from_slice(b"] \"");
    apache_text(record.method.as_bytes(), out);
    out.push(b' ');
    apache_text(record.target, out);
    out.push(b' ');
    out.extend_from_slice(protocol(record.version).as_bytes());
    out.extend_from_slice(b"\" ");
    digits(u64::from(record.status), 3, out);
    out.push(b' ');
    if record.bytes == 0 {
        out.push(b'-');
    } else {
        digits(record.bytes, 1, out);
    }
    for field in [record.referer, record.user_agent] {
        out.extend_from_slice(b" \"");
        apache_text(field.unwrap_or(b"-"), out);
        out.push(b'"');
    }
    out.push(b' ');
    apache_text(record.cache.as_bytes(), out);
    out.push(b' ');
    millis(record.duration, out);
    out.push(b'\n');
}

/// As Apache does it: C's escapes for what has one, `\xhh` for every other byte that is not printable ASCII.
fn apache_text(value: &[u8], out: &mut Vec<u8>) {
    let kept = value.get(..FIELD_MAX).unwrap_or(value);
    if kept.iter().all(|byte| is_plain(*byte)) {
        out.extend_from_slice(kept);
    } else {
        for byte in kept {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0x20..=0x7e => out.push(*byte),
                _ => {
                    // Writing to a Vec cannot fail.
                    let _ = write!(out, "\\x{byte:02x}");
                }
            }
        }
    }
    if kept.len() < value.len() {
        out.extend_from_slice(b"...");
    }
}

/// Printable ASCII that means itself in both formats.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// IPv4 by hand, for it is most of the traffic; IPv6 as std writes it (RFC 5952). Mapped addresses are IPv4's.
fn address(client: IpAddr, out: &mut Vec<u8>) {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                digits(u64::from(octet), 1, out);
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Milliseconds with three decimals.
fn millis(value: Duration, out: &mut Vec<u8>) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    digits(micros / 1000, 1, out);
    out.push(b'.');
    digits(micros % 1000, 3, out);
}

/// Decimal digits, `least` of them at the least.
fn digits(mut value: u64, least: usize, out: &mut Vec<u8>) {
    let start = out.len();
    while value > 0 || out.len() - start < least {
        out.push(b'0' + u8::try_from(value % 10).unwrap_or(0));
        value /= 10;
    }
    if let Some(written) = out.get_mut(start..) {
        written.reverse();
    }
}

/// A moment in UTC; what was before 1970 is 1970.
struct Moment {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    milli: u64,
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // The civil calendar in years that begin in March, so that a leap day is the last of its year; 719468 days lie
        // between the first of March of the year 0 and 1970, 146097 are 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            milli: u64::from(since.subsec_millis()),
        }
    }

    fn clock(&self, out: &mut Vec<u8>) {
        digits(self.hour, 2, out);
        out.push(b':');
        digits(self.minute, 2, out);
        out.push(b':');
        digits(self.second, 2, out);
    }
}

/// `2026-11-24T12:00:00.123Z`
fn rfc3339(time: SystemTime, out: &mut Vec<u8>) {
    let moment = Moment::of(time);
    digits(moment.year, 4, out);
    out.push(b'-');
    digits(moment.month, 2, out);
    out.push(b'-');
    digits(moment.day, 2, out);
    out.push(b'T');
    moment.clock(out);
    out.push(b'.');
    digits(moment.milli, 3, out);
    out.push(b'Z');
}

/// `24/Nov/2026:12:00:00 +0000`
fn apache_time(time: SystemTime, out: &mut Vec<u8>) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let moment = Moment::of(time);
    let month = usize::try_from(moment.month).ok().and_then(|month| MONTHS.get(month.saturating_sub(1)));
    digits(moment.day, 2, out);
    out.push(b'/');
    out.extend_from_slice(month.copied().unwrap_or("???").as_bytes());
    out.push(b'/');
    digits(moment.year, 4, out);
    out.push(b':');
    moment.clock(out);
    out.extend_from_slice(b" +0000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (seconds, shown, apache) in [
            (0, "1970-01-01T00:00:00.007Z", "01/Jan/1970:00:00:00 +0000"),
            (951_782_400, "2000-02-29T00:00:00.007Z", "29/Feb/2000:00:00:00 +0000"),
            (951_868_799, "2000-02-29T23:59:59.007Z", "29/Feb/2000:23:59:59 +0000"),
            (1_709_210_096, "2024-02-29T12:34:56.007Z", "29/Feb/2024:12:34:56 +0000"),
            (4_107_542_399, "2100-02-28T23:59:59.007Z", "28/Feb/2100:23:59:59 +0000"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z", "01/Mar/2100:00:00:00 +0000"),
            (1_798_761_599, "2026-12-31T23:59:59.007Z", "31/Dec/2026:23:59:59 +0000"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 7_900_000);
            let (mut one, mut two) = (Vec::new(), Vec::new());
            rfc3339(time, &mut one);
            apache_time(time, &mut two);
            assert_eq!(String::from_utf8(one).unwrap(), shown);
            assert_eq!(String::from_utf8(two).unwrap(), apache);
        }
    }

    #[test]
    fn days_agree_with_httpdate_for_two_centuries() {
        for day in 0..80_000_u64 {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400 + 1);
            let mut shown = Vec::new();
            apache_time(time, &mut shown);
            // `Tue, 24 Nov 2026 ...` against `24/Nov/2026:...`
            let theirs = httpdate::fmt_http_date(time).get(5..16).unwrap().replace(' ', "/");
            assert_eq!(std::str::from_utf8(&shown).unwrap().get(..11).unwrap(), theirs);
        }
    }

    #[test]
    fn numbers_have_the_digits_they_need() {
        for (value, least, shown) in [(0, 1, "0"), (0, 3, "000"), (7, 2, "07"), (1024, 1, "1024")] {
            let mut out = Vec::new();
            digits(value, least, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
        let mut out = Vec::new();
        digits(u64::MAX, 1, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), u64::MAX.to_string());
        let mut out = Vec::new();
        millis(Duration::from_micros(1_002_003), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "1002.003");
    }
}
