//! What decides whether an answer is stored, and how, as one text: equal texts store alike. Pure.
//!
//! What is on the disk from an earlier run is used only if its text is the same. So a key is in it unless it is known to
//! decide nothing of that: a setting that is added later is, until somebody says otherwise.

use crate::config::decode::Setting;
use crate::config::settings::Cache;
use crate::config::settings::Site;
use crate::units::SiteName;
use toml::Value;

/// Keys of `[cache]` that decide nothing about what is stored.
const OF_CACHE: &[&str] = &[
    "memory",
    "disk",
    "disk_size",
    "variants",
    "purge_allow",
    "purge_token_file",
    "purge_soft",
    "status",
    "client_cache_control",
];

/// The same of a site.
const OF_SITE: &[&str] = &[
    "aliases",
    "default",
    "limits",
    "allow",
    "allow_files",
    "deny",
    "deny_files",
    "hsts",
    "hsts_subdomains",
    "headers",
    "body",
    "body_for",
];

/// The text for one site.
#[must_use]
pub fn of(name: &SiteName, site: &Site, cache: &Cache) -> String {
    let shown = |value: Option<Value>, besides: &[&str]| {
        let Some(Value::Table(mut table)) = value else { return String::new() };
        table.retain(|key, _| !besides.contains(&key));
        toml::to_string(&table).unwrap_or_default()
    };
    format!("{name}\n{}\n{}", shown(site.show(), OF_SITE), shown(cache.show(), OF_CACHE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn text(cache: &str, site: &str) -> String {
        let file = format!(
            "version = 1\n[cache]\n{cache}\n[site.\"www.example.org\"]\nupstream = [\"127.0.0.1:1\"]\n{site}\n"
        );
        let config = config::parse("test", &file).unwrap().config;
        let (name, site) = config.site.iter().next().unwrap();
        of(name, site, &config.cache)
    }

    #[test]
    fn it_changes_with_what_decides_about_storing_and_with_nothing_else() {
        let before = text("", "");
        for (cache, site) in [
            ("", "preset = \"plone-classic\""),
            ("", "zope = \"/Plone\""),
            ("", "verify = \"plone-etag\""),
            ("", "[[site.\"www.example.org\".rule]]\npath = [\"/a\"]\ncache = false"),
            ("error_ttl_max = \"1s\"", ""),
            ("identity_cookies = [\"me\"]", ""),
            ("query_sort = false", ""),
            ("object_max = \"1MiB\"", ""),
        ] {
            assert_ne!(text(cache, site), before, "{cache} {site}");
        }
        for (cache, site) in [
            ("memory = \"64MiB\"", ""),
            ("disk = \"/x\"\ndisk_size = \"1GiB\"", ""),
            ("purge_soft = true", ""),
            ("", "hsts = \"1h\"\naliases = [\"example.org\"]"),
            ("", "headers = { x-a = \"b\" }\nbody = \"1MiB\""),
        ] {
            assert_eq!(text(cache, site), before, "{cache} {site}");
        }
    }
}
