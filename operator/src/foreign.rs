//! Kinds of other projects that openings are derived from, or that policies on trial are written as, too, as far as they matter
//! here. A cluster may have them or not.
//!
//! Whatever may be left out may be left out here too, and unknown fields are ignored: an object that this program reads
//! less of than its author wrote opens less, and never keeps the others from being read.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A NetworkPolicy that Calico only tries out: its flow logs tell what it would do.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedKubernetesNetworkPolicy",
    plural = "stagedkubernetesnetworkpolicies",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(default, rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What becomes of the policy when it is put in force: `Set`, it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<String>,
    /// The spec of the NetworkPolicy.
    #[serde(flatten)]
    pub policy: NetworkPolicySpec,
}

impl From<NetworkPolicy> for StagedKubernetesNetworkPolicy {
    fn from(policy: NetworkPolicy) -> Self {
        Self {
            metadata: policy.metadata,
            spec: StagedKubernetesNetworkPolicySpec {
                staged_action: Some("Set".to_owned()),
                policy: policy.spec.unwrap_or_default(),
            },
        }
    }
}

impl StagedKubernetesNetworkPolicy {
    /// The NetworkPolicy that it stands for.
    #[must_use]
    pub fn as_policy(&self) -> NetworkPolicy {
        NetworkPolicy {
            metadata: self.metadata.clone(),
            spec: Some(self.spec.policy.clone()),
        }
    }
}

/// Which requests a Gateway brings to which Services.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(default)]
pub struct HTTPRouteSpec {
    /// The rules.
    pub rules: Vec<RouteRule>,
}

/// A rule of an HTTPRoute.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteRule {
    /// Where requests go.
    pub backend_refs: Vec<BackendRef>,
    /// What is done to them on the way.
    pub filters: Vec<RouteFilter>,
}

/// A filter of a rule. Only one that sends requests elsewhere matters.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteFilter {
    /// Where copies of requests go.
    pub request_mirror: Option<RequestMirror>,
}

/// Where copies of requests go.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestMirror {
    /// The back end.
    pub backend_ref: BackendRef,
}

/// What a rule names as a back end.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct BackendRef {
    /// API group; the core one unless it is given.
    pub group: Option<String>,
    /// Kind; Service unless it is given.
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; the route's own unless it is given.
    pub namespace: Option<String>,
    /// The Service's port.
    pub port: Option<i32>,
}

/// Which pods Prometheus scrapes.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    plural = "podmonitors",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(default, rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// The pods.
    pub selector: LabelSelector,
    /// The namespaces they are in.
    pub namespace_selector: MonitoredNamespaces,
    /// Their ports.
    pub pod_metrics_endpoints: Vec<MetricsEndpoint>,
}

/// Which Services' pods Prometheus scrapes.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "ServiceMonitor",
    plural = "servicemonitors",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// The Services.
    pub selector: LabelSelector,
    /// The namespaces they are in.
    pub namespace_selector: MonitoredNamespaces,
    /// Their ports.
    pub endpoints: Vec<MetricsEndpoint>,
}

/// Namespaces that a monitor looks into: its own unless one of these is given.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct MonitoredNamespaces {
    /// All of them.
    pub any: bool,
    /// These.
    pub match_names: Vec<String>,
}

impl MonitoredNamespaces {
    /// Whether a monitor in namespace `own` looks into `namespace`.
    #[must_use]
    pub fn include(&self, own: &str, namespace: &str) -> bool {
        let none_given = self.match_names.is_empty();
        self.any || self.match_names.iter().any(|name| name == namespace) || (none_given && own == namespace)
    }
}

/// A port that serves metrics.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricsEndpoint {
    /// In a PodMonitor the name of a container port, in a ServiceMonitor that of a Service port.
    pub port: Option<String>,
    /// Number of a container port (PodMonitor only).
    pub port_number: Option<i32>,
    /// Name or number of a container port.
    pub target_port: Option<IntOrString>,
}
