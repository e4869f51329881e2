//! Rules between settings. Every rule is checked, so that an operator sees all of them at once.

use crate::config::decode::Context;
use crate::config::decode::nearest;
use crate::config::pair;
use crate::config::pair_settings::Heartbeat;
use crate::config::settings::Acme;
use crate::config::settings::Config;
use crate::config::settings::Rule;
use crate::config::settings::Site;
use crate::config::settings::Upstream;
use crate::config::settings::UpstreamTls;
use crate::config::values::Listen;
use crate::config::values::Memory;
use crate::config::values::NodeLabel;
use crate::config::values::Preset;
use crate::config::values::ProxyProtocol;
use crate::config::values::Scheme;
use crate::config::values::Server;
use crate::config::values::Switchable;
use crate::config::values::UpstreamRef;
use crate::units::ByteSize;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::SiteName;
use crate::units::UpstreamName;
use crate::zope::vhost::VirtualHost;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The name of the rate limit that is there without being written.
pub const BUILT_IN_LIMIT: &str = "per-client";

/// The rate limit on scales of images that nobody has asked for yet; it is there without being written, too.
pub const SCALES_LIMIT: &str = "scales";

/// Waitress stops accepting at so many connections; other proxies and checks need some too.
const WAITRESS_CONNECTIONS: u32 = 90;

impl Config {
    /// Whether there are certificates for TLS, or will be.
    #[must_use]
    pub fn has_certificates(&self) -> bool {
        !self.tls.certs.is_empty() || self.tls.acme.email.is_some()
    }

    /// The names of sites that an authority can issue certificates for.
    #[must_use]
    pub fn acme_names(&self) -> BTreeSet<String> {
        let names = self.site.iter().flat_map(|(name, site)| std::iter::once(name).chain(&site.aliases));
        let names = names.map(|name| name.as_str().to_ascii_lowercase());
        names.filter(|name| name.contains('.') && name.parse::<std::net::IpAddr>().is_err()).collect()
    }

    /// Where to listen, with the default filled in.
    #[must_use]
    pub fn listens(&self) -> Vec<Listen> {
        if !self.server.listen.is_empty() {
            return self.server.listen.clone();
        }
        if self.site.is_empty() && self.heartbeat.node.is_some() {
            // A storage node has no visitors.
            return Vec::new();
        }
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let mut listens = vec![Listen { addr: any(80), tls: false }];
        if self.has_certificates() {
            listens.push(Listen { addr: any(443), tls: true });
        }
        listens
    }
}

impl Heartbeat {
    /// This node, if it is a member of the pair.
    #[must_use]
    pub fn member(&self) -> Option<&NodeLabel> {
        self.node.as_ref().filter(|node| self.members.contains(node))
    }
}

impl Upstream {
    /// The sets, with plain `servers` as the set `main`.
    #[must_use]
    pub fn sets(&self) -> BTreeMap<SetName, Vec<crate::config::values::Server>> {
        if !self.set.is_empty() {
            return self.set.clone();
        }
        SetName::parse("main").map(|name| (name, self.servers.clone())).into_iter().collect()
    }

    /// The set that serves, as the file says.
    #[must_use]
    pub fn active_set(&self) -> Option<SetName> {
        self.active.clone().or_else(|| self.sets().into_keys().next())
    }
}

/// Something that a part of the check found, with the key it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the configuration cannot be used; else it is only odd.
    pub is_error: bool,
    code: &'static str,
    path: String,
    message: String,
    help: String,
}

impl Finding {
    /// Something wrong.
    #[must_use]
    pub fn error(code: &'static str, path: &str, message: String, help: &str) -> Self {
        Self { is_error: true, code, path: path.to_owned(), message, help: help.to_owned() }
    }

    /// Something odd.
    #[must_use]
    pub fn warning(code: &'static str, path: &str, message: String, help: &str) -> Self {
        Self { is_error: false, ..Self::error(code, path, message, help) }
    }

    fn tell(self, context: &mut Context<'_>) {
        if self.is_error {
            context.error(self.code, &self.path, self.message, &self.help);
        } else {
            context.warning(self.code, &self.path, self.message, &self.help);
        }
    }
}

