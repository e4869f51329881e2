//! Every setting: its meaning, its unit, its default and why, what it goes with. `conf/reference.toml` is made from this.

use crate::config::decode::settings;
use crate::config::pair_settings::Heartbeat;
use crate::config::values::AccessFormat;
use crate::config::values::AcmeChallenge;
use crate::config::values::Balance;
use crate::config::values::BodyRule;
use crate::config::values::CheckKind;
use crate::config::values::ClientCacheControl;
use crate::config::values::Coding;
use crate::config::values::Cost;
use crate::config::values::FieldName;
use crate::config::values::FieldValue;
use crate::config::values::LimitKey;
use crate::config::values::Listen;
use crate::config::values::LogFormat;
use crate::config::values::LogLevel;
use crate::config::values::Memory;
use crate::config::values::Mode;
use crate::config::values::Over;
use crate::config::values::Preset;
use crate::config::values::ProxyProtocol;
use crate::config::values::PurgeAllow;
use crate::config::values::QueueClass;
use crate::config::values::Rate;
use crate::config::values::Scheme;
use crate::config::values::Server as Endpoint;
use crate::config::values::Switchable;
use crate::config::values::TlsMin;
use crate::config::values::UpstreamRef;
use crate::config::values::Verify;
use crate::semantics::pattern::Pattern;
use crate::units::ByteSize;
use crate::units::LimitName;
use crate::units::OriginAddr;
use crate::units::SetName;
use crate::units::SiteName;
use crate::units::UpstreamName;
use crate::upstream::machine::class::Rule as ClassRule;
use http::HeaderName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

settings! {
    /// The whole file.
    Config {
        /// The version of this format: 1. Required, so that a later tidegate knows what an old file meant.
        version: Option<u32> = None,
        /// Listeners and their bounds.
        server: Server = Server::default(),
        /// TLS towards visitors.
        tls: Tls = Tls::default(),
        /// The cache.
        cache: Cache = Cache::default(),
        /// The sites, each by its canonical host name. A request for any other host is answered 421.
        site: BTreeMap<SiteName, Site> = BTreeMap::new(),
        /// Named groups of Zope processes.
        upstream: BTreeMap<UpstreamName, Upstream> = BTreeMap::new(),
        /// Rate limits by name. Two are there without being written; writing them changes them: `per-client`, and `scales`
        /// (120/min, burst 240), which counts scales of images (`/@@images/`) that are not stored, of every site: there is
        /// no end to them, and each keeps a thread busy for long.
        limit: BTreeMap<LimitName, Limit> = BTreeMap::new(),
        /// The storage pair: two members of which one serves, and the witnesses between them. A tidegate with its own name
        /// among them takes part; without `node` there is no pair. Read at the start only.
        heartbeat: Heartbeat = Heartbeat::default(),
        /// The admin listener. Read at the start only.
        admin: Admin = Admin::default(),
        /// The diary (standard error) and the access log. Read at the start only.
        log: Log = Log::default(),
    }
}

