//! Developer commands: `cargo xtask COMMAND`. Each is a thin caller of a library.

mod cluster;
mod crdgen;
mod demo;
mod fuzz;
mod images;
mod stages;
mod test;

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
    /// Build both images as OCI archives, without a container engine.
    Images(images::Arguments),
    /// Write the files that are generated from the API types: config/crd.
    Crdgen,
    /// The main job, end to end: a cluster, the product, and who reaches whom before and after.
    Demo(demo::DemoArgs),
    /// Run the policy engine's fuzzers; installs cargo-fuzz below target/ if it is not there.
    Fuzz(fuzz::FuzzArgs),
    /// Run every check, the cheap ones first.
    Test(test::TestArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Images(arguments) => images::run(&arguments),
        Command::Crdgen => crdgen::run(),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
