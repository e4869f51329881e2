//! What a PURGE means: the forms in which Zope and Plone name what should be forgotten, and ours.
//!
//! plone.cachepurging sends to the proxy's own address, so Host names no site. The site is in the path (the form of
//! VirtualHostMonster), or it is known to no one, and then the path counts for every site.

use crate::semantics::host::Authority;
use crate::semantics::pattern::Pattern;
use crate::semantics::tags;
use crate::semantics::tags::Mode;
use crate::semantics::target;
use crate::zope::vhost;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

/// The most tags in one order; more are no order of a person or a Plone.
const TAGS_MAX: usize = 1000;

/// Where collective.purgebyid asks for objects by their UID, always at the root of the proxy.
const BY_ID: &str = "/@@purgebyid/";

/// What kind of order it is, if it is not to forget the URL itself: `url`, `prefix`, `glob`, `regex`, `tag`, `site`, `all`.
const KIND: HeaderName = HeaderName::from_static("x-purge");

/// What such an order names, if it is not the path of the request.
const MATCH: HeaderName = HeaderName::from_static("x-purge-match");

/// Fields by which other caches are told to purge softly.
static SOFT: [HeaderName; 2] = [HeaderName::from_static("x-purge-soft"), HeaderName::from_static("fastly-soft-purge")];

/// Fields in which Varnish's xkey is told tags.
static XKEY: [(HeaderName, Mode); 2] =
    [(HeaderName::from_static("xkey-purge"), Mode::Hard), (HeaderName::from_static("xkey-softpurge"), Mode::Soft)];

/// An order to forget.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What.
    pub what: What,
    /// How thoroughly; `None` as the operator has set it.
    pub mode: Option<Mode>,
}

/// What should be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// One object, in its spellings.
    Url(Purge),
    /// Everything at or below a path.
    Prefix(Purge),
    /// Every path that a glob matches.
    Glob(Pattern),
    /// Every path, with its query, in which a regular expression matches.
    Regex(Pattern),
    /// Everything that has one of these tags.
    Tags(Vec<String>),
    /// All of the site that is asked.
    Site,
    /// Everything.
    All,
}

/// Which URL should be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// A URL of one site, as visitors see it.
    Url {
        /// `http` or `https`.
        scheme: String,
        /// Host without port, in lower case.
        host: String,
        /// The port, if it was written.
        port: Option<u16>,
        /// The physical root that was named.
        root: String,
        /// The visitors' path.
        path: String,
    },
    /// A path; the sites are those whose root it lies under, and those it could be a visitor's path of.
    Path(String),
    /// Nothing that could be a URL of ours, such as a host with a space.
    Nothing,
}

/// An order that cannot be understood, in words for whoever gave it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOrder(pub String);

impl What {
    /// The word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Prefix(_) => "prefix",
            Self::Glob(_) => "glob",
            Self::Regex(_) => "regex",
            Self::Tags(_) => "tag",
            Self::Site => "site",
            Self::All => "all",
        }
    }

    /// Reads an order of this kind about `text`.
    ///
    /// # Errors
    /// When there is no such kind, or `text` is nothing of it.
    pub fn read(kind: &str, text: &str) -> Result<Self, BadOrder> {
        let pattern = |read: Result<Pattern, _>| read.map_err(|bad| BadOrder(format!("{bad}")));
        match kind {
            "url" => Ok(Self::Url(parse(&plain(text)?))),
            "prefix" => Ok(Self::Prefix(parse(&plain(text)?))),
            "glob" => pattern(Pattern::glob(text)).map(Self::Glob),
            "regex" => pattern(Pattern::regex(text)).map(Self::Regex),
            "tag" => {
                let names = text.split([' ', ',', '#']).filter(|name| !name.is_empty()).map(str::to_owned);
                some_tags(names.collect())
            }
            "site" => Ok(Self::Site),
            "all" => Ok(Self::All),
            _ => Err(BadOrder(format!(
                "there is no purge by `{kind}`; there are url, prefix, glob, regex, tag, site, all"
            ))),
        }
    }
}

fn plain(path: &str) -> Result<String, BadOrder> {
    if !path.starts_with('/') {
        return Err(BadOrder(format!("`{path}` is no path; begin it with `/`")));
    }
    target::normalise(path).map(Into::into).map_err(|refused| BadOrder(format!("`{path}` is no path: {}", refused.why)))
}

