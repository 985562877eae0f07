//! The Ringfence API: what users write, what the operator answers, and the CustomResourceDefinitions of both.
//!
//! ```text
//! ZeroTrustNamespace ("ztn")  closes: which directions a namespace denies, and a few well-known openings
//! ServiceAccess      ("sva")  opens:  who may call the pods behind a Service
//! ZeroTrustBaseline  ("ztb")  closes: every namespace that says nothing else
//! AuditNetworkPolicy ("anp")  tries:  what a NetworkPolicy would drop
//! NodeEnforcement    ("nenf") tells:  what a node's kernel holds
//! ExternalAccess     ("exa")  opens:  what lies outside the cluster, by network or by DNS name
//! EnforcementProbe   ("eprobe") shows: with packets, whether the cluster enforces NetworkPolicies
//! ```
//!
//! The Rust types are the source: [`generate`] turns them into the YAML files under `config/crd`, CEL rules
//! included, so that the API server itself refuses a spec that can mean nothing. [`reference`](fn@reference)
//! turns the same schemas into `docs/api.md`.

#![allow(
    unreachable_pub,
    reason = "the KubeSchema derive copies each struct into a function body"
)]

mod access;
mod argocd;
mod audit;
mod baseline;
mod conditions;
mod crds;
mod docs;
mod external;
mod namespace;
mod node;
mod openings;
mod peer;
mod port;
mod probe;
mod selector;
mod status;

pub use access::{ServiceAccess, ServiceAccessSpec, TargetKind, TargetRef};
pub use argocd::{HEALTH_KINDS, argocd};
pub use audit::{AuditNetworkPolicy, AuditNetworkPolicySpec};
pub use baseline::{
    BaselineNamespaces, Freedom, NEVER_COVERED, TroubledNamespace, ZeroTrustBaseline, ZeroTrustBaselineSpec,
    ZeroTrustBaselineStatus,
};
pub use conditions::{ConditionStatus, ConditionType, Reason};
pub use crds::{UNOBSERVED, generate};
pub use docs::reference;
pub use external::{
    ExternalAccess, ExternalAccessSpec, ExternalEgress, ExternalIngress, ExternalPeer, ExternalPort,
};
pub use namespace::{Allow, DefaultDeny, Mode, SameNamespace, ZeroTrustNamespace, ZeroTrustNamespaceSpec};
pub use node::{
    AppliedNamespace, AuditedNamespace, LastError, MOST_DROPS, MOST_NAMESPACES, MOST_NOT_APPLIED,
    NodeEnforcement, NodeEnforcementSpec, NodeEnforcementStatus, NotApplied, TopDrop,
};
pub use openings::{
    ApiServer, Dns, External, IngressControllers, MetricsSource, Monitoring, NODE_LOCAL_DNS, NodeLocalDns,
    ServiceName, Webhooks,
};
pub use peer::{NamespacePeer, Peer};
pub use port::{PodPort, ServicePortRef, TransportProtocol};
pub use probe::{
    EnforcementProbe, EnforcementProbeSpec, EnforcementProbeStatus, MOST_PROBE_FAILURES, MOST_PROBE_NODES,
    ProbeFailure, ProbeFailureKind, ProbeToleration,
};
pub use status::{
    AuditStatus, ChecklistItem, Coverage, ExternalAccessStatus, PolicyRecord, Reopened, ResolvedName,
    ServiceAccessStatus, StepStatus, ZeroTrustNamespaceStatus,
};

/// The API group of every Ringfence kind.
pub const GROUP: &str = "ringfence.dev";

/// The one version served so far.
pub const VERSION: &str = "v1alpha1";

/// The only name a ZeroTrustNamespace may have, so that a namespace never has two that disagree.
pub const SINGLETON: &str = "default";