fn heartbeat(config: &Config, context: &mut Context<'_>) {
    let pair = &config.heartbeat;
    for (name, upstream) in &config.upstream {
        if upstream.pair && pair.node.is_none() {
            let path = format!("upstream.{name}.pair");
            let message = format!("upstream \"{name}\" follows the pair, but there is none");
            context.error("E0400", &path, message, "add [heartbeat], with this node as one of its witnesses");
        }
    }
    if pair.node.is_none() {
        if *pair != Heartbeat::default() {
            let message = "[heartbeat] does not say which node this is".to_owned();
            context.error("E0400", "heartbeat", message, "add node = \"NAME\", one of the members or witnesses");
        }
        return;
    }
    let (_, findings) = pair::plan(pair);
    for finding in findings {
        finding.tell(context);
    }
}

/// Checks everything.
pub fn check(config: &Config, context: &mut Context<'_>) {
    if let Some(version) = config.version.filter(|version| *version != 1) {
        let message = format!("this file is of version {version}; this tidegate reads version 1");
        context.error("E0301", "version", message, "");
    }
    listeners(config, context);
    limits(config, context);
    cache(config, context);
    sites(config, context);
    for (name, upstream) in &config.upstream {
        check_upstream(&format!("upstream.{name}"), upstream, context);
    }
    unused_upstreams(config, context);
    shared_endpoints(config, context);
    heartbeat(config, context);
}

fn range(context: &mut Context<'_>, path: &str, value: u32, allowed: RangeInclusive<u32>) {
    if !allowed.contains(&value) {
        let message = format!("`{path}` is {value}; it must be from {} to {}", allowed.start(), allowed.end());
        context.error("E0302", path, message, "");
    }
}

fn positive(context: &mut Context<'_>, path: &str, value: Duration) {
    if value.is_zero() {
        context.error("E0303", path, format!("`{path}` must be longer than 0"), "");
    }
}

fn listeners(config: &Config, context: &mut Context<'_>) {
    ports(config, context);
    for (at, listen) in config.listens().iter().enumerate() {
        let path = format!("server.listen.{at}");
        if listen.tls && !config.has_certificates() {
            let message = format!("https://{} needs a certificate, and [tls] has none", listen.addr);
            context.error("E0305", &path, message, "add to [tls]: certs = [{ cert = \"PATH\", key_file = \"PATH\" }], or acme = { email = \"YOU@EXAMPLE.ORG\" }");
        }
    }
    if config.has_certificates() && !config.listens().iter().any(|listen| listen.tls) {
        let message = "there are certificates, but no listener speaks TLS".to_owned();
        context.warning("W0305", "tls.certs", message, "write one listener as \"https://ADDR:PORT\"");
    }
    cert_files(config, context);
    proxy_protocol(config, context);
    account(config, context);
    acme(config, context);
}

/// Two listeners at one port: the same address is an error, one that takes in the other is mostly a mistake.
fn ports(config: &Config, context: &mut Context<'_>) {
    let visitors =
        config.listens().into_iter().enumerate().map(|(at, listen)| (format!("server.listen.{at}"), listen.addr));
    let admin = config.admin.listen.iter().enumerate().map(|(at, addr)| (format!("admin.listen.{at}"), *addr));
    let mut before: Vec<SocketAddr> = Vec::new();
    for (path, addr) in visitors.chain(admin) {
        // Port 0 is any free one, each time another.
        if addr.port() == 0 {
            continue;
        }
        if before.contains(&addr) {
            context.error("E0304", &path, format!("{addr} is listed twice"), "leave one of them out");
        } else if let Some(other) = before.iter().find(|other| takes_in(**other, addr) || takes_in(addr, **other)) {
            let (wide, narrow) = if takes_in(addr, *other) { (addr, *other) } else { (*other, addr) };
            let message = format!("{wide} takes in {narrow} as well, and there can be only one listener");
            // The service manager can open both (BindIPv6Only=ipv6-only), so it is no error.
            context.warning("W0304", &path, message, "leave one of them out");
        }
        before.push(addr);
    }
}

/// Whether a listener at `wide` gets what comes for `narrow`: `0.0.0.0` all of IPv4, `[::]` everything.
fn takes_in(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let all = wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    wide != narrow && wide.port() == narrow.port() && all
}

