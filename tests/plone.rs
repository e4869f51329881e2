//! tidegate, as its binary, in front of a live Plone: what visitors and editors of one see.
//!
//! Not part of the ordinary run, for it installs Plone with pip (once, below the target directory) and starts it:
//! `cargo test --test plone -- --ignored --nocapture`, 5 to 10 minutes the first time. What it taught is played without a
//! Plone by `tests/proxy/{conduct,purge}.rs`, which replay what was recorded in `tests/zope/purges.toml`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::StatusCode;

use self::harness::free_address;
use self::harness::http;
use self::harness::http::Reply;
use self::harness::process::Kind;
use self::harness::process::Minder;
use self::harness::process::Recipe;
use self::harness::process::Server;

#[expect(dead_code, reason = "the tests of Zope use more of it")]
#[path = "zope/harness.rs"]
mod harness;

/// Base64 of the manager's name and password, as tests/plone/build.py makes them.
const MANAGER: &str = "Basic YWRtaW46dGlkZS10YWJsZS0x";

/// What only a page that was rendered for somebody has.
const TOOLBAR: &str = "plone-toolbar";

/// Nothing takes longer than this unless it is broken: a purge is sent after the answer to the edit.
const DEADLINE: Duration = Duration::from_secs(60);

/// A Plone with tidegate before it. Dropped, both are killed and their directory removed.
struct Stand {
    edge: SocketAddr,
    _tidegate: Tidegate,
    _plone: Server,
    dir: tempfile::TempDir,
}

struct Tidegate(std::process::Child);

impl Drop for Tidegate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stand {
    async fn start() -> anyhow::Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plone");
        let minder = Arc::new(Minder::start()?);
        let python = python(&source, &minder).await?;
        let dir = tempfile::Builder::new().prefix("tidegate-plone-").tempdir()?;
        let (edge, zope) = (free_address()?, free_address()?);
        for site in ["classic", "api"] {
            println!("making the site {site}");
            let mut command = Command::new(&python);
            command.arg(source.join("build.py")).arg(source.join("zope.conf")).args([site, &format!("http://{edge}")]);
            command.env("ZOPE_INSTANCE", dir.path()).stdin(Stdio::null());
            ensure!(minder.run(&mut command).await?.success(), "the site {site} could not be made");
        }
        let recipe = Recipe::new(&python)
            .arg("-m")
            .arg("Zope2.Startup.serve")
            .arg(source.join("zope.ini"))
            .arg(format!("zope_listen={zope}"))
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zope/site"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ZOPE_NAME", "plone")
            .env("ZOPE_INSTANCE", dir.path());
        let mut plone = Server::new("plone", Kind::Zope, zope, recipe, dir.path().join("log"), minder);
        plone.launch()?;
        plone.ready().await?;
        println!("Plone answers on {zope}");
        let config = dir.path().join("tidegate.toml");
        let text = format!(
            "version = 1\n[server]\nlisten = [\"{edge}\"]\n[cache]\nverify = \"plone-etag\"\n\
             [site.\"www.example.org\"]\npreset = \"plone-classic\"\nzope = \"/classic\"\nupstream = \"zope\"\n\
             [site.\"api.example.org\"]\npreset = \"plone-volto\"\nzope = \"/api\"\nupstream = \"zope\"\n\
             [upstream.zope]\nservers = [\"{zope}\"]\n[limit.per-client]\nrate = \"off\"\n\
             [admin]\nsocket = \"{}\"\n[log]\naccess = \"off\"\nlevel = \"warn\"\n",
            dir.path().join("admin.sock").display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let tidegate = command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).spawn()?;
        let stand = Self { edge, _tidegate: Tidegate(tidegate), _plone: plone, dir };
        stand.until("tidegate answers", async || Ok(stand.get("/").await.is_ok())).await?;
        Ok(stand)
    }

    async fn send(
        &self,
        host: &str,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static str,
    ) -> anyhow::Result<Reply> {
        let mut request = Request::builder().method(method).uri(path).header("Host", host);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        http::send(self.edge, request.body(Full::new(Bytes::from_static(body.as_bytes())))?).await
    }

    /// A page of the site that renders its own, as browsers ask for it.
    async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send("www.example.org", "GET", path, &[("Accept", "text/html,*/*;q=0.8")], "").await
    }

    /// An answer of the REST API.
    async fn ask(&self, path: &str) -> anyhow::Result<Reply> {
        self.send("api.example.org", "GET", &format!("/++api++{path}"), &[("Accept", "application/json")], "").await
    }

    /// What an editor does, over the REST API of either site.
    async fn edit(&self, host: &str, method: &str, path: &str, body: &'static str) -> anyhow::Result<()> {
        let fields = [("Accept", "application/json"), ("Content-Type", "application/json"), ("Authorization", MANAGER)];
        let reply = self.send(host, method, &format!("/++api++{path}"), &fields, body).await?;
        ensure!(reply.status.is_success(), "{method} {path}: {} {}", reply.status, reply.text());
        Ok(())
    }

    /// Asks until it is so.
    async fn until(&self, what: &str, so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        let asking = async {
            while !so().await? {
                beat.tick().await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(DEADLINE, asking).await.with_context(|| format!("waited in vain until {what}"))?
    }

    fn metrics(&self) -> anyhow::Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--unix-socket"]).arg(self.dir.path().join("admin.sock")).arg("http://admin/metrics");
        Ok(String::from_utf8(curl.output()?.stdout)?)
    }
}