fn some_tags(names: Vec<String>) -> Result<What, BadOrder> {
    match names.len() {
        0 => Err(BadOrder("name at least one tag".to_owned())),
        1..=TAGS_MAX => Ok(What::Tags(names)),
        many => Err(BadOrder(format!("one order names at most {TAGS_MAX} tags; this one names {many}"))),
    }
}

/// Reads a PURGE: its path in its one spelling, and its fields; `tag_fields` are those in which answers name their tags.
///
/// # Errors
/// When it asks for something that cannot be.
pub fn order(path: &str, headers: &HeaderMap, tag_fields: &[HeaderName]) -> Result<Order, BadOrder> {
    let mut mode = SOFT.iter().any(|name| headers.get(name).is_some_and(says_yes)).then_some(Mode::Soft);
    let mut named: Vec<String> = Vec::new();
    let mut gather = |field: &HeaderName| {
        for line in headers.get_all(field) {
            named.extend(tags::names(field, line.as_bytes()).map(|name| String::from_utf8_lossy(name).into_owned()));
        }
    };
    tag_fields.iter().for_each(&mut gather);
    for (field, of_field) in &XKEY {
        gather(field);
        if headers.contains_key(field) && mode.is_none() {
            mode = Some(*of_field);
        }
    }
    let what = if !named.is_empty() {
        some_tags(named)?
    } else if let Some(uid) = path.strip_prefix(BY_ID).filter(|uid| !uid.is_empty()) {
        What::read("tag", uid)?
    } else if let Some(kind) = headers.get(KIND) {
        let text = match headers.get(MATCH) {
            Some(text) => text.to_str().map_err(|_| BadOrder("X-Purge-Match is no plain text".to_owned()))?,
            None => path,
        };
        What::read(kind.to_str().unwrap_or_default(), text)?
    } else {
        What::Url(parse(path))
    };
    Ok(Order { what, mode })
}

fn says_yes(value: &HeaderValue) -> bool {
    [&b"1"[..], b"true", b"yes", b"on"].iter().any(|yes| value.as_bytes().eq_ignore_ascii_case(yes))
}

/// Reads the path of a PURGE in its one spelling.
#[must_use]
pub fn parse(path: &str) -> Purge {
    let Some(form) = vhost::parse(path) else { return Purge::Path(path.to_owned()) };
    let Ok(authority) = Authority::parse(form.authority.as_bytes()) else { return Purge::Nothing };
    let seen = format!("{}{}", form.inside_out, form.path);
    let Ok(seen) = target::normalise(if seen.is_empty() { "/" } else { &seen }) else { return Purge::Nothing };
    // VirtualHostMonster reads `*` in the root as the first label of the host.
    let label = authority.host().split('.').next().unwrap_or_default();
    let root: Vec<&str> = form.root.split('/').map(|part| if part == "*" { label } else { part }).collect();
    Purge::Url {
        scheme: form.scheme.to_owned(),
        host: authority.host().to_owned(),
        port: authority.port(),
        root: format!("/{}", root.join("/")),
        path: seen.into_owned(),
    }
}

/// The visitors' path of the physical `path` below `root`, if it lies there.
#[must_use]
pub fn below<'a>(root: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    match rest {
        "" => Some("/"),
        _ => rest.starts_with('/').then_some(rest),
    }
}

/// Views that move, rename or delete what they are called on; whatever lay below it may have another URL afterwards.
const MOVING: &[&str] = &[
    "object_rename",
    "@@object_rename",
    "folder_rename",
    "@@folder_rename",
    "folder_rename_form",
    "manage_renameObjects",
    "delete_confirmation",
    "@@delete_confirmation",
    "object_delete",
    "folder_delete",
    "@@fc-rename",
    "@@fc-delete",
    "@@fc-paste",
    "manage_delObjects",
    "manage_pasteObjects",
    "@move",
];

