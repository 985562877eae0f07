//! What a node's kernel holds, and the enforcer's process there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringfence_tests::kube_objects::{get, output};
use ringfence_tests::probe;
use ringfence_tests::testbed::Node;
use serde_json::Value;

use crate::lab::Lab;

/// A node's rules and sets, of both iptables variants and both families, without counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    lines: Vec<String>,
}

impl Kernel {
    /// What is ours: every name of ours says so.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str).filter(|line| is_ours(line))
    }

    /// What is not.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .map(String::as_str)
            .filter(|line| !is_ours(line))
    }
}

fn is_ours(line: &str) -> bool {
    line.to_lowercase().contains("ringf")
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl Lab {
    /// Reads what the node's kernel holds.
    pub(crate) fn kernel(&self, node: &Node) -> Result<Kernel> {
        let mut lines = Vec::new();
        for program in [
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
        ] {
            let text = output(
                Command::new("nsenter")
                    .arg(format!("--net={}", node.netns.display()))
                    .arg(program),
            )?;
            let rules = text.lines().filter(|line| !line.starts_with('#'));
            lines.extend(rules.map(|line| format!("{program} {}", without_counters(line))));
        }
        let sets = output(
            Command::new("nsenter")
                .arg(format!("--net={}", node.netns.display()))
                .args(["ipset", "save", "-sorted"]),
        )?;
        lines.extend(sets.lines().map(|line| format!("ipset {line}")));
        Ok(Kernel { lines })
    }

    fn enforcer_pod(&self, node: &str) -> Result<Value> {
        let on_node = format!("spec.nodeName={node}");
        let label = "app.kubernetes.io/name=ringfence-enforcer";
        let list = get(
            &self.cluster,
            &[
                "pods",
                "-n",
                "ringfence-system",
                "-l",
                label,
                "--field-selector",
                &on_node,
            ],
        )?;
        list["items"]
            .get(0)
            .cloned()
            .with_context(|| format!("no enforcer pod on {node}"))
    }

    /// How often the node's enforcer was restarted.
    pub(crate) fn enforcer_restarts(&self, node: &str) -> Result<u64> {
        let pod = self.enforcer_pod(node)?;
        pod["status"]["containerStatuses"][0]["restartCount"]
            .as_u64()
            .context("the enforcer has no container status")
    }

    /// The metrics of the node's enforcer.
    pub(crate) fn enforcer_metrics(&self, node: &str) -> Result<String> {
        self.metrics_of(&self.enforcer_pod(node)?, 9470)
    }

    /// The metrics of every replica of both programs: program, pod, text.
    pub(crate) fn program_metrics(&self) -> Result<Vec<(String, String, String)>> {
        let mut all = Vec::new();
        for (program, port) in [("ringfence-operator", 9301), ("ringfence-enforcer", 9470)] {
            let label = format!("app.kubernetes.io/name={program}");
            let list = get(&self.cluster, &["pods", "-n", "ringfence-system", "-l", &label])?;
            let pods = list["items"].as_array().context("kubectl printed no list")?;
            ensure!(!pods.is_empty(), "no pod of {program}");
            for pod in pods {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                all.push((program.to_owned(), name, self.metrics_of(pod, port)?));
            }
        }
        Ok(all)
    }

    fn metrics_of(&self, pod: &Value, port: u16) -> Result<String> {
        let address = pod["status"]["podIP"].as_str().unwrap_or_default();
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("a pod without an address: {}", pod["metadata"]["name"]))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let nodes = self.cluster.nodes();
        let node = nodes
            .iter()
            .find(|n| n.name == node)
            .context("a pod on an unknown node")?;
        probe::http_get(&node.netns, SocketAddr::new(address, port), "/metrics")
    }
}

/// `:CHAIN ACCEPT [12:3456]` without what counts packets.
fn without_counters(line: &str) -> &str {
    match (line.starts_with(':'), line.find(" [")) {
        (true, Some(end)) => &line[..end],
        _ => line,
    }
}
