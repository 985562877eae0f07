//! The `ringfence-operator` program.

use std::process::ExitCode;

use clap::Parser;
use ringfence_operator::args::{Args, Command};
use ringfence_operator::probe::{call, serve};
use ringfence_operator::{run, uninstall};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        None => run::main(&args.run).await,
        Some(Command::Run(run)) => run::main(run).await,
        Some(Command::Uninstall(uninstall)) => uninstall::main(uninstall).await,
        Some(Command::ProbeServe(arguments)) => serve::main(arguments).await,
        Some(Command::ProbeCall(arguments)) => call::main(arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = error.name(), %error, "stopping");
            eprintln!("ringfence-operator: {error}");
            ExitCode::FAILURE
        }
    }
}