/// A Python with Plone, made once for each list of requirements.
async fn python(source: &Path, minder: &Minder) -> anyhow::Result<PathBuf> {
    let requirements = source.join("requirements.txt");
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).context("a target directory")?;
    let venv = target.join("plone-venv");
    let (python, stamp) = (venv.join("bin/python"), venv.join("requirements.stamp"));
    let wanted = fs::read_to_string(&requirements)?;
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    println!("installing Plone with pip into {} (once; 5 to 10 minutes)", venv.display());
    let name = std::env::var("TIDEGATE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(name);
    command.args(["-m", "venv", "--clear"]).arg(&venv);
    ensure!(minder.run(&mut command).await?.success(), "python -m venv failed; Python 3.11 or later is needed");
    let mut command = Command::new(&python);
    command.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", "-r"]).arg(requirements);
    ensure!(minder.run(&mut command).await?.success(), "pip install failed");
    fs::write(stamp, wanted)?;
    Ok(python)
}

fn told(reply: &Reply) -> &str {
    reply.header("cache-status").unwrap_or("nothing")
}

fn is_hit(reply: &Reply) -> bool {
    told(reply).contains("; hit")
}

#[tokio::test]
#[ignore = "installs and starts a Plone: cargo test --test plone -- --ignored --nocapture"]
async fn a_live_plone_is_cached_as_far_as_it_may_be_and_never_stale_after_an_edit() -> anyhow::Result<()> {
    let stand = Stand::start().await?;
    visitors(&stand).await?;
    logged_in(&stand).await?;
    editors(&stand).await?;
    rest(&stand).await?;
    let metrics = stand.metrics()?;
    for rule in ["plone.content.itemView", "plone.content.file", "plone.content.dynamic"] {
        ensure!(metrics.contains(&format!("rule=\"{rule}\"")), "{rule} is not counted");
    }
    let tripped = metrics.lines().filter(|line| line.starts_with("tidegate_cache_leak_tripwire_total{"));
    ensure!(tripped.clone().all(|line| line.ends_with(" 0")), "{:?}", tripped.collect::<Vec<_>>());
    Ok(())
}

async fn visitors(stand: &Stand) -> anyhow::Result<()> {
    for (path, expected) in [
        ("/", "fwd-status=304"),
        ("/docs", "fwd-status=304"),
        ("/docs/page", "fwd-status=304"),
        ("/docs/page/view", "fwd-status=304"),
        ("/docs/page?utm_source=letter", "fwd-status=304"),
        ("/docs/img.png/view", "fwd-status=304"),
        ("/docs/img.png", "; hit"),
        ("/docs/img.png/@@images/image/mini", "; hit"),
        ("/docs/table.pdf", "; hit"),
        ("/docs/table.pdf/@@download/file", "; hit"),
        ("/favicon.ico", "; hit"),
        ("/search?SearchableText=water", "fwd=uri-miss"),
        ("/login", "fwd=uri-miss"),
        ("/docs/draft", "fwd=uri-miss"),
        ("/nowhere", "fwd=uri-miss"),
    ] {
        stand.get(path).await?;
        let again = stand.get(path).await?;
        ensure!(told(&again).contains(expected), "{path}: {}", told(&again));
        ensure!(!again.text().contains(TOOLBAR), "{path} was rendered for somebody");
        for field in ["x-cache-rule", "x-cache-operation", "x-ramcache", "tidegate-cache-control"] {
            ensure!(again.header(field).is_none(), "{path} tells {field}");
        }
        ensure!(again.header("cache-control").is_none_or(|told| !told.contains("s-maxage=8")), "{path}");
    }
    // What the page names is cached, too.
    let page = stand.get("/docs/page").await?.text();
    let named = page.split("\"http://www.example.org").skip(1).filter_map(|rest| rest.split('"').next());
    let resources: Vec<&str> =
        named.filter(|path| path.contains("++webresource++") || path.contains("@@images")).collect();
    ensure!(resources.len() > 2, "the page names {resources:?}");
    for path in resources {
        stand.get(path).await?;
        let again = stand.get(path).await?;
        ensure!(is_hit(&again), "{path}: {}", told(&again));
    }
    // One rendering for all who want what there is in one language only.
    let in_french = [("Accept", "text/html"), ("Accept-Language", "fr-CH, fr;q=0.9")];
    let french = stand.send("www.example.org", "GET", "/docs/page", &in_french, "").await?;
    ensure!(told(&french).contains("fwd-status=304"), "{}", told(&french));
    Ok(())
}

