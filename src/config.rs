//! The configuration: one file in, a whole [`Config`] with every default filled in out, or all of its problems at once.
//!
//! A setting is one field of one struct in `settings.rs`; its documentation there is the operator's reference. Rules
//! between settings live in `check.rs`. Certificates, addresses and other parts of the machine are not looked at here.

pub mod check;
pub mod decode;
pub mod digest;
pub mod pair;
pub mod pair_settings;
pub mod reference;
pub mod report;
pub mod settings;
pub mod start;
pub mod values;

pub use report::Problem;
pub use report::Report;
pub use settings::Config;

use crate::units::OriginAddr;
use crate::units::SiteName;
use std::net::SocketAddr;
use std::path::Path;

/// A configuration that can be used, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What an operator should look at; one rendered warning each.
    pub warnings: Vec<String>,
}

/// Reads the file at `path`.
///
/// # Errors
/// Every problem of the file, or the one that kept it from being read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(error) => Err(Report::unreadable(&name, &error)),
    }
}

/// Reads a configuration from its text; `name` stands for the file in problems.
///
/// # Errors
/// Every problem of the text.
pub fn parse(name: &str, text: &str) -> Result<Loaded, Report> {
    let mut context = decode::Context::new(name, text);
    let config = decode::document(text, &mut context);
    if !context.is_broken() {
        check::check(&config, &mut context);
    }
    let report = context.into_report();
    if report.has_errors() {
        return Err(report);
    }
    Ok(Loaded { config, warnings: report.warnings() })
}

impl Config {
    /// The same without the files of TLS, for whoever wants to know what it means and not whether it can be served: it listens
    /// in the same places.
    #[must_use]
    pub fn without_certificates(mut self) -> Self {
        self.server.listen = self.listens();
        self.tls = settings::Tls::default();
        for upstream in self.upstream.values_mut() {
            upstream.tls = settings::UpstreamTls::default();
        }
        self
    }

    /// What `tidegate run --upstream` means: one site for every host name, plain HTTP, safe defaults.
    #[must_use]
    pub fn for_upstream(endpoints: Vec<OriginAddr>, listen: SocketAddr) -> Self {
        let mut config = Self { version: Some(1), ..Self::default() };
        config.server.listen = vec![values::Listen { addr: listen, tls: false }];
        config.admin.socket = values::Switchable::Off;
        let site = settings::Site {
            default: true,
            upstream: Some(values::UpstreamRef::Inline(endpoints.into_iter().map(Into::into).collect())),
            ..settings::Site::default()
        };
        if let Ok(name) = SiteName::parse("default") {
            config.site.insert(name, site);
        }
        config
    }
}
