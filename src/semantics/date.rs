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

/// Reads an IMF-fixdate or one of the two obsolete forms.
#[must_use]
pub fn parse(text: &[u8]) -> Option<SystemTime> {
    std::str::from_utf8(text).ok().and_then(|text| httpdate::parse_http_date(text.trim()).ok())
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
        for text in ["", "0", "-1", "now", "Sun, 06 Nov 1994 08:49:37 CET", "2026-11-24T00:00:00Z"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
