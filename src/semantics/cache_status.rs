//! The Cache-Status field (RFC 9211), and the one vocabulary that logs and metrics share with it.

use http::HeaderValue;
use std::cell::RefCell;
use std::fmt::Write;
use std::time::Duration;

/// Why a request went forward (RFC 9211 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The cache was configured not to handle it.
    Bypass,
    /// Its method may not be answered from a cache.
    Method,
    /// Nothing is stored for the URL.
    UriMiss,
    /// Something is stored for the URL, but for other requests (`Vary`).
    VaryMiss,
    /// What is stored was stale.
    Stale,
    /// The request's own directives forbade what is stored.
    Request,
    /// Only a part was wanted.
    Partial,
}

/// How the cache handled a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    outcome: Outcome,
    detail: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Hit {
        ttl: i64,
    },
    Forward {
        why: Why,
        status: Option<u16>,
        stored: bool,
        collapsed: bool,
    },
    /// Neither: the answer is our own.
    Synth,
}

impl Why {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.value().strip_prefix("tidegate; fwd=").unwrap_or_default()
    }

    /// The field's value, where there is no more to say: on the path of every miss.
    fn value(self) -> &'static str {
        match self {
            Self::Bypass => "tidegate; fwd=bypass",
            Self::Method => "tidegate; fwd=method",
            Self::UriMiss => "tidegate; fwd=uri-miss",
            Self::VaryMiss => "tidegate; fwd=vary-miss",
            Self::Stale => "tidegate; fwd=stale",
            Self::Request => "tidegate; fwd=request",
            Self::Partial => "tidegate; fwd=partial",
        }
    }
}

impl CacheStatus {
    /// Answered from the cache; `ttl` is what is left of the freshness lifetime in seconds, negative when stale.
    #[must_use]
    pub fn hit(ttl: i64) -> Self {
        Self { outcome: Outcome::Hit { ttl }, detail: None }
    }

    /// Went forward.
    #[must_use]
    pub fn forwarded(why: Why) -> Self {
        Self { outcome: Outcome::Forward { why, status: None, stored: false, collapsed: false }, detail: None }
    }

    /// The answer is our own; there is no word of RFC 9211 for it, and visitors are not told.
    #[must_use]
    pub fn synth() -> Self {
        Self { outcome: Outcome::Synth, detail: None }
    }

    /// With the origin's status, where it differs from ours.
    #[must_use]
    pub fn origin_status(mut self, origin: u16) -> Self {
        if let Outcome::Forward { status, .. } = &mut self.outcome {
            *status = Some(origin);
        }
        self
    }

    /// With the response stored.
    #[must_use]
    pub fn stored(mut self) -> Self {
        if let Outcome::Forward { stored, .. } = &mut self.outcome {
            *stored = true;
        }
        self
    }

    /// Together with equal requests.
    #[must_use]
    pub fn collapsed(mut self) -> Self {
        if let Outcome::Forward { collapsed, .. } = &mut self.outcome {
            *collapsed = true;
        }
        self
    }

    /// With a word of ours.
    #[must_use]
    pub fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Without that word.
    #[must_use]
    pub fn without_detail(self) -> Self {
        Self { detail: None, ..self }
    }

    /// A hit that was read from the disk first; a word that says more stays.
    #[must_use]
    pub fn on_disk(self) -> Self {
        Self { detail: self.detail.or(Some("disk")), ..self }
    }

