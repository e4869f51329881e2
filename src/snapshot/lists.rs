//! Lists of networks that stand in files, read when a configuration is compiled.

use crate::admission::acl::BadList;
use crate::admission::acl::Networks;
use crate::config::Config;
use crate::telemetry;
use crate::units::SiteName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest file: two million networks in 32 bytes each.
const FILE_MAX: u64 = 64 << 20;

/// Whom a configuration turns away.
pub struct Lists {
    /// From everywhere.
    pub deny: Arc<Networks>,
    /// From each site.
    pub sites: BTreeMap<SiteName, Doorkeeper>,
}

/// Who may see a site.
#[derive(Clone, Default)]
pub struct Doorkeeper {
    /// Nobody else, if it is there.
    allow: Option<Arc<Networks>>,
    /// Not these.
    deny: Arc<Networks>,
}

impl Doorkeeper {
    /// Whether the client at this address may see the site.
    #[must_use]
    pub fn admits(&self, address: std::net::IpAddr) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.contains(address)) && !self.deny.contains(address)
    }
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("read the list {}; is the path right, and may tidegate read it?", .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("the list {} is larger than 64MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("the list {}", .0.display())]
    Bad(PathBuf, #[source] BadList),
}

/// Reads all lists.
///
/// # Errors
/// Every file that cannot be used.
pub fn read(config: &Config) -> Result<Lists, Vec<String>> {
    let mut problems = Vec::new();
    let mut list = |networks: &[IpNet], files: &[PathBuf]| {
        let mut list: Networks = networks.iter().copied().collect();
        for file in files {
            if let Err(problem) = add(&mut list, file) {
                problems.push(telemetry::chain(&problem));
            }
        }
        Arc::new(list)
    };
    let deny = list(&config.server.deny, &config.server.deny_files);
    let mut sites = BTreeMap::new();
    for (name, site) in &config.site {
        let restricted = !site.allow.is_empty() || !site.allow_files.is_empty();
        let allow = restricted.then(|| list(&site.allow, &site.allow_files));
        sites.insert(name.clone(), Doorkeeper { allow, deny: list(&site.deny, &site.deny_files) });
    }
    if problems.is_empty() { Ok(Lists { deny, sites }) } else { Err(problems) }
}

fn add(list: &mut Networks, file: &Path) -> Result<(), Unreadable> {
    let fail = |error| Unreadable::Io(file.to_owned(), error);
    if std::fs::metadata(file).map_err(fail)?.len() > FILE_MAX {
        return Err(Unreadable::TooLarge(file.to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(fail)?;
    list.read(&text).map_err(|bad| Unreadable::Bad(file.to_owned(), bad))
}
