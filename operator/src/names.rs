//! Names, labels and annotations of what the operator writes.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustNamespace};
use ringfence_policy::ObjectKey;
use sha2::{Digest, Sha256};

/// The field manager of every write of the operator to a NetworkPolicy. Ownership is judged by it.
pub const FIELD_MANAGER: &str = "ringfence-operator";
/// The field manager of the operator's status writes.
pub const STATUS_MANAGER: &str = "ringfence-operator-status";

/// The label that every namespace carries its own name in.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Kind of the resource a policy comes from.
pub const ORIGIN_KIND_LABEL: &str = "ringfence.dev/origin-kind";
/// Namespace of the resource a policy comes from.
pub const ORIGIN_NAMESPACE_LABEL: &str = "ringfence.dev/origin-namespace";
/// Name of the resource a policy comes from.
pub const ORIGIN_NAME_LABEL: &str = "ringfence.dev/origin-name";
/// UID of the resource a policy comes from.
pub const ORIGIN_UID_LABEL: &str = "ringfence.dev/origin-uid";
/// What a policy is for, see [`Purpose`].
pub const PURPOSE_LABEL: &str = "ringfence.dev/purpose";
/// Digest of the spec as generated, which tells an edit by somebody else from a change of mind of our own.
pub const SPEC_DIGEST_ANNOTATION: &str = "ringfence.dev/spec-digest";
/// Tells Argo CD that an object outside its repository is no difference.
pub const ARGO_COMPARE_ANNOTATION: &str = "argocd.argoproj.io/compare-options";
/// Tells Argo CD not to delete an object outside its repository.
pub const ARGO_SYNC_ANNOTATION: &str = "argocd.argoproj.io/sync-options";

/// What a generated policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Denies all ingress.
    DenyIngress,
    /// Denies all egress.
    DenyEgress,
    /// Opens egress to the cluster's DNS.
    Dns,
    /// Opens ingress from the same namespace.
    SameNamespaceIngress,
    /// Opens egress to the same namespace.
    SameNamespaceEgress,
    /// Opens ingress from the scrapers.
    MonitoringIngress,
    /// Opens the scrapers' egress.
    MonitoringEgress,
    /// Opens ingress between the pods of a StatefulSet.
    PeersIngress,
    /// Opens egress between the pods of a StatefulSet.
    PeersEgress,
    /// Opens ingress from ingress controllers.
    IngressControllersIngress,
    /// Opens the ingress controllers' egress.
    IngressControllersEgress,
    /// Opens ingress from clients outside the cluster.
    External,
    /// Opens egress to the API server.
    ApiServer,
    /// Opens ingress from the API server, or from what it calls through.
    WebhooksIngress,
    /// Opens the egress of what the API server calls through.
    WebhooksEgress,
    /// Opens ingress to a Service's pods.
    AccessIngress,
    /// Opens egress to a Service's pods.
    AccessEgress,
    /// Opens ingress from addresses outside the cluster.
    ExternalIngress,
    /// Opens egress to addresses outside the cluster.
    ExternalEgress,
    /// Keeps pods open for ingress while the policies that isolate them are written or removed.
    BridgeIngress,
    /// Keeps pods open for egress while the policies that isolate them are written or removed.
    BridgeEgress,
}

impl Purpose {
    /// The purpose as it appears in labels and names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenyIngress => "deny-ingress",
            Self::DenyEgress => "deny-egress",
            Self::Dns => "dns",
            Self::SameNamespaceIngress => "same-namespace-ingress",
            Self::SameNamespaceEgress => "same-namespace-egress",
            Self::MonitoringIngress => "monitoring-ingress",
            Self::MonitoringEgress => "monitoring-egress",
            Self::PeersIngress => "peers-ingress",
            Self::PeersEgress => "peers-egress",
            Self::IngressControllersIngress => "controllers-ingress",
            Self::IngressControllersEgress => "controllers-egress",
            Self::External => "external",
            Self::ApiServer => "api-server",
            Self::WebhooksIngress => "webhooks-ingress",
            Self::WebhooksEgress => "webhooks-egress",
            Self::AccessIngress => "access-ingress",
            Self::AccessEgress => "access-egress",
            Self::ExternalIngress => "external-ingress",
            Self::ExternalEgress => "external-egress",
            Self::BridgeIngress => "bridge-ingress",
            Self::BridgeEgress => "bridge-egress",
        }
    }

    /// Whether it is a bridge of a transition.
    #[must_use]
    pub fn is_bridge(self) -> bool {
        matches!(self, Self::BridgeIngress | Self::BridgeEgress)
    }
}

/// The kinds of resource that policies come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OriginKind {
    /// A ZeroTrustNamespace.
    ZeroTrustNamespace,
    /// A ServiceAccess.
    ServiceAccess,
    /// An ExternalAccess.
    ExternalAccess,
    /// The ZeroTrustBaseline.
    ZeroTrustBaseline,
}

impl OriginKind {
    /// The kind as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ZeroTrustNamespace => "ZeroTrustNamespace",
            Self::ServiceAccess => "ServiceAccess",
            Self::ExternalAccess => "ExternalAccess",
            Self::ZeroTrustBaseline => "ZeroTrustBaseline",
        }
    }
}

