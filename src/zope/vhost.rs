//! Zope's VirtualHostMonster: `/VirtualHostBase/<scheme>/<host:port><root>/VirtualHostRoot[/_vh_a]<path>`.
//!
//! The words of this language in a visitor's own path would be obeyed by Zope, so no visitor may use them, however encoded.

use crate::semantics::framing::Refused;
use crate::semantics::target;
use crate::units::BadUnit;

const BASE: &str = "VirtualHostBase";
const ROOT: &str = "VirtualHostRoot";
const INSIDE_OUT: &str = "_vh_";

/// The place in the ZODB that is a site's root, such as `/Plone`; `/` for the application itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// Empty for the application's root.
    root: String,
}

/// A path in VirtualHostMonster's language, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host, perhaps with a port, as it was written.
    pub authority: &'a str,
    /// The physical root, without a trailing slash; empty for the application's.
    pub root: &'a str,
    /// What `_vh_` parts put in front of the visitors' path, such as `/a/b`; often empty.
    pub inside_out: String,
    /// The path behind the root, beginning with `/` unless it is empty.
    pub path: &'a str,
}

impl VirtualHost {
    /// Reads a root as an operator writes it.
    ///
    /// # Errors
    /// When it does not begin with `/`, is not in its one spelling, or holds a word of VirtualHostMonster.
    pub fn parse(root: &str) -> Result<Self, BadUnit> {
        let wrong =
            |why: &str| BadUnit(format!("`{root}` is no path in the ZODB: {why}; write it like \"/Plone\", or \"/\""));
        if !root.starts_with('/') {
            return Err(wrong("it must begin with `/`"));
        }
        let normal = target::normalise(root).map_err(|_| wrong("it is not a plain path"))?;
        refuse_words(&normal).map_err(|_| wrong("it holds a word of VirtualHostMonster"))?;
        if normal != root {
            return Err(wrong("it has dot segments, empty segments or needless encodings"));
        }
        Ok(Self { root: root.trim_end_matches('/').to_owned() })
    }

