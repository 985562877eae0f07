//! Peers that are ServiceAccounts: by their stamps where these can be relied on, by the addresses of their pods where not.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use ringfence_crd::Peer;
use ringfence_policy::{ObjectKey, Pod, Selector};

use super::Problem;
use super::peers;
use crate::accounts::{account_of, bears, stamp};
use crate::view::ClusterView;

/// How many pods of one peer are followed by address. Each is an object to watch and, on every change, a policy to write.
const FOLLOWED: usize = 1000;

/// Why a ServiceAccount's stamp is not relied on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The cluster does not refuse wrong stamps.
    Unprotected,
    /// A pod says that it runs as the account, and does not.
    Forged {
        /// The pod.
        pod: ObjectKey,
    },
    /// A pod of the account has no stamp.
    Unstamped {
        /// The pod.
        pod: ObjectKey,
    },
}

/// The pods that a peer's account is about.
struct Reach {
    /// Those that run as the account, by namespace and name.
    members: Vec<Pod>,
    doubt: Option<Doubt>,
}

impl Reach {
    /// Looks at the pods that a peer written in namespace `own` means, of one namespace or (`within` is None) of all.
    fn of(view: &ClusterView, peer: &Peer, account: &str, own: &str, within: Option<&str>) -> Self {
        let selector = Selector::try_from(&peer.pod_selector.clone().unwrap_or_default()).ok();
        let stamp = stamp(account);
        let (mut members, mut forged, mut unstamped) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for object in &candidates(view, peer, account, own, within) {
            let is_member = account_of(object) == Some(account);
            if !is_member && !bears(object.labels(), &stamp) {
                continue;
            }
            let pod = Pod::from_api(object);
            let meant = selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&pod.labels));
            if !meant || pod.finished || pod.host_network {
                continue;
            }
            if !is_member {
                forged.insert(pod.key);
                continue;
            }
            if !bears(&pod.labels, &stamp) {
                unstamped.insert(pod.key.clone());
            }
            members.push(pod);
        }
        members.sort_by(|a, b| a.key.cmp(&b.key));
        let forged = forged.pop_first().map(|pod| Doubt::Forged { pod });
        let unstamped = unstamped.pop_first().map(|pod| Doubt::Unstamped { pod });
        let doubt = if view.stamps_protected {
            forged.or(unstamped)
        } else {
            Some(Doubt::Unprotected)
        };
        Self { members, doubt }
    }
}

/// The pods that run as an account, or may say that they do, and that a peer written in namespace `own` reaches.
fn candidates(
    view: &ClusterView,
    peer: &Peer,
    account: &str,
    own: &str,
    within: Option<&str>,
) -> Vec<Arc<ApiPod>> {
    let namespaces: BTreeSet<String> = match (within, &peer.namespace, &peer.namespace_selector) {
        (Some(within), ..) => [within.to_owned()].into(),
        (None, Some(name), _) => [name.clone()].into(),
        (None, None, None) => [own.to_owned()].into(),
        (None, None, Some(_)) => view.concerns.homes(account),
    };
    let reached = namespaces
        .iter()
        .filter(|namespace| peers::reaches(view, peer, own, namespace));
    let pods = reached.flat_map(|namespace| {
        let names = view.concerns.members(account, namespace);
        let all = view.pods.get(namespace).into_iter().flatten();
        all.filter(move |pod| names.contains(&pod.name_any())).cloned()
    });
    pods.collect()
}

/// Whoever runs as an account, as peers of an ingress rule of namespace `own`. None of them if no pod does and stamps can't
/// be relied on.
pub(super) fn ingress_peers(
    view: &ClusterView,
    peer: &Peer,
    account: &str,
    own: &str,
) -> Vec<NetworkPolicyPeer> {
    let reach = Reach::of(view, peer, account, own, None);
    if reach.doubt.is_none() {
        return vec![peers::selected_peer(peer, own, stamped(peer, account))];
    }
    let followed = reach.members.iter().take(FOLLOWED);
    let addresses: BTreeSet<_> = followed.flat_map(|pod| pod.addresses.iter().copied()).collect();
    addresses.into_iter().map(single).collect()
}

/// One address as a peer.
pub(super) fn single(address: std::net::IpAddr) -> NetworkPolicyPeer {
    let length = if address.is_ipv4() { 32 } else { 128 };
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: format!("{address}/{length}"),
            except: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// The selector of an account's pods in one namespace, which the peer reaches. None where a stamp could be a lie: egress
/// can't be opened by address, for a policy chooses the pods that it is about by their labels alone.
pub(super) fn selector_in(
    view: &ClusterView,
    peer: &Peer,
    account: &str,
    own: &str,
    within: &str,
) -> Option<LabelSelector> {
    let reach = Reach::of(view, peer, account, own, Some(within));
    match reach.doubt {
        None | Some(Doubt::Unstamped { .. }) => Some(stamped(peer, account)),
        Some(Doubt::Unprotected | Doubt::Forged { .. }) => None,
    }
}

/// The peer's own selector, narrowed to the pods that carry the account's stamp.
fn stamped(peer: &Peer, account: &str) -> LabelSelector {
    let mut selector = peer.pod_selector.clone().unwrap_or_default();
    let required = stamp(account)
        .into_iter()
        .map(|(key, value)| LabelSelectorRequirement {
            key,
            operator: "In".to_owned(),
            values: Some(vec![value]),
        });
    selector
        .match_expressions
        .get_or_insert_default()
        .extend(required);
    selector
}

/// What there is to say about the accounts among the clients of a grant of namespace `own`.
pub(super) fn problems(view: &ClusterView, clients: &[Peer], own: &str) -> Vec<Problem> {
    let named = clients
        .iter()
        .filter_map(|peer| Some((peer, peer.service_account.as_deref()?)));
    named
        .flat_map(|(peer, account)| problems_of(view, peer, account, own))
        .collect()
}

fn problems_of(view: &ClusterView, peer: &Peer, account: &str, own: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let reach = Reach::of(view, peer, account, own, None);
    if view.denied(own).ingress
        && let Some(doubt) = reach.doubt
    {
        problems.push(Problem::AccountByAddress {
            account: account.to_owned(),
            pods: reach.members.len().min(FOLLOWED),
            why: doubt,
        });
        if reach.members.len() > FOLLOWED {
            problems.push(Problem::TooManyPods {
                account: account.to_owned(),
                followed: FOLLOWED,
                pods: reach.members.len(),
            });
        }
    }
    let reached = peers::reached(view, std::iter::once(peer), own);
    let closed = reached
        .into_iter()
        .filter(|namespace| view.denied(namespace).egress && peers::consents(view, namespace, own));
    for namespace in closed {
        let reach = Reach::of(view, peer, account, own, Some(&namespace));
        if let Some(doubt) = reach.doubt.filter(|_| !reach.members.is_empty()) {
            problems.push(Problem::AccountEgressClosed {
                account: ObjectKey::new(namespace, account),
                why: doubt,
            });
        }
    }
    problems
}