async fn logged_in(stand: &Stand) -> anyhow::Result<()> {
    let form = "__ac_name=editor&__ac_password=tide-table-1&buttons.login=Log+in";
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = stand.send("www.example.org", "POST", "/login", &fields, form).await?;
    ensure!(reply.status == StatusCode::FOUND, "the login is answered {}", reply.status);
    let cookies = reply.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok()?.split(';').next());
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    ensure!(cookies.contains("__ac="), "no login: {cookies}");
    for path in ["/docs/page", "/docs/draft", "/docs/img.png", "/docs/page"] {
        let own =
            stand.send("www.example.org", "GET", path, &[("Accept", "text/html"), ("Cookie", &cookies)], "").await?;
        ensure!(own.status == StatusCode::OK && told(&own).contains("detail=identity"), "{path}: {}", told(&own));
        let is_page = own.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        ensure!(!is_page || own.text().contains(TOOLBAR), "{path} is not the editor's own");
    }
    ensure!(!stand.get("/docs/page").await?.text().contains(TOOLBAR), "a visitor got the editor's page");
    Ok(())
}

async fn editors(stand: &Stand) -> anyhow::Result<()> {
    let www = "www.example.org";
    stand.edit(www, "PATCH", "/docs/page", "{\"title\": \"Higher water\"}").await?;
    for path in ["/docs/page", "/docs/page/view", "/docs"] {
        ensure!(stand.get(path).await?.text().contains("Higher water"), "{path} is as it was before the edit");
    }
    // Files and images are fresh for a day: only a purge tells.
    for path in ["/docs/img.png", "/docs/img.png/@@images/image/mini"] {
        ensure!(is_hit(&stand.get(path).await?), "{path}");
    }
    stand.edit(www, "PATCH", "/docs/img.png", "{\"title\": \"The harbour\"}").await?;
    for path in ["/docs/img.png", "/docs/img.png/@@images/image/mini"] {
        // Asking stores it again, so each is seen to be missing once.
        stand.until(path, async || Ok(!is_hit(&stand.get(path).await?))).await?;
    }
    stand.edit(www, "POST", "/docs/news/@workflow/retract", "{}").await?;
    for path in ["/docs/news", "/docs/news/@@images/image/mini"] {
        let kept = stand.get(path).await?;
        ensure!(kept.status == StatusCode::FOUND, "{path} is shown after it was retracted: {}", kept.status);
    }
    // A folder moves; what lay in it is found at its new place only, except where Zope acquires it.
    ensure!(stand.get("/docs/sub/deep").await?.status == StatusCode::OK);
    stand.edit(www, "PATCH", "/docs/sub", "{\"id\": \"moved\"}").await?;
    ensure!(stand.get("/docs/moved/deep").await?.status == StatusCode::OK);
    let before = stand.get("/docs/sub/deep").await?;
    ensure!(before.status.is_redirection(), "the old place is answered {}", before.status);
    stand.edit(www, "DELETE", "/docs/moved", "").await?;
    ensure!(stand.get("/docs/moved/deep").await?.status == StatusCode::NOT_FOUND);
    // Acquisition: a file at the root is shown in every folder, and deleted everywhere.
    stand.edit(www, "POST", "/@move", "{\"source\": \"/docs/table.pdf\"}").await?;
    // The purges that the move sent may come after the first of these.
    stand.until("the file at the root is stored", async || Ok(is_hit(&stand.get("/docs/table.pdf").await?))).await?;
    stand.edit(www, "DELETE", "/table.pdf", "").await?;
    stand.until("a deleted file is gone", async || Ok(stand.get("/docs/table.pdf").await?.status == 404)).await
}

async fn rest(stand: &Stand) -> anyhow::Result<()> {
    let api = "api.example.org";
    let paths = ["/docs/page", "/docs/page?expand=breadcrumbs,navigation", "/docs/page/@breadcrumbs", ""];
    for path in paths {
        stand.ask(path).await?;
        let again = stand.ask(path).await?;
        ensure!(is_hit(&again) && again.header("content-type") == Some("application/json"), "{path}: {}", told(&again));
    }
    let draft = stand.ask("/docs/draft").await?;
    ensure!(draft.status == StatusCode::UNAUTHORIZED && !is_hit(&stand.ask("/docs/draft").await?));
    stand.edit(api, "PATCH", "/docs/page", "{\"title\": \"Spring tide\"}").await?;
    for path in &paths[..2] {
        let new = async || Ok(stand.ask(path).await?.text().contains("Spring tide"));
        stand.until("the edit is seen", new).await?;
    }
    let own = [("Accept", "application/json"), ("Authorization", MANAGER)];
    let own = stand.send(api, "GET", "/++api++/docs/page", &own, "").await?;
    ensure!(told(&own).contains("detail=identity"), "{}", told(&own));
    Ok(())
}
