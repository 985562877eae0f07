//! Who may be concerned by what: candidates by namespace and by ServiceAccount, so that no decision looks at everything.
//!
//! Candidates may be too many, never too few: whoever asks looks at each of them itself.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{MetricsSource, Peer, ServiceAccess, ServiceName, ZeroTrustNamespace};
use ringfence_policy::ObjectKey;

use super::key;
use crate::accounts::{STAMP_LABEL, account_of, stamp};
use crate::generate::{admitted, allowed_peers, discovers};
use crate::names::{Origin, OriginKind};

/// The candidates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Concerns {
    /// ServiceAccesses by the namespaces that they may lead to policies in: their own, and those of their clients.
    pub(crate) grants: Reach<ObjectKey>,
    /// Namespaces that let somebody in, by the namespaces that callers may come from.
    pub(crate) openings: Reach<String>,
    /// Namespaces that accept egress to others by the others' labels.
    pub(crate) acceptors: OrdSet<String>,
    /// Namespaces that let in or out what monitors select.
    pub(crate) discoverers: OrdSet<String>,
    /// Namespaces whose policies may name nodes.
    pub(crate) to_nodes: OrdSet<String>,
    /// Namespaces by the Services that resolve names for them and no others.
    resolvers: OrdMap<ObjectKey, OrdSet<String>>,
    /// Pods by what they run as and by what they say that they run as, and by their namespace: many have the same account.
    members: OrdMap<(String, String), OrdSet<String>>,
    /// ServiceAccesses by the accounts that are clients, and by where these may be.
    grants_to_accounts: OrdMap<String, Reach<ObjectKey>>,
    /// Namespaces by the accounts that they open something for, and by where these may be.
    openings_for_accounts: OrdMap<String, Reach<String>>,
    /// Policies by the ServiceAccess that they say they come from.
    claimed: OrdMap<ObjectKey, OrdSet<ObjectKey>>,
}

impl Concerns {
    pub(super) fn access_comes(&mut self, access: &ServiceAccess) {
        let who = key(access);
        self.grants
            .enter(&who, &who.namespace, access.spec.clients.iter());
        enter_accounts(
            &mut self.grants_to_accounts,
            &who,
            &who.namespace,
            access.spec.clients.iter(),
        );
    }

    pub(super) fn access_goes(&mut self, access: &ServiceAccess) {
        let who = key(access);
        self.grants
            .leave(&who, &who.namespace, access.spec.clients.iter());
        leave_accounts(
            &mut self.grants_to_accounts,
            &who,
            &who.namespace,
            access.spec.clients.iter(),
        );
    }

    pub(super) fn zero_trust_comes(&mut self, namespace: &String, resource: &ZeroTrustNamespace) {
        let allow = &resource.spec.allow;
        self.openings.enter(namespace, namespace, admitted(allow));
        enter_accounts(
            &mut self.openings_for_accounts,
            namespace,
            namespace,
            allowed_peers(resource),
        );
        let accepted = &resource.spec.accept_egress_from;
        if accepted.iter().any(|peer| peer.namespace_selector.is_some()) {
            self.acceptors.insert(namespace.clone());
        }
        let monitors = [MetricsSource::PodMonitors, MetricsSource::ServiceMonitors];
        if monitors.iter().any(|source| discovers(allow, *source)) {
            self.discoverers.insert(namespace.clone());
        }
        if !allow.external.is_empty() {
            self.to_nodes.insert(namespace.clone());
        }
        for service in &allow.dns.services {
            file(&mut self.resolvers, named(service), namespace);
        }
    }

    pub(super) fn zero_trust_goes(&mut self, namespace: &String, resource: &ZeroTrustNamespace) {
        let allow = &resource.spec.allow;
        self.openings.leave(namespace, namespace, admitted(allow));
        leave_accounts(
            &mut self.openings_for_accounts,
            namespace,
            namespace,
            allowed_peers(resource),
        );
        for all in [&mut self.acceptors, &mut self.discoverers, &mut self.to_nodes] {
            all.remove(namespace);
        }
        for service in &allow.dns.services {
            strike(&mut self.resolvers, &named(service), namespace);
        }
    }

    pub(super) fn pod_comes(&mut self, pod: &Pod) {
        let pod_key = key(pod);
        for name in identities(pod) {
            let at = (name.to_owned(), pod_key.namespace.clone());
            file(&mut self.members, at, &pod_key.name);
        }
    }

    pub(super) fn pod_goes(&mut self, pod: &Pod) {
        let pod_key = key(pod);
        for name in identities(pod) {
            let at = (name.to_owned(), pod_key.namespace.clone());
            strike(&mut self.members, &at, &pod_key.name);
        }
    }

    pub(super) fn policy_comes(&mut self, policy: &NetworkPolicy) {
        if let Some(access) = access_of(policy) {
            file(&mut self.claimed, access, &key(policy));
        }
    }

    pub(super) fn policy_goes(&mut self, policy: &NetworkPolicy) {
        if let Some(access) = access_of(policy) {
            strike(&mut self.claimed, &access, &key(policy));
        }
    }

    /// Namespaces with pods that run as a ServiceAccount of this name, or may say that they do.
    pub(crate) fn homes(&self, account: &str) -> BTreeSet<String> {
        let mut homes = BTreeSet::new();
        for name in names(account) {
            let from = self.members.range((name.clone(), String::new())..);
            let all = from.take_while(|((filed, _), _)| *filed == name);
            homes.extend(all.map(|((_, namespace), _)| namespace.clone()));
        }
        homes
    }

    /// The pods of a namespace that run as a ServiceAccount of this name, or may say that they do.
    pub(crate) fn members(&self, account: &str, namespace: &str) -> OrdSet<String> {
        let all = names(account).into_iter();
        all.filter_map(|name| self.members.get(&(name, namespace.to_owned())).cloned())
            .fold(OrdSet::default(), OrdSet::union)
    }