settings! {
    /// Listeners and their bounds.
    Server {
        /// Where visitors come in: "ADDR:PORT" speaks HTTP, "https://ADDR:PORT" speaks TLS. `[::]` takes IPv4 as well.
        /// Without it `"[::]:80"`, and with certificates also `"https://[::]:443"`.
        listen: Vec<Listen> = Vec::new(),
        /// The user that tidegate becomes when it is started as root, such as "www-data". Of root's powers it keeps only that
        /// of listening at ports below 1024, and files are read as this user: certificates' keys, too. Without it nothing
        /// is changed. A member of the pair, whose scripts need root, may not have it; a witness may. Read at the start only.
        user: Option<String> = None,
        /// His group, if not the one that he has; the groups that he is a member of are kept. Read at the start only.
        group: Option<String> = None,
        /// Threads that serve visitors; 0 is one for each core. Read at the start only.
        workers: u32 = 0,
        /// Speak HTTP/2 without TLS to clients that begin with it (prior knowledge). Off: few need it.
        h2c: bool = false,
        /// Networks of proxies in front of us whose X-Forwarded-For is believed, and who are not bound by `limits.per_client`.
        /// Nobody, unless named.
        trusted: Vec<IpNet> = Vec::new(),
        /// Whether `trusted` proxies say by the PROXY protocol (version 1 or 2) whose connections they bring: "off",
        /// "optional" or "required"; required, connections from elsewhere are closed. Holds for all listeners.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off,
        /// Networks that are turned away: their connections are closed at once, and behind a trusted proxy they get 403.
        deny: Vec<IpNet> = Vec::new(),
        /// Files with more of them, one in a line, `#` for comments. Read again at every reload.
        deny_files: Vec<PathBuf> = Vec::new(),
        /// Answer 308 to https on HTTP listeners when there is a TLS listener.
        redirect_https: bool = true,
        /// Where uploads of more than 64 KiB are kept until they are whole, for only then they get a thread. Where it cannot
        /// be written they are passed on as they come.
        spool: PathBuf = PathBuf::from("/var/tmp"),
        /// How long requests under way may take to finish when tidegate is told to stop.
        drain: Duration = seconds(30),
        /// What a client may take up.
        limits: Limits = Limits::default(),
    }
}

settings! {
    /// What a client may take up.
    Limits {
        /// Open client connections in all; more are closed at once. Each that idles costs 12 to 14 KiB,
        /// with TLS 20 to 22 KiB.
        connections: u32 = 20_000,
        /// Open connections from one address (IPv6: one /64).
        per_client: u32 = 200,
        /// Bytes of a request's head; 8KiB or more. Above: 431.
        header_bytes: ByteSize = ByteSize(32 * ByteSize::KIB),
        /// Fields of a request's head. Above: 431.
        headers: u32 = 100,
        /// Bytes of a request's path and query, at most 60KiB. Above: 414.
        target_bytes: ByteSize = ByteSize(8 * ByteSize::KIB),
        /// From the connection to its first byte.
        first_byte: Duration = seconds(10),
        /// From the first byte of a head to its last.
        head: Duration = seconds(10),
        /// Between two requests on one connection.
        idle: Duration = seconds(60),
        /// For the TLS handshake.
        handshake: Duration = seconds(5),
        /// Bytes of a request's body; a site may differ. Above: 413.
        body: ByteSize = ByteSize(100 * ByteSize::MIB),
        /// Bytes of all uploads that are being taken in. Above: 503.
        spool: ByteSize = ByteSize(ByteSize::GIB),
        /// The longest pause in a request's body. Above: 408.
        body_idle: Duration = seconds(30),
        /// How long a client may not read what it asked for before its connection is closed.
        write_idle: Duration = seconds(30),
        /// The least bytes per second at which a client sends a body, and takes an answer. Only the time counts that we wait
        /// for it; `body_idle` and `write_idle` are what a slower one gets in all. "0B" is off.
        rate_min: ByteSize = ByteSize(256),
        /// Concurrent requests on one HTTP/2 connection.
        h2_streams: u32 = 100,
        /// Memory of this process (resident, and the sockets of its control group): a size, a share of what it may use, or
        /// "off". At nine tenths of it idle connections are closed; at 97 % new ones are, too, what is not stored is answered
        /// 503, and the cache forgets a quarter. At least a third more than `cache.memory`.
        memory: Switchable<Memory> = Switchable::On(Memory::Percent(90)),
    }
}

settings! {
    /// TLS towards visitors.
    Tls {
        /// Certificates, chosen by the name that a visitor asks for (SNI); the first serves who asks for none.
        /// Each is `{ cert = "PATH", key_file = "PATH" }`, PEM, leaf first. Of several for one name the first is taken whose
        /// key the visitor can verify: ECDSA before RSA. Read again at every reload.
        certs: Vec<CertPair> = Vec::new(),
        /// The lowest version: "1.2" or "1.3".
        min: TlsMin = TlsMin::Tls12,
        /// Certificates from an authority.
        acme: Acme = Acme::default(),
    }
}

