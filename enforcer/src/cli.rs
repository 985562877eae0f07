//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringfence_telemetry::client::ClientArgs;
use ringfence_telemetry::logs::LogArgs;

use crate::cni;
use crate::cni::conflist::Entry;
use crate::cni::protocol::Fallback;
use crate::cni::service::{Place, Plugin};
use crate::kernel::{VariantChoice, tied};
use crate::options::{DEFAULT_REVOKED_MARK, LogOptions, Options};
use crate::ruleset::Family;

/// Makes this node enforce NetworkPolicies, with ipset and iptables
#[derive(Debug, Parser)]
#[command(name = "ringfence-enforcer", version)]
pub struct Cli {
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster and enforce the policies of this node's pods. The rules stay when it ends
    Run(RunArgs),
    /// Load kernel modules and set sysctls; for a privileged init container
    Prepare,
    /// Copy the CNI plugin to the node, for `run --cni`; for an init container
    InstallCni(InstallArgs),
    /// Remove every chain, rule and set that `run` has made, in both variants of iptables, the CNI plugin and its entry, and
    /// nothing else
    Cleanup(CleanupArgs),
    /// Say whether this node has what enforcement needs, and what else is in its way; changes nothing on the node. Fails
    /// where no enforcement is possible. As root it tries every kind of rule and set in a network namespace of its own
    Check {
        /// How to say it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Become a command that ends with the process that started it: how the enforcer starts what writes rules
    #[command(name = tied::SUBCOMMAND, hide = true)]
    Tied {
        /// The process that starts it
        parent: u32,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// How to print findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// A list of objects with `level` (good, warning, fatal) and `text`.
    Json,
}

/// How tools are run.
#[derive(Debug, Args)]
pub struct ToolArgs {
    /// How long iptables waits for another program that holds its lock, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub lock_timeout: u64,
}

/// The options of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Tools.
    #[command(flatten)]
    pub tools: ToolArgs,
    /// Where an enforcer listens for the CNI plugin. While one does, nothing is removed: it would put everything back
    #[arg(long, env = "CNI_SOCKET", value_name = "FILE", default_value = cni::SOCKET)]
    pub cni_socket: PathBuf,
    /// Where the CNI plugin is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The options of `install-cni`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Without it nothing is installed
    #[arg(long, env = "CNI")]
    pub cni: bool,
    /// The plugin to copy
    #[arg(long, value_name = "FILE", default_value = cni::SOURCE)]
    pub source: PathBuf,
    /// Where the CNI plugin is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where the CNI plugin is on the node's disk.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Where the container runtime looks for network configurations
    #[arg(long, env = "CNI_CONF_DIR", value_name = "FOLDER", default_value = cni::CONF_DIR)]
    pub cni_conf_dir: PathBuf,
    /// Where the container runtime looks for CNI plugins
    #[arg(long, env = "CNI_BIN_DIR", value_name = "FOLDER", default_value = cni::BIN_DIR)]
    pub cni_bin_dir: PathBuf,
}

impl PlaceArgs {
    /// The place they say.
    pub fn place(&self) -> Place {
        Place {
            conf_dir: self.cni_conf_dir.clone(),
            bin_dir: self.cni_bin_dir.clone(),
        }
    }
}

/// How pods wait for their rules.
#[derive(Debug, Args)]
pub struct CniArgs {
    /// Let pods start only when the kernel holds their rules: serve the CNI plugin, and keep its entry at the end of the
    /// network configuration that the container runtime uses. Without it the entry is taken out
    #[arg(long, env = "CNI")]
    pub cni: bool,
    /// Where to listen for the CNI plugin; the same path on the node and in the container
    #[arg(long, env = "CNI_SOCKET", value_name = "FILE", default_value = cni::SOCKET)]
    pub cni_socket: PathBuf,
    /// How long a pod waits for its rules, in seconds
    #[arg(long, env = "CNI_TIMEOUT", value_name = "SECONDS", default_value_t = cni::PATIENCE, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub cni_timeout: u64,
    /// What becomes of a pod whose rules did not come in time: with closed it does not start, and the kubelet tries again;
    /// with open it starts, and --gate-unknown-pods drops its packets until its rules are there
    #[arg(long, env = "CNI_WITHOUT_ENFORCER", value_enum, default_value = "closed")]
    pub cni_without_enforcer: Fallback,
    /// The plugin to copy when it is missing: an entry without it would keep every pod from starting
    #[arg(long, value_name = "FILE", default_value = cni::SOURCE)]
    pub cni_source: PathBuf,
    /// Where the CNI plugin is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

impl CniArgs {
    /// The plugin they say.
    pub fn plugin(&self) -> Plugin {
        Plugin {
            source: self.cni_source.clone(),
            entry: Entry {
                socket: self.cni_socket.display().to_string(),
                timeout_seconds: self.cni_timeout,
                without_enforcer: self.cni_without_enforcer,
            },
        }
    }
}

/// Which address families to enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FamilyChoice {
    /// Those that the kernel has.
    Auto,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Dual,
}

impl FamilyChoice {
    /// The families, given those that the kernel has.
    pub fn families(self, available: Vec<Family>) -> Vec<Family> {
        match self {
            Self::Auto => available,
            Self::Ipv4 => vec![Family::V4],
            Self::Ipv6 => vec![Family::V6],
            Self::Dual => Family::ALL.to_vec(),
        }
    }
}

/// How to tell of dropped packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DropLogFormat {
    /// One JSON object a line.
    Json,
    /// Not at all.
    None,
}

