//! `cargo xtask cluster`: thin over [`ringfence_tests::testbed`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use ringfence_tests::testbed::{
    Binaries, CLUSTER_TOOLS, Cluster, ClusterName, ClusterOptions, Console, E2E_TOOLS, IpFamily, Iptables,
    ProxyMode,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a cluster, or say that it is up.
    Up(UpArguments),
    /// Remove a cluster and whatever it left behind.
    Down(Name),
    /// Show a cluster's processes and nodes; fails unless all are well.
    Status(Name),
    /// Run kubectl as the cluster's administrator: `kubectl get pods -A`.
    Kubectl(Passed),
    /// Run a program on a node: `node node-1 iptables-save`.
    Node(OnNode),
    /// Put images on every node: `load target/images/*.tar`.
    Load(Images),
    /// Build the binaries into the cache without starting anything.
    Build(BuildArguments),
}

#[derive(Debug, Args)]
struct Name {
    /// The cluster's name.
    #[arg(long, default_value_t, env = "RINGFENCE_CLUSTER")]
    name: ClusterName,
}

#[derive(Debug, Args)]
struct UpArguments {
    #[command(flatten)]
    name: Name,
    /// Number of nodes.
    #[arg(long, default_value_t = ClusterOptions::default().nodes)]
    nodes: u8,
    /// Address families: ipv4, ipv6 or dual.
    #[arg(long, default_value_t = IpFamily::Ipv4)]
    ip_family: IpFamily,
    /// How Services work: kube-proxy with iptables or nftables, or none.
    #[arg(long, default_value_t = ProxyMode::Iptables)]
    proxy_mode: ProxyMode,
    /// The nodes' iptables: nft or legacy.
    #[arg(long, default_value_t = Iptables::Nft)]
    iptables: Iptables,
}

#[derive(Debug, Args)]
struct Passed {
    #[command(flatten)]
    name: Name,
    /// What to pass on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
struct OnNode {
    #[command(flatten)]
    name: Name,
    /// The node.
    node: String,
    /// The program to run.
    program: String,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Images {
    #[command(flatten)]
    name: Name,
    /// Archives of images, as `cargo xtask images` writes them.
    #[arg(required = true)]
    archives: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct BuildArguments {
    /// Also build the upstream end-to-end suite.
    #[arg(long)]
    e2e: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.action {
        Action::Up(arguments) => up(arguments),
        Action::Down(Name { name }) => down(name),
        Action::Status(Name { name }) => status(name),
        Action::Kubectl(Passed { name, arguments }) => {
            pass(Cluster::attach(name.name.as_str())?.kubectl(arguments))
        }
        Action::Node(OnNode {
            name,
            node,
            program,
            arguments,
        }) => {
            let mut command = Cluster::attach(name.name.as_str())?.on_node(node, program)?;
            command.args(arguments);
            pass(command)
        }
        Action::Load(arguments) => load(arguments),
        Action::Build(arguments) => build(arguments),
    }
}

fn up(arguments: &UpArguments) -> Result<ExitCode> {
    let UpArguments {
        name: Name { name },
        nodes,
        ip_family,
        proxy_mode,
        iptables,
    } = arguments;
    let options = ClusterOptions {
        name: name.clone(),
        nodes: *nodes,
        ip_family: *ip_family,
        proxy_mode: *proxy_mode,
        iptables: *iptables,
    };
    let cluster = Cluster::up(&options, &Console::default())?;
    println!(
        "cluster {name} is up: {} nodes, {ip_family}, proxy mode {proxy_mode}",
        cluster.nodes().len()
    );
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

fn down(name: &ClusterName) -> Result<ExitCode> {
    let existed = Cluster::remove(name.as_str(), &Console::default())?;
    println!(
        "cluster {name} {}",
        if existed { "is gone" } else { "was not there" }
    );
    Ok(ExitCode::SUCCESS)
}

fn status(name: &ClusterName) -> Result<ExitCode> {
    let cluster = Cluster::attach(name.as_str())?;
    let status = cluster.status()?;
    let word = |well: bool, good: &'static str, bad: &'static str| if well { good } else { bad };
    println!(
        "cluster {name}: {} nodes, {}, proxy mode {}",
        status.nodes.len(),
        status.options.ip_family,
        status.options.proxy_mode
    );
    println!(
        "API server {} {}",
        cluster.api_url(),
        word(status.api_ready, "ready", "NOT READY")
    );
    for (node, ready) in &status.nodes {
        println!("{node} {}", word(*ready, "Ready", "NOT READY"));
    }
    for (process, pid, alive) in &status.processes {
        println!("{process} (pid {pid}) {}", word(*alive, "runs", "DEAD"));
    }
    println!("KUBECONFIG={}", cluster.kubeconfig().display());
    Ok(if status.healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn load(arguments: &Images) -> Result<ExitCode> {
    let cluster = Cluster::attach(arguments.name.name.as_str())?;
    for archive in &arguments.archives {
        cluster.load_image(archive)?;
        println!("{} is on every node", archive.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn build(arguments: &BuildArguments) -> Result<ExitCode> {
    let mut tools = CLUSTER_TOOLS.to_vec();
    if arguments.e2e {
        tools.extend(E2E_TOOLS);
    }
    let binaries = Binaries::ensure(&tools, &Console::default())?;
    for tool in tools {
        println!("{}", binaries.path(tool).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command in the foreground and ends as it ended.
fn pass(mut command: Command) -> Result<ExitCode> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("start {program}"))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