fn acme(config: &Config, context: &mut Context<'_>) {
    let acme = &config.tls.acme;
    if acme.external_kid.is_some() != acme.external_key_file.is_some() {
        let message = "[tls.acme] has one of `external_kid` and `external_key_file`, which go together".to_owned();
        context.error("E0332", "tls.acme", message, "add the other");
    }
    if !acme.directory.starts_with("https://") || acme.directory.parse::<http::Uri>().is_err() {
        let message = format!("`tls.acme.directory` is \"{}\", which is no https address", acme.directory);
        context.error("E0333", "tls.acme.directory", message, "");
    }
    let Some(email) = &acme.email else {
        if *acme != Acme::default() {
            let message = "[tls.acme] is set, but without `email` it is off".to_owned();
            context.warning("W0334", "tls.acme", message, "add email = \"YOU@EXAMPLE.ORG\"");
        }
        return;
    };
    if !email.contains('@') || !email.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("`tls.acme.email` is \"{email}\", which is no address");
        context.error("E0335", "tls.acme.email", message, "write it like \"ops@example.org\"");
    }
    if config.acme_names().is_empty() {
        let message = "no site has a name that an authority issues certificates for".to_owned();
        context.warning("W0336", "tls.acme", message, "name sites as visitors do, like \"www.example.org\"");
    }
}

fn account(config: &Config, context: &mut Context<'_>) {
    if config.server.group.is_some() && config.server.user.is_none() {
        let message = "`server.group` is set without `server.user`".to_owned();
        context.error("E0331", "server.group", message, "add user = \"NAME\" to [server]");
    }
    if let Some(node) = config.heartbeat.member()
        && let Some(user) = &config.server.user
    {
        // Its scripts, fence agents and storage are programs that become who they must, and one capability is no root.
        let message =
            format!("`server.user` is \"{user}\", but \"{node}\" is a member of the pair and needs root's rights");
        let help = "leave `user` out here: the member starts and stops the storage, fences, and moves the service address; an \
                    edge with a user of its own belongs in a process of its own";
        context.error("E0337", "server.user", message, help);
    }
}

fn proxy_protocol(config: &Config, context: &mut Context<'_>) {
    if config.server.proxy_protocol != ProxyProtocol::Off && config.server.trusted.is_empty() {
        let message = "`server.proxy_protocol` is on, but `server.trusted` names nobody who might speak it".to_owned();
        let help = "add to [server]: trusted = [\"NETWORK OF THE PROXIES\"]";
        context.error("E0330", "server.proxy_protocol", message, help);
    }
}

fn cert_files(config: &Config, context: &mut Context<'_>) {
    for (at, cert) in config.tls.certs.iter().enumerate() {
        for (key, path) in [("cert", &cert.cert), ("key_file", &cert.key_file)] {
            if path.as_os_str().is_empty() {
                let place = format!("tls.certs.{at}");
                context.error(
                    "E0306",
                    &place,
                    format!("`{key}` is missing"),
                    "write { cert = \"PATH\", key_file = \"PATH\" }",
                );
            }
        }
    }
}

fn limits(config: &Config, context: &mut Context<'_>) {
    let limits = &config.server.limits;
    let most = 10_000_000;
    range(context, "server.limits.connections", limits.connections, 1..=most);
    range(context, "server.limits.per_client", limits.per_client, 1..=most);
    range(context, "server.limits.headers", limits.headers, 8..=1000);
    range(context, "server.limits.h2_streams", limits.h2_streams, 1..=10_000);
    range(context, "server.workers", config.server.workers, 0..=1024);
    range(context, "log.queue", config.log.queue, 1..=10_000_000);
    size(context, "server.limits.header_bytes", limits.header_bytes, 8 * ByteSize::KIB..=ByteSize::MIB);
    size(context, "server.limits.target_bytes", limits.target_bytes, 256..=60 * ByteSize::KIB);
    size(context, "server.limits.rate_min", limits.rate_min, 0..=64 * ByteSize::KIB);
    if limits.target_bytes > limits.header_bytes {
        let message = "`server.limits.target_bytes` is larger than `header_bytes`, of which it is a part".to_owned();
        context.error("E0307", "server.limits.target_bytes", message, "make it smaller");
    }
    for (path, value) in [
        ("server.limits.first_byte", limits.first_byte),
        ("server.limits.head", limits.head),
        ("server.limits.idle", limits.idle),
        ("server.limits.handshake", limits.handshake),
        ("server.limits.body_idle", limits.body_idle),
        ("server.limits.write_idle", limits.write_idle),
    ] {
        positive(context, path, value);
    }
    for (name, limit) in &config.limit {
        range(context, &format!("limit.{name}.burst"), limit.burst, 1..=1_000_000);
        for (at, method) in limit.method.iter().enumerate() {
            if http::Method::from_bytes(method.as_bytes()).is_err() {
                let message = format!("`{method}` is no method");
                context.error("E0329", &format!("limit.{name}.method.{at}"), message, "write it like \"POST\"");
            }
        }
    }
}

