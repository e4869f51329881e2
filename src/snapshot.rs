//! The one immutable picture that requests are served by, and the one door through which it changes.
//!
//! [`compile`] is a function of the configuration and of what must outlive it (the [`House`]). A snapshot is never
//! changed: `control/publisher`, and nobody else, replaces it whole. Live counters, buckets and health are not in it; it
//! holds their handles, found again by identity, so a reload forgets nothing.

pub mod limits;
mod lists;
pub mod rules;
mod secure;

pub use limits::Asking;
pub use limits::Limit;
pub use limits::Meter;
pub use limits::Said;
pub use lists::Doorkeeper;

use crate::acme;
use crate::admission::acl;
use crate::admission::acl::Networks;
use crate::admission::rate::RateLimit;
use crate::admission::token::Tokens;
use crate::cache;
use crate::cache::Cache;
use crate::config::Config;
use crate::config::check::SCALES_LIMIT;
use crate::config::digest;
use crate::config::settings;
use crate::config::values;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::coding::Coding;
use crate::semantics::coding::Offer;
use crate::semantics::freshness::Bounds;
use crate::semantics::names::Names;
use crate::semantics::pattern::Pattern;
use crate::semantics::query::Respelling;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::SiteMetrics;
use crate::tls::Live;
use crate::tls::Tickets;
use crate::units::ClientAddr;
use crate::units::LimitName;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::SiteName;
use crate::units::UpstreamName;
use crate::upstream;
use crate::upstream::Plan;
use crate::upstream::Registry;
use crate::upstream::Secure;
use crate::upstream::Upstream;
use crate::zope::conduct::Conduct;
use crate::zope::preset::Preset;
use crate::zope::preset::is_for_plone;
use crate::zope::session::Identity;
use crate::zope::vhost::VirtualHost;
use arc_swap::ArcSwap;
use arc_swap::Guard;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use ipnet::IpNet;
use lists::Lists;
use rules::Rule;
use rustls::ServerConfig;
use secure::Secured;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

/// What outlives snapshots.
pub struct House {
    /// The door.
    pub snapshots: Arc<Snapshots>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub access: AccessLog,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The upstreams' live state.
    pub upstreams: Registry,
    /// The rate limits' buckets, by name.
    pub limits: Mutex<HashMap<LimitName, Arc<RateLimit>>>,
    /// The TLS ticket keys.
    pub tickets: Tickets,
    /// What TLS shows that comes and goes without a new configuration.
    pub live: Arc<Live>,
}

impl House {
    /// A house that serves nobody, in which a configuration can be looked at.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn offline() -> Result<Self, String> {
        let tickets = Tickets::new().map_err(|error| format!("make TLS ticket keys: {error}"))?;
        let settings = cache::Settings { memory: 1 << 20, object_max: 1 << 20, variants: 1 };
        Ok(Self {
            snapshots: Arc::new(Snapshots::new(Snapshot::empty())),
            metrics: Metrics::new(),
            access: AccessLog::off(),
            cache: Arc::new(Cache::new(settings)),
            upstreams: Registry::new(Metrics::new()),
            limits: Mutex::default(),
            tickets,
            live: Arc::default(),
        })
    }
}

/// Holds the snapshot in force.
pub struct Snapshots(ArcSwap<Snapshot>);

/// Everything that requests are served by.
pub struct Snapshot {
    /// The bounds and places of the listeners.
    pub server: Server,
    /// The TLS configuration, where there are certificates.
    pub tls: Option<Arc<ServerConfig>>,
    /// When certificates from files end, each under its label.
    pub certificates: Vec<(String, SystemTime)>,
    /// What is wanted of an authority, if anything.
    pub acme: Option<Arc<acme::Plan>>,
    /// The proofs that an authority asks for.
    pub live: Arc<Live>,
    /// What holds for the whole cache.
    pub cache: CachePolicy,
    /// The upstreams by name.
    pub upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
    /// The rate limits in use.
    pub limits: Vec<Arc<Limit>>,
    /// The one on scales of images that nobody has asked for yet.
    pub scales: Option<Arc<Limit>>,
    /// Nobody but the operator puts anything into it, and so nobody else can make its keys collide.
    hosts: HashMap<String, Host, foldhash::fast::RandomState>,
    default: Option<Arc<Site>>,
    all: Vec<Arc<Site>>,
}

