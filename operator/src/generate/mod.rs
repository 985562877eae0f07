//! From what users wrote to the policies that mean it. Pure: a view in, policies and findings out.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_policy::ObjectKey;

use crate::names::Origin;
use crate::view::ClusterView;

/// What the cluster's administrator sets for all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratorConfig {
    /// The cluster's DNS Services, most likely first; the first that exists is used.
    pub dns_services: Vec<ObjectKey>,
}

/// The policies of a namespace, and what stands in the way of more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The policies, complete with metadata, in canonical form, sorted by name.
    pub policies: Vec<NetworkPolicy>,
    /// What was found wrong or missing, sorted and without duplicates.
    pub findings: Vec<Finding>,
}

/// Something a user should know about one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The resource it is about.
    pub origin: Origin,
    /// What it is.
    pub problem: Problem,
}

/// What can be found wrong or missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The Service named does not exist: its path stays closed.
    TargetNotFound {
        /// The Service.
        service: ObjectKey,
    },
    /// The Service has no such port: that path stays closed.
    PortNotFound {
        /// The Service.
        service: ObjectKey,
        /// The port, as the user wrote it.
        port: String,
    },
    /// The Service is of a kind that no policy can express.
    UnsupportedService {
        /// The Service.
        service: ObjectKey,
        /// Why not.
        why: Unsupported,
    },
    /// A client's namespace denies egress and does not accept grants from the origin's namespace.
    PendingConsent {
        /// The client's namespace.
        namespace: String,
    },
    /// A namespace named does not exist (yet).
    NamespaceNotFound {
        /// The namespace.
        namespace: String,
    },
    /// None of the configured DNS Services exists with pods behind it: name resolution stays closed.
    DnsNotFound {
        /// The Services looked for.
        tried: Vec<ObjectKey>,
    },
    /// Nothing is denied where this resource would open something.
    NotNeeded,
}

/// Why a Service can't be the target of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsupported {
    /// It is an alias for a DNS name and has no pods.
    ExternalName,
    /// It has no selector: its addresses come from elsewhere.
    NoSelector,
}

/// What one ServiceAccess leads to, in all namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessOutline {
    /// Every policy it is the origin of, as generated, sorted by namespace and name.
    pub policies: Vec<NetworkPolicy>,
    /// What was found about it.
    pub findings: Vec<Finding>,
}