fn size(context: &mut Context<'_>, path: &str, value: ByteSize, allowed: RangeInclusive<u64>) {
    if !allowed.contains(&value.0) {
        let (least, most) = (ByteSize(*allowed.start()), ByteSize(*allowed.end()));
        context.error("E0302", path, format!("`{path}` is {value}; it must be from {least} to {most}"), "");
    }
}

fn cache(config: &Config, context: &mut Context<'_>) {
    range(context, "cache.variants", config.cache.variants, 1..=1000);
    size(context, "cache.compress_min", config.cache.compress_min, 256..=1 << 50);
    size(context, "cache.disk_size", config.cache.disk_size, 64 * ByteSize::MIB..=1 << 50);
    if let Memory::Bytes(memory) = config.cache.memory {
        size(context, "cache.memory", memory, ByteSize::MIB..=1 << 50);
        if config.cache.disk.is_some() && config.cache.disk_size.0 / 2 < memory.0 {
            let message =
                format!("`cache.disk_size` is {}, less than twice `cache.memory` ({memory})", config.cache.disk_size);
            let help = "what is in memory is kept on the disk as well; make it larger";
            context.error("E0332", "cache.disk_size", message, help);
        }
        if config.cache.object_max.0 > memory.0 / 4 {
            let message = format!(
                "`cache.object_max` is {}, more than a quarter of `cache.memory` ({memory})",
                config.cache.object_max
            );
            context.error(
                "E0308",
                "cache.object_max",
                message,
                "one object could push out all others; make it smaller",
            );
        }
    }
    let Switchable::On(most) = config.server.limits.memory else { return };
    if let Memory::Bytes(most) = most {
        size(context, "server.limits.memory", most, 16 * ByteSize::MIB..=1 << 50);
    }
    let (cache, most) = match (config.cache.memory, most) {
        (Memory::Bytes(cache), Memory::Bytes(most)) => (cache.0, most.0),
        (Memory::Percent(cache), Memory::Percent(most)) => (cache.into(), most.into()),
        // How they compare is known at the start.
        _ => return,
    };
    if leaves_too_little(cache, most) {
        let message = "`cache.memory` is more than three quarters of `server.limits.memory`".to_owned();
        let help = "with a full cache there would be little left for visitors; make one smaller or the other larger";
        context.warning("W0338", "cache.memory", message, help);
    }
}

/// Whether a cache of that size leaves too little of what the process may take.
#[must_use]
pub fn leaves_too_little(cache: u64, most: u64) -> bool {
    cache / 3 > most / 4
}

fn sites(config: &Config, context: &mut Context<'_>) {
    if config.site.is_empty() && config.heartbeat.node.is_none() && !context.is_unread("site") {
        let message = "there is no site".to_owned();
        context.error("E0309", "site", message, "add [site.\"www.example.org\"] with upstream = [\"HOST:PORT\"]");
    }
    let mut owner: BTreeMap<&SiteName, &SiteName> = config.site.keys().map(|name| (name, name)).collect();
    let mut default: Option<&SiteName> = None;
    for (name, site) in &config.site {
        let path = format!("site.{name}");
        for (at, alias) in site.aliases.iter().enumerate() {
            if let Some(other) = owner.insert(alias, name) {
                let message = format!("the host \"{alias}\" belongs to site \"{other}\" already");
                context.error("E0310", &format!("{path}.aliases.{at}"), message, "a host belongs to one site");
            }
        }
        if site.default
            && let Some(other) = default.replace(name)
        {
            let message = format!("site \"{other}\" is the default already");
            context.error("E0311", &format!("{path}.default"), message, "one site at most answers for unknown hosts");
        }
        check_site(config, &path, name, site, context);
    }
}