/// The bounds and places of the listeners.
pub struct Server {
    /// Where to listen, and whether with TLS.
    pub places: Vec<(SocketAddr, bool)>,
    /// Whose X-Forwarded-For is believed.
    pub trusted: Vec<IpNet>,
    /// Whether they tell by the PROXY protocol whose connections they bring.
    pub proxy_protocol: values::ProxyProtocol,
    /// Who is turned away.
    pub deny: Arc<Networks>,
    /// Where uploads are taken in.
    pub spool: PathBuf,
    /// HTTP/2 without TLS.
    pub h2c: bool,
    /// Send visitors from HTTP to https.
    pub redirect_https: bool,
    /// The port of the first TLS listener.
    pub https_port: Option<u16>,
    /// What a client may take up.
    pub limits: settings::Limits,
}

/// What holds for the whole cache.
pub struct CachePolicy {
    /// The bounds on reuse.
    pub bounds: Bounds,
    /// The largest body that is stored.
    pub object_max: u64,
    /// Whether a visitor's Cache-Control is minded.
    pub honour_client: bool,
    /// Whether visitors are told what the cache did.
    tell: bool,
    /// Who is told why, too.
    tell_why: Vec<IpNet>,
    /// Whether s-maxage goes no further than here.
    pub hide_shared: bool,
    /// Who may purge.
    purgers: Purgers,
    /// Who may purge from anywhere.
    pub purge_tokens: Tokens,
    /// How thoroughly, unless an order says so.
    pub purge_mode: Mode,
    /// The fields in which answers name their tags.
    pub tags: Names<HeaderName>,
    /// How queries are spelled in keys.
    pub query: Respelling,
    /// What is smaller is not coded.
    pub compress_min: u64,
}

/// Who may purge by his address.
struct Purgers {
    networks: Vec<IpNet>,
    /// Whether the addresses that endpoints' names have at present may, too.
    named: bool,
}

/// One site.
pub struct Site {
    /// Its canonical host, or a label.
    pub name: SiteName,
    /// What kind of application it is.
    pub preset: Preset,
    /// Where it lies in the ZODB.
    pub zope: Option<VirtualHost>,
    /// The scheme that visitors see, if not the listener's.
    pub scheme: Option<&'static str>,
    /// Where its answers come from.
    pub upstream: Arc<Upstream>,
    /// Another one that makes the pages, if there is one.
    pub frontend: Option<Arc<Upstream>>,
    /// Whether it is answered from the cache.
    pub cache: bool,
    /// In which codings its stored texts are sent.
    pub codings: Offer,
    /// Whether Plone's private pages that name no user are kept and verified.
    pub verify: bool,
    /// How long a 404 or 410 is fresh that says nothing about it.
    missing: Duration,
    /// What is done otherwise for some requests; the first that matches counts.
    pub rules: Vec<Arc<Rule>>,
    /// Its rate limits.
    pub limits: Vec<Arc<Limit>>,
    /// Who may see it.
    pub doorkeeper: Doorkeeper,
    /// The most bytes of a request's body.
    body_max: u64,
    /// The same by path; the first that matches counts.
    body_rules: Vec<(Pattern, u64)>,
    /// What is told besides in each answer, unless the origin said otherwise.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What is told over TLS about TLS (RFC 6797).
    hsts: Option<HeaderValue>,
    /// Cookies that show who asks.
    pub identity_cookies: Arc<Vec<String>>,
    /// Whether nothing is known of the application, and it is believed to say itself which of its answers are somebody's.
    pub believed: bool,
    /// How urgent which requests are.
    pub classes: Arc<upstream::Classes>,
    /// The cookie that leads a client back to the endpoint that served it.
    pub way: Option<Arc<str>>,
    /// A digest of the settings that decide what is stored of it.
    pub terms: u64,
    /// Its counters.
    pub metrics: Arc<SiteMetrics>,
}

