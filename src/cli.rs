//! The command line: verbs, their options, their help.

use crate::units::OriginAddr;
use clap::Parser;
use clap::Subcommand;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A caching, failover-aware edge for Zope and Plone sites.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve. Signals: HUP re-reads the file, USR1 reopens the logs, TERM and INT drain and stop.
    #[command(after_help = "Examples:\n  tidegate run --config /etc/tidegate/tidegate.toml\n  \
                            tidegate run --upstream 127.0.0.1:8080 --listen 127.0.0.1:8000")]
    Run(RunArgs),
    /// Read a configuration file, report everything that is wrong with it, and say what it means.
    ///
    /// Exit status: 0 good, 1 errors, 2 the file cannot be read.
    Check {
        /// The file.
        file: PathBuf,
        /// Print the whole configuration with every default filled in.
        #[arg(long)]
        expanded: bool,
    },
    /// Show what a running tidegate is doing.
    ///
    /// Exit status: 0 ready, 1 running but not ready, 2 not reachable.
    Status {
        #[command(flatten)]
        socket: SocketArg,
        /// Print the JSON as it comes.
        #[arg(long)]
        json: bool,
    },
    /// Let another set of an upstream serve, atomically; requests under way on the old set finish there.
    Use {
        /// The upstream's name.
        upstream: String,
        /// The set's name.
        set: String,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Forget the stored response of one URL in all its variants, or of all with the word `all`.
    Purge {
        /// The URL as visitors write it, such as <https://www.example.org/news>, or `all`.
        url: String,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Re-read the configuration file, as the signal HUP does, and report what came of it.
    Reload {
        #[command(flatten)]
        socket: SocketArg,
    },
}

/// How to run.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "upstream", conflicts_with_all = ["upstream", "listen"])]
    pub config: Option<PathBuf>,
    /// A Zope process; may be given several times. No file is needed then: one site for every host name, safe defaults.
    #[arg(long, value_name = "HOST:PORT", value_parser = OriginAddr::parse)]
    pub upstream: Vec<OriginAddr>,
    /// Where to listen when there is no file.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Where the admin socket shall be when there is no file; without it there is none.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub admin_socket: Option<PathBuf>,
}

/// Which running tidegate to speak to.
#[derive(Debug, clap::Args)]
pub struct SocketArg {
    /// The admin socket of the running tidegate (`admin.socket` in its configuration).
    #[arg(long, value_name = "PATH", default_value = "/run/tidegate/admin.sock")]
    pub socket: PathBuf,
}
