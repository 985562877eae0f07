//! What the operator answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{MOST_DROPS, TopDrop};

/// What the operator has to say about a ZeroTrustNamespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ZeroTrustNamespaceStatus {
    /// The generation of the spec that this status is about; -1 before anybody has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions: Ready, Accepted, ResolvedRefs, Programmed, Covered, Enforced, where there is an EnforcementProbe
    /// EnforcementVerified, and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Which pods of the namespace are isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,

    /// Pods isolated in every direction asked for, of all pods that can be: `12/14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<String>,

    /// Nodes that report these policies in their kernel, of all nodes that run pods of the namespace; `Unknown` while
    /// no enforcer reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,

    /// How many generated policies are in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_count: Option<i32>,

    /// What would be denied; in mode `Audit` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditStatus>,

    /// The steps of hardening a namespace, in their order, and how far this one has come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["step".to_owned()]))]
    pub checklist: Vec<ChecklistItem>,

    /// The policies that Ringfence created in this namespace, by name and UID: only these does it ever change or delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub policies: Vec<PolicyRecord>,
}

/// What the policies of a namespace would do, were they enforced, as its nodes' enforcers report.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuditStatus {
    /// Nodes whose enforcers judge connections by these very policies, of all nodes that run pods of the namespace: `3/3`;
    /// `Unknown` while no enforcer reports.
    pub judged: String,

    /// Pods that would be isolated in every direction asked for, of all pods that can be: `12/14`.
    pub would_cover: String,

    /// Since when every one of these nodes has judged by these policies; absent while one does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Connections that would have been dropped or ended since then, as far as nodes still know. 0 for long enough is the sign
    /// that `Enforce` is safe.
    pub findings: i64,

    /// When the last of them was seen; absent where there was none: nothing was found since `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_finding_time: Option<Time>,

    /// Those seen most of late, with pod, peer and port: at most 10 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_DROPS))]
    pub top_findings: Vec<TopDrop>,
}

/// What the operator has to say about a ServiceAccess.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccessStatus {
    /// The generation of the spec that this status is about; -1 before anybody has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions: Ready, Accepted, ResolvedRefs, Programmed, Enforced, and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Pods behind the Service that clients can reach by this grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<i32>,

    /// Nodes that report these policies in their kernel, of all nodes that run the pods; `Unknown` while no enforcer
    /// reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,

    /// How many policies are generated for this grant, in all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_count: Option<i32>,
}

/// What the operator has to say about an ExternalAccess.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAccessStatus {
    /// The generation of the spec that this status is about; -1 before anybody has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions: Ready, Accepted, ResolvedRefs, Programmed, Enforced, and, while they hold, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Pods that the rules are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i32>,

    /// The addresses that DNS names stand for now, those included that a name had until recently. An operator that
    /// starts anew begins with these, so that a restart closes nothing while DNS does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub names: Vec<ResolvedName>,

    /// Nodes that report these policies in their kernel, of all nodes that run the pods; `Unknown` while no enforcer
    /// reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,

    /// How many policies are generated for this resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_count: Option<i32>,
}

/// A DNS name and what it stands for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedName {
    /// The name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its addresses that are open, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub addresses: Vec<String>,
}

/// Which pods of a namespace are isolated. Pods that have finished are not counted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Pods of the namespace that shall be isolated: all but finished, host-network and exempt pods.
    pub pods: i32,
    /// Pods isolated for ingress.
    pub isolated_ingress: i32,
    /// Pods isolated for egress.
    pub isolated_egress: i32,
    /// Pods left alone on purpose, by `spec.exempt`.
    pub exempt: i32,
    /// Pods in their node's network, to which no NetworkPolicy applies.
    pub host_network: i32,
    /// The first few names of pods not isolated in every direction asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub uncovered: Vec<String>,
    /// Rules of NetworkPolicies that Ringfence did not make and that allow covered pods more than everything else does: the
    /// first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub reopened: Vec<Reopened>,
}

/// A rule of a foreign NetworkPolicy that opens covered pods further.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Reopened {
    /// The NetworkPolicy.
    #[schemars(length(max = 253))]
    pub policy: String,
    /// The rule, as a field path: `spec.ingress[0]`.
    #[schemars(length(max = 63))]
    pub rule: String,
    /// The first few names of the pods that it opens.
    #[schemars(length(max = 5))]
    pub pods: Vec<String>,
    /// How many pods it opens.
    pub pod_count: i32,
    /// To whom, as it stands in the policy; `everyone` where the rule names nobody.
    #[schemars(length(max = 512))]
    pub peers: String,
    /// At which ports, as it stands in the policy; `all` where the rule names none.
    #[schemars(length(max = 512))]
    pub ports: String,
}

/// How far a namespace has come with one step of the zero-trust checklist.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ChecklistItem {
    /// The step.
    #[schemars(length(max = 63))]
    pub step: String,
    /// Whether it is done: `True`, `False` or `NotApplicable`.
    pub status: StepStatus,
    /// Why, and what to do where it is not.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// Whether a step of the checklist is done.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// It is done.
    True,
    /// It is not, or it cannot be shown that it is.
    False,
    /// There is nothing to do.
    NotApplicable,
}

/// A policy that Ringfence created.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRecord {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its UID.
    #[schemars(length(max = 63))]
    pub uid: String,
}

/// Conditions, with the limits of the API convention and as a map by type, so that two writers never drop each
/// other's.
pub(crate) fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string",
                    "description": "What the condition is about.",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {
                    "type": "string",
                    "description": "Whether it holds.",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The generation of the spec that this condition is about.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When status last changed.",
                },
                "reason": {
                    "type": "string",
                    "description": "Why, as one word of a closed list.",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "type": "string",
                    "description": "Why, for people: the object concerned and the remedy.",
                    "maxLength": 32768,
                },
            },
        },
    })
}
