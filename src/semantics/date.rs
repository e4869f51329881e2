//! Dates in fields (RFC 9110 5.6.7): the three forms, and what an unreadable one means.

use http::HeaderMap;
use http::HeaderName;
use std::time::SystemTime;

/// The date in the field `name`: its only value, readable. Anything else is no date.
#[must_use]
pub fn of(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // RFC 9110 5.3: a singleton field that comes twice cannot be trusted.
    if values.next().is_some() {
        return None;
    }
    parse(value.as_bytes())
}

/// Reads an IMF-fixdate or one of the two obsolete forms, in any case (RFC 9111 4.2: "a cache SHOULD match them
/// case-insensitively").
#[must_use]
pub fn parse(text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.trim();
    httpdate::parse_http_date(text).ok().or_else(|| httpdate::parse_http_date(&in_proper_case(text)?).ok())
}

/// A date with its words as they should be written; `None` for what is too long to be one.
fn in_proper_case(text: &str) -> Option<String> {
    const LONGEST: usize = "Wednesday, 06-Nov-94 08:49:37 GMT".len();
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    let mut proper = String::with_capacity(text.len());
    let mut within = false;
    for letter in text.chars() {
        proper.push(if within { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() });
        within = letter.is_ascii_alphabetic();
    }
    if let Some(rest) = proper.strip_suffix("Gmt") {
        proper = format!("{rest}GMT");
    }
    Some(proper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn all_three_forms_are_read_and_nothing_else() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["SUN, 06 nov 1994 08:49:37 gMT", "sunday, 06-NOV-94 08:49:37 GMT", "SUN NOV  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "now",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov  1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "2026-11-24T00:00:00Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