fn check_site(config: &Config, path: &str, name: &SiteName, site: &Site, context: &mut Context<'_>) {
    match &site.upstream {
        None if context.is_unread(&format!("{path}.upstream")) => {}
        None => {
            let message = format!("site \"{name}\" has no upstream");
            context.error("E0312", path, message, "add upstream = \"NAME\", or upstream = [\"HOST:PORT\"]");
        }
        Some(UpstreamRef::Inline(endpoints)) => {
            let path = format!("{path}.upstream");
            if config.upstream.keys().any(|upstream| upstream.as_str() == name.as_str()) {
                let message =
                    format!("site \"{name}\" lists endpoints, an upstream of its name, but there is [upstream.{name}]");
                let help = format!("write upstream = \"{name}\", or give [upstream.{name}] another name");
                context.error("E0346", &path, message, &help);
            }
            check_endpoints(&path, endpoints, context);
        }
        Some(UpstreamRef::Name(upstream)) => {
            known_upstream(config, &format!("{path}.upstream"), name, upstream, context);
        }
    }
    if let Some(frontend) = &site.frontend {
        known_upstream(config, &format!("{path}.frontend"), name, frontend, context);
        if site.preset != Preset::PloneVolto {
            let message = format!("site \"{name}\" has a frontend, but not `preset = \"plone-volto\"`");
            let help = "a purge of a page would not reach both its spellings, that of the API and the frontend's";
            context.warning("W0344", &format!("{path}.frontend"), message, help);
        }
    }
    if let Some(root) = &site.zope
        && let Err(bad) = VirtualHost::parse(root)
    {
        context.error("E0314", &format!("{path}.zope"), bad.to_string(), "");
    }
    if !site.hsts.is_zero() && !config.listens().iter().any(|listen| listen.tls) && site.scheme != Scheme::Https {
        let message = format!("site \"{name}\" sets `hsts`, but visitors never come by TLS");
        context.warning("W0325", &format!("{path}.hsts"), message, "add a listener \"https://ADDR:PORT\"");
    }
    for (at, rule) in site.rule.iter().enumerate() {
        check_rule(&format!("{path}.rule.{at}"), rule, context);
    }
    for (at, limit) in site.limits.iter().enumerate() {
        if limit.as_str() != BUILT_IN_LIMIT && !config.limit.contains_key(limit) {
            let mut known: Vec<&str> = config.limit.keys().map(crate::units::LimitName::as_str).collect();
            known.push(BUILT_IN_LIMIT);
            let help = match nearest(limit.as_str(), &known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("defined: {}", known.join(", ")),
            };
            let message = format!("site \"{name}\" uses limit \"{limit}\", which does not exist");
            context.error("E0315", &format!("{path}.limits.{at}"), message, &help);
        }
    }
}

fn known_upstream(config: &Config, path: &str, site: &SiteName, upstream: &UpstreamName, context: &mut Context<'_>) {
    if config.upstream.contains_key(upstream) {
        return;
    }
    let known: Vec<&str> = config.upstream.keys().map(UpstreamName::as_str).collect();
    let help = match nearest(upstream.as_str(), &known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => format!("add [upstream.{upstream}] with servers = [\"HOST:PORT\"]"),
        None => format!("defined: {}", known.join(", ")),
    };
    let message = format!("site \"{site}\" uses upstream \"{upstream}\", which does not exist");
    context.error("E0313", path, message, &help);
}

