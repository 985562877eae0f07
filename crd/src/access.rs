//! ServiceAccess: the server's owner grants clients access to a Service.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::port::service_ports_schema;
use crate::selector::service_name_schema;
use crate::{Peer, ServiceAccessStatus, ServicePortRef};

/// Who may call the pods behind a Service, and on which of its ports.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ServiceAccess",
    plural = "serviceaccesses",
    shortname = "sva",
    category = "ringfence",
    namespaced,
    status = "ServiceAccessStatus",
    derive = "PartialEq",
    doc = "Grants clients access to the pods behind a Service of this namespace. It opens what a ZeroTrustNamespace denies, and denies nothing itself: where nothing is denied it has no effect.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must have at most 63 characters: generated NetworkPolicies carry it as a label"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRef.name", description = "The Service."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether everything asked for is in place."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why Ready is what it is."),
    printcolumn(name = "Backends", type_ = "integer", json_path = ".status.backends", description = "Pods behind the Service."),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforced", description = "Nodes that report these policies in their kernel, of all nodes that run the pods."),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount", description = "NetworkPolicies generated for this grant, in all namespaces."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation.")
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccessSpec {
    /// The Service, of this namespace, whose pods the clients may reach.
    pub target_ref: TargetRef,

    /// Ports of the Service, by name or number, that the clients may use; without any, all of its ports. These are the
    /// Service's ports: the generated policies carry the targetPort behind each, as the Service writes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "service_ports_schema")]
    pub ports: Vec<ServicePortRef>,

    /// Who may call: at least one peer. Where a client's own namespace denies egress and consents (its
    /// ZeroTrustNamespace's acceptEgressFrom), egress to this Service is opened there too.
    #[schemars(length(min = 1, max = 500))]
    pub clients: Vec<Peer>,
}

/// What a ServiceAccess opens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// Kind of the target. `Service` is the default and the only one.
    #[serde(default)]
    pub kind: TargetKind,

    /// Name of the Service, in this namespace.
    #[schemars(schema_with = "service_name_schema")]
    pub name: String,
}

/// The kinds a ServiceAccess may point at.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetKind {
    /// A core/v1 Service.
    #[default]
    Service,
}