settings! {
    /// Certificates from an authority by ACME (RFC 8555): one for each name and alias of a site that has a dot in it and no
    /// certificate in `tls.certs`. Until the first is there a placeholder is shown, which browsers warn of.
    Acme {
        /// To whom the authority may write. Naming somebody switches this on, and agrees to the authority's terms.
        email: Option<String> = None,
        /// The authority's directory.
        directory: String = "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
        /// How the authority is shown that a name is ours: "tls-alpn-01" (at port 443), "http-01" (at port 80), or "auto" (the
        /// one, and if that fails the other). The name must lead here.
        challenge: AcmeChallenge = AcmeChallenge::Auto,
        /// Where account and certificates are kept, each for tidegate's user alone.
        store: PathBuf = PathBuf::from("/var/lib/tidegate/acme"),
        /// Whom the authority's own certificate is signed by, PEM. Without it the system's authorities.
        ca_file: Option<PathBuf> = None,
        /// The account that the authority knows us by, if it wants one (external account binding); with `external_key_file`.
        external_kid: Option<String> = None,
        /// Its key, base64url; a file that everybody on the machine may read is refused.
        external_key_file: Option<PathBuf> = None,
    }
}

settings! {
    /// One certificate.
    CertPair {
        /// The chain, leaf first, PEM.
        cert: PathBuf = PathBuf::new(),
        /// Its private key, PEM; a file that everybody on the machine may read is refused.
        key_file: PathBuf = PathBuf::new(),
        /// What its authority says of it now (OCSP, DER), to be stapled to it. Renew the file and reload.
        ocsp_file: Option<PathBuf> = None,
    }
}

