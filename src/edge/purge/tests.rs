//! Which of what is stored each form of a purge leaves.

use super::*;
use crate::cache;
use crate::cache::Stored;
use crate::cache::StoredBody;
use crate::cache::Tagged;
use crate::config;
use crate::semantics::accept::AcceptClass;
use crate::semantics::freshness::Freshness;
use crate::semantics::pack::Packed;
use crate::semantics::vary::Selection;
use crate::snapshot;
use crate::snapshot::Choices;
use crate::snapshot::House;
use crate::snapshot::Snapshots;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tickets;
use crate::upstream::Registry;
use http::HeaderName;
use std::sync::Mutex;
use std::time::Duration;

const CONFIG: &str = r#"
version = 1
[site."www.example.org"]
preset = "plone-volto"
zope = "/Plone"
aliases = ["example.org"]
upstream = ["127.0.0.1:1"]
[site."intra.example.org"]
preset = "plone-classic"
zope = "/Intra"
upstream = ["127.0.0.1:1"]
"#;

/// What is stored before each purge: scheme, authority, path, query, tags.
const STORED: &[(&str, &str, &str, Option<&str>, &[&str])] = &[
    ("http", "www.example.org", "/", None, &[]),
    ("https", "www.example.org", "/", None, &["front"]),
    ("https", "www.example.org", "/docs/img", None, &["u1"]),
    ("https", "www.example.org", "/docs/img/", None, &["u1"]),
    ("https", "www.example.org", "/docs/img/view", None, &["u1"]),
    ("https", "www.example.org", "/docs/img", Some("w=1"), &["u1"]),
    ("https", "www.example.org", "/++api++/docs/img", Some("expand=x"), &["u1", "u2"]),
    ("https", "www.example.org", "/docs/img/@@images/image/preview", None, &["u1"]),
    ("https", "www.example.org", "/docs/img2", None, &["u2"]),
    ("https", "www.example.org:8443", "/docs/img", None, &["u1"]),
    ("https", "www.example.org", "/docs", None, &["u3"]),
    ("https", "intra.example.org", "/docs/img", None, &["u9"]),
    ("https", "intra.example.org", "/", None, &[]),
];

struct Stand {
    house: House,
}

impl Stand {
    fn new() -> Self {
        let settings = cache::Settings { memory: 16 << 20, object_max: 1 << 20, variants: 4 };
        let house = House {
            snapshots: Arc::new(Snapshots::new(Snapshot::empty())),
            metrics: Metrics::new(),
            access: AccessLog::off(),
            cache: Arc::new(Cache::new(settings)),
            upstreams: Registry::new(Metrics::new()),
            limits: Mutex::default(),
            tickets: Tickets::new().unwrap(),
            live: Arc::default(),
        };
        let compiled = snapshot::compile(config::parse("test", CONFIG).unwrap().config, &house).unwrap();
        house.snapshots.store(compiled.put_in_force(&Choices::default(), &house));
        let stand = Self { house };
        for (scheme, authority, path, query, tags) in STORED {
            stand.store(scheme, authority, path, *query, tags);
        }
        stand
    }

    fn key(scheme: &'static str, authority: &str, path: &str, query: Option<&str>) -> Vec<u8> {
        KeyBuf::new().build(&Parts { scheme, authority, path, query, accept: AcceptClass::Any }).to_vec()
    }

    fn store(&self, scheme: &'static str, authority: &str, path: &str, query: Option<&str>, named: &[&str]) {
        let snapshot = self.house.snapshots.load_full();
        let site = snapshot.named(authority.split(':').next().unwrap()).unwrap();
        assert!(self.house.cache.admit_place(&site.name, scheme, authority));
        let mut tags = tags::of_place(site.name.as_str(), site.preset.object(path));
        tags.extend(named.iter().map(|name| Tag::named(name.as_bytes())));
        let freshness = Freshness {
            if_error: Duration::from_secs(60),
            ..Freshness::lasting(Duration::from_secs(60), clock::mono())
        };
        let stored = Arc::new(Stored {
            status: StatusCode::OK,
            head: Packed::default(),
            body: StoredBody::Whole(Bytes::from_static(b"x")),
            freshness,
            selection: Selection::default(),
            hidden: Packed::default(),
            tagged: Tagged::new(tags, self.house.cache.ledger().sequence()),
            coded: None,
            kept: None,
        });
        self.house.cache.put(&Self::key(scheme, authority, path, query), &stored);
    }

