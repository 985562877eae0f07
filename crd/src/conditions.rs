//! The closed lists of condition types and reasons.

use std::fmt;

/// What a condition is about. Every kind uses the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The summary: Accepted, ResolvedRefs and Programmed are True, and Enforced is not False.
    Ready,
    /// The spec is valid and in force.
    Accepted,
    /// Every Service, port and namespace named exists and consents.
    ResolvedRefs,
    /// The generated policies are in the API server, exactly as generated. Never "enforced".
    Programmed,
    /// Every pod is isolated in every direction asked for, and no other policy opens it further.
    Covered,
    /// The nodes that run the covered pods report these very policies in their kernel.
    Enforced,
    /// Packets have shown that the nodes enforce NetworkPolicies: what an EnforcementProbe found.
    EnforcementVerified,
    /// Work goes on, or waits for something that may still come. Absent when not.
    Reconciling,
    /// A person must act. Absent when not.
    Stalled,
}

impl ConditionType {
    /// The type as it is written in a status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Covered => "Covered",
            Self::Enforced => "Enforced",
            Self::EnforcementVerified => "EnforcementVerified",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The three states of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can say yet.
    Unknown,
}

impl ConditionStatus {
    /// The status as it is written: `True`, `False` or `Unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition is what it is: the closed list, stable names. The same names serve as event reasons and
        /// as metric labels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason as it is written in a status.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// Everything is as it should be.
    AsExpected,
    /// The spec is accepted.
    Accepted,
    /// Nothing is denied here, so nothing needs to be opened.
    NotNeeded,
    /// The spec can't be carried out as written.
    Invalid,
    /// The ZeroTrustBaseline is stricter in something that it does not let a namespace loosen.
    NotPermitted,
    /// Every reference leads somewhere.
    Resolved,
    /// The Service named does not exist.
    TargetNotFound,
    /// The Service has no such port.
    PortNotFound,
    /// A namespace named does not exist.
    NamespaceNotFound,
    /// A client's namespace denies egress and does not accept grants from this namespace.
    PendingConsent,
    /// The Service is of a kind no policy can express.
    UnsupportedService,
    /// A DNS name has no address that could be opened.
    NameUnresolved,
    /// A DNS name points to an address that it must not point to.
    AddressRefused,
    /// Pods of a ServiceAccount do not carry its stamp, so no policy can give them egress.
    PodsUnstamped,
    /// There are more addresses than policies may hold.
    TooManyAddresses,
    /// None of the configured DNS Services exists.
    DnsNotFound,
    /// Every generated policy is in the API server, exactly as generated.
    Programmed,
    /// Policies are being written.
    Programming,
    /// A policy of somebody else has a name that is needed.
    NameConflict,
    /// The API server refused a write.
    WriteFailed,
    /// The namespace is being opened before the resource goes away.
    Terminating,
    /// Every pod is isolated, and nothing else opens it further.
    Covered,
    /// There are pods that are not isolated in every direction asked for.
    PodsUncovered,
    /// Somebody else's policy opens covered pods further.
    Overridden,
    /// The kernels of all nodes that run these pods hold these policies.
    Enforced,
    /// A node that runs these pods does not report these policies yet.
    NodesPending,
    /// A node's kernel could not be brought to these policies.
    NodesFailing,
    /// A node's enforcer is not heard of.
    NodesStale,
    /// No enforcer reports what its kernel holds.
    NoEnforcer,
    /// Nothing is denied, by choice: traffic that is not allowed is reported.
    AuditMode,
    /// Between all pairs of nodes allowed traffic passed and denied traffic did not.
    Verified,
    /// Traffic passed that a NetworkPolicy denies.
    DeniedTrafficPassed,
    /// Traffic did not pass that all NetworkPolicies allow, so its absence elsewhere proves nothing.
    AllowedTrafficLost,
    /// A round of the probe did not get to every node.
    ProbeIncomplete,
    /// There was no round of the probe yet, or not lately.
    NotVerifiedYet,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_camel_case_as_the_api_server_demands() {
        for reason in Reason::ALL {
            let name = reason.as_str();
            assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        }
    }
}