enum Host {
    Site(Arc<Site>),
    Alias(Arc<Site>),
}

/// Whose a host is.
pub enum Found<'a> {
    /// The site's own.
    Site(&'a Arc<Site>),
    /// Another name of the site.
    Alias(&'a Arc<Site>),
}

/// What operators and events chose, beside what the file says.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    sets: BTreeMap<UpstreamName, SetName>,
}

impl Choices {
    /// Lets `set` of `upstream` serve.
    pub fn choose(&mut self, upstream: UpstreamName, set: SetName) {
        self.sets.insert(upstream, set);
    }

    /// Forgets choices that `new` overrules: its `active` differs from the one in `old`, or the set is gone.
    pub fn keep_for(&mut self, old: &Config, new: &Config) {
        self.sets.retain(|name, set| {
            let (Some(old), Some(new)) = (old.upstream.get(name), new.upstream.get(name)) else { return false };
            old.active_set() == new.active_set() && new.sets().contains_key(set)
        });
    }
}

impl Snapshots {
    /// Begins with `first`.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The snapshot in force, for a moment: not to be held while waiting.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// The snapshot in force, to be kept.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts `next` in force. Called by `control/publisher` alone.
    pub fn store(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }
}

impl Snapshot {
    /// A snapshot without sites or listeners: what is in force before the first configuration.
    #[must_use]
    pub fn empty() -> Self {
        let config = Config::default();
        Self {
            server: Server {
                places: Vec::new(),
                trusted: Vec::new(),
                proxy_protocol: values::ProxyProtocol::Off,
                deny: Arc::default(),
                spool: config.server.spool.clone(),
                h2c: false,
                redirect_https: false,
                https_port: None,
                limits: settings::Limits::default(),
            },
            tls: None,
            certificates: Vec::new(),
            acme: None,
            live: Arc::default(),
            cache: cache_policy(&config.cache, Vec::new(), Tokens::default()),
            upstreams: BTreeMap::new(),
            limits: Vec::new(),
            scales: None,
            hosts: HashMap::default(),
            default: None,
            all: Vec::new(),
        }
    }

    /// Whose `host` (without port, in lower case) is.
    #[must_use]
    pub fn site(&self, host: &str) -> Option<Found<'_>> {
        match self.hosts.get(host) {
            Some(Host::Site(site)) => Some(Found::Site(site)),
            Some(Host::Alias(site)) => Some(Found::Alias(site)),
            None => self.default.as_ref().map(Found::Site),
        }
    }

    /// The site that has the name `host`, leaving out the one that answers for unknown hosts.
    #[must_use]
    pub fn named(&self, host: &str) -> Option<&Arc<Site>> {
        match self.hosts.get(host)? {
            Host::Site(site) | Host::Alias(site) => Some(site),
        }
    }

    /// The site that answers for unknown hosts.
    #[must_use]
    pub fn default_site(&self) -> Option<&Arc<Site>> {
        self.default.as_ref()
    }

    /// Whether this client may purge by its address. Endpoints by name (`dns+`) may while the name has that address.
    #[must_use]
    pub fn may_purge(&self, client: ClientAddr) -> bool {
        let purgers = &self.cache.purgers;
        acl::contains(&purgers.networks, client.0)
            || purgers.named && self.upstreams.values().any(|upstream| upstream.has_named(client.0))
    }

    /// All sites.
    #[must_use]
    pub fn sites(&self) -> &[Arc<Site>] {
        &self.all
    }
}

impl CachePolicy {
    /// What `client` is told of what the cache did: the value of Cache-Status.
    #[must_use]
    pub fn told(&self, status: &CacheStatus, client: ClientAddr) -> Option<HeaderValue> {
        if !self.tell {
            return None;
        }
        let all = status.detail_word().is_none() || acl::contains(&self.tell_why, client.0);
        Some(if all { status.value() } else { status.without_detail().value() })
    }
}