/// The options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// This node's name in the cluster
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// The namespace that the enforcer itself runs in. When it ends because that namespace is being deleted, it removes
    /// its rules: they must not outlive an uninstall. Otherwise the rules stay
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub own_namespace: Option<String>,
    /// Which iptables to use; auto is the one that kubelet and kube-proxy use here
    #[arg(long, env = "IPTABLES_VARIANT", value_enum, default_value = "auto")]
    pub iptables_variant: VariantChoice,
    /// Which address families to enforce; auto is those that the kernel has
    #[arg(long, env = "IP_FAMILIES", value_enum, default_value = "auto")]
    pub ip_families: FamilyChoice,
    /// Where to serve /healthz, /readyz and /metrics; by default at every address of both families
    #[arg(
        long,
        env = "HTTP_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "[::]:9470"
    )]
    pub http_address: SocketAddr,
    /// How to tell of dropped packets on standard output
    #[arg(long, env = "DROP_LOG_FORMAT", value_enum, default_value = "json")]
    pub drop_log_format: DropLogFormat,
    /// Send no Events to pods whose packets are dropped
    #[arg(long, env = "NO_DROP_EVENTS")]
    pub no_drop_events: bool,
    /// Tools.
    #[command(flatten)]
    pub tools: ToolArgs,
    /// Rules.
    #[command(flatten)]
    pub rules: RuleArgs,
    /// The CNI plugin.
    #[command(flatten)]
    pub cni: CniArgs,
    /// The API server.
    #[command(flatten)]
    pub api: ClientArgs,
}

/// What shapes the rules.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// The bit of the connection mark that says "revoked"; the other bits are left alone
    #[arg(long, value_name = "BIT", default_value_t = format!("{DEFAULT_REVOKED_MARK:#x}"))]
    pub revoked_mark: String,
    /// How many seconds after the last revoked connection packets of known connections are still compared with the mark. The
    /// rule that compares them comes back with the next one, by a write; with 0 it always stands, and every packet pays for it
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().guard_for.map_or(0, |time| time.as_secs()), value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub guard_for: u64,
    /// The netlink group that dropped packets are logged to; 0 logs nothing
    #[arg(long, value_name = "GROUP", default_value_t = LogOptions::default().group)]
    pub drop_log_group: u16,
    /// Log messages a minute for each combination of source, destination and port
    #[arg(long, value_name = "NUMBER", default_value_t = LogOptions::default().per_minute, value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub drop_log_rate: u32,
    /// The most set entries that the peers and ports of one group of pods are multiplied out to
    #[arg(long, value_name = "NUMBER", default_value_t = Options::default().flat_entries)]
    pub flat_entries: usize,
    /// Let policies act on what pods send to this node itself, too: to its kubelet, to host-network pods, to a DNS cache.
    /// Without it a pod always reaches its own node. What the node sends to its pods always passes
    #[arg(long, env = "POLICE_OWN_NODE")]
    pub police_own_node: bool,
    /// Drop what comes from or goes to an address of this node's pod ranges (the Node's spec.podCIDRs) as long as no pod is
    /// known to have it: it is a pod's that has just started. Not for nodes where something else than pods has addresses of
    /// these ranges. Traffic with the node itself passes
    #[arg(long, env = "GATE_UNKNOWN_PODS")]
    pub gate_unknown_pods: bool,
}

impl RuleArgs {
    /// The options they say.
    ///
    /// # Errors
    /// The mark is not one bit.
    pub fn options(&self) -> anyhow::Result<Options> {
        let digits = self.revoked_mark.trim_start_matches("0x");
        let mark = u32::from_str_radix(digits, 16)
            .ok()
            .filter(|mark| mark.count_ones() == 1);
        let revoked_mark = mark.ok_or_else(|| {
            anyhow::anyhow!(
                "--revoked-mark {}: must be one bit in hexadecimal, like 0x20000000",
                self.revoked_mark
            )
        })?;
        let log = (self.drop_log_group != 0).then(|| LogOptions {
            group: self.drop_log_group,
            per_minute: self.drop_log_rate,
            ..LogOptions::default()
        });
        Ok(Options {
            revoked_mark,
            guard_for: (self.guard_for > 0).then(|| Duration::from_secs(self.guard_for)),
            log,
            flat_entries: self.flat_entries,
            police_own_node: self.police_own_node,
            gate_unknown_pods: self.gate_unknown_pods,
            ..Options::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn options(arguments: &[&str]) -> anyhow::Result<Options> {
        let run = ["ringfence-enforcer", "run", "--node-name=n"];
        match Cli::try_parse_from(run.iter().chain(arguments)).unwrap().command {
            Command::Run(run) => run.rules.options(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert_eq!(options(&[]).unwrap(), Options::default());
    }

    #[test]
    fn a_mark_of_two_bits_or_none_is_refused() {
        assert!(options(&["--revoked-mark=0x3"]).is_err());
        assert!(options(&["--revoked-mark=0"]).is_err());
        assert_eq!(
            options(&["--revoked-mark=0x100000"]).unwrap().revoked_mark,
            0x10_0000
        );
    }

    #[test]
    fn a_pod_reaches_its_own_node_unless_that_is_to_be_policed() {
        assert!(!options(&[]).unwrap().police_own_node);
        assert!(options(&["--police-own-node"]).unwrap().police_own_node);
    }

    #[test]
    fn unknown_pods_pass_unless_they_are_to_be_kept_out() {
        assert!(!options(&[]).unwrap().gate_unknown_pods);
        assert!(options(&["--gate-unknown-pods"]).unwrap().gate_unknown_pods);
    }

    #[test]
    fn group_zero_logs_nothing() {
        assert_eq!(options(&["--drop-log-group=0"]).unwrap().log, None);
    }
}
