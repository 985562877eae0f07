//! What a round is: which nodes, and who tries whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use ringfence_crd::{EnforcementProbeSpec, MOST_PROBE_NODES, ProbeToleration};

/// The label that tells a node's operating system.
const OS_LABEL: &str = "kubernetes.io/os";

/// What keeps a caller's traffic from its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The servers' policy.
    Ingress,
    /// The caller's own policy.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As it stands in labels and names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// One round: its nodes, and who tries whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What its pods are called by, and what its servers answer.
    pub id: String,
    /// The nodes, by name.
    pub nodes: Vec<RoundNode>,
    /// Whom the callers of each node try, as positions in `nodes`.
    pub peers: Vec<Vec<usize>>,
}

/// A node of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundNode {
    /// Its name.
    pub name: String,
    /// Whether pods can run there. Those of a dead node would stay for ever, for nobody there ends them.
    pub ready: bool,
}

impl Round {
    /// A round over these nodes.
    #[must_use]
    pub fn new(id: String, nodes: &BTreeMap<String, bool>, spec: &EnforcementProbeSpec) -> Self {
        let most = usize::try_from(spec.max_peers_per_node).unwrap_or(1);
        let all = nodes.iter().map(|(name, ready)| RoundNode {
            name: name.clone(),
            ready: *ready,
        });
        Self {
            id,
            peers: ring(nodes.len(), most),
            nodes: all.collect(),
        }
    }

    /// The name of a node's pod.
    #[must_use]
    pub fn pod_name(&self, node: usize, role: &str) -> String {
        format!("ringfence-probe-{}-{role}-{node}", self.id)
    }

    /// The names of its nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }
}

/// The nodes that a probe is about, each with whether it is ready now.
///
/// A node that is not ready stays in: nothing can be shown of it, and that must be said. A cordoned one runs pods, too.
#[must_use]
pub fn nodes(spec: &EnforcementProbeSpec, nodes: &[Arc<Node>]) -> BTreeMap<String, bool> {
    let wanted = nodes.iter().filter(|node| {
        let labels = node.labels();
        let linux = labels.get(OS_LABEL).is_none_or(|os| os == "linux");
        let selected = spec
            .node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        linux && selected && tolerates_all(spec, node)
    });
    wanted
        .take(MOST_PROBE_NODES)
        .map(|node| (node.name_any(), is_ready(node)))
        .collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

fn tolerates_all(spec: &EnforcementProbeSpec, node: &Node) -> bool {
    let Some(tolerations) = &spec.tolerations else {
        return true;
    };
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| keeps_away(taint))
        .all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether a taint is about where pods belong. Those that Kubernetes puts on nodes by itself are about how a node fares.
fn keeps_away(taint: &Taint) -> bool {
    taint.effect != "PreferNoSchedule" && !taint.key.starts_with("node.kubernetes.io/")
}

fn tolerates(toleration: &ProbeToleration, taint: &Taint) -> bool {
    let key = toleration.key.as_ref().is_none_or(|key| *key == taint.key);
    let value = toleration
        .value
        .as_ref()
        .is_none_or(|value| Some(value) == taint.value.as_ref());
    key && value
}

/// Whom the callers of each node try, as positions in the list of nodes: themselves and the next ones, in a ring.
#[must_use]
pub fn ring(nodes: usize, most: usize) -> Vec<Vec<usize>> {
    let each = most.clamp(1, nodes.max(1));
    (0..nodes)
        .map(|node| (0..each).map(|step| (node + step) % nodes).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn spec(spec: serde_json::Value) -> EnforcementProbeSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn node(name: &str, labels: serde_json::Value, taints: serde_json::Value, ready: &str) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn names(spec: serde_json::Value, all: &[Arc<Node>]) -> Vec<String> {
        nodes(&self::spec(spec), all).into_keys().collect()
    }

    fn pool() -> Vec<Arc<Node>> {
        let gpu = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
        let cordoned = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
        vec![
            node("plain", json!({"pool": "a"}), json!([]), "True"),
            node("gpu", json!({"pool": "a"}), gpu, "True"),
            node("cordoned", json!({}), cordoned, "Unknown"),
            node("windows", json!({OS_LABEL: "windows"}), json!([]), "True"),
        ]
    }

    #[test]
    fn every_linux_node_is_probed_unless_the_spec_chooses() {
        assert_eq!(names(json!({}), &pool()), ["cordoned", "gpu", "plain"]);
        assert_eq!(
            names(json!({"nodeSelector": {"pool": "a"}}), &pool()),
            ["gpu", "plain"]
        );
        assert_eq!(names(json!({"nodeSelector": {"pool": "b"}}), &pool()), [""; 0]);
    }

    #[test]
    fn given_tolerations_leave_out_nodes_with_other_taints_and_no_others() {
        assert_eq!(names(json!({"tolerations": []}), &pool()), ["cordoned", "plain"]);
        for tolerated in [
            json!({}),
            json!({"key": "gpu"}),
            json!({"key": "gpu", "value": "yes"}),
        ] {
            let all = names(json!({"tolerations": [tolerated]}), &pool());
            assert_eq!(all, ["cordoned", "gpu", "plain"]);
        }
        let other = names(json!({"tolerations": [{"key": "gpu", "value": "no"}]}), &pool());
        assert_eq!(other, ["cordoned", "plain"]);
    }

    #[test]
    fn a_node_that_is_not_ready_stays_in_and_is_known_not_to_be() {
        let all = nodes(&spec(json!({})), &pool());
        assert_eq!((all["plain"], all["cordoned"]), (true, false));
    }

    proptest! {
        #[test]
        fn every_node_tries_itself_and_is_tried_as_often_as_it_tries(count in 0usize..60, most in 0usize..30) {
            let ring = ring(count, most);
            let mut tried = vec![0usize; count];
            for (node, peers) in ring.iter().enumerate() {
                prop_assert_eq!(peers.first(), Some(&node));
                let different: std::collections::BTreeSet<_> = peers.iter().collect();
                prop_assert_eq!(different.len(), peers.len());
                prop_assert!(peers.len() == count || peers.len() == most.max(1));
                peers.iter().for_each(|peer| tried[*peer] += 1);
            }
            prop_assert!(ring.iter().zip(tried).all(|(peers, tried)| peers.len() == tried));
        }
    }
}