impl Site {
    /// Who answers requests for `path`.
    #[must_use]
    pub fn upstream_of(&self, path: &str) -> &Arc<Upstream> {
        self.frontend.as_ref().filter(|_| !is_for_plone(path)).unwrap_or(&self.upstream)
    }

    /// Whether that is where its Zopes are, and not what makes pages beside them.
    #[must_use]
    pub fn is_zopes(&self, upstream: &Arc<Upstream>) -> bool {
        Arc::ptr_eq(upstream, &self.upstream)
    }

    /// Whether any cookie but those of analytics shows an identity.
    #[must_use]
    pub fn any_cookie(&self) -> bool {
        self.preset == Preset::Plain && !self.believed
    }

    /// The rule for such a request.
    #[must_use]
    pub fn rule(&self, method: &Method, path: &str, identity: Identity) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.matches(method, path, identity))
    }

    /// How answers to requests under this rule are treated.
    #[must_use]
    pub fn conduct(&self, rule: Option<&Rule>) -> Conduct {
        let order = rule.and_then(|rule| rule.order);
        Conduct { preset: self.preset, order, verify: self.verify, missing: self.missing }
    }

    /// The scheme that visitors see who came by TLS or not.
    #[must_use]
    pub fn seen_scheme(&self, tls: bool) -> &'static str {
        self.scheme.unwrap_or(if tls { "https" } else { "http" })
    }

    /// The most bytes of a body that is sent to `path`.
    #[must_use]
    pub fn body_max(&self, path: &str) -> u64 {
        self.body_rules.iter().find(|(pattern, _)| pattern.matches(path)).map_or(self.body_max, |(_, max)| *max)
    }

    /// Adds to an answer what visitors are told besides; what the origin said itself stays.
    pub fn dress(&self, headers: &mut HeaderMap, scheme: &str) {
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        // RFC 6797 7.2: never without TLS.
        if let Some(value) = self.hsts.as_ref().filter(|_| scheme == "https") {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| value.clone());
        }
    }
}

/// Does with a checked configuration everything that can fail or take long: certificates are read, names resolved. Nothing
/// is changed by it; that happens in [`Compiled::put_in_force`], which does neither and can be repeated.
///
/// # Errors
/// What only the machine can tell: certificates and lists that cannot be used.
pub fn compile(config: Config, house: &House) -> Result<Compiled, Vec<String>> {
    let (secured, lists, tokens) = read_files(&config, house)?;
    let purge = purge_networks(&config);
    Ok(Compiled { config, secured, lists, purge, tokens })
}

/// What keeps a checked configuration from being put in force by whoever asks, on this machine: certificates, keys, lists and
/// tokens that cannot be used. Empty, if nothing does.
#[must_use]
pub fn lacking(config: &Config) -> Vec<String> {
    match House::offline() {
        Ok(house) => read_files(config, &house).err().unwrap_or_default(),
        Err(problem) => vec![problem],
    }
}

fn read_files(config: &Config, house: &House) -> Result<(Secured, Lists, Tokens), Vec<String>> {
    let tokens = purge_tokens(config).map_err(|problem| vec![problem]);
    match (secure::secure(config, house), lists::read(config), tokens) {
        (Ok(secured), Ok(lists), Ok(tokens)) => Ok((secured, lists, tokens)),
        (secured, lists, tokens) => {
            Err([secured.err(), lists.err(), tokens.err()].into_iter().flatten().flatten().collect())
        }
    }
}

/// A configuration that has passed every test.
pub struct Compiled {
    config: Config,
    secured: Secured,
    lists: Lists,
    purge: Vec<IpNet>,
    tokens: Tokens,
}

