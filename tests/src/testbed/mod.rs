//! A real Kubernetes cluster on this one machine, without Docker.
//!
//! ```text
//!                     machine: 127.0.0.1:PORT ─ socat ─ unix socket ─ socat ─┐
//!   ┌ fabric ────────────────────────────────────────────────────────────────│──┐
//!   │  br0 ──┬────────────────────────┬───────────────────────┬──────────    │  │
//!   └────────│────────────────────────│───────────────────────│──────────────│──┘
//!     ┌ cp ──┴────────────┐    ┌ node-1 ────────────┐   ┌ node-2 ────────────│─┐
//!     │ etcd, API server, │    │ containerd,kubelet,│   │                    │ │
//!     │ controllers,      │◄───│ kube-proxy         │   │  the same          │ │
//!     │ scheduler         │    │ cni0 ── pods       │   │                      │
//!     └───────────────────┘    └────────────────────┘   └──────────────────────┘
//! ```
//!
//! Every box is a network namespace; a node has a mount namespace and a cgroup besides. The machine's own network
//! namespace and its iptables stay untouched.

mod api_server;
mod build;
mod cgroups;
mod cni;
mod command;
mod control_plane;
mod dns;
mod draft;
mod gitops;
mod images;
mod kubeconfig;
mod leash;
mod mounts;
mod netns;
mod network;
mod node;
mod options;
mod packages;
mod paths;
mod pki;
mod plan;
mod process;
mod progress;
mod remains;
mod start;
mod state;
mod wait;

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

pub use api_server::ApiServer;
pub use build::{
    API_SERVER_TOOLS, Binaries, CLUSTER_TOOLS, E2E_TEST, E2E_TOOLS, GINKGO, GITOPS_TOOLS, KUBERNETES_VERSION,
    Tool,
};
pub use gitops::{ArgoCd, NAMESPACE as ARGOCD_NAMESPACE, Repository};
pub use images::{AGNHOST_IMAGE, AGNHOST_UPSTREAM};
pub use netns::exec_in_netns;
pub use options::{ClusterName, ClusterOptions, IpFamily, Iptables, MAX_NODES, ProxyMode};
pub use packages::{FOR_CLUSTER, FOR_GITOPS, FOR_IMAGES, FOR_STORMS, ensure_installed, require_root};
pub use paths::cache_dir;
pub use progress::{Console, Progress, Silent, step};
pub use wait::until;

pub(crate) use build::DRAFTS;
pub(crate) use command::{run, run_with_input};
pub(crate) use draft::Draft;
use netns::command_in;
use paths::Paths;
use plan::Plan;
use state::State;

/// A running cluster. Dropping the value leaves the cluster as it is.
#[derive(Debug)]
pub struct Cluster {
    paths: Paths,
    plan: Plan,
    state: State,
}

/// One node, for code that looks at it from outside.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the API.
    pub name: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its pod CIDRs, the cluster's first family first.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses, in the same order.
    pub ips: Vec<IpAddr>,
}

/// What [`Cluster::status`] found.
#[derive(Debug, Clone)]
pub struct Status {
    /// What was asked for.
    pub options: ClusterOptions,
    /// Every process, with its pid and whether it runs.
    pub processes: Vec<(String, i32, bool)>,
    /// Whether the API server says it is ready.
    pub api_ready: bool,
    /// Every node that should be, and whether it is Ready.
    pub nodes: Vec<(String, bool)>,
}

impl Status {
    /// Whether all of it is as it should be.
    pub fn healthy(&self) -> bool {
        self.api_ready
            && self.nodes.iter().all(|(_, ready)| *ready)
            && self.processes.iter().all(|(_, _, alive)| *alive)
    }
}

impl Cluster {
    /// Makes sure that a cluster as in `options` runs: takes the one that does, else clears away what is left of a
    /// predecessor and builds a new one.
    ///
    /// # Errors
    /// When something is missing (root, Go, a package), with the remedy; when a component does not come up, with the
    /// end of its log. What was started stays for inspection until the next `up` or `down`.
    pub fn up(options: &ClusterOptions, progress: &dyn Progress) -> Result<Self> {
        start::up(options, progress)
    }

    /// The running cluster called `name`.
    ///
    /// # Errors
    /// When there is none, or it never became ready.
    pub fn attach(name: &str) -> Result<Self> {
        let name: ClusterName = name.parse()?;
        let paths = Paths::of(&name);
        let Some(state) = State::read(&paths)?.filter(|state| state.ready) else {
            bail!("no cluster {name} is up: start it with `cargo xtask cluster up --name {name}`");
        };
        Ok(Self::from_state(paths, state))
    }

    fn from_state(paths: Paths, state: State) -> Self {
        Self {
            plan: Plan::of(&state.options),
            paths,
            state,
        }
    }

    /// Removes the cluster called `name` and everything it left, however it ended. Says whether there was anything.
    ///
    /// # Errors
    /// Without root, or when something resists.
    pub fn remove(name: &str, progress: &dyn Progress) -> Result<bool> {
        let paths = Paths::of(&name.parse()?);
        require_root("removing a cluster")?;
        let lock = state::lock(&paths, progress)?;
        let existed = remains::exist(&paths)?;
        if existed {
            step(progress, &format!("remove cluster {name}"), || {
                remains::remove(&paths)
            })?;
        }
        lock.remove()?;
        Ok(existed)
    }

    /// Removes this cluster and everything it left.
    ///
    /// # Errors
    /// Those of [`Cluster::remove`].
    pub fn down(&self) -> Result<()> {
        Self::remove(self.paths.name().as_str(), &Silent).map(drop)
    }

