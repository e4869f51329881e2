//! What operators are told: metrics, one access line per request, and the diary.
//!
//! Knows no other module's types but the units: words come in as small enums of its own or as `&'static str`, so that no
//! label can come out of a request. Telling never fails and never blocks the one who tells: what cannot be told is counted.

pub mod access;
pub mod log;
pub mod metrics;
pub mod writer;

use std::error::Error;

/// An error and its causes in one line: `connect to 10.0.0.1:8080: connection refused`.
///
/// A cause that only repeats what was just said is left out, and so is everything past the tenth.
#[must_use]
pub fn chain(error: &(dyn Error + '_)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = next else { break };
        let said = cause.to_string();
        if !said.is_empty() && !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// The causes that [`chain`] tells: a chain that is longer has lost its way.
const CAUSES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("connect to {to}")]
    struct Connect {
        to: &'static str,
        #[source]
        cause: io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Wrapped(Connect);

    #[test]
    fn a_chain_says_each_thing_once() {
        let cause = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let error = Wrapped(Connect { to: "10.0.0.1:8080", cause });
        assert_eq!(chain(&error), "connect to 10.0.0.1:8080: connection refused");
        assert_eq!(chain(&io::Error::other("alone")), "alone");
    }
}
