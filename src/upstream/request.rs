//! A request as operators see it while it waits for a thread or holds one.
//!
//! The desk keeps a handle of each, and asks only when somebody looks: the data path copies nothing.

use crate::semantics::target;
use std::sync::Arc;

/// The most bytes of a URL that are shown.
pub const URL_MAX: usize = 256;

/// Who can say what a request is about.
pub trait Request: Send + Sync {
    /// What operators are told. May allocate; no lock is held.
    fn describe(&self) -> Description;
}

/// Gives a handle of a request: only who keeps one takes one.
pub type Handle<'a> = &'a (dyn Fn() -> Arc<dyn Request> + Send + Sync);

/// What operators are told about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its method, as the visitor wrote it.
    pub method: String,
    /// The site's name.
    pub site: String,
    /// What the visitor asked for, as [`shown`] writes it.
    pub url: String,
    /// The visitor's address, as in the access log.
    pub client: String,
}

impl Request for Description {
    fn describe(&self) -> Description {
        self.clone()
    }
}

/// A URL of these parts in at most [`URL_MAX`] bytes, of which each can be printed anywhere: what is no visible ASCII is
/// percent-encoded (RFC 3986 2.1). One that is cut ends in `...`.
#[must_use]
pub fn shown<'t>(parts: impl IntoIterator<Item = &'t str>) -> String {
    const CUT: &str = "...";
    let mut url = String::new();
    for byte in parts.into_iter().flat_map(str::bytes) {
        let encoded = !byte.is_ascii_graphic();
        if url.len() + if encoded { 3 } else { 1 } > URL_MAX - CUT.len() {
            url.push_str(CUT);
            break;
        }
        if encoded {
            target::push_encoded(byte, &mut url);
        } else {
            url.push(char::from(byte));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_reaches_the_terminal_without_control_characters_and_within_its_bound() {
        for (parts, expected) in [
            (&["https", "://", "www.example.org", "/a%20b?c=\"d\""][..], "https://www.example.org/a%20b?c=\"d\""),
            (&["/\u{1b}[31m\r\n"], "/%1B[31m%0D%0A"),
            (&["/\u{202e}ä"], "/%E2%80%AE%C3%A4"),
            (&[], ""),
        ] {
            assert_eq!(shown(parts.iter().copied()), expected);
        }
        let long = shown(["/", &"x".repeat(9_000)]);
        assert!(long.len() == URL_MAX && long.ends_with("xxx..."), "{long}");
    }

    proptest! {
        #[test]
        fn any_url_is_one_short_word(parts in prop::collection::vec(".*", 0..4)) {
            let url = shown(parts.iter().map(String::as_str));
            prop_assert!(url.len() <= URL_MAX && url.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