    /// The word for metrics and the access log: `hit`, `hit-stale`, or why it went forward.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Hit { ttl } if ttl < 0 => "hit-stale",
            Outcome::Hit { .. } => "hit",
            Outcome::Forward { why, .. } => why.as_str(),
            Outcome::Synth => "synth",
        }
    }

    /// The word of ours that goes with it.
    #[must_use]
    pub fn detail_word(&self) -> Option<&'static str> {
        self.detail
    }

    /// Whether the answer came from the cache without a word to the origin.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        matches!(self.outcome, Outcome::Hit { .. })
    }

    /// The field's value.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        if let (Outcome::Hit { ttl }, None) = (self.outcome, self.detail) {
            return hit_value(ttl);
        }
        if let Outcome::Forward { why, status: None, stored: false, collapsed: false } = self.outcome
            && self.detail.is_none()
        {
            return HeaderValue::from_static(why.value());
        }
        SAID.with_borrow_mut(|said| match said {
            Some((status, value)) if status == self => value.clone(),
            _ => said.insert((*self, self.written())).1.clone(),
        })
    }

    fn written(&self) -> HeaderValue {
        let mut text = String::with_capacity(64);
        // Writing to a String cannot fail.
        match self.outcome {
            Outcome::Hit { ttl } => drop(write!(text, "tidegate; hit; ttl={ttl}")),
            Outcome::Forward { why, .. } => text.push_str(why.value()),
            Outcome::Synth => text.push_str("tidegate"),
        }
        if let Outcome::Forward { status, stored, collapsed, .. } = self.outcome {
            if let Some(status) = status {
                let _ = write!(text, "; fwd-status={status}");
            }
            if stored {
                text.push_str("; stored");
            }
            if collapsed {
                text.push_str("; collapsed");
            }
        }
        if let Some(detail) = self.detail {
            text.push_str("; detail=");
            text.push_str(detail);
        }
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("tidegate"))
    }
}

thread_local! {
    /// What was written last: of those who go past the cache each says what the one before has said.
    static SAID: RefCell<Option<(CacheStatus, HeaderValue)>> = const { RefCell::new(None) };
}

/// `tidegate; hit; ttl=N`, on the path of every hit: one allocation, no formatting machinery.
fn hit_value(ttl: i64) -> HeaderValue {
    const HEAD: &[u8] = b"tidegate; hit; ttl=";
    const DIGITS: usize = 20;
    let mut text = [0_u8; HEAD.len() + DIGITS];
    // Written from the right, then moved to the words.
    let mut digits = [0_u8; DIGITS];
    let mut at = DIGITS;
    let mut left = ttl.unsigned_abs();
    while at > 1 {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if ttl < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    let number = &digits[at..];
    let len = HEAD.len() + number.len();
    text[..HEAD.len()].copy_from_slice(HEAD);
    text[HEAD.len()..len].copy_from_slice(number);
    HeaderValue::from_bytes(&text[..len]).unwrap_or_else(|_| HeaderValue::from_static("tidegate; hit"))
}

/// Seconds left of `lifetime` at `age`: negative once stale.
#[must_use]
pub fn ttl(lifetime: Duration, age: Duration) -> i64 {
    let seconds = |value: Duration| i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    match lifetime.checked_sub(age) {
        Some(left) => seconds(left),
        None => -seconds(age.saturating_sub(lifetime)).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_rfc_9211() {
        for (status, text) in [
            (CacheStatus::hit(376), "tidegate; hit; ttl=376"),
            (CacheStatus::hit(0), "tidegate; hit; ttl=0"),
            (CacheStatus::hit(-12), "tidegate; hit; ttl=-12"),
            (CacheStatus::hit(i64::MAX), "tidegate; hit; ttl=9223372036854775807"),
            (CacheStatus::hit(-i64::MAX), "tidegate; hit; ttl=-9223372036854775807"),
            (CacheStatus::hit(-5).detail("stale-on-error"), "tidegate; hit; ttl=-5; detail=stale-on-error"),
            (CacheStatus::forwarded(Why::UriMiss).stored(), "tidegate; fwd=uri-miss; stored"),
            (
                CacheStatus::forwarded(Why::Stale).origin_status(304).stored(),
                "tidegate; fwd=stale; fwd-status=304; stored",
            ),
            (CacheStatus::forwarded(Why::VaryMiss).collapsed(), "tidegate; fwd=vary-miss; collapsed"),
        ] {
            assert_eq!(status.value(), text);
        }
    }
}