    /// ServiceAccesses with a client that a pod runs as, or may say that it does.
    pub(crate) fn grants_to<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a ObjectKey> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        identities(pod)
            .filter_map(|name| self.grants_to_accounts.get(name))
            .flat_map(move |reach| reach.reaching(namespace))
    }

    /// Namespaces that open something for an account that a pod runs as, or may say that it does.
    pub(crate) fn openings_for<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        identities(pod)
            .filter_map(|name| self.openings_for_accounts.get(name))
            .flat_map(move |reach| reach.reaching(namespace))
    }

    /// Namespaces that name a Service to resolve names for them.
    pub(crate) fn resolvers(&self, service: &ObjectKey) -> impl Iterator<Item = &String> {
        self.resolvers.get(service).into_iter().flatten()
    }

    /// Policies that say that they come from a ServiceAccess.
    pub(crate) fn claimed(&self, access: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.claimed.get(access).into_iter().flatten()
    }
}

/// Who reaches into which namespace: by its name, or by a selector that may match any.
#[derive(Clone, Debug)]
pub(crate) struct Reach<K: Ord + Clone> {
    by_name: OrdMap<String, OrdSet<K>>,
    by_selector: OrdSet<K>,
}

// Derived, it would ask for a default of `K`.
impl<K: Ord + Clone> Default for Reach<K> {
    fn default() -> Self {
        Self {
            by_name: OrdMap::default(),
            by_selector: OrdSet::default(),
        }
    }
}

impl<K: Ord + Clone> Reach<K> {
    fn enter<'a>(&mut self, who: &K, own: &str, peers: impl Iterator<Item = &'a Peer>) {
        file(&mut self.by_name, own.to_owned(), who);
        for peer in peers {
            if let Some(name) = &peer.namespace {
                file(&mut self.by_name, name.clone(), who);
            } else if peer.namespace_selector.is_some() {
                self.by_selector.insert(who.clone());
            }
        }
    }

    fn leave<'a>(&mut self, who: &K, own: &str, peers: impl Iterator<Item = &'a Peer>) {
        strike(&mut self.by_name, own, who);
        for peer in peers {
            if let Some(name) = &peer.namespace {
                strike(&mut self.by_name, name.as_str(), who);
            }
        }
        self.by_selector.remove(who);
    }

    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_selector.is_empty()
    }

    /// Whoever may reach into a namespace, each once.
    pub(crate) fn reaching<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a K> + use<'a, K> {
        let named = self.by_name.get(namespace);
        let across = self.by_selector.iter();
        let more = across.filter(move |who| !named.is_some_and(|named| named.contains(*who)));
        named.into_iter().flatten().chain(more)
    }
}

fn file<Q: Ord + Clone, K: Ord + Clone>(map: &mut OrdMap<Q, OrdSet<K>>, at: Q, who: &K) {
    map.entry(at).or_default().insert(who.clone());
}

fn strike<Q, K, B>(map: &mut OrdMap<Q, OrdSet<K>>, at: &B, who: &K)
where
    Q: Ord + Clone + Borrow<B>,
    K: Ord + Clone,
    B: Ord + ?Sized,
{
    let Some(all) = map.get_mut(at) else {
        return;
    };
    all.remove(who);
    if all.is_empty() {
        map.remove(at);
    }
}

/// Files somebody under the accounts among peers.
fn enter_accounts<'a, K: Ord + Clone>(
    map: &mut OrdMap<String, Reach<K>>,
    who: &K,
    own: &str,
    peers: impl Iterator<Item = &'a Peer>,
) {
    for (name, peer) in accounts(peers) {
        let reach = map.entry(name).or_default();
        reach.enter(who, own, std::iter::once(peer));
    }
}

/// Strikes somebody out there.
fn leave_accounts<'a, K: Ord + Clone>(
    map: &mut OrdMap<String, Reach<K>>,
    who: &K,
    own: &str,
    peers: impl Iterator<Item = &'a Peer>,
) {
    for (name, peer) in accounts(peers) {
        let Some(reach) = map.get_mut(&name) else {
            continue;
        };
        reach.leave(who, own, std::iter::once(peer));
        if reach.is_empty() {
            map.remove(&name);
        }
    }
}

/// The peers that are accounts, by the names under which these are filed.
fn accounts<'a>(peers: impl Iterator<Item = &'a Peer>) -> impl Iterator<Item = (String, &'a Peer)> {
    let named = peers.filter_map(|peer| Some((peer.service_account.as_deref()?, peer)));
    named.flat_map(|(account, peer)| names(account).into_iter().map(move |name| (name, peer)))
}

/// A ServiceAccount's name, and what stands in the first label of its stamp.
fn names(account: &str) -> Vec<String> {
    let mut names = vec![account.to_owned()];
    names.extend(
        stamp(account)
            .remove(STAMP_LABEL)
            .filter(|first| first != account),
    );
    names
}

/// What a pod runs as, and what it says that it runs as.
fn identities(pod: &Pod) -> impl Iterator<Item = &str> {
    let account = account_of(pod);
    let said = pod.labels().get(STAMP_LABEL).map(String::as_str);
    account
        .into_iter()
        .chain(said.filter(move |said| Some(*said) != account))
}

fn named(service: &ServiceName) -> ObjectKey {
    ObjectKey::new(service.namespace.as_str(), service.name.as_str())
}

fn access_of(policy: &NetworkPolicy) -> Option<ObjectKey> {
    Origin::of_policy(policy)
        .filter(|origin| origin.kind == OriginKind::ServiceAccess)
        .map(|origin| origin.key)
}
