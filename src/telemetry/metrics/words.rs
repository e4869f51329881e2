//! The words that stand in labels: each enum is one label, and its words are all the values that label can have.

use http::Method;
use http::StatusCode;
use http::Version;

/// Declares a label: its words, their order, and their number.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$word_doc])* #[doc = concat!("(`", $text, "`)")] $word),+
        }

        impl $name {
            /// All words, in order.
            pub const ALL: &[Self] = &[$(Self::$word),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text),+ }
            }

            /// Its place in [`Self::ALL`].
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

words!(
    /// A request's method, as far as it matters for counting.
    MethodClass {
        /// Reads.
        Get = "GET",
        /// Reads the head only.
        Head = "HEAD",
        /// Submits.
        Post = "POST",
        /// Replaces.
        Put = "PUT",
        /// Changes.
        Patch = "PATCH",
        /// Removes.
        Delete = "DELETE",
        /// Asks what is possible.
        Options = "OPTIONS",
        /// Asks the cache to forget.
        Purge = "PURGE",
        /// `WebDAV`'s methods.
        Dav = "dav",
        /// Anything else.
        Other = "other",
    }
);

words!(
    /// The first digit of a status code.
    CodeClass {
        /// Interim, and switched protocols.
        Informational = "1xx",
        /// Success.
        Success = "2xx",
        /// Redirects and not modified.
        Redirect = "3xx",
        /// The client's fault.
        ClientError = "4xx",
        /// Our or the origin's fault.
        ServerError = "5xx",
        /// No status of HTTP's.
        Other = "other",
    }
);

words!(
    /// Who asks.
    Visitor {
        /// Shows no identity.
        Anonymous = "anonymous",
        /// Shows an identity.
        Editor = "editor",
        /// Calls itself a robot.
        Bot = "bot",
        /// We ourselves, refreshing what is stored.
        Background = "background",
    }
);

words!(
    /// The version of HTTP that the client speaks.
    Protocol {
        /// HTTP/0.9 or 1.0.
        Http10 = "HTTP/1.0",
        /// HTTP/1.1.
        Http11 = "HTTP/1.1",
        /// HTTP/2.
        Http2 = "HTTP/2",
        /// HTTP/3.
        Http3 = "HTTP/3",
    }
);

words!(
    /// What the cache had to do with a response: the words of RFC 9211 2.1 and 2.2, and two of ours.
    CacheWord {
        /// Answered from the cache, fresh.
        Hit = "hit",
        /// Answered from the cache, stale.
        HitStale = "hit-stale",
        /// Forwarded: nothing is stored for the URL.
        UriMiss = "uri-miss",
        /// Forwarded: what is stored for the URL is for other requests.
        VaryMiss = "vary-miss",
        /// Forwarded: nothing that is stored can be used.
        Miss = "miss",
        /// Forwarded: what is stored was stale.
        Stale = "stale",
        /// Forwarded: the request's own directives forbade what is stored.
        Request = "request",
        /// Forwarded: only a part was stored or wanted.
        Partial = "partial",
        /// Forwarded: the cache was configured not to handle it.
        Bypass = "bypass",
        /// Forwarded: its method may not be answered from a cache.
        Method = "method",
        /// Answered by us: a redirect, a refusal, a purge.
        Synth = "synth",
    }
);

words!(
    /// How a response came about, coarsely, for durations.
    CacheClass {
        /// From the cache, fresh.
        Hit = "hit",
        /// From the cache, stale.
        Stale = "stale",
        /// The origin was asked about what is stored.
        Revalidated = "revalidated",
        /// From the origin, for the cache.
        Miss = "miss",
        /// From the origin, past the cache.
        Pass = "pass",
        /// From us.
        Synth = "synth",
    }
);

words!(
    /// What a connection carries, in the words of ALPN and URLs.
    Carrier {
        /// HTTP/1 in the clear.
        Http = "http",
        /// HTTP/2 in the clear.
        H2c = "h2c",
        /// HTTP/1 over TLS.
        Https = "https",
        /// HTTP/2 over TLS.
        H2 = "h2",
    }
);