settings! {
    /// The cache.
    Cache {
        /// Memory for stored responses, everything counted: a size, or a share of the memory that this process may use
        /// (its control group's limit). Read at the start only.
        memory: Memory = Memory::Bytes(ByteSize(256 * ByteSize::MIB)),
        /// The largest body that is stored; a larger one still reaches its reader. At most a quarter of `memory`.
        object_max: ByteSize = ByteSize(8 * ByteSize::MIB),
        /// A directory of tidegate's own, in which what is stored is kept as well: it survives a restart and may be larger
        /// than memory. It is made if it is not there, for tidegate's user alone. Not on a network file system. Read at the
        /// start only.
        disk: Option<PathBuf> = None,
        /// The most bytes of all files there, at least "64MiB" and twice `memory`. A sixteenth of `memory` then tells what lies
        /// where: enough for 400,000 URLs with "256MiB". Read at the start only.
        disk_size: ByteSize = ByteSize(4096 * ByteSize::MIB),
        /// The smallest text that is compressed (`site.compress`): what fits into a packet gains nothing. From "256B" on.
        compress_min: ByteSize = ByteSize(ByteSize::KIB),
        /// Variants (Vary) that are stored of one URL. Read at the start only.
        variants: u32 = 16,
        /// The most that a response's own stale-while-revalidate (RFC 5861 3) counts for.
        grace_revalidate: Duration = seconds(3600),
        /// How long a stale response is served when its upstream fails, unless it says less itself.
        grace_error: Duration = seconds(86_400),
        /// Serve stale even what says must-revalidate, proxy-revalidate or s-maxage. Against RFC 9111 4.2.4; Plone marks
        /// files and images so.
        override_must_revalidate: bool = false,
        /// The longest lifetime that is guessed for responses that name none (RFC 9111 4.2.2); "0s" guesses never.
        heuristic: Duration = Duration::ZERO,
        /// The longest lifetime of anything but 200, 203, 301 and 308. Plone sends a 404 with the lifetime of a page.
        error_ttl_max: Duration = seconds(60),
        /// How long a 404 or 410 is kept that says nothing about it, at most `error_ttl_max`; "0s": not at all. With "10s" a Zope
        /// renders what is missing, for broken links and robots, once in ten seconds instead of each time. Not as shipped, for
        /// Plone purges nothing when something is added: it is seen at once if it was added through us, else after that time.
        missing_ttl: Duration = Duration::ZERO,
        /// Believe the origin where RFC 9111 lets a cache do so: store any status and answers that set cookies, if they say how
        /// long; let a 304 change the type of what is stored and its cookies. Of a `plain` site also: cookies are nobody's unless
        /// they are named in `identity_cookies`, and what was asked for with Authorization is for all if it says so (RFC 9111
        /// 3.5). The origin is told that Surrogate-Control is minded. Not for Zope, whose errors come with the fields of success.
        trust_origin: bool = false,
        /// Tell visitors `s-maxage=0` whatever the origin says, and nothing of proxy-revalidate: caches in front of us hear of
        /// no purge. What is meant for a CDN there is said in CDN-Cache-Control, which is passed on.
        hide_s_maxage: bool = true,
        /// Whether a visitor's Cache-Control is minded: "ignore", or "honour" (RFC 9111 5.2.1). Ignored, no visitor can
        /// order renderings by pressing reload.
        client_cache_control: ClientCacheControl = ClientCacheControl::Ignore,
        /// Sort the variables of a query by name, so that equal ones are stored once. Queries that tell Zope types
        /// (`x:list`) are left as they are.
        query_sort: bool = true,
        /// Variables that are dropped from queries of requests that may be answered from the cache (`*` at the end: any
        /// ending). The origin does not get them either.
        query_drop: Vec<String> = words(&["utm_*", "fbclid", "gclid", "gbraid", "wbraid", "msclkid", "mc_cid", "mc_eid", "_gl"]),
        /// Keep what Plone calls private if its entity tag says that it was rendered for nobody ("plone-etag"), ask about it
        /// each time, and answer equal questions with one: one rendering after each change, and conditional requests
        /// otherwise. Against RFC 9111 5.2.2.7, by proof that the page is the same for all who are not logged in. "off": no.
        verify: Verify = Verify::Off,
        /// Cookies besides Zope's and Plone's own that show who asks: requests with one are never answered from the cache. Where
        /// Plone's visitors choose their language by a cookie and not by the URL, `I18N_LANGUAGE` belongs here.
        identity_cookies: Vec<String> = Vec::new(),
        /// Who may send PURGE: "upstreams" (the addresses of all endpoints; of one by name those of when the configuration was
        /// read, of a "dns+" one those that the name has at present), or a list of networks.
        purge_allow: PurgeAllow = PurgeAllow::Upstreams,
        /// A file of tokens, one in a line, each of 16 characters or more: who shows one may send PURGE from anywhere, with
        /// `Authorization: Bearer TOKEN` or `X-Purge-Token: TOKEN`. Read again at every reload.
        purge_token_file: Option<PathBuf> = None,
        /// Whether a purge that does not say so is soft: what it names is stale from then on instead of gone, and may still
        /// be served while it is refreshed or when the upstream fails.
        purge_soft: bool = false,
        /// Fields in which answers name their tags, by which they can be purged. They are not passed on to visitors, except
        /// Cache-Groups (RFC 9875).
        tags: Vec<FieldName> = tag_fields(),
        /// Tell visitors in the field Cache-Status (RFC 9211) what the cache did.
        status: bool = true,
        /// Networks whose clients are told there besides why, in a word of ours (`detail=identity`). The access log has it for
        /// all.
        status_detail: Vec<IpNet> = loopback(),
    }
}

fn loopback() -> Vec<IpNet> {
    vec![IpAddr::V4(Ipv4Addr::LOCALHOST).into(), IpAddr::V6(Ipv6Addr::LOCALHOST).into()]
}

fn tag_fields() -> Vec<FieldName> {
    ["x-ids-involved", "xkey", "surrogate-key", "cache-tag", "cache-groups"]
        .map(|name| FieldName(HeaderName::from_static(name)))
        .to_vec()
}

