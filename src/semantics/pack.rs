//! A head that is kept lies in one piece of just its size.
//!
//! A map of a dozen fields takes some 1,300 bytes by its places alone, and its values, slices of the buffer that they were read
//! into, keep all of that. Here a field is one byte for its name, if it is a known one, one or two for its value's length, and the
//! value. The map is made anew for each answer.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

/// The lines of a head, in their order; before them, how many there are (255 stands for more as well).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

impl Packed {
    /// What is left of it when it is packed.
    #[must_use]
    pub fn of<'a>(lines: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Self {
        let (mut all, mut count) = (Vec::with_capacity(512), 0_u8);
        all.push(count);
        for (name, value) in lines {
            count = count.saturating_add(1);
            let known = KNOWN.iter().position(|known| known == name).and_then(|at| u8::try_from(at).ok());
            all.push(known.unwrap_or(SPELT));
            if known.is_none() {
                put(&mut all, name.as_str().as_bytes());
            }
            put(&mut all, value.as_bytes());
        }
        if let Some(first) = all.first_mut() {
            *first = count;
        }
        Self(all.into())
    }

    /// How many lines there are.
    fn count(&self) -> usize {
        self.0.first().copied().unwrap_or(0).into()
    }

    /// The lines, each value a slice of one copy.
    pub fn lines(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let copy = Bytes::copy_from_slice(&self.0);
        let mut at = 1;
        std::iter::from_fn(move || {
            let code = *copy.get(at)?;
            at += 1;
            let name = match KNOWN.get(usize::from(code)) {
                Some(known) => known.clone(),
                None => HeaderName::from_bytes(&take(&copy, &mut at)?).ok()?,
            };
            Some((name, HeaderValue::from_maybe_shared(take(&copy, &mut at)?).ok()?))
        })
    }

    /// The head as a map, with room for so many fields more and no larger than that: hyper keeps the map of a connection's last
    /// answer for as long as that idles, and a field takes 104 bytes in it.
    #[must_use]
    pub fn open(&self, room: usize) -> HeaderMap {
        let mut head = HeaderMap::with_capacity(self.count() + room);
        for (name, value) in self.lines() {
            head.append(name, value);
        }
        head
    }

    /// The first value of a field.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.lines().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// Whether there are no lines.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Its bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A length, seven bits in each byte and the lowest first, and so many bytes.
fn put(all: &mut Vec<u8>, bytes: &[u8]) {
    let mut len = bytes.len();
    while len > 0x7f {
        all.push(0x80 | len.to_le_bytes()[0]);
        len >>= 7;
    }
    all.push(len.to_le_bytes()[0]);
    all.extend_from_slice(bytes);
}

fn take(all: &Bytes, at: &mut usize) -> Option<Bytes> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let byte = *all.get(*at)?;
        *at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte <= 0x7f {
            break;
        }
    }
    let from = *at;
    *at += len;
    (*at <= all.len()).then(|| all.slice(from..*at))
}

/// In place of a known name: it is spelt.
const SPELT: u8 = u8::MAX;

/// Names that are kept as a number, which means nothing outside of this process.
static KNOWN: [HeaderName; 52] = [
    header::ACCEPT_RANGES,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::AGE,
    header::ALLOW,
    header::ALT_SVC,
    header::CACHE_CONTROL,
    header::CACHE_STATUS,
    header::CDN_CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::PRAGMA,
    header::REFERRER_POLICY,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::VARY,
    header::VIA,
    header::WARNING,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    // What Zope, Plone and what stands before them say, of which http knows nothing.
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-cache-operation"),
    HeaderName::from_static("x-cache-rule"),
    HeaderName::from_static("x-powered-by"),
    HeaderName::from_static("x-ramcache"),
    HeaderName::from_static("x-robots-tag"),
    HeaderName::from_static("x-theme-enabled"),
    HeaderName::from_static("x-ua-compatible"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_kept_of_a_large_buffer_is_no_larger_than_itself() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut head = HeaderMap::new();
        for (name, at) in [(header::ETAG, 10), (header::LAST_MODIFIED, 4000), (header::VARY, 8000)] {
            head.append(name, HeaderValue::from_maybe_shared(buffer.slice(at..at + 20)).unwrap());
        }
        let packed = Packed::of(&head);
        drop(head);
        assert!(buffer.is_unique(), "the buffer is free");
        assert_eq!(packed.len(), 1 + 3 * (20 + 2));
        assert_eq!((packed.get(&header::VARY).unwrap().len(), packed.get(&header::DATE)), (20, None));
    }

    #[test]
    fn a_connection_that_idles_keeps_no_larger_map_than_its_last_answer_needed() {
        for (count, room, most) in [(3_usize, 3, 6), (9, 3, 12), (14, 3, 24), (0, 1, 6)] {
            let mut head = HeaderMap::new();
            for _ in 0..count {
                head.append(header::LINK, HeaderValue::from_static("</a>"));
            }
            let fields = Packed::of(&head).open(room);
            assert!(fields.capacity() <= most, "{count}: {}", fields.capacity());
        }
    }

    #[test]
    fn known_names_are_in_order_and_leave_one_number_free() {
        assert!(KNOWN.len() < usize::from(SPELT));
        let names: std::collections::HashSet<_> = KNOWN.iter().collect();
        assert_eq!(names.len(), KNOWN.len());
    }

    proptest! {
        #[test]
        fn a_packed_head_says_the_same(
            lines in proptest::collection::vec((0_usize..60, any::<u8>(), 0_usize..200, 0_u32..30), 0..30),
        ) {
            let mut head = HeaderMap::new();
            for (at, byte, len, long) in &lines {
                let value = vec![(*byte).clamp(b' ', 0x7e); if *long < 2 { 16_300 + len } else { *len }];
                let name = KNOWN.get(*at).cloned();
                let name = name.unwrap_or_else(|| HeaderName::try_from(format!("x-{at}")).unwrap());
                head.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            let packed = Packed::of(&head);
            prop_assert_eq!(packed.is_empty(), head.is_empty());
            prop_assert_eq!(packed.open(2), head);
        }
    }
}
