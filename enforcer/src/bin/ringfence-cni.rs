//! The chained CNI plugin: a container runtime starts it for each pod. See `ringfence_enforcer::cni`.

use std::env;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use ringfence_enforcer::cni::client;
use ringfence_enforcer::cni::plugin::{self, Environment};
use ringfence_enforcer::cni::protocol::{Code, Failure, VERSIONS};

fn main() -> ExitCode {
    let environment = Environment {
        command: env::var("CNI_COMMAND").ok(),
        container: env::var("CNI_CONTAINERID").ok(),
        args: env::var("CNI_ARGS").ok(),
    };
    let mut input = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut input) {
        let failure = Failure::new(Code::Io, "standard input cannot be read", error.to_string());
        println!("{}", failure.to_json(VERSIONS[VERSIONS.len() - 1]));
        return ExitCode::FAILURE;
    }
    let outcome = plugin::run(&environment, &input, client::ask);
    if let Some(warning) = outcome.warning {
        eprintln!("{warning}");
    }
    let printed = std::io::stdout().write_all(outcome.output.as_bytes());
    if outcome.success && printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
