//! How urgent a request is: by the operator's rules, the first that fits; else by whether it shows who asks, and by what its
//! User-Agent says.

use crate::semantics::cookie;
use crate::units::BadUnit;
use crate::upstream::machine::queue::Class;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use std::fmt;

/// What decides about the class of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// The operator's rules, in order.
    pub rules: Vec<Rule>,
    /// What User-Agent says, in lower case, of requests that leave the line last.
    pub robots: Vec<String>,
}

/// One rule: requests that fit are of this class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    class: Class,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// The path, in which `*` stands for anything.
    Path(String),
    /// There is a cookie of this name.
    Cookie(String),
    /// User-Agent holds this, in any case.
    Agent(String),
}

impl Classes {
    /// The class of a request for `path`; `known`: it shows who asks.
    #[must_use]
    pub fn of(&self, known: bool, path: &str, headers: &HeaderMap) -> Class {
        if let Some(rule) = self.rules.iter().find(|rule| rule.test.fits(path, headers)) {
            return rule.class;
        }
        if known {
            return Class::Editor;
        }
        let agent = agent(headers);
        if self.robots.iter().any(|word| says(agent, word)) { Class::Background } else { Class::Anonymous }
    }
}

impl Test {
    fn fits(&self, path: &str, headers: &HeaderMap) -> bool {
        match self {
            Self::Path(pattern) => matches(pattern.as_bytes(), path.as_bytes()),
            Self::Cookie(name) => cookie::value(headers, name).is_some(),
            Self::Agent(word) => says(agent(headers), word),
        }
    }
}

impl Rule {
    /// Reads `CLASS path PATTERN`, `CLASS cookie NAME` or `CLASS agent WORD`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(written: &str) -> Result<Self, BadUnit> {
        let wrong = |what: String| {
            let help = "write \"CLASS path PATTERN\", \"CLASS cookie NAME\" or \"CLASS agent WORD\"";
            BadUnit(format!("{what}; {help}, where CLASS is editor, anonymous or background"))
        };
        let words: Vec<&str> = written.split_ascii_whitespace().collect();
        let [class, kind, argument] = words[..] else {
            return Err(wrong(format!("`{written}` is no rule of three words")));
        };
        let Some(class) = Class::ALL.into_iter().find(|known| known.as_str() == class) else {
            return Err(wrong(format!("there is no class `{class}`")));
        };
        let test = match kind {
            "path" if argument.starts_with(['/', '*']) => Test::Path(argument.to_owned()),
            "path" => return Err(wrong(format!("`{argument}` is no path: it begins with `/` or `*`"))),
            "cookie" => Test::Cookie(argument.to_owned()),
            "agent" => Test::Agent(argument.to_ascii_lowercase()),
            other => return Err(wrong(format!("a rule cannot go by `{other}`"))),
        };
        Ok(Self { class, test })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, argument) = match &self.test {
            Test::Path(pattern) => ("path", pattern),
            Test::Cookie(name) => ("cookie", name),
            Test::Agent(word) => ("agent", word),
        };
        write!(f, "{} {kind} {argument}", self.class.as_str())
    }
}

fn agent(headers: &HeaderMap) -> &[u8] {
    headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes)
}

/// Whether `text` holds `word`, which is in lower case, in any case.
fn says(text: &[u8], word: &str) -> bool {
    text.windows(word.len().max(1)).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether `text` is of this form; a `*` stands for anything. In time of at most the product of their lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star = None;
    while seen < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if pattern.get(at) == Some(&text[seen]) {
            at += 1;
            seen += 1;
        } else if let Some((place, eaten)) = star {
            star = Some((place, eaten + 1));
            at = place + 1;
            seen = eaten + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides_and_then_who_asks() {
        let rule = |text: &str| Rule::parse(text).unwrap();
        let rules = [
            "background path /export/*",
            "editor cookie preview",
            "anonymous path *.css",
            "background agent Wget",
            "editor path /work/*/edit",
        ];
        let classes = Classes { rules: rules.map(rule).to_vec(), robots: vec!["bot".to_owned()] };
        for (known, path, cookie, agent, class) in [
            (true, "/export/all", "preview=1", "", Class::Background),
            (false, "/", "a=b; preview=1", "Googlebot", Class::Editor),
            (true, "/style.css", "", "", Class::Anonymous),
            (false, "/page", "", "wGet/1.21", Class::Background),
            (false, "/work/a/b/edit", "", "", Class::Editor),
            (false, "/work/a/b/editor", "", "", Class::Anonymous),
            (false, "/", "", "GoogleBot/2.1", Class::Background),
            (true, "/", "", "GoogleBot/2.1", Class::Editor),
            (false, "/", "", "", Class::Anonymous),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_static(cookie));
            headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            assert_eq!(classes.of(known, path, &headers), class, "{path} {cookie} {agent}");
        }
    }

    #[test]
    fn rules_are_written_as_they_are_read_and_others_are_refused() {
        for text in ["editor cookie x", "background path /a*b/*", "anonymous agent curl"] {
            assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "editor", "editor path", "vip path /", "editor method GET", "editor path x", "editor path / b"]
        {
            let refused = Rule::parse(text).unwrap_err().to_string();
            assert!(refused.contains("CLASS path PATTERN"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fits) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("*", "", true),
            ("/a*", "/a", true),
            ("*/b/*", "/a/b/c", true),
            ("/a*b*c", "/axbxbxc", true),
            ("/a*b*c", "/axbxbx", false),
            ("", "/", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