/// The folder whose contents may have other URLs after a successful unsafe request to `path`.
#[must_use]
pub fn moved<'p>(method: &http::Method, path: &'p str) -> Option<&'p str> {
    if *method == http::Method::DELETE || method.as_str() == "MOVE" {
        return Some(path);
    }
    let (object, view) = path.trim_end_matches('/').rsplit_once('/')?;
    MOVING.contains(&view).then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_of_plone_cachepurging_names_what_visitors_see() {
        let url = |path: &str| match parse(path) {
            Purge::Url { scheme, host, port, root, path } => format!("{scheme} {host} {port:?} {root} {path}"),
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            (
                "/VirtualHostBase/http/www.Example.org:80/Plone/VirtualHostRoot/a",
                "http www.example.org Some(80) /Plone /a",
            ),
            ("/VirtualHostBase/https/example.org/Plone/VirtualHostRoot", "https example.org None /Plone /"),
            ("/VirtualHostBase/http/e.org/VirtualHostRoot/_vh_x/", "http e.org None / /x/"),
            ("/VirtualHostBase/http/foo.e.org/sites/*/VirtualHostRoot/a", "http foo.e.org None /sites/foo /a"),
            ("/Plone/a/@@images/image", "Path(\"/Plone/a/@@images/image\")"),
            ("/VirtualHostBase/http/a b/VirtualHostRoot/", "Nothing"),
        ] {
            assert_eq!(url(path), expected, "{path}");
        }
        assert_eq!(below("/Plone", "/Plone/a"), Some("/a"));
        assert_eq!(below("/Plone", "/Plone"), Some("/"));
        assert_eq!(below("/Plone", "/Plonely/a"), None);
        assert_eq!(below("/", "/a"), Some("/a"));
    }

    #[test]
    fn what_other_caches_are_told_is_understood() {
        let fields = [HeaderName::from_static("xkey"), HeaderName::from_static("x-ids-involved")];
        for (path, lines, expected) in [
            ("/a", &[][..], "url None"),
            ("/a", &[("x-purge-soft", "1")], "url Some(Soft)"),
            ("/a", &[("fastly-soft-purge", "0")], "url None"),
            ("/@@purgebyid/u1", &[], "tag None [\"u1\"]"),
            ("/@@purgebyid/", &[], "url None"),
            ("/", &[("xkey", "a b")], "tag None [\"a\", \"b\"]"),
            ("/", &[("x-ids-involved", "#a#b#")], "tag None [\"a\", \"b\"]"),
            ("/", &[("xkey-purge", "a")], "tag Some(Hard) [\"a\"]"),
            ("/", &[("xkey-softpurge", "a")], "tag Some(Soft) [\"a\"]"),
            ("/a/", &[("x-purge", "prefix")], "prefix None"),
            ("/a/**", &[("x-purge", "glob")], "glob None"),
            ("/", &[("x-purge", "regex"), ("x-purge-match", "^/a$")], "regex None"),
            ("/", &[("x-purge", "regex"), ("x-purge-match", "(")], "error"),
            ("/", &[("x-purge", "site")], "site None"),
            ("/", &[("x-purge", "all")], "all None"),
            ("/", &[("x-purge", "everything")], "error"),
            ("/", &[("x-purge", "prefix"), ("x-purge-match", "a")], "error"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let found = match order(path, &headers, &fields) {
                Ok(Order { what: What::Tags(tags), mode }) => format!("tag {mode:?} {tags:?}"),
                Ok(Order { what, mode }) => format!("{} {mode:?}", what.kind()),
                Err(_) => "error".to_owned(),
            };
            assert_eq!(found, expected, "{path} {lines:?}");
        }
    }

    #[test]
    fn what_moves_or_goes_takes_its_contents_along() {
        use http::Method;
        for (method, path, expected) in [
            (Method::DELETE, "/++api++/a/b", Some("/++api++/a/b")),
            (Method::POST, "/a/b/object_rename", Some("/a/b")),
            (Method::POST, "/a/b/@@fc-rename/", Some("/a/b")),
            (Method::POST, "/a/b/edit", None),
            (Method::PATCH, "/a/b", None),
            (Method::POST, "/", None),
        ] {
            assert_eq!(moved(&method, path), expected, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_a_panic(path in "/VirtualHostBase/http/.*|/.*", kind in ".{0,8}", text in ".{0,40}") {
            let _ = parse(&path);
            let _ = order(&path, &HeaderMap::new(), &[]);
            let _ = What::read(&kind, &text);
        }
    }
}