settings! {
    /// One site.
    Site {
        /// Other host names of this site; they are answered 308 to the canonical one.
        aliases: Vec<SiteName> = Vec::new(),
        /// Answer requests for any host that no site has. One site at most.
        default: bool = false,
        /// What is behind it, and so which spellings of a URL mean the same object: "plone-classic", "plone-volto"
        /// (`/a`, `/a/`, `/a/view` and `/++api++/a`), "zope" (`/a` and `/a/`), or "plain" (none:
        /// nothing is known of it, so any cookie shows who asks, and any method is passed on).
        preset: Preset = Preset::Zope,
        /// The place in the ZODB that visitors see as `/`, such as "/Plone", or "/" for the application's root: requests are
        /// rewritten for VirtualHostMonster. Without it paths reach the upstream as they are.
        zope: Option<String> = None,
        /// The scheme that visitors see: "auto" (as the listener), or "https" when TLS ends before us.
        scheme: Scheme = Scheme::Auto,
        /// Its upstream: a name, or a list of endpoints. Required.
        upstream: Option<UpstreamRef> = None,
        /// The name of another upstream that makes the pages, such as Volto beside Plone. It gets what does not go to
        /// `upstream`: that has the API (`/++api++/...`) and what only Plone can show (`@@images`, `@@download`,
        /// `@@display-file`, `@@portrait`, `@@site-logo`, `@portrait`). Its paths are not rewritten.
        frontend: Option<UpstreamName> = None,
        /// Answer from the cache what may be answered from it.
        cache: bool = true,
        /// In which codings texts are sent to those who accept them, the best liked first: "zstd", "br", "gzip". Each is made
        /// once, after the response was stored; until then, for parts, and with `[]` always, it is sent as the origin did.
        /// Only what is stored is coded, so nothing that is secret (BREACH).
        compress: Vec<Coding> = vec![Coding::Zstd, Coding::Br, Coding::Gzip],
        /// As `cache.verify`, for this site.
        verify: Option<Verify> = None,
        /// What is done otherwise for some requests: which (`path`, `method`, `anonymous`), and what (the other keys). The first
        /// that matches counts.
        rule: Vec<Rule> = Vec::new(),
        /// The rate limits that apply, by name.
        limits: Vec<LimitName> = LimitName::parse("per-client").into_iter().collect(),
        /// Networks that may see this site; without them and `allow_files` everybody. Others are answered 403.
        allow: Vec<IpNet> = Vec::new(),
        /// Files with more of them, one in a line, `#` for comments. Read again at every reload.
        allow_files: Vec<PathBuf> = Vec::new(),
        /// Networks that may not see this site, even if it is allowed to them.
        deny: Vec<IpNet> = Vec::new(),
        /// Files with more of them.
        deny_files: Vec<PathBuf> = Vec::new(),
        /// How long browsers shall remember to come by TLS only (Strict-Transport-Security), such as "180d"; "0s" says
        /// nothing. Hard to take back: begin with "5min".
        hsts: Duration = Duration::ZERO,
        /// Whether that holds for all names below this one, too.
        hsts_subdomains: bool = false,
        /// Fields that each answer gets unless the origin set them, such as
        /// `{ x-content-type-options = "nosniff", referrer-policy = "strict-origin-when-cross-origin" }`.
        headers: BTreeMap<FieldName, FieldValue> = BTreeMap::new(),
        /// Bytes of a request's body, if not as `server.limits.body`.
        body: Option<ByteSize> = None,
        /// The same by path, each "PATH SIZE", such as ["/uploads/** 1GiB", "** 1MiB"]; the first that matches counts.
        body_for: Vec<BodyRule> = Vec::new(),
    }
}

settings! {
    /// What is done otherwise for some requests of a site.
    Rule {
        /// Paths as visitors write them, such as `["/intranet/**", "**/@@search"]`: `*` stays within a segment, `**` does
        /// not. Empty: all.
        path: Vec<Pattern> = Vec::new(),
        /// Methods. Empty: all.
        method: Vec<String> = Vec::new(),
        /// `true`: only of those who show no identity; `false`: only of those who do.
        anonymous: Option<bool> = None,
        /// Networks from which it is allowed; others get 403. Empty: all.
        allow: Vec<IpNet> = Vec::new(),
        /// Answer from the cache what may be answered from it.
        cache: bool = true,
        /// How long answers to anonymous requests are fresh, whatever they say, except no-store.
        ttl: Option<Duration> = None,
        /// How long after that they are served while they are refreshed, or when the upstream fails.
        stale: Option<Duration> = None,
        /// When the request leaves the queue: as that of an "editor", "anonymous" or "background".
        class: Option<QueueClass> = None,
    }
}

