//! ExternalAccess: what pods may reach, or be reached by, outside the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::selector::{cidr_schema, cidrs_schema, selector_schema};
use crate::{ExternalAccessStatus, TransportProtocol};

/// Which addresses outside the cluster chosen pods may call, or be called from.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ExternalAccess",
    plural = "externalaccesses",
    shortname = "exa",
    category = "ringfence",
    namespaced,
    status = "ExternalAccessStatus",
    derive = "PartialEq",
    doc = "Lets chosen pods of this namespace reach networks and DNS names outside the cluster, or be reached from networks outside. It opens what a ZeroTrustNamespace denies, and denies nothing itself: where nothing is denied it has no effect.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must have at most 63 characters: generated NetworkPolicies carry it as a label"),
    validation = Rule::new("(has(self.spec.egress) && self.spec.egress.size() > 0) || (has(self.spec.ingress) && self.spec.ingress.size() > 0)")
        .message("spec needs at least one rule, in egress (whom the pods may call) or ingress (who may call them)")
        .field_path(".spec.egress"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether everything asked for is in place."),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", description = "Why Ready is what it is."),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods", description = "Pods that the rules are about."),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforced", description = "Nodes that report these policies in their kernel, of all nodes that run the pods."),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount", description = "NetworkPolicies generated for this resource."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation.")
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAccessSpec {
    /// The pods of this namespace that the rules are about; an empty selector (`{}`) means all of them. Required, so that
    /// nobody opens more pods than they meant to.
    #[schemars(schema_with = "selector_schema")]
    pub pod_selector: LabelSelector,

    /// Whom the pods may call. Each rule opens its own ports to its own peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub egress: Vec<ExternalEgress>,

    /// Who may call the pods. The address that counts is the one that the packet has when it reaches the pod: behind a
    /// load balancer or a NodePort that is often a node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ingress: Vec<ExternalIngress>,
}

/// Whom pods may call, and on which ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ExternalEgress {
    /// The networks and names that may be called: at least one.
    #[schemars(length(min = 1, max = 32))]
    pub to: Vec<ExternalPeer>,

    /// The ports that may be called there; without any, all ports of all protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<ExternalPort>,
}

/// Who may call pods, and on which of their ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("self.from.all(peer, !has(peer.dnsName))")
    .message("from: a DNS name says where a server is, not where its clients come from: give the clients' network by cidr")
    .field_path(".from"))]
pub struct ExternalIngress {
    /// The networks that may call: at least one.
    #[schemars(length(min = 1, max = 32))]
    pub from: Vec<ExternalPeer>,

    /// The ports of the pods (not of a Service) that may be called; without any, all ports of all protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<ExternalPort>,
}

/// Addresses outside the cluster: a network, or whatever a DNS name stands for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cidr) != has(self.dnsName)")
        .message("give exactly one of cidr and dnsName"),
    validation = Rule::new("!has(self.except) || has(self.cidr)")
        .message("except needs cidr: it takes addresses away from the cidr of the same peer")
        .field_path(".except"),
    validation = Rule::new(
        "!has(self.except) || !has(self.cidr) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || \
         (cidr(self.cidr).containsCIDR(e) && cidr(e).prefixLength() > cidr(self.cidr).prefixLength()))")
        .message("except must lie strictly inside cidr: give networks that are smaller than cidr and part of it")
        .field_path(".except"),
)]
pub struct ExternalPeer {
    /// A network in CIDR notation: `203.0.113.0/24` or `2001:db8::/32`. `0.0.0.0/0` and `::/0` mean everybody of a
    /// family, pods and nodes included: take the cluster's own networks away with `except`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cidr_schema")]
    pub cidr: Option<String>,

    /// Networks inside `cidr` that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs_schema")]
    pub except: Vec<String>,

    /// A DNS name, whose addresses are looked up again and again as its time to live says: `api.example.com`. Addresses
    /// that it no longer has stay open for a while, for long connections. Without an answer it is closed. Answers that
    /// point into the cluster (pods, Services, nodes) or to a node itself (loopback, link-local) are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dns_name_schema")]
    pub dns_name: Option<String>,
}

/// A port, or a range of ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endPort) || self.endPort >= self.port")
    .message("endPort must not be less than port: it is the last port of a range that begins with port")
    .field_path(".endPort"))]
pub struct ExternalPort {
    /// The port, or the first one of a range.
    #[schemars(schema_with = "port_number_schema")]
    pub port: u16,

    /// The last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "port_number_schema")]
    pub end_port: Option<u16>,

    /// Transport protocol of the port; TCP if it is left out.
    #[serde(default)]
    pub protocol: TransportProtocol,
}

fn port_number_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 })
}

/// A full DNS name of a host. Its form is a rule, not a pattern, for the sake of the messages.
fn dns_name_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "x-kubernetes-validations": [
            {
                "rule": "!self.contains('*')",
                "message": "dnsName: a wildcard has no addresses that could be looked up, and only whoever sees every DNS answer could follow it: list the names, or give their network by cidr",
            },
            {
                "rule": "!isIP(self)",
                "message": "dnsName: this is an address: give it by cidr, as 203.0.113.7/32 or 2001:db8::7/128",
            },
            {
                "rule": r"self.contains('*') || isIP(self) || self.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
                "message": "dnsName: not a full DNS name in lower case, such as api.example.com (without a dot at its end)",
            },
        ],
    })
}