fn check_rule(path: &str, rule: &Rule, context: &mut Context<'_>) {
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    if !rule.cache && (rule.ttl.is_some() || rule.stale.is_some()) {
        let message = "a rule with `cache = false` cannot say how long something is fresh".to_owned();
        context.error("E0340", path, message, "leave out `ttl` and `stale`, or `cache = false`");
    }
    if rule.stale.is_some() && rule.ttl.is_none() && rule.cache {
        let message = "a rule with `stale` needs `ttl`".to_owned();
        context.error("E0341", &format!("{path}.stale"), message, "add ttl = \"60s\", or \"0s\"");
    }
    if rule.ttl.is_some() && rule.anonymous == Some(false) {
        let message = "a rule with `ttl` is about what all may share, and this one only about who shows an identity";
        context.error("E0342", &format!("{path}.anonymous"), message.to_owned(), "leave out `anonymous`, or `ttl`");
    }
    for (key, value) in [("ttl", rule.ttl), ("stale", rule.stale)] {
        if value.is_some_and(|value| value > YEAR) {
            let message = format!("`{path}.{key}` is longer than a year");
            context.error("E0343", &format!("{path}.{key}"), message, "a year is as good as for ever");
        }
    }
    if rule.cache && rule.ttl.is_none() && rule.class.is_none() && rule.allow.is_empty() {
        let message = "this rule does nothing but end the search for one".to_owned();
        context.warning("W0344", path, message, "rules can have `allow`, `cache = false`, `ttl`, `stale`, `class`");
    }
}

fn check_endpoints(path: &str, endpoints: &[crate::config::values::Server], context: &mut Context<'_>) {
    if endpoints.is_empty() {
        context.error(
            "E0316",
            path,
            "there is no endpoint".to_owned(),
            "name at least one, such as \"127.0.0.1:8080\"",
        );
    }
    let mut seen = BTreeSet::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        if !seen.insert(&endpoint.addr) {
            let message = format!("{} is listed twice", endpoint.addr);
            context.error("E0317", &format!("{path}.{at}"), message, "it has its threads only once");
        }
    }
}

fn check_upstream(path: &str, upstream: &Upstream, context: &mut Context<'_>) {
    range(context, &format!("{path}.threads"), upstream.threads, 1..=10_000);
    range(context, &format!("{path}.retries"), upstream.retries, 1..=5);
    range(context, &format!("{path}.queue.max"), upstream.queue.max, 0..=1_000_000);
    range(context, &format!("{path}.queue.per_client"), upstream.queue.per_client, 1..=1_000_000);
    range(context, &format!("{path}.check.rise"), upstream.check.rise, 1..=100);
    range(context, &format!("{path}.check.fall"), upstream.check.fall, 1..=100);
    let rate_min = format!("{path}.timeout.rate_min");
    size(context, &rate_min, upstream.timeout.rate_min, 0..=64 * ByteSize::KIB);
    if upstream.threads > WAITRESS_CONNECTIONS {
        let message = format!("`{path}.threads` is {}, but waitress takes 100 connections in all", upstream.threads);
        context.warning("W0318", &format!("{path}.threads"), message, "has this server really so many threads?");
    }
    for (key, value) in [
        ("queue.wait", upstream.queue.wait),
        ("timeout.connect", upstream.timeout.connect),
        ("timeout.first_byte", upstream.timeout.first_byte),
        ("timeout.between_bytes", upstream.timeout.between_bytes),
        ("check.every", upstream.check.every),
        ("check.timeout", upstream.check.timeout),
        ("idle", upstream.idle),
    ] {
        positive(context, &format!("{path}.{key}"), value);
    }
    if upstream.sticky.as_ref().is_some_and(|name| !is_cookie_name(name)) {
        let message = format!("`{path}.sticky` is no name for a cookie");
        context.error("E0325", &format!("{path}.sticky"), message, "use letters, digits, `-` and `_`");
    }
    if !upstream.check.path.starts_with('/') || upstream.check.path.parse::<http::Uri>().is_err() {
        let message = format!("`{path}.check.path` is no path");
        context.error("E0319", &format!("{path}.check.path"), message, "write it like \"/@@ok\"");
    }
    for (at, warm) in upstream.warmup.paths.iter().enumerate() {
        if !warm.starts_with('/') || warm.parse::<http::Uri>().is_err() {
            let message = format!("`{warm}` is no path");
            context.error("E0324", &format!("{path}.warmup.paths.{at}"), message, "write it like \"/news\"");
        }
    }
    upstream_tls(path, upstream, context);
    if !upstream.servers.is_empty() && !upstream.set.is_empty() {
        let message = format!("[{path}] has both `servers` and `set`");
        context.error("E0320", &format!("{path}.servers"), message, "keep one: `servers` is short for one set");
    }
    if upstream.set.is_empty() {
        check_endpoints(&format!("{path}.servers"), &upstream.servers, context);
    }
    for (name, endpoints) in &upstream.set {
        check_endpoints(&format!("{path}.set.{name}"), endpoints, context);
    }
    check_active(path, upstream, context);
}

