//! A head that is kept lies in one piece of its own.
//!
//! The values of a head that was just read are slices of the buffer it was read into, many times its size; one kept value
//! keeps all of that. What is stored for long is therefore copied together once.

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderValue;

/// Lets all values of `head` share one allocation of just their size.
pub fn pack(head: &mut HeaderMap) {
    let size = head.values().map(HeaderValue::len).sum();
    let mut all = BytesMut::with_capacity(size);
    head.values().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut rest = all.freeze();
    for value in head.values_mut() {
        // It was a value before, so it is one again.
        if let Ok(packed) = HeaderValue::from_maybe_shared(rest.split_to(value.len())) {
            *value = packed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn what_is_kept_of_a_large_buffer_is_no_larger_than_itself() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut head = HeaderMap::new();
        for (name, at) in [("etag", 10), ("last-modified", 4000), ("x-zope", 8000)] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(at..at + 20)).unwrap();
            head.append(http::HeaderName::from_static(name), value);
        }
        pack(&mut head);
        assert!(buffer.is_unique(), "the buffer is free");
        let first = head["etag"].as_bytes().as_ptr() as usize;
        let last = head["x-zope"].as_bytes().as_ptr() as usize;
        assert_eq!(last - first, 40, "they lie side by side");
    }

    proptest! {
        #[test]
        fn a_packed_head_says_the_same(values in proptest::collection::vec("[ -~]{0,40}", 0..30)) {
            let mut head = HeaderMap::new();
            for (at, value) in values.iter().enumerate() {
                let name = http::HeaderName::try_from(format!("x-{}", at / 3)).unwrap();
                head.append(name, HeaderValue::try_from(value.as_str()).unwrap());
            }
            let before = head.clone();
            pack(&mut head);
            prop_assert_eq!(head, before);
        }
    }
}
