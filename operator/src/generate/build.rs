//! The one place where a NetworkPolicy object is put together, in canonical form.
//!
//! Canonical means: what the API server stores is what was sent. No empty list or map, every default written out, lists
//! sorted and without duplicates. Anything else would raise an object's generation on every write, or make equal policies
//! look different.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use ringfence_crd::ZeroTrustNamespace;
use ringfence_policy::Direction;
use serde::Serialize;

use crate::names::{
    ARGO_COMPARE_ANNOTATION, ARGO_SYNC_ANNOTATION, FIELD_MANAGER, MANAGED_BY_LABEL, ORIGIN_KIND_LABEL,
    ORIGIN_NAME_LABEL, ORIGIN_NAMESPACE_LABEL, ORIGIN_UID_LABEL, Origin, PURPOSE_LABEL, Purpose,
    SPEC_DIGEST_ANNOTATION, digest, varied,
};
use crate::view::ClusterView;

/// Everything a generated policy says.
pub(crate) struct Draft<'a> {
    pub(crate) name: String,
    pub(crate) namespace: &'a str,
    pub(crate) purpose: Purpose,
    pub(crate) origin: &'a Origin,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) pods: LabelSelector,
    pub(crate) direction: Direction,
    pub(crate) opening: Opening,
}

/// What a policy opens for the pods it isolates.
pub(crate) enum Opening {
    /// Nothing: it denies.
    Nothing,
    /// Everything.
    Everything,
    /// These peers (never none) on these ports.
    To {
        peers: Vec<NetworkPolicyPeer>,
        ports: PortSet,
    },
    /// Each of these; never none, because a policy without a rule denies.
    Ways(Vec<Way>),
}

/// Peers, never none, and the ports on which they are opened to each other: a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) peers: Vec<NetworkPolicyPeer>,
    pub(crate) ports: PortSet,
}

/// The ports of an opening.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PortSet {
    /// Every port of every protocol.
    All,
    /// These; never none, because a rule without ports would open all of them.
    Only(Vec<NetworkPolicyPort>),
}

impl PortSet {
    /// A set of the ports given, or None if there is none.
    pub(crate) fn only(mut ports: Vec<NetworkPolicyPort>) -> Option<Self> {
        ports.sort_by_key(port_order);
        ports.dedup();
        (!ports.is_empty()).then_some(Self::Only(ports))
    }

    /// The ports of both.
    pub(crate) fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Only(mut ports), Self::Only(more)) => {
                ports.extend(more);
                ports.sort_by_key(port_order);
                ports.dedup();
                Self::Only(ports)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }

    fn into_api(self) -> Option<Vec<NetworkPolicyPort>> {
        match self {
            Self::All => None,
            Self::Only(ports) => Some(ports),
        }
    }
}

fn port_order(port: &NetworkPolicyPort) -> (Option<String>, i32, Option<String>, Option<i32>) {
    let (number, name) = match &port.port {
        Some(IntOrString::Int(number)) => (*number, None),
        Some(IntOrString::String(name)) => (i32::MAX, Some(name.clone())),
        None => (0, None),
    };
    (port.protocol.clone(), number, name, port.end_port)
}

/// Puts the object together.
pub(crate) fn policy(draft: Draft<'_>) -> NetworkPolicy {
    let spec = spec(draft.pods, draft.direction, draft.opening);
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(draft.name),
            namespace: Some(draft.namespace.to_owned()),
            labels: Some(labels(draft.origin, draft.purpose)),
            annotations: Some(annotations(draft.origin, draft.namespace, &spec)),
            owner_references: Some(draft.owners),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    }
}