/// The resource a policy comes from, or a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Its kind.
    pub kind: OriginKind,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its UID; empty for a resource that was never in an API server.
    pub uid: String,
}

impl Origin {
    /// The origin that a policy's labels name; None if they name none. Labels prove nothing about who made the policy.
    #[must_use]
    pub fn of_policy(policy: &NetworkPolicy) -> Option<Self> {
        let label = |key: &str| policy.labels().get(key).cloned();
        let kind = label(ORIGIN_KIND_LABEL)?;
        let kinds = [
            OriginKind::ZeroTrustNamespace,
            OriginKind::ServiceAccess,
            OriginKind::ExternalAccess,
            OriginKind::ZeroTrustBaseline,
        ];
        Some(Self {
            kind: kinds.into_iter().find(|known| known.as_str() == kind)?,
            key: ObjectKey::new(label(ORIGIN_NAMESPACE_LABEL)?, label(ORIGIN_NAME_LABEL)?),
            uid: label(ORIGIN_UID_LABEL).unwrap_or_default(),
        })
    }
}

impl From<&ZeroTrustNamespace> for Origin {
    fn from(resource: &ZeroTrustNamespace) -> Self {
        Self {
            kind: OriginKind::ZeroTrustNamespace,
            key: crate::view::key(resource),
            uid: resource.uid().unwrap_or_default(),
        }
    }
}

impl From<&ServiceAccess> for Origin {
    fn from(resource: &ServiceAccess) -> Self {
        Self {
            kind: OriginKind::ServiceAccess,
            key: crate::view::key(resource),
            uid: resource.uid().unwrap_or_default(),
        }
    }
}

impl From<&ExternalAccess> for Origin {
    fn from(resource: &ExternalAccess) -> Self {
        Self {
            kind: OriginKind::ExternalAccess,
            key: crate::view::key(resource),
            uid: resource.uid().unwrap_or_default(),
        }
    }
}

/// The longest readable part of a generated name, so that the whole stays within a label's 63 characters.
const READABLE: usize = 50;

/// How many digits of a digest a name ends with.
const DIGITS: usize = 12;

/// The name of a policy of which a namespace has one: `ringfence-deny-ingress`.
#[must_use]
pub fn singleton(purpose: Purpose) -> String {
    format!("ringfence-{}", purpose.as_str())
}

/// A name for one policy of many: a readable beginning, and a digest of everything that tells it from the others.
/// Equal arguments give equal names, and the parts are digested one by one, so that `prod1` + `db` and `prod` + `1db`
/// differ.
#[must_use]
pub fn numbered(purpose: Purpose, readable: &str, parts: &[&str]) -> String {
    let mut stem = format!("ringfence-{}-{readable}", purpose.as_str());
    stem.truncate(READABLE);
    let stem = stem.trim_end_matches(['-', '.']);
    format!(
        "{stem}-{}",
        &digest(&[&[purpose.as_str()], parts].concat())[..DIGITS]
    )
}

/// A name for another version of a policy, told apart by `text`: the readable part of its name, and a digest of both.
#[must_use]
pub fn varied(name: &str, text: &str) -> String {
    let stem = match name.rsplit_once('-') {
        Some((stem, last)) if last.len() == DIGITS && last.bytes().all(|b| b.is_ascii_hexdigit()) => stem,
        _ => name,
    };
    format!("{stem}-{}", &digest(&[name, text])[..DIGITS])
}

/// A digest of parts, as hexadecimal digits. Each part is preceded by its length, so that no two lists of parts read
/// alike.
#[must_use]
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_read_alike_when_joined_differ() {
        let one = numbered(Purpose::AccessEgress, "db", &["prod1", "db"]);
        let other = numbered(Purpose::AccessEgress, "db", &["prod", "1db"]);
        assert_ne!(one, other);
    }

    #[test]
    fn names_are_valid_object_names_of_at_most_63_characters() {
        for readable in ["api", &"x".repeat(63), &format!("{}-", "y".repeat(33)), "a.b"] {
            let name = numbered(Purpose::AccessIngress, readable, &["n", readable]);
            assert!(name.len() <= 63, "{name}");
            for label in name.split('.') {
                assert!(label.starts_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
                assert!(label.ends_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
            }
        }
    }

    #[test]
    fn a_variant_keeps_what_can_be_read_of_a_name_and_differs_from_it() {
        let name = numbered(Purpose::AccessIngress, &"x".repeat(63), &["n"]);
        let variant = varied(&name, "a");
        assert_eq!(variant[..50], name[..50]);
        assert!(variant.len() <= 63 && variant != name && variant != varied(&name, "b"));
        assert!(varied(&singleton(Purpose::Dns), "a").starts_with("ringfence-dns-"));
    }

    #[test]
    fn the_purpose_is_part_of_the_name_even_when_it_is_cut_off() {
        let long = "z".repeat(63);
        let ingress = numbered(Purpose::AccessIngress, &long, &["n", &long]);
        let egress = numbered(Purpose::AccessEgress, &long, &["n", &long]);
        assert_ne!(ingress, egress);
    }
}
