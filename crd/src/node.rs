//! NodeEnforcement: what a node's kernel holds, as its enforcer reports it.

#![allow(clippy::duplicated_attributes, reason = "columns of one type repeat the type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The most namespaces that a report lists; a node has no more pods than that.
pub const MOST_NAMESPACES: usize = 1000;
/// The most entries of what is not applied.
pub const MOST_NOT_APPLIED: usize = 20;
/// The most entries of what is dropped, and of what would be.
pub const MOST_DROPS: usize = 10;

/// Nothing is asked of a node here.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "NodeEnforcement",
    plural = "nodeenforcements",
    shortname = "nenf",
    category = "ringfence",
    status = "NodeEnforcementStatus",
    derive = "PartialEq",
    doc = "What a node's kernel holds, as the enforcer on that node reports it. There is one for each node that runs an enforcer, with the node's name; it goes with the node. Only enforcers write it, when something changed. Whether the enforcer is alive is in its Lease, `ringfence-enforcer-` and the node's name, in the enforcer's namespace.",
    printcolumn(
        name = "Backend",
        type_ = "string",
        json_path = ".status.backend",
        description = "What the rules are written with."
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods of the node that policies can apply to."
    ),
    printcolumn(
        name = "Isolated",
        type_ = "integer",
        json_path = ".status.isolatedPods",
        description = "Pods that a policy isolates."
    ),
    printcolumn(
        name = "Not-Applied",
        type_ = "integer",
        json_path = ".status.notAppliedCount",
        description = "Policies and namespaces that the kernel does not hold as they are."
    ),
    printcolumn(
        name = "Error",
        type_ = "string",
        json_path = ".status.lastError.name",
        description = "The last error, while it lasts."
    ),
    printcolumn(
        name = "Last-Sync",
        type_ = "date",
        json_path = ".status.lastSyncTime",
        description = "When the kernel was last brought to what the policies say."
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = 1,
        description = "The enforcer's version."
    )
)]
pub struct NodeEnforcementSpec {}

/// What the node's enforcer has to say.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnforcementStatus {
    /// The UID of the Node that this is about.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 63))]
    pub node_uid: String,

    /// The enforcer's version.
    #[schemars(length(max = 63))]
    pub version: String,

    /// What the rules are written with: `iptables-nft` or `iptables-legacy`.
    #[schemars(length(max = 63))]
    pub backend: String,

    /// The address families that are enforced: IPv4, IPv6 or both.
    #[schemars(length(max = 2))]
    pub families: Vec<String>,

    /// Pods of the node that policies can apply to: with addresses of their own, and not finished.
    pub pods: i32,

    /// Pods of the node that a policy isolates in some direction.
    pub isolated_pods: i32,

    /// NetworkPolicies in the whole cluster that the enforcer knows.
    pub policies: i32,

    /// Sets that the kernel holds for the enforcer, of all families.
    pub sets: i32,

    /// Rules that the kernel holds for the enforcer, of all families.
    pub rules: i32,

    /// The namespaces with pods on the node, and which of their policies the kernel holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_NAMESPACES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub namespaces: Vec<AppliedNamespace>,

    /// What the kernel does not hold as it is in the API: at most 20 entries, and `notAppliedCount` says how many there
    /// are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_NOT_APPLIED))]
    pub not_applied: Vec<NotApplied>,

    /// How many policies and namespaces the kernel does not hold as they are in the API.
    pub not_applied_count: i32,

    /// When the kernel was last brought to what the policies say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,

    /// Why the kernel does not hold what the policies say; absent when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,

    /// What was dropped most of late, as far as the kernel logged it: at most 10 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_DROPS))]
    pub top_drops: Vec<TopDrop>,

    /// The connections that AuditNetworkPolicies would drop or end most of late: at most 10 entries. Nothing happens to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_DROPS))]
    pub top_would_drops: Vec<TopDrop>,
}

/// A namespace with pods on the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedNamespace {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// A digest of the NetworkPolicies of this namespace, each by name, UID and generation, that the kernel holds. Equal
    /// digests are equal policies: whoever sees the policies in the API can compute it and compare.
    #[schemars(length(max = 63))]
    pub digest: String,
    /// How many policies the digest is of.
    pub policies: i32,
    /// Pods of this namespace on the node that policies can apply to.
    pub pods: i32,
    /// What the AuditNetworkPolicies of this namespace are found to do on the node; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditedNamespace>,
}

/// What the AuditNetworkPolicies of a namespace would do on a node, were they NetworkPolicies.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuditedNamespace {
    /// A digest of the AuditNetworkPolicies that connections are judged by, each by name, UID and generation.
    #[schemars(length(max = 63))]
    pub digest: String,
    /// How many they are.
    pub policies: i32,
    /// Connections of pods of this namespace on the node that would have been dropped or ended since `since`.
    pub findings: i64,
    /// When the last of them was found; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_finding_time: Option<Time>,
    /// Since when connections are judged by these policies, without a break.
    pub since: Time,
}

/// Something that the kernel does not hold as it is in the API.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotApplied {
    /// The namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The policy, where it is one; else it is what changed in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub policy: Option<String>,
    /// Why: `Unreadable`, the policy cannot be understood, and what it said before stays in force, or else it allows
    /// nothing; `NotWritten`, the kernel could not be written, `lastError` says why.
    #[schemars(length(max = 63))]
    pub reason: String,
}

/// An error that lasts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct LastError {
    /// Its stable name, the same as in the metric `ringfence_enforcer_errors_total`.
    #[schemars(length(max = 63))]
    pub name: String,
    /// What happened, and the remedy.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When this error began.
    pub time: Time,
}

/// Packets that are alike and were dropped.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct TopDrop {
    /// What became of them: `dropped`; or nothing, where only an AuditNetworkPolicy objects: `would-drop`, a connection that
    /// began, and `would-end`, one that was there before the policies said so.
    #[schemars(length(max = 63))]
    pub verdict: String,
    /// Whose policies: `egress` are the source's, `ingress` the destination's.
    #[schemars(length(max = 63))]
    pub direction: String,
    /// Who sent them: a pod as `namespace/name`, or an address.
    #[schemars(length(max = 317))]
    pub source: String,
    /// To whom: a pod as `namespace/name`, or an address.
    #[schemars(length(max = 317))]
    pub destination: String,
    /// TCP, UDP, SCTP, ICMP, or the number of another protocol.
    #[schemars(length(max = 63))]
    pub protocol: String,
    /// The destination's port, where the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// How many packets were logged in the last minutes (the kernel logs a part of many); of what would be dropped or ended,
    /// how many connections.
    pub packets: i64,
}
