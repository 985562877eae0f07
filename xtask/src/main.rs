//! Developer commands: `cargo xtask COMMAND`. Each is a thin caller of a library.

mod cluster;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A real Kubernetes cluster on this machine.
    Cluster(cluster::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cluster(arguments) => cluster::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
