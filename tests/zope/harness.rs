//! A real Zope on a real ZEO server, for the demonstration and for the tests.
//!
//! [`Stand::start`] makes a virtual environment under the target directory (once), writes the site into a new database,
//! and starts one storage server and as many Zope processes as asked, each on a free port of the loopback. Every one can
//! be killed, frozen, thawed and started again.
//!
//! It knows nothing of tidegate. When something does not come up it says which process, and shows the end of its log.
//! Whatever way the program ends, nothing is left running: see [`process::Minder`].

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tempfile::TempDir;

use self::environment::Environment;
use self::process::Kind;
use self::process::Minder;
use self::process::Recipe;
use self::process::Server;

pub mod environment;
pub mod http;
pub mod process;

/// How large the stand is.
pub struct Options {
    /// Zope processes.
    pub zopes: usize,
    /// waitress threads of each.
    pub threads: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { zopes: 2, threads: 4 }
    }
}

/// One ZEO server and its Zopes. Dropping it kills them all and removes their directory.
pub struct Stand {
    zeo: Server,
    zopes: Vec<Server>,
    dir: TempDir,
    environment: Environment,
    minder: Arc<Minder>,
}

impl Stand {
    /// Starts everything and waits until it answers; `say` hears what is being done, a line at a time.
    ///
    /// # Errors
    /// Python is missing or too old, pip failed, or a process ended or did not answer in time.
    pub async fn start(options: Options, mut say: impl FnMut(&str)) -> anyhow::Result<Self> {
        let minder = Arc::new(Minder::start()?);
        let environment = Environment::prepare(&minder, &mut say).await?;
        let dir = tempfile::Builder::new().prefix("tidegate-zope-").tempdir().context("make a temporary directory")?;
        let plan = Plan { environment: &environment, minder: &minder, dir: dir.path(), zeo: free_address()? };

        let mut zeo = plan.zeo("zeo", environment.data())?;
        let mut zopes = Vec::new();
        for number in 1..=options.zopes {
            zopes.push(plan.zope(number, options.threads)?);
        }
        zeo.launch()?;
        zeo.ready().await?;
        say(&format!("the storage server (ZEO) answers on {}, process {}", zeo.address(), shown(zeo.pid())));
        for zope in &mut zopes {
            zope.launch()?;
        }
        for zope in &mut zopes {
            zope.ready().await?;
            say(&format!("Zope {:?} answers on {}, process {}", zope.name(), zope.address(), shown(zope.pid())));
        }
        Ok(Self { zeo, zopes, dir, environment, minder })
    }

    /// The storage server.
    pub fn zeo(&mut self) -> &mut Server {
        &mut self.zeo
    }

    /// One more storage server, on a copy of `data`; it is the caller's, and no Zope is told of it.
    ///
    /// # Errors
    /// The file cannot be copied.
    pub fn another_zeo(&self, data: &Path) -> anyhow::Result<Server> {
        let (environment, minder, dir) = (&self.environment, &self.minder, self.dir.path());
        Plan { environment, minder, dir, zeo: free_address()? }.zeo("zeo2", data)
    }

    /// One of the Zopes, counted from 0.
    pub fn zope(&mut self, index: usize) -> &mut Server {
        &mut self.zopes[index]
    }

    /// All of them, the storage server first.
    pub fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.zeo).chain(&mut self.zopes)
    }

    /// Where the Zopes answer; this does not change when they are started again.
    pub fn zope_addresses(&self) -> Vec<SocketAddr> {
        self.zopes.iter().map(Server::address).collect()
    }

    /// The requests that reached one of the Zopes so far, as `GET /path?query 200 0.002`; health pages among them.
    pub fn requests(&self, index: usize) -> Vec<String> {
        let path = self.dir.path().join(zope_name(index + 1)).join("requests");
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// A directory of this stand, removed with it: room for configuration files and sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// What all the processes of one stand have in common.
struct Plan<'a> {
    environment: &'a Environment,
    minder: &'a Arc<Minder>,
    dir: &'a Path,
    zeo: SocketAddr,
}

impl Plan<'_> {
    fn zeo(&self, name: &str, from: &Path) -> anyhow::Result<Server> {
        let home = self.home(name)?;
        let data = home.join("Data.fs");
        fs::copy(from, &data).context("copy a database")?;
        let recipe = self
            .recipe(&["-m", "ZEO.runzeo", "-C"])
            .arg(self.environment.etc("zeo.conf"))
            .env("ZEO_ADDRESS", self.zeo.to_string())
            .env("ZEO_DATA", data);
        Ok(Server::new(name, Kind::Zeo, self.zeo, recipe, home.join("log"), Arc::clone(self.minder)))
    }

    fn zope(&self, number: usize, threads: u16) -> anyhow::Result<Server> {
        let name = zope_name(number);
        let home = self.home(&name)?;
        let address = free_address()?;
        let recipe = self
            .recipe(&["-m", "Zope2.Startup.serve"])
            .arg(self.environment.etc("zope.ini"))
            .arg(format!("zope_listen={address}"))
            .arg(format!("zope_threads={threads}"))
            .env("ZEO_ADDRESS", self.zeo.to_string())
            .env("ZOPE_INSTANCE", &home)
            .env("ZOPE_NAME", &name)
            .env("ZOPE_REQUESTS", home.join("requests"));
        Ok(Server::new(&name, Kind::Zope, address, recipe, home.join("log"), Arc::clone(self.minder)))
    }

    fn recipe(&self, arguments: &[&str]) -> Recipe {
        let recipe = arguments.iter().fold(Recipe::new(self.environment.python()), Recipe::arg);
        self.environment.variables().into_iter().fold(recipe, |recipe, (key, value)| recipe.env(key, value))
    }

    fn home(&self, name: &str) -> anyhow::Result<PathBuf> {
        let home = self.dir.join(name);
        fs::create_dir(&home).with_context(|| format!("make the directory {}", home.display()))?;
        Ok(home)
    }
}

fn zope_name(number: usize) -> String {
    format!("zope{number}")
}

fn shown(pid: Option<u32>) -> String {
    pid.map_or_else(|| "gone".to_owned(), |pid| pid.to_string())
}

/// A port of the loopback that nobody has now. Below the range from which the kernel takes ports for outgoing
/// connections, so that no connection of a neighbour can take it before the server does.
///
/// # Errors
/// None of the ports tried is free.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS.1 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(31).wrapping_add(step) % u32::from(PORTS.1);
        let port = PORTS.0 + u16::try_from(offset).context("an offset below the number of ports")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no port of the loopback is free between {} and {}", PORTS.0, PORTS.0 + PORTS.1)
}

/// First port and number of ports.
const PORTS: (u16, u16) = (20_000, 12_000);
