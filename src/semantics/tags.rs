//! Tags: the names by which a stored response can be forgotten besides its URL.
//!
//! Origins name tags in fields of the answer; we add the place where it stands, so that a site, a subtree or an object in
//! all its spellings can be forgotten by one name as well. Only hashes are kept: 8 bytes each. Two names with one hash
//! would cost a rendering too many, never a stale answer.

use http::HeaderMap;
use http::HeaderName;

/// A tag's hash. It does not change from one run to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

/// Whether what is forgotten may still be served while it is refreshed, or when the origin fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is gone.
    Hard,
    /// It is stale from now on.
    Soft,
}

/// More tags of one answer are not told apart: it then counts as having every tag there is.
pub const TAGS_MAX: usize = 256;

/// A subtree that lies deeper has no tag of its own.
pub const DEPTH_MAX: usize = 16;

impl Mode {
    /// The word for metrics and the diary.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }
}

impl Tag {
    /// The tag of answers that have more tags than are kept.
    pub const ANY: Self = Self(0);

    /// A tag that an origin named.
    #[must_use]
    pub fn named(name: &[u8]) -> Self {
        Self::of(b't', &[name])
    }

    /// A cache group (RFC 9875), which means something within its origin only.
    #[must_use]
    pub fn group(scheme: &str, authority: &str, name: &[u8]) -> Self {
        Self::of(b'g', &[scheme.as_bytes(), authority.as_bytes(), name])
    }

    /// All of a site.
    #[must_use]
    pub fn site(site: &str) -> Self {
        Self::of(b's', &[site.as_bytes()])
    }

    /// One object of a site, in all its spellings and with any query.
    #[must_use]
    pub fn object(site: &str, path: &str) -> Self {
        Self::of(b'o', &[site.as_bytes(), path.as_bytes()])
    }

    /// What lies at or below a path of a site; the path without its trailing slash.
    #[must_use]
    pub fn below(site: &str, path: &str) -> Self {
        Self::of(b'b', &[site.as_bytes(), path.as_bytes()])
    }

    /// What is stored under one key.
    #[must_use]
    pub fn key(key: &[u8]) -> Self {
        Self::of(b'k', &[key])
    }

    /// The hash itself.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// A tag of which the hash is known, as [`Tag::value`] gave it.
    #[must_use]
    pub fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// FNV-1a with a finish that spreads its bits. Parts end with a byte that stands in no name.
    fn of(kind: u8, parts: &[&[u8]]) -> Self {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        eat(kind);
        for part in parts {
            part.iter().copied().for_each(&mut eat);
            eat(0xff);
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        Self(hash.max(1))
    }
}

/// The tags of what stands at `path` of `site`: the site, the object, and every folder above it.
#[must_use]
pub fn of_place(site: &str, path: &str) -> Vec<Tag> {
    let mut tags = vec![Tag::site(site), Tag::object(site, path)];
    tags.extend(folders(path).map(|folder| Tag::below(site, folder)));
    tags
}

/// `/a/b/c` is at or below `/a`, `/a/b` and `/a/b/c`.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_end_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.take(DEPTH_MAX + 1).filter_map(|end| path.get(..end)).filter(|folder| !folder.is_empty())
}

/// Whether `path` lies so deep that it has no tag for its subtree.
#[must_use]
pub fn is_deep(path: &str) -> bool {
    path.trim_end_matches('/').matches('/').count() > DEPTH_MAX
}

