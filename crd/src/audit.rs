//! AuditNetworkPolicy: a NetworkPolicy on trial.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What the policy would say: the spec of a NetworkPolicy, field by field.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "AuditNetworkPolicy",
    plural = "auditnetworkpolicies",
    shortname = "anp",
    category = "ringfence",
    namespaced,
    derive = "PartialEq",
    doc = "A NetworkPolicy on trial. Enforcers judge traffic as if it were a NetworkPolicy beside the real ones, report what it would drop or end, and drop nothing. Its spec is that of a NetworkPolicy: to put it in force, create a NetworkPolicy with the same spec and delete this.",
    printcolumn(
        name = "Pod-Selector",
        type_ = "string",
        json_path = ".spec.podSelector",
        description = "The pods that it is about."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AuditNetworkPolicySpec {
    /// The pods of this namespace that the policy would isolate; an empty selector, or none, is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,

    /// The directions that it would isolate: Ingress, Egress or both. Left out, it is Ingress, and Egress as well if there
    /// are egress rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2))]
    #[x_kube(validation = Rule::new("self.all(t, t in ['Ingress', 'Egress'])")
        .message("policyTypes must be Ingress, Egress or both"))]
    pub policy_types: Option<Vec<String>>,

    /// Who may connect to the pods, and to which ports; what no rule of any policy allows would be dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,

    /// To whom the pods may connect, and to which ports; what no rule of any policy allows would be dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
}

impl From<NetworkPolicy> for AuditNetworkPolicy {
    /// The policy on trial that stands for this one, with its metadata.
    fn from(policy: NetworkPolicy) -> Self {
        let spec = policy.spec.unwrap_or_default();
        Self {
            metadata: policy.metadata,
            spec: AuditNetworkPolicySpec {
                pod_selector: spec.pod_selector,
                policy_types: spec.policy_types,
                ingress: spec.ingress,
                egress: spec.egress,
            },
        }
    }
}

impl AuditNetworkPolicy {
    /// The NetworkPolicy that this one stands for.
    #[must_use]
    pub fn as_policy(&self) -> NetworkPolicy {
        let AuditNetworkPolicySpec {
            pod_selector,
            policy_types,
            ingress,
            egress,
        } = self.spec.clone();
        NetworkPolicy {
            metadata: self.metadata.clone(),
            spec: Some(NetworkPolicySpec {
                pod_selector,
                policy_types,
                ingress,
                egress,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::{Value, json};

    use super::AuditNetworkPolicy;

    #[test]
    fn an_audit_policy_says_what_a_networkpolicy_with_its_spec_says() {
        let object = |api: &str, kind: &str| -> Value {
            json!({
                "apiVersion": api,
                "kind": kind,
                "metadata": {"name": "db", "namespace": "shop", "uid": "1", "generation": 3},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "sql", "protocol": "TCP"}]}],
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 1, "endPort": 9}]}],
                },
            })
        };
        let audit: AuditNetworkPolicy =
            serde_json::from_value(object("ringfence.dev/v1alpha1", "AuditNetworkPolicy")).unwrap();
        let real: NetworkPolicy =
            serde_json::from_value(object("networking.k8s.io/v1", "NetworkPolicy")).unwrap();
        assert_eq!(audit.as_policy(), real);
        assert_eq!(AuditNetworkPolicy::from(real), audit);
    }
}
