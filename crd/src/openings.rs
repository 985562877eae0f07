//! The well-known openings of a ZeroTrustNamespace that are derived from what is in the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{
    addresses_schema, cidrs_schema, namespace_name_schema, selector_schema, service_name_schema,
};
use crate::{Peer, PodPort};

/// The address at which NodeLocal DNSCache listens unless it is told otherwise.
pub const NODE_LOCAL_DNS: &str = "169.254.20.10";

/// Name resolution by the cluster's DNS Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.enabled) && !self.enabled && (has(self.services) || has(self.nodeLocal)))")
    .message("services and nodeLocal say where DNS is, so they need enabled: true"))]
pub struct Dns {
    /// Allow every pod of this namespace to reach the cluster's DNS pods on the DNS Service's ports, by UDP and TCP.
    #[serde(default = "enabled")]
    pub enabled: bool,

    /// The DNS Services of this cluster, all of which are opened. Without any, the first of those that the operator knows:
    /// its option `--dns-service`, or the names under which distributions install the cluster's DNS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub services: Vec<ServiceName>,

    /// Also allow NodeLocal DNSCache: port 53 of the addresses at which it listens on every node, and of the DNS Services'
    /// cluster addresses, which it takes over there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_local: Option<NodeLocalDns>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            enabled: true,
            services: Vec::new(),
            node_local: None,
        }
    }
}

/// A DNS cache on every node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeLocalDns {
    /// The addresses at which the cache listens; 169.254.20.10 unless it was installed with others.
    #[serde(default = "node_local_addresses")]
    #[schemars(schema_with = "addresses_schema")]
    pub addresses: Vec<String>,
}

/// A Service of any namespace, by its name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    /// The Service's namespace.
    #[schemars(schema_with = "namespace_name_schema")]
    pub namespace: String,

    /// The Service's name.
    #[schemars(schema_with = "service_name_schema")]
    pub name: String,
}

/// Who may scrape metrics from the pods of a namespace, and on which ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Monitoring {
    /// The scrapers: a peer without a namespace means pods of this namespace. At least one.
    #[schemars(length(min = 1, max = 50))]
    pub from: Vec<Peer>,

    /// The metrics ports, as ports of the pods (container ports), not of a Service. Without any, and without `discover`,
    /// every port of every pod of this namespace is open to the scrapers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PodPort>,

    /// Where to find metrics ports besides `ports`: each is opened on those pods only which it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub discover: Vec<MetricsSource>,
}

/// What says on which ports pods serve metrics.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricsSource {
    /// Pods with the annotation `prometheus.io/scrape: "true"`: the port in `prometheus.io/port`, or every port that the pod
    /// declares where there is none. Pods are told apart by their labels, so the port opens on all pods of this namespace
    /// that carry the same ones.
    Annotations,
    /// PodMonitors (monitoring.coreos.com) of any namespace that select pods of this one.
    PodMonitors,
    /// ServiceMonitors (monitoring.coreos.com) of any namespace that select Services of this one.
    ServiceMonitors,
}

/// Ingress controllers and gateways that bring requests to the back ends of a namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct IngressControllers {
    /// The controllers' pods: a peer without a namespace means pods of this namespace. At least one. They reach the pods
    /// behind every Service that an Ingress or an HTTPRoute of this namespace names as a back end, on the targetPort of the
    /// port it names, and nothing else.
    #[schemars(length(min = 1, max = 50))]
    pub from: Vec<Peer>,
}

/// Services that clients outside the cluster call, by a node's port or a load balancer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.service) != has(self.serviceSelector)")
        .message("give exactly one of service and serviceSelector"),
    validation = Rule::new("!has(self.from) || self.from.all(peer, has(peer.cidr))")
        .message("clients outside the cluster are addresses: every peer needs cidr; for pods write a ServiceAccess")
        .field_path(".from"),
)]
pub struct External {
    /// Name of a Service of this namespace, of type NodePort or LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "service_name_schema")]
    pub service: Option<String>,

    /// Selects Services of this namespace by their labels; those of other types than NodePort and LoadBalancer are not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub service_selector: Option<LabelSelector>,

    /// The clients' addresses. Without any, the Service's own loadBalancerSourceRanges, and everybody where it has none, pods
    /// of this cluster included.
    /// With externalTrafficPolicy Cluster a client comes in with the address of the node that it called: then every
    /// node's addresses are allowed as well, and with them whoever may call a node's port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub from: Vec<Peer>,

    /// Further networks that nodes send from, for externalTrafficPolicy Cluster: nodes of some overlay networks use the
    /// address of a tunnel, which their Node objects do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs_schema")]
    pub node_networks: Vec<String>,
}

/// Pods that may call the Kubernetes API server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new(
    "self.clients.all(peer, !has(peer.namespace) && !has(peer.namespaceSelector) && !has(peer.cidr))")
    .message("the API server's clients are pods of this namespace: leave out namespace, namespaceSelector and cidr")
    .field_path(".clients"))]
pub struct ApiServer {
    /// The pods, of this namespace: at least one peer. They reach the addresses and ports of the Service `kubernetes` of
    /// namespace `default`, as its EndpointSlices tell them.
    #[schemars(length(min = 1, max = 50))]
    pub clients: Vec<Peer>,
}

/// Calls of the API server to the webhooks and aggregated APIs that this namespace serves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Webhooks {
    /// Where the API server calls from. Without any, its own addresses, as the EndpointSlices of the Service `kubernetes` of
    /// namespace `default` tell them; where it calls through others (konnectivity agents, say), these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub from: Vec<Peer>,
}

fn enabled() -> bool {
    true
}

fn node_local_addresses() -> Vec<String> {
    vec![NODE_LOCAL_DNS.to_owned()]
}