    /// What a PURGE does that reaches `host`.
    fn purge(&self, host: &str, target: &str, lines: &[(&'static str, &str)]) -> Done {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let snapshot = self.house.snapshots.load_full();
        let uri: Uri = target.parse().unwrap();
        let target = target::parse(&uri, 8192).unwrap();
        let order = purge::order(&target.path, &headers, snapshot.cache.tags.list()).unwrap();
        let host = uri.host().unwrap_or(host);
        let scope = Scope {
            snapshot: &snapshot,
            site: snapshot.named(host),
            query: target.query.as_deref(),
            now: clock::mono(),
        };
        carry_out(&self.house.cache, &order.what, order.mode.unwrap_or(Mode::Hard), &scope).unwrap()
    }

    /// The places in `STORED` of what is gone, and after `~` of what is stale.
    fn missing(&self) -> String {
        let (mut gone, mut stale) = (Vec::new(), Vec::new());
        for (at, (scheme, authority, path, query, _)) in STORED.iter().enumerate() {
            let found = self.house.cache.get(&Self::key(scheme, authority, path, *query));
            match found.as_ref().and_then(|shelf| shelf.variants().first()) {
                None => gone.push(at.to_string()),
                Some(stored) if !stored.freshness.is_fresh(clock::mono()) => stale.push(at.to_string()),
                Some(_) => {}
            }
        }
        format!("{}~{}", gone.join(" "), stale.join(" "))
    }
}

const PROXY: &str = "127.0.0.1";

/// All of the image on the public site but the scale, which is stale; the same on both sites.
const IMG: &str = "2 3 4 5 6 9~7";
const IMG_BOTH: &str = "2 3 4 5 6 9 11~7";

/// The forms in which plone.cachepurging 3, collective.purgebyid, Zope's own cache manager and people ask.
const FORMS: &[(&str, &str, &[(&str, &str)], &str)] = &[
    (PROXY, "/VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/https/www.example.org/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org:80/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org:8443/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/WWW.EXAMPLE.ORG/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/example.org/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/unknown.example/Plone/VirtualHostRoot/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/unknown.example/Nowhere/VirtualHostRoot/docs/img", &[], "~"),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/docs/img/", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/docs/img/view", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/++api++/docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/_vh_docs/img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/_vh_docs/_vh_img", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/_vh_docs/_vh_img/view", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/docs/%69mg", &[], IMG),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/docs/img/@@images/image/preview", &[], "7~"),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot", &[], "0 1~"),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/", &[], "0 1~"),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/view", &[], "0 1~"),
    (PROXY, "/VirtualHostBase/http/www.example.org/Plone/VirtualHostRoot/++api++", &[], "0 1~"),
    (PROXY, "/VirtualHostBase/http/intra.example.org:80/Intra/VirtualHostRoot/docs/img", &[], "11~"),
    (PROXY, "/VirtualHostBase/ftp/www.example.org/Plone/VirtualHostRoot/docs/img", &[], "~"),
    (PROXY, "/VirtualHostBase/http/a%20b/Plone/VirtualHostRoot/docs/img", &[], "~"),
    // Without virtual hosting: the path as visitors see it, or as the ZODB has it; on every site that has it.
    (PROXY, "/docs/img", &[], IMG_BOTH),
    (PROXY, "/docs/img/view", &[], IMG_BOTH),
    (PROXY, "/Plone/docs/img", &[], IMG),
    (PROXY, "/Plone/docs/img/view", &[], IMG),
    (PROXY, "/Plone/docs/img/@@images/image/preview", &[], "7~"),
    (PROXY, "/Plone/++api++/docs/img", &[], IMG),
    (PROXY, "/Intra/docs/img", &[], "11~"),
    (PROXY, "/Plone", &[], "0 1~"),
    (PROXY, "/Plonely/docs/img", &[], "~"),
    (PROXY, "/", &[], "0 1 12~"),
    // By people and programs that know the site.
    ("www.example.org", "/docs/img", &[], IMG),
    ("example.org", "/docs/img", &[], IMG),
    (PROXY, "http://www.example.org/docs/img", &[], IMG),
    (PROXY, "https://www.example.org/docs/img?w=1", &[], "5~"),
    ("www.example.org", "/docs/img?w=2", &[], "~"),
    // By tag.
    (PROXY, "/@@purgebyid/u1", &[], "2 3 4 5 6 7 9~"),
    (PROXY, "/@@purgebyid/u", &[], "~"),
    (PROXY, "/", &[("xkey", "u2 u9")], "6 8 11~"),
    (PROXY, "/", &[("xkey-softpurge", "u3")], "~10"),
    (PROXY, "/", &[("surrogate-key", "front")], "1~"),
    (PROXY, "/", &[("x-ids-involved", "#u3#front#")], "1 10~"),
    (PROXY, "/", &[("cache-tag", "u3,u9")], "10 11~"),
    // By place and pattern.
    (PROXY, "/Plone/docs", &[("x-purge", "prefix")], "2 3 4 5 6 7 8 9 10~"),
    ("www.example.org", "/docs/img/", &[("x-purge", "prefix")], "2 3 4 5 6 7 9~"),
    ("www.example.org", "/docs/i", &[("x-purge", "prefix")], "~"),
    (PROXY, "/docs/img*", &[("x-purge", "glob")], "2 5 8 9 11~"),
    ("www.example.org", "/docs/**", &[("x-purge", "glob"), ("x-purge-soft", "1")], "~2 3 4 5 7 8 9 10"),
    (PROXY, "/", &[("x-purge", "regex"), ("x-purge-match", "\\?(w|expand)=")], "5 6~"),
    ("intra.example.org", "/", &[("x-purge", "site")], "11 12~"),
    (PROXY, "/", &[("x-purge", "site")], "~"),
    (PROXY, "/", &[("x-purge", "all"), ("x-purge-soft", "1")], "~0 1 2 3 4 5 6 7 8 9 10 11 12"),
    (PROXY, "/", &[("x-purge", "all")], "0 1 2 3 4 5 6 7 8 9 10 11 12~"),
    // Of one object, softly.
    (PROXY, "/Plone/docs/img", &[("fastly-soft-purge", "1")], "~2 3 4 5 6 7 9"),
];