words!(
    /// What a limit said.
    Decision {
        /// Within the limit.
        Allow = "allow",
        /// Beyond it, and therefore last in the queue.
        Delay = "delay",
        /// Beyond it.
        Reject = "reject",
        /// Beyond it, but the limit only counts.
        DryRun = "dry-run",
    }
);

words!(
    /// The state of an endpoint.
    EndpointState {
        /// Serves.
        Up = "up",
        /// Serves as much as it can.
        Busy = "busy",
        /// Is being warmed before it serves.
        Warming = "warming",
        /// Finishes what it has and gets nothing new.
        Draining = "draining",
        /// Does not answer.
        Down = "down",
        /// Taken out by the operator.
        Maint = "maint",
    }
);

words!(
    /// What came of asking the origin about a stored response.
    Revalidation {
        /// It is still good.
        NotModified = "not_modified",
        /// There is a new one.
        Modified = "modified",
        /// The origin failed.
        Error = "error",
    }
);

words!(
    /// Where a request was when its client left.
    AbortPhase {
        /// In the queue.
        Queue = "queue",
        /// On its way to the origin and back, with no head of an answer yet.
        Upstream = "upstream",
        /// While the body was on its way.
        Body = "body",
    }
);

words!(
    /// Who switched an upstream to another set.
    SwitchCause {
        /// The storage pair.
        Heartbeat = "heartbeat",
        /// The operator.
        Admin = "admin",
        /// The configuration.
        Reload = "reload",
    }
);

impl MethodClass {
    /// The class of `method`.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PURGE" => Self::Purge,
            "PROPFIND" | "PROPPATCH" | "MKCOL" | "COPY" | "MOVE" | "LOCK" | "UNLOCK" | "REPORT" | "SEARCH" => Self::Dav,
            _ => Self::Other,
        }
    }
}

impl CodeClass {
    /// The class of `status`.
    #[must_use]
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirect,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::Other,
        }
    }
}

impl Protocol {
    /// The word of `version`.
    #[must_use]
    pub fn of(version: Version) -> Self {
        match version {
            Version::HTTP_2 => Self::Http2,
            Version::HTTP_3 => Self::Http3,
            Version::HTTP_09 | Version::HTTP_10 => Self::Http10,
            _ => Self::Http11,
        }
    }
}

impl Carrier {
    /// The word of a connection.
    #[must_use]
    pub fn of(tls: bool, http2: bool) -> Self {
        match (tls, http2) {
            (false, false) => Self::Http,
            (false, true) => Self::H2c,
            (true, false) => Self::Https,
            (true, true) => Self::H2,
        }
    }
}

impl CacheWord {
    /// Reads a word as it stands in `Cache-Status`; what is none of them is ours.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        Self::ALL.iter().copied().find(|known| known.as_str() == word).unwrap_or(Self::Synth)
    }

    /// The coarse class, for durations.
    #[must_use]
    pub fn class(self) -> CacheClass {
        match self {
            Self::Hit => CacheClass::Hit,
            Self::HitStale => CacheClass::Stale,
            Self::Stale | Self::Request => CacheClass::Revalidated,
            Self::UriMiss | Self::VaryMiss | Self::Miss => CacheClass::Miss,
            Self::Partial | Self::Bypass | Self::Method => CacheClass::Pass,
            Self::Synth => CacheClass::Synth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_unknown_ones_are_ours() {
        for word in CacheWord::ALL {
            assert_eq!(CacheWord::from_word(word.as_str()), *word);
        }
        assert_eq!(CacheWord::from_word("nonsense"), CacheWord::Synth);
        for (at, word) in MethodClass::ALL.iter().enumerate() {
            assert_eq!(word.index(), at);
        }
    }

    #[test]
    fn what_a_client_invents_does_not_become_a_label() {
        let method = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(MethodClass::of(&method), MethodClass::Other);
        assert_eq!(CodeClass::of(StatusCode::from_u16(999).unwrap()), CodeClass::Other);
        assert_eq!(CodeClass::of(StatusCode::NOT_MODIFIED), CodeClass::Redirect);
        assert_eq!(Protocol::of(Version::HTTP_2), Protocol::Http2);
        assert_eq!(Carrier::of(true, true).as_str(), "h2");
    }
}
