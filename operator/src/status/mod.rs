//! From findings and outcomes to conditions. Pure: the time is an argument.
//!
//! A status that has nothing new to say comes out equal to the one that is there, so that nothing is written: transition
//! times stay while a condition's status does, and lists keep the order they were found in.

mod access;
mod accounts;
mod audit;
mod baseline;
mod checklist;
mod condition;
mod coverage;
mod enforced;
mod external;
mod namespace;
mod probe;
mod programmed;
mod references;
mod reopened;
mod verified;

use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustNamespace};
use ringfence_policy::ObjectKey;

use crate::form::Kind;
use crate::generate::{AccessOutline, Generated};
use crate::view::ClusterView;

pub use access::access_status;
pub use baseline::{BaselineInput, Summary, baseline_status};
pub use external::external_status;
pub use namespace::{namespace_status, namespace_summary};
pub use probe::{Outcome as ProbeOutcome, probe_status};

/// A write that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteFailure {
    /// What the policy was to be written as.
    pub kind: Kind,
    /// The policy that was to be written.
    pub policy: ObjectKey,
    /// What the API server said.
    pub message: String,
}

/// Everything the status of a ZeroTrustNamespace depends on.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceInput<'a> {
    /// The cluster, with the namespace's policies as they are after the writes.
    pub view: &'a ClusterView,
    /// The resource, with the status it has now.
    pub resource: &'a ZeroTrustNamespace,
    /// What was generated for its namespace.
    pub generated: &'a Generated,
    /// Writes that failed.
    pub failures: &'a [WriteFailure],
    /// The time, for conditions that change.
    pub now: Timestamp,
}

/// Everything the status of a grant depends on.
#[derive(Debug)]
pub struct GrantInput<'a, K> {
    /// The cluster, with the policies of every namespace the outline names, and all policies and pods of the resource's own.
    pub view: &'a ClusterView,
    /// The resource, with the status it has now.
    pub resource: &'a K,
    /// What the resource leads to.
    pub outline: &'a AccessOutline,
    /// Writes of its policies that failed.
    pub failures: &'a [WriteFailure],
    /// The time, for conditions that change.
    pub now: Timestamp,
}

/// Everything the status of a ServiceAccess depends on.
pub type AccessInput<'a> = GrantInput<'a, ServiceAccess>;
/// Everything the status of an ExternalAccess depends on.
pub type ExternalInput<'a> = GrantInput<'a, ExternalAccess>;
