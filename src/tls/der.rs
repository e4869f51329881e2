//! What a certificate says of itself, read from its DER: names, validity, and what renewal information is asked by.
//!
//! Trusts nothing: any bytes give facts or nothing, never a panic. Whether the certificate is valid is for those to judge
//! who verify it; this is only for choosing, renewing and telling operators.

use std::time::Duration;
use std::time::SystemTime;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its DNS names (RFC 5280 4.2.1.6), in lower case.
    pub names: Vec<String>,
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
    /// The contents of its serial number, encoded.
    pub serial: Vec<u8>,
    /// The identifier of its issuer's key, if it tells.
    pub authority_key: Option<Vec<u8>>,
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;
/// `dNSName` among a subject's alternative names, in its implicit tag.
const DNS_NAME: u8 = 0x82;
/// `keyIdentifier` in an authority key identifier.
const KEY_IDENTIFIER: u8 = 0x80;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 2.5.29.35.
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];

/// Reads the certificate in `der`.
#[must_use]
pub fn facts(der: &[u8]) -> Option<Facts> {
    let certificate = Reader(der).expect(SEQUENCE)?;
    let mut tbs = Reader(Reader(certificate).expect(SEQUENCE)?);
    // RFC 5280 4.1: version, serial, algorithm, issuer, validity, subject, key, then what is optional.
    tbs.skip_if(CONTEXT_0);
    let serial = tbs.expect(INTEGER)?.to_vec();
    tbs.expect(SEQUENCE)?;
    tbs.expect(SEQUENCE)?;
    let mut validity = Reader(tbs.expect(SEQUENCE)?);
    let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
    tbs.expect(SEQUENCE)?;
    tbs.expect(SEQUENCE)?;
    let mut facts = Facts { names: Vec::new(), not_before, not_after, serial, authority_key: None };
    while let Some((tag, contents)) = tbs.next() {
        if tag == CONTEXT_3 {
            extensions(contents, &mut facts);
        }
    }
    Some(facts)
}

fn extensions(contents: &[u8], facts: &mut Facts) {
    let Some(list) = Reader(contents).expect(SEQUENCE) else { return };
    let mut list = Reader(list);
    while let Some(extension) = list.expect(SEQUENCE) {
        let mut extension = Reader(extension);
        let Some(id) = extension.expect(OID) else { continue };
        // Whether it is critical stands between the two, if it does.
        let value = std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTETS);
        let Some(inner) = value.and_then(|(_, value)| Reader(value).expect(SEQUENCE)) else { continue };
        let parts = std::iter::successors(Reader(inner).step(), |(_, rest)| rest.step()).map(|(part, _)| part);
        if id == SUBJECT_ALT_NAME {
            let names =
                parts.filter(|(tag, _)| *tag == DNS_NAME).filter_map(|(_, name)| std::str::from_utf8(name).ok());
            facts.names = names.map(str::to_ascii_lowercase).collect();
        } else if id == AUTHORITY_KEY {
            facts.authority_key = parts.filter(|(tag, _)| *tag == KEY_IDENTIFIER).map(|(_, key)| key.to_vec()).next();
        }
    }
}

/// Elements of DER, one after the other.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag and contents, and what follows.
    fn step(self) -> Option<((u8, &'a [u8]), Self)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // More than four bytes of length no certificate has.
            0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let len = len.iter().fold(0_u32, |len, byte| len << 8 | u32::from(*byte));
                (usize::try_from(len).ok()?, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        Some(((tag, contents), Self(rest)))
    }

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (element, rest) = self.step()?;
        *self = rest;
        Some(element)
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, contents)| contents)
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

/// RFC 5280 4.1.2.5: `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` from then on.
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME if text.len() == 12 => {
            let year: u64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        GENERALIZED_TIME if text.len() == 14 => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days from 1970 to a date from then on, counting years from March so that the leap day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    days.saturating_sub(719_469)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unix(time: SystemTime) -> u64 {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn a_certificate_tells_its_names_and_its_days() {
        let names = ["www.Example.org".to_owned(), "*.example.net".to_owned(), "192.0.2.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2055, 12, 31);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x87, 0x65]));
        params.use_authority_key_identifier_extension = true;
        let key = rcgen::KeyPair::generate().unwrap();
        let facts = facts(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(facts.names, ["www.example.org", "*.example.net"]);
        assert_eq!((unix(facts.not_before), unix(facts.not_after)), (1_709_164_800, 2_713_824_000));
        // RFC 9773 4.1: with the byte that keeps it positive.
        assert_eq!(facts.serial, [0, 0x87, 0x65]);
        assert_eq!(facts.authority_key.unwrap().len(), 20);
    }

    #[test]
    fn dates_are_counted_over_leap_years_and_centuries() {
        for (year, month, day, expected) in
            [(1970, 1, 1, 0), (1970, 3, 1, 59), (2000, 2, 29, 11_016), (2000, 3, 1, 11_017), (2100, 3, 1, 47_541)]
        {
            assert_eq!(days(year, month, day), expected, "{year}-{month}-{day}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, at: prop::sample::Index, value: u8) {
            let _ = facts(&bytes);
            let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
            let mut der = made.cert.der().to_vec();
            let at = at.index(der.len());
            der[at] = value;
            let _ = facts(&der);
        }
    }
}