#[test]
fn each_form_of_a_purge_leaves_exactly_what_it_should() {
    for (host, target, lines, expected) in FORMS {
        let stand = Stand::new();
        assert_eq!(stand.missing(), "~", "all is there");
        let done = stand.purge(host, target, lines);
        assert_eq!(stand.missing(), *expected, "{host} {target} {lines:?}");
        if *expected == "~" {
            assert!(done == Done::Found(0) || done == Done::Noted, "{target}");
        }
        // What is carried out later changes nothing that was not known at once.
        stand.house.cache.sweep();
        assert_eq!(stand.missing(), *expected, "after the sweep: {host} {target} {lines:?}");
        assert!(!stand.house.cache.ledger().wants_sweep());
    }
    assert!(FORMS.len() >= 40);
}

#[test]
fn what_began_before_a_purge_is_not_stored_after_it() {
    let stand = Stand::new();
    let born = stand.house.cache.ledger().sequence();
    stand.purge(PROXY, "/@@purgebyid/late", &[]);
    let key = Stand::key("https", "www.example.org", "/late", None);
    let shelf = stand.house.cache.get(&Stand::key("https", "www.example.org", "/docs", None)).unwrap();
    let mut late = shelf.variants()[0].completed(StoredBody::Whole(Bytes::new()));
    late.tagged = Tagged::new(vec![Tag::named(b"late")], born);
    let late = Arc::new(late);
    assert!(!stand.house.cache.is_current(&key, &late) && stand.house.cache.is_gone(&key, &late));
    stand.house.cache.put(&key, &late);
    assert!(stand.house.cache.get(&key).is_none());
    stand.house.cache.sweep();
    stand.house.cache.put(&key, &late);
    assert!(stand.house.cache.get(&key).is_none(), "nor after the sweep, which has forgotten the purge itself");
}

#[test]
fn orders_that_an_operator_gives_are_understood_or_explained() {
    let stand = Stand::new();
    let snapshot = stand.house.snapshots.load_full();
    let order = |kind: Option<&str>, what: &str, site: Option<&str>| {
        let wish =
            Wanted { kind: kind.map(str::to_owned), what: what.to_owned(), site: site.map(str::to_owned), mode: None };
        wanted(&stand.house.cache, &snapshot, &wish, clock::mono()).map(|(what, _, done)| (what.kind(), done))
    };
    assert_eq!(order(None, "https://www.example.org/docs/img?w=1", None), Ok(("url", Done::Found(1))));
    assert_eq!(order(None, "/Plone/docs", None), Ok(("url", Done::Found(1))));
    assert_eq!(order(Some("prefix"), "https://intra.example.org/docs", None), Ok(("prefix", Done::Noted)));
    assert_eq!(stand.missing(), "5 10 11~");
    for (kind, what, site, part) in [
        (None, "https://nowhere.example/", None, "no site for the host"),
        (None, "docs", None, "begin it with `/`"),
        (None, "https:///x", None, "no URL"),
        (Some("regex"), "(", None, "no pattern"),
        (Some("site"), "", None, "say which site"),
        (Some("tag"), " ", None, "at least one tag"),
        (Some("word"), "x", None, "there is no purge by"),
        (Some("url"), "/x", Some("nowhere"), "no site for the host"),
    ] {
        let told = order(kind, what, site).unwrap_err();
        assert!(told.contains(part), "{kind:?} {what}: {told}");
    }
}