    /// Looks at every part of the cluster.
    ///
    /// # Errors
    /// When `kubectl` cannot be started. A part that is down is no error.
    pub fn status(&self) -> Result<Status> {
        let processes = process::records(&self.paths.records());
        let processes = processes
            .into_iter()
            .map(|r| (r.name, r.process.pid, r.process.alive()))
            .collect();
        let api_ready = run(&mut self.kubectl(["get", "--raw=/readyz", "--request-timeout=5s"])).is_ok();
        let ready = if api_ready {
            self.ready_nodes()?
        } else {
            Vec::new()
        };
        let nodes = self
            .plan
            .nodes
            .iter()
            .map(|node| (node.name.clone(), ready.contains(&node.name)))
            .collect();
        Ok(Status {
            options: self.state.options.clone(),
            processes,
            api_ready,
            nodes,
        })
    }

    fn ready_nodes(&self) -> Result<Vec<String>> {
        let text = run(&mut self.kubectl(["get", "nodes", "--output=json"]))?;
        let list: Value = serde_json::from_str(&text).context("read kubectl's list of nodes")?;
        Ok(ready_nodes(&list))
    }

    /// What the cluster was made from.
    pub fn options(&self) -> &ClusterOptions {
        &self.state.options
    }

    /// Path of a kubeconfig for the cluster's administrator, at [`Cluster::api_url`].
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// Where this machine reaches the API server.
    pub fn api_url(&self) -> String {
        control_plane::https(std::net::Ipv4Addr::LOCALHOST.into(), self.state.api_port)
    }

    /// `kubectl` with these arguments, as the cluster's administrator.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.state.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |plan: &plan::NodePlan| Node {
            name: plan.name.clone(),
            netns: self.paths.netns(&plan.name),
            pod_cidrs: plan.pod_cidrs.clone(),
            ips: plan.ips.clone(),
        };
        self.plan.nodes.iter().map(node).collect()
    }

    /// The network namespace that joins all others, for tests that need somebody outside the cluster.
    pub fn fabric_netns(&self) -> PathBuf {
        self.paths.netns(network::FABRIC)
    }

    /// The control plane's network namespace.
    pub fn control_plane_netns(&self) -> PathBuf {
        self.paths.netns(network::CONTROL_PLANE)
    }

    /// Loads an image archive on every node.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let nodes: Vec<_> = self
            .plan
            .nodes
            .iter()
            .map(|node| self.paths.node(&node.name))
            .collect();
        images::load(&nodes, &[archive.to_owned()])
    }

    /// A command that runs `program` on a node, in its network and mount namespaces.
    ///
    /// # Errors
    /// When the cluster has no such node.
    pub fn on_node(&self, node: &str, program: &str) -> Result<Command> {
        let Some(node) = self.plan.nodes.iter().find(|known| known.name == node) else {
            let names: Vec<&str> = self.plan.nodes.iter().map(|node| node.name.as_str()).collect();
            bail!(
                "cluster {} has no node {node}; it has {}",
                self.paths.name(),
                names.join(", ")
            );
        };
        let netns = self.paths.netns(&node.name);
        Ok(command_in(
            &netns,
            Some(self.paths.node(&node.name).mount_ns()),
            Path::new(program),
        ))
    }

    /// The network namespace of the pod that has address `ip`.
    ///
    /// # Errors
    /// When no pod of the cluster has it (a pod on the host network has its node's: see [`Cluster::nodes`]).
    pub fn pod_netns(&self, ip: IpAddr) -> Result<PathBuf> {
        for node in &self.plan.nodes {
            let results = self.paths.node(&node.name).cni_state().join("results");
            // There is no such folder before the node's first pod.
            let Ok(entries) = fs::read_dir(&results) else {
                continue;
            };
            for entry in entries {
                let path = entry
                    .with_context(|| format!("read {}", results.display()))?
                    .path();
                // A pod that ends meanwhile takes its file with it.
                let Ok(text) = fs::read_to_string(&path) else {
                    continue;
                };
                if let Some(sandbox) = cni::sandbox_with_address(&text, ip) {
                    return self.outside_path(&node.name, &sandbox);
                }
            }
        }
        bail!("no pod of cluster {} has address {ip}", self.paths.name())
    }

    /// A path of the node's mount namespace, as it can be opened from here.
    fn outside_path(&self, node: &str, inside: &str) -> Result<PathBuf> {
        let name = format!("containerd-{node}");
        let record = process::find(&self.paths.records(), &name);
        let Some(record) = record.filter(|record| record.process.alive()) else {
            bail!(
                "{name} does not run: bring cluster {} up again",
                self.paths.name()
            );
        };
        // /var/run is a link to /run, and an absolute link would be followed from here, not from inside.
        let inside = inside
            .strip_prefix("/var")
            .filter(|rest| rest.starts_with("/run/"))
            .unwrap_or(inside);
        let path = PathBuf::from(format!("/proc/{}/root{inside}", record.process.pid));
        ensure!(
            path.exists(),
            "{} is gone: the pod has just ended",
            path.display()
        );
        Ok(path)
    }
}

/// Names of the nodes in a NodeList that are Ready.
fn ready_nodes(list: &Value) -> Vec<String> {
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    let nodes = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes
        .iter()
        .filter(ready)
        .filter_map(|node| Some(node["metadata"]["name"].as_str()?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_without_conditions_is_not_ready() {
        let node = |name: &str, conditions: Value| json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
        let list = json!({"items": [
            node("a", json!([{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": "False"}])),
            node("b", json!([{"type": "Ready", "status": "True"}])),
            json!({"metadata": {"name": "c"}}),
        ]});
        assert_eq!(ready_nodes(&list), ["b"]);
    }
}