impl Compiled {
    /// Where it wants to listen.
    #[must_use]
    pub fn places(&self) -> Vec<(SocketAddr, bool)> {
        self.config.listens().iter().map(|listen| (listen.addr, listen.tls)).collect()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Installs the upstreams' plans and gives the snapshot that goes with them. Neither fails nor waits, so a set can be
    /// switched while certificates are being replaced or no name resolves.
    #[must_use]
    pub fn put_in_force(&self, choices: &Choices, house: &House) -> Snapshot {
        let config = &self.config;
        let limits = limits::limits(config, house);
        let mut upstreams: BTreeMap<UpstreamName, Arc<Upstream>> = BTreeMap::new();
        for (name, upstream) in &config.upstream {
            let active = choices.sets.get(name).cloned().or_else(|| upstream.active_set());
            let secure = self.secured.upstreams.get(name);
            if let Some(plan) = plan(name.clone(), upstream, active, secure) {
                upstreams.insert(name.clone(), house.upstreams.install(plan));
            }
        }
        let identity_cookies = Arc::new(config.cache.identity_cookies.clone());
        let mut all = Vec::new();
        let mut hosts = HashMap::default();
        let mut default = None;
        for (name, site) in &config.site {
            let Some(upstream) = self.site_upstream(name, site, house, &mut upstreams) else { continue };
            let frontend = site.frontend.as_ref().and_then(|frontend| upstreams.get(frontend).cloned());
            let compiled =
                Arc::new(Site { frontend, ..self.site(name, site, upstream, &limits, &identity_cookies, house) });
            hosts.insert(name.to_string(), Host::Site(Arc::clone(&compiled)));
            for alias in &site.aliases {
                hosts.insert(alias.as_str().to_lowercase(), Host::Alias(Arc::clone(&compiled)));
            }
            if site.default {
                default = Some(Arc::clone(&compiled));
            }
            all.push(compiled);
        }
        let places = self.places();
        let https_port = places.iter().find(|(_, tls)| *tls).map(|(addr, _)| addr.port());
        Snapshot {
            server: Server {
                places,
                trusted: config.server.trusted.clone(),
                proxy_protocol: config.server.proxy_protocol,
                deny: Arc::clone(&self.lists.deny),
                spool: config.server.spool.clone(),
                h2c: config.server.h2c,
                redirect_https: config.server.redirect_https,
                https_port,
                limits: config.server.limits.clone(),
            },
            tls: self.secured.server.clone(),
            certificates: self.secured.until.clone(),
            acme: self.secured.acme.clone(),
            live: Arc::clone(&house.live),
            cache: cache_policy(&config.cache, self.purge.clone(), self.tokens.clone()),
            upstreams,
            scales: limits.values().find(|limit| limit.name.as_str() == SCALES_LIMIT).cloned(),
            limits: limits.into_values().collect(),
            hosts,
            default,
            all,
        }
    }

    fn site(
        &self,
        name: &SiteName,
        site: &settings::Site,
        upstream: Arc<Upstream>,
        limits: &BTreeMap<LimitName, Arc<Limit>>,
        identity_cookies: &Arc<Vec<String>>,
        house: &House,
    ) -> Site {
        let config = &self.config;
        let doorkeeper = self.lists.sites.get(name).cloned().unwrap_or_default();
        let standing = upstream.standing();
        Site {
            classes: Arc::clone(&standing.plan.classes),
            way: standing.plan.way.clone(),
            name: name.clone(),
            preset: preset(site.preset),
            zope: site.zope.as_deref().and_then(|root| VirtualHost::parse(root).ok()),
            scheme: match site.scheme {
                values::Scheme::Auto => None,
                values::Scheme::Http => Some("http"),
                values::Scheme::Https => Some("https"),
            },
            upstream,
            frontend: None,
            cache: site.cache,
            codings: codings(&site.compress),
            verify: site.verify.unwrap_or(config.cache.verify) == values::Verify::PloneEtag,
            missing: config.cache.missing_ttl,
            rules: site.rule.iter().enumerate().map(|(at, rule)| Arc::new(Rule::new(at, rule))).collect(),
            limits: site.limits.iter().filter_map(|limit| limits.get(limit).cloned()).collect(),
            doorkeeper,
            body_max: site.body.unwrap_or(config.server.limits.body).0,
            body_rules: site.body_for.iter().map(|rule| (rule.path.clone(), rule.max.0)).collect(),
            headers: site.headers.iter().map(|(name, value)| (name.0.clone(), value.0.clone())).collect(),
            hsts: hsts(site),
            identity_cookies: Arc::clone(identity_cookies),
            believed: site.preset == values::Preset::Plain && config.cache.trust_origin,
            terms: Tag::named(digest::of(name, site, &config.cache).as_bytes()).value(),
            metrics: house.metrics.site(name),
        }
    }

    fn site_upstream(
        &self,
        name: &SiteName,
        site: &settings::Site,
        house: &House,
        upstreams: &mut BTreeMap<UpstreamName, Arc<Upstream>>,
    ) -> Option<Arc<Upstream>> {
        match site.upstream.as_ref()? {
            values::UpstreamRef::Name(upstream) => upstreams.get(upstream).cloned(),
            values::UpstreamRef::Inline(endpoints) => {
                let settings = settings::Upstream { servers: endpoints.clone(), ..settings::Upstream::default() };
                let name = UpstreamName::parse(name.as_str()).ok()?;
                let plan = plan(name.clone(), &settings, settings.active_set(), self.secured.upstreams.get(&name))?;
                let upstream = house.upstreams.install(plan);
                upstreams.insert(name, Arc::clone(&upstream));
                Some(upstream)
            }
        }
    }
}

fn codings(named: &[values::Coding]) -> Offer {
    let coding = |named: &values::Coding| match named {
        values::Coding::Zstd => Coding::Zstd,
        values::Coding::Br => Coding::Br,
        values::Coding::Gzip => Coding::Gzip,
    };
    Offer::of(&named.iter().map(coding).collect::<Vec<_>>())
}

fn preset(preset: values::Preset) -> Preset {
    match preset {
        values::Preset::Plain => Preset::Plain,
        values::Preset::Zope => Preset::Zope,
        values::Preset::PloneClassic => Preset::PloneClassic,
        values::Preset::PloneVolto => Preset::PloneVolto,
    }
}

fn hsts(site: &settings::Site) -> Option<HeaderValue> {
    if site.hsts.is_zero() {
        return None;
    }
    let below = if site.hsts_subdomains { "; includeSubDomains" } else { "" };
    HeaderValue::try_from(format!("max-age={}{below}", site.hsts.as_secs())).ok()
}

fn plan(
    name: UpstreamName,
    settings: &settings::Upstream,
    active: Option<SetName>,
    secure: Option<&Secure>,
) -> Option<Plan> {
    let sets = settings
        .sets()
        .into_iter()
        .map(|(name, endpoints)| upstream::SetPlan { name, servers: endpoints.into_iter().map(server).collect() })
        .collect();
    let check = &settings.check;
    Some(Plan {
        name,
        sets,
        active: active?,
        threads: settings.threads as usize,
        balance: match settings.balance {
            values::Balance::LeastBusy => upstream::Balance::LeastBusy,
            values::Balance::RoundRobin => upstream::Balance::RoundRobin,
            values::Balance::RandomTwo => upstream::Balance::RandomTwo,
            values::Balance::PathHash => upstream::Balance::PathHash,
        },
        pin: settings.pin,
        queue_max: settings.queue.max as usize,
        queue_wait: settings.queue.wait,
        per_client: settings.queue.per_client as usize,
        scales: settings.queue.scales.map(|most| most.max(1) as usize),
        hold: settings.queue.hold,
        classes: Arc::new(upstream::Classes {
            rules: settings.queue.classes.clone(),
            robots: settings.queue.background.iter().map(|word| word.to_ascii_lowercase()).collect(),
        }),
        way: settings.sticky.as_deref().map(Into::into),
        warmup: upstream::Warmup {
            paths: settings.warmup.paths.clone(),
            until: settings.warmup.until,
            at_most: settings.warmup.at_most,
            ramp: settings.warmup.ramp,
        },
        timeouts: upstream::Timeouts {
            connect: settings.timeout.connect,
            first_byte: settings.timeout.first_byte,
            between_bytes: settings.timeout.between_bytes,
            rate_min: settings.timeout.rate_min.0,
        },
        idle: settings.idle,
        buffer: settings.buffer.0,
        storage: settings.storage.clone(),
        secure: secure.cloned(),
        storage_lag: match settings.storage_lag {
            values::Switchable::On(lag) => Some(lag),
            values::Switchable::Off => None,
        },
        storage_commit_max: Some(settings.storage_commit_max).filter(|max| !max.is_zero()),
        storage_clients: settings.storage_clients,
        resolver: settings.resolver.clone(),
        check: upstream::Check {
            kind: match check.kind {
                values::CheckKind::Http => upstream::CheckKind::Http { path: check.path.clone() },
                values::CheckKind::Tcp => upstream::CheckKind::Tcp,
                values::CheckKind::Off => upstream::CheckKind::Off,
            },
            every: check.every,
            timeout: check.timeout,
            rise: check.rise,
            fall: check.fall,
            stuck: check.stuck,
            rest: check.rest,
        },
        retry_max: settings.retries,
        retry_503: settings.retry_503,
    })
}

fn server(server: values::Server) -> upstream::ServerPlan {
    let values::Server { addr, weight, backup, by_name } = server;
    upstream::ServerPlan { addr, weight, backup, by_name }
}

fn cache_policy(cache: &settings::Cache, purge: Vec<IpNet>, purge_tokens: Tokens) -> CachePolicy {
    CachePolicy {
        bounds: Bounds {
            heuristic_max: cache.heuristic,
            grace_revalidate: cache.grace_revalidate,
            grace_error: cache.grace_error,
            override_must_revalidate: cache.override_must_revalidate,
            error_ttl_max: cache.error_ttl_max,
            trust_origin: cache.trust_origin,
        },
        object_max: cache.object_max.0,
        honour_client: cache.client_cache_control == values::ClientCacheControl::Honour,
        tell: cache.status,
        tell_why: cache.status_detail.clone(),
        hide_shared: cache.hide_s_maxage,
        purgers: Purgers { networks: purge, named: cache.purge_allow == values::PurgeAllow::Upstreams },
        purge_tokens,
        purge_mode: if cache.purge_soft { Mode::Soft } else { Mode::Hard },
        tags: Names::from(cache.tags.iter().map(|name| name.0.clone()).collect::<Vec<_>>()),
        query: Respelling { sort: cache.query_sort, drop: cache.query_drop.clone() },
        compress_min: cache.compress_min.0,
    }
}

fn purge_tokens(config: &Config) -> Result<Tokens, String> {
    let Some(path) = &config.cache.purge_token_file else { return Ok(Tokens::default()) };
    let wrong = |why: &str| format!("the file of `cache.purge_token_file`, {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    Tokens::parse(&text).map_err(|why| wrong(&why))
}

/// The networks that may purge. Endpoints given by a plain name are resolved here, once per configuration; what does not
/// resolve now may not purge. Those that are looked up again and again (`dns+`) are left to [`Snapshot::may_purge`].
fn purge_networks(config: &Config) -> Vec<IpNet> {
    if let values::PurgeAllow::Networks(networks) = &config.cache.purge_allow {
        return networks.clone();
    }
    let named = config.upstream.values().flat_map(|upstream| upstream.sets().into_values().flatten());
    let inline = config.site.values().filter_map(|site| match &site.upstream {
        Some(values::UpstreamRef::Inline(endpoints)) => Some(endpoints.clone()),
        _ => None,
    });
    let lasting = named.chain(inline.flatten()).filter(|server| !server.by_name);
    let endpoints: BTreeSet<OriginAddr> = lasting.map(|server| server.addr).collect();
    let networks: BTreeSet<IpNet> = endpoints.iter().flat_map(addresses).map(IpNet::from).collect();
    networks.into_iter().collect()
}

fn addresses(endpoint: &OriginAddr) -> Vec<IpAddr> {
    use std::net::ToSocketAddrs;
    match endpoint.host().parse() {
        Ok(address) => vec![address],
        Err(_) => (endpoint.host(), endpoint.port())
            .to_socket_addrs()
            .map_or_else(|_| Vec::new(), |found| found.map(|addr| addr.ip().to_canonical()).collect()),
    }
}