settings! {
    /// A named group of Zope processes.
    Upstream {
        /// Requests in flight at one endpoint, never more: waitress's `threads`. What comes besides waits here, not there.
        threads: u32 = 4,
        /// The endpoints, each "HOST:PORT" ("https://HOST:PORT" if it speaks TLS), if wanted with ` weight=N` (its share of the
        /// load, 1 to 100) and ` backup` (used only while no other works). "dns+NAME:PORT" is looked up again whenever the
        /// answer expires, and every address of the name is an endpoint. Either this or `set`.
        servers: Vec<Endpoint> = Vec::new(),
        /// Alternative sets of endpoints by name, such as `primary = ["HOST:PORT"]`, of which one serves.
        set: BTreeMap<SetName, Vec<Endpoint>> = BTreeMap::new(),
        /// The set that serves; `tidegate use` changes it without a reload. Required with `set`.
        active: Option<SetName> = None,
        /// Name servers for "dns+" endpoints, each "ADDR:PORT"; empty: those of /etc/resolv.conf.
        resolver: Vec<SocketAddr> = Vec::new(),
        /// How an endpoint is chosen among those with a thread free: "least-busy", "round-robin", "random-2" (the less busy
        /// of two) or "path-hash" (equal paths to the same endpoint, whose object cache is warm for them, unless it is
        /// much busier than the others).
        balance: Balance = Balance::LeastBusy,
        /// After a request that may have written, its client's next ones go to the same endpoint for so long: the other
        /// ZEO clients may not have heard of the change yet. "0s" is off.
        pin: Duration = seconds(2),
        /// The name of a cookie that leads a client back to the endpoint that served it, for applications that keep something
        /// in the process. Without it no such cookie is set: Zope does not need it. It counts for what is not answered from
        /// the cache, and never reaches the endpoint.
        sticky: Option<String> = None,
        /// Who waits for a thread.
        queue: Queue = Queue::default(),
        /// What happens before an endpoint that was down gets its full share.
        warmup: Warmup = Warmup::default(),
        /// The bounds of a journey.
        timeout: Timeout = Timeout::default(),
        /// How long an idle connection is kept. Below waitress's `channel_timeout` (120 s); idle ones count against its
        /// `connection_limit` (100).
        idle: Duration = seconds(30),
        /// How many bytes of an answer for one client are read ahead of a slow reader, so that he does not hold a thread.
        buffer: ByteSize = ByteSize(2 * ByteSize::MIB),
        /// The ZEO servers behind these Zopes, each "HOST:PORT". They are asked as often as endpoints are checked; while none
        /// takes writes, requests wait (`queue.hold`) and what is stored is served stale: a Zope would hang with each.
        storage: Vec<OriginAddr> = Vec::new(),
        /// How endpoints that speak TLS are believed.
        tls: UpstreamTls = UpstreamTls::default(),
        /// Follow the storage pair of `heartbeat`: hold while it takes over (`queue.hold`), and where there is a set with the
        /// name of the member that serves, switch to that.
        pair: bool = false,
        /// How endpoints are checked.
        check: Check = Check::default(),
        /// How far the last transaction of a ZEO server that takes writes may be behind the newest that was seen of any; one
        /// that is further behind is refused, for it has lost changes. "off" takes whatever comes; `tidegate release` accepts
        /// what is there once.
        storage_lag: Switchable<Duration> = Switchable::On(Duration::ZERO),
        /// How long one commit may keep others waiting at a ZEO server before that is a warning, in the diary and in `tidegate
        /// status`; reads go on meanwhile, and nothing is held. A storage that a pair supervises is freed by `monitor.commit_max`. "0s":
        /// for ever.
        storage_commit_max: Duration = seconds(60),
        /// How many clients a ZEO server must have after an outage before requests are sent; they are waited for no longer
        /// than 15 s. The number of Zopes is a good choice; 0 does not wait.
        storage_clients: u32 = 0,
        /// How often a request that was certainly not sent, or may be repeated, is tried again elsewhere. 1 to 5.
        retries: u32 = 1,
        /// Whether a request that may be repeated (a read without a body) is tried elsewhere when an endpoint answers 503.
        retry_503: bool = false,
    }
}