fn upstream_tls(path: &str, upstream: &Upstream, context: &mut Context<'_>) {
    let tls = &upstream.tls;
    if tls.cert.is_some() != tls.key_file.is_some() {
        let message = format!("[{path}.tls] has one of `cert` and `key_file`, which go together");
        context.error("E0326", &format!("{path}.tls"), message, "add the other");
    }
    let speaks = upstream.sets().values().flatten().any(|server| server.addr.tls());
    if *tls != UpstreamTls::default() && !speaks {
        let message = format!("[{path}.tls] is set, but no endpoint speaks TLS");
        context.warning("W0327", &format!("{path}.tls"), message, "write endpoints as \"https://HOST:PORT\"");
    }
    let named = upstream.sets().values().flatten().any(|server| server.addr.tls() && server.by_name);
    if named && tls.name.is_none() {
        let message = format!("[{path}] has a dns+ endpoint that speaks TLS, but not the name of its certificate");
        context.error("E0329", &format!("{path}.tls"), message, &format!("add [{path}.tls] with name = \"HOST\""));
    }
    for (at, server) in upstream.storage.iter().enumerate().filter(|(_, server)| server.tls()) {
        let message = format!("`{path}.storage`: {server} cannot be asked by TLS");
        context.error("E0328", &format!("{path}.storage.{at}"), message, "write it as \"HOST:PORT\"");
    }
}

fn is_cookie_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn check_active(path: &str, upstream: &Upstream, context: &mut Context<'_>) {
    let known: Vec<String> = upstream.sets().keys().map(ToString::to_string).collect();
    match &upstream.active {
        None if upstream.set.is_empty() => {}
        None => {
            let message = format!("[{path}] does not say which set serves");
            context.error("E0321", path, message, &format!("add active = \"NAME\", one of: {}", known.join(", ")));
        }
        Some(active) if !upstream.sets().contains_key(active) => {
            let message = format!("`{path}.active` is \"{active}\", which is no set");
            context.error("E0322", &format!("{path}.active"), message, &format!("defined: {}", known.join(", ")));
        }
        Some(_) => {}
    }
}

/// Threads are counted by upstream: an endpoint that several have gets as many requests as they allow together.
fn shared_endpoints(config: &Config, context: &mut Context<'_>) {
    let named = config.upstream.iter().map(|(name, upstream)| {
        (format!("upstream.{name}"), upstream.threads, upstream.sets().into_values().flatten().collect())
    });
    let inline = config.site.iter().filter_map(|(name, site)| match &site.upstream {
        Some(UpstreamRef::Inline(servers)) => {
            Some((format!("site.{name}.upstream"), Upstream::default().threads, servers.clone()))
        }
        _ => None,
    });
    let mut first: BTreeMap<OriginAddr, (String, u32)> = BTreeMap::new();
    let all: Vec<(String, u32, Vec<Server>)> = named.chain(inline).collect();
    for (path, threads, servers) in all {
        let addresses: BTreeSet<OriginAddr> = servers.into_iter().map(|server| server.addr).collect();
        for addr in addresses {
            let Some((other, others)) = first.get(&addr) else {
                first.insert(addr, (path.clone(), threads));
                continue;
            };
            let message = format!(
                "{addr} is in [{other}] as well: it gets {} requests at once, {others} from there and {threads} from here",
                threads + others
            );
            context.warning("W0345", &path, message, "let the sites share one [upstream.NAME]");
        }
    }
}

fn unused_upstreams(config: &Config, context: &mut Context<'_>) {
    for name in config.upstream.keys() {
        let uses = |site: &Site| {
            site.upstream == Some(UpstreamRef::Name(name.clone())) || site.frontend.as_ref() == Some(name)
        };
        if !config.site.values().any(uses) {
            let message = format!("no site uses upstream \"{name}\"");
            context.warning("W0323", &format!("upstream.{name}"), message, "");
        }
    }
}