fn labels(origin: &Origin, purpose: Purpose) -> BTreeMap<String, String> {
    [
        (MANAGED_BY_LABEL, FIELD_MANAGER),
        (ORIGIN_KIND_LABEL, origin.kind.as_str()),
        (ORIGIN_NAMESPACE_LABEL, &origin.key.namespace),
        (ORIGIN_NAME_LABEL, &origin.key.name),
        (ORIGIN_UID_LABEL, &origin.uid),
        (PURPOSE_LABEL, purpose.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn annotations(origin: &Origin, namespace: &str, spec: &NetworkPolicySpec) -> BTreeMap<String, String> {
    let mut annotations =
        BTreeMap::from([(SPEC_DIGEST_ANNOTATION.to_owned(), spec_digest(&origin.uid, spec))]);
    // Argo CD sees a child through its owner; one that comes from another namespace's resource has no owner it knows.
    if origin.key.namespace != namespace {
        annotations.insert(ARGO_COMPARE_ANNOTATION.to_owned(), "IgnoreExtraneous".to_owned());
        annotations.insert(ARGO_SYNC_ANNOTATION.to_owned(), "Prune=false".to_owned());
    }
    annotations
}

/// The digest of a spec and of what it comes from, as it stands in [`SPEC_DIGEST_ANNOTATION`]: a resource made anew under the
/// same name is another origin.
fn spec_digest(uid: &str, spec: &NetworkPolicySpec) -> String {
    // A spec is made of strings, numbers and lists: it can always be written as JSON.
    digest(&[uid, &serde_json::to_string(spec).unwrap_or_default()])[..16].to_owned()
}

/// The same policy over fewer pods, under a name of its own: a policy that selected other pods in place would isolate some
/// and open others in a single write.
pub(crate) fn narrowed(mut policy: NetworkPolicy, pods: LabelSelector) -> NetworkPolicy {
    let pods = canonical(pods);
    let text = serde_json::to_string(&pods).unwrap_or_default();
    let uid = policy.labels().get(ORIGIN_UID_LABEL).cloned().unwrap_or_default();
    policy.metadata.name = Some(varied(&policy.name_any(), &text));
    let mut spec = policy.spec.take().unwrap_or_default();
    spec.pod_selector = Some(pods);
    policy
        .annotations_mut()
        .insert(SPEC_DIGEST_ANNOTATION.to_owned(), spec_digest(&uid, &spec));
    policy.spec = Some(spec);
    policy
}

/// The spec of a policy for one direction.
pub(crate) fn spec(pods: LabelSelector, direction: Direction, opening: Opening) -> NetworkPolicySpec {
    // A rule whose list of peers is empty would be read as one for everybody.
    let rules = match opening {
        Opening::Nothing => Vec::new(),
        Opening::Everything => vec![(None, None)],
        Opening::To { peers, ports } => rule(Way { peers, ports }).into_iter().collect(),
        Opening::Ways(ways) => distinct(ways.into_iter().filter_map(rule).collect()),
    };
    let mut spec = NetworkPolicySpec {
        pod_selector: Some(canonical(pods)),
        policy_types: Some(vec![direction_type(direction).to_owned()]),
        ..NetworkPolicySpec::default()
    };
    match direction {
        Direction::Ingress => {
            let rules = rules
                .into_iter()
                .map(|(from, ports)| NetworkPolicyIngressRule { from, ports });
            spec.ingress = Some(rules.collect()).filter(|rules: &Vec<_>| !rules.is_empty());
        }
        Direction::Egress => {
            let rules = rules
                .into_iter()
                .map(|(to, ports)| NetworkPolicyEgressRule { to, ports });
            spec.egress = Some(rules.collect()).filter(|rules: &Vec<_>| !rules.is_empty());
        }
    }
    spec
}

/// Peers and ports as a rule of either direction has them.
type Rule = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

fn rule(way: Way) -> Option<Rule> {
    let peers = distinct(way.peers);
    (!peers.is_empty()).then(|| (Some(peers), way.ports.into_api()))
}

/// The name of a direction in `policyTypes`.
fn direction_type(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

/// How many peers one policy holds, so that no object grows beyond what the API server stores.
const PEERS: usize = 250;
/// How many bytes of peers.
const PEER_BYTES: usize = 256 * 1024;

/// Peers in lists that each fit one policy: sorted, without duplicates, and none of them empty. The same peers give the same
/// lists.
pub(crate) fn portions(peers: Vec<NetworkPolicyPeer>) -> Vec<Vec<NetworkPolicyPeer>> {
    let (mut portions, mut bytes) = (Vec::<Vec<NetworkPolicyPeer>>::new(), 0);
    for peer in distinct(peers) {
        let size = serde_json::to_string(&peer).unwrap_or_default().len();
        match portions.last_mut() {
            Some(last) if last.len() < PEERS && bytes + size <= PEER_BYTES => {
                last.push(peer);
                bytes += size;
            }
            _ => {
                portions.push(vec![peer]);
                bytes = size;
            }
        }
    }
    portions
}

/// What tells the policy of a portion from those of the others. The first one, mostly the only one, needs nothing.
pub(crate) fn portion(number: usize) -> Option<String> {
    (number > 0).then(|| format!("portion-{}", number + 1))
}

fn distinct<T: Serialize>(items: Vec<T>) -> Vec<T> {
    let by_text: BTreeMap<String, T> = items
        .into_iter()
        .map(|item| (serde_json::to_string(&item).unwrap_or_default(), item))
        .collect();
    by_text.into_values().collect()
}

/// The canonical form of a selector: what is empty is absent, lists are sorted and without duplicates.
pub(crate) fn canonical(selector: LabelSelector) -> LabelSelector {
    let mut expressions = selector.match_expressions.unwrap_or_default();
    for expression in &mut expressions {
        let mut values = expression.values.take().unwrap_or_default();
        values.sort();
        values.dedup();
        expression.values = Some(values).filter(|values| !values.is_empty());
    }
    expressions.sort_by(|a, b| (&a.key, &a.operator, &a.values).cmp(&(&b.key, &b.operator, &b.values)));
    expressions.dedup();
    LabelSelector {
        match_labels: selector.match_labels.filter(|labels| !labels.is_empty()),
        match_expressions: Some(expressions).filter(|expressions| !expressions.is_empty()),
    }
}

/// The references by which a ZeroTrustNamespace owns policies of its namespace, with the anchor that keeps them when it goes.
/// Where it stands in the place of the ZeroTrustBaseline, that one. Without the resource (it is gone already), the anchor alone.
pub(crate) fn owned_by_zero_trust(
    view: &ClusterView,
    owner: Option<&ZeroTrustNamespace>,
) -> Vec<OwnerReference> {
    let own = |owner: &ZeroTrustNamespace| {
        let by_baseline = view.by_baseline.contains(&owner.namespace().unwrap_or_default());
        match view.baseline.as_deref().filter(|_| by_baseline) {
            Some(baseline) => reference(baseline),
            None => reference(owner),
        }
    };
    owner.map(own).into_iter().chain(view.anchor.clone()).collect()
}

/// The references by which a ServiceAccess or an ExternalAccess owns policies of its namespace, with the same anchor: when it
/// is deleted together with the ZeroTrustNamespace, its policies isolate pods until they are removed in their turn.
pub(crate) fn owned_by_grant<K: Resource<DynamicType = ()>>(
    view: &ClusterView,
    owner: &K,
) -> Vec<OwnerReference> {
    [reference(owner)]
        .into_iter()
        .chain(view.anchor.clone())
        .collect()
}

/// A controlling reference. It does not block the owner's deletion, which would need a permission on the owner's finalizers.
fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
