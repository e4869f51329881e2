//! tidegate's command line.

use clap::Parser;
use std::process::ExitCode;
use tidegate::cli::Cli;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate::cli::main(Cli::parse())
}
