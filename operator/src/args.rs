//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use ringfence_policy::ObjectKey;
use ringfence_telemetry::client::ClientArgs;
use ringfence_telemetry::logs::LogArgs;

use crate::dns;
use crate::generate::GeneratorConfig;
use crate::probe::Settings;
use crate::probe::call::CallArgs;
use crate::probe::serve::ServeArgs;

/// Turns ZeroTrustNamespaces and ServiceAccesses into NetworkPolicies that any CNI can enforce.
///
/// Without a command it runs the operator. Of several replicas one writes; the others stand by.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringfence-operator", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run, when no command is given.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the operator until it is told to stop (the default)
    Run(Box<RunArgs>),
    /// Open every namespace again, in order, and delete all generated policies
    ///
    /// The operator must not be running: scale it to zero first. What users wrote stays as it is, and is in force again as
    /// soon as an operator runs.
    Uninstall(Box<UninstallArgs>),
    /// Answer calls: what a server pod of the EnforcementProbe runs
    #[command(hide = true)]
    ProbeServe(ServeArgs),
    /// Try servers and tell what was met: what a caller pod of the EnforcementProbe runs
    #[command(hide = true)]
    ProbeCall(CallArgs),
}

/// How the operator runs.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Where to serve /healthz, /readyz and /metrics; by default at every address of both families
    #[arg(
        long,
        default_value = "[::]:9301",
        value_name = "ADDRESS:PORT",
        env = "RINGFENCE_HTTP_ADDRESS"
    )]
    pub http_address: SocketAddr,
    /// A cluster DNS Service to open name resolution to; repeat it, most likely first. The first that exists is used.
    /// The well-known ones by default
    #[arg(
        long = "dns-service",
        value_name = "NAMESPACE/NAME",
        value_parser = object_key,
        value_delimiter = ',',
        env = "RINGFENCE_DNS_SERVICES"
    )]
    pub dns_services: Vec<ObjectKey>,
    /// How long an address stays open after a DNS name of an ExternalAccess ceased to stand for it, in seconds
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds, env = "RINGFENCE_DNS_GRACE")]
    pub dns_grace: Duration,
    /// How many namespaces and ServiceAccesses to work on at a time
    #[arg(long, default_value_t = 8, value_name = "NUMBER", env = "RINGFENCE_WORKERS")]
    pub workers: usize,
    /// The image of the EnforcementProbe's pods, where the resource names none; by default the operator's own, as its pod
    /// says
    #[arg(long, value_name = "IMAGE", env = "RINGFENCE_PROBE_IMAGE")]
    pub probe_image: Option<String>,
    /// The Lease by which replicas elect who writes
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// The API server.
    #[command(flatten)]
    pub api: ClientArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How everything is taken back.
#[derive(Clone, Debug, ClapArgs)]
pub struct UninstallArgs {
    /// How long to wait for a running operator to give its Lease up, in seconds
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub wait: Duration,
    /// The Lease.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// The API server.
    #[command(flatten)]
    pub api: ClientArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Which Lease, and who we are in it.
#[derive(Clone, Debug, ClapArgs)]
pub struct LeaseArgs {
    /// The Lease's namespace: usually the operator's own
    #[arg(
        long,
        default_value = "ringfence-system",
        value_name = "NAME",
        env = "POD_NAMESPACE",
        help_heading = "Leader election"
    )]
    pub lease_namespace: String,
    /// The Lease's name
    #[arg(
        long,
        default_value = "ringfence-operator",
        value_name = "NAME",
        env = "RINGFENCE_LEASE_NAME",
        help_heading = "Leader election"
    )]
    pub lease_name: String,
    /// What to call this replica; a random suffix is added
    #[arg(
        long,
        default_value = "ringfence-operator",
        value_name = "NAME",
        env = "POD_NAME",
        help_heading = "Leader election"
    )]
    pub identity: String,
}

impl LeaseArgs {
    /// A name that no other process has, a restarted container of the same pod included.
    pub fn unique_identity(&self) -> String {
        let suffix: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        format!("{}_{suffix}", self.identity)
    }
}

impl RunArgs {
    /// For how long DNS names are followed.
    pub fn dns(&self) -> dns::Limits {
        dns::Limits {
            grace: self.dns_grace,
            ..dns::Limits::default()
        }
    }

    /// How the EnforcementProbe is run.
    pub fn probe(&self) -> Settings {
        Settings {
            image: self.probe_image.clone(),
            own_pod: self.lease.identity.clone(),
            ..Settings::default()
        }
    }

    /// What the generator needs to know.
    pub fn generator(&self) -> GeneratorConfig {
        if self.dns_services.is_empty() {
            GeneratorConfig::default()
        } else {
            GeneratorConfig {
                dns_services: self.dns_services.clone(),
            }
        }
    }
}

fn object_key(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err("write it as NAMESPACE/NAME, such as kube-system/kube-dns".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|error| format!("a number of seconds is needed: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn without_a_command_the_operator_runs_with_the_same_options() {
        let bare = Args::try_parse_from([
            "operator",
            "--dns-service",
            "dns/main,dns/spare",
            "--workers",
            "3",
        ])
        .unwrap();
        let named = Args::try_parse_from(["operator", "run", "--workers", "3"]).unwrap();
        assert!(bare.command.is_none());
        assert_eq!(bare.run.workers, 3);
        assert_eq!(
            bare.run.generator().dns_services[1],
            ObjectKey::new("dns", "spare")
        );
        let Some(Command::Run(run)) = named.command else {
            panic!("not run")
        };
        assert_eq!(run.workers, 3);
        assert_eq!(run.generator(), GeneratorConfig::default());
    }

    #[test]
    fn a_service_without_a_namespace_is_refused_with_the_remedy() {
        let error = Args::try_parse_from(["operator", "--dns-service", "kube-dns"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("NAMESPACE/NAME"), "{error}");
    }
}
