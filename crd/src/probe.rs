//! EnforcementProbe: whether the cluster enforces NetworkPolicies, shown with packets.

#![allow(clippy::duplicated_attributes, reason = "columns of one type repeat the type")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::selector::labels_schema;
use crate::status::conditions_schema;

/// The most failures that a status lists.
pub const MOST_PROBE_FAILURES: usize = 20;
/// The most nodes that a status names: a cluster has no more.
pub const MOST_PROBE_NODES: usize = 5000;

/// How the probe is made.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "EnforcementProbe",
    plural = "enforcementprobes",
    shortname = "eprobe",
    category = "ringfence",
    status = "EnforcementProbeStatus",
    derive = "PartialEq",
    doc = "Shows with packets whether the cluster enforces NetworkPolicies: again and again, short-lived pods on every node try what a policy of the probe's own allows and what it denies. There is one in a cluster, and it is called `default`; without it nothing is tried.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be 'default': a cluster has one EnforcementProbe, so that no two can disagree"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type=='EnforcementVerified')].status", description = "Whether packets show that NetworkPolicies are enforced."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='EnforcementVerified')].reason", description = "Why Verified is what it is."),
    printcolumn(name = "Pairs", type_ = "string", json_path = ".status.pairs", description = "Pairs of nodes between which everything was right, of all that were tried."),
    printcolumn(name = "Last-Run", type_ = "date", json_path = ".status.lastRunTime", description = "When the last round ended."),
    printcolumn(name = "Last-Proof", type_ = "date", json_path = ".status.lastProofTime", description = "When the last round ended in which every pair was right."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation.")
)]
#[serde(rename_all = "camelCase")]
pub struct EnforcementProbeSpec {
    /// The pause between two rounds, in seconds: 5 to 86400. A round also begins when this spec changes, and when a node,
    /// an old or a new one, becomes ready. A round takes some ten seconds, up to a minute and a half where pods do not start: with less than a
    /// minute here a cluster is probed nearly all the time, which is for trying things out.
    #[serde(default = "interval_seconds")]
    #[schemars(schema_with = "interval_schema")]
    pub interval_seconds: i32,

    /// The image of the probe's pods: one with the `ringfence-operator` program as its entry point. The operator's own,
    /// unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// The nodes that are probed, by their labels; without any, all that run Linux.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub node_selector: BTreeMap<String, String>,

    /// The taints that the probe's pods tolerate: nodes with any other that keeps pods away are not probed. Every taint is
    /// tolerated unless this is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub tolerations: Option<Vec<ProbeToleration>>,

    /// How many nodes' servers the callers of a node try, their own node's included: 1 to 20. On larger clusters each node
    /// tries itself and its next neighbours in the order of the nodes' names, so that the number of pairs grows with the
    /// number of nodes and not with its square.
    #[serde(default = "max_peers_per_node")]
    #[schemars(schema_with = "peers_schema")]
    pub max_peers_per_node: i32,
}

/// A taint that is tolerated.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!has(self.value) || has(self.key)")
    .message("tolerations: a value without a key means nothing: give the taint's key, or leave the value out")
    .field_path(".value"))]
pub struct ProbeToleration {
    /// The taint's key; every taint, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub key: Option<String>,
    /// The taint's value; any, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
}

fn interval_seconds() -> i32 {
    600
}

fn interval_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 5, "maximum": 86400, "default": 600 })
}

fn max_peers_per_node() -> i32 {
    16
}

fn peers_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 20, "default": 16 })
}

/// What the last round showed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnforcementProbeStatus {
    /// The generation of the spec that this status is about; -1 before anybody has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions: EnforcementVerified, Ready, and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Pairs of nodes between which everything was right, of all that were tried: `4/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<String>,

    /// When the last round ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_time: Option<Time>,

    /// When the last round ended in which every pair was right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_proof_time: Option<Time>,

    /// The nodes that the last round was about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_PROBE_NODES))]
    pub nodes: Vec<String>,

    /// Pairs between which denied traffic passed just after their pods had started, and none did a moment later: the
    /// network plugin closes a new pod after its start, not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_at_start: Option<i32>,

    /// What was not right in the last round, the worst first: at most 20 entries, and `failureCount` says how many there
    /// are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_PROBE_FAILURES))]
    pub failures: Vec<ProbeFailure>,

    /// How many failures the last round had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_count: Option<i32>,
}

/// Something that was not right between two nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeFailure {
    /// What was not right.
    pub what: ProbeFailureKind,
    /// The node that it says something about: where denied traffic passed, the one whose pods' policies did not hold.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The caller's node.
    #[schemars(length(max = 253))]
    pub source: String,
    /// The server's node.
    #[schemars(length(max = 253))]
    pub destination: String,
    /// More about it, for people.
    #[schemars(length(max = 256))]
    pub detail: String,
}

/// What can be wrong between two nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeFailureKind {
    /// Traffic that a policy denies went through, up to the end.
    DeniedArrived,
    /// Traffic that every policy allows did not go through, so nothing is shown by what did not arrive either.
    AllowedLost,
    /// A caller ran and did not tell what it found.
    NoAnswer,
    /// A pod of the probe did not start.
    PodNotStarted,
}

impl ProbeFailureKind {
    /// As it is written in a status, and as a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeniedArrived => "DeniedArrived",
            Self::AllowedLost => "AllowedLost",
            Self::NoAnswer => "NoAnswer",
            Self::PodNotStarted => "PodNotStarted",
        }
    }
}
