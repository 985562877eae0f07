//! In which order to write, so that no moment is more open or more closed than both what was and what shall be.
//!
//! A policy that allows something isolates too, so the first one written closes everything that it does not allow, and the
//! last one removed opens everything. Where pods go from open to isolated, or back, by more than one write, a *bridge* goes
//! first: an allow-all policy for exactly these pods in that direction. Removing it is the one write that closes, or that
//! leaves open. A bridge never covers a pod that other policies isolate, because it would open that pod.
//!
//! ```text
//! per direction:   bridges ─► creations ─► edits that widen ─► edits that narrow ─► removals ─► bridges away
//! between them:    the direction that closes or narrows first, the one that opens or widens last; where one closes and opens
//!                  (other pods are left alone than before), the first three of both directions, then the last three of both
//! ```
//!
//! Widening before narrowing keeps what both old and new allow. Closing one direction before the other opens keeps closed
//! what neither old nor new allows: were both open for a moment, a connection that each of them denies could pass. Which direction
//! that is tells the text of the writes; where it does not, what they mean for the namespace's pods.
//!
//! So each end of a connection, at every moment, lets pass at least what it lets pass before *and* after, and at most what it lets
//! pass before *or* after. The same holds for connections as a whole, with exceptions: a connection that one end denied before
//! and the other end denies after may pass in between where
//!
//! - one change exchanges what the two directions allow: each comes to let pass, between pods of the namespace, what the other one
//!   gives up. Two changes, one for each direction, spare that;
//! - policies of others isolate some pods of the namespace, and one change turns one direction's denial into the other's;
//! - one change closes pods that were left alone and opens one end alone for others (to an account whose egress stays closed, or
//!   to what is outside).
//!
//! Sparing these would need copies of policies, split by pod, or rules for what two rules have in common, which the API can't always
//! express.
//!
//! After a crash the next plan starts from what is there. A bridge left behind is recognised by its name and its owner, kept
//! until the end, and removed.

mod bridge;
mod changes;
mod order;
mod reach;
mod sides;
mod trials;

pub use trials::{TrialPlan, plan_staged, plan_trials};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_policy::ObjectKey;

use crate::generate::Generated;
use crate::view::ClusterView;

/// The writes that turn a namespace's policies into the generated ones, in the only safe order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The writes. A step may be taken only when every step before it has succeeded; after a failure, stop, and plan anew
    /// from what is there then.
    pub steps: Vec<Step>,
    /// Policies of others that have a name that is needed. They are left alone.
    pub conflicts: Vec<Conflict>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create the policy. It must not exist: never turn this into an update.
    Create {
        /// The complete object.
        policy: Box<NetworkPolicy>,
        /// Why.
        cause: Cause,
    },
    /// Replace the whole object by this one.
    Replace {
        /// The complete object. `metadata.uid` is the one to be replaced.
        policy: Box<NetworkPolicy>,
        /// Which version is to be replaced.
        version: Version,
        /// Why.
        cause: Cause,
    },
    /// Delete the policy.
    Delete {
        /// Its namespace and name.
        key: ObjectKey,
        /// Which object, by UID, is to be deleted.
        version: Version,
        /// Why.
        cause: Cause,
    },
}

/// Which version of an object a write is meant for: the write must fail when it is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that was seen when the plan was made.
    Seen {
        /// Its UID.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
    /// The one that an earlier step of this plan wrote: use the UID and resourceVersion of the API server's answer.
    WrittenBefore,
}

/// Why a step is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user's resources, or the cluster, changed.
    Changed,
    /// Somebody else edited this field of a generated policy.
    Edited {
        /// The field that was edited.
        field: &'static str,
    },
    /// Somebody else deleted a generated policy.
    Deleted,
    /// The policy is no longer needed.
    Unneeded,
    /// It keeps pods open while policies that isolate them come or go.
    Bridge,
}

impl Cause {
    /// Whether the step repairs what somebody else did, which is worth an Event.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        matches!(self, Self::Edited { .. } | Self::Deleted)
    }
}

/// A policy of somebody else with a name that is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The policy in the way.
    pub policy: ObjectKey,
    /// Kind, namespace and name of the resource whose policy can't be written.
    pub origin: crate::names::Origin,
}

/// Plans the writes that bring a namespace's policies to what was generated for it.
///
/// Reads the namespace's pods and policies from the view. No steps: everything is as generated.
#[must_use]
pub fn plan(view: &ClusterView, namespace: &str, generated: &Generated) -> Plan {
    let changes = changes::Changes::find(view, namespace, generated);
    let steps = order::steps(view, namespace, &changes);
    Plan {
        steps,
        conflicts: changes.conflicts,
    }
}
