//! What a PURGE means: the forms in which Zope and Plone name what should be forgotten.
//!
//! plone.cachepurging sends to the proxy's own address, so Host names no site. The site is in the path (the form of
//! VirtualHostMonster), or it is known to no one, and then the path counts for every site.

use crate::semantics::host::Authority;
use crate::semantics::target;
use crate::zope::vhost;

/// What should be forgotten.
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
}

/// Reads the path of a PURGE in its one spelling; `None` when it names nothing.
#[must_use]
pub fn parse(path: &str) -> Option<Purge> {
    let Some(form) = vhost::parse(path) else { return Some(Purge::Path(path.to_owned())) };
    let authority = Authority::parse(form.authority.as_bytes()).ok()?;
    let seen = format!("{}{}", form.inside_out, form.path);
    let seen = target::normalise(if seen.is_empty() { "/" } else { &seen }).ok()?.into_owned();
    Some(Purge::Url {
        scheme: form.scheme.to_owned(),
        host: authority.host().to_owned(),
        port: authority.port(),
        root: format!("/{}", form.root),
        path: seen,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_of_plone_cachepurging_names_what_visitors_see() {
        let url = |path: &str| match parse(path) {
            Some(Purge::Url { scheme, host, port, root, path }) => format!("{scheme} {host} {port:?} {root} {path}"),
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            (
                "/VirtualHostBase/http/www.Example.org:80/Plone/VirtualHostRoot/a",
                "http www.example.org Some(80) /Plone /a",
            ),
            ("/VirtualHostBase/https/example.org/Plone/VirtualHostRoot", "https example.org None /Plone /"),
            ("/VirtualHostBase/http/e.org/VirtualHostRoot/_vh_x/", "http e.org None / /x/"),
            ("/Plone/a/@@images/image", "Some(Path(\"/Plone/a/@@images/image\"))"),
            ("/VirtualHostBase/http/a b/VirtualHostRoot/", "None"),
        ] {
            assert_eq!(url(path), expected, "{path}");
        }
        assert_eq!(below("/Plone", "/Plone/a"), Some("/a"));
        assert_eq!(below("/Plone", "/Plone"), Some("/"));
        assert_eq!(below("/Plone", "/Plonely/a"), None);
        assert_eq!(below("/", "/a"), Some("/a"));
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_a_panic(path in "/VirtualHostBase/http/.*|/.*") {
            let _ = parse(&path);
        }
    }
}
