//! Patterns for paths, as operators and purgers write them: globs and regular expressions, both matched in linear time and
//! both bounded in what they cost to keep.

use regex::bytes::Regex;
use regex::bytes::RegexBuilder;
use std::fmt;

/// The longest pattern.
pub const PATTERN_MAX: usize = 1024;

/// What one compiled pattern may take up in memory; enough for any that a person would write.
const COMPILED_MAX: usize = 256 * 1024;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

/// What is wrong with a pattern, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(pub String);

impl Pattern {
    /// A glob that a whole path must match: `*` stands for anything within a segment, `**` for anything at all. `/a/**` is
    /// `/a` and everything below it.
    ///
    /// # Errors
    /// When it is too long or does not begin with `/` or `*`.
    pub fn glob(text: &str) -> Result<Self, BadPattern> {
        if !text.starts_with(['/', '*']) {
            return Err(BadPattern(format!("`{text}` matches no path; begin it with `/` or `**/`")));
        }
        let (body, tail) = match text.strip_suffix("/**") {
            Some(body) => (body, "(?:/.*)?"),
            None => (text, ""),
        };
        let mut regex = String::from("^");
        let mut rest = body;
        while let Some(at) = rest.find('*') {
            let (plain, stars) = rest.split_at(at);
            regex.push_str(&regex::escape(plain));
            let after = stars.trim_start_matches('*');
            regex.push_str(if stars.len() - after.len() > 1 { ".*" } else { "[^/]*" });
            rest = after;
        }
        regex.push_str(&regex::escape(rest));
        regex.push_str(tail);
        regex.push('$');
        Self::compile(text, &regex)
    }

    /// Matches `path` and everything below it.
    ///
    /// # Errors
    /// When it is too long.
    pub fn below(path: &str) -> Result<Self, BadPattern> {
        Self::compile(path, &format!("^{}(?:/.*)?$", regex::escape(path.trim_end_matches('/'))))
    }

    /// A regular expression that matches somewhere in a path, unless it is anchored.
    ///
    /// # Errors
    /// When it is too long, too large, or no regular expression.
    pub fn regex(text: &str) -> Result<Self, BadPattern> {
        Self::compile(text, text)
    }

    /// A pattern of which text and expression are known, as [`Pattern::as_str`] and [`Pattern::source`] gave them.
    ///
    /// # Errors
    /// When it is too long, too large, or no regular expression.
    pub fn restored(text: &str, source: &str) -> Result<Self, BadPattern> {
        Self::compile(text, source)
    }

    fn compile(text: &str, regex: &str) -> Result<Self, BadPattern> {
        if text.len() > PATTERN_MAX {
            return Err(BadPattern(format!("a pattern has at most {PATTERN_MAX} bytes; this one has {}", text.len())));
        }
        let regex = RegexBuilder::new(regex)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(COMPILED_MAX)
            .dfa_size_limit(COMPILED_MAX)
            .nest_limit(50)
            .build()
            .map_err(|error| {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                BadPattern(format!("`{text}` is no pattern: {last}"))
            })?;
        Ok(Self { text: text.into(), regex })
    }

    /// Whether it matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path.as_bytes())
    }

    /// The regular expression that is matched.
    #[must_use]
    pub fn source(&self) -> &str {
        self.regex.as_str()
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.regex.as_str() == other.regex.as_str()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_stay_in_a_segment_and_double_stars_do_not() {
        for (glob, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("**/@@search", "/@@search", true),
            ("**/@@search", "/x/y/@@search", true),
            ("**/@@search", "/x/@@searching", false),
            ("/**", "/", true),
            ("**", "/x", true),
            ("/a*c/**/d.png", "/abc/x/d.png", true),
            ("/a.c", "/abc", false),
            ("/a(b)+", "/a(b)+", true),
        ] {
            assert_eq!(Pattern::glob(glob).unwrap().matches(path), expected, "{glob} {path}");
        }
        assert!(Pattern::glob("a").is_err());
        assert!(Pattern::glob("").is_err());
    }

    #[test]
    fn what_would_cost_too_much_is_refused_in_words() {
        assert!(Pattern::regex("^/news/.*\\.png$").unwrap().matches("/news/a.png"));
        assert!(Pattern::regex("/(").unwrap_err().0.contains("is no pattern"));
        assert!(Pattern::regex(&"a".repeat(PATTERN_MAX + 1)).is_err());
        assert!(Pattern::regex("((a{100}){100}){100}").is_err(), "its compiled form would be huge");
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error(text in ".{0,60}", path in "/.{0,60}") {
            if let Ok(pattern) = Pattern::regex(&text) {
                let _ = pattern.matches(&path);
            }
            if let Ok(pattern) = Pattern::glob(&format!("/{text}")) {
                let _ = pattern.matches(&path);
            }
        }

        #[test]
        fn a_glob_without_stars_is_the_path_itself(path in "/[^*]{0,40}", other in "/[^*]{0,40}") {
            let glob = Pattern::glob(&path).unwrap();
            prop_assert!(glob.matches(&path));
            prop_assert_eq!(glob.matches(&other), path == other);
        }
    }
}