    /// The root as it was written.
    #[must_use]
    pub fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// The target that Zope gets for a visitor's `path` (in its one spelling) and query.
    #[must_use]
    pub fn rewrite(&self, scheme: &str, host: &str, port: u16, path: &str, query: Option<&str>) -> String {
        let query_len = query.map_or(0, |query| query.len() + 1);
        let mut target = String::with_capacity(48 + host.len() + self.root.len() + path.len() + query_len);
        for part in ["/", BASE, "/", scheme, "/", host, ":"] {
            target.push_str(part);
        }
        target.push_str(&port.to_string());
        target.push_str(&self.root);
        target.push('/');
        target.push_str(ROOT);
        target.push_str(path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target
    }
}

/// Refuses a visitor's path that speaks VirtualHostMonster's language.
///
/// # Errors
/// 400.
pub fn refuse_words(path: &str) -> Result<(), Refused> {
    // Without these letters in some encoding no word can be formed; paths in their one spelling encode neither.
    if !path.contains('_') && !path.contains("Virtual") {
        return Ok(());
    }
    // Zope splits after decoding, so an encoded slash ends a segment for it.
    let decoded = target::decode(path);
    let spoken = decoded.split(|byte| *byte == b'/').any(|segment| {
        segment == BASE.as_bytes() || segment == ROOT.as_bytes() || segment.starts_with(INSIDE_OUT.as_bytes())
    });
    if spoken { Err(Refused::bad("vhm_words")) } else { Ok(()) }
}

/// Takes apart a path that begins with `VirtualHostBase`; `None` for any other.
#[must_use]
pub fn parse(path: &str) -> Option<Rewritten<'_>> {
    let rest = path.strip_prefix('/')?.strip_prefix(BASE)?.strip_prefix('/')?;
    let (scheme, rest) = rest.split_once('/')?;
    let (authority, rest) = rest.split_once('/')?;
    // What follows the authority is the root, up to the first VirtualHostRoot that is a whole segment.
    let (root, mut path) = split_at_root(rest)?;
    if !matches!(scheme, "http" | "https") || authority.is_empty() {
        return None;
    }
    let mut inside_out = String::new();
    while let Some(rest) = path.strip_prefix('/').and_then(|rest| rest.strip_prefix(INSIDE_OUT)) {
        let (part, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        inside_out.push('/');
        inside_out.push_str(part);
        path = after;
    }
    Some(Rewritten { scheme, authority, root, inside_out, path })
}

/// `Plone/VirtualHostRoot/a` is `Plone` and `/a`.
fn split_at_root(rest: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    for segment in rest.split('/') {
        if segment == ROOT {
            return Some((rest.get(..at)?.trim_end_matches('/'), rest.get(at + ROOT.len()..)?));
        }
        at += segment.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn visitors_paths_are_put_behind_the_root() {
        let plone = VirtualHost::parse("/Plone").unwrap();
        assert_eq!(
            plone.rewrite("https", "www.example.org", 443, "/news/", Some("b=1")),
            "/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot/news/?b=1"
        );
        let app = VirtualHost::parse("/").unwrap();
        assert_eq!(app.rewrite("http", "a", 8080, "/", None), "/VirtualHostBase/http/a:8080/VirtualHostRoot/");
        for root in ["", "Plone", "/Plone/../x", "/a//b", "/_vh_a", "/VirtualHostRoot", "/%41"] {
            assert!(VirtualHost::parse(root).is_err(), "{root}");
        }
    }

    #[test]
    fn no_visitor_speaks_the_language() {
        for path in [
            "/x%2F_vh_evil/show",
            "/%2F_vh_evil/show",
            "/a%2fVirtualHostRoot",
            "/_vh_evil/docs",
            "/a/VirtualHostRoot/b",
            "/VirtualHostBase/http/x:80/",
            "/%5Fvh_x",
            "/a/_vh_",
        ] {
            let spelled = target::normalise(path).unwrap();
            assert!(refuse_words(&spelled).is_err(), "{path}");
        }
        for path in ["/", "/a_b/c", "/my_vh_x", "/VirtualHostRoots", "/news/VirtualHostBasement"] {
            assert!(refuse_words(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn the_forms_that_plone_purges_are_taken_apart() {
        let found =
            parse("/VirtualHostBase/http/www.example.org:80/Plone/VirtualHostRoot/_vh_a/_vh_b/docs/img").unwrap();
        assert_eq!((found.scheme, found.authority, found.root), ("http", "www.example.org:80", "Plone"));
        assert_eq!((found.inside_out.as_str(), found.path), ("/a/b", "/docs/img"));
        let found = parse("/VirtualHostBase/https/example.org/VirtualHostRoot").unwrap();
        assert_eq!((found.authority, found.root, found.path), ("example.org", "", ""));
        for path in [
            "/",
            "/VirtualHostBase",
            "/VirtualHostBase/http/x",
            "/VirtualHostBase/ftp/x/VirtualHostRoot/",
            "/a/VirtualHostBase/",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rewritten_is_taken_apart_again(
            host in "[a-z0-9.]{1,20}", port in 1..=65535_u16,
            root in "(/[A-Za-z0-9]{1,8}){0,3}", path in "(/[A-Za-z0-9.~-]{1,8}){1,4}/?",
        ) {
            let vhost = VirtualHost::parse(if root.is_empty() { "/" } else { &root }).unwrap();
            let target = vhost.rewrite("https", &host, port, &path, None);
            let found = parse(&target).unwrap();
            prop_assert_eq!(found.authority, format!("{host}:{port}"));
            prop_assert_eq!(found.root, root.trim_start_matches('/'));
            prop_assert_eq!(found.path, path);
        }

        #[test]
        fn any_path_is_taken_apart_without_a_panic(path in "/VirtualHostBase/http/.*|.*") {
            let _ = parse(&path);
            let _ = refuse_words(&path);
        }
    }
}
