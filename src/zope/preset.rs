//! What is known of the application behind a site: how its objects are spelled in URLs.

/// The kind of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Nothing is known.
    Plain,
    /// Zope.
    Zope,
    /// Plone that renders its pages itself.
    PloneClassic,
    /// Plone behind Volto.
    PloneVolto,
}

/// Plone's REST API as a prefix of the path.
const API: &str = "/++api++";

/// Steps of a path that only Plone can show, where something else makes the pages.
const OF_PLONE: [&str; 7] =
    ["++api++", "@@images", "@@download", "@@display-file", "@@portrait", "@@site-logo", "@portrait"];

/// Whether `path` is for Plone itself where a frontend makes the pages: its API, or what only it can show. The frontend would
/// fetch it from there and hand it on.
#[must_use]
pub fn is_for_plone(path: &str) -> bool {
    path.split('/').any(|step| OF_PLONE.contains(&step))
}

impl Preset {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Zope => "zope",
            Self::PloneClassic => "plone-classic",
            Self::PloneVolto => "plone-volto",
        }
    }

    /// Whether it is a Plone.
    #[must_use]
    pub fn is_plone(self) -> bool {
        matches!(self, Self::PloneClassic | Self::PloneVolto)
    }

    /// The one spelling of the object at a visitors' `path`: `/a`, `/a/`, `/a/view` and `/++api++/a` are the same in Plone.
    #[must_use]
    pub fn object(self, path: &str) -> &str {
        if self == Self::Plain {
            return path;
        }
        let mut path = path;
        if self.is_plone() {
            path = match path.strip_prefix(API) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                _ => path,
            };
            path = path.trim_end_matches('/');
            path = path.strip_suffix("/view").unwrap_or(path);
        }
        path.trim_end_matches('/')
    }

    /// All spellings of the object at a visitors' `path`, that one first.
    #[must_use]
    pub fn spellings(self, path: &str) -> Vec<String> {
        let object = self.object(path);
        let mut spellings = vec![path.to_owned()];
        if self != Self::Plain {
            let mut tails = vec!["", "/"];
            if self.is_plone() {
                tails.push("/view");
            }
            let heads: &[&str] = if self.is_plone() { &["", API] } else { &[""] };
            for head in heads {
                spellings.extend(tails.iter().map(|tail| format!("{head}{object}{tail}")));
            }
        }
        spellings.retain(|spelling| !spelling.is_empty());
        let mut seen = std::collections::BTreeSet::new();
        spellings.retain(|spelling| seen.insert(spelling.clone()));
        spellings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_object_of_plone_has_many_spellings() {
        for preset in [Preset::PloneClassic, Preset::PloneVolto] {
            for path in ["/a/b", "/a/b/", "/a/b/view", "/a/b/view/", "/++api++/a/b", "/++api++/a/b/view"] {
                assert_eq!(preset.object(path), "/a/b", "{path}");
            }
            assert_eq!(preset.object("/"), "");
            assert_eq!(preset.object("/++api++"), "");
            assert_eq!(preset.object("/view"), "");
            assert_eq!(preset.object("/preview"), "/preview");
            assert_eq!(preset.object("/++api++x"), "/++api++x");
            assert_eq!(
                preset.spellings("/a/view"),
                ["/a/view", "/a", "/a/", "/++api++/a", "/++api++/a/", "/++api++/a/view"]
            );
        }
        assert_eq!(Preset::Zope.object("/a/view/"), "/a/view");
        assert_eq!(Preset::Zope.spellings("/"), ["/"]);
        assert_eq!(Preset::Plain.spellings("/a/"), ["/a/"]);
    }

    proptest! {
        #[test]
        fn all_spellings_are_of_one_object(path in "(/(a|view|\\+\\+api\\+\\+|b c)){0,5}/?") {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            for preset in [Preset::Plain, Preset::Zope, Preset::PloneClassic, Preset::PloneVolto] {
                let object = preset.object(&path);
                let spellings = preset.spellings(&path);
                prop_assert!(spellings.contains(&path));
                // `/view/view` is the view of a view, for which nobody purges; all others agree.
                for spelling in spellings.iter().filter(|_| !path.contains("view") && !path.contains("api")) {
                    prop_assert_eq!(preset.object(spelling), object, "{}", spelling);
                }
            }
        }
    }

    #[test]
    fn what_only_plone_can_show_does_not_go_to_the_frontend() {
        for path in [
            "/++api++",
            "/++api++/news/@search",
            "/a/b/@@images/image/large",
            "/a/@@images/image-400-0123.png",
            "/a/report.pdf/@@download/file",
            "/a/@@display-file/file",
            "/@portrait/admin",
            "/@@site-logo/logo.svg",
        ] {
            assert!(is_for_plone(path), "{path}");
        }
        for path in
            ["/", "/news", "/static/js/client.js", "/a/@@images-of-ships", "/news/++api++x", "/login", "/a/edit"]
        {
            assert!(!is_for_plone(path), "{path}");
        }
    }
}
