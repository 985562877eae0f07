//! The one shape in which a user says "who".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{
    cidr_schema, cidrs_schema, namespace_name_schema, selector_schema, service_account_schema,
};

/// Pods, or addresses, at the other end of a connection.
///
/// Either pods (`namespace` or `namespaceSelector`, `podSelector` and `serviceAccount`: a pod must match all that are
/// given; without a namespace, pods of the object's own namespace), or addresses (`cidr`, with `except`).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespace) || has(self.namespaceSelector) || has(self.podSelector) || has(self.serviceAccount) || has(self.cidr)")
        .message("a peer needs one of namespace, namespaceSelector, podSelector, serviceAccount or cidr: an empty peer selects nothing"),
    validation = Rule::new("!(has(self.namespace) && has(self.namespaceSelector))")
        .message("namespace and namespaceSelector are mutually exclusive: give one of the two")
        .field_path(".namespaceSelector"),
    validation = Rule::new("!has(self.cidr) || !(has(self.namespace) || has(self.namespaceSelector) || has(self.podSelector) || has(self.serviceAccount))")
        .message("cidr stands alone: put namespace, namespaceSelector, podSelector or serviceAccount into a peer of their own")
        .field_path(".cidr"),
    validation = Rule::new("!has(self.except) || has(self.cidr)")
        .message("except needs cidr: it takes addresses away from the cidr of the same peer")
        .field_path(".except"),
    validation = Rule::new(
        "!has(self.except) || !has(self.cidr) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || \
         (cidr(self.cidr).containsCIDR(e) && cidr(e).prefixLength() > cidr(self.cidr).prefixLength()))")
        .message("except must lie strictly inside cidr: give networks that are smaller than cidr and part of it")
        .field_path(".except"),
)]
pub struct Peer {
    /// Name of the namespace whose pods are meant. Without it (and without namespaceSelector), the namespace
    /// this object is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace_name_schema")]
    pub namespace: Option<String>,

    /// Selects namespaces by their labels; an empty selector selects all of them. Give this or `namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub namespace_selector: Option<LabelSelector>,

    /// Selects pods by their labels, in the namespaces the other fields name; an empty or missing selector
    /// selects all pods there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub pod_selector: Option<LabelSelector>,

    /// Name of a ServiceAccount: only pods that run as it are meant, of the namespaces the other fields name (so an account
    /// of this object's own namespace if they name none). No label of a pod's own can claim it; pods of the node's network
    /// have no address of their own and are not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "service_account_schema")]
    pub service_account: Option<String>,

    /// Addresses instead of pods, as a network in CIDR notation: `203.0.113.0/24` or `2001:db8::/32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cidr_schema")]
    pub cidr: Option<String>,

    /// Networks inside `cidr` that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs_schema")]
    pub except: Vec<String>,
}

/// Whole namespaces, by name or by label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespace) != has(self.namespaceSelector)")
        .message("give exactly one of namespace and namespaceSelector"),
)]
pub struct NamespacePeer {
    /// Name of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace_name_schema")]
    pub namespace: Option<String>,

    /// Selects namespaces by their labels; an empty selector selects all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub namespace_selector: Option<LabelSelector>,
}
