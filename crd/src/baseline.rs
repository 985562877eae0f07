//! ZeroTrustBaseline: what holds in every namespace that says nothing else.

#![allow(clippy::duplicated_attributes, reason = "columns of one type repeat the type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, LabelSelectorRequirement};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{requirements_schema, selector_schema};
use crate::status::conditions_schema;
use crate::{Allow, DefaultDeny, Mode, NamespacePeer};

/// Namespaces that no ZeroTrustBaseline ever covers, whatever it says. Ringfence's own namespace is another.
pub const NEVER_COVERED: [&str; 1] = ["kube-system"];

/// What holds in every namespace that is selected, and how far a namespace may go its own way.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ZeroTrustBaseline",
    plural = "zerotrustbaselines",
    shortname = "ztb",
    category = "ringfence",
    status = "ZeroTrustBaselineStatus",
    derive = "PartialEq",
    doc = "Ring-fences every namespace of the cluster that it selects, those that are yet to come included, as if each had a ZeroTrustNamespace with what stands here. A namespace with a ZeroTrustNamespace of its own goes by that one, within the limits set here. The namespaces kube-system and Ringfence's own are never covered. There is one, and it is called `default`.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be 'default': a cluster has one ZeroTrustBaseline, so that no two can disagree"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "What is done about traffic that is not allowed."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether everything asked for is in place, in every namespace that has no ZeroTrustNamespace of its own."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why Ready is what it is."),
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaces.selected", description = "Namespaces that are selected."),
    printcolumn(name = "Covered", type_ = "string", json_path = ".status.covered", description = "Pods isolated in every direction asked for, of all pods that can be, in namespaces without a ZeroTrustNamespace of their own."),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforced", description = "Namespaces whose policies all their nodes report in their kernel, of all without a ZeroTrustNamespace of their own."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation.")
)]
#[serde(rename_all = "camelCase")]
pub struct ZeroTrustBaselineSpec {
    /// The namespaces that are covered, by their labels; an empty selector, or none, is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub namespace_selector: Option<LabelSelector>,

    /// Namespaces that are left alone, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 500),
        inner(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    pub exempt_namespaces: Vec<String>,

    /// What is done about traffic that is not allowed. `Enforce` denies it, `Audit` lets it pass and reports it. Required, so
    /// that nobody is surprised.
    pub mode: Mode,

    /// The directions in which every pod is isolated: both, unless one is set to false.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.ingress || self.egress")
        .message("defaultDeny must deny at least one of ingress and egress: to deny neither, delete the ZeroTrustBaseline"))]
    pub default_deny: DefaultDeny,

    /// Pods that are left alone in every namespace: those whose labels meet at least one of these requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "requirements_schema")]
    pub exempt: Vec<LabelSelectorRequirement>,

    /// Well-known traffic that stays allowed. Peers without a namespace are of the namespace that is covered. A
    /// ZeroTrustNamespace inherits each of these openings that it does not set itself; `sameNamespace` is never inherited.
    #[serde(default)]
    pub allow: Allow,

    /// Consent in the name of every namespace: namespaces whose ServiceAccess (or ZeroTrustNamespace, for monitoring) may add
    /// egress rules to its pods. A ZeroTrustNamespace adds its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub accept_egress_from: Vec<NamespacePeer>,

    /// In what a ZeroTrustNamespace may ask for less than what stands here. What it may not loosen counts as it stands here,
    /// and the ZeroTrustNamespace says so (`Accepted=False`, reason `NotPermitted`). Being stricter is always allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub may_loosen: Vec<Freedom>,
}

/// Something that a ZeroTrustNamespace may loosen.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freedom {
    /// `spec.mode`: Audit where the ZeroTrustBaseline says Enforce.
    Mode,
    /// `spec.defaultDeny`: a direction that the ZeroTrustBaseline denies may stay open.
    DefaultDeny,
    /// `spec.exempt`: pods may be left alone that the ZeroTrustBaseline does not leave alone.
    Exempt,
    /// `spec.allow.sameNamespace`: more than the ZeroTrustBaseline allows.
    SameNamespace,
}

impl Freedom {
    /// The name as it is written in `spec.mayLoosen`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mode => "Mode",
            Self::DefaultDeny => "DefaultDeny",
            Self::Exempt => "Exempt",
            Self::SameNamespace => "SameNamespace",
        }
    }

    /// The field of a ZeroTrustNamespace that it is about.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Mode => "spec.mode",
            Self::DefaultDeny => "spec.defaultDeny",
            Self::Exempt => "spec.exempt",
            Self::SameNamespace => "spec.allow.sameNamespace",
        }
    }
}

/// What the operator has to say about the ZeroTrustBaseline.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ZeroTrustBaselineStatus {
    /// The generation of the spec that this status is about; -1 before anybody has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The conditions: Ready, Accepted, ResolvedRefs, Programmed, Covered, Enforced, and, while they hold, Reconciling and
    /// Stalled. Each is about all namespaces without a ZeroTrustNamespace of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// How many namespaces there are of each sort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BaselineNamespaces>,

    /// Pods isolated in every direction asked for, of all pods that can be, in namespaces without a ZeroTrustNamespace of
    /// their own: `120/120`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<String>,

    /// Namespaces whose policies all their nodes report in their kernel, of all without a ZeroTrustNamespace of their own;
    /// `Unknown` while no enforcer reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,

    /// The first few namespaces in which something is not as it should be, and what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub troubled: Vec<TroubledNamespace>,
}

/// How many namespaces there are of each sort.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BaselineNamespaces {
    /// Namespaces that are selected.
    pub selected: i32,
    /// Those of them that go by a ZeroTrustNamespace of their own.
    pub own: i32,
    /// Namespaces that are left alone: exempt, never covered, or not selected.
    pub left_alone: i32,
}

/// A namespace in which something is not as it should be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TroubledNamespace {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The condition that does not hold there.
    #[schemars(length(max = 63))]
    pub condition: String,
    /// Why, as one word of the closed list.
    #[schemars(length(max = 63))]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 512))]
    pub message: String,
}
