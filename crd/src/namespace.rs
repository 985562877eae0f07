//! ZeroTrustNamespace: what a namespace denies, and its well-known openings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::requirements_schema;
use crate::{
    ApiServer, Dns, External, IngressControllers, Monitoring, NamespacePeer, Webhooks,
    ZeroTrustNamespaceStatus,
};

/// What a namespace denies, and the well-known openings it keeps.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ZeroTrustNamespace",
    plural = "zerotrustnamespaces",
    shortname = "ztn",
    category = "ringfence",
    namespaced,
    status = "ZeroTrustNamespaceStatus",
    derive = "PartialEq",
    doc = "Ring-fences a namespace: every pod in it denies all traffic but what is allowed here, by a ServiceAccess or by a NetworkPolicy of your own. There is one per namespace, and it is called `default`.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be 'default': a namespace has one ZeroTrustNamespace, so that no two can disagree"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "What is done about traffic that is not allowed."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether everything asked for is in place."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why Ready is what it is."),
    printcolumn(name = "Covered", type_ = "string", json_path = ".status.covered", description = "Pods isolated in every direction asked for, of all pods that can be."),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforced", description = "Nodes that report these policies in their kernel, of all nodes that run pods of the namespace."),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount", description = "Generated NetworkPolicies in this namespace."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation.")
)]
#[serde(rename_all = "camelCase")]
pub struct ZeroTrustNamespaceSpec {
    /// What is done about traffic that is not allowed. `Enforce` denies it. `Audit` lets it pass and
    /// reports it: the same policies are generated as AuditNetworkPolicies, which enforcers try out, and `status.audit` sums up
    /// what they find. Required, so that nobody is surprised.
    pub mode: Mode,

    /// The directions in which every pod of the namespace is isolated: both, unless one is set to false.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.ingress || self.egress")
        .message("defaultDeny must deny at least one of ingress and egress: to deny neither, delete the ZeroTrustNamespace"))]
    pub default_deny: DefaultDeny,

    /// Pods that are left alone: those whose labels meet at least one of these requirements. No generated policy isolates
    /// them, so everything from and to them stays as open as it was. `NotIn` and `DoesNotExist` also leave alone pods that
    /// lack the label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "requirements_schema")]
    pub exempt: Vec<LabelSelectorRequirement>,

    /// Well-known traffic that stays allowed.
    #[serde(default)]
    pub allow: Allow,

    /// Consent: namespaces whose ServiceAccess (or ZeroTrustNamespace, for monitoring) may add egress rules to the
    /// pods of this namespace. The namespace itself always may. Without consent their grants stay one-sided, and
    /// this namespace's egress stays closed. A Service without a selector leads wherever its EndpointSlices say, so consent
    /// is consent to any address that its owner writes there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub accept_egress_from: Vec<NamespacePeer>,
}

/// What is done about traffic that is not allowed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is denied.
    Enforce,
    /// It passes, and is reported.
    Audit,
}

impl Mode {
    /// The mode as it is written in a spec.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Audit => "Audit",
        }
    }
}

/// The directions a namespace denies by default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultDeny {
    /// Deny connections to the pods of this namespace.
    #[serde(default = "enabled")]
    pub ingress: bool,

    /// Deny connections from the pods of this namespace.
    #[serde(default = "enabled")]
    pub egress: bool,
}

impl Default for DefaultDeny {
    fn default() -> Self {
        Self {
            ingress: true,
            egress: true,
        }
    }
}

/// Well-known traffic that stays allowed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// Name resolution by the cluster's DNS Service; on unless disabled.
    #[serde(default)]
    pub dns: Dns,

    /// Traffic between the pods of this namespace. `None` (the default) allows none, `All` allows all of it, and
    /// `StatefulSetPeers` lets the pods of each StatefulSet reach each other on the ports of its governing Service
    /// (`spec.serviceName`), by their targetPorts.
    #[serde(default)]
    pub same_namespace: SameNamespace,

    /// Who may scrape metrics from the pods of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,

    /// Ingress controllers and gateways that bring requests to the back ends of this namespace's Ingresses and HTTPRoutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_controllers: Option<IngressControllers>,

    /// Services of this namespace that clients outside the cluster call, by a node's port or a load balancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub external: Vec<External>,

    /// Pods of this namespace that may call the Kubernetes API server. A pod needs this to use its ServiceAccount token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<ApiServer>,

    /// Let the API server call the webhooks and aggregated APIs that pods of this namespace serve: the Services that
    /// ValidatingWebhookConfigurations, MutatingWebhookConfigurations and APIServices name, by targetPort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<Webhooks>,
}

/// Traffic between the pods of a namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameNamespace {
    /// None of it is allowed by this.
    #[default]
    None,
    /// Pods of one StatefulSet reach each other, on the ports of its governing Service.
    StatefulSetPeers,
    /// All of it is allowed.
    All,
}

fn enabled() -> bool {
    true
}
