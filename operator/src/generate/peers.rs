//! From the peers a user writes to the peers of a NetworkPolicy, and to the pods they mean in one namespace.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use ringfence_crd::{NamespacePeer, Peer};
use ringfence_policy::Selector;

use super::build::canonical;
use super::{Problem, accounts};
use crate::names::NAMESPACE_NAME_LABEL;
use crate::view::ClusterView;

/// The peers of a NetworkPolicy in namespace `own` that mean what the user wrote there. There may be none: a ServiceAccount
/// that is followed by the addresses of its pods and has no pod.
pub(crate) fn ingress_peers(view: &ClusterView, peers: &[Peer], own: &str) -> Vec<NetworkPolicyPeer> {
    peers
        .iter()
        .flat_map(|peer| match (&peer.cidr, &peer.service_account) {
            (Some(cidr), _) => vec![addresses(cidr, &peer.except)],
            (None, Some(account)) => accounts::ingress_peers(view, peer, account, own),
            (None, None) => vec![selected_peer(
                peer,
                own,
                peer.pod_selector.clone().unwrap_or_default(),
            )],
        })
        .collect()
}

/// A network without its exceptions.
pub(crate) fn addresses(cidr: &str, except: &[String]) -> NetworkPolicyPeer {
    let mut except: Vec<String> = except.iter().map(|text| network(text)).collect();
    except.sort();
    except.dedup();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: network(cidr),
            except: Some(except).filter(|list| !list.is_empty()),
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// A network as every API server takes it: newer ones refuse bits behind the prefix, which older ones ignore.
fn network(text: &str) -> String {
    text.parse()
        .map_or_else(|_| text.to_owned(), |net: IpNet| net.trunc().to_string())
}

/// Pods of the namespaces that a peer means.
pub(crate) fn selected_peer(peer: &Peer, own: &str, pods: LabelSelector) -> NetworkPolicyPeer {
    match (&peer.namespace, &peer.namespace_selector) {
        (Some(name), _) => pods_of(name, own, pods),
        (None, Some(selector)) => across(selector.clone(), pods),
        (None, None) => pods_of(own, own, pods),
    }
}

/// Pods of one namespace, as seen from a policy in namespace `own`.
pub(crate) fn pods_of(namespace: &str, own: &str, pods: LabelSelector) -> NetworkPolicyPeer {
    if namespace == own {
        return NetworkPolicyPeer {
            pod_selector: Some(canonical(pods)),
            ..NetworkPolicyPeer::default()
        };
    }
    let name = BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned())]);
    across(
        LabelSelector {
            match_labels: Some(name),
            match_expressions: None,
        },
        pods,
    )
}

/// Pods of all namespaces that a selector matches.
fn across(namespaces: LabelSelector, pods: LabelSelector) -> NetworkPolicyPeer {
    let pods = canonical(pods);
    NetworkPolicyPeer {
        namespace_selector: Some(canonical(namespaces)),
        pod_selector: Some(pods).filter(|selector| *selector != LabelSelector::default()),
        ip_block: None,
    }
}

/// The pods that peers, written in namespace `own`, mean in namespace `within`: one selector per distinct choice, by its
/// canonical text. Peers that are addresses mean no pods.
pub(crate) fn selectors_in(
    view: &ClusterView,
    peers: &[Peer],
    own: &str,
    within: &str,
) -> BTreeMap<String, LabelSelector> {
    let meant = peers
        .iter()
        .filter(|peer| peer.cidr.is_none() && reaches(view, peer, own, within));
    meant
        .filter_map(|peer| match &peer.service_account {
            Some(account) => accounts::selector_in(view, peer, account, own, within),
            None => Some(peer.pod_selector.clone().unwrap_or_default()),
        })
        .map(|selector| {
            let selector = canonical(selector);
            (serde_json::to_string(&selector).unwrap_or_default(), selector)
        })
        .collect()
}

/// Whether a peer, written in namespace `own`, means pods of namespace `within`.
pub(crate) fn reaches(view: &ClusterView, peer: &Peer, own: &str, within: &str) -> bool {
    match (&peer.namespace, &peer.namespace_selector) {
        (Some(name), _) => name == within,
        (None, Some(selector)) => selects(view, selector, within),
        (None, None) => own == within,
    }
}

/// The namespaces with something in force, or that had, whose pods peers written in namespace `own` mean. A peer that names
/// none costs a look at that one, a selector a look at each.
pub(crate) fn reached<'a>(
    view: &ClusterView,
    peers: impl Iterator<Item = &'a Peer>,
    own: &str,
) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for peer in peers.filter(|peer| peer.cidr.is_none()) {
        match (&peer.namespace, &peer.namespace_selector) {
            (Some(name), _) => reached.extend(view.zero_trust.contains_key(name).then(|| name.clone())),
            (None, Some(_)) => {
                let all = view.zero_trust.keys();
                reached.extend(all.filter(|name| reaches(view, peer, own, name)).cloned());
            }
            (None, None) => reached.extend(view.zero_trust.contains_key(own).then(|| own.to_owned())),
        }
    }
    reached
}

/// The other namespaces that peers name outright.
pub(crate) fn named_namespaces<'a>(peers: &'a [Peer], own: &'a str) -> impl Iterator<Item = &'a str> {
    peers
        .iter()
        .filter_map(|peer| peer.namespace.as_deref())
        .filter(move |name| *name != own)
}

/// Whether a list of consent covers a namespace.
pub(crate) fn accepts(view: &ClusterView, accepted: &[NamespacePeer], namespace: &str) -> bool {
    accepted
        .iter()
        .any(|peer| match (&peer.namespace, &peer.namespace_selector) {
            (Some(name), _) => name == namespace,
            (None, Some(selector)) => selects(view, selector, namespace),
            (None, None) => false,
        })
}

/// Whether a selector matches a namespace's labels. A selector that is no selector, or a namespace that does not exist,
/// matches nothing: what can't be read stays closed.
fn selects(view: &ClusterView, selector: &LabelSelector, namespace: &str) -> bool {
    let Some(labels) = view.namespace_labels(namespace) else {
        return false;
    };
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(&labels))
}

/// What keeps pods of a namespace that is named outright from using a grant of namespace `grantor`.
pub(crate) fn obstacle(view: &ClusterView, namespace: &str, grantor: &str) -> Option<Problem> {
    if !view.namespaces.contains_key(namespace) {
        return Some(Problem::NamespaceNotFound {
            namespace: namespace.to_owned(),
        });
    }
    let closed = view.denied(namespace).egress && !consents(view, namespace, grantor);
    closed.then(|| Problem::PendingConsent {
        namespace: namespace.to_owned(),
        grantor: grantor.to_owned(),
    })
}

/// Whether a namespace takes egress rules for grants of namespace `grantor`.
pub(crate) fn consents(view: &ClusterView, namespace: &str, grantor: &str) -> bool {
    let accepted = view
        .effective(namespace)
        .map(|resource| &resource.spec.accept_egress_from);
    namespace == grantor || accepted.is_some_and(|accepted| accepts(view, accepted, grantor))
}