settings! {
    /// How endpoints that speak TLS are believed. Their certificates are always verified.
    UpstreamTls {
        /// The authorities that sign their certificates, PEM. Without it the system's.
        ca_file: Option<PathBuf> = None,
        /// The name that their certificates must have. Without it the one in each endpoint's address.
        name: Option<String> = None,
        /// The certificate that we show when they ask who we are, PEM, leaf first; with `key_file`.
        cert: Option<PathBuf> = None,
        /// Its private key, PEM.
        key_file: Option<PathBuf> = None,
    }
}

settings! {
    /// Who waits for a thread.
    Queue {
        /// Requests that wait; more are answered 503 at once. Robots and refreshing get no more than half of the places, the
        /// last eighth is for editors.
        max: u32 = 400,
        /// The longest wait; then 503. Who would wait longer, by the measured time that requests take, is told so at once.
        wait: Duration = seconds(15),
        /// Requests of one client network (IPv4 address, IPv6 /56) that wait; more are answered 503 at once.
        per_client: u32 = 100,
        /// Scales of images (`@@images`) that are fetched for visitors at once, at all endpoints together; others wait for
        /// them, by the bounds above. Zope makes them, and each keeps one of its CPUs busy for long. Without it a quarter of
        /// all threads of the serving set, at least 1.
        scales: Option<u32> = None,
        /// While no endpoint is open, or the upstream is held, requests wait so long for one instead of failing at once;
        /// counted from the beginning of the outage, and so do those who stood in line already. What is stored is served
        /// stale meanwhile. When it ends in time, they wait for a thread as long as `wait` says, counted from there.
        hold: Duration = seconds(20),
        /// How urgent requests are, by the first rule that fits: "CLASS path PATTERN" (`*` stands for anything), "CLASS cookie
        /// NAME" or "CLASS agent WORD" (in User-Agent, in any case), where CLASS is editor, anonymous or background. Without
        /// one who is logged in is an editor. Classes share threads 8 to 4 to 1. Anybody can send a cookie.
        classes: Vec<ClassRule> = Vec::new(),
        /// Words in User-Agent (in any case) whose requests leave the line last.
        background: Vec<String> = words(&["bot", "crawl", "spider", "slurp", "archiver", "facebookexternalhit"]),
    }
}