/// The tags that an answer names in `fields`; `place` is scheme and authority, within which cache groups mean something.
#[must_use]
pub fn named(headers: &HeaderMap, fields: &[HeaderName], place: (&str, &str)) -> Vec<Tag> {
    let mut tags = Vec::new();
    for field in fields {
        for line in headers.get_all(field) {
            for name in names(field, line.as_bytes()) {
                if tags.len() == TAGS_MAX {
                    tags.push(Tag::ANY);
                    return tags;
                }
                tags.push(if *field == CACHE_GROUPS { Tag::group(place.0, place.1, name) } else { Tag::named(name) });
            }
        }
    }
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Whether visitors and caches on the way to them are told this field, too.
#[must_use]
pub fn is_public(field: &HeaderName) -> bool {
    *field == CACHE_GROUPS
}

/// The cache groups that the answer to an unsafe request makes obsolete (RFC 9875 3), within its origin.
#[must_use]
pub fn invalidated(answer: &HeaderMap, place: (&str, &str)) -> Vec<Tag> {
    let lines = answer.get_all(CACHE_GROUP_INVALIDATION).iter();
    let names = lines.flat_map(|line| names(&CACHE_GROUPS, line.as_bytes()));
    names.take(TAGS_MAX).map(|name| Tag::group(place.0, place.1, name)).collect()
}

/// RFC 9875 2.
const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// RFC 9875 3.
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The names in one line. Each field has its own habit: `#uid#uid#`, `"one", "two"`, `one,two`, `one two`.
pub fn names<'l>(field: &HeaderName, line: &'l [u8]) -> impl Iterator<Item = &'l [u8]> + use<'l> {
    let ends: fn(&u8) -> bool = match field.as_str() {
        "x-ids-involved" => |byte| matches!(byte, b'#' | b' ' | b'\t' | b','),
        "cache-groups" => |byte| *byte == b'"',
        "cache-tag" => |byte| *byte == b',',
        _ => |byte| matches!(byte, b' ' | b'\t' | b','),
    };
    // Of a list of strings, what stands outside the quotes are commas and parameters.
    let quoted = *field == CACHE_GROUPS;
    let parts = line.split(ends).enumerate();
    parts.filter_map(move |(at, name)| {
        let name = name.trim_ascii();
        (!name.is_empty() && (!quoted || at % 2 == 1)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn each_field_separates_its_tags_in_its_own_way() {
        for (field, line, expected) in [
            ("x-ids-involved", "#a1#b2#", "a1|b2"),
            ("x-ids-involved", "a1", "a1"),
            ("xkey", "a  b\tc", "a|b|c"),
            ("surrogate-key", "a b,c", "a|b|c"),
            ("cache-tag", "a b, c", "a b|c"),
            ("cache-groups", "\"one\", \"two, three\";x=1", "one|two, three"),
            ("cache-groups", "", ""),
        ] {
            let field = HeaderName::from_static(field);
            let found: Vec<&str> =
                names(&field, line.as_bytes()).map(|name| std::str::from_utf8(name).unwrap()).collect();
            assert_eq!(found.join("|"), expected, "{field}: {line}");
        }
    }

    #[test]
    fn a_place_is_in_all_its_folders_and_in_no_other() {
        let tags = of_place("www", "/a/b");
        for (tag, expected) in [
            (Tag::site("www"), true),
            (Tag::site("ww"), false),
            (Tag::object("www", "/a/b"), true),
            (Tag::object("www", "/a"), false),
            (Tag::below("www", "/a"), true),
            (Tag::below("www", "/a/b"), true),
            (Tag::below("www", "/a/b/c"), false),
            (Tag::below("other", "/a"), false),
            (Tag::below("www", "/"), false),
        ] {
            assert_eq!(tags.contains(&tag), expected, "{tag:?}");
        }
        assert_eq!(of_place("www", "/").len(), 2);
        assert!(of_place("www", &"/x".repeat(1000)).len() <= DEPTH_MAX + 2);
        assert!(is_deep(&"/x".repeat(17)) && !is_deep(&"/x".repeat(16)));
        for depth in [1, 15, 16] {
            let path = "/x".repeat(depth);
            assert!(of_place("www", &path).contains(&Tag::below("www", &path)), "{depth}");
        }
    }

    #[test]
    fn an_answer_with_too_many_tags_counts_as_having_all() {
        let mut headers = HeaderMap::new();
        let many: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        headers.insert("xkey", HeaderValue::from_str(&many.join(" ")).unwrap());
        let tags = named(&headers, &[HeaderName::from_static("xkey")], ("http", "a"));
        assert!(tags.len() == TAGS_MAX + 1 && tags.contains(&Tag::ANY));
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            for field in ["x-ids-involved", "cache-groups", "cache-tag", "xkey"] {
                let _ = names(&HeaderName::from_static(field), &line).count();
            }
        }
    }
}