settings! {
    /// What happens before an endpoint that was down gets its full share: a Zope that has just started has empty caches.
    Warmup {
        /// Paths that are fetched from it, one after the other and again, before it gets visitors.
        paths: Vec<String> = Vec::new(),
        /// It is warm when a round of all paths has no page slower than this.
        until: Duration = seconds(1),
        /// It gets visitors after this time in any case, and when nobody else has served for `queue.hold`.
        at_most: Duration = seconds(60),
        /// Its limit rises from 1 to `threads` in this time, while others can take the load.
        ramp: Duration = seconds(10),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

settings! {
    /// The bounds of a journey to an endpoint.
    Timeout {
        /// For name look-up and connection. Above: another endpoint, or 503.
        connect: Duration = seconds(2),
        /// From the request to the head of its answer. Above: 504. A Zope without its storage hangs for 150 s.
        first_byte: Duration = seconds(120),
        /// Between two pieces of the answer's body.
        between_bytes: Duration = seconds(30),
        /// The least bytes per second of the answer's body, counting only the time that we wait for it. One that is slower is
        /// broken off when we have waited ten times `between_bytes` in all: a dripping endpoint shall not keep its thread.
        /// "0B" is off.
        rate_min: ByteSize = ByteSize(64),
    }
}

settings! {
    /// How endpoints are checked.
    Check {
        /// "http" gets a page, "tcp" connects (a frozen process passes that), "off" relies on requests alone.
        kind: CheckKind = CheckKind::Http,
        /// The page; any status below 500 is good. Plone has "/@@ok"; without an application at hand "/" will do.
        path: String = "/".to_owned(),
        /// How often. While visitors wait because no endpoint is up, at least twice a second.
        every: Duration = seconds(5),
        /// How long an answer may take. A failed check counts only if no request was answered meanwhile: busy is not down.
        timeout: Duration = seconds(3),
        /// Good checks in a row after which an endpoint is up.
        rise: u32 = 2,
        /// Failed checks in a row after which it is down.
        fall: u32 = 3,
        /// Two requests without an answer for so long, while none is answered for as long, make an endpoint stuck: a Zope
        /// without its storage. It gets one request at a time beside those that hang, and where all are stuck stale is
        /// served. What holds a thread for longer is named in the diary and by `tidegate status`. Longer than the slowest page
        /// that visitors are to have; "0s" is off.
        stuck: Duration = seconds(20),
        /// How long an endpoint rests that stands out: half of its last answers are 500, 502, 503 or 504 and the others'
        /// are not, or they take four times as long. Longer each time; never more than half of the endpoints. "0s" is off.
        rest: Duration = seconds(10),
    }
}

settings! {
    /// A rate limit.
    Limit {
        /// What counts as one client: "ip/V4BITS,V6BITS" (so many bits of his address), "cookie/NAME" (the cookie's value;
        /// who has none counts by "ip/32,56"), or "all" (everybody together). A client who makes up cookies is a new one
        /// each time, so let a limit by address stand beside one by cookie.
        key: LimitKey = LimitKey::Network { v4_bits: 32, v6_bits: 56 },
        /// How many units are earned in a time: "N/s", "N/min", "N/h", or "off".
        rate: Switchable<Rate> = Switchable::On(Rate { count: 50, per: seconds(1) }),
        /// How many may be spent at once: a page of Plone with all its parts is about 60 requests.
        burst: u32 = 200,
        /// What a unit is: "request", or "origin-time": a second that a request kept an endpoint busy, charged when it is
        /// known; what the cache answers costs a thousandth. Who owes has to wait, up to 10 minutes.
        cost: Cost = Cost::Request,
        /// Only requests for these paths count, such as "**/@@search" or "/news/**" (`*` stays within a segment). Empty: all.
        path: Vec<Pattern> = Vec::new(),
        /// Only requests with these methods count. Empty: all.
        method: Vec<String> = Vec::new(),
        /// Each site that has this limit counts for itself; without it a client has one allowance for all of them.
        per_site: bool = false,
        /// Networks whose requests do not count.
        exempt: Vec<IpNet> = Vec::new(),
        /// What happens to what is over it: 429 (refused, with the time to come back), "queue-last" (it waits for an
        /// endpoint until nobody else does), or "close" (429, and the connection ends).
        over: Over = Over::Refuse,
        /// Only count what would happen (`tidegate_limit_decisions_total{decision="dry-run"}`).
        dry_run: bool = false,
    }
}

settings! {
    /// The admin listener.
    Admin {
        /// The unix socket for `tidegate status` and its like, or "off".
        socket: Switchable<PathBuf> = Switchable::On(PathBuf::from("/run/tidegate/admin.sock")),
        /// The socket's mode: who may read its group may order.
        socket_mode: Mode = Mode(0o660),
        /// Addresses on which health, readiness and metrics, and nothing else, may be read. None, unless named.
        listen: Vec<SocketAddr> = Vec::new(),
    }
}

settings! {
    /// The diary (standard error) and the access log.
    Log {
        /// The least important thing that is told: "error", "warn", "info" or "debug".
        level: LogLevel = LogLevel::Info,
        /// "text" or "json".
        format: LogFormat = LogFormat::Text,
        /// Access lines: "json"; "combined" (Apache's, and behind it what the cache did and the milliseconds it took); or
        /// "off".
        access: AccessFormat = AccessFormat::Json,
        /// Where access lines go: a file (opened again at SIGUSR1), or "-" for standard output.
        access_file: PathBuf = PathBuf::from("-"),
        /// Access lines that may wait for the disk, about 1 KiB each; more are dropped and counted.
        queue: u32 = 8192,
    }
}
